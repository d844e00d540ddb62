// Random matrices in every format: stored, decoded, and packed into steps on the host, as an oracle that
// shares no code with crates/kilotok/src/weights/repack.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <utility>
#include <vector>

#include "kilotok/program.h"

namespace {

std::mt19937 generator(1);
float uniform(float low, float high) {
  return std::uniform_real_distribution<float>(low, high)(generator);
}

float from_bf16(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

uint16_t to_bf16(float value) {
  uint32_t word;
  std::memcpy(&word, &value, 4);
  return static_cast<uint16_t>((word + 0x7FFF + (word >> 16 & 1)) >> 16);
}

template <typename T>
uint64_t address(const T* pointer) {
  return reinterpret_cast<uint64_t>(pointer);
}

// A matrix in its stored format, and decoded.
struct Weights {
  uint32_t format, rows, cols;
  std::vector<uint8_t> codes, scales;  // MXFP4, FP8 codes: one byte each; bf16: see `halves`
  std::vector<float> factors;          // FP8
  std::vector<float> values;
};

const float E2M1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};

float e4m3(uint8_t code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const float magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return code & 128 ? -magnitude : magnitude;
}

Weights random_weights(uint32_t format, uint32_t rows, uint32_t cols) {
  Weights w{format, rows, cols, {}, {}, {}, {}};
  const size_t n = static_cast<size_t>(rows) * cols;
  w.values.resize(n);
  w.codes.resize(n);
  if (format == KILOTOK_MXFP4) {
    w.scales.resize(static_cast<size_t>(rows) * ((cols + 31) / 32));
    for (auto& s : w.scales) s = 119 + generator() % 6;
  } else if (format == KILOTOK_FP8) {
    w.factors.resize(((rows + 127) / 128) * ((cols + 127) / 128));
    for (auto& f : w.factors) f = uniform(0.5e-3f, 2e-3f);
  }
  for (size_t i = 0; i < n; ++i) {
    const uint32_t row = i / cols, col = i % cols;
    if (format == KILOTOK_MXFP4) {
      w.codes[i] = generator() % 16;
      const float v = E2M1[w.codes[i] & 7] * (w.codes[i] & 8 ? -1 : 1);
      w.values[i] = std::ldexp(v, w.scales[row * ((cols + 31) / 32) + col / 32] - 127);
    } else if (format == KILOTOK_FP8) {
      do w.codes[i] = generator() % 256;
      while ((w.codes[i] & 127) == 127);
      w.values[i] = e4m3(w.codes[i]) * w.factors[row / 128 * ((cols + 127) / 128) + col / 128];
    } else {
      w.values[i] = from_bf16(to_bf16(uniform(-0.1f, 0.1f)));
    }
  }
  return w;
}

uint32_t depth_of(uint32_t format) { return format == KILOTOK_FP8 ? 128 : 64; }
uint32_t bytes_of(uint32_t format) {
  return format == KILOTOK_FP8 ? 4224 : format == KILOTOK_BF16 ? 4096 : 1088;
}
uint32_t up(uint32_t n, uint32_t of) { return (n + of - 1) / of * of; }

uint32_t chunk_steps(uint32_t format, uint32_t cols) {
  return 256 * ((cols + 6143) / 6144) / depth_of(format);
}

// Steps of rows given by `source(tile, row of tile) -> row of w or -1`.
using Source = std::function<std::pair<const Weights*, int>(uint32_t, uint32_t)>;

std::vector<uint8_t> pack(uint32_t format, uint32_t tiles, uint32_t cols, const Source& source) {
  const uint32_t depth = depth_of(format), steps = (cols + depth - 1) / depth;
  const uint32_t bytes = bytes_of(format);
  std::vector<uint8_t> out(static_cast<size_t>(tiles) * steps * bytes, 0);
  static const int BITS[8][4] = {{15, 8, 7, 14},   {31, 24, 23, 30}, {13, 6, 5, 4},
                                 {29, 22, 21, 20}, {9, 2, 1, 0},     {25, 18, 17, 16},
                                 {19, 12, 11, 10}, {3, 28, 27, 26}};
  for (uint32_t tile = 0; tile < tiles; ++tile) {
    for (uint32_t step = 0; step < steps; ++step) {
      uint8_t* to = out.data() + (static_cast<size_t>(tile) * steps + step) * bytes;
      for (uint32_t half = 0; half < 2; ++half) {
        for (uint32_t product = 0; product < depth / 16; ++product) {
          for (uint32_t lane = 0; lane < 32; ++lane) {
            uint32_t words[4] = {};
            for (uint32_t i = 0; i < 8; ++i) {
              const uint32_t reg = i / 2;
              const uint32_t row = 16 * half + lane / 4 + 8 * (reg % 2);
              const uint32_t col = step * depth + 32 * (product / 2) + 8 * (lane % 4) +
                                   4 * (product % 2) + 2 * (reg / 2) + i % 2;
              const auto [w, at] = source(tile, row);
              if (at < 0 || col >= cols) continue;
              const size_t index = static_cast<size_t>(at) * cols + col;
              if (format == KILOTOK_MXFP4) {
                for (int bit = 0; bit < 4; ++bit) {
                  words[0] |= static_cast<uint32_t>(w->codes[index] >> (3 - bit) & 1)
                              << BITS[i][bit];
                }
              } else if (format == KILOTOK_FP8) {
                const uint32_t code = w->codes[index];
                uint32_t bits = reg < 2 ? (code & 0x80) << 8 | (code & 0x7F) << 4
                                        : (code & 0x80) << 4 | (code & 0x70) << 8 | (code & 15);
                words[reg % 2] |= bits << 16 * (i % 2);
              } else {
                words[reg] |= static_cast<uint32_t>(to_bf16(w->values[index])) << 16 * (i % 2);
              }
            }
            if (format == KILOTOK_MXFP4) {
              std::memcpy(to + 512 * half + 16 * lane + 4 * product, words, 4);
            } else if (format == KILOTOK_FP8) {
              std::memcpy(to + 2048 * half + 512 * (product / 2) + 16 * lane + 8 * (product % 2),
                          words, 8);
            } else {
              std::memcpy(to + 2048 * half + 512 * product + 16 * lane, words, 16);
            }
          }
        }
      }
      for (uint32_t row = 0; row < 32; ++row) {
        const auto [w, at] = source(tile, row);
        if (format == KILOTOK_MXFP4) {
          for (uint32_t h = 0; h < 2; ++h) {
            const uint32_t block = step * 2 + h, blocks = (cols + 31) / 32;
            to[1024 + 8 * (row % 8) + 4 * h + row / 8] =
                at < 0 || block >= blocks ? 127 : w->scales[at * blocks + block];
          }
        } else if (format == KILOTOK_FP8) {
          const float f = at < 0 ? 0.0f : w->factors[at / 128 * ((cols + 127) / 128) + step];
          std::memcpy(to + 4096 + 4 * row, &f, 4);
        }
      }
    }
  }
  return out;
}

KilotokMatrix matrix_of(uint32_t format, uint32_t tiles, uint32_t cols, const uint8_t* steps,
                        uint64_t expert_bytes = 0) {
  return {address(steps),
          expert_bytes,
          format,
          tiles,
          (cols + depth_of(format) - 1) / depth_of(format),
          chunk_steps(format, cols)};
}

}  // namespace
