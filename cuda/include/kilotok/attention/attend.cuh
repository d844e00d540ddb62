// Attention of some (row, head) pairs over one chunk of positions: the loop under `attention` and
// `draft_attention`.
//
// Keys and values come through L2 by asynchronous copies, 32 positions per split and turn. A warp
// multiplies its 16 pairs by its split's 32 keys (mma.sync, bf16, fp32 sums), keeps a running
// maximum and sum per pair, and adds the weighted values to sums in registers; at the end the two
// splits are merged. Warps with other columns of the same pairs do the scores again. What a pair's
// sums are made of and in which order depends on the positions alone: a tile that a pair does not
// see changes no bit of it. Results of chunks are put together by the block that finishes last.
//
// The op is short, and most of its code runs once: every instruction is fetched for the first time
// and takes longer to come than to run. So nothing stands here twice that can be a turn of a loop.
#pragma once

#include "kilotok/attention/merge.cuh"
#include "kilotok/attention/tile.cuh"
#include "kilotok/ptx/async_copy.cuh"
#include "kilotok/ptx/named_barrier.cuh"
#include "kilotok/ptx/shared.cuh"

namespace kilotok::attention {

// No place, and that of a position which prepare() puts into shared memory.
inline constexpr uint32_t NOWHERE = 0xFFFFFFFFu;
inline constexpr uint32_t FRESH = 0xFFFFFFFEu;
// Named barriers of the splits; 0 and 1 are the block's.
inline constexpr uint32_t SPLIT_BARRIER = 8;

// Waits for the warps of a split.
__device__ __forceinline__ void sync_split(uint32_t split) {
  ptx::named_barrier(SPLIT_BARRIER + split, 32 * PLACES);
}

// Waits until at most `count` groups of copies, up to MAX_BUFFERS - 1, are under way.
__device__ __forceinline__ void wait_for_copies(uint32_t count) {
  if (count == 0) {
    ptx::async_copy_wait<0>();
  } else if (count == 1) {
    ptx::async_copy_wait<1>();
  } else {
    ptx::async_copy_wait<2>();
  }
}

// Pair of row `row` of the pass and head `head` of all query heads; `Args` of either attention op.
template <typename Args>
__device__ __forceinline__ Pair pair_of(const Args& args, const Partials& partials, uint32_t row,
                                        uint32_t head, const Span& seen, const Chunks& chunks) {
  float sink = -INFINITY;
  if (args.sinks != 0) sink = __ldg(reinterpret_cast<const float*>(args.sinks) + head);
  return {seen, chunks, partials.slot(row, head), row * args.out_stride + head * partials.v_dim,
          sink};
}

// Writes pair `half` of a lane's two from column `column` of the item on.
__device__ __forceinline__ void write(const Sums& sums, const State& state, uint32_t index,
                                      uint32_t half, uint32_t column, uint32_t columns,
                                      const Partials& partials, uint16_t* out) {
  const Pair& pair = state.pair[index];
  const uint32_t chunk = state.item.chunk - pair.chunks.first;
  // Other rows of a group may have more chunks.
  if (index >= state.item.pairs || chunk >= pair.chunks.count) return;
  const uint32_t first = state.item.first_column + column;
  if (pair.chunks.count == 1) {
    sums.finish(out + pair.out + first, pair.sink, half, columns);
    return;
  }
  const uint32_t slot = pair.slot + chunk;
  sums.leave(partials.sums + static_cast<uint64_t>(slot) * partials.v_dim + first, half, columns);
  if (column == 0) {
    partials.weights_of(state.item.first_column / PLACE_COLUMNS)[slot] =
        make_float2(sums.top[half], sums.weight[half]);
  }
}

// A warp's part in one item.
template <typename Source>
struct Worker {
  const State& state;  // in shared memory
  const Source& source;
  uint32_t scratch;  // shared address
  uint32_t lane, split, place;

  // The place's pairs, and its first column in the item.
  __device__ __forceinline__ uint32_t first_pair() const {
    return (state.shape.columns == PLACE_COLUMNS ? place : place / 2) * PLACE_PAIRS;
  }
  __device__ __forceinline__ uint32_t first_column() const {
    return state.shape.columns == PLACE_COLUMNS ? 0 : place % 2 * PLACE_COLUMNS;
  }
  __device__ __forceinline__ uint32_t columns() const {
    return min(PLACE_COLUMNS, state.item.columns - first_column());
  }
  __device__ __forceinline__ bool is_active() const {
    return first_pair() < state.item.pairs && first_column() < state.item.columns;
  }

  __device__ __forceinline__ Worker(const Block& block, const State& item_state,
                                    const Source& item_source)
      : state(item_state),
        source(item_source),
        scratch(ptx::shared_address(block.scratch)),
        lane(block.lane),
        split(block.warp % SPLITS),
        place(block.warp / SPLITS) {}

  // Lane l knows where key l of the split in step `step` is.
  __device__ __forceinline__ uint32_t places_of(uint32_t step) const {
    const uint32_t at = state.tile_begin(step) + split * SPLIT_KEYS + lane;
    if (at < state.item.loaded.begin || at >= state.item.loaded.end) return NOWHERE;
    return at >= state.item.first_fresh && step < state.item.buffers ? FRESH : source.place(at);
  }

  // The split's warps copy its keys and values, four rows at a time and 128 bytes wide.
  __device__ __forceinline__ void copy(uint32_t buffer, uint32_t from) const {
    uint32_t to = scratch, row_bytes = state.shape.key_bytes, pieces = source.key_pieces();
    uint32_t column = 0;
#pragma unroll 1
    for (uint32_t part = 0; part < 2; ++part) {
      const uint32_t rows = to + (buffer * SPLITS + split) * SPLIT_KEYS * row_bytes;
#pragma unroll 1
      for (uint32_t i = place; i < row_bytes / 128 * (SPLIT_KEYS / 4); i += PLACES) {
        const uint32_t row = i % (SPLIT_KEYS / 4) * 4 + lane / 8;
        const uint32_t piece = i / (SPLIT_KEYS / 4) * 8 + lane % 8;
        const uint32_t where = __shfl_sync(0xFFFFFFFFu, from, row);
        const bool is_there = where < FRESH && piece < pieces;
        if (where != FRESH) {
          ptx::async_copy_16(
              rows + piece_offset(row, piece, row_bytes),
              source.address(part, is_there ? where : 0) + (is_there ? column + 8 * piece : 0),
              is_there);
        }
      }
      to = scratch + state.values();
      row_bytes = state.shape.value_bytes;
      pieces = state.item.columns / 8;
      column = state.item.first_column;
    }
    ptx::async_copy_commit();
  }

  __device__ __forceinline__ void run(const Block& block, Sums& sums) {
    const uint32_t steps = (state.item.loaded.end - state.tile_begin(0) + TILE - 1) / TILE;
    // Where the rows of a tile are is asked for a turn before they are.
    uint32_t asked = 0, from = NOWHERE, filled = 0, buffer = 0;
    // Warps without pairs go through the products once, of whatever stands there, while the others
    // wait for copies: what they execute is near when it is needed.
    bool is_rehearsal = !is_active(), was_rehearsal;
#pragma unroll 1
    for (uint32_t step = 0;; ++step) {
      // Whatever is made of these is made anew in every step, not kept in registers.
      asm volatile("" : "+r"(lane), "+r"(split), "+r"(place), "+r"(scratch));
      const uint32_t ahead = min(step + state.item.buffers, steps);
#pragma unroll 1
      for (; asked <= ahead; ++asked) {
        const uint32_t next = places_of(asked);
        if (asked > 0) {
          copy(filled, from);
          filled = filled + 1 == state.item.buffers ? 0 : filled + 1;
        }
        from = next;
      }
      if (step == 0) source.prepare(block, block.scratch);
      do {
        if (!is_rehearsal) {
          wait_for_copies(ahead - step - 1);
          if (step == 0) {
            sync_math();
          } else {
            sync_split(split);
          }
        }
        const uint32_t first = state.tile_begin(step) + split * SPLIT_KEYS;
        if (is_rehearsal || (is_active() && first < state.item.loaded.end &&
                             first + SPLIT_KEYS > state.item.loaded.begin)) {
          float score[KEY_TILES][4];
          uint32_t weights[KEY_STEPS][4];
          float correction[2];
          const uint32_t rows = (buffer * SPLITS + split) * SPLIT_KEYS;
          const uint32_t pairs = is_rehearsal ? 0 : first_pair();
          const uint32_t column = is_rehearsal ? 0 : first_column();
          scores(score, scratch + state.queries() + pairs * state.shape.key_bytes,
                 scratch + rows * state.shape.key_bytes, is_rehearsal ? 1 : state.shape.depth,
                 state.shape.key_bytes, lane);
          weigh(sums, score, state.pair + pairs + lane / 4, first, source.factor(), weights,
                correction, lane);
          add_values(sums, weights, correction,
                     scratch + state.values() + rows * state.shape.value_bytes + 2 * column,
                     min(PLACE_COLUMNS, state.item.columns - column), state.shape.value_bytes,
                     lane);
        }
        was_rehearsal = is_rehearsal;
        is_rehearsal = false;
      } while (was_rehearsal);
      if (step + 1 == steps) break;
      if (ahead < steps) sync_split(split);  // the buffer is filled anew
      buffer = buffer + 1 == state.item.buffers ? 0 : buffer + 1;
    }
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      sums.weight[half] += __shfl_xor_sync(0xFFFFFFFFu, sums.weight[half], 1);
      sums.weight[half] += __shfl_xor_sync(0xFFFFFFFFu, sums.weight[half], 2);
    }
  }
};

// One item: `state` is complete but for its pairs. `Source` has
//   uint32_t place(position)     where its key and value are, below FRESH
//   address(part, place)         of its key (0) or value (1)
//   uint32_t key_pieces()        16-byte pieces of a key
//   float factor()               of scores, to log2
//   prepare(block, scratch)      fills in the pairs, puts queries and what is fresh into shared
//                                memory, writes fresh keys and values
//   Partials partials(), uint16_t* out()
template <typename Source>
__device__ __forceinline__ void attend(const Block& block, State& state, const Source& source) {
  Worker<Source> worker(block, state, source);
  Sums sums;
  sums.clear();
  worker.run(block, sums);

  const uint32_t tiles = 2 * ((worker.columns() + 15) / 16);
  float4* other =
      reinterpret_cast<float4*>(block.scratch) + worker.place * (PLACE_COLUMNS / 8 + 1) * 32;
  const bool is_active = worker.is_active();
  sync_math();
  if (is_active && worker.split == 1) sums.store(other, tiles, worker.lane);
  sync_math();
  if (is_active && worker.split == 0) {
    sums.merge(other, tiles, worker.lane);
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      write(sums, state, worker.first_pair() + worker.lane / 4 + 8 * half, half,
            worker.first_column() + 2 * (worker.lane % 4), worker.columns(), source.partials(),
            source.out());
    }
  }
  merge(block, state, source.partials(), source.out());
}

}  // namespace kilotok::attention
