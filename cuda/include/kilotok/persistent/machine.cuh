// The two ways to run a program: resident, command after command, or one op per launch.
#pragma once

#include "kilotok/persistent/barrier.cuh"
#include "kilotok/persistent/execute.cuh"
#include "kilotok/persistent/feed.cuh"
#include "kilotok/ptx/dependent_launch.cuh"

namespace kilotok {

__device__ __forceinline__ KilotokCommand* command_of(const KilotokMachine& machine) {
  return reinterpret_cast<KilotokCommand*>(machine.command);
}

__device__ __forceinline__ const KilotokOp* ops_of(const KilotokMachine& machine) {
  return reinterpret_cast<const KilotokOp*>(machine.ops);
}

// Copies words from device memory into shared memory, through L2.
template <typename T>
__device__ __forceinline__ void copy_words(T& to, const T* from, const Block& block) {
  static_assert(sizeof(T) % 4 == 0 && sizeof(T) / 4 <= MATH_THREADS);
  if (block.thread < sizeof(T) / 4) {
    reinterpret_cast<uint32_t*>(&to)[block.thread] =
        __ldcg(reinterpret_cast<const uint32_t*>(from) + block.thread);
  }
}

// From host memory, every time.
__device__ __forceinline__ uint4 load_uncached(const uint4* from) {
  uint4 v;
  asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}

// After an op that may end the run: whether it did, for all blocks to see. By block 0.
__device__ __forceinline__ void decide(const KilotokMachine& machine, const Block& block) {
  if (block.index != 0) return;
  sync_math();
  if (block.thread != 0) return;
  KilotokCommand* command = command_of(machine);
  const volatile KilotokMailbox* mailbox =
      reinterpret_cast<const volatile KilotokMailbox*>(machine.mailbox);
  bool is_over = mailbox->stop != 0;
  for (uint32_t run = 0; run < command->num_runs; ++run) is_over |= command->run[run].ended != 0;
  command->over = is_over;
}

// Block 0: waits for a command and brings it to the device. Whether there was one before the block
// has been idle for too long; then the command is to park.
__device__ __forceinline__ void take_command(const KilotokMachine& machine, const Block& block,
                                             uint32_t number) {
  if (block.warp != 0) return;
  volatile KilotokMailbox* mailbox = reinterpret_cast<volatile KilotokMailbox*>(machine.mailbox);
  KilotokCommand* command = command_of(machine);
  uint32_t has_command = 0;
  if (block.lane == 0) {
    const uint64_t deadline = now_ns() + machine.idle_ms * 1'000'000ull;
    for (uint32_t tries = 0;; ++tries) {
      if (mailbox->doorbell != number) {
        has_command = 1;
        break;
      }
      if (tries % 16 == 0) {
        mailbox->heartbeat = mailbox->heartbeat + 1;
        if (now_ns() > deadline) break;
      }
    }
    __threadfence_system();
  }
  has_command = __shfl_sync(0xFFFFFFFFu, has_command, 0);
  if (has_command != 0) {
    static_assert(sizeof(KilotokCommand) % 16 == 0);
    const uint4* from = reinterpret_cast<const uint4*>(const_cast<const KilotokCommand*>(&mailbox->command));
    uint4* to = reinterpret_cast<uint4*>(command);
    for (uint32_t i = block.lane; i < sizeof(KilotokCommand) / 16; i += 32) {
      to[i] = load_uncached(from + i);
    }
  } else if (block.lane == 0) {
    command->rounds = 0;
  }
}

struct Math {
  const KilotokMachine& machine;
  Shared& shared;
  Block block;
  RingReader ring;
  GridBarrier barrier;
  uint32_t serial = 1;

  __device__ Math(const KilotokMachine& machine, Shared& shared)
      : machine(machine),
        shared(shared),
        block{blockIdx.x,       machine.num_blocks, threadIdx.x,
              threadIdx.x / 32, threadIdx.x % 32,   shared.scratch, &shared.pass},
        ring(shared, threadIdx.x / 32),
        barrier(machine) {}

  // Op records never change while a kernel runs; the next one is fetched before the barrier.
  __device__ __forceinline__ void load_op(uint32_t op) {
    if (block.thread < sizeof(KilotokOp) / 4) {
      reinterpret_cast<uint32_t*>(&shared.op)[block.thread] =
          __ldg(reinterpret_cast<const uint32_t*>(ops_of(machine) + op) + block.thread);
    }
  }

  // The first op from `op` on that is not skipped.
  __device__ __forceinline__ uint32_t skip_from(uint32_t op, uint32_t end, uint32_t skip) const {
    while (op < end && (__ldg(&ops_of(machine)[op].flags) & skip) != 0) ++op;
    return op;
  }

  __device__ __forceinline__ void load_pass() {
    copy_words(shared.pass, &command_of(machine)->pass, block);
    sync_math();
  }

  // The ops of a command once. Whether it was the last time.
  __device__ __forceinline__ void round(uint32_t first, uint32_t end, uint32_t skip) {
    uint32_t op = skip_from(first, end, skip);
    load_op(op);
    load_pass();
    while (op < end) {
      ++serial;
      execute(machine, block, shared, ring, serial, false);
      const uint32_t flags = shared.op.flags;
      if ((flags & KILOTOK_FLAG_DECIDES) != 0) decide(machine, block);
      const uint32_t next = skip_from(op + 1, end, skip);
      sync_math();
      if (next < end) load_op(next);
      barrier.pass(block, op, false);
      if ((flags & KILOTOK_FLAG_NEW_PASS) != 0) load_pass();
      op = next;
    }
  }

  __device__ void run() {
    uint32_t number = machine.op;
    volatile KilotokMailbox* mailbox = reinterpret_cast<volatile KilotokMailbox*>(machine.mailbox);
    for (;;) {
      if (block.index == 0) take_command(machine, block, number);
      barrier.pass(block, 0xFFFFFFFFu, true);
      const KilotokCommand* command = command_of(machine);
      const uint32_t first = __ldcg(&command->first_op), end = first + __ldcg(&command->num_ops);
      const uint32_t rounds = __ldcg(&command->rounds), skip = __ldcg(&command->skip);
      if (block.thread == 0) {
        shared.first_op = first;
        shared.num_ops = end - first;
        shared.rounds = rounds;
        shared.skip = skip;
        __threadfence_block();
        store_volatile(shared.commands, number + 1);
      }
      if (rounds == 0) {
        if (block.index == 0 && block.thread == 0) {
          if (mailbox->doorbell != number) mailbox->finished = number + 1;
          __threadfence_system();
          mailbox->parked = 1;
        }
        return;
      }
      ++number;
      for (uint32_t done = 1;; ++done) {
        round(first, end, skip);
        const uint32_t over = done >= rounds || __ldcg(&command->over) != 0;
        sync_math();
        if (block.thread == 0) {
          shared.over = over;
          __threadfence_block();
          store_volatile(shared.verdicts, shared.verdicts + 1);
        }
        if (over != 0) break;
        if (block.index == 0 && block.thread == 0) mailbox->heartbeat = mailbox->heartbeat + 1;
      }
      if (block.index == 0 && block.thread == 0) {
        __threadfence_system();
        mailbox->finished = number;
      }
    }
  }

  // Graph mode: the op of this launch.
  __device__ void run_alone() {
    ptx::wait_for_previous_grid();
    load_op(machine.op);
    load_pass();
    if ((shared.op.flags & __ldcg(&command_of(machine)->skip)) != 0) return;
    execute(machine, block, shared, ring, 2, true);
    if ((shared.op.flags & KILOTOK_FLAG_DECIDES) != 0) decide(machine, block);
  }
};

// The streaming warp of a resident kernel.
__device__ void feed_commands(const KilotokMachine& machine, Shared& shared) {
  const uint32_t lane = threadIdx.x % 32;
  Feed feed(shared, lane, blockIdx.x, machine.num_blocks);
  uint32_t serial = 1, verdicts = 0;
  for (uint32_t number = machine.op;; ++number) {
    while (load_volatile(shared.commands) != number + 1) __nanosleep(100);
    __threadfence_block();
    if (load_volatile(shared.rounds) == 0) return;
    const uint32_t first = load_volatile(shared.first_op);
    const uint32_t end = first + load_volatile(shared.num_ops), skip = load_volatile(shared.skip);
    bool is_over = false;
    while (!is_over) {
      for (uint32_t op = first; op < end; ++op) {
        const KilotokOp* record = ops_of(machine) + op;
        const uint2 head = __ldg(reinterpret_cast<const uint2*>(record));
        if ((head.y & skip) != 0) continue;
        feed.op(record, head.x, ++serial);
      }
      ++verdicts;
      while (load_volatile(shared.verdicts) != verdicts) __nanosleep(20);
      __threadfence_block();
      is_over = load_volatile(shared.over) != 0;
      __syncwarp();
    }
  }
}

// The streaming warp of a launch in graph mode: weights that no earlier op decides about are asked
// for before the previous launch has ended.
__device__ void feed_alone(const KilotokMachine& machine, Shared& shared) {
  const KilotokOp* record = ops_of(machine) + machine.op;
  const uint2 head = __ldg(reinterpret_cast<const uint2*>(record));
  if (!is_streamed(head.x)) return;
  if (head.y != 0) {
    ptx::wait_for_previous_grid();
    if ((head.y & __ldcg(&command_of(machine)->skip)) != 0) return;
  }
  Feed feed(shared, threadIdx.x % 32, blockIdx.x, machine.num_blocks);
  feed.op(record, head.x, 2);
}

__device__ __forceinline__ Shared& start(uint32_t commands) {
  extern __shared__ __align__(128) uint8_t memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  ring_init(shared, threadIdx.x);
  if (threadIdx.x == 0) {
    shared.commands = commands;
    shared.routed = 0;
    shared.verdicts = 0;
    shared.over = 0;
  }
  __syncthreads();
  return shared;
}

}  // namespace kilotok
