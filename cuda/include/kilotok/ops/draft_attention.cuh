// Op draft_attention: the rows of a drafter block attend to the context before it and to the block.
//
// in:     args.qkv [rows, qkv_stride] f32 = all queries, all keys, all values, before norm and
//         rotation; args.rotations; context rings, bf16
// out:    args.out [rows, heads * dim] bf16 where there is one chunk, else args.scratch, for
//         attention_merge; args.block: the block's own keys and values
// bytes:  positions * kv_heads * dim * 4, once for 48 (row, head) pairs at dim 128
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
  const State& state;

  __device__ __forceinline__ float factor() const { return args.scale * LOG2_E; }
  __device__ __forceinline__ uint32_t key_pieces() const { return args.dim / 8; }
  __device__ __forceinline__ uint32_t place(uint32_t at) const {
    const uint32_t start = state.item.first_fresh;
    if (at >= start) return IN_BLOCK | (state.item.kv_head * KILOTOK_ROWS + (at - start));
    return (pass.row[0].slot * args.kv_heads + state.item.kv_head) * args.positions +
           at % args.positions;
  }
  // Keys are part 0 of the block's own, values part 1.
  __device__ __forceinline__ uint16_t* address(uint64_t context, uint32_t part,
                                               uint32_t where) const {
    uint16_t* from = reinterpret_cast<uint16_t*>(context);
    if ((where & IN_BLOCK) != 0) {
      from =
          reinterpret_cast<uint16_t*>(args.block) + part * args.kv_heads * KILOTOK_ROWS * args.dim;
    }
    return from + static_cast<uint64_t>(where & ~IN_BLOCK) * args.dim;
  }
  __device__ __forceinline__ uint16_t* key(uint32_t where) const {
    return address(args.keys, 0, where);
  }
  __device__ __forceinline__ uint16_t* value(uint32_t where) const {
    return address(args.values, 1, where);
  }

  // A warp makes a head at a time: queries, the block's keys, its values.
  __device__ __forceinline__ void prepare(const Block& block, uint8_t* queries) const {
    const Item& item = state.item;
    const uint32_t fresh = item.loaded.end > item.first_fresh ? pass.rows : 0;
#pragma unroll 1
    for (uint32_t i = block.warp; i < item.pairs + 2 * fresh; i += MATH_WARPS) {
      const bool is_query = i < item.pairs, is_value = i >= item.pairs + fresh;
      uint32_t row, head;
      if (is_query) {
        row = (item.first_pair + i) / state.shape.group;
        head = item.kv_head * state.shape.group + item.first_pair + i - row * state.shape.group;
      } else {
        row = is_value ? i - item.pairs - fresh : i - item.pairs;
        head = args.heads + item.kv_head + (is_value ? args.kv_heads : 0);
      }
      const float* from = reinterpret_cast<const float*>(args.qkv) +
                          static_cast<uint64_t>(row) * args.qkv_stride + head * args.dim;
      if (is_value) {
        uint16_t* to = value(IN_BLOCK | (item.kv_head * KILOTOK_ROWS + row));
        for (uint32_t first = 4 * block.lane; first < args.dim; first += 128) {
          const float4 v = load_four(from + first);
          *reinterpret_cast<uint2*>(to + first) =
              bf16::pack(make_float4(v.x * args.value_scale, v.y * args.value_scale,
                                     v.z * args.value_scale, v.w * args.value_scale));
        }
        continue;
      }
      const auto* norm = reinterpret_cast<const float*>(is_query ? args.q_norm : args.k_norm);
      const NormedHead normed(from, norm, args.dim, args.eps, block.lane);
      const auto* rotation = reinterpret_cast<const float2*>(args.rotations) + row * args.pairs;
      uint16_t* to = key(IN_BLOCK | (item.kv_head * KILOTOK_ROWS + row));
      for (uint32_t first = 4 * block.lane; first < 16 * state.shape.depth; first += 128) {
        uint2 packed = make_uint2(0, 0);
        if (first < args.dim) packed = bf16::pack(rotate_four(normed, rotation, args.pairs, first));
        if (is_query) {
          *reinterpret_cast<uint2*>(queries + piece_offset(i, first / 8, state.shape.key_bytes) +
                                    first % 8 * 2) = packed;
        } else if (first < args.dim) {
          *reinterpret_cast<uint2*>(to + first) = packed;
        }
      }
    }
  }

  __device__ __forceinline__ Target target(uint32_t pair, uint32_t column) const {
    const uint32_t row = pair / state.shape.group;
    const uint32_t head = state.item.kv_head * state.shape.group + pair - row * state.shape.group;
    const Chunks chunks{state.group.chunk_tiles, state.group.first_chunk, state.group.chunks};
    return target_of(args, chunks, state.item, args.dim, row, head, column);
  }
};

}  // namespace draft_attention_op

__device__ __forceinline__ void draft_attention(const KilotokDraftAttention& args,
                                                const Block& block) {
  using namespace draft_attention_op;
  State& state = block_state();
  const KilotokPass& pass = *block.pass;
  if (pass.rows == 0) return;
  const Source source{args, pass, state};
  if (block.thread == 0) {
    const Chunks chunks = chunks_of(draft_block_span(pass.row[0].position, pass.rows, args.window),
                                    args.window, args.max_chunks);
    state.shape = Shape(args.heads, args.kv_heads, args.dim, args.dim);
    state.group = {0, 0, pass.rows, chunks.tiles, chunks.first, chunks.count};
    state.items = Items(state.shape, state.group, args.kv_heads, args.dim);
  }
  sync_math();
#pragma unroll 1
  for (uint32_t index = block.index; index < state.items.count; index += block.count) {
    const uint32_t start = pass.row[0].position;
    if (block.thread == 0) {
      state.item = state.items.at(index, state.shape, state.group, args.dim);
      state.item.loaded = state.in_chunk(draft_block_span(start, pass.rows, args.window));
      state.item.first_fresh = start;
    }
    sync_math();
    if (block.thread < MAX_PAIRS) {
      Span seen{0, 0};
      if (block.thread < state.item.pairs) {
        const uint32_t row = (state.item.first_pair + block.thread) / state.shape.group;
        seen = draft_span(start, row, pass.rows, args.window, args.causal != 0);
      }
      state.seen[block.thread] = seen;
    }
    attend(block, state, source);
    sync_math();  // `state` is read to the end
  }
}

}  // namespace kilotok::ops
