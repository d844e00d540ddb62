// The first part of op moe_up, in every block alike: which experts the rows chose.
//
// in:  args.logits [8][experts] f32, args.router_bias [experts] f32
// out: shared.routes, shared.touched; block 0 also writes args.routes for moe_down
// A warp selects for one row. Ties go to the lower expert.
#pragma once

#include "kilotok/persistent/shared.cuh"

namespace kilotok::ops {

inline constexpr uint32_t MAX_EXPERTS = 512;

// Floats in the order of their values as unsigned numbers; NaN reads as the least.
__device__ __forceinline__ uint32_t ordered(float value) {
  const uint32_t bits = __float_as_uint(value);
  if (value != value) return 0;
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ void select_row(const KilotokMoeUp& args, uint32_t row, uint32_t lane,
                                           KilotokRoutes& routes) {
  constexpr uint32_t PER_LANE = MAX_EXPERTS / 32;
  const float* logits = reinterpret_cast<const float*>(args.logits) + row * args.experts;
  const float* bias = reinterpret_cast<const float*>(args.router_bias);
  uint32_t key[PER_LANE];
  float weight[PER_LANE];
#pragma unroll
  for (uint32_t i = 0; i < PER_LANE; ++i) {
    const uint32_t expert = lane + 32 * i;
    key[i] = 0;
    weight[i] = 0.0f;
    if (expert < args.experts) {
      const float logit = __ldcg(logits + expert), b = __ldg(bias + expert);
      weight[i] = args.router == KILOTOK_ROUTER_SOFTMAX ? logit + b : 1.0f / (1.0f + expf(-logit));
      // 0 is taken by what is no candidate.
      key[i] = max(1u, ordered(args.router == KILOTOK_ROUTER_SOFTMAX ? weight[i] : weight[i] + b));
    }
  }
  float mine = 0.0f;  // lane r: the weight of rank r
  uint32_t chosen = 0;
  for (uint32_t rank = 0; rank < args.top_k; ++rank) {
    uint32_t best = 0, at = 0;
    float value = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; ++i) {
      if (key[i] > best) {
        best = key[i];
        at = i;
        value = weight[i];
      }
    }
    const uint32_t most = __reduce_max_sync(0xFFFFFFFFu, best);
    const uint32_t expert =
        __reduce_min_sync(0xFFFFFFFFu, best == most ? lane + 32 * at : 0xFFFFFFFFu);
    const uint32_t owner = expert % 32;
    value = __shfl_sync(0xFFFFFFFFu, value, owner);
#pragma unroll
    for (uint32_t i = 0; i < PER_LANE; ++i) {
      key[i] = lane + 32 * i == expert ? 0 : key[i];
    }
    if (lane == rank) {
      mine = value;
      chosen = expert;
    }
  }
  const bool is_rank = lane < args.top_k;
  if (args.router == KILOTOK_ROUTER_SOFTMAX) {
    const float largest = __shfl_sync(0xFFFFFFFFu, mine, 0);
    mine = is_rank ? expf(mine - largest) : 0.0f;
  }
  if (args.router != KILOTOK_ROUTER_SIGMOID) {
    // In order of rank.
    float sum = 0.0f;
    for (uint32_t rank = 0; rank < args.top_k; ++rank) sum += __shfl_sync(0xFFFFFFFFu, mine, rank);
    mine = args.router == KILOTOK_ROUTER_SOFTMAX ? mine / sum : mine / (sum + 1e-20f);
  }
  if (args.router != KILOTOK_ROUTER_SOFTMAX) mine *= args.router_scale;
  if (is_rank) {
    routes.expert[row * args.top_k + lane] = chosen;
    routes.gate[row * args.top_k + lane] = mine;
  }
}

// shared.touched from shared.routes; needs sync_math() before and after.
__device__ __forceinline__ void group_pairs(Shared& shared, uint32_t pairs, const Block& block) {
  if (block.warp != 0) return;
  // Lane l looks after pairs l and l + 32.
  const uint32_t* experts = shared.routes.expert;
  uint32_t firsts[2];
  uint32_t rank[2] = {0, 0}, first[2];
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t pair = block.lane + 32 * half;
    first[half] = pair;
    if (pair < pairs) {
      for (uint32_t q = 0; q < pair; ++q) {
        if (experts[q] == experts[pair]) {
          if (rank[half] == 0) first[half] = q;
          ++rank[half];
        }
      }
    }
    firsts[half] = __ballot_sync(0xFFFFFFFFu, pair < pairs && rank[half] == 0);
  }
  const uint32_t count = __popc(firsts[0]) + __popc(firsts[1]);
  for (uint32_t i = block.lane; i < count * KILOTOK_ROWS / 4; i += 32) {
    reinterpret_cast<uint32_t*>(shared.touched.column)[i] = 0xFFFFFFFFu;
  }
  __syncwarp();
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t pair = block.lane + 32 * half;
    if (pair >= pairs) continue;
    const uint32_t before = first[half] < 32
                                ? __popc(firsts[0] & ((1u << first[half]) - 1))
                                : __popc(firsts[0]) + __popc(firsts[1] & ((1u << (first[half] - 32)) - 1));
    if (rank[half] == 0) shared.touched.expert[before] = experts[pair];
    shared.touched.column[before][rank[half]] = static_cast<uint8_t>(pair);
  }
  if (block.lane == 0) shared.touched.count = count;
}

// Tells the warp that streams that the experts of op `serial` are known.
__device__ __forceinline__ void publish_experts(Shared& shared, uint32_t serial, const Block& block) {
  if (block.thread == 0) {
    __threadfence_block();
    store_volatile(shared.routed, serial);
  }
}

__device__ __forceinline__ void select_experts(const KilotokMoeUp& args, const Block& block,
                                               Shared& shared, uint32_t serial) {
  const uint32_t rows = block.pass->rows, pairs = rows * args.top_k;
  if (block.warp < rows) select_row(args, block.warp, block.lane, shared.routes);
  sync_math();
  group_pairs(shared, pairs, block);
  sync_math();
  publish_experts(shared, serial, block);
  if (block.index == 0 && block.thread < pairs) {
    KilotokRoutes* routes = reinterpret_cast<KilotokRoutes*>(args.routes);
    routes->expert[block.thread] = shared.routes.expert[block.thread];
    routes->gate[block.thread] = shared.routes.gate[block.thread];
  }
}

// For moe_down where moe_up ran in another kernel.
__device__ __forceinline__ void load_experts(uint64_t from, uint32_t pairs, const Block& block,
                                             Shared& shared, uint32_t serial) {
  const KilotokRoutes* routes = reinterpret_cast<const KilotokRoutes*>(from);
  if (block.thread < pairs) {
    shared.routes.expert[block.thread] = __ldcg(&routes->expert[block.thread]);
    shared.routes.gate[block.thread] = __ldcg(&routes->gate[block.thread]);
  }
  sync_math();
  group_pairs(shared, pairs, block);
  sync_math();
  publish_experts(shared, serial, block);
}

}  // namespace kilotok::ops
