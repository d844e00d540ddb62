// What every op that writes the residual stream does with it: 32 elements of one row at a time, one
// per lane of a warp.
#pragma once

#include <cuda_bf16.h>

#include "kilotok/persistent/block.cuh"

namespace kilotok::ops {

__device__ __forceinline__ void store_bf16(uint64_t base, uint64_t index, float value) {
  reinterpret_cast<__nv_bfloat16*>(base)[index] = __float2bfloat16(value);
}

// residual[row][32 tile + lane], and the weight of the next norm there: asked for before they are
// needed.
struct ResidualElement {
  float residual, weight;

  __device__ __forceinline__ void load(const KilotokResidual& to, uint32_t row, uint32_t tile,
                                       uint32_t lane) {
    const uint32_t column = 32 * tile + lane;
    residual = 0.0f;
    if (to.fresh == 0) {
      residual = __ldcg(reinterpret_cast<const float*>(to.residual) + row * to.stride + column);
    }
    weight = __ldg(reinterpret_cast<const float*>(to.norm_weight) + column);
  }

  // Adds `value`, and leaves what the next norm and the drafter need.
  __device__ __forceinline__ void add(const KilotokResidual& to, uint32_t row, uint32_t tile,
                                      uint32_t lane, float value) const {
    const uint32_t column = 32 * tile + lane;
    value += residual;
    reinterpret_cast<float*>(to.residual)[row * to.stride + column] = value;
    store_bf16(to.x, row * to.x_stride + column, value * weight);
    if (to.tap != 0) store_bf16(to.tap, row * to.tap_stride + column, value);
    const float squares = warp_sum(value * value);
    if (lane == 0) reinterpret_cast<float*>(to.squares)[tile * KILOTOK_ROWS + row] = squares;
  }
};

// 1 / root mean square of `row`, in every lane; 1 where there is no norm.
__device__ __forceinline__ float inverse_rms(const KilotokNorm& norm, uint32_t row, uint32_t lane) {
  if (norm.squares == 0) return 1.0f;
  const float* squares = reinterpret_cast<const float*>(norm.squares);
  float sum = 0.0f;
#pragma unroll 8
  for (uint32_t i = lane; i < norm.parts; i += 32) sum += __ldcg(squares + i * KILOTOK_ROWS + row);
  return 1.0f / sqrtf(warp_sum(sum) / norm.width + norm.eps);
}

// The same for all rows of the pass, into `rms`: readable after the next sync_math().
__device__ __forceinline__ void load_inverse_rms(const KilotokNorm& norm, const Block& block,
                                                 float* rms) {
  // From the last warp down: the first ones may have other things to do.
  const uint32_t row = MATH_WARPS - 1 - block.warp;
  if (row < block.pass->rows) {
    const float value = inverse_rms(norm, row, block.lane);
    if (block.lane == 0) rms[row] = value;
  }
}

// Joins the two up-projections of a feed-forward.
__device__ __forceinline__ float activate(const KilotokActivation& activation, float gate,
                                          float up) {
  if (activation.kind == KILOTOK_SILU) return gate / (1.0f + expf(-gate)) * up;
  const float limit = activation.limit;
  gate = fminf(gate, limit);
  up = fminf(fmaxf(up, -limit), limit);
  return gate / (1.0f + expf(-activation.alpha * gate)) * (up + 1.0f);
}

}  // namespace kilotok::ops
