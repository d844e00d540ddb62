// Op moe_up: hidden = activation(gate x, up x) for every (row, rank) pair, in the pair's expert.
//
// in:     args.weights, per expert [tiles][steps], args.x [8][x_stride] bf16, args.norm
// out:    args.hidden [64][hidden_stride] bf16
// bytes:  (experts touched) * weights of one expert; flops: 4 pairs * inter * K
// Units are (expert touched, tile), dealt out to all blocks; column n of a unit is the n-th pair that
// chose its expert.
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

  __device__ __forceinline__ const uint16_t* column(Place place, uint32_t n) const {
    const uint32_t pair = shared.touched.column[place.which][n];
    if (pair == NO_PAIR) return nullptr;
    return reinterpret_cast<const uint16_t*>(args.x) + pair / args.top_k * args.x_stride;
  }

  __device__ __forceinline__ void finish(uint32_t group, const float* parts) const {
    const uint32_t first = group * plan.group_units;
    const uint32_t units = min(plan.group_units, plan.units - first);
    for (uint32_t i = block.warp; i < units * KILOTOK_ROWS; i += MATH_WARPS) {
      const uint32_t unit = i / KILOTOK_ROWS, column = i % KILOTOK_ROWS;
      const Place place = plan.place(first + unit);
      const uint32_t pair = shared.touched.column[place.which][column];
      if (pair == NO_PAIR) continue;
      float value = sum_chunks(plan, parts, unit, column, block.lane) * Format::RESULT_FACTOR;
      value *= shared.rms[pair / args.top_k];
      if (args.bias != 0) {
        const uint64_t expert = shared.touched.expert[place.which];
        value += __ldg(reinterpret_cast<const float*>(args.bias) +
                       (expert * plan.tiles + place.tile) * 32 + block.lane);
      }
      const float up = __shfl_down_sync(0xFFFFFFFFu, value, 16);
      const uint32_t at = 16 * place.tile + block.lane;
      if (block.lane < 16 && at < args.out_width) {
        store_bf16(args.hidden, pair * args.hidden_stride + at,
                   activate(args.activation, value, up));
      }
    }
  }
};

template <typename Format>
__device__ __forceinline__ void moe_up_in(const KilotokMoeUp& args, const Block& block,
                                          Shared& shared, RingReader& ring) {
  MoeUp<Format> op{args, block, shared.plan, shared};
  run_stream<Format>(shared.plan, op, ring, block);
}

__device__ __forceinline__ void moe_up(const KilotokMoeUp& args, const Block& block, Shared& shared,
                                       RingReader& ring, uint32_t serial) {
  load_inverse_rms(args.norm, block, shared.rms);
  select_experts(args, block, shared, serial);
  set_plan(args.weights, KILOTOK_OP_MOE_UP, shared.touched.count, block, shared);
  switch (args.weights.format) {
    case KILOTOK_BF16: return moe_up_in<mma::Bf16>(args, block, shared, ring);
    case KILOTOK_FP8: return moe_up_in<mma::Fp8>(args, block, shared, ring);
    default: return moe_up_in<mma::Mxfp4>(args, block, shared, ring);
  }
}

}  // namespace kilotok::ops
