// Op draft_attention: the rows of a drafter block attend to the context before it and to the block.
//
// in:     args.qkv [rows, qkv_stride] f32 = all queries, all keys, all values, before norm and
//         rotation; args.rotations; context rings, bf16
// out:    args.out [rows, heads * dim] bf16; args.block: the block's own keys and values
// bytes:  positions * kv_heads * dim * 4, once for 48 (row, head) pairs at dim 128; partial results
//         in args.scratch
// As `attention`, but that the block's keys go to a place of their own: every block that needs them
// writes them there before it reads them back; several may write the same bits.
#pragma once

#include "kilotok/attention/attend.cuh"
#include "kilotok/attention/rotate.cuh"

namespace kilotok::ops {

namespace draft_attention_op {

using namespace kilotok::attention;

// Marks a row of the block in what place() gives.
inline constexpr uint32_t IN_BLOCK = 0x80000000u;

struct Source {
  const KilotokDraftAttention& args;
  const KilotokPass& pass;
  State& state;

  __device__ __forceinline__ float factor() const { return args.scale * LOG2_E; }
  __device__ __forceinline__ uint32_t key_pieces() const { return args.dim / 8; }
  __device__ __forceinline__ uint32_t place(uint32_t at) const {
    const uint32_t start = state.item.first_fresh;
    if (at >= start) return IN_BLOCK | (state.item.kv_head * KILOTOK_ROWS + (at - start));
    return (pass.row[0].slot * args.kv_heads + state.item.kv_head) * args.positions + at -
           divide(at, args.positions) * args.positions;
  }
  // Of a key (part 0) or value (part 1).
  __device__ __forceinline__ uint16_t* address(uint32_t part, uint32_t where) const {
    uint16_t* from = reinterpret_cast<uint16_t*>(part == 0 ? args.keys : args.values);
    if ((where & IN_BLOCK) != 0) {
      from =
          reinterpret_cast<uint16_t*>(args.block) + part * args.kv_heads * KILOTOK_ROWS * args.dim;
    }
    return from + static_cast<uint64_t>(where & ~IN_BLOCK) * args.dim;
  }

  // A warp makes a head at a time: queries, the block's keys, its values.
  __device__ __forceinline__ void prepare(const Block& block, uint8_t* scratch) const {
    const Item& item = state.item;
    const Shape& shape = state.shape;
    const uint32_t fresh = item.loaded.end > item.first_fresh ? pass.rows : 0;
#pragma unroll 1
    for (uint32_t i = block.warp; i < item.pairs + 2 * fresh; i += MATH_WARPS) {
      const bool is_query = i < item.pairs, is_value = i >= item.pairs + fresh;
      uint32_t row = is_value ? i - item.pairs - fresh : i - item.pairs;
      uint32_t head = args.heads + item.kv_head + (is_value ? args.kv_heads : 0);
      if (is_query) {
        row = divide(item.first_pair + i, shape.group);
        head = item.kv_head * shape.group + item.first_pair + i - row * shape.group;
      }
      const float* from = reinterpret_cast<const float*>(args.qkv) +
                          static_cast<uint64_t>(row) * args.qkv_stride + head * args.dim;
      const auto* norm = reinterpret_cast<const float*>(is_query ? args.q_norm : args.k_norm);
      const NormedHead normed(from, norm, args.dim, args.eps, block.lane);
      const auto* rotation = reinterpret_cast<const float2*>(args.rotations) + row * args.pairs;
      // Rows of all queries, of buffered keys, of buffered values.
      const uint32_t at = item.first_fresh + row;
      const bool is_buffered =
          at >= item.loaded.begin && at < item.loaded.end && at < state.buffered();
      uint16_t* to = address(is_value, IN_BLOCK | (item.kv_head * KILOTOK_ROWS + row));
      for (uint32_t first = 4 * block.lane; first < 16 * shape.depth; first += 128) {
        uint2 packed = make_uint2(0, 0);
        if (first < args.dim && is_value) {
          const float4 v = load_four(from + first);
          packed = bf16::pack(make_float4(v.x * args.value_scale, v.y * args.value_scale,
                                          v.z * args.value_scale, v.w * args.value_scale));
        } else if (first < args.dim) {
          packed = bf16::pack(rotate_four(normed, rotation, args.pairs, first));
        }
        if (!is_query && first < args.dim) *reinterpret_cast<uint2*>(to + first) = packed;
        uint32_t line = is_query ? i : at - state.tile_begin(0), column = first;
        uint32_t region = is_query ? state.queries() : 0;
        bool is_here = is_query || is_buffered;
        if (is_value) {
          region = state.values();
          column -= item.first_column;
          is_here = is_here && column < item.columns;
        }
        if (is_here) {
          const uint32_t row_bytes = is_value ? shape.value_bytes : shape.key_bytes;
          *reinterpret_cast<uint2*>(scratch + region + piece_offset(line, column / 8, row_bytes) +
                                    column % 8 * 2) = packed;
        }
      }
    }
    if (block.thread >= MAX_PAIRS) return;
    Pair pair{};
    if (block.thread < item.pairs) {
      const uint32_t in_group = item.first_pair + block.thread;
      const uint32_t row = divide(in_group, shape.group);
      const uint32_t head = item.kv_head * shape.group + in_group - row * shape.group;
      const Chunks chunks{state.group.chunk_tiles, state.group.first_chunk, state.group.chunks};
      const Span seen = draft_span(item.first_fresh, row, pass.rows, args.window, args.causal != 0);
      pair = pair_of(args, partials(), row, head, seen, chunks);
      pair.sink *= LOG2_E;
    }
    state.pair[block.thread] = pair;
  }

  __device__ __forceinline__ Partials partials() const {
    return Partials(args.scratch, args.heads, args.dim, args.max_chunks);
  }
  __device__ __forceinline__ uint16_t* out() const { return reinterpret_cast<uint16_t*>(args.out); }
};

}  // namespace draft_attention_op

__device__ __forceinline__ void draft_attention(const KilotokDraftAttention& args,
                                                const Block& block) {
  using namespace draft_attention_op;
  State& state = block_state();
  const KilotokPass& pass = *block.pass;
  if (pass.rows == 0) return;
  const Source source{args, pass, state};
  const uint32_t start = pass.row[0].position;
  const Span all = draft_block_span(start, pass.rows, args.window);
  if (block.thread == 0) {
    const Chunks chunks = chunks_of(all, args.window, args.max_chunks);
    state.shape = Shape(args.heads, args.kv_heads, args.dim, args.dim);
    state.group = {0, 0, pass.rows, chunks.tiles, chunks.first, chunks.count};
    state.items = Items(state.shape, state.group, args.kv_heads, args.dim, block.count, 0);
  }
#pragma unroll 1
  for (uint32_t index = block.index;; index += block.count) {
    if (block.thread == 0 && index < state.items.count) {
      state.item = state.items.at(index, state.shape, state.group, args.dim);
      state.item.loaded = state.in_chunk(all);
      state.item.first_fresh = start;
    }
    sync_math();
    if (index >= state.items.count) break;
    attend(block, state, source);
    sync_math();  // `state` is read to the end
  }
}

}  // namespace kilotok::ops
