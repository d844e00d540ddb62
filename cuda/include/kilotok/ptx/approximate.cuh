// One-instruction approximations (PTX ISA, "ex2.approx.ftz", "rcp.approx.ftz"), and what needs no
// more than that.
#pragma once

#include "kilotok/abi.h"

namespace kilotok::ptx {

// 2^x; 0 where it is not a normal number.
__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / x to the last bit but one, for normal numbers.
__device__ __forceinline__ float reciprocal_approximate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace kilotok::ptx
