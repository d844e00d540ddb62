// Op router: the logits of all experts for the rows of the pass.
//
// in:    args.weights [experts][width] bf16 or f32, row-major; args.x [8][x_stride] bf16; args.norm
// out:   args.logits [8][experts] f32
// bytes: experts * width * 2 or 4; flops: 2 rows * experts * width
// A block takes every n-th expert, its threads eight columns at a time: full f32 sums, because a
// logit that is a little off selects another expert. Order: a thread's columns, lanes, warps.
// Weights of its first experts are brought into shared memory before the op begins.
#pragma once

#include "kilotok/ops/residual.cuh"
#include "kilotok/persistent/shared.cuh"
#include "kilotok/ptx/bulk_copy.cuh"
#include "kilotok/ptx/mbarrier.cuh"
#include "kilotok/ptx/shared.cuh"

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

// Experts that a block takes at a time: one turn for 384 experts on 132 blocks.
inline constexpr uint32_t ROUTER_EXPERTS = 3;
// Where the weights brought early stand in what ops may use of shared memory; before them: sums.
inline constexpr uint32_t ROUTER_STAGE = 2048;
inline constexpr uint32_t ROUTER_STAGE_BYTES =
    sizeof(Shared::activations) + sizeof(Shared::parts) - ROUTER_STAGE;

__device__ __forceinline__ uint32_t router_row_bytes(const KilotokRouter& args) {
  return args.width * (args.format == KILOTOK_F32 ? 4 : 2);
}

// Asks for the weights of the block's first experts, by one thread, when nobody uses that shared
// memory any more. `index`, `count`: of the block.
__device__ __forceinline__ void stage_router(const KilotokRouter& args, uint32_t index,
                                             uint32_t count, Shared& shared) {
  const uint32_t bytes = router_row_bytes(args), bar = ptx::shared_address(&shared.router_staged);
  uint32_t staged = 0;
  while (staged < ROUTER_EXPERTS && index + staged * count < args.experts &&
         (staged + 1) * bytes <= ROUTER_STAGE_BYTES) {
    ++staged;
  }
  shared.router_experts = staged;
  ++shared.router_turns;
  ptx::fence_async_shared();
  ptx::mbarrier_arrive_expect_tx(bar, staged * bytes);
  const uint32_t to = ptx::shared_address(shared.scratch) + ROUTER_STAGE;
  for (uint32_t e = 0; e < staged; ++e) {
    const uint64_t from = args.weights + static_cast<uint64_t>(index + e * count) * bytes;
    ptx::bulk_copy(to + e * bytes, reinterpret_cast<const void*>(from), bytes, bar);
  }
}

// Weights of one expert as they are fetched.
template <bool IS_F32>
struct RouterWeights {
  uint4 words[IS_F32 ? 2 : 1];

  // `row`: in shared or device memory; null: zeros.
  __device__ __forceinline__ void load(const uint8_t* row, uint32_t k) {
    const uint4* from = reinterpret_cast<const uint4*>(row + (IS_F32 ? 4 : 2) * k);
#pragma unroll
    for (uint32_t i = 0; i < (IS_F32 ? 2 : 1); ++i) {
      words[i] = row != nullptr ? from[i] : make_uint4(0, 0, 0, 0);
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
  constexpr uint32_t EXPERTS = ROUTER_EXPERTS;
  constexpr uint32_t HALF = KILOTOK_ROWS / 2;
  constexpr uint32_t STRIDE = ROUTER_COLUMNS * MATH_THREADS;
  float* sums = reinterpret_cast<float*>(block.scratch);  // [EXPERTS][rows][warps]
  const uint32_t rows = block.pass->rows;
  const uint16_t* x = reinterpret_cast<const uint16_t*>(args.x);
  const uint32_t own = ROUTER_COLUMNS * block.thread, bytes = router_row_bytes(args);
  const uint32_t staged = shared.router_experts;
  load_inverse_rms(args.norm, block, shared.rms);
  ptx::mbarrier_wait(ptx::shared_address(&shared.router_staged), (shared.router_turns - 1) % 2);
  for (uint32_t first = block.index; first < args.experts; first += EXPERTS * block.count) {
    float sum[EXPERTS][KILOTOK_ROWS] = {};
    const uint8_t* weights[EXPERTS];
#pragma unroll
    for (uint32_t e = 0; e < EXPERTS; ++e) {
      const uint32_t expert = first + e * block.count;
      weights[e] =
          reinterpret_cast<const uint8_t*>(args.weights) + static_cast<uint64_t>(expert) * bytes;
      if (expert >= args.experts) weights[e] = nullptr;
      if (first == block.index && e < staged) {
        weights[e] = block.scratch + ROUTER_STAGE + e * bytes;
      }
    }
    for (uint32_t k = own; k < args.width; k += STRIDE) {
      RouterWeights<IS_F32> w_words[EXPERTS];
#pragma unroll
      for (uint32_t e = 0; e < EXPERTS; ++e) w_words[e].load(weights[e], k);
      Columns w[EXPERTS];
#pragma unroll
      for (uint32_t e = 0; e < EXPERTS; ++e) w[e] = w_words[e].unpack();
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
