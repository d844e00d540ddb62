// Puts the partial results of a row's chunks together, in the block that finishes last.
//
// The chunks c of a row with c / MERGED alike make one result, and where there are several of
// these, they make another: sums run over chunks in their order, so that their bits depend on the
// row's chunks alone and not on who adds. Results of the first kind that are not the last take the
// place of their first chunk's.
#pragma once

#include "kilotok/attention/shape.cuh"
#include "kilotok/format/bf16.cuh"
#include "kilotok/ptx/count.cuh"

namespace kilotok::attention {

// Partial results that are added at a time, at most.
inline constexpr uint32_t MERGED = 32;
// Of which so many are asked for at once.
inline constexpr uint32_t BATCH = 8;
static_assert(MERGED % BATCH == 0);
// Lanes that find out what the partial results of a pair are worth.
inline constexpr uint32_t WEIGHING = 16;
static_assert(MERGED == 2 * WEIGHING);
// Counters of an item's kin: one for each MERGED chunks, the last one for their results.
inline constexpr uint32_t COUNTERS = 8;
static_assert(KILOTOK_MAX_CHUNKS / MERGED + 2 <= COUNTERS - 1);

// What of a pair is added: `count` partial results, that of entry j in slot
// first + max(0, step * j - skipped).
struct Entries {
  uint32_t first, count, step, skipped;
  bool is_complete;  // they are all there is

  // `block`: of MERGED chunks; `level` 1: the results of all blocks.
  __device__ __forceinline__ Entries(const Pair& pair, uint32_t block, bool level) {
    const uint32_t begin = pair.chunks.first, end = begin + pair.chunks.count;
    const uint32_t blocks = (end - 1) / MERGED - begin / MERGED + 1;
    const uint32_t from = max(begin, block * MERGED), to = min(end, (block + 1) * MERGED);
    is_complete = level || blocks == 1;
    if (level) {
      first = pair.slot;
      count = blocks > 1 ? blocks : 0;
      step = MERGED;
      skipped = begin % MERGED;
    } else {
      first = pair.slot + from - begin;
      count = from < to && pair.chunks.count > 1 ? to - from : 0;
      step = 1;
      skipped = 0;
    }
  }
  __device__ __forceinline__ uint32_t slot(uint32_t entry) const {
    const uint32_t at = entry * step;
    return first + (at > skipped ? at - skipped : 0);
  }
};

// By all math threads.
__device__ __forceinline__ void add_entries(const Block& block, const State& state,
                                            const Partials& partials, uint16_t* out,
                                            uint32_t chunk_block, bool level) {
  const Item& item = state.item;
  float* const factors = reinterpret_cast<float*>(block.scratch);  // [pairs][MERGED]
  float2* const weights = partials.weights_of(item.first_column / PLACE_COLUMNS);
#pragma unroll 1
  for (uint32_t i = block.thread / WEIGHING; i / 2 * 2 < item.pairs; i += MATH_THREADS / WEIGHING) {
    const Pair& pair = state.pair[min(i, item.pairs - 1)];
    const Entries entries(pair, chunk_block, level);
    const uint32_t lane = block.lane % WEIGHING;
    float2 own = make_float2(-INFINITY, 0.0f), other = own;
    if (lane < entries.count) own = __ldcg(weights + entries.slot(lane));
    if (lane + WEIGHING < entries.count) {
      other = __ldcg(weights + entries.slot(lane + WEIGHING));
    }
    float top = fmaxf(own.x, other.x);
    if (entries.is_complete) top = fmaxf(top, pair.sink);
#pragma unroll
    for (uint32_t distance = WEIGHING / 2; distance > 0; distance /= 2) {
      top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, distance));
    }
    own.x = ptx::exp2_approximate(own.x - top);
    other.x = ptx::exp2_approximate(other.x - top);
    float weight = fmaf(own.x, own.y, other.x * other.y);
#pragma unroll
    for (uint32_t distance = WEIGHING / 2; distance > 0; distance /= 2) {
      weight += __shfl_xor_sync(0xFFFFFFFFu, weight, distance);
    }
    if (i >= item.pairs || entries.count == 0) continue;
    float scale = 1.0f;
    if (entries.is_complete) {
      scale = ptx::reciprocal_approximate(weight + ptx::exp2_approximate(pair.sink - top));
    } else if (lane == 0) {
      weights[entries.first] = make_float2(top, weight);
    }
    factors[i * MERGED + lane] = own.x * scale;
    factors[i * MERGED + lane + WEIGHING] = other.x * scale;
  }
  sync_math();
  const uint32_t quads = item.columns / 4;
#pragma unroll 1
  for (uint32_t i = block.thread; i < item.pairs * quads; i += MATH_THREADS) {
    const uint32_t index = divide(i, quads);
    const uint32_t column = item.first_column + 4 * (i - index * quads);
    const Pair& pair = state.pair[index];
    const Entries entries(pair, chunk_block, level);
    if (entries.count == 0) continue;
    float* const sums = partials.sums + column;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 1
    for (uint32_t base = 0; base < entries.count; base += BATCH) {
      float4 value[BATCH];
#pragma unroll
      for (uint32_t k = 0; k < BATCH; ++k) {
        value[k] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (base + k < entries.count) {
          value[k] = __ldcg(reinterpret_cast<const float4*>(
              sums + static_cast<uint64_t>(entries.slot(base + k)) * partials.v_dim));
        }
      }
#pragma unroll
      for (uint32_t k = 0; k < BATCH; ++k) {
        const float factor = factors[index * MERGED + base + k];
        sum.x = fmaf(value[k].x, factor, sum.x);
        sum.y = fmaf(value[k].y, factor, sum.y);
        sum.z = fmaf(value[k].z, factor, sum.z);
        sum.w = fmaf(value[k].w, factor, sum.w);
      }
    }
    if (entries.is_complete) {
      *reinterpret_cast<uint2*>(out + pair.out + column) = bf16::pack(sum);
    } else {
      *reinterpret_cast<float4*>(sums + static_cast<uint64_t>(entries.first) * partials.v_dim) =
          sum;
    }
  }
}

// After an item whose results are on their way. By all math threads.
__device__ __forceinline__ void merge(const Block& block, State& state, const Partials& partials,
                                      uint16_t* out) {
  const Group& group = state.group;
  if (group.chunks == 1) return;
  const uint32_t chunk_block = state.item.chunk / MERGED;
  const uint32_t end = group.first_chunk + group.chunks;
  const uint32_t blocks = (end - 1) / MERGED - group.first_chunk / MERGED + 1;
#pragma unroll 1
  for (uint32_t level = 0; level < 2; ++level) {
    sync_math();  // everybody's results are written
    if (block.thread == 0) {
      uint32_t which = COUNTERS - 1, wanted = blocks;
      if (level == 0) {
        which = chunk_block - group.first_chunk / MERGED;
        wanted =
            min(end, (chunk_block + 1) * MERGED) - max(group.first_chunk, chunk_block * MERGED);
      }
      uint32_t* const counter = partials.counters + state.item.kin * COUNTERS + which;
      const bool is_last = ptx::count_up(counter) + 1 == wanted;
      if (is_last) *counter = 0;
      state.is_last = is_last;
    }
    sync_math();
    if (!state.is_last) return;
    add_entries(block, state, partials, out, chunk_block, level != 0);
    if (blocks == 1) return;
  }
}

}  // namespace kilotok::attention
