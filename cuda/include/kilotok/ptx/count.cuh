// Counting of blocks that have done their part (PTX ISA, "atom").
#pragma once

#include "kilotok/abi.h"

namespace kilotok::ptx {

// Adds one and returns what stood there. Whoever sees the count sees what this thread, and those
// it has met at a barrier, wrote before.
__device__ __forceinline__ uint32_t count_up(uint32_t* word) {
  uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
               : "=r"(before)
               : "l"(word)
               : "memory");
  return before;
}

}  // namespace kilotok::ptx
