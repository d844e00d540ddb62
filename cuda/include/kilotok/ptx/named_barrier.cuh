// Barriers of some warps of a block, by number (PTX ISA, "bar.sync").
#pragma once

#include "kilotok/abi.h"

namespace kilotok::ptx {

// Waits until `threads` threads, a multiple of 32, are at barrier `number`; orders their memory.
__device__ __forceinline__ void named_barrier(uint32_t number, uint32_t threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

}  // namespace kilotok::ptx
