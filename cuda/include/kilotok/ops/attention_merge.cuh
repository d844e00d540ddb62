// Op attention_merge: puts the partial results of the (draft) attention before it together.
//
// in:    args.scratch: per row, head and chunk, weighted sums of values, their maximum and sum
// out:   args.out [rows, heads * v_dim] bf16; rows with one chunk are left alone
// bytes: chunks * rows * heads * (4 v_dim + 8)
// A team of 1, 4 or 12 warps makes a row's head: warp w takes the chunks w, w + team, .., and the
// warps' results are put together in order. The size of a team depends on max_chunks alone.
#pragma once

#include "kilotok/attention/chunks.cuh"
#include "kilotok/format/bf16.cuh"
#include "kilotok/persistent/block.cuh"

namespace kilotok::ops {

namespace attention_merge_op {

using namespace kilotok::attention;

inline constexpr uint32_t MAX_DIM = 256;
inline constexpr float LOG2_E = 1.4426950408889634f;

// So that a warp has at most 17 chunks.
__device__ __forceinline__ uint32_t team_size(uint32_t max_chunks) {
  return max_chunks <= 16 ? 1 : max_chunks <= 48 ? 4 : MATH_WARPS;
}

__device__ __forceinline__ Chunks chunks_of_row(const KilotokAttentionMerge& args,
                                                const KilotokPass& pass, uint32_t row) {
  const Span span = args.is_draft != 0
                        ? draft_block_span(pass.row[0].position, pass.rows, args.window)
                        : causal_span(pass.row[row].position, args.window);
  return chunks_of(span, args.window, args.max_chunks);
}

// What a warp has: elements 4 lane + 128 i.
struct Part {
  float4 sums[MAX_DIM / 128];
  float top, weight;

  __device__ __forceinline__ void add(const float4& v, uint32_t i, float factor) {
    sums[i].x = fmaf(v.x, factor, sums[i].x);
    sums[i].y = fmaf(v.y, factor, sums[i].y);
    sums[i].z = fmaf(v.z, factor, sums[i].z);
    sums[i].w = fmaf(v.w, factor, sums[i].w);
  }
};

}  // namespace attention_merge_op

__device__ __forceinline__ void attention_merge(const KilotokAttentionMerge& args,
                                                const Block& block) {
  using namespace attention_merge_op;
  const KilotokPass& pass = *block.pass;
  const Partials partials(args.scratch, args.heads, args.v_dim, args.max_chunks);
  const uint32_t team = team_size(args.max_chunks), teams = MATH_WARPS / team;
  const uint32_t member = block.warp % team;
  float4* const shared = reinterpret_cast<float4*>(block.scratch);
  // Of every warp: sums, then maximum and sum of weights.
  const auto place = [&](uint32_t warp) { return shared + warp * (MAX_DIM / 4 + 1); };
#pragma unroll 1
  for (uint32_t base = block.index; base * teams < pass.rows * args.heads; base += block.count) {
    const uint32_t pair = base * teams + block.warp / team;
    const uint32_t row = pair / args.heads, head = pair - row * args.heads;
    uint32_t chunks = 0;
    if (row < pass.rows) chunks = chunks_of_row(args, pass, row).count;
    const bool is_mine = chunks > 1;
    Part part{};
    part.top = -INFINITY;
    if (is_mine && member < chunks) {
      const uint32_t slot = partials.slot(row, head, member);
      // Lane l knows the weight of the warp's chunk l.
      float2 own = make_float2(-INFINITY, 0.0f);
      if (member + block.lane * team < chunks) {
        own = __ldcg(partials.weights + slot + block.lane * team);
      }
      part.top = own.x;
#pragma unroll
      for (uint32_t distance = 16; distance > 0; distance /= 2) {
        part.top = fmaxf(part.top, __shfl_xor_sync(0xFFFFFFFFu, part.top, distance));
      }
      const float factor = ptx::exp2_approximate(own.x - part.top);
      part.weight = warp_sum(own.y * factor);
      const float* sums = partials.sums + static_cast<uint64_t>(slot) * args.v_dim;
      const uint32_t count = (chunks - member + team - 1) / team;
#pragma unroll
      for (uint32_t i = 0; i < MAX_DIM / 128; ++i) {
        const uint32_t first = 4 * block.lane + 128 * i;
        if (128 * i >= args.v_dim) break;
#pragma unroll 6
        for (uint32_t c = 0; c < count; ++c) {
          float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
          if (first < args.v_dim) {
            v = __ldcg(reinterpret_cast<const float4*>(
                sums + static_cast<uint64_t>(c) * team * args.v_dim + first));
          }
          part.add(v, i, __shfl_sync(0xFFFFFFFFu, factor, c));
        }
      }
    }
    if (team > 1) {
      sync_math();  // the pair before may still be read
#pragma unroll
      for (uint32_t i = 0; i < MAX_DIM / 128; ++i) {
        place(block.warp)[block.lane + 32 * i] = part.sums[i];
      }
      if (block.lane == 0) {
        place(block.warp)[MAX_DIM / 4] = make_float4(part.top, part.weight, 0.0f, 0.0f);
      }
      sync_math();
    }
    if (!is_mine || member != 0) continue;
    float top = part.top;
    for (uint32_t w = 1; w < team; ++w) top = fmaxf(top, place(block.warp + w)[MAX_DIM / 4].x);
    const float sink = args.sinks == 0
                           ? -INFINITY
                           : __ldg(reinterpret_cast<const float*>(args.sinks) + head) * LOG2_E;
    top = fmaxf(top, sink);
    Part all{};
    all.weight = ptx::exp2_approximate(sink - top);
    for (uint32_t w = 0; w < team; ++w) {
      float4 weight = make_float4(part.top, part.weight, 0.0f, 0.0f);
      if (team > 1) weight = place(block.warp + w)[MAX_DIM / 4];
      const float factor = ptx::exp2_approximate(weight.x - top);
      all.weight = fmaf(weight.y, factor, all.weight);
#pragma unroll
      for (uint32_t i = 0; i < MAX_DIM / 128; ++i) {
        all.add(team > 1 ? place(block.warp + w)[block.lane + 32 * i] : part.sums[i], i, factor);
      }
    }
    const float factor = 1.0f / all.weight;
    uint16_t* out = reinterpret_cast<uint16_t*>(args.out) +
                    static_cast<uint64_t>(row) * args.out_stride + head * args.v_dim;
#pragma unroll
    for (uint32_t i = 0; i < MAX_DIM / 128; ++i) {
      const uint32_t first = 4 * block.lane + 128 * i;
      if (first >= args.v_dim) continue;
      const float4 v = all.sums[i];
      *reinterpret_cast<uint2*>(out + first) =
          bf16::pack(make_float4(v.x * factor, v.y * factor, v.z * factor, v.w * factor));
    }
  }
}

}  // namespace kilotok::ops
