// What moe_up and moe_down share: steps that wait in shared memory, activation rows that come from
// global memory.
#pragma once

#include <cuda_bf16.h>

#include "kilotok/abi.h"
#include "kilotok/layout/expert_rows.cuh"
#include "kilotok/mma/mxfp4_step.cuh"
#include "kilotok/ptx/bulk_copy.cuh"
#include "kilotok/ptx/dependent_launch.cuh"
#include "kilotok/ptx/mbarrier.cuh"
#include "kilotok/ptx/shared.cuh"

namespace kilotok::ops::single {

inline constexpr uint32_t MOE_WARPS = 8;
inline constexpr uint32_t MOE_THREADS = 32 * MOE_WARPS;
// Activations on their way per warp, in steps.
inline constexpr uint32_t MOE_AHEAD = 4;

// A copy that never lands is a bug: the kernel stops with an error instead of hanging.
__device__ __forceinline__ void wait_for_copy(uint32_t bar, uint32_t parity) {
  for (uint32_t tries = 0; !ptx::mbarrier_try_wait(bar, parity);) {
    if (++tries == 1u << 22) __trap();
  }
}

// The activations of one lane for one step: 8 bf16 of its column per K block.
struct Activations {
  uint4 x[2];

  // `row`: the column's row at the step's first K; null for a column of zeros.
  __device__ __forceinline__ void load(const uint16_t* row, uint32_t lane) {
#pragma unroll
    for (uint32_t block = 0; block < 2; ++block) {
      x[block] =
          row == nullptr
              ? make_uint4(0, 0, 0, 0)
              : *reinterpret_cast<const uint4*>(row + layout::Mxfp4Step::activation(lane, block));
    }
  }
};

// sums += the step at shared address `weights` times the activations.
__device__ __forceinline__ void multiply(mma::StepSums& sums, uint32_t weights,
                                         const Activations& activations, uint32_t lane) {
  using layout::Mxfp4Step;
  Mxfp4Step step;
  step.codes[0] = ptx::load_shared_16(weights + Mxfp4Step::codes_offset(lane));
  step.codes[1] = ptx::load_shared_16(weights + Mxfp4Step::codes_offset(lane) + 512);
  step.scales = ptx::load_shared_8(weights + Mxfp4Step::scales_offset(lane));
#pragma unroll
  for (int block = 0; block < 2; ++block) {
    const uint4& x = activations.x[block];
    const uint4 scaled = {mxfp4::scale_activations(x.x), mxfp4::scale_activations(x.y),
                          mxfp4::scale_activations(x.z), mxfp4::scale_activations(x.w)};
    mma::add_scaled(sums, mma::multiply_block(step, block, scaled, mxfp4::DecodeByShift{}),
                    block == 0 ? step.scales.x : step.scales.y);
  }
}

}  // namespace kilotok::ops::single
