// Gumbel noise keyed by (seed, position, token), as crates/kilotok/src/sample/noise.rs makes it:
// splitmix64's finaliser, the upper 24 bits as midpoints of (0, 1), logarithms in f64.
#pragma once

#include "kilotok/abi.h"

namespace kilotok {

struct Noise {
  static constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15ull;
  uint64_t key;

  static __device__ __forceinline__ uint64_t mix(uint64_t z) {
    z ^= z >> 30;
    z *= 0xBF58476D1CE4E5B9ull;
    z ^= z >> 27;
    z *= 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }

  // Of the token that will stand at `position`.
  __device__ __forceinline__ Noise(uint64_t seed, uint64_t position)
      : key(mix(seed + GOLDEN * (position + 1))) {}

  __device__ __forceinline__ uint32_t bits(uint32_t token) const {
    return static_cast<uint32_t>(mix(key + GOLDEN * (static_cast<uint64_t>(token) + 1)) >> 40);
  }

  static __device__ __forceinline__ float gumbel(uint32_t bits) {
    const double uniform = (static_cast<double>(bits) + 0.5) * 0x1p-24;
    return static_cast<float>(-log(-log(uniform)));
  }

  // The same in f32, within 1e-4: the logarithm of a number near 1 from its distance to 1.
  static __device__ __forceinline__ float about(uint32_t bits) {
    const float below = (static_cast<float>(bits) + 0.5f) * 0x1p-24f;
    const float above = (static_cast<float>(0xFFFFFFu - bits) + 0.5f) * 0x1p-24f;
    return -logf(bits < 0x800000u ? -logf(below) : -log1pf(-above));
  }
};

}  // namespace kilotok
