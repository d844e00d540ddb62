// bf16 in pairs and fours; round to nearest, ties to even.
#pragma once

#include "kilotok/abi.h"

namespace kilotok::bf16 {

// `low` in the lower half.
__device__ __forceinline__ uint32_t pack(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

__device__ __forceinline__ uint2 pack(const float4& v) {
  return make_uint2(pack(v.x, v.y), pack(v.z, v.w));
}

}  // namespace kilotok::bf16
