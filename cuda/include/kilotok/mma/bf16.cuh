// Warp-wide matrix product m16n8k16, bf16 operands, fp32 sums (PTX ISA, "mma.m16n8k16").
//
// Lane l holds, with g = l / 4 and t = l % 4 (rows of A, columns of B and k in pairs of two):
//   A a0: row g,     k 2t..2t+1    a1: row g + 8, k 2t..    a2: row g, k 2t+8..   a3: row g + 8, k
//   2t+8.. B b0: column g,  k 2t..2t+1    b1: column g,  k 2t+8.. D d0, d1: row g, columns 2t, 2t+1
//   d2, d3: row g + 8, the same columns
#pragma once

#include "kilotok/abi.h"

namespace kilotok::mma {

// d = a b + c
__device__ __forceinline__ void m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1, const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]),
        "f"(c[2]), "f"(c[3]));
}

}  // namespace kilotok::mma
