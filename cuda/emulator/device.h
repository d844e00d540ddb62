// What nvcc knows by itself, for a C++ compiler: qualifiers, vector types, intrinsics. Included
// before everything else.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fibers.h"

#define __device__
#define __forceinline__ inline
#define __shared__ static

using std::max;
using std::min;
using std::uint32_t;
using std::uint64_t;

struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

template <typename T>
T __ldcg(const T* from) {
  return *from;
}
template <typename T>
T __ldg(const T* from) {
  return *from;
}
template <typename To, typename From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline float __uint_as_float(uint32_t bits) { return bits_as<float>(bits); }
inline uint32_t __float_as_uint(float value) { return bits_as<uint32_t>(value); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
// Fibers change at other places only.
inline uint32_t atomicAdd(uint32_t* to, uint32_t value) {
  const uint32_t old = *to;
  *to = old + value;
  return old;
}
inline void __threadfence_system() {}

inline void sincospi(double x, double* sine, double* cosine) {
  *sine = std::sin(M_PI * x);
  *cosine = std::cos(M_PI * x);
}

// `from(lane, value, argument)`: the lane that `lane` takes its value from.
template <typename T, typename From>
T shuffle(const char* what, T value, uint32_t argument, From) {
  struct In {
    T value;
    uint32_t argument;
  } in{value, argument};
  T out;
  emulator::meet_warp(what, &in, &out, [](const void* const* ins, void* const* outs) {
    for (uint32_t lane = 0; lane < 32; ++lane) {
      const auto* own = static_cast<const In*>(ins[lane]);
      *static_cast<T*>(outs[lane]) =
          static_cast<const In*>(ins[From{}(lane, own->argument)])->value;
    }
  });
  return out;
}
template <typename T>
T __shfl_xor_sync(uint32_t, T value, uint32_t distance) {
  return shuffle("shfl.xor", value, distance, [](uint32_t lane, uint32_t d) { return lane ^ d; });
}
template <typename T>
T __shfl_sync(uint32_t, T value, uint32_t lane) {
  return shuffle("shfl", value, lane, [](uint32_t, uint32_t from) { return from % 32; });
}
inline uint32_t __ballot_sync(uint32_t, bool predicate) {
  uint32_t out;
  emulator::meet_warp("ballot", &predicate, &out, [](const void* const* ins, void* const* outs) {
    uint32_t bits = 0;
    for (uint32_t lane = 0; lane < 32; ++lane) {
      bits |= uint32_t{*static_cast<const bool*>(ins[lane])} << lane;
    }
    for (uint32_t lane = 0; lane < 32; ++lane) *static_cast<uint32_t*>(outs[lane]) = bits;
  });
  return out;
}
inline void __syncwarp() {
  emulator::meet_warp("syncwarp", nullptr, nullptr, [](const void* const*, void* const*) {});
}
