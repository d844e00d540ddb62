// Stands in for include/kilotok/mma/bf16.cuh, which says what a lane holds. Sums in f64, rounded
// once.
#pragma once

#include "kilotok/abi.h"

namespace kilotok::mma {

inline void m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                     const float (&c)[4]) {
  struct In {
    uint32_t a[4], b[2];
    float c[4];
  } in{{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}};
  emulator::meet_warp("mma", &in, d, [](const void* const* ins, void* const* outs) {
    double left[16][16], right[16][8];
    for (uint32_t lane = 0; lane < 32; ++lane) {
      const In& own = *static_cast<const In*>(ins[lane]);
      const uint32_t g = lane / 4, t = lane % 4;
      for (uint32_t i = 0; i < 2; ++i) {
        const auto element = [i](uint32_t pair) {
          return __uint_as_float(i == 0 ? pair << 16 : pair & 0xFFFF0000u);
        };
        left[g][2 * t + i] = element(own.a[0]);
        left[g + 8][2 * t + i] = element(own.a[1]);
        left[g][2 * t + 8 + i] = element(own.a[2]);
        left[g + 8][2 * t + 8 + i] = element(own.a[3]);
        right[2 * t + i][g] = element(own.b[0]);
        right[2 * t + 8 + i][g] = element(own.b[1]);
      }
    }
    for (uint32_t lane = 0; lane < 32; ++lane) {
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
        double sum = static_cast<const In*>(ins[lane])->c[i];
        for (uint32_t k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
        static_cast<float*>(outs[lane])[i] = static_cast<float>(sum);
      }
    }
  });
}

}  // namespace kilotok::mma
