// Op moe_down: residual += sum over ranks of gate * (down hidden).
//
// in:     args.weights, per expert [size / 32][inter / 64] steps; args.hidden [rows, top_k, inter]
// bf16
//         args.experts [rows, top_k] u32, args.gates [rows, top_k] f32
// out:    args.residual [rows, size] f32, read and written
// bytes:  (experts touched) * inter * size * 17 / 32; flops: 2 pairs * inter * size
// shared: dynamic, [warps][DOWN_SLOTS][slice] steps, then [pairs][slices][32] f32
// A block makes 32 columns of `residual` for all rows. Its warps take slices of K of the experts
// touched, in turn, each through a ring of its own; weights are asked for before the grid that
// makes `hidden` has ended. A pair's slices are added in order of K, then the pairs of a row in
// order of ranks: the association depends on `inter` alone.
#pragma once

#include "kilotok/ops/single/moe.cuh"

namespace kilotok::ops::single {

inline constexpr uint32_t DOWN_SLOTS = 3;

// `tile`: which 32 columns.
__device__ __forceinline__ void moe_down(const KilotokMoeDownArgs& args, uint32_t tile) {
  using layout::Mxfp4Step;
  extern __shared__ __align__(128) uint8_t ring[];
  __shared__ layout::Touched touched;
  __shared__ __align__(8) uint64_t bars[MOE_WARPS * DOWN_SLOTS];
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t steps = args.inter / Mxfp4Step::DEPTH;
  const uint32_t slices = (steps + args.slice_steps - 1) / args.slice_steps;
  const uint32_t slot_bytes = args.slice_steps * Mxfp4Step::BYTES;
  float* parts = reinterpret_cast<float*>(ring + MOE_WARPS * DOWN_SLOTS * slot_bytes);
  if (threadIdx.x < MOE_WARPS * DOWN_SLOTS) {
    ptx::mbarrier_init(ptx::shared_address(bars + threadIdx.x), 1);
    ptx::fence_mbarrier_init();
  }
  if (warp == 0) {
    touched.fill(layout::Pairs::load(reinterpret_cast<const uint32_t*>(args.experts),
                                     args.rows * args.top_k, lane),
                 lane);
  }
  __syncthreads();

  // Item i of a block is slice i % slices of expert i / slices; a warp takes every eighth.
  struct Item {
    uint32_t index, which, first, count;
  };
  const uint32_t items = touched.count * slices;
  const auto item_at = [&](uint32_t index) {
    Item item{index, index / slices, 0, 0};
    item.first = (index - item.which * slices) * args.slice_steps;
    item.count = min(args.slice_steps, steps - item.first);
    return item;
  };
  const uint32_t own = ptx::shared_address(ring) + warp * DOWN_SLOTS * slot_bytes;
  const uint32_t own_bars = ptx::shared_address(bars + warp * DOWN_SLOTS);
  const uint64_t policy = ptx::policy_evict_first();
  const auto ask = [&](uint32_t index, uint32_t slot) {
    if (lane != 0 || index >= items) return;
    const Item item = item_at(index);
    const uint32_t bytes = item.count * Mxfp4Step::BYTES;
    ptx::mbarrier_arrive_expect_tx(own_bars + 8 * slot, bytes);
    ptx::bulk_copy(own + slot * slot_bytes,
                   reinterpret_cast<const uint8_t*>(args.weights) +
                       touched.expert[item.which] * args.expert_bytes +
                       (static_cast<uint64_t>(tile) * steps + item.first) * Mxfp4Step::BYTES,
                   bytes, own_bars + 8 * slot, policy);
  };
  for (uint32_t slot = 0; slot < DOWN_SLOTS; ++slot) ask(warp + slot * MOE_WARPS, slot);
  ptx::wait_for_previous_grid();
  ptx::allow_next_grid();

  // The step whose activations are asked for next.
  Item coming = item_at(warp);
  uint32_t coming_step = 0;
  const auto load = [&](Activations& to) {
    if (coming.index >= items) return;
    const uint32_t pair = touched.column[coming.which][lane / 4];
    to.load(pair == layout::MAX_PAIRS ? nullptr
                                      : reinterpret_cast<const uint16_t*>(args.hidden) +
                                            static_cast<uint64_t>(pair) * args.inter +
                                            (coming.first + coming_step) * Mxfp4Step::DEPTH,
            lane);
    if (++coming_step == coming.count) {
      coming = item_at(coming.index + MOE_WARPS);
      coming_step = 0;
    }
  };
  Activations ahead[MOE_AHEAD];
#pragma unroll
  for (uint32_t i = 0; i < MOE_AHEAD; ++i) load(ahead[i]);

  mma::StepSums sums = {};
  Item now = item_at(warp);
  uint32_t step = 0, slot = 0, parity = 0;
  while (now.index < items) {
#pragma unroll
    for (uint32_t i = 0; i < MOE_AHEAD; ++i) {
      if (now.index >= items) break;
      if (step == 0) wait_for_copy(own_bars + 8 * slot, parity);
      multiply(sums, own + slot * slot_bytes + step * Mxfp4Step::BYTES, ahead[i], lane);
      load(ahead[i]);
      if (++step < now.count) continue;
      __syncwarp();
      ask(now.index + DOWN_SLOTS * MOE_WARPS, slot);
#pragma unroll
      for (uint32_t c = 0; c < 2; ++c) {
        const uint32_t pair = touched.column[now.which][2 * (lane % 4) + c];
        if (pair == layout::MAX_PAIRS) continue;
        float* part = parts + (pair * slices + now.index - now.which * slices) * 32 + lane / 4;
#pragma unroll
        for (int half = 0; half < 4; ++half) {
          part[8 * half] = sums.d[half / 2][2 * (half % 2) + c];
        }
      }
      sums = {};
      step = 0;
      now = item_at(now.index + MOE_WARPS);
      if (++slot == DOWN_SLOTS) {
        slot = 0;
        parity ^= 1;
      }
    }
  }
  __syncthreads();

  for (uint32_t i = threadIdx.x; i < args.rows * 32; i += MOE_THREADS) {
    const uint32_t row = i / 32, inner = i % 32;
    float sum = 0.0f;
    for (uint32_t rank = 0; rank < args.top_k; ++rank) {
      const uint32_t pair = row * args.top_k + rank;
      float output = 0.0f;
      for (uint32_t s = 0; s < slices; ++s) output += parts[(pair * slices + s) * 32 + inner];
      output *= mxfp4::RESULT_FACTOR;
      sum += reinterpret_cast<const float*>(args.gates)[pair] * output;
    }
    float* residual = reinterpret_cast<float*>(args.residual) +
                      static_cast<uint64_t>(row) * args.size + tile * 32 + inner;
    *residual += sum;
  }
}

}  // namespace kilotok::ops::single
