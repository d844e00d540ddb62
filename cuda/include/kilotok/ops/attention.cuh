// Op attention: rotates queries and keys, scales values, writes keys and values into the cache, and
// attends causally.
//
// in:     args.qkv [rows, qkv_stride] f32 = all queries, all keys, all values; args.rotations
//         cache: args.keys, args.values, bf16, positions before the pass's rows
// out:    args.out [rows, heads * v_dim] bf16. Keys and values of the rows in the cache.
// bytes:  per group of rows, once for 96 (row, head) pairs where heads are small, 48 for 192 / 128:
//         positions * kv_heads * (qk_dim + v_dim) * 2; partial results in args.scratch
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
  State& state;

  __device__ __forceinline__ float factor() const { return args.scale * LOG2_E; }
  __device__ __forceinline__ uint32_t key_pieces() const { return args.qk_dim / 8; }
  __device__ __forceinline__ uint32_t place(uint32_t at) const {
    const auto* table = reinterpret_cast<const uint32_t*>(args.page_table);
    const uint32_t page = divide(at, args.positions);
    uint32_t block = pass.row[state.group.slot_row].slot;
    if (table != nullptr) block = __ldcg(table + block * args.max_pages + page);
    return (block * args.kv_heads + state.item.kv_head) * args.positions +
           (at - page * args.positions);
  }
  // Of a key (part 0) or value (part 1).
  __device__ __forceinline__ uint16_t* address(uint32_t part, uint32_t where) const {
    return reinterpret_cast<uint16_t*>(part == 0 ? args.keys : args.values) +
           static_cast<uint64_t>(where) * (part == 0 ? args.qk_dim : args.v_dim);
  }

  // Eight elements per thread and turn: of queries, of fresh keys, of fresh values.
  __device__ __forceinline__ void prepare(const Block& block, uint8_t* scratch) const {
    const Item& item = state.item;
    const Shape& shape = state.shape;
    // Rows of the slot whose keys this item reads.
    const uint32_t begin = max(item.loaded.begin, item.first_fresh);
    const uint32_t fresh = item.loaded.end > begin ? item.loaded.end - begin : 0;
    const uint32_t fresh_row = state.group.slot_row + (begin - item.first_fresh);
    const uint32_t key_pieces = 2 * shape.depth, value_pieces = item.columns / 8;
    const uint32_t num_queries = item.pairs * key_pieces, num_keys = fresh * key_pieces;
    const uint32_t total = num_queries + num_keys + fresh * value_pieces;
    // Pairs are filled in by those who have least to do below, and their sinks, which come from
    // far, are waited for last.
    const bool has_pair = block.thread >= MATH_THREADS - MAX_PAIRS;
    const uint32_t index = block.thread - (MATH_THREADS - MAX_PAIRS);
    uint32_t sink = 0;
    if (has_pair) {
      Pair pair{};
      if (index < item.pairs) {
        const uint32_t in_group = divide(item.first_pair + index, shape.group);
        const uint32_t row = state.group.first_row + in_group;
        const uint32_t head =
            item.kv_head * shape.group + item.first_pair + index - in_group * shape.group;
        pair = pair_of(args, partials(), row, head,
                       causal_span(pass.row[row].position, args.window), state.chunks[in_group]);
      }
      sink = __float_as_uint(pair.sink);
      asm volatile("" : "+r"(sink));
      pair.sink = 0.0f;
      state.pair[index] = pair;
    }
#pragma unroll 1
    for (uint32_t i = block.thread; i < total; i += MATH_THREADS) {
      const bool is_query = i < num_queries, is_value = i >= num_queries + num_keys;
      const uint32_t unit = i - (is_query ? 0 : is_value ? num_queries + num_keys : num_queries);
      const uint32_t pieces = is_value ? value_pieces : key_pieces;
      const uint32_t which = divide(unit, pieces), piece = unit - which * pieces;
      const uint32_t pair = item.first_pair + which, pair_row = divide(pair, shape.group);
      const uint32_t row = is_query ? state.group.first_row + pair_row : fresh_row + which;
      uint32_t head = item.kv_head * shape.group + pair - pair_row * shape.group;
      if (!is_query) head = args.heads + item.kv_head;
      uint32_t offset = head * args.qk_dim, dim = args.qk_dim, first = 8 * piece;
      if (is_value) {
        offset = (args.heads + args.kv_heads) * args.qk_dim + item.kv_head * args.v_dim;
        dim = args.v_dim;
        first += item.first_column;
      }
      uint4 packed{};
      if (first < dim) {
        packed = rotate_eight(reinterpret_cast<const float*>(args.qkv) +
                                  static_cast<uint64_t>(row) * args.qkv_stride + offset,
                              reinterpret_cast<const float2*>(args.rotations) + row * args.pairs,
                              is_value ? 0 : args.pairs, first, is_value ? args.value_scale : 1.0f);
      }
      // Rows of all queries, of buffered keys, of buffered values.
      const uint32_t at = begin + which;
      uint32_t to = is_query ? state.queries() : is_value ? state.values() : 0;
      to += piece_offset(is_query ? which : at - state.tile_begin(0), piece,
                         is_value ? shape.value_bytes : shape.key_bytes);
      if (is_query || at < state.buffered()) *reinterpret_cast<uint4*>(scratch + to) = packed;
      if (!is_query && first < dim) {
        *reinterpret_cast<uint4*>(address(is_value, place(at)) + first) = packed;
      }
    }
    if (has_pair) state.pair[index].sink = __uint_as_float(sink) * LOG2_E;
  }

  __device__ __forceinline__ Partials partials() const {
    return Partials(args.scratch, args.heads, args.v_dim, args.max_chunks);
  }
  __device__ __forceinline__ uint16_t* out() const { return reinterpret_cast<uint16_t*>(args.out); }
};

// The longest run of rows from `row` on that share a slot and the length of chunks, and the chunks
// of each. By a warp.
__device__ __forceinline__ void begin_group(const KilotokAttention& args, const KilotokPass& pass,
                                            State& state, uint32_t row, uint32_t slot_row,
                                            uint32_t lane) {
  const KilotokRow& own = pass.row[min(row + lane, pass.rows - 1)];
  const Chunks chunks =
      chunks_of(causal_span(own.position, args.window), args.window, args.max_chunks);
  const uint32_t first = __shfl_sync(0xFFFFFFFFu, chunks.first, 0);
  const uint32_t tiles = __shfl_sync(0xFFFFFFFFu, chunks.tiles, 0);
  const bool is_alike =
      row + lane < pass.rows && own.slot == pass.row[slot_row].slot && chunks.tiles == tiles;
  const uint32_t rows = __ffs(~__ballot_sync(0xFFFFFFFFu, is_alike)) - 1;
  const uint32_t end = __shfl_sync(0xFFFFFFFFu, chunks.first + chunks.count, rows - 1);
  if (lane < rows) state.chunks[lane] = chunks;
  if (lane == 0) state.group = {slot_row, row, rows, tiles, first, end - first};
}

// Item `index` of the group. By one thread.
__device__ __forceinline__ void begin_item(const KilotokAttention& args, const KilotokPass& pass,
                                           State& state, uint32_t index) {
  const Group& group = state.group;
  state.item = state.items.at(index, state.shape, group, args.v_dim);
  const KilotokRow* rows = pass.row + group.first_row;
  state.item.loaded = state.in_chunk(
      {causal_span(rows[0].position, args.window).begin, rows[group.rows - 1].position + 1});
  state.item.first_fresh = pass.row[group.slot_row].position;
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
    if (block.warp == 0) {
      begin_group(args, pass, state, row, slot_row, block.lane);
      __syncwarp();
    }
#pragma unroll 1
    for (bool is_first = true;; is_first = false) {
      if (block.warp == 0) {
        if (is_first && block.lane == 0) {
          Shape shape(args.heads, args.kv_heads, args.qk_dim, args.v_dim);
          const uint32_t blocks = divide(block.count * state.group.rows, pass.rows);
          const uint32_t kin = row == 0 ? 0 : state.items.end_kin(args.kv_heads);
          state.items = Items(shape, state.group, args.kv_heads, args.v_dim, blocks, kin);
          state.shape = shape;
        }
        if (block.lane == 0 && index < state.items.count) begin_item(args, pass, state, index);
      }
      sync_math();
      if (index >= state.items.count) break;
      attend(block, state, source);
      index += block.count;
      sync_math();  // `state` is read to the end
    }
    index -= state.items.count;
  }
}

}  // namespace kilotok::ops
