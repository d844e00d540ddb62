// What the stand-alone benchmarks share: checked calls, medians, and the read rate that is their
// 100 %.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#define CHECK(call)                                                                        \
  do {                                                                                     \
    cudaError_t error_ = (call);                                                           \
    if (error_ != cudaSuccess) {                                                           \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(error_)); \
      std::exit(1);                                                                        \
    }                                                                                      \
  } while (0)

// Milliseconds on the device between the start and the end of what `submit` puts on the default
// stream: the median of `repeats` after one warm-up.
template <typename Submit>
float median_ms(int repeats, const Submit& submit) {
  cudaEvent_t start, stop;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&stop));
  std::vector<float> times;
  for (int i = 0; i <= repeats; ++i) {
    CHECK(cudaEventRecord(start));
    submit();
    CHECK(cudaGetLastError());
    CHECK(cudaEventRecord(stop));
    CHECK(cudaEventSynchronize(stop));
    float ms = 0;
    CHECK(cudaEventElapsedTime(&ms, start, stop));
    if (i > 0) times.push_back(ms);
  }
  CHECK(cudaEventDestroy(start));
  CHECK(cudaEventDestroy(stop));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

__device__ __host__ inline uint32_t mix(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  return x ^ (x >> 16);
}

constexpr size_t STEP_WORDS = 272;  // of a step of MXFP4 weights; the last 16 hold scales

// Word `i` of random steps: any codes, scales 2^-7 .. 2^7 times 2^(middle - 127).
__device__ __host__ inline uint32_t step_word(size_t i, uint32_t seed, uint32_t middle) {
  const uint32_t h =
      mix(static_cast<uint32_t>(i) * 2654435761u + static_cast<uint32_t>(i >> 32) + seed);
  if (i % STEP_WORDS < 256) return h;
  uint32_t word = 0;
  for (int b = 0; b < 4; ++b) word |= (middle - 7 + ((h >> (8 * b)) & 255) % 15) << (8 * b);
  return word;
}

__global__ void fill_steps(uint32_t* steps, size_t words, uint32_t seed, uint32_t middle) {
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < words;
       i += static_cast<size_t>(gridDim.x) * blockDim.x) {
    steps[i] = step_word(i, seed, middle);
  }
}

__global__ void read_all(const uint4* data, size_t count, uint32_t* sink) {
  uint32_t seen = 0;
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
  size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x;
  for (; i + 3 * stride < count; i += 4 * stride) {
    uint4 v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = __ldcs(data + i + j * stride);
#pragma unroll
    for (int j = 0; j < 4; ++j) seen ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  for (; i < count; i += stride) seen ^= data[i].x;
  if (seen == 0x12345678u) *sink = seen;
}

// TB/s of plain 16-byte loads over `bytes`; the best of three grids.
inline double read_rate(const void* data, size_t bytes, uint32_t* sink, int sms) {
  double best = 0;
  for (int blocks : {2, 4, 8}) {
    const float ms = median_ms(5, [&] {
      read_all<<<sms * blocks, 512>>>(static_cast<const uint4*>(data), bytes / 16, sink);
    });
    best = std::max(best, bytes / 1e9 / ms);
  }
  return best;
}
