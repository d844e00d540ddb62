// What a block keeps in shared memory.
#pragma once

#include "kilotok/persistent/plan.cuh"

namespace kilotok {

// Weights that have landed or are on their way, per math warp.
inline constexpr uint32_t SLOTS = 2;
// 4 MXFP4 steps, one FP8 step or one bf16 step.
inline constexpr uint32_t SLOT_BYTES = 4352;

struct Shared {
  alignas(128) uint8_t ring[MATH_WARPS][SLOTS][SLOT_BYTES];
  // What ops use as they like: all of it, or activations and sums of items.
  union {
    alignas(128) uint8_t scratch[SCRATCH_BYTES];
    struct {
      uint8_t activations[MATH_WARPS][AHEAD_BYTES];
      // Two groups alternate, so that one can be finished while the next is begun.
      float parts[2][GROUP_ITEMS][PART_FLOATS];
    };
  };
  KilotokOp op;
  KilotokPass pass;
  KilotokRoutes routes;
  Touched touched;
  Plan plan;  // of the op that the math warps are at
  float rms[KILOTOK_ROWS];
  alignas(8) uint64_t full[MATH_WARPS][SLOTS];
  alignas(8) uint64_t empty[MATH_WARPS][SLOTS];
  // The router's weights (ops/router.cuh): how many experts stand in shared memory, and how often
  // some were asked for.
  alignas(8) uint64_t router_staged;
  uint32_t router_experts, router_turns;
  // Told by math threads to the warp that streams: numbers that only grow.
  uint32_t commands;  // commands taken
  uint32_t routed;    // serial number of the newest op whose experts stand in `touched`
  uint32_t verdicts;  // rounds decided
  uint32_t over;      // whether the newest one was the last
  // Of the newest command.
  uint32_t first_op, end_op, rounds, skip;
  // Where the math threads are. Here and not in registers, which are for products; changed by
  // thread 0 only.
  uint32_t number;             // of the newest command
  uint32_t at;                 // index of the op
  uint32_t serial;             // ops run so far, and one
  uint32_t arrivals;           // at the grid barrier when all have passed it
  uint32_t to_go;              // rounds, this one included
  uint32_t taken[MATH_WARPS];  // slots of its ring that a warp has taken, modulo 2 * SLOTS
};
static_assert(sizeof(Shared) <= KILOTOK_SHARED_BYTES, "the host asks for KILOTOK_SHARED_BYTES");

__device__ __forceinline__ uint32_t load_volatile(const uint32_t& word) {
  return *const_cast<const volatile uint32_t*>(&word);
}

__device__ __forceinline__ void store_volatile(uint32_t& word, uint32_t value) {
  *const_cast<volatile uint32_t*>(&word) = value;
}

}  // namespace kilotok
