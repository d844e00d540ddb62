// A step: 32 rows x 64 of K of a bf16 matrix in the order in which a warp multiplies it, 4096
// bytes.
//
//   [2048 tile + 512 product + 16 lane]  the A fragment (a0..a3) of rows 16 tile .. 16 tile + 15
//   and
//                                        product 0..3
//
// Which k a product covers is the same as in layout/mxfp4_step.cuh.
#pragma once

#include "kilotok/abi.h"

namespace kilotok::layout {

struct Bf16Step {
  static constexpr uint32_t DEPTH = 64;
  static constexpr uint32_t BYTES = 4096;

  __device__ static constexpr uint32_t offset(uint32_t tile, uint32_t product, uint32_t lane) {
    return 2048 * tile + 512 * product + 16 * lane;
  }
};

}  // namespace kilotok::layout
