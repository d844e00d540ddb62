// How the positions that a row attends to are cut into tiles and chunks.
#pragma once

#include "kilotok/program.h"
#include "kilotok/ptx/approximate.cuh"

namespace kilotok::attention {

// a / b, b > 0, for a below 2^21: half a unit is more than the quotient's error.
__device__ __forceinline__ uint32_t divide(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>((static_cast<float>(a) + 0.5f) *
                               ptx::reciprocal_approximate(static_cast<float>(b)));
}

__device__ __forceinline__ uint32_t ceil_div(uint32_t a, uint32_t b) {
  return divide(a + b - 1, b);
}

// Positions of a tile; tiles are aligned to absolute positions.
inline constexpr uint32_t TILE = 64;

// Positions `begin..end`.
struct Span {
  uint32_t begin, end;
};

// What the row at `position` sees of its own sequence.
__device__ __forceinline__ Span causal_span(uint32_t position, uint32_t window) {
  return {window != 0 && position + 1 > window ? position + 1 - window : 0, position + 1};
}

// What row `row` of a drafter block of `rows` sees, the anchor at `start`: a distance below the
// window on either side.
__device__ __forceinline__ Span draft_span(uint32_t start, uint32_t row, uint32_t rows,
                                           uint32_t window, bool is_causal) {
  const uint32_t position = start + row;
  const uint32_t end = is_causal ? position + 1 : start + rows;
  if (window == 0) return {0, end};
  return {position + 1 > window ? position + 1 - window : 0, min(end, position + window)};
}

// What any row of the block sees.
__device__ __forceinline__ Span draft_block_span(uint32_t start, uint32_t rows, uint32_t window) {
  return {window != 0 && start + 1 > window ? start + 1 - window : 0, start + rows};
}

// Chunks of a row: chunk c holds the tiles c * tiles .. (c + 1) * tiles.
struct Chunks {
  uint32_t tiles, first, count;
};

// Depends on the span's end, the window and max_chunks alone, but for `first` and `count`.
__device__ __forceinline__ Chunks chunks_of(const Span& span, uint32_t window,
                                            uint32_t max_chunks) {
  if (max_chunks <= 1) return {1u << 25, 0, 1};
  const uint32_t last = (span.end - 1) / TILE;
  uint32_t tiles = last + 1;
  // No row sees more, wherever its window begins inside a tile.
  if (window != 0) tiles = min(tiles, (window + KILOTOK_ROWS + TILE - 2) / TILE + 1);
  const uint32_t each = ceil_div(tiles, max_chunks);
  const uint32_t first = divide(span.begin / TILE, each);
  return {each, first, divide(last, each) - first + 1};
}

// Partial results in scratch memory: see KilotokAttention.
struct Partials {
  uint32_t* counters;
  float* sums;
  float2* weights;  // maximum, sum
  uint32_t heads, v_dim, slots;

  __device__ __forceinline__ Partials(uint64_t scratch, uint32_t num_heads, uint32_t dim,
                                      uint32_t max_chunks)
      : counters(reinterpret_cast<uint32_t*>(scratch)),
        sums(reinterpret_cast<float*>(scratch) + KILOTOK_COUNTERS),
        heads(num_heads),
        v_dim(dim),
        slots(max_chunks + 1) {
    weights =
        reinterpret_cast<float2*>(sums + static_cast<uint64_t>(slot(KILOTOK_ROWS, 0)) * v_dim);
  }

  // Slot of a row's first chunk; those of the others follow.
  __device__ __forceinline__ uint32_t slot(uint32_t row, uint32_t head) const {
    return (row * heads + head) * slots;
  }

  // By slot; items with other columns have their own, since they are not done at the same time.
  __device__ __forceinline__ float2* weights_of(uint32_t part) const {
    return weights + part * slot(KILOTOK_ROWS, 0);
  }
};

}  // namespace kilotok::attention
