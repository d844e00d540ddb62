// What the entry points of both builds of the resident kernel do.
#pragma once

#include "kilotok/persistent/machine.cuh"
#include "kilotok/ptx/registers.cuh"

namespace kilotok {

// Registers of a thread: the block has 128 for each, and streaming warps leave theirs to products.
inline constexpr int MATH_REGISTERS = 152, FEED_REGISTERS = 56;

__device__ __forceinline__ void resident(const KilotokMachine& machine) {
  Shared& shared = start(machine.op, 1);
  if (threadIdx.x < MATH_THREADS) {
    ptx::registers_grow<MATH_REGISTERS>();
    Math{machine, shared}.run();
  } else {
    ptx::registers_shrink<FEED_REGISTERS>();
    feed_commands(machine, shared);
  }
}

}  // namespace kilotok
