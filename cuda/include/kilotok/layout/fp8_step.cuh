// A step: 32 rows x 128 of K of an e4m3 matrix in the order in which a warp multiplies it, 4224
// bytes.
//
//   [2048 tile + 512 pair + 16 lane]  rows 16 tile .. 16 tile + 15, products 2 pair and 2 pair + 1:
//                                     two words each; word j has registers a(j) and a(j + 2)
//   [4096 + 4 row]                    factor of the row in these 128 columns, f32
//
// Which k a product covers is the same as in layout/mxfp4_step.cuh, with 8 products in a step.
#pragma once

#include "kilotok/abi.h"

namespace kilotok::layout {

struct Fp8Step {
  static constexpr uint32_t DEPTH = 128;
  static constexpr uint32_t BYTES = 4224;

  __device__ static constexpr uint32_t codes_offset(uint32_t tile, uint32_t pair, uint32_t lane) {
    return 2048 * tile + 512 * pair + 16 * lane;
  }
  __device__ static constexpr uint32_t scale_offset(uint32_t row) { return 4096 + 4 * row; }
};

}  // namespace kilotok::layout
