// Which weights a block multiplies in one op, and in which order.
//
// A *unit* is one tile (of one expert). Block b of n takes units b, b + n, ... of the op. A unit's
// steps are cut into chunks along K; a chunk of a unit is an *item*, the work of one warp, whose sums
// stay apart until all chunks of the unit are there. Items that fit into shared memory together are
// a *group*: warps take its items in turn, wait for each other, and finish its units.
#pragma once

#include "kilotok/persistent/block.cuh"

namespace kilotok {

// Sums of an item: [KILOTOK_ROWS columns][32 rows], padded so that neither writing fragments nor
// reading rows meets a bank twice.
inline constexpr uint32_t PART_STRIDE = 36;
inline constexpr uint32_t PART_FLOATS = KILOTOK_ROWS * PART_STRIDE;
// Two groups alternate, so that one can be finished while the next is begun.
inline constexpr uint32_t GROUP_ITEMS = SCRATCH_BYTES / (2 * 4 * PART_FLOATS);
static_assert(GROUP_ITEMS == 24, "a tile has at most 24 chunks");

// The experts that the rows of a pass chose, each once, in the order of its first pair.
struct Touched {
  uint32_t count;
  uint32_t reserved;
  uint32_t expert[KILOTOK_PAIRS];
  // Pairs that chose it, in order; NO_PAIR past their end.
  uint8_t column[KILOTOK_PAIRS][KILOTOK_ROWS];
};
inline constexpr uint32_t NO_PAIR = 0xFF;

struct Place {
  uint32_t tile;
  uint32_t which;  // index into Touched; 0 for a matrix without experts
};

struct Plan {
  const uint8_t* steps;
  uint64_t expert_bytes;
  uint32_t tiles, steps_per_tile, chunk_steps, step_bytes, slot_steps;
  uint32_t chunks, units, group_units;
  uint32_t index, count;
  uint32_t experts;        // touched; 0: no experts
  bool is_tile_by_tile;    // MOE_DOWN: a block takes all experts of a tile

  Plan() = default;
  __device__ Plan(const KilotokMatrix& matrix, uint32_t kind, uint32_t touched, uint32_t block,
                  uint32_t blocks)
      : steps(reinterpret_cast<const uint8_t*>(matrix.steps)),
        expert_bytes(matrix.expert_bytes),
        tiles(matrix.tiles),
        steps_per_tile(matrix.steps_per_tile),
        chunk_steps(matrix.chunk_steps),
        step_bytes(matrix.format == KILOTOK_BF16  ? 4096
                   : matrix.format == KILOTOK_FP8 ? 4224
                                                  : 1088),
        slot_steps(matrix.format == KILOTOK_MXFP4 ? 4 : 1),
        chunks((matrix.steps_per_tile + matrix.chunk_steps - 1) / matrix.chunk_steps),
        group_units(GROUP_ITEMS / chunks),
        index(block),
        count(blocks),
        experts(kind == KILOTOK_OP_LINEAR ? 0 : touched),
        is_tile_by_tile(kind == KILOTOK_OP_MOE_DOWN) {
    const uint32_t all = kind == KILOTOK_OP_MOE_UP ? tiles * experts : tiles;
    const uint32_t own = all > index ? (all - index - 1) / count + 1 : 0;
    units = is_tile_by_tile ? own * experts : own;
  }

  __device__ __forceinline__ Place place(uint32_t unit) const {
    if (experts == 0) return {index + unit * count, 0};
    if (is_tile_by_tile) return {index + unit / experts * count, unit % experts};
    const uint32_t global = index + unit * count;
    return {global % tiles, global / tiles};
  }

  __device__ __forceinline__ uint32_t groups() const {
    return (units + group_units - 1) / group_units;
  }

  __device__ __forceinline__ uint32_t items(uint32_t group) const {
    return min(group_units, units - group * group_units) * chunks;
  }
};

// A warp's way through its items, `pace` steps at a time.
struct Walk {
  uint32_t pace;
  uint32_t group, item, step;  // step: within the chunk
  uint32_t chunk_end;          // steps of the chunk
  bool is_over;

  __device__ Walk(const Plan& plan, uint32_t warp, uint32_t pace)
      : pace(pace), group(0), item(warp), step(0), chunk_end(0), is_over(false) {
    settle(plan, warp);
  }

  // To the first item at or after this place that exists.
  __device__ __forceinline__ void settle(const Plan& plan, uint32_t warp) {
    while (group < plan.groups() && item >= plan.items(group)) {
      ++group;
      item = warp;
    }
    is_over = group >= plan.groups();
    if (!is_over) {
      const uint32_t chunk = item % plan.chunks;
      chunk_end = min(plan.chunk_steps, plan.steps_per_tile - chunk * plan.chunk_steps);
    }
  }

  __device__ __forceinline__ void next(const Plan& plan, uint32_t warp) {
    step += pace;
    if (step < chunk_end) return;
    step = 0;
    item += MATH_WARPS;
    settle(plan, warp);
  }

  __device__ __forceinline__ uint32_t unit(const Plan& plan) const {
    return group * plan.group_units + item / plan.chunks;
  }

  // First step of the next `pace`, within the tile.
  __device__ __forceinline__ uint32_t first_step(const Plan& plan) const {
    return item % plan.chunks * plan.chunk_steps + step;
  }

  __device__ __forceinline__ uint32_t steps() const {
    return min(pace, chunk_end - step);
  }

  __device__ __forceinline__ const uint8_t* address(const Plan& plan, const Touched& touched) const {
    const Place at = plan.place(unit(plan));
    const uint8_t* from = plan.steps;
    if (plan.experts > 0) from += touched.expert[at.which] * plan.expert_bytes;
    const uint64_t steps = static_cast<uint64_t>(at.tile) * plan.steps_per_tile + first_step(plan);
    return from + steps * plan.step_bytes;
  }
};

}  // namespace kilotok
