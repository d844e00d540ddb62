// The rows of one expert among the (row, rank) pairs of a step: which of at most 64 pairs chose the
// same expert.
//
// experts: [rows, top_k] u32, pair p = row * top_k + rank. A row names an expert at most once, so
// that an expert has at most 8 pairs while there are at most 8 rows; column n of its product
// belongs to its n-th pair.
#pragma once

#include "kilotok/abi.h"

namespace kilotok::layout {

inline constexpr uint32_t MAX_PAIRS = 64;
inline constexpr uint32_t MAX_COLUMNS = 8;
inline constexpr uint32_t NO_EXPERT = 0xFFFFFFFFu;

// The first set bit; MAX_PAIRS where there is none.
__device__ __forceinline__ uint32_t first_pair(uint64_t mask) {
  return mask == 0 ? MAX_PAIRS : static_cast<uint32_t>(__ffsll(static_cast<long long>(mask))) - 1;
}

// The n-th set bit; MAX_PAIRS where there are not so many.
__device__ __forceinline__ uint32_t nth_pair(uint64_t mask, uint32_t n) {
  for (uint32_t i = 0; i < n; ++i) mask &= mask - 1;
  return first_pair(mask);
}

// The experts of all pairs, held by the lanes of a warp.
struct Pairs {
  uint32_t low, high;  // of pairs lane and lane + 32; NO_EXPERT past the end

  __device__ static Pairs load(const uint32_t* experts, uint32_t count, uint32_t lane) {
    return {lane < count ? experts[lane] : NO_EXPERT,
            lane + 32 < count ? experts[lane + 32] : NO_EXPERT};
  }

  __device__ uint32_t expert(uint32_t pair) const {
    const uint32_t from_low = __shfl_sync(0xFFFFFFFFu, low, pair & 31);
    const uint32_t from_high = __shfl_sync(0xFFFFFFFFu, high, pair & 31);
    return pair < 32 ? from_low : from_high;
  }

  // Bit p: pair p chose `expert`.
  __device__ uint64_t of(uint32_t expert) const {
    const uint64_t high_mask = __ballot_sync(0xFFFFFFFFu, high == expert);
    return high_mask << 32 | __ballot_sync(0xFFFFFFFFu, low == expert);
  }
};

// Every expert that was chosen, once, in the order of its first pair.
struct Touched {
  uint32_t count;
  uint32_t expert[MAX_PAIRS];
  uint8_t column[MAX_PAIRS][MAX_COLUMNS];  // pair of each column, MAX_PAIRS where there is none

  // One warp fills it; the others have to wait.
  __device__ void fill(const Pairs& pairs, uint32_t lane) {
    uint64_t low_mask = 0, high_mask = 0;
#pragma unroll 8
    for (uint32_t i = 0; i < 32; ++i) {
      const uint32_t low = __shfl_sync(0xFFFFFFFFu, pairs.low, i);
      const uint32_t high = __shfl_sync(0xFFFFFFFFu, pairs.high, i);
      low_mask |= static_cast<uint64_t>(low == pairs.low) << i |
                  static_cast<uint64_t>(high == pairs.low) << (i + 32);
      high_mask |= static_cast<uint64_t>(low == pairs.high) << i |
                   static_cast<uint64_t>(high == pairs.high) << (i + 32);
    }
    const bool is_low = pairs.low != NO_EXPERT && first_pair(low_mask) == lane;
    const bool is_high = pairs.high != NO_EXPERT && first_pair(high_mask) == lane + 32;
    const uint32_t lows = __ballot_sync(0xFFFFFFFFu, is_low);
    const uint32_t highs = __ballot_sync(0xFFFFFFFFu, is_high);
    const uint32_t before = (1u << lane) - 1;
    if (is_low) enter(__popc(lows & before), pairs.low, low_mask);
    if (is_high) enter(__popc(lows) + __popc(highs & before), pairs.high, high_mask);
    if (lane == 0) count = __popc(lows) + __popc(highs);
  }

 private:
  __device__ void enter(uint32_t at, uint32_t of, uint64_t mask) {
    expert[at] = of;
    for (uint32_t n = 0; n < MAX_COLUMNS; ++n) {
      column[at][n] = static_cast<uint8_t>(first_pair(mask));
      mask &= mask - 1;
    }
  }
};

}  // namespace kilotok::layout
