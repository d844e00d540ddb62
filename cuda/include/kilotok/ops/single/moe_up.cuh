// Op moe_up: hidden = silu(gate x) * (up x) for every (row, rank) pair, in the pair's expert.
//
// in:     args.weights, per expert [inter / 16][size / 64] steps: rows 0..15 of a step are gate
// rows, 16..31 up rows
//         args.x [rows, size] bf16, args.experts [rows, top_k] u32
// out:    args.hidden [rows, top_k, inter] bf16
// bytes:  (experts touched) * inter * size * 2 * 17 / 32; flops: 4 pairs * inter * size
// shared: 17 * size bytes, dynamic
// A block makes 16 columns of `hidden` for one expert: it asks for all of its weights at once, then
// its warps take every eighth step of K each. Their sums are added in order of warps: the
// association depends on `size` alone, never on rows or routes.
#pragma once

#include "kilotok/ops/single/moe.cuh"

namespace kilotok::ops::single {

// Pieces of 8 steps, one per warp; `size` is at most 512 of them.
inline constexpr uint32_t MAX_PIECES = 26;

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

// `tile`: which 16 columns; `pair`: a pair of the expert. Only the block of an expert's first pair
// works.
__device__ __forceinline__ void moe_up(const KilotokMoeUpArgs& args, uint32_t tile, uint32_t pair) {
  using layout::Mxfp4Step;
  extern __shared__ __align__(128) uint8_t weights[];
  __shared__ float parts[MOE_WARPS][Mxfp4Step::ROWS][layout::MAX_COLUMNS + 1];
  __shared__ __align__(8) uint64_t bars[MAX_PIECES];
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t steps = args.size / Mxfp4Step::DEPTH;
  const uint32_t pieces = (steps + MOE_WARPS - 1) / MOE_WARPS;
  if (threadIdx.x < pieces) ptx::mbarrier_init(ptx::shared_address(bars + threadIdx.x), 1);
  if (threadIdx.x < pieces) ptx::fence_mbarrier_init();
  ptx::wait_for_previous_grid();
  ptx::allow_next_grid();
  const auto pairs = layout::Pairs::load(reinterpret_cast<const uint32_t*>(args.experts),
                                         args.rows * args.top_k, lane);
  const uint32_t expert = pairs.expert(pair);
  const uint64_t mask = pairs.of(expert);
  if (layout::first_pair(mask) != pair) return;
  if (warp == 0) {
    __syncwarp();
    if (lane < pieces) {
      const uint64_t first = static_cast<uint64_t>(tile) * steps + lane * MOE_WARPS;
      const uint32_t bytes = min(MOE_WARPS, steps - lane * MOE_WARPS) * Mxfp4Step::BYTES;
      const uint32_t bar = ptx::shared_address(bars + lane);
      ptx::mbarrier_arrive_expect_tx(bar, bytes);
      ptx::bulk_copy(ptx::shared_address(weights) + lane * MOE_WARPS * Mxfp4Step::BYTES,
                     reinterpret_cast<const uint8_t*>(args.weights) + expert * args.expert_bytes +
                         first * Mxfp4Step::BYTES,
                     bytes, bar, ptx::policy_evict_first());
    }
  }
  const uint32_t column_pair = layout::nth_pair(mask, lane / 4);
  const uint16_t* row = column_pair == layout::MAX_PAIRS
                            ? nullptr
                            : reinterpret_cast<const uint16_t*>(args.x) +
                                  static_cast<uint64_t>(column_pair / args.top_k) * args.size;
  const auto load = [&](Activations& to, uint32_t step) {
    if (step < steps) to.load(row == nullptr ? nullptr : row + step * Mxfp4Step::DEPTH, lane);
  };
  Activations ahead[MOE_AHEAD];
#pragma unroll
  for (uint32_t i = 0; i < MOE_AHEAD; ++i) load(ahead[i], warp + i * MOE_WARPS);
  __syncthreads();

  mma::StepSums sums = {};
  for (uint32_t piece = 0; piece < pieces; piece += MOE_AHEAD) {
#pragma unroll
    for (uint32_t i = 0; i < MOE_AHEAD; ++i) {
      const uint32_t step = (piece + i) * MOE_WARPS + warp;
      if (step < steps) {
        wait_for_copy(ptx::shared_address(bars + piece + i), 0);
        multiply(sums, ptx::shared_address(weights) + step * Mxfp4Step::BYTES, ahead[i], lane);
      }
      load(ahead[i], step + MOE_AHEAD * MOE_WARPS);
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    parts[warp][16 * (i / 4) + 8 * (i / 2 % 2) + lane / 4][2 * (lane % 4) + i % 2] =
        sums.d[i / 4][i % 4];
  }
  __syncthreads();
  if (threadIdx.x >= 16 * layout::MAX_COLUMNS) return;
  const uint32_t column = threadIdx.x / 16, inner = threadIdx.x % 16;
  const uint32_t to = layout::nth_pair(mask, column);
  if (to == layout::MAX_PAIRS) return;
  float gate = 0.0f, up = 0.0f;
#pragma unroll
  for (uint32_t w = 0; w < MOE_WARPS; ++w) {
    gate += parts[w][inner][column];
    up += parts[w][inner + 16][column];
  }
  gate *= mxfp4::RESULT_FACTOR;
  up *= mxfp4::RESULT_FACTOR;
  reinterpret_cast<__nv_bfloat16*>(
      args.hidden)[static_cast<uint64_t>(to) * args.inter + tile * 16 + inner] =
      __float2bfloat16(silu(gate) * up);
}

}  // namespace kilotok::ops::single
