// Op moe_up: hidden = gate * activation(gate_proj x, up_proj x) for every (row, rank) pair, in the
// pair's expert. The router's weight is applied here, so that moe_down only adds.
//
// in:     args.weights, per expert [tiles][steps], args.x [8][x_stride] bf16, args.norm
// out:    args.hidden [64][hidden_stride] bf16
// bytes:  (experts touched) * weights of one expert; flops: 4 pairs * inter * K
// Units are (expert touched, tile), dealt out to all blocks; column n of a product is row n.
#pragma once

#include "kilotok/ops/residual.cuh"
#include "kilotok/ops/select_experts.cuh"
#include "kilotok/persistent/stream.cuh"

namespace kilotok::ops {

template <typename Format>
struct MoeUp {
  const KilotokMoeUp& args;
  const Block& block;
  const Plan& plan;
  const Shared& shared;

  static constexpr bool NEEDS_ZEROS = false;

  __device__ __forceinline__ const uint16_t* column(Place place, uint32_t row) const {
    if (shared.touched.pair[place.which][row] == NO_PAIR) return nullptr;
    return reinterpret_cast<const uint16_t*>(args.x) + row * args.x_stride;
  }

  __device__ __forceinline__ void finish(uint32_t group, const float* parts) const {
    const uint32_t first = group * plan.group_units, units = plan.units_in(group);
    for (uint32_t i = block.warp; i < units * KILOTOK_ROWS; i += MATH_WARPS) {
      const uint32_t unit = i / KILOTOK_ROWS, row = i % KILOTOK_ROWS;
      if (row >= block.pass->rows) continue;
      const Place place = plan.place(first + unit);
      const uint32_t pair = shared.touched.pair[place.which][row];
      if (pair == NO_PAIR) continue;
      float value = sum_chunks(plan, parts, unit, row, block.lane) * Format::RESULT_FACTOR;
      value *= shared.rms[row];
      if (args.bias != 0) {
        const uint64_t expert = shared.touched.expert[place.which];
        value += __ldg(reinterpret_cast<const float*>(args.bias) +
                       (expert * plan.tiles + place.tile) * 32 + block.lane);
      }
      const float up = __shfl_down_sync(0xFFFFFFFFu, value, 16);
      const uint32_t at = 16 * place.tile + block.lane;
      if (block.lane < 16 && at < args.out_width) {
        store_bf16(args.hidden, pair * args.hidden_stride + at,
                   shared.routes.gate[pair] * activate(args.activation, value, up));
      }
    }
  }
};

template <typename Format>
__device__ __forceinline__ void moe_up_in(const KilotokMoeUp& args, const Block& block,
                                          Shared& shared) {
  MoeUp<Format> op{args, block, shared.plan, shared};
  run_stream<Format>(shared.plan, op, block, shared);
}

__device__ __forceinline__ void moe_up(const KilotokMoeUp& args, const Block& block,
                                       Shared& shared) {
  load_inverse_rms(args.norm, block, shared.rms);
  select_experts(args, block, shared);
  set_plan(args.weights, KILOTOK_OP_MOE_UP, block, shared);
  switch (args.weights.format) {
    case KILOTOK_BF16:
      return moe_up_in<mma::Bf16>(args, block, shared);
    case KILOTOK_FP8:
      return moe_up_in<mma::Fp8>(args, block, shared);
    default:
      return moe_up_in<mma::Mxfp4>(args, block, shared);
  }
}

}  // namespace kilotok::ops
