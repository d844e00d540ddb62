// Multiplies everything a plan gives this block, group by group.
#pragma once

#include "kilotok/mma/steps.cuh"
#include "kilotok/persistent/plan.cuh"
#include "kilotok/persistent/ring.cuh"

namespace kilotok {

// The plan of the op that is entered, for all math threads: in shared memory, because it is too much
// to hold in registers beside the products.
__device__ __forceinline__ void set_plan(const KilotokMatrix& matrix, uint32_t kind,
                                         uint32_t touched, const Block& block, Shared& shared) {
  if (block.thread == 0) shared.plan = Plan(matrix, kind, touched, block.index, block.count);
  sync_math();
}

// Activations of a lane for 256 of K; while a stride is multiplied, the next one's are on their way.
template <typename Format>
struct Stride {
  static constexpr uint32_t STEPS = 256 / Format::DEPTH;
  static constexpr uint32_t PER_STEP = Format::DEPTH / 32;
  uint4 x[STEPS][PER_STEP];

  // `row`: the lane's column at the stride's first K; null for a column that nobody reads.
  __device__ __forceinline__ void load(uint32_t step, const uint16_t* row, uint32_t steps) {
#pragma unroll
    for (uint32_t i = 0; i < PER_STEP; ++i) {
      x[step][i] = row == nullptr || step >= steps
                       ? make_uint4(0, 0, 0, 0)
                       : __ldcg(reinterpret_cast<const uint4*>(row + step * Format::DEPTH + 32 * i));
    }
  }
};

// `op.column(place, n)`: activations of column n, or null. `op.finish(group, parts)`: all math
// threads, when all items of the group are there.
template <typename Format, typename Op>
__device__ __forceinline__ void run_stream(const Plan& plan, Op& op, RingReader& ring,
                                           const Block& block) {
  constexpr uint32_t STEPS = Stride<Format>::STEPS;
  const uint32_t lane = block.lane;
  const auto activations = [&](const Walk& walk) -> const uint16_t* {
    if (walk.is_over) return nullptr;
    const uint16_t* row = op.column(plan.place(walk.unit(plan)), lane / 4);
    return row == nullptr ? nullptr : row + walk.first_step(plan) * Format::DEPTH + 8 * (lane % 4);
  };
  Walk walk(plan, block.warp, STEPS);
  Stride<Format> stride;
  const uint16_t* row = activations(walk);
#pragma unroll
  for (uint32_t i = 0; i < STEPS; ++i) stride.load(i, row, walk.steps());
  const uint32_t groups = plan.groups();
  for (uint32_t group = 0; group < groups; ++group) {
    float* const parts =
        reinterpret_cast<float*>(block.scratch) + (group % 2) * GROUP_ITEMS * PART_FLOATS;
    mma::StepSums sums = {};
    while (!walk.is_over && walk.group == group) {
      const uint32_t item = walk.item, steps = walk.steps();
      walk.next(plan, block.warp);
      row = activations(walk);
      uint32_t address = 0;
#pragma unroll
      for (uint32_t i = 0; i < STEPS; ++i) {
        constexpr uint32_t SLOT_STEPS = Format::SLOT_STEPS;
        if (i < steps) {
          if (i % SLOT_STEPS == 0) address = ring.wait();
          Format::multiply(sums, address + i % SLOT_STEPS * Format::BYTES, stride.x[i], lane);
          if (SLOT_STEPS == 1) ring.release(lane);
        }
        stride.load(i, row, walk.steps());
      }
      if (Format::SLOT_STEPS > 1) ring.release(lane);
      if (walk.item == item && walk.group == group && !walk.is_over) continue;
      float* part = parts + item * PART_FLOATS;
#pragma unroll
      for (uint32_t i = 0; i < 8; ++i) {
        part[(2 * (lane % 4) + i % 2) * PART_STRIDE + 16 * (i / 4) + 8 * (i / 2 % 2) + lane / 4] =
            sums.d[i / 4][i % 4];
      }
      sums = {};
    }
    sync_math();
    op.finish(group, parts);
  }
}

// The sum of a unit for one column and row of the tile: its chunks in order.
__device__ __forceinline__ float sum_chunks(const Plan& plan, const float* parts, uint32_t unit,
                                            uint32_t column, uint32_t row) {
  const float* part = parts + unit * plan.chunks * PART_FLOATS + column * PART_STRIDE + row;
  float sum = 0.0f;
  for (uint32_t chunk = 0; chunk < plan.chunks; ++chunk) sum += part[chunk * PART_FLOATS];
  return sum;
}

}  // namespace kilotok
