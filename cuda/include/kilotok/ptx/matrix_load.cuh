// Four 8 x 8 matrices of 16-bit elements from shared memory into mma fragments (PTX ISA,
// "ldmatrix"). Lanes 8i..8i+7 give the addresses of the rows of matrix i, 16 bytes each; lane l
// gets from every matrix the elements 2 (l % 4), + 1 of row l / 4, or of column l / 4 when
// transposed.
#pragma once

#include "kilotok/abi.h"

namespace kilotok::ptx {

__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

}  // namespace kilotok::ptx
