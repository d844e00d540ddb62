// Stands in for include/kilotok/ptx/matrix_load.cuh.
#pragma once

#include "kilotok/abi.h"

namespace kilotok::ptx {

template <bool IS_TRANSPOSED>
inline void load_four_matrices(uint32_t (&to)[4], uint32_t address) {
  if (address % 16 != 0) emulator::fail("a matrix row at %u is not aligned", address);
  emulator::meet_warp("ldmatrix", &address, to, [](const void* const* in, void* const* out) {
    for (uint32_t lane = 0; lane < 32; ++lane) {
      for (uint32_t m = 0; m < 4; ++m) {
        uint16_t element[2];
        for (uint32_t i = 0; i < 2; ++i) {
          uint32_t row = lane / 4, column = 2 * (lane % 4) + i;
          if (IS_TRANSPOSED) std::swap(row, column);
          const uint32_t from = *static_cast<const uint32_t*>(in[8 * m + row]);
          std::memcpy(&element[i], emulator::shared_memory() + from + 2 * column, 2);
        }
        static_cast<uint32_t*>(out[lane])[m] = element[0] | uint32_t{element[1]} << 16;
      }
    }
  });
}

inline void load_matrices(uint32_t (&to)[4], uint32_t address) {
  load_four_matrices<false>(to, address);
}

inline void load_matrices_transposed(uint32_t (&to)[4], uint32_t address) {
  load_four_matrices<true>(to, address);
}

}  // namespace kilotok::ptx
