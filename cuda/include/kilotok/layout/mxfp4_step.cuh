// A step: 32 rows x 64 of K of an MXFP4 matrix in the order in which a warp multiplies it, 1088
// bytes.
//
//   [0, 512)      rows 0..15:  lane l has 16 bytes at 16 l: word w is its A fragment of product w =
//   0..3 [512, 1024)   rows 16..31: the same [1024, 1088)  scales: 8 bytes per g = l / 4; K block h
//   = 0, 1 has 4 e8m0 codes at 4 h: rows g, g + 8, g + 16, g + 24
//
// Product w covers half of K block h = w / 2. Its 16 k are not consecutive: lane t = l % 4 takes 4
// of
//   k = 64 step + 32 h + 8 t + 4 (w % 2) + {0, 1 (b0, a0, a1); 2, 3 (b1, a2, a3)}
// so that the activations of a K block are, for every lane, 8 consecutive elements of a row as it
// lies in memory: one 16-byte load of activation row n = l / 4 at element 64 step + 32 h + 8 t
// feeds two products.
#pragma once

#include "kilotok/abi.h"

namespace kilotok::layout {

struct Mxfp4Step {
  static constexpr uint32_t ROWS = 32;
  static constexpr uint32_t DEPTH = 64;
  static constexpr uint32_t BLOCKS = 2;  // K blocks of 32
  static constexpr uint32_t BYTES = 1088;

  uint4 codes[2];  // [m16 tile], word w: product w
  uint2 scales;    // [K block], 4 codes each

  // Where lane `lane` finds its part.
  __device__ static constexpr uint32_t codes_offset(uint32_t lane) { return 16 * lane; }
  __device__ static constexpr uint32_t scales_offset(uint32_t lane) {
    return 1024 + 8 * (lane / 4);
  }
  // The element of an activation row that lane `lane` reads for K block `block` of a step.
  __device__ static constexpr uint32_t activation(uint32_t lane, uint32_t block) {
    return 32 * block + 8 * (lane % 4);
  }
};

}  // namespace kilotok::layout
