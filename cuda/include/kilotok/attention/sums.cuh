// What a warp knows of its pairs: weighted sums of values, the maximum and the sum of the weights.
#pragma once

#include "kilotok/attention/shape.cuh"
#include "kilotok/format/bf16.cuh"

namespace kilotok::attention {

// Below any score, and finite, so that differences are numbers.
inline constexpr float LOWEST = -1e30f;
inline constexpr float LOG2_E = 1.4426950408889634f;

// Sums of a warp: the pairs lane / 4 and lane / 4 + 8 of its place, columns 8 n + 2 (lane % 4) and
// the one after it.
struct Sums {
  float value[PLACE_COLUMNS / 8][4];
  float top[2];
  float weight[2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (uint32_t n = 0; n < PLACE_COLUMNS / 8; ++n) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) value[n][i] = 0.0f;
    }
    top[0] = top[1] = LOWEST;
    weight[0] = weight[1] = 0.0f;
  }

  // `to`: [n][32 lanes] of 16 bytes.
  __device__ __forceinline__ void store(float4* to, uint32_t tiles, uint32_t lane) const {
#pragma unroll
    for (uint32_t n = 0; n < PLACE_COLUMNS / 8; ++n) {
      if (n < tiles) {
        to[n * 32 + lane] = make_float4(value[n][0], value[n][1], value[n][2], value[n][3]);
      }
    }
    to[tiles * 32 + lane] = make_float4(top[0], top[1], weight[0], weight[1]);
  }

  __device__ __forceinline__ void merge(const float4* from, uint32_t tiles, uint32_t lane) {
    const float4 other = from[tiles * 32 + lane];
    const float top0 = fmaxf(top[0], other.x), top1 = fmaxf(top[1], other.y);
    const float own0 = ptx::exp2_approximate(top[0] - top0),
                own1 = ptx::exp2_approximate(top[1] - top1);
    const float its0 = ptx::exp2_approximate(other.x - top0),
                its1 = ptx::exp2_approximate(other.y - top1);
    top[0] = top0;
    top[1] = top1;
    weight[0] = fmaf(weight[0], own0, other.z * its0);
    weight[1] = fmaf(weight[1], own1, other.w * its1);
#pragma unroll
    for (uint32_t n = 0; n < PLACE_COLUMNS / 8; ++n) {
      if (n < tiles) {
        const float4 v = from[n * 32 + lane];
        value[n][0] = fmaf(value[n][0], own0, v.x * its0);
        value[n][1] = fmaf(value[n][1], own0, v.y * its0);
        value[n][2] = fmaf(value[n][2], own1, v.z * its1);
        value[n][3] = fmaf(value[n][3], own1, v.w * its1);
      }
    }
  }

  // Pair `half` of the lane's two, complete: divided by the sum of its weights. `sink`: in log2.
  __device__ __forceinline__ void finish(uint16_t* out, float sink, uint32_t half,
                                         uint32_t columns) const {
    const float most = fmaxf(top[half], sink);
    const float own = ptx::exp2_approximate(top[half] - most);
    const float factor = own * ptx::reciprocal_approximate(
                                   fmaf(weight[half], own, ptx::exp2_approximate(sink - most)));
#pragma unroll
    for (uint32_t n = 0; n < PLACE_COLUMNS / 8; ++n) {
      if (8 * n < columns) {
        *reinterpret_cast<uint32_t*>(out + 8 * n) =
            bf16::pack(value[n][2 * half] * factor, value[n][2 * half + 1] * factor);
      }
    }
  }

  // Pair `half`, as one of several partial results.
  __device__ __forceinline__ void leave(float* sums, uint32_t half, uint32_t columns) const {
#pragma unroll
    for (uint32_t n = 0; n < PLACE_COLUMNS / 8; ++n) {
      if (8 * n < columns) {
        *reinterpret_cast<float2*>(sums + 8 * n) =
            make_float2(value[n][2 * half], value[n][2 * half + 1]);
      }
    }
  }
};

}  // namespace kilotok::attention
