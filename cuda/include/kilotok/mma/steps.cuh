// The product of one step of weights with 8 activation columns, per format.
//
// A format says how much of K a step covers, how many steps a slot of the ring holds, and which
// power of two its sums still lack. Activations of a lane: for each 32 of K, 8 consecutive bf16 of
// column lane / 4 at 8 (lane % 4) (layout/mxfp4_step.cuh).
#pragma once

#include "kilotok/format/fp8.cuh"
#include "kilotok/layout/bf16_step.cuh"
#include "kilotok/layout/fp8_step.cuh"
#include "kilotok/mma/mxfp4_step.cuh"
#include "kilotok/ptx/shared.cuh"

namespace kilotok::mma {

__device__ __forceinline__ uint4 scale_activations(const uint4& x) {
  return {mxfp4::scale_activations(x.x), mxfp4::scale_activations(x.y),
          mxfp4::scale_activations(x.z), mxfp4::scale_activations(x.w)};
}

struct Mxfp4 {
  static constexpr uint32_t DEPTH = layout::Mxfp4Step::DEPTH;
  static constexpr uint32_t BYTES = layout::Mxfp4Step::BYTES;
  static constexpr uint32_t SLOT_STEPS = 4;
  static constexpr float RESULT_FACTOR = mxfp4::RESULT_FACTOR;

  __device__ static __forceinline__ void multiply(StepSums& sums, uint32_t address,
                                                  const uint4* activations, uint32_t lane) {
    layout::Mxfp4Step step;
    step.codes[0] = ptx::load_shared_16(address + layout::Mxfp4Step::codes_offset(lane));
    step.codes[1] = ptx::load_shared_16(address + layout::Mxfp4Step::codes_offset(lane) + 512);
    step.scales = ptx::load_shared_8(address + layout::Mxfp4Step::scales_offset(lane));
#pragma unroll
    for (int block = 0; block < 2; ++block) {
      const uint4 x = scale_activations(activations[block]);
      add_scaled(sums, multiply_block(step, block, x, mxfp4::DecodeByShift{}),
                 block == 0 ? step.scales.x : step.scales.y);
    }
  }
};

struct Fp8 {
  static constexpr uint32_t DEPTH = layout::Fp8Step::DEPTH;
  static constexpr uint32_t BYTES = layout::Fp8Step::BYTES;
  static constexpr uint32_t SLOT_STEPS = 1;
  static constexpr float RESULT_FACTOR = fp8::RESULT_FACTOR;

  __device__ static __forceinline__ void multiply(StepSums& sums, uint32_t address,
                                                  const uint4* activations, uint32_t lane) {
    StepSums part = {};
#pragma unroll
    for (uint32_t pair = 0; pair < 4; ++pair) {
      const uint4 x = scale_activations(activations[pair]);
#pragma unroll
      for (uint32_t tile = 0; tile < 2; ++tile) {
        const uint4 words =
            ptx::load_shared_16(address + layout::Fp8Step::codes_offset(tile, pair, lane));
        const uint32_t first[4] = {fp8::decode_a(words.x), fp8::decode_a(words.y),
                                   fp8::decode_b(words.x), fp8::decode_b(words.y)};
        const uint32_t second[4] = {fp8::decode_a(words.z), fp8::decode_a(words.w),
                                    fp8::decode_b(words.z), fp8::decode_b(words.w)};
        m16n8k16(part.d[tile], first, x.x, x.y, part.d[tile]);
        m16n8k16(part.d[tile], second, x.z, x.w, part.d[tile]);
      }
    }
#pragma unroll
    for (uint32_t half = 0; half < 4; ++half) {
      const uint32_t row = lane / 4 + 8 * half;
      const float scale =
          __uint_as_float(ptx::load_shared_4(address + layout::Fp8Step::scale_offset(row)));
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        float& sum = sums.d[half / 2][2 * (half % 2) + i];
        sum = fmaf(scale, part.d[half / 2][2 * (half % 2) + i], sum);
      }
    }
  }
};

struct Bf16 {
  static constexpr uint32_t DEPTH = layout::Bf16Step::DEPTH;
  static constexpr uint32_t BYTES = layout::Bf16Step::BYTES;
  static constexpr uint32_t SLOT_STEPS = 1;
  static constexpr float RESULT_FACTOR = 1.0f;

  __device__ static __forceinline__ void multiply(StepSums& sums, uint32_t address,
                                                  const uint4* activations, uint32_t lane) {
#pragma unroll
    for (uint32_t product = 0; product < 4; ++product) {
      const uint4& x = activations[product / 2];
#pragma unroll
      for (uint32_t tile = 0; tile < 2; ++tile) {
        const uint4 words =
            ptx::load_shared_16(address + layout::Bf16Step::offset(tile, product, lane));
        const uint32_t a[4] = {words.x, words.y, words.z, words.w};
        m16n8k16(sums.d[tile], a, product % 2 == 0 ? x.x : x.z, product % 2 == 0 ? x.y : x.w,
                 sums.d[tile]);
      }
    }
  }
};

}  // namespace kilotok::mma
