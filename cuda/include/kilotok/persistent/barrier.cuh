// What all blocks wait for together.
#pragma once

#include "kilotok/persistent/shared.cuh"

namespace kilotok {

__device__ __forceinline__ uint32_t load_acquire(const uint32_t* word) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
  return value;
}

__device__ __forceinline__ void add_release(uint32_t* word, uint32_t value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}

__device__ __forceinline__ uint64_t now_ns() {
  uint64_t ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
}

// A block that waits longer for another one gives up, and the engine with it.
// Shorter than the host's patience, so that the host hears who waited for what.
inline constexpr uint64_t PATIENCE_NS = 500'000'000;

// Says who waited for what, and stops the kernel with an error.
__device__ __noinline__ void give_up(KilotokMailbox* mailbox, uint32_t block, uint32_t op,
                                     uint32_t seen, uint32_t wanted) {
  volatile KilotokMailbox* box = mailbox;
  box->waiting[0] = block;
  box->waiting[1] = op;
  box->waiting[2] = seen;
  box->waiting[3] = wanted;
  box->error = KILOTOK_ERROR_TIMEOUT;
  __threadfence_system();
  __trap();
}

// The grid barrier is one counter that only grows; all blocks are resident. Results that stand in
// device memory when a block arrives can be read (through L2) by every block that has passed.

// By thread 0, when all threads of the block are through.
__device__ __forceinline__ void arrive(const KilotokMachine& machine, const Block& block,
                                       Shared& shared) {
  if (block.thread != 0) return;
  shared.arrivals += machine.num_blocks;
  add_release(reinterpret_cast<uint32_t*>(machine.barrier), 1);
}

// By thread 0; the others wait for it. `is_patient`: the others may take as long as they like.
__device__ __forceinline__ void wait_for_all(const KilotokMachine& machine, const Block& block,
                                             const Shared& shared, bool is_patient) {
  if (block.thread != 0) return;
  const uint32_t* word = reinterpret_cast<const uint32_t*>(machine.barrier);
  const uint32_t arrivals = shared.arrivals;
  uint64_t deadline = 0;
  for (uint32_t tries = 1;; ++tries) {
    const uint32_t seen = load_acquire(word);
    if (static_cast<int32_t>(seen - arrivals) >= 0) break;
    if (is_patient) {
      __nanosleep(40);
    } else if (tries % 4096 == 0) {
      const uint64_t now = now_ns();
      if (deadline == 0) deadline = now + PATIENCE_NS;
      if (now > deadline) {
        give_up(reinterpret_cast<KilotokMailbox*>(machine.mailbox), block.index, shared.at, seen,
                arrivals);
      }
    }
  }
}

// All blocks, by all math threads.
__device__ __forceinline__ void pass_barrier(const KilotokMachine& machine, const Block& block,
                                             Shared& shared, bool is_patient) {
  sync_math();
  arrive(machine, block, shared);
  wait_for_all(machine, block, shared, is_patient);
  sync_math();
}

}  // namespace kilotok
