// One split's 32 keys of a tile: scores, weights and weighted values of a warp's 16 pairs.
#pragma once

#include "kilotok/attention/sums.cuh"
#include "kilotok/mma/bf16.cuh"
#include "kilotok/ptx/matrix_load.cuh"

namespace kilotok::attention {

inline constexpr uint32_t KEY_TILES = SPLIT_KEYS / 8;   // n8 tiles of scores
inline constexpr uint32_t KEY_STEPS = SPLIT_KEYS / 16;  // k16 steps of weighted values

// Scores of a place's pairs with a split's keys: [n8 tile][fragment register].
__device__ __forceinline__ void scores(float (&to)[KEY_TILES][4], uint32_t queries, uint32_t keys,
                                       uint32_t depth, uint32_t row_bytes, uint32_t lane) {
#pragma unroll
  for (uint32_t n = 0; n < KEY_TILES; ++n) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) to[n][i] = 0.0f;
  }
  queries += piece_offset(lane % 16, lane / 16, row_bytes);
  keys += piece_offset(lane % 8 + lane / 16 * 8, lane / 8 % 2, row_bytes);
#pragma unroll 2
  for (uint32_t k = 0; k < depth; ++k) {
    uint32_t a[4];
    ptx::load_matrices(a, pieces_after(queries, 2 * k));
#pragma unroll
    for (uint32_t n = 0; n < KEY_TILES; n += 2) {
      uint32_t b[4];
      ptx::load_matrices(b, pieces_after(keys + n * 8 * row_bytes, 2 * k));
      mma::m16n8k16(to[n], a, b[0], b[1], to[n]);
      mma::m16n8k16(to[n + 1], a, b[2], b[3], to[n + 1]);
    }
  }
}

// Scores of the keys from `position` on to weights: `weights` are the A fragments of the product
// with the values, `correction` is what older sums of the two pairs are worth now. `pair`: the
// lane's first one. `factor`: of scores, to log2; not negative.
__device__ __forceinline__ void weigh(Sums& sums, float (&score)[KEY_TILES][4], const Pair* pair,
                                      uint32_t position, float factor,
                                      uint32_t (&weights)[KEY_STEPS][4], float (&correction)[2],
                                      uint32_t lane) {
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    const Span span = pair[8 * half].seen;
    const uint32_t at = position + 2 * (lane % 4) - span.begin, count = span.end - span.begin;
    float most = -INFINITY;
#pragma unroll
    for (uint32_t n = 0; n < KEY_TILES; ++n) {
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        float& value = score[n][2 * half + i];
        value = at + (8 * n + i) < count ? value : -INFINITY;
        most = fmaxf(most, value);
      }
    }
    most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, 1));
    most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, 2));
    const float top = fmaxf(sums.top[half], most * factor);
    correction[half] = ptx::exp2_approximate(sums.top[half] - top);
    sums.top[half] = top;
    float weight = 0.0f;
#pragma unroll
    for (uint32_t n = 0; n < KEY_TILES; ++n) {
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        float& value = score[n][2 * half + i];
        value = ptx::exp2_approximate(fmaf(value, factor, -top));
        weight += value;
      }
      weights[n / 2][n % 2 * 2 + half] = bf16::pack(score[n][2 * half], score[n][2 * half + 1]);
    }
    sums.weight[half] = fmaf(sums.weight[half], correction[half], weight);
  }
}

// sums = sums * correction + weights * values. The product is complete before it is added: fused
// into one sum, its rounding would be the tensor core's.
__device__ __forceinline__ void add_values(Sums& sums, const uint32_t (&weights)[KEY_STEPS][4],
                                           const float (&correction)[2], uint32_t values,
                                           uint32_t columns, uint32_t row_bytes, uint32_t lane) {
  values += piece_offset(lane % 16, lane / 16, row_bytes);
#pragma unroll
  for (uint32_t n = 0; n < PLACE_COLUMNS / 8; n += 2) {
    if (8 * n < columns) {
      float part[2][4] = {};
#pragma unroll
      for (uint32_t k = 0; k < KEY_STEPS; ++k) {
        uint32_t b[4];
        ptx::load_matrices_transposed(b, pieces_after(values + k * 16 * row_bytes, n));
        mma::m16n8k16(part[0], weights[k], b[0], b[1], part[0]);
        mma::m16n8k16(part[1], weights[k], b[2], b[3], part[1]);
      }
#pragma unroll
      for (uint32_t m = 0; m < 2; ++m) {
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
          sums.value[n + m][i] = fmaf(sums.value[n + m][i], correction[i / 2], part[m][i]);
        }
      }
    }
  }
}

}  // namespace kilotok::attention
