// Op linear: y = W x for the rows of the pass, into logits, the residual stream or SwiGLU inputs.
//
// in:     args.weights [tiles][steps], args.x [8][x_stride] bf16, args.norm
// out:    by args.store (program.h)
// bytes:  weights once; flops: 2 rows * N * K
// A block takes every n-th tile. Association: 16-element products, blocks of K, chunks; a function
// of K and format alone.
#pragma once

#include "kilotok/ops/residual.cuh"
#include "kilotok/persistent/stream.cuh"

namespace kilotok::ops {

template <typename Format>
struct Linear {
  const KilotokLinear& args;
  const Block& block;
  const Plan& plan;
  const float* rms;

  static constexpr bool NEEDS_ZEROS = false;

  __device__ __forceinline__ const uint16_t* column(Place, uint32_t n) const {
    if (n >= block.pass->rows) return nullptr;
    return reinterpret_cast<const uint16_t*>(args.x) + n * args.x_stride;
  }

  __device__ __forceinline__ void finish(uint32_t group, const float* parts) const {
    const uint32_t rows = block.pass->rows;
    const uint32_t first = group * plan.group_units;
    const uint32_t units = plan.units_in(group);
    for (uint32_t i = block.warp; i < units * rows; i += MATH_WARPS) {
      const uint32_t unit = i / rows, row = i % rows;
      const uint32_t tile = plan.index + (first + unit) * plan.count;
      ResidualElement element;
      if (args.store == KILOTOK_STORE_RESIDUAL) element.load(args.to, row, tile, block.lane);
      float value = sum_chunks(plan, parts, unit, row, block.lane) * Format::RESULT_FACTOR;
      value *= rms[row];
      if (args.bias != 0) {
        value += __ldg(reinterpret_cast<const float*>(args.bias) + 32 * tile + block.lane);
      }
      store(row, tile, value, element);
    }
  }

  __device__ __forceinline__ void store(uint32_t row, uint32_t tile, float value,
                                        const ResidualElement& element) const {
    if (args.store == KILOTOK_STORE_RESIDUAL) {
      element.add(args.to, row, tile, block.lane, value);
    } else if (args.store == KILOTOK_STORE_F32) {
      const uint32_t at = 32 * tile + block.lane;
      if (at < args.out_width) {
        reinterpret_cast<float*>(args.out)[static_cast<uint64_t>(row) * args.out_stride + at] =
            value;
      }
    } else {
      const float up = __shfl_down_sync(0xFFFFFFFFu, value, 16);
      const uint32_t at = 16 * tile + block.lane;
      if (block.lane < 16 && at < args.out_width) {
        store_bf16(args.out, row * args.out_stride + at, activate(args.activation, value, up));
      }
    }
  }
};

template <typename Format>
__device__ __forceinline__ void linear_in(const KilotokLinear& args, const Block& block,
                                          Shared& shared) {
  Linear<Format> op{args, block, shared.plan, shared.rms};
  run_stream<Format>(shared.plan, op, block, shared);
}

__device__ __forceinline__ void linear(const KilotokLinear& args, const Block& block,
                                       Shared& shared) {
  load_inverse_rms(args.norm, block, shared.rms);
  set_plan(args.weights, KILOTOK_OP_LINEAR, block, shared);
  switch (args.weights.format) {
    case KILOTOK_BF16:
      return linear_in<mma::Bf16>(args, block, shared);
    case KILOTOK_FP8:
      return linear_in<mma::Fp8>(args, block, shared);
    default:
      return linear_in<mma::Mxfp4>(args, block, shared);
  }
}

}  // namespace kilotok::ops
