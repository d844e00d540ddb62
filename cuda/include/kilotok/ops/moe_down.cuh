// Op moe_down: residual += sum over experts of down hidden, plus the weighted biases.
//
// in:     args.weights, per expert [tiles][steps]; args.hidden [64][hidden_stride] bf16, weighted
// by
//         moe_up; routes
// out:    args.to
// bytes:  (experts touched) * weights of one expert; flops: 2 pairs * N * inter
// A block takes every n-th tile, with all experts touched, as one long K. Column n of a product is
// row n, zero where the row did not choose the expert; warp n adds its sums one after the other,
// experts ascending. A zero changes no bit of a sum that started at +0, so that a row's sum depends
// on its own experts alone.
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
  const Shared& shared;
  float sum = 0.0f;

  static constexpr bool NEEDS_ZEROS = true;

  __device__ __forceinline__ const uint16_t* column(Place place, uint32_t row) const {
    const uint32_t pair = shared.touched.pair[place.which][row];
    if (pair == NO_PAIR) return nullptr;
    return reinterpret_cast<const uint16_t*>(args.hidden) + pair * args.hidden_stride;
  }

  __device__ __forceinline__ void finish(uint32_t group, const float* parts) {
    const uint32_t row = block.warp;
    if (row >= block.pass->rows) return;
    Place place = plan.place(group * plan.group_units);
    uint32_t left = plan.units_in(group);
    const float* part = parts + row * PART_STRIDE + block.lane;
    while (left > 0) {
      const uint32_t units = min(left, plan.experts - place.which);
      const bool is_complete = place.which + units == plan.experts;
      ResidualElement element;
      if (is_complete) element.load(args.to, row, place.tile, block.lane);
#pragma unroll 4
      for (uint32_t item = 0; item < units * plan.chunks; ++item) sum += part[item * PART_FLOATS];
      if (is_complete) {
        sum *= Format::RESULT_FACTOR;
        if (args.bias != 0) sum += bias(row, place.tile);
        element.add(args.to, row, place.tile, block.lane, sum);
        sum = 0.0f;
      }
      part += units * plan.chunks * PART_FLOATS;
      left -= units;
      plan.move(place, units);
    }
  }

  // In order of rank.
  __device__ __forceinline__ float bias(uint32_t row, uint32_t tile) const {
    const float* biases = reinterpret_cast<const float*>(args.bias) + tile * 32 + block.lane;
    float total = 0.0f;
    for (uint32_t rank = 0; rank < args.top_k; ++rank) {
      const uint32_t pair = row * args.top_k + rank;
      const uint64_t expert = shared.routes.expert[pair];
      total += shared.routes.gate[pair] * __ldg(biases + expert * plan.tiles * 32);
    }
    return total;
  }
};

template <typename Format>
__device__ __forceinline__ void moe_down_in(const KilotokMoeDown& args, const Block& block,
                                            Shared& shared) {
  MoeDown<Format> op{args, block, shared.plan, shared};
  run_stream<Format>(shared.plan, op, block, shared);
}

// `is_alone`: no moe_up ran in this kernel before.
__device__ __forceinline__ void moe_down(const KilotokMoeDown& args, const Block& block,
                                         Shared& shared, bool is_alone) {
  if (is_alone) load_experts(args.routes, args.top_k, block, shared);
  set_plan(args.weights, KILOTOK_OP_MOE_DOWN, block, shared);
  switch (args.weights.format) {
    case KILOTOK_BF16:
      return moe_down_in<mma::Bf16>(args, block, shared);
    case KILOTOK_FP8:
      return moe_down_in<mma::Fp8>(args, block, shared);
    default:
      return moe_down_in<mma::Mxfp4>(args, block, shared);
  }
}

}  // namespace kilotok::ops
