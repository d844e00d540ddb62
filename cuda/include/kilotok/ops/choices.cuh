// Candidates for a row's token, and how the best of them is found: by score, on ties the lower
// token, never NaN. The order in which candidates meet does not matter.
#pragma once

#include "kilotok/persistent/block.cuh"

namespace kilotok::ops {

inline constexpr uint32_t NO_TOKEN = 0xFFFFFFFFu;

__device__ __forceinline__ void keep_better(KilotokChoice& best, float score, uint32_t token) {
  if (score > best.score || (score == best.score && token < best.token)) best = {score, token};
}

// Larger for larger values, 0 for NaN; -0 comes before 0.
__device__ __forceinline__ uint32_t order_of(float value) {
  const uint32_t bits = __float_as_uint(value);
  if (value != value) return 0;
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float value_of(uint32_t order) {
  return __uint_as_float((order & 0x80000000u) != 0 ? order & 0x7FFFFFFFu : ~order);
}

// A block's share of the vocabulary, in fours.
struct Share {
  uint32_t begin, end;
};

__device__ __forceinline__ Share share_of(uint32_t vocab, const Block& block) {
  const uint32_t fours = (vocab + 3) / 4;
  const uint32_t share = (fours + block.count - 1) / block.count;
  const uint32_t begin = min(fours, block.index * share);
  return {begin, min(fours, begin + share)};
}

// The best of a warp, in every lane.
__device__ __forceinline__ KilotokChoice best_of_warp(KilotokChoice best) {
#pragma unroll
  for (uint32_t distance = 16; distance > 0; distance /= 2) {
    const float score = __shfl_xor_sync(0xFFFFFFFFu, best.score, distance);
    const uint32_t token = __shfl_xor_sync(0xFFFFFFFFu, best.token, distance);
    keep_better(best, score, token);
  }
  return best;
}

// The token of row `row` from the choices of all blocks, by a whole warp; 0 where there is none.
__device__ __forceinline__ uint32_t chosen_token(uint64_t choices, uint32_t row,
                                                 const Block& block) {
  const auto* from = reinterpret_cast<const uint2*>(choices);
  KilotokChoice best{-INFINITY, NO_TOKEN};
  for (uint32_t i = block.lane; i < block.count; i += 32) {
    const uint2 choice = __ldcg(from + i * KILOTOK_ROWS + row);
    keep_better(best, __uint_as_float(choice.x), choice.y);
  }
  const uint32_t token = best_of_warp(best).token;
  return token == NO_TOKEN ? 0 : token;
}

}  // namespace kilotok::ops
