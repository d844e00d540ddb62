// Attention of some (row, head) pairs over one chunk of positions: the loop under `attention` and
// `draft_attention`.
//
// Keys and values come through L2 by asynchronous copies, 32 positions per split and turn. A warp
// multiplies its 16 pairs by its split's 32 keys (mma.sync, bf16, fp32 sums), keeps a running
// maximum and sum per pair, and adds the weighted values to sums in registers; at the end the two
// splits are merged. Warps with other columns of the same pairs do the scores again. What a pair's
// sums are made of and in which order depends on the positions alone: a tile that a pair does not
// see changes no bit of it.
#pragma once

#include "kilotok/attention/shape.cuh"
#include "kilotok/format/bf16.cuh"
#include "kilotok/mma/bf16.cuh"
#include "kilotok/ptx/async_copy.cuh"
#include "kilotok/ptx/matrix_load.cuh"
#include "kilotok/ptx/named_barrier.cuh"
#include "kilotok/ptx/shared.cuh"

namespace kilotok::attention {

// A position that is not to be read.
inline constexpr uint32_t NOWHERE = 0xFFFFFFFFu;
// Below any score, and finite, so that differences are numbers.
inline constexpr float LOWEST = -1e30f;
inline constexpr float LOG2_E = 1.4426950408889634f;
// Named barriers of the splits; 0 and 1 are the block's.
inline constexpr uint32_t SPLIT_BARRIER = 8;

// Waits for the warps of a split.
__device__ __forceinline__ void sync_split(uint32_t split) {
  ptx::named_barrier(SPLIT_BARRIER + split, 32 * PLACES);
}

// Waits until the oldest of 2 * buffers groups of copies has landed.
__device__ __forceinline__ void wait_for_oldest(uint32_t buffers) {
  if (buffers == 1) {
    ptx::async_copy_wait<1>();
  } else if (buffers == 2) {
    ptx::async_copy_wait<3>();
  } else {
    ptx::async_copy_wait<5>();
  }
}

// Where the result of a pair goes: to `out` if it is complete, else to `sums` and `weights`, or
// nowhere.
struct Target {
  uint16_t* out;
  float* sums;
  float2* weights;
  float sink;  // in log2; -infinity: none
};

// For `Args` of either attention op.
template <typename Args>
__device__ __forceinline__ Target target_of(const Args& args, const Chunks& chunks,
                                            const Item& item, uint32_t v_dim, uint32_t row,
                                            uint32_t head, uint32_t column) {
  Target to{nullptr, nullptr, nullptr, -INFINITY};
  // Other rows of a group may have more chunks.
  const uint32_t chunk = item.chunk - chunks.first;
  if (chunk >= chunks.count) return to;
  if (chunks.count == 1) {
    to.out = reinterpret_cast<uint16_t*>(args.out) + static_cast<uint64_t>(row) * args.out_stride +
             head * v_dim + column;
    if (args.sinks != 0) {
      to.sink = __ldg(reinterpret_cast<const float*>(args.sinks) + head) * LOG2_E;
    }
  } else {
    const Partials partials(args.scratch, args.heads, v_dim, args.max_chunks);
    const uint32_t slot = partials.slot(row, head, chunk);
    to.sums = partials.sums + static_cast<uint64_t>(slot) * v_dim + column;
    to.weights = partials.weights + slot;
  }
  return to;
}

// Sums of a warp: the pairs lane / 4 and lane / 4 + 8 of its place, columns 8 n + 2 (lane % 4) and
// the one after it.
struct Sums {
  float value[PLACE_COLUMNS / 8][4];
  float top[2];
  float weight[2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (uint32_t n = 0; n < PLACE_COLUMNS / 8; ++n) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) value[n][i] = 0.0f;
    }
    top[0] = top[1] = LOWEST;
    weight[0] = weight[1] = 0.0f;
  }

  // `to`: [n][32 lanes] of 16 bytes.
  __device__ __forceinline__ void store(float4* to, uint32_t tiles, uint32_t lane) const {
#pragma unroll
    for (uint32_t n = 0; n < PLACE_COLUMNS / 8; ++n) {
      if (n < tiles) {
        to[n * 32 + lane] = make_float4(value[n][0], value[n][1], value[n][2], value[n][3]);
      }
    }
    to[tiles * 32 + lane] = make_float4(top[0], top[1], weight[0], weight[1]);
  }

  __device__ __forceinline__ void merge(const float4* from, uint32_t tiles, uint32_t lane) {
    const float4 other = from[tiles * 32 + lane];
    const float top0 = fmaxf(top[0], other.x), top1 = fmaxf(top[1], other.y);
    const float own0 = exp2f(top[0] - top0), own1 = exp2f(top[1] - top1);
    const float its0 = exp2f(other.x - top0), its1 = exp2f(other.y - top1);
    top[0] = top0;
    top[1] = top1;
    weight[0] = fmaf(weight[0], own0, other.z * its0);
    weight[1] = fmaf(weight[1], own1, other.w * its1);
#pragma unroll
    for (uint32_t n = 0; n < PLACE_COLUMNS / 8; ++n) {
      if (n < tiles) {
        const float4 v = from[n * 32 + lane];
        value[n][0] = fmaf(value[n][0], own0, v.x * its0);
        value[n][1] = fmaf(value[n][1], own0, v.y * its0);
        value[n][2] = fmaf(value[n][2], own1, v.z * its1);
        value[n][3] = fmaf(value[n][3], own1, v.w * its1);
      }
    }
  }

  // Pair `half` of the lane's two.
  __device__ __forceinline__ void finish(const Target& to, uint32_t half, uint32_t columns,
                                         bool is_first_column, uint32_t lane) const {
    const uint32_t column = 2 * (lane % 4);
    if (to.out != nullptr) {
      const float most = fmaxf(top[half], to.sink);
      const float own = exp2f(top[half] - most);
      const float factor = own / fmaf(weight[half], own, exp2f(to.sink - most));
#pragma unroll
      for (uint32_t n = 0; n < PLACE_COLUMNS / 8; ++n) {
        if (8 * n < columns) {
          *reinterpret_cast<uint32_t*>(to.out + 8 * n + column) =
              bf16::pack(value[n][2 * half] * factor, value[n][2 * half + 1] * factor);
        }
      }
    } else if (to.sums != nullptr) {
#pragma unroll
      for (uint32_t n = 0; n < PLACE_COLUMNS / 8; ++n) {
        if (8 * n < columns) {
          *reinterpret_cast<float2*>(to.sums + 8 * n + column) =
              make_float2(value[n][2 * half], value[n][2 * half + 1]);
        }
      }
      if (is_first_column && lane % 4 == 0) *to.weights = make_float2(top[half], weight[half]);
    }
  }
};

inline constexpr uint32_t KEY_TILES = SPLIT_KEYS / 8;   // n8 tiles of scores
inline constexpr uint32_t KEY_STEPS = SPLIT_KEYS / 16;  // k16 steps of weighted values

// Scores of a place's pairs with a split's keys: [n8 tile][fragment register].
__device__ __forceinline__ void scores(float (&to)[KEY_TILES][4], uint32_t queries, uint32_t keys,
                                       uint32_t depth, uint32_t row_bytes, uint32_t lane) {
#pragma unroll
  for (uint32_t n = 0; n < KEY_TILES; ++n) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) to[n][i] = 0.0f;
  }
  queries += piece_offset(lane % 16, lane / 16, row_bytes);
  keys += piece_offset(lane % 8 + lane / 16 * 8, lane / 8 % 2, row_bytes);
#pragma unroll 2
  for (uint32_t k = 0; k < depth; ++k) {
    uint32_t a[4];
    ptx::load_matrices(a, pieces_after(queries, 2 * k));
#pragma unroll
    for (uint32_t n = 0; n < KEY_TILES; n += 2) {
      uint32_t b[4];
      ptx::load_matrices(b, pieces_after(keys + n * 8 * row_bytes, 2 * k));
      mma::m16n8k16(to[n], a, b[0], b[1], to[n]);
      mma::m16n8k16(to[n + 1], a, b[2], b[3], to[n + 1]);
    }
  }
}

// Scores of the keys from `position` on to weights, in log2: `weights` are the A fragments of the
// product with the values, `correction` is what older sums of the two pairs are worth now. `seen`:
// of the lane's first pair.
__device__ __forceinline__ void weigh(Sums& sums, float (&score)[KEY_TILES][4], const Span* seen,
                                      uint32_t position, float factor,
                                      uint32_t (&weights)[KEY_STEPS][4], float (&correction)[2],
                                      uint32_t lane) {
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    const Span span = seen[8 * half];
    float top = sums.top[half];
#pragma unroll
    for (uint32_t n = 0; n < KEY_TILES; ++n) {
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        const uint32_t at = position + 8 * n + 2 * (lane % 4) + i;
        float& value = score[n][2 * half + i];
        value = at >= span.begin && at < span.end ? value * factor : -INFINITY;
        top = fmaxf(top, value);
      }
    }
    top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, 2));
    correction[half] = exp2f(sums.top[half] - top);
    sums.top[half] = top;
    float weight = 0.0f;
#pragma unroll
    for (uint32_t n = 0; n < KEY_TILES; ++n) {
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        float& value = score[n][2 * half + i];
        value = exp2f(value - top);
        weight += value;
      }
      weights[n / 2][n % 2 * 2 + half] = bf16::pack(score[n][2 * half], score[n][2 * half + 1]);
    }
    sums.weight[half] = fmaf(sums.weight[half], correction[half], weight);
  }
}

// sums = sums * correction + weights * values. The product is complete before it is added: fused
// into one sum, its rounding would be the tensor core's.
__device__ __forceinline__ void add_values(Sums& sums, const uint32_t (&weights)[KEY_STEPS][4],
                                           const float (&correction)[2], uint32_t values,
                                           uint32_t columns, uint32_t row_bytes, uint32_t lane) {
  values += piece_offset(lane % 16, lane / 16, row_bytes);
#pragma unroll
  for (uint32_t n = 0; n < PLACE_COLUMNS / 8; n += 2) {
    if (8 * n < columns) {
      float part[2][4] = {};
#pragma unroll
      for (uint32_t k = 0; k < KEY_STEPS; ++k) {
        uint32_t b[4];
        ptx::load_matrices_transposed(b, pieces_after(values + k * 16 * row_bytes, n));
        mma::m16n8k16(part[0], weights[k], b[0], b[1], part[0]);
        mma::m16n8k16(part[1], weights[k], b[2], b[3], part[1]);
      }
#pragma unroll
      for (uint32_t m = 0; m < 2; ++m) {
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
          sums.value[n + m][i] = fmaf(sums.value[n + m][i], correction[i / 2], part[m][i]);
        }
      }
    }
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

  // First position of the split's keys in step `step`.
  __device__ __forceinline__ uint32_t position(uint32_t step) const {
    return (state.item.loaded.begin / TILE + step) * TILE + split * SPLIT_KEYS;
  }
  // Lane l knows where key l of a step is.
  __device__ __forceinline__ uint32_t places_of(uint32_t step) const {
    const uint32_t at = position(step) + lane;
    const Span loaded = state.item.loaded;
    return at < loaded.begin || at >= loaded.end ? NOWHERE : source.place(at);
  }
  __device__ __forceinline__ uint32_t keys(uint32_t buffer) const {
    return scratch + (buffer * SPLITS + split) * SPLIT_KEYS * state.shape.key_bytes;
  }
  __device__ __forceinline__ uint32_t values(uint32_t buffer) const {
    return scratch + state.values() +
           (buffer * SPLITS + split) * SPLIT_KEYS * state.shape.value_bytes;
  }
  __device__ __forceinline__ uint32_t queries() const {
    return scratch + state.queries() + first_pair() * state.shape.key_bytes;
  }

  // The split's warps copy 32 rows of `pieces` 16-byte pieces, four at a time and 128 bytes wide.
  template <typename Address>
  __device__ __forceinline__ void copy(uint32_t to, uint32_t row_bytes, uint32_t pieces,
                                       uint32_t from, const Address& address) const {
#pragma unroll 1
    for (uint32_t i = place; i < row_bytes / 128 * (SPLIT_KEYS / 4); i += PLACES) {
      const uint32_t row = i % (SPLIT_KEYS / 4) * 4 + lane / 8;
      const uint32_t piece = i / (SPLIT_KEYS / 4) * 8 + lane % 8;
      const uint32_t where = __shfl_sync(0xFFFFFFFFu, from, row);
      const bool is_there = where != NOWHERE && piece < pieces;
      ptx::async_copy_16(to + piece_offset(row, piece, row_bytes),
                         address(is_there ? where : 0) + (is_there ? 8 * piece : 0), is_there);
    }
    ptx::async_copy_commit();
  }
  __device__ __forceinline__ void copy_keys(uint32_t buffer, uint32_t from) const {
    copy(keys(buffer), state.shape.key_bytes, source.key_pieces(), from,
         [&](uint32_t where) { return source.key(where); });
  }
  __device__ __forceinline__ void copy_values(uint32_t buffer, uint32_t from) const {
    const uint32_t column = state.item.first_column;
    copy(values(buffer), state.shape.value_bytes, state.item.columns / 8, from,
         [&](uint32_t where) { return source.value(where) + column; });
  }
  // Fills all buffers; where the next rows are is asked for before it is needed.
  __device__ __forceinline__ void copy_first() const {
    uint32_t from = places_of(0), next = places_of(1);
#pragma unroll 1
    for (uint32_t i = 0; i < state.item.buffers; ++i) {
      copy_keys(i, from);
      copy_values(i, from);
      from = next;
      next = places_of(i + 2);
    }
  }

  __device__ __forceinline__ void run(Sums& sums) {
    uint32_t buffer = 0, from = places_of(state.item.buffers);
#pragma unroll 1
    for (uint32_t step = 0; position(step) - split * SPLIT_KEYS < state.item.loaded.end; ++step) {
      // Whatever is made of these is made anew in every step, not kept in registers.
      asm volatile("" : "+r"(lane), "+r"(split), "+r"(place), "+r"(scratch));
      const uint32_t first = position(step);
      const bool is_used = is_active() && first < state.item.loaded.end &&
                           first + SPLIT_KEYS > state.item.loaded.begin;
      float score[KEY_TILES][4];
      uint32_t weights[KEY_STEPS][4];
      float correction[2];
      wait_for_oldest(state.item.buffers);
      sync_split(split);
      if (is_used) {
        scores(score, queries(), keys(buffer), state.shape.depth, state.shape.key_bytes, lane);
      }
      sync_split(split);
      copy_keys(buffer, from);
      if (is_used) {
        weigh(sums, score, state.seen + first_pair() + lane / 4, first, source.factor(), weights,
              correction, lane);
      }
      wait_for_oldest(state.item.buffers);
      sync_split(split);
      if (is_used) {
        add_values(sums, weights, correction, values(buffer) + 2 * first_column(), columns(),
                   state.shape.value_bytes, lane);
      }
      sync_split(split);
      copy_values(buffer, from);
      from = places_of(step + 1 + state.item.buffers);
      if (++buffer == state.item.buffers) buffer = 0;
    }
    ptx::async_copy_wait<0>();
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      sums.weight[half] += __shfl_xor_sync(0xFFFFFFFFu, sums.weight[half], 1);
      sums.weight[half] += __shfl_xor_sync(0xFFFFFFFFu, sums.weight[half], 2);
    }
  }
};

// One item: `state` is complete. `Source` has
//   uint32_t place(position)    where its key and value are
//   key(place), value(place)    their addresses
//   uint32_t key_pieces()       16-byte pieces of a key
//   float factor()              of scores, to log2
//   prepare(block, queries)     fills the queries in shared memory, writes fresh keys and values
//   Target target(pair, column) of the group
template <typename Source>
__device__ __forceinline__ void attend(const Block& block, const State& state,
                                       const Source& source) {
  Worker<Source> worker(block, state, source);
  // A split whose first buffers hold old positions alone asks for them before the queries are made.
  const uint32_t filled =
      min(state.item.loaded.end, worker.position(state.item.buffers - 1) + SPLIT_KEYS);
  const bool is_early = filled <= state.item.first_fresh;
#pragma unroll 1
  for (uint32_t late = 0; late < 2; ++late) {
    if (is_early != (late != 0)) worker.copy_first();
    if (late == 0) {
      source.prepare(block, block.scratch + state.queries());
      sync_math();
    }
  }
  Sums sums;
  sums.clear();
  worker.run(sums);

  const uint32_t tiles = 2 * ceil_div(worker.columns(), 16);
  float4* other =
      reinterpret_cast<float4*>(block.scratch) + worker.place * (PLACE_COLUMNS / 8 + 1) * 32;
  const bool is_active = worker.is_active();
  sync_math();
  if (is_active && worker.split == 1) sums.store(other, tiles, worker.lane);
  sync_math();
  if (!is_active || worker.split != 0) return;
  sums.merge(other, tiles, worker.lane);
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t pair = worker.first_pair() + worker.lane / 4 + 8 * half;
    if (pair >= state.item.pairs) continue;
    const uint32_t column = state.item.first_column + worker.first_column();
    sums.finish(source.target(state.item.first_pair + pair, column), half, worker.columns(),
                column == 0, worker.lane);
  }
}

}  // namespace kilotok::attention
