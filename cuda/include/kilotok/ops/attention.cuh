// Op attention: rotates queries and keys, scales values, writes keys and values into the cache, and
// attends causally.
//
// in:     args.qkv [rows, qkv_stride] f32 = all queries, all keys, all values; args.rotations
//         cache: args.keys, args.values, bf16, positions before the pass's rows
// out:    args.out [rows, heads * v_dim] bf16, for rows with one chunk; others: args.scratch, for
//         attention_merge. Keys and values of the rows in the cache.
// bytes:  per group of rows, once for 48 (row, head) pairs where heads are small, 32 for 192 / 128:
//         positions * kv_heads * (qk_dim + v_dim) * 2
// Items (a kv head's chunk for some pairs) go to the blocks in turn. Every block that needs the
// keys of this pass writes them itself before it reads them back: several may write the same bits.
#pragma once

#include "kilotok/attention/attend.cuh"
#include "kilotok/attention/rotate.cuh"

namespace kilotok::ops {

namespace attention_op {

using namespace kilotok::attention;

struct Source {
  const KilotokAttention& args;
  const KilotokPass& pass;
  const State& state;

  __device__ __forceinline__ float factor() const { return args.scale * LOG2_E; }
  __device__ __forceinline__ uint32_t key_pieces() const { return args.qk_dim / 8; }
  __device__ __forceinline__ uint32_t place(uint32_t at) const {
    const auto* table = reinterpret_cast<const uint32_t*>(args.page_table);
    const uint32_t page = at / args.positions;
    uint32_t block = pass.row[state.group.slot_row].slot;
    if (table != nullptr) block = __ldcg(table + block * args.max_pages + page);
    return (block * args.kv_heads + state.item.kv_head) * args.positions +
           (at - page * args.positions);
  }
  __device__ __forceinline__ uint16_t* key(uint32_t where) const {
    return reinterpret_cast<uint16_t*>(args.keys) + static_cast<uint64_t>(where) * args.qk_dim;
  }
  __device__ __forceinline__ uint16_t* value(uint32_t where) const {
    return reinterpret_cast<uint16_t*>(args.values) + static_cast<uint64_t>(where) * args.v_dim;
  }

  // Four elements of a rotated head.
  __device__ __forceinline__ uint2 rotated(uint32_t row, uint32_t offset, uint32_t first) const {
    const float* head = reinterpret_cast<const float*>(args.qkv) +
                        static_cast<uint64_t>(row) * args.qkv_stride + offset;
    return bf16::pack(rotate_four(
        [&](uint32_t i) { return load_four(head + i); },
        reinterpret_cast<const float2*>(args.rotations) + row * args.pairs, args.pairs, first));
  }

  // Four elements per thread and turn: of queries, of fresh keys, of fresh values.
  __device__ __forceinline__ void prepare(const Block& block, uint8_t* queries) const {
    const Item& item = state.item;
    // Rows of the slot whose keys this item reads.
    const uint32_t begin = max(item.loaded.begin, item.first_fresh);
    const uint32_t fresh = item.loaded.end > begin ? item.loaded.end - begin : 0;
    const uint32_t fresh_row = state.group.slot_row + (begin - item.first_fresh);
    const uint32_t query_units = 4 * state.shape.depth, key_units = args.qk_dim / 4;
    const uint32_t value_units = item.columns / 4;
    const uint32_t num_queries = item.pairs * query_units, num_keys = fresh * key_units;
    const uint32_t total = num_queries + num_keys + fresh * value_units;
    const uint32_t key_start = (args.heads + item.kv_head) * args.qk_dim;
    const uint32_t value_start =
        (args.heads + args.kv_heads) * args.qk_dim + item.kv_head * args.v_dim;
#pragma unroll 1
    for (uint32_t i = block.thread; i < total; i += MATH_THREADS) {
      if (i < num_queries) {
        const uint32_t pair = i / query_units, first = 4 * (i - pair * query_units);
        const uint32_t row = (item.first_pair + pair) / state.shape.group;
        const uint32_t head = item.first_pair + pair - row * state.shape.group;
        uint2 packed = make_uint2(0, 0);
        if (first < args.qk_dim) {
          packed = rotated(state.group.first_row + row,
                           (item.kv_head * state.shape.group + head) * args.qk_dim, first);
        }
        *reinterpret_cast<uint2*>(queries + piece_offset(pair, first / 8, state.shape.key_bytes) +
                                  first % 8 * 2) = packed;
      } else if (i < num_queries + num_keys) {
        const uint32_t unit = i - num_queries;
        const uint32_t which = unit / key_units, first = 4 * (unit - which * key_units);
        *reinterpret_cast<uint2*>(key(place(begin + which)) + first) =
            rotated(fresh_row + which, key_start, first);
      } else {
        const uint32_t unit = i - num_queries - num_keys;
        const uint32_t which = unit / value_units;
        const uint32_t first = item.first_column + 4 * (unit - which * value_units);
        float4 v = load_four(reinterpret_cast<const float*>(args.qkv) +
                             static_cast<uint64_t>(fresh_row + which) * args.qkv_stride +
                             value_start + first);
        v = make_float4(v.x * args.value_scale, v.y * args.value_scale, v.z * args.value_scale,
                        v.w * args.value_scale);
        *reinterpret_cast<uint2*>(value(place(begin + which)) + first) = bf16::pack(v);
      }
    }
  }

  __device__ __forceinline__ Target target(uint32_t pair, uint32_t column) const {
    const uint32_t in_group = pair / state.shape.group;
    const uint32_t row = state.group.first_row + in_group;
    const uint32_t head =
        state.item.kv_head * state.shape.group + pair - in_group * state.shape.group;
    const Chunks chunks =
        chunks_of(causal_span(pass.row[row].position, args.window), args.window, args.max_chunks);
    return target_of(args, chunks, state.item, args.v_dim, row, head, column);
  }
};

// The longest run of rows from `row` on that share a slot and the length of chunks.
__device__ __forceinline__ Group group_at(const KilotokAttention& args, const KilotokPass& pass,
                                          uint32_t row, uint32_t slot_row) {
  const auto chunks_at = [&](uint32_t r) {
    return chunks_of(causal_span(pass.row[r].position, args.window), args.window, args.max_chunks);
  };
  const Chunks first = chunks_at(row);
  Group group{slot_row, row, 1, first.tiles, first.first, first.count};
  for (++row; row < pass.rows && pass.row[row].slot == pass.row[slot_row].slot; ++row) {
    const Chunks next = chunks_at(row);
    if (next.tiles != first.tiles) break;
    ++group.rows;
    group.chunks = next.first + next.count - first.first;
  }
  return group;
}

}  // namespace attention_op

__device__ __forceinline__ void attention(const KilotokAttention& args, const Block& block) {
  using namespace attention_op;
  State& state = block_state();
  const KilotokPass& pass = *block.pass;
  const Source source{args, pass, state};
  // Items are dealt out to the blocks in turn, over all groups.
  uint32_t index = block.index;
  for (uint32_t row = 0, slot_row = 0; row < pass.rows; row += state.group.rows) {
    if (pass.row[row].slot != pass.row[slot_row].slot) slot_row = row;
    sync_math();  // the group before may still be read
    if (block.thread == 0) {
      state.shape = Shape(args.heads, args.kv_heads, args.qk_dim, args.v_dim);
      state.group = group_at(args, pass, row, slot_row);
      state.items = Items(state.shape, state.group, args.kv_heads, args.v_dim);
    }
    sync_math();
#pragma unroll 1
    for (; index < state.items.count; index += block.count) {
      if (block.thread == 0) {
        const Group& group = state.group;
        state.item = state.items.at(index, state.shape, group, args.v_dim);
        const KilotokRow* rows = pass.row + group.first_row;
        const Span all{causal_span(rows[0].position, args.window).begin,
                       rows[group.rows - 1].position + 1};
        state.item.loaded = state.in_chunk(all);
        state.item.first_fresh = pass.row[group.slot_row].position;
      }
      sync_math();
      if (block.thread < MAX_PAIRS) {
        Span seen{0, 0};
        if (block.thread < state.item.pairs) {
          const uint32_t in_group = (state.item.first_pair + block.thread) / state.shape.group;
          seen = causal_span(pass.row[state.group.first_row + in_group].position, args.window);
        }
        state.seen[block.thread] = seen;
      }
      attend(block, state, source);
      sync_math();  // `state` is read to the end
    }
    index -= state.items.count;
  }
}

}  // namespace kilotok::ops
