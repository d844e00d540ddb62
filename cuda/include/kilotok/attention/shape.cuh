// How a block shares out its shared memory and its warps while it attends.
//
// Twelve warps are two *splits* of a tile's 64 keys times six *places* for 16 (row, head) pairs and
// 64 value columns each. The splits are fixed, since they decide the association of sums; places
// are not.
#pragma once

#include "kilotok/attention/chunks.cuh"
#include "kilotok/persistent/block.cuh"

namespace kilotok::attention {

inline constexpr uint32_t SPLITS = 2;
inline constexpr uint32_t SPLIT_KEYS = TILE / SPLITS;
inline constexpr uint32_t PLACES = MATH_WARPS / SPLITS;
inline constexpr uint32_t PLACE_PAIRS = 16;
inline constexpr uint32_t MAX_PAIRS = PLACES * PLACE_PAIRS;  // of an item
// What a warp can keep in registers beside everything else.
inline constexpr uint32_t PLACE_COLUMNS = 64;
// Tiles under way.
inline constexpr uint32_t MAX_BUFFERS = 3;

static_assert(SPLITS * PLACES == MATH_WARPS);

__device__ __forceinline__ uint32_t places_of_pairs(uint32_t pairs) {
  return (pairs + PLACE_PAIRS - 1) / PLACE_PAIRS;
}

// Shared memory: keys [buffers][TILE], values [buffers][TILE], queries [pairs]; a row takes whole
// lines of 128 bytes, and its 16-byte pieces p stand at p ^ (row % 8).
struct Shape {
  uint32_t group;        // query heads of a key/value head
  uint32_t depth;        // k16 steps of a score
  uint32_t columns;      // value columns of an item at most, one or two times PLACE_COLUMNS
  uint32_t key_bytes;    // of a row of keys or queries
  uint32_t value_bytes;  // of a row of values
  uint32_t places;       // of pairs, of an item at most

  Shape() = default;
  __device__ __forceinline__ Shape(uint32_t heads, uint32_t kv_heads, uint32_t qk_dim,
                                   uint32_t v_dim)
      : group(divide(heads, kv_heads)),
        depth((qk_dim + 15) / 16),
        columns(v_dim > PLACE_COLUMNS ? 2 * PLACE_COLUMNS : PLACE_COLUMNS),
        key_bytes((qk_dim + 63) / 64 * 128),
        value_bytes(2 * columns) {
    const uint32_t query_bytes = PLACE_PAIRS * key_bytes;
    if (query_bytes + tile_bytes() > SCRATCH_BYTES) narrow();
    set_places();
  }

  __device__ __forceinline__ void set_places() {
    places = min(columns == PLACE_COLUMNS ? PLACES : PLACES / 2,
                 divide((SCRATCH_BYTES - tile_bytes()) / 128, PLACE_PAIRS * key_bytes / 128));
  }

  // Fewer columns of an item.
  __device__ __forceinline__ void narrow() {
    columns = PLACE_COLUMNS;
    value_bytes = 2 * PLACE_COLUMNS;
    set_places();
  }

  __device__ __forceinline__ uint32_t tile_bytes() const {
    return TILE * (key_bytes + value_bytes);
  }
};

// Offset of a 16-byte piece of a row.
__device__ __forceinline__ uint32_t piece_offset(uint32_t row, uint32_t piece, uint32_t row_bytes) {
  return row * row_bytes + ((piece ^ (row & 7)) << 4);
}

// The address `pieces` after that of a piece, where rows are aligned to 128 bytes; `pieces` only
// has bits that the number of the piece at `address` has not.
__device__ __forceinline__ uint32_t pieces_after(uint32_t address, uint32_t pieces) {
  return (address ^ ((pieces & 7) << 4)) + (pieces >> 3 << 7);
}

// Rows of one sequence whose chunks are alike.
struct Group {
  uint32_t slot_row;  // first row of the sequence
  uint32_t first_row, rows;
  uint32_t chunk_tiles, first_chunk, chunks;
};

// What a block does at a time: some pairs and value columns of a group in one chunk. Pair p of a
// group is query head p % shape.group of its row p / shape.group.
struct Item {
  uint32_t kv_head, chunk;
  uint32_t kin;  // number of its pairs and columns, whatever the chunk, among all of the pass
  uint32_t first_pair, pairs;
  uint32_t first_column, columns;
  uint32_t buffers;
  Span loaded;           // positions whose keys are read
  uint32_t first_fresh;  // positions from here on are in no cache before they are made
};

// The items of a group.
struct Items {
  uint32_t count, first_kin;
  uint32_t places_each, pair_parts, column_parts;

  Items() = default;
  // `blocks`: that the group has to itself, about. Columns, then pairs, go to blocks of their own
  // while there are some without work.
  __device__ __forceinline__ Items(Shape& shape, const Group& group, uint32_t kv_heads,
                                   uint32_t v_dim, uint32_t blocks, uint32_t kin) {
    const uint32_t places = places_of_pairs(group.rows * shape.group);
    const uint32_t narrow = (v_dim + PLACE_COLUMNS - 1) / PLACE_COLUMNS;
    if (shape.columns > PLACE_COLUMNS && kv_heads * group.chunks * narrow <= blocks) shape.narrow();
    column_parts = shape.columns == PLACE_COLUMNS ? narrow : (narrow + 1) / 2;
    const uint32_t others = kv_heads * group.chunks * column_parts;
    const uint32_t parts = max(ceil_div(places, shape.places), min(places, divide(blocks, others)));
    places_each = ceil_div(places, parts);
    pair_parts = ceil_div(places, places_each);
    count = others * pair_parts;
    first_kin = kin;
  }

  // The first number of the next group's.
  __device__ __forceinline__ uint32_t end_kin(uint32_t kv_heads) const {
    return first_kin + kv_heads * column_parts * pair_parts;
  }

  // All but the positions; items that read the same keys stand together.
  __device__ __forceinline__ Item at(uint32_t index, const Shape& shape, const Group& group,
                                     uint32_t v_dim) const {
    Item item{};
    const uint32_t without_pairs = divide(index, pair_parts);
    const uint32_t pair_part = index - without_pairs * pair_parts;
    const uint32_t without_columns = divide(without_pairs, column_parts);
    const uint32_t column_part = without_pairs - without_columns * column_parts;
    item.kv_head = divide(without_columns, group.chunks);
    item.chunk = group.first_chunk + without_columns - item.kv_head * group.chunks;
    item.kin = first_kin + (item.kv_head * column_parts + column_part) * pair_parts + pair_part;
    const uint32_t most = places_each * PLACE_PAIRS;
    item.first_pair = pair_part * most;
    item.pairs = min(most, group.rows * shape.group - item.first_pair);
    item.first_column = column_part * shape.columns;
    item.columns = min(shape.columns, v_dim - item.first_column);
    const uint32_t query_bytes = places_of_pairs(item.pairs) * PLACE_PAIRS * shape.key_bytes;
    item.buffers = 1;
#pragma unroll
    for (uint32_t more = 2; more <= MAX_BUFFERS; ++more) {
      if (query_bytes + more * shape.tile_bytes() <= SCRATCH_BYTES) item.buffers = more;
    }
    return item;
  }
};

// What is to be done with a pair.
struct Pair {
  Span seen;
  Chunks chunks;  // of its row
  uint32_t slot;  // of the first partial result
  uint32_t out;   // first element of its complete result
  float sink;     // in log2; -infinity: none
};

// What the threads of a block know of the item at hand, in shared memory: in registers it would
// crowd out the sums.
struct State {
  Shape shape;
  Group group;
  Items items;
  Item item;
  Chunks chunks[KILOTOK_ROWS];  // of the group's rows
  Pair pair[MAX_PAIRS];         // of the item
  uint32_t is_last;             // nobody else has results of the item's kin to write

  // Offsets in shared memory.
  __device__ __forceinline__ uint32_t values() const {
    return item.buffers * TILE * shape.key_bytes;
  }
  __device__ __forceinline__ uint32_t queries() const { return item.buffers * shape.tile_bytes(); }

  // The part of `all` that lies in the item's chunk.
  __device__ __forceinline__ Span in_chunk(const Span& all) const {
    // An only chunk has any length.
    if (group.chunks == 1) return all;
    const uint32_t positions = group.chunk_tiles * TILE;
    return {max(all.begin, item.chunk * positions), min(all.end, (item.chunk + 1) * positions)};
  }

  // The first positions of a tile of the item, counted from its first one.
  __device__ __forceinline__ uint32_t tile_begin(uint32_t step) const {
    return (item.loaded.begin / TILE + step) * TILE;
  }
  // Fresh positions before this one are put into shared memory as they are made, those behind it
  // are read back.
  __device__ __forceinline__ uint32_t buffered() const { return tile_begin(item.buffers); }
};

// The block's one.
__device__ __forceinline__ State& block_state() {
  __shared__ State state;
  return state;
}

}  // namespace kilotok::attention
