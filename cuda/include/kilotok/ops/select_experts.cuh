// The first part of op moe_up, in every block alike: which experts the rows chose.
//
// in:  args.logits [8][experts] f32, args.router_bias [experts] f32
// out: shared.routes, shared.touched; block 0 also writes args.routes for moe_down
// A warp selects for one row. Ties go to the lower expert.
#pragma once

#include "kilotok/ops/choices.cuh"
#include "kilotok/persistent/trace.cuh"

namespace kilotok::ops {

inline constexpr uint32_t MAX_EXPERTS = 512;

// The largest of the first LEFT keys and their places comes first.
template <uint32_t LEFT, uint32_t COUNT>
__device__ __forceinline__ void halve(uint32_t (&best)[COUNT], uint32_t (&at)[COUNT]) {
#pragma unroll
  for (uint32_t i = 0; i < LEFT / 2; ++i) {
    const bool is_right = best[2 * i + 1] > best[2 * i];
    best[i] = is_right ? best[2 * i + 1] : best[2 * i];
    at[i] = is_right ? at[2 * i + 1] : at[2 * i];
  }
  if constexpr (LEFT % 2 != 0) {
    best[LEFT / 2] = best[LEFT - 1];
    at[LEFT / 2] = at[LEFT - 1];
  }
  if constexpr (LEFT > 2) halve<(LEFT + 1) / 2>(best, at);
}

// The largest of a lane's keys and its place; the lower place on ties.
template <uint32_t COUNT>
__device__ __forceinline__ uint2 largest(const uint32_t (&key)[COUNT]) {
  uint32_t best[COUNT], at[COUNT];
#pragma unroll
  for (uint32_t i = 0; i < COUNT; ++i) {
    best[i] = key[i];
    at[i] = i;
  }
  if constexpr (COUNT > 1) halve<COUNT>(best, at);
  return {best[0], at[0]};
}

// `weights`: shared memory, one float per expert.
template <uint32_t PER_LANE>
__device__ __forceinline__ void select_row(const KilotokMoeUp& args, uint32_t row, uint32_t lane,
                                           float* weights, KilotokRoutes& routes) {
  const float* logits = reinterpret_cast<const float*>(args.logits) + row * args.experts;
  const float* bias = reinterpret_cast<const float*>(args.router_bias);
  const bool is_softmax = args.router == KILOTOK_ROUTER_SOFTMAX;
  uint32_t key[PER_LANE];
  float weight[PER_LANE], biased[PER_LANE];
  // All loads before the first use.
#pragma unroll
  for (uint32_t i = 0; i < PER_LANE; ++i) {
    const uint32_t expert = min(lane + 32 * i, args.experts - 1);
    weight[i] = __ldcg(logits + expert);
    biased[i] = __ldg(bias + expert);
  }
#pragma unroll
  for (uint32_t i = 0; i < PER_LANE; ++i) {
    if (!is_softmax) weight[i] = 1.0f / (1.0f + expf(-weight[i]));
    biased[i] += weight[i];
    weights[lane + 32 * i] = is_softmax ? biased[i] : weight[i];
    // 0 is taken by what is no candidate.
    key[i] = lane + 32 * i < args.experts ? max(1u, order_of(biased[i])) : 0;
  }
  uint32_t chosen = 0;  // lane r: of rank r
  uint2 best = largest(key);
#pragma unroll 1
  for (uint32_t rank = 0; rank < args.top_k; ++rank) {
    const uint32_t most = __reduce_max_sync(0xFFFFFFFFu, best.x);
    const uint32_t own = best.x == most ? lane + 32 * best.y : 0xFFFFFFFFu;
    const uint32_t expert = __reduce_min_sync(0xFFFFFFFFu, own);
    if (lane == rank) chosen = expert;
    if (own == expert) {
#pragma unroll
      for (uint32_t i = 0; i < PER_LANE; ++i) key[i] = i == best.y ? 0 : key[i];
      best = largest(key);
    }
  }
  __syncwarp();
  float mine = weights[chosen];
  if (is_softmax) mine = expf(mine - __shfl_sync(0xFFFFFFFFu, mine, 0));
  float sum = 0.0f;
  for (uint32_t rank = 0; rank < args.top_k; ++rank) {
    sum += __shfl_sync(0xFFFFFFFFu, mine, rank);
  }
  if (is_softmax) {
    mine /= sum;
  } else {
    if (args.router == KILOTOK_ROUTER_SIGMOID_NORMALIZED) mine /= sum + 1e-20f;
    mine *= args.router_scale;
  }
  if (lane < args.top_k) {
    routes.expert[row * args.top_k + lane] = chosen;
    routes.gate[row * args.top_k + lane] = mine;
  }
}

// shared.touched from shared.routes, by warp 0: experts in ascending order, so that the order in
// which a row's experts are added does not depend on other rows.
__device__ __forceinline__ void group_pairs(Shared& shared, uint32_t pairs, uint32_t top_k,
                                            const Block& block) {
  if (block.warp != 0) return;
  constexpr uint32_t WORDS = MAX_EXPERTS / 32;
  static_assert(WORDS <= 32);
  uint32_t* chosen = shared.touched.chosen;
  if (block.lane < WORDS) chosen[block.lane] = 0;
#pragma unroll
  for (uint32_t i = 0; i < sizeof(shared.touched.pair) / 128; ++i) {
    reinterpret_cast<uint32_t*>(shared.touched.pair)[block.lane + 32 * i] = 0xFFFFFFFFu;
  }
  __syncwarp();
  uint32_t expert[2];
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t pair = block.lane + 32 * half;
    expert[half] = pair < pairs ? shared.routes.expert[pair] : 0;
    if (pair < pairs) atomicOr(chosen + expert[half] / 32, 1u << expert[half] % 32);
  }
  __syncwarp();
  // Lane w: experts chosen before word w.
  const uint32_t word = block.lane < WORDS ? chosen[block.lane] : 0;
  uint32_t before = __popc(word);
#pragma unroll
  for (uint32_t distance = 1; distance < WORDS; distance *= 2) {
    const uint32_t other = __shfl_up_sync(0xFFFFFFFFu, before, distance);
    if (block.lane >= distance) before += other;
  }
  if (block.lane == WORDS - 1) shared.touched.count = before;
  before -= __popc(word);
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t pair = block.lane + 32 * half;
    const uint32_t base = __shfl_sync(0xFFFFFFFFu, before, expert[half] / 32);
    const uint32_t bits = __shfl_sync(0xFFFFFFFFu, word, expert[half] / 32);
    if (pair >= pairs) continue;
    const uint32_t which = base + __popc(bits & ((1u << expert[half] % 32) - 1));
    shared.touched.expert[which] = expert[half];
    shared.touched.pair[which][pair / top_k] = static_cast<uint8_t>(pair);
  }
}

// Tells the warps that stream that the experts of this op are known.
__device__ __forceinline__ void publish_experts(Shared& shared, const Block& block) {
  if (block.thread == 0) {
    __threadfence_block();
    store_volatile(shared.routed, shared.serial);
    trace::routed();
  }
}

__device__ __forceinline__ void select_experts(const KilotokMoeUp& args, const Block& block,
                                               Shared& shared) {
  const uint32_t rows = block.pass->rows, pairs = rows * args.top_k;
  if (block.warp < rows) {
    float* weights = reinterpret_cast<float*>(block.scratch) + block.warp * MAX_EXPERTS;
    static_assert(KILOTOK_ROWS * MAX_EXPERTS * sizeof(float) <= SCRATCH_BYTES);
    if (args.experts <= 32) {
      select_row<1>(args, block.warp, block.lane, weights, shared.routes);
    } else if (args.experts <= 128) {
      select_row<4>(args, block.warp, block.lane, weights, shared.routes);
    } else if (args.experts <= 384) {
      select_row<12>(args, block.warp, block.lane, weights, shared.routes);
    } else {
      select_row<MAX_EXPERTS / 32>(args, block.warp, block.lane, weights, shared.routes);
    }
  }
  sync_math();
  group_pairs(shared, pairs, args.top_k, block);
  __syncwarp();
  publish_experts(shared, block);
  if (block.index == 0 && block.thread < pairs) {
    KilotokRoutes* routes = reinterpret_cast<KilotokRoutes*>(args.routes);
    routes->expert[block.thread] = shared.routes.expert[block.thread];
    routes->gate[block.thread] = shared.routes.gate[block.thread];
  }
}

// For moe_down where moe_up ran in another kernel.
__device__ __forceinline__ void load_experts(uint64_t from, uint32_t top_k, const Block& block,
                                             Shared& shared) {
  const uint32_t pairs = block.pass->rows * top_k;
  const KilotokRoutes* routes = reinterpret_cast<const KilotokRoutes*>(from);
  if (block.thread < pairs) {
    shared.routes.expert[block.thread] = __ldcg(&routes->expert[block.thread]);
    shared.routes.gate[block.thread] = __ldcg(&routes->gate[block.thread]);
  }
  sync_math();
  group_pairs(shared, pairs, top_k, block);
  __syncwarp();
  publish_experts(shared, block);
}

}  // namespace kilotok::ops
