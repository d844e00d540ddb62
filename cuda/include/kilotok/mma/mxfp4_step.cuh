// One step (layout/mxfp4_step.cuh) of an MXFP4 product: 32 rows x 64 of K by 8 activation columns.
#pragma once

#include "kilotok/format/mxfp4.cuh"
#include "kilotok/layout/mxfp4_step.cuh"
#include "kilotok/mma/bf16.cuh"

namespace kilotok::mma {

// The sums of 32 rows x 8 columns: [m16 tile][fragment register], times 2^-62 until they are
// finished.
struct StepSums {
  float d[2][4];
};

// The products of one K block of a step, before its scales.
template <typename Decode>
__device__ __forceinline__ StepSums multiply_block(const layout::Mxfp4Step& step, int block,
                                                   const uint4& activations, const Decode& decode) {
  const float zero[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  StepSums part;
  uint32_t a[2][2][4];
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    decode(block == 0 ? step.codes[tile].x : step.codes[tile].z, a[tile][0]);
    decode(block == 0 ? step.codes[tile].y : step.codes[tile].w, a[tile][1]);
  }
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    m16n8k16(part.d[tile], a[tile][0], activations.x, activations.y, zero);
  }
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    m16n8k16(part.d[tile], a[tile][1], activations.z, activations.w, part.d[tile]);
  }
  return part;
}

// sums += scales of one K block * its products.
__device__ __forceinline__ void add_scaled(StepSums& sums, const StepSums& part, uint32_t codes) {
  const float scale[2][2] = {{mxfp4::scale<0>(codes), mxfp4::scale<1>(codes)},
                             {mxfp4::scale<2>(codes), mxfp4::scale<3>(codes)}};
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums.d[tile][i] = fmaf(scale[tile][i / 2], part.d[tile][i], sums.d[tile][i]);
    }
  }
}

}  // namespace kilotok::mma
