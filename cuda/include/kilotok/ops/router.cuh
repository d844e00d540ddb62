// Op router: the logits of all experts for the rows of the pass.
//
// in:    args.weights [experts][width] bf16 or f32, row-major; args.x [8][x_stride] bf16; args.norm
// out:   args.logits [8][experts] f32
// bytes: experts * width * 2 or 4; flops: 2 rows * experts * width
// A block takes every n-th expert, its threads eight columns at a time: full f32 sums, because a
// logit that is a little off selects another expert. Order: a thread's columns, lanes, warps.
#pragma once

#include "kilotok/ops/residual.cuh"
#include "kilotok/persistent/shared.cuh"

namespace kilotok::ops {

inline constexpr uint32_t ROUTER_COLUMNS = 8;  // of a thread, at a time

// 8 weights or activations.
struct Columns {
  float v[ROUTER_COLUMNS];
};

__device__ __forceinline__ Columns unpack_bf16(const uint4& words) {
  const uint32_t w[4] = {words.x, words.y, words.z, words.w};
  Columns columns;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    columns.v[2 * i] = __uint_as_float(w[i] << 16);
    columns.v[2 * i + 1] = __uint_as_float(w[i] & 0xFFFF0000u);
  }
  return columns;
}

// Weights of one expert as they are fetched.
template <bool IS_F32>
struct RouterWeights {
  uint4 words[IS_F32 ? 2 : 1];

  __device__ __forceinline__ void load(const KilotokRouter& args, uint32_t expert, uint32_t k) {
    const uint64_t at = static_cast<uint64_t>(expert) * args.width + k;
    const bool is_there = expert < args.experts && k < args.width;
    const uint4* from = reinterpret_cast<const uint4*>(args.weights + (IS_F32 ? 4 : 2) * at);
#pragma unroll
    for (uint32_t i = 0; i < (IS_F32 ? 2 : 1); ++i) {
      words[i] = is_there ? __ldg(from + i) : make_uint4(0, 0, 0, 0);
    }
  }

  __device__ __forceinline__ Columns unpack() const {
    if constexpr (!IS_F32) {
      return unpack_bf16(words[0]);
    } else {
      const uint32_t w[8] = {words[0].x, words[0].y, words[0].z, words[0].w,
                             words[1].x, words[1].y, words[1].z, words[1].w};
      Columns columns;
#pragma unroll
      for (uint32_t i = 0; i < 8; ++i) columns.v[i] = __uint_as_float(w[i]);
      return columns;
    }
  }
};

template <bool IS_F32>
__device__ __forceinline__ void router_in(const KilotokRouter& args, const Block& block,
                                          Shared& shared) {
  constexpr uint32_t EXPERTS = 3;  // at a time: one turn for 384 experts on 132 blocks
  constexpr uint32_t HALF = KILOTOK_ROWS / 2;
  constexpr uint32_t STRIDE = ROUTER_COLUMNS * MATH_THREADS;
  float* sums = reinterpret_cast<float*>(block.scratch);  // [EXPERTS][rows][warps]
  const uint32_t rows = block.pass->rows;
  const uint16_t* x = reinterpret_cast<const uint16_t*>(args.x);
  const uint32_t own = ROUTER_COLUMNS * block.thread;
  for (uint32_t first = block.index; first < args.experts; first += EXPERTS * block.count) {
    float sum[EXPERTS][KILOTOK_ROWS] = {};
    RouterWeights<IS_F32> coming[EXPERTS];
#pragma unroll
    for (uint32_t e = 0; e < EXPERTS; ++e) coming[e].load(args, first + e * block.count, own);
    if (first == block.index) load_inverse_rms(args.norm, block, shared.rms);
    for (uint32_t k = own; k < args.width; k += STRIDE) {
      Columns w[EXPERTS];
#pragma unroll
      for (uint32_t e = 0; e < EXPERTS; ++e) {
        w[e] = coming[e].unpack();
        coming[e].load(args, first + e * block.count, k + STRIDE);
      }
#pragma unroll
      for (uint32_t half = 0; half < 2; ++half) {
        if (half * HALF >= rows) break;
        // Rows are on their way before the first one is used.
        uint4 loaded[HALF];
#pragma unroll
        for (uint32_t i = 0; i < HALF; ++i) {
          const uint32_t row = half * HALF + i;
          loaded[i] = make_uint4(0, 0, 0, 0);
          if (row < rows) {
            loaded[i] = __ldcg(reinterpret_cast<const uint4*>(x + row * args.x_stride + k));
          }
        }
#pragma unroll
        for (uint32_t i = 0; i < HALF; ++i) {
          const Columns v = unpack_bf16(loaded[i]);
#pragma unroll
          for (uint32_t e = 0; e < EXPERTS; ++e) {
#pragma unroll
            for (uint32_t c = 0; c < ROUTER_COLUMNS; ++c) {
              float& total = sum[e][half * HALF + i];
              total = fmaf(w[e].v[c], v.v[c], total);
            }
          }
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
#pragma unroll
        for (uint32_t w = 0; w < MATH_WARPS; ++w) total += sums[block.thread * MATH_WARPS + w];
        reinterpret_cast<float*>(args.logits)[row * args.experts + expert] =
            total * shared.rms[row];
      }
    }
    sync_math();
  }
}

__device__ __forceinline__ void router(const KilotokRouter& args, const Block& block,
                                       Shared& shared) {
  if (args.format == KILOTOK_F32) {
    router_in<true>(args, block, shared);
  } else {
    router_in<false>(args, block, shared);
  }
}

}  // namespace kilotok::ops
