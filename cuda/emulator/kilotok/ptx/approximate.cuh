// Stands in for include/kilotok/ptx/approximate.cuh.
#pragma once

#include "kilotok/abi.h"

namespace kilotok::ptx {

inline float exp2_approximate(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
}

// As far from the quotient as the device's may be, always the same for a number.
inline float reciprocal_approximate(float x) {
  const bool is_below = __builtin_parity(bits_as<uint32_t>(x)) != 0;
  return std::nextafter(1.0f / x, is_below ? 0.0f : INFINITY);
}

}  // namespace kilotok::ptx
