// Op moe_down: residual += sum over ranks of gate * (down hidden + bias).
//
// in:     args.weights, per expert [tiles][steps]; args.hidden [64][hidden_stride] bf16; routes
// out:    args.to
// bytes:  (experts touched) * weights of one expert; flops: 2 pairs * N * inter
// A block takes every n-th tile, with all experts touched. Warp r finishes row r: what an expert adds
// is kept per rank until the tile's last expert, then added in order of rank.
#pragma once

#include "kilotok/ops/residual.cuh"
#include "kilotok/ops/select_experts.cuh"
#include "kilotok/persistent/stream.cuh"

namespace kilotok::ops {

template <typename Format>
struct MoeDown {
  const KilotokMoeDown& args;
  const Block& block;
  const Plan& plan;
  Shared& shared;

  __device__ __forceinline__ const uint16_t* column(Place place, uint32_t n) const {
    const uint32_t pair = shared.touched.column[place.which][n];
    if (pair == NO_PAIR) return nullptr;
    return reinterpret_cast<const uint16_t*>(args.hidden) + pair * args.hidden_stride;
  }

  __device__ __forceinline__ void finish(uint32_t group, const float* parts) const {
    const uint32_t row = block.warp;
    if (row >= block.pass->rows) return;
    const uint32_t first = group * plan.group_units;
    const uint32_t units = min(plan.group_units, plan.units - first);
    for (uint32_t unit = 0; unit < units; ++unit) {
      const Place place = plan.place(first + unit);
      for (uint32_t column = 0; column < KILOTOK_ROWS; ++column) {
        const uint32_t pair = shared.touched.column[place.which][column];
        if (pair == NO_PAIR) break;
        if (pair / args.top_k != row) continue;
        float value = sum_chunks(plan, parts, unit, column, block.lane) * Format::RESULT_FACTOR;
        if (args.bias != 0) {
          const uint64_t expert = shared.touched.expert[place.which];
          value += __ldg(reinterpret_cast<const float*>(args.bias) +
                         (expert * plan.tiles + place.tile) * 32 + block.lane);
        }
        shared.outputs[pair][block.lane] = shared.routes.gate[pair] * value;
      }
      if (place.which + 1 < plan.experts) continue;
      float sum = 0.0f;
      for (uint32_t rank = 0; rank < args.top_k; ++rank) {
        sum += shared.outputs[row * args.top_k + rank][block.lane];
      }
      add_to_residual(args.to, row, place.tile, block.lane, sum);
    }
  }
};

template <typename Format>
__device__ __forceinline__ void moe_down_in(const KilotokMoeDown& args, const Block& block,
                                            Shared& shared, RingReader& ring) {
  MoeDown<Format> op{args, block, shared.plan, shared};
  run_stream<Format>(shared.plan, op, ring, block);
}

// `is_first`: no moe_up ran in this kernel before.
__device__ __forceinline__ void moe_down(const KilotokMoeDown& args, const Block& block,
                                         Shared& shared, RingReader& ring, uint32_t serial,
                                         bool is_first) {
  if (is_first) load_experts(args.routes, block.pass->rows * args.top_k, block, shared, serial);
  set_plan(args.weights, KILOTOK_OP_MOE_DOWN, shared.touched.count, block, shared);
  switch (args.weights.format) {
    case KILOTOK_BF16: return moe_down_in<mma::Bf16>(args, block, shared, ring);
    case KILOTOK_FP8: return moe_down_in<mma::Fp8>(args, block, shared, ring);
    default: return moe_down_in<mma::Mxfp4>(args, block, shared, ring);
  }
}

}  // namespace kilotok::ops
