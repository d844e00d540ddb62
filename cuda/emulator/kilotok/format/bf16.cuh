// Stands in for include/kilotok/format/bf16.cuh.
#pragma once

#include "kilotok/abi.h"

namespace kilotok::bf16 {

inline uint32_t round(float value) {
  const uint32_t bits = bits_as<uint32_t>(value);
  return value != value ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

inline uint32_t pack(float low, float high) { return round(low) | round(high) << 16; }

inline uint2 pack(const float4& v) { return make_uint2(pack(v.x, v.y), pack(v.z, v.w)); }

}  // namespace kilotok::bf16
