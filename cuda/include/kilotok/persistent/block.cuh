// One block of the machine: twelve warps that compute, four that stream weights ahead of them.
//
// Ops are device functions `op(args, block)` that all math threads of all blocks enter together.
// Work is split by `block.index` of `block.count`; what is computed may not depend on the split.
// An op may read what earlier ops wrote with ordinary stores, but only through L2 (__ldcg): in
// persistent mode L1 may hold what stood there in the last round. It may leave its results in
// flight: whoever runs ops makes them visible before the next op starts.
#pragma once

#include "kilotok/program.h"
#include "kilotok/ptx/named_barrier.cuh"

namespace kilotok {

inline constexpr uint32_t MATH_WARPS = 12;
inline constexpr uint32_t MATH_THREADS = 32 * MATH_WARPS;
// Streaming warps: one keeps up with no more than three math warps.
inline constexpr uint32_t FEED_WARPS = 4;
static_assert(KILOTOK_BLOCK_THREADS == MATH_THREADS + 32 * FEED_WARPS);
static_assert(MATH_WARPS % FEED_WARPS == 0);
// Shared memory that an op may use as it likes from its start to its end, 128-byte aligned.
inline constexpr uint32_t SCRATCH_BYTES = 104448;

struct Block {
  uint32_t index;   // of the grid
  uint32_t count;   // blocks in the grid
  uint32_t thread;  // 0..MATH_THREADS
  uint32_t warp;    // 0..MATH_WARPS
  uint32_t lane;
  uint8_t* scratch;         // shared memory, SCRATCH_BYTES
  const KilotokPass* pass;  // the rows, in shared memory
};

// Waits for all math threads of the block.
__device__ __forceinline__ void sync_math() { ptx::named_barrier(1, MATH_THREADS); }

// Sum of one value per lane, by halving: the same in every lane.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (uint32_t distance = 16; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xFFFFFFFFu, value, distance);
  }
  return value;
}

// The largest of one value per lane, in every lane.
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (uint32_t distance = 16; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFu, value, distance));
  }
  return value;
}

}  // namespace kilotok
