// Which weights a block multiplies in one op, and in which order.
//
// A *unit* is one tile (of one expert). Block b of n takes units b, b + n, ... of the op. A unit's
// steps are cut into chunks along K; a chunk of a unit is an *item*, the work of one warp, whose
// sums stay apart until all chunks of the unit are there. Items that fit into shared memory
// together are a *group*: warps take its items in turn, wait for each other, and finish its units.
#pragma once

#include "kilotok/persistent/block.cuh"

namespace kilotok {

// Sums of an item: [KILOTOK_ROWS columns][32 rows], padded so that neither writing fragments nor
// reading rows meets a bank twice.
inline constexpr uint32_t PART_STRIDE = 36;
inline constexpr uint32_t PART_FLOATS = KILOTOK_ROWS * PART_STRIDE;
// A tile has at most 24 chunks (program.h), two for each warp.
inline constexpr uint32_t GROUP_ITEMS = 24;
// Of a warp's activations, ahead of its products.
inline constexpr uint32_t AHEAD_BYTES = 4096;

// The experts that the rows of a pass chose, each once, ascending.
struct Touched {
  uint32_t count;
  uint32_t reserved;
  uint32_t expert[KILOTOK_PAIRS];
  // The pair of row n that chose it; NO_PAIR where the row did not.
  uint8_t pair[KILOTOK_PAIRS][KILOTOK_ROWS];
  // A bit per expert.
  uint32_t chosen[16];
};
inline constexpr uint32_t NO_PAIR = 0xFF;

struct Place {
  uint32_t tile;
  uint32_t which;  // index into Touched; 0 for a matrix without experts
};

// Everything that takes a division is here, once per op.
struct Plan {
  const uint8_t* steps;
  uint64_t expert_bytes;
  uint32_t tiles, steps_per_tile, chunk_steps, step_bytes, slot_steps;
  uint32_t chunks, units, group_units, groups;
  uint32_t index, count;
  uint32_t experts;                      // touched; 0: no experts
  bool is_tile_by_tile;                  // MOE_DOWN: a block takes all experts of a tile
  uint32_t stride_units, stride_chunks;  // from an item of a warp to its next one
  uint32_t unit_experts, unit_tiles;     // MOE_UP: from a unit of a block to its next one

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
        is_tile_by_tile(kind == KILOTOK_OP_MOE_DOWN),
        stride_units(MATH_WARPS / chunks),
        stride_chunks(MATH_WARPS % chunks),
        unit_experts(blocks / matrix.tiles),
        unit_tiles(blocks % matrix.tiles) {
    const uint32_t all = kind == KILOTOK_OP_MOE_UP ? tiles * experts : tiles;
    const uint32_t own = all > index ? (all - index - 1) / count + 1 : 0;
    units = is_tile_by_tile ? own * experts : own;
    groups = (units + group_units - 1) / group_units;
  }

  __device__ __forceinline__ Place place(uint32_t unit) const {
    if (experts == 0) return {index + unit * count, 0};
    if (is_tile_by_tile) return {index + unit / experts * count, unit % experts};
    const uint32_t global = index + unit * count;
    return {global % tiles, global / tiles};
  }

  // From a unit of the block to the one `units` later.
  __device__ __forceinline__ void move(Place& at, uint32_t units) const {
    if (experts == 0) {
      at.tile += units * count;
    } else if (is_tile_by_tile) {
      for (at.which += units; at.which >= experts; at.which -= experts) at.tile += count;
    } else {
      for (; units > 0; --units) {
        at.which += unit_experts;
        at.tile += unit_tiles;
        if (at.tile >= tiles) {
          at.tile -= tiles;
          ++at.which;
        }
      }
    }
  }

  __device__ __forceinline__ uint32_t units_in(uint32_t group) const {
    return min(group_units, units - group * group_units);
  }
};

// A warp's way through its items, `pace` steps at a time.
struct Walk {
  Place at;
  uint32_t group, unit, chunk, step;  // unit: within the group; step: within the chunk
  uint32_t chunk_end;                 // steps of the chunk
  uint32_t first_unit, first_chunk;   // of the warp in every group
  uint32_t pace;
  bool is_over;

  __device__ Walk(const Plan& plan, uint32_t warp, uint32_t pace)
      : at(plan.place(0)),
        group(0),
        unit(warp / plan.chunks),
        chunk(warp % plan.chunks),
        step(0),
        first_unit(unit),
        first_chunk(chunk),
        pace(pace) {
    is_over = plan.groups == 0 || unit >= plan.units_in(0);
    if (is_over) return;
    plan.move(at, unit);
    set_chunk_end(plan);
  }

  __device__ __forceinline__ void set_chunk_end(const Plan& plan) {
    chunk_end = min(plan.chunk_steps, plan.steps_per_tile - chunk * plan.chunk_steps);
  }

  __device__ __forceinline__ void next(const Plan& plan) {
    step += pace;
    if (step < chunk_end) return;
    step = 0;
    uint32_t units = plan.stride_units;
    chunk += plan.stride_chunks;
    if (chunk >= plan.chunks) {
      chunk -= plan.chunks;
      ++units;
    }
    const uint32_t here = plan.units_in(group);
    if (unit + units >= here) {
      // Only the last group may be too short for a warp.
      if (++group == plan.groups || first_unit >= plan.units_in(group)) {
        is_over = true;
        return;
      }
      units = here - unit + first_unit;
      unit = first_unit;
      chunk = first_chunk;
    } else {
      unit += units;
    }
    plan.move(at, units);
    set_chunk_end(plan);
  }

  __device__ __forceinline__ uint32_t item(const Plan& plan) const {
    return unit * plan.chunks + chunk;
  }

  // First step of the next `pace`, within the tile.
  __device__ __forceinline__ uint32_t first_step(const Plan& plan) const {
    return chunk * plan.chunk_steps + step;
  }

  __device__ __forceinline__ uint32_t steps() const { return min(pace, chunk_end - step); }

  __device__ __forceinline__ const uint8_t* address(const Plan& plan,
                                                    const Touched& touched) const {
    const uint8_t* from = plan.steps;
    if (plan.experts > 0) from += touched.expert[at.which] * plan.expert_bytes;
    const uint64_t steps = static_cast<uint64_t>(at.tile) * plan.steps_per_tile + first_step(plan);
    return from + steps * plan.step_bytes;
  }
};

}  // namespace kilotok
