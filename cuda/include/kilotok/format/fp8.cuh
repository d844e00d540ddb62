// e4m3 weights: 4 codes per word, spread so that few instructions make bf16 pairs of them.
//
// Each half of a word holds code A where bf16 has its fields (sign at bit 15, the 7 bits of
// exponent and mantissa at 10..4) and code B in the bits between: its sign at 11, the upper three
// of its 7 bits at 14..12, the lower four at 3..0. A and B come out as code value * 2^-120,
// subnormal codes included; crates/kilotok/src/weights/repack is the encoder. The missing power of
// two is split between the activations (mxfp4::ACTIVATION_FACTOR, 2^64) and the end of the sum
// (2^56).
#pragma once

#include "kilotok/abi.h"

namespace kilotok::fp8 {

inline constexpr float RESULT_FACTOR = 72057594037927936.0f;  // 2^56

// Codes A of both halves.
__device__ __forceinline__ uint32_t decode_a(uint32_t word) { return word & 0x87F087F0u; }

// Codes B of both halves.
__device__ __forceinline__ uint32_t decode_b(uint32_t word) {
  return ((word << 4) & 0x80F080F0u) | ((word >> 4) & 0x07000700u);
}

}  // namespace kilotok::fp8
