// MXFP4 weights (OCP Microscaling 1.0): e2m1 codes, one e8m0 scale per 32 along K.
//
// A word holds the 8 codes of one lane's A fragment (mma/bf16.cuh): code i is half i % 2 of
// register a(i / 2). The four bits of a code are spread so that few instructions put sign, exponent
// and mantissa where bf16 has them, which yields code value * 2^-126;
// crates/kilotok/src/weights/repack is the encoder. The missing power of two is split between the
// activations (ACTIVATION_FACTOR) and the end of the sum (RESULT_FACTOR), so that no factor leaves
// fp32.
#pragma once

#include "kilotok/abi.h"

namespace kilotok::mxfp4 {

// Activations are multiplied by 2^64 before the product: added to the exponent of a bf16.
inline constexpr float ACTIVATION_FACTOR = 18446744073709551616.0f;
// The sum is multiplied by 2^62 after it: 2^-126 * 2^64 * 2^62 = 1.
inline constexpr float RESULT_FACTOR = 4611686018427387904.0f;

// Two activations as a pair of bf16, times 2^64.
__device__ __forceinline__ uint32_t scale_activations(uint32_t pair) {
  uint32_t scaled;
  // 0x5F80 is 2^64 in bf16, 0x8000 is -0 and changes nothing (sm_80 has no product alone). Exact
  // unless it overflows, above 2^63.
  asm("fma.rn.bf16x2 %0, %1, %2, %3;"
      : "=r"(scaled)
      : "r"(pair), "r"(0x5F805F80u), "r"(0x80008000u));
  return scaled;
}

// 8 codes to the 4 registers of an A fragment: 9 instructions, 7 of them on the ALU pipe, which
// this loop fills first.
struct DecodeByShift {
  __device__ __forceinline__ void operator()(uint32_t word, uint32_t (&a)[4]) const {
    a[0] = (word & 0x81808180u) | ((word >> 8) & 0x00400040u);
    a[1] = (word << 2) & 0x81C081C0u;
    a[2] = (word << 6) & 0x81C081C0u;
    a[3] = __funnelshift_r(word, word, 4) & 0x81C081C0u;
  }
};

// The same with moves to the right as upper halves of products, on the FMA pipe. The factors have
// to come from where the compiler cannot see their values, else it makes shifts of them: two_28 = 1
// << 28, two_24 = 1 << 24.
struct DecodeByProduct {
  uint32_t two_28, two_24;

  __device__ __forceinline__ void operator()(uint32_t word, uint32_t (&a)[4]) const {
    const uint64_t by_4 = static_cast<uint64_t>(word) * two_28;
    a[0] = (word & 0x81808180u) | (__umulhi(word, two_24) & 0x00400040u);
    a[1] = (word << 2) & 0x81C081C0u;
    a[2] = (word << 6) & 0x81C081C0u;
    a[3] = (static_cast<uint32_t>(by_4) | static_cast<uint32_t>(by_4 >> 32)) & 0x81C081C0u;
  }
};

// One move of each kind.
struct DecodeMixed {
  uint32_t two_28;

  __device__ __forceinline__ void operator()(uint32_t word, uint32_t (&a)[4]) const {
    const uint64_t by_4 = static_cast<uint64_t>(word) * two_28;
    a[0] = (word & 0x81808180u) | ((word >> 8) & 0x00400040u);
    a[1] = (word << 2) & 0x81C081C0u;
    a[2] = (word << 6) & 0x81C081C0u;
    a[3] = (static_cast<uint32_t>(by_4) | static_cast<uint32_t>(by_4 >> 32)) & 0x81C081C0u;
  }
};

// Byte INDEX of a word of four e8m0 codes as 2^(code - 127): a byte move on the ALU pipe, a product
// on the FMA pipe. Code 0 reads as 0, not as 2^-127: less than half of the smallest normal number
// either way. Code 255 (NaN) is refused when weights are loaded.
template <int INDEX>
__device__ __forceinline__ float scale(uint32_t codes) {
  return __uint_as_float(__byte_perm(codes, 0, 0x4044 | INDEX << 8) << 7);
}

}  // namespace kilotok::mxfp4
