// The two ways to run a program: resident, command after command, or one op per launch.
#pragma once

#include "kilotok/persistent/barrier.cuh"
#include "kilotok/persistent/execute.cuh"
#include "kilotok/persistent/feed.cuh"
#include "kilotok/persistent/trace.cuh"
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
  for (uint32_t run = 0; run < __ldcg(&command->num_runs); ++run) {
    is_over |= __ldcg(&command->run[run].ended) != 0;
  }
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
    const uint4* from =
        reinterpret_cast<const uint4*>(const_cast<const KilotokCommand*>(&mailbox->command));
    uint4* to = reinterpret_cast<uint4*>(command);
    for (uint32_t i = block.lane; i < sizeof(KilotokCommand) / 16; i += 32) {
      to[i] = load_uncached(from + i);
    }
  } else if (block.lane == 0) {
    command->rounds = 0;
  }
}

// A zero that the compiler does not know: what is computed from it cannot be moved out of the loop
// over ops, where it would be kept in registers that products need.
__device__ __forceinline__ uint32_t opaque_zero() {
  uint32_t zero;
  asm volatile("mov.u32 %0, 0;" : "=r"(zero));
  return zero;
}

__device__ __forceinline__ Block block_of(const KilotokMachine& machine, Shared& shared) {
  const uint32_t thread = threadIdx.x + opaque_zero();
  return {blockIdx.x,  machine.num_blocks, thread,      thread / 32,
          thread % 32, shared.scratch,     &shared.pass};
}

// Brings an op into shared memory and, unless it is skipped, begins what needs no other block's
// results, by one warp while the others wait.
inline constexpr uint32_t LOADING_WARP = 2;
__device__ __forceinline__ void load_op(const KilotokMachine& machine, uint32_t op, uint32_t skip,
                                        const Block& block, Shared& shared) {
  if (block.warp != LOADING_WARP) return;
  static_assert(sizeof(KilotokOp) % 128 == 0);
#pragma unroll
  for (uint32_t i = 0; i < sizeof(KilotokOp) / 128; ++i) {
    const uint32_t word = block.lane + 32 * i;
    reinterpret_cast<uint32_t*>(&shared.op)[word] =
        __ldg(reinterpret_cast<const uint32_t*>(ops_of(machine) + op) + word);
  }
  __syncwarp();
  if (block.lane != 0 || (shared.op.flags & skip) != 0) return;
  ++shared.serial;
  if (shared.op.kind == KILOTOK_OP_ROUTER) {
    ops::stage_router(payload<KilotokRouter>(shared), block.index, block.count, shared);
  }
}

__device__ __forceinline__ void load_pass(const KilotokMachine& machine, Shared& shared,
                                          const Block& block) {
  copy_words(shared.pass, &command_of(machine)->pass, block);
  sync_math();
}

// The math threads of a block.
struct Math {
  const KilotokMachine& machine;
  Shared& shared;

  // Makes the first op from `op` on that is not skipped the next one.
  __device__ __forceinline__ void seek(uint32_t op, const Block& block) const {
    const uint32_t end = shared.end_op, skip = shared.skip;
    while (op < end && (__ldg(&ops_of(machine)[op].flags) & skip) != 0) ++op;
    sync_math();
    if (op < end) load_op(machine, op, skip, block, shared);
    if (block.thread == 0) shared.at = op;
    sync_math();
  }

  // Brings an op record near while another op runs.
  __device__ __forceinline__ void prefetch_op(uint32_t op) const {
    if (threadIdx.x < sizeof(KilotokOp) / 128) {
      const uint8_t* line =
          reinterpret_cast<const uint8_t*>(ops_of(machine) + op) + 128 * threadIdx.x;
      asm volatile("prefetch.global.L1 [%0];" ::"l"(line));
    }
  }

  // The ops of a command once.
  __device__ __forceinline__ void round() {
    seek(shared.first_op, block_of(machine, shared));
    load_pass(machine, shared, block_of(machine, shared));
    while (shared.at < shared.end_op) {
      prefetch_op(min(shared.at + 1, shared.end_op - 1));
      trace::enter(machine, shared);
      {
        Shared& own =
            *reinterpret_cast<Shared*>(reinterpret_cast<uint8_t*>(&shared) + opaque_zero());
        execute(machine, block_of(machine, own), own, false);
      }
      const Block block = block_of(machine, shared);
      const uint32_t flags = shared.op.flags;
      if ((flags & KILOTOK_FLAG_DECIDES) != 0) decide(machine, block);
      const uint32_t next = shared.at + 1;
      sync_math();
      trace::arrive(machine, shared);
      arrive(machine, block, shared);
      if (next < shared.end_op) load_op(machine, next, shared.skip, block, shared);
      wait_for_all(machine, block, shared, false);
      if (block.thread == 0) shared.at = next;
      sync_math();
      trace::pass(machine, block, shared);
      if ((flags & KILOTOK_FLAG_NEW_PASS) != 0) load_pass(machine, shared, block);
      if (next < shared.end_op && (shared.op.flags & shared.skip) != 0) seek(next, block);
    }
  }

  // The header of the newest command, for all threads of the block; the number of rounds.
  __device__ __forceinline__ uint32_t read_command() const {
    if (threadIdx.x == 0) {
      const uint4 head = __ldcg(reinterpret_cast<const uint4*>(command_of(machine)));
      shared.first_op = head.x;
      shared.end_op = head.x + head.y;
      shared.rounds = head.z;
      shared.to_go = head.z;
      shared.skip = head.w;
      __threadfence_block();
      store_volatile(shared.commands, ++shared.number);
    }
    sync_math();
    return shared.rounds;
  }

  __device__ __forceinline__ bool is_teller() const { return blockIdx.x == 0 && threadIdx.x == 0; }

  __device__ __forceinline__ volatile KilotokMailbox* mailbox() const {
    return reinterpret_cast<volatile KilotokMailbox*>(machine.mailbox);
  }

  // Whether there is another round.
  __device__ __forceinline__ bool conclude_round() const {
    const bool is_over = shared.to_go == 1 || __ldcg(&command_of(machine)->over) != 0;
    sync_math();
    if (threadIdx.x == 0) {
      --shared.to_go;
      shared.over = is_over;
      __threadfence_block();
      store_volatile(shared.verdicts, shared.verdicts + 1);
    }
    sync_math();
    return !is_over;
  }

  __device__ __forceinline__ void run() {
    trace::start(machine);
    for (;;) {
      const Block block = block_of(machine, shared);
      if (block.index == 0) take_command(machine, block, shared.number);
      pass_barrier(machine, block, shared, true);
      if (read_command() == 0) break;
      do {
        if (is_teller()) mailbox()->heartbeat = mailbox()->heartbeat + 1;
        round();
      } while (conclude_round());
      if (is_teller()) {
        __threadfence_system();
        mailbox()->finished = shared.number;
      }
    }
    if (is_teller()) {
      __threadfence_system();
      mailbox()->parked = 1;
    }
  }

  // Graph mode: the op of this launch.
  __device__ __forceinline__ void run_alone() {
    ptx::wait_for_previous_grid();
    const Block block = block_of(machine, shared);
    load_op(machine, machine.op, 0, block, shared);
    load_pass(machine, shared, block);
    if ((shared.op.flags & __ldcg(&command_of(machine)->skip)) != 0) return;
    execute(machine, block, shared, true);
    if ((shared.op.flags & KILOTOK_FLAG_DECIDES) != 0) decide(machine, block);
  }
};

// A streaming warp of a resident kernel.
__device__ __forceinline__ void feed_commands(const KilotokMachine& machine, Shared& shared) {
  const uint32_t lane = threadIdx.x % 32;
  Feed feed(shared, threadIdx.x / 32 - MATH_WARPS, lane, blockIdx.x, machine.num_blocks);
  uint32_t serial = 1, verdicts = 0;
  for (uint32_t number = machine.op;; ++number) {
    while (load_volatile(shared.commands) != number + 1) __nanosleep(100);
    __threadfence_block();
    if (load_volatile(shared.rounds) == 0) return;
    const uint32_t first = load_volatile(shared.first_op);
    const uint32_t end = load_volatile(shared.end_op), skip = load_volatile(shared.skip);
    bool is_over = false;
    while (!is_over) {
      for (uint32_t op = first; op < end; ++op) {
        const KilotokOp* record = ops_of(machine) + op;
        const uint2 head = __ldg(reinterpret_cast<const uint2*>(record));
        if ((head.y & skip) != 0) continue;
        trace::delay(machine, threadIdx.x / 32, op, serial);
        feed.op(record, head.x, ++serial, op + 2 < end);
      }
      ++verdicts;
      while (load_volatile(shared.verdicts) != verdicts) __nanosleep(20);
      __threadfence_block();
      is_over = load_volatile(shared.over) != 0;
      __syncwarp();
    }
  }
}

// A streaming warp of a launch in graph mode: weights that no earlier op decides about are asked
// for before the previous launch has ended.
__device__ __forceinline__ void feed_alone(const KilotokMachine& machine, Shared& shared) {
  const KilotokOp* record = ops_of(machine) + machine.op;
  const uint2 head = __ldg(reinterpret_cast<const uint2*>(record));
  if (!is_streamed(head.x) && head.x != KILOTOK_OP_ROUTER) return;
  if (head.y != 0) {
    ptx::wait_for_previous_grid();
    if ((head.y & __ldcg(&command_of(machine)->skip)) != 0) return;
  }
  Feed feed(shared, threadIdx.x / 32 - MATH_WARPS, threadIdx.x % 32, blockIdx.x,
            machine.num_blocks);
  feed.op(record, head.x, 2, false);
}

__device__ __forceinline__ Shared& start(uint32_t number, uint32_t serial) {
  extern __shared__ __align__(128) uint8_t memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  ring_init(shared, threadIdx.x);
  if (threadIdx.x == 0) {
    shared.commands = number;
    shared.number = number;
    shared.serial = serial;
    shared.arrivals = 0;
    for (uint32_t warp = 0; warp < MATH_WARPS; ++warp) shared.taken[warp] = 0;
    ptx::mbarrier_init(ptx::shared_address(&shared.router_staged), 1);
    ptx::fence_mbarrier_init();
    shared.router_turns = 0;
    shared.routed = 0;
    shared.verdicts = 0;
    shared.over = 0;
  }
  __syncthreads();
  return shared;
}

}  // namespace kilotok
