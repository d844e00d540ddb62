// Op router: the logits of all experts for the rows of the pass.
//
// in:    args.weights [experts][width] bf16 or f32, row-major; args.x [8][x_stride] bf16; args.norm
// out:   args.logits [8][experts] f32
// bytes: experts * width * 2 or 4; flops: 2 rows * experts * width
// A block takes every n-th expert, its threads four columns at a time: full f32 sums, because a
// logit that is a little off selects another expert. Order: a thread's columns, lanes, warps.
#pragma once

#include "kilotok/ops/residual.cuh"
#include "kilotok/persistent/shared.cuh"

namespace kilotok::ops {

__device__ __forceinline__ float4 unpack_bf16(uint2 pair) {
  return {__uint_as_float(pair.x << 16), __uint_as_float(pair.x & 0xFFFF0000u),
          __uint_as_float(pair.y << 16), __uint_as_float(pair.y & 0xFFFF0000u)};
}

__device__ __forceinline__ void router(const KilotokRouter& args, const Block& block,
                                       Shared& shared) {
  constexpr uint32_t EXPERTS = 3;  // at a time: one turn for 384 experts on 132 blocks
  float* sums = reinterpret_cast<float*>(block.scratch);  // [EXPERTS][rows][warps]
  const uint32_t rows = block.pass->rows;
  load_inverse_rms(args.norm, block, shared.rms);
  const uint16_t* x = reinterpret_cast<const uint16_t*>(args.x);
  for (uint32_t first = block.index; first < args.experts; first += EXPERTS * block.count) {
    float sum[EXPERTS][KILOTOK_ROWS] = {};
    for (uint32_t k = 4 * block.thread; k < args.width; k += 4 * MATH_THREADS) {
      float4 w[EXPERTS];
#pragma unroll
      for (uint32_t e = 0; e < EXPERTS; ++e) {
        const uint32_t expert = first + e * block.count;
        const uint64_t at = static_cast<uint64_t>(expert) * args.width + k;
        if (expert >= args.experts) {
          w[e] = {};
        } else if (args.format == KILOTOK_F32) {
          w[e] = __ldg(reinterpret_cast<const float4*>(reinterpret_cast<const float*>(args.weights) + at));
        } else {
          w[e] = unpack_bf16(__ldg(reinterpret_cast<const uint2*>(
              reinterpret_cast<const uint16_t*>(args.weights) + at)));
        }
      }
#pragma unroll
      for (uint32_t row = 0; row < KILOTOK_ROWS; ++row) {
        if (row >= rows) break;
        const float4 v = unpack_bf16(__ldcg(reinterpret_cast<const uint2*>(x + row * args.x_stride + k)));
#pragma unroll
        for (uint32_t e = 0; e < EXPERTS; ++e) {
          float& s = sum[e][row];
          s = fmaf(w[e].x, v.x, s);
          s = fmaf(w[e].y, v.y, s);
          s = fmaf(w[e].z, v.z, s);
          s = fmaf(w[e].w, v.w, s);
        }
      }
    }
#pragma unroll
    for (uint32_t e = 0; e < EXPERTS; ++e) {
#pragma unroll
      for (uint32_t row = 0; row < KILOTOK_ROWS; ++row) {
        if (row >= rows) break;
        const float total = warp_sum(sum[e][row]);
        if (block.lane == 0) sums[(e * KILOTOK_ROWS + row) * MATH_WARPS + block.warp] = total;
      }
    }
    sync_math();
    if (block.thread < EXPERTS * KILOTOK_ROWS) {
      const uint32_t e = block.thread / KILOTOK_ROWS, row = block.thread % KILOTOK_ROWS;
      const uint32_t expert = first + e * block.count;
      if (row < rows && expert < args.experts) {
        float total = 0.0f;
        for (uint32_t w = 0; w < MATH_WARPS; ++w) total += sums[block.thread * MATH_WARPS + w];
        reinterpret_cast<float*>(args.logits)[row * args.experts + expert] =
            total * shared.rms[row];
      }
    }
    sync_math();
  }
}

}  // namespace kilotok::ops
