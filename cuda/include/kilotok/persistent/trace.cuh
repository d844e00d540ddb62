// What only the traced build of the resident kernel does (KILOTOK_TRACED): it writes down when each
// block entered an op, had its experts and its first weights, was through and had passed the
// barrier; and, to find what depends on luck, it delays blocks at random and adds a barrier to
// every op.
//
// The other kernels compile all of this to nothing.
#pragma once

#include "kilotok/persistent/barrier.cuh"

#ifndef KILOTOK_TRACED
#define KILOTOK_TRACED 0
#endif

namespace kilotok::trace {

inline constexpr bool IS_ON = KILOTOK_TRACED != 0;
// Delays of a block and of a warp within it, in cycles of the SM: 5 us and 1 us at 2 GHz.
inline constexpr uint32_t BLOCK_DELAY = 10'000, WARP_DELAY = 2'000;

// Of the op that the block is at; by thread 0, but for `routed`.
struct Stamps {
  uint64_t entered, routed, weights, arrived;
  uint32_t launch, written;
  uint32_t op, rows, sequences, context, experts;
};

__device__ __forceinline__ Stamps& stamps() {
  __shared__ Stamps stamps;
  return stamps;
}

// [num_blocks][trace_records] KilotokTraceRecord, then [num_blocks] u32: records written so far.
__device__ __forceinline__ uint32_t* counter_of(const KilotokMachine& machine) {
  const uint64_t records = static_cast<uint64_t>(machine.num_blocks) * machine.trace_records;
  return reinterpret_cast<uint32_t*>(machine.trace + records * sizeof(KilotokTraceRecord)) +
         blockIdx.x;
}

__device__ __forceinline__ void start(const KilotokMachine& machine) {
  if constexpr (IS_ON) {
    if (threadIdx.x != 0 || machine.trace == 0) return;
    stamps().launch = machine.op;
    stamps().written = *counter_of(machine);
  }
}

__device__ __forceinline__ uint32_t scramble(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

// Waits for a time that is a function of seed, block, warp and op: half of the ops are delayed in a
// block, an eighth in a warp.
__device__ __forceinline__ void delay(const KilotokMachine& machine, uint32_t warp, uint32_t at,
                                      uint32_t salt) {
  if constexpr (IS_ON) {
    if ((machine.flags & KILOTOK_MACHINE_DELAYS) == 0) return;
    const uint32_t of_op = scramble(machine.delay_seed ^ scramble(salt ^ scramble(at)));
    const uint32_t of_block = scramble(of_op ^ (blockIdx.x + 1));
    const uint32_t of_warp = scramble(of_block + warp + 1);
    uint32_t cycles = of_block % 2 == 0 ? (of_block >> 1) % BLOCK_DELAY : 0;
    if (of_warp % 8 == 0) cycles += (of_warp >> 3) % WARP_DELAY;
    const uint64_t from = clock64();
    while (clock64() - from < cycles) {
    }
  }
}

// An op begins. By all math threads.
__device__ __forceinline__ void enter(const KilotokMachine& machine, Shared& shared) {
  if constexpr (IS_ON) {
    if (threadIdx.x == 0) {
      Stamps& to = stamps();
      to.entered = clock64();
      to.routed = 0;
      to.weights = 0;
    }
    delay(machine, threadIdx.x / 32, shared.at, shared.number * 65'521u + shared.to_go);
  }
}

// The experts of the op are known in this block. By one thread.
__device__ __forceinline__ void routed() {
  if constexpr (IS_ON) stamps().routed = clock64();
}

// Weights of the op are there, for one warp.
__device__ __forceinline__ void weights_landed() {
  if constexpr (IS_ON) {
    if (threadIdx.x == 0 && stamps().weights == 0) stamps().weights = clock64();
  }
}

// The block is through with the op, and its record has not been replaced. By all math threads.
__device__ __forceinline__ void arrive(const KilotokMachine& machine, const Shared& shared) {
  if constexpr (IS_ON) {
    if (threadIdx.x != 0 || machine.trace == 0) return;
    Stamps& to = stamps();
    to.arrived = clock64();
    to.op = shared.at;
    to.rows = shared.pass.rows;
    to.experts = shared.touched.count;
    to.sequences = 0;
    to.context = 0;
    for (uint32_t row = 0; row < to.rows; ++row) {
      if (row > 0 && shared.pass.row[row].slot == shared.pass.row[row - 1].slot) continue;
      ++to.sequences;
      to.context += shared.pass.row[row].position;
    }
  }
}

// All blocks are through. By all math threads.
__device__ __forceinline__ void pass(const KilotokMachine& machine, const Block& block,
                                     Shared& shared) {
  if constexpr (IS_ON) {
    if (threadIdx.x == 0 && machine.trace != 0) {
      Stamps& from = stamps();
      KilotokTraceRecord* to = reinterpret_cast<KilotokTraceRecord*>(machine.trace) +
                               static_cast<uint64_t>(blockIdx.x) * machine.trace_records +
                               from.written % machine.trace_records;
      to->passed = clock64();
      to->nanoseconds = now_ns();
      to->number = ++from.written;
      to->op = from.op;
      to->rows = from.rows;
      to->sequences = from.sequences;
      to->context = from.context;
      to->experts = from.experts;
      to->command = shared.number;
      to->launch = from.launch;
      uint32_t sm;
      asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
      to->sm = sm;
      to->entered = from.entered;
      to->routed = from.routed;
      to->weights = from.weights;
      to->arrived = from.arrived;
      *counter_of(machine) = from.written;
    }
    if ((machine.flags & KILOTOK_MACHINE_BARRIERS) != 0) {
      pass_barrier(machine, block, shared, false);
    }
  }
}

}  // namespace kilotok::trace
