// Multiplies everything a plan gives this block, group by group.
#pragma once

#include "kilotok/mma/steps.cuh"
#include "kilotok/persistent/plan.cuh"
#include "kilotok/persistent/ring.cuh"
#include "kilotok/persistent/trace.cuh"

namespace kilotok {

// The plan of the op that is entered, for all math threads: in shared memory, because it is too
// much to hold in registers beside the products.
__device__ __forceinline__ void set_plan(const KilotokMatrix& matrix, uint32_t kind,
                                         const Block& block, Shared& shared) {
  if (block.thread == 0) {
    shared.plan = Plan(matrix, kind, shared.touched.count, block.index, block.count);
  }
  sync_math();
}

// Activations for 256 of K, of one warp: every lane keeps its own in shared memory. A step's are
// asked for again, for the next stride, as soon as the step has been multiplied. Copies and not
// loads, because a load into registers makes the compiler wait for it where it likes.
template <typename Format>
struct Stride {
  static constexpr uint32_t STEPS = 256 / Format::DEPTH;
  static constexpr uint32_t PER_STEP = Format::DEPTH / 32;
  uint32_t own;  // shared address of the lane's first 16 bytes

  __device__ Stride(Shared& shared, uint32_t warp, uint32_t lane)
      : own(ptx::shared_address(shared.activations[warp]) + 16 * lane) {}

  // `row`: the lane's column at the stride's first K; null: whatever stands there will do, or,
  // where the op needs zeros, zeros. Every step asks once, be it for nothing.
  template <bool NEEDS_ZEROS>
  __device__ __forceinline__ void ask(uint32_t step, const uint16_t* row) const {
    if (NEEDS_ZEROS && row == nullptr) {
#pragma unroll
      for (uint32_t i = 0; i < PER_STEP; ++i) {
        asm volatile(
            "st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(own + 512 * (step * PER_STEP + i)),
            "r"(0)
            : "memory");
      }
    }
    if (row != nullptr) {
#pragma unroll
      for (uint32_t i = 0; i < PER_STEP; ++i) {
        asm volatile(
            "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(own + 512 * (step * PER_STEP + i)),
            "l"(row + step * Format::DEPTH + 32 * i)
            : "memory");
      }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }

  // Of the step that was asked for longest ago.
  __device__ __forceinline__ void take(uint32_t step, uint4 (&x)[PER_STEP]) const {
    asm volatile("cp.async.wait_group %0;" ::"n"(STEPS - 1) : "memory");
#pragma unroll
    for (uint32_t i = 0; i < PER_STEP; ++i) {
      x[i] = ptx::load_shared_16(own + 512 * (step * PER_STEP + i));
    }
  }
};

// `op.column(place, n)`: activations of column n, or null where nobody reads the column.
// `op.finish(group, parts)`: all math threads, when all items of the group are there.
template <typename Format, typename Op>
__device__ __forceinline__ void run_stream(const Plan& plan, Op& op, const Block& block,
                                           Shared& shared) {
  RingReader ring(shared, block.warp);
  constexpr uint32_t STEPS = Stride<Format>::STEPS;
  const uint32_t lane = block.lane;
  Walk walk(plan, block.warp, STEPS);
  const uint16_t* row = nullptr;
  const auto find_row = [&] {
    row = walk.is_over ? nullptr : op.column(walk.at, lane / 4);
    if (row != nullptr) row += walk.first_step(plan) * Format::DEPTH + 8 * (lane % 4);
  };
  const Stride<Format> stride(shared, block.warp, lane);
  find_row();
#pragma unroll
  for (uint32_t i = 0; i < STEPS; ++i) stride.template ask<Op::NEEDS_ZEROS>(i, row);
  const uint32_t groups = plan.groups;
  for (uint32_t group = 0; group < groups; ++group) {
    float* const parts = &shared.parts[group % 2][0][0];
    mma::StepSums sums = {};
    while (!walk.is_over && walk.group == group) {
      const uint32_t item = walk.item(plan), steps = walk.steps();
      walk.next(plan);
      find_row();
      uint32_t address = 0;
#pragma unroll
      for (uint32_t i = 0; i < STEPS; ++i) {
        constexpr uint32_t SLOT_STEPS = Format::SLOT_STEPS;
        if (i < steps) {
          if (i % SLOT_STEPS == 0) {
            address = ring.wait();
            trace::weights_landed();
          }
          uint4 x[Stride<Format>::PER_STEP];
          stride.take(i, x);
          Format::multiply(sums, address + i % SLOT_STEPS * Format::BYTES, x, lane);
          if (SLOT_STEPS == 1) ring.release(lane);
        }
        stride.template ask<Op::NEEDS_ZEROS>(i, row);
      }
      if (Format::SLOT_STEPS > 1) ring.release(lane);
      // Another stride of the same chunk follows.
      if (walk.step > 0) continue;
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
  ring.keep(shared, block);
}

// The sum of a unit for one column and row of the tile: its chunks in order.
__device__ __forceinline__ float sum_chunks(const Plan& plan, const float* parts, uint32_t unit,
                                            uint32_t column, uint32_t row) {
  const float* part = parts + unit * plan.chunks * PART_FLOATS + column * PART_STRIDE + row;
  float sum = 0.0f;
#pragma unroll 4
  for (uint32_t chunk = 0; chunk < plan.chunks; ++chunk) sum += part[chunk * PART_FLOATS];
  return sum;
}

}  // namespace kilotok
