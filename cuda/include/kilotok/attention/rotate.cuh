// Norm and rotary embedding of heads that an op reads from global memory, four elements at a time.
#pragma once

#include "kilotok/format/bf16.cuh"
#include "kilotok/persistent/block.cuh"

namespace kilotok::attention {

__device__ __forceinline__ float4 load_four(const float* from) {
  return __ldcg(reinterpret_cast<const float4*>(from));
}

// Elements `first` .. `first` + 3 of a head after rotation of its pairs (i, i + pairs);
// `element(i)` gives four elements from i on before it. `rotation`: [pairs] (cos, sin). Without
// branches, so that several of these ask for everything they need before they use any of it.
template <typename Element>
__device__ __forceinline__ float4 rotate_four(const Element& element, const float2* rotation,
                                              uint32_t pairs, uint32_t first) {
  const bool is_low = first < pairs, is_turned = first < 2 * pairs;
  const uint32_t at = is_low ? first : first - pairs;
  const float4 own = element(first);
  float4 other = own, r0 = make_float4(1.0f, 0.0f, 1.0f, 0.0f), r1 = r0;
  if (is_turned) {
    other = element(is_low ? first + pairs : at);
    r0 = load_four(reinterpret_cast<const float*>(rotation + at));
    r1 = load_four(reinterpret_cast<const float*>(rotation + at + 2));
  }
  const float sign = is_low ? -1.0f : 1.0f;
  return make_float4(
      fmaf(own.x, r0.x, sign * other.x * r0.y), fmaf(own.y, r0.z, sign * other.y * r0.w),
      fmaf(own.z, r1.x, sign * other.z * r1.y), fmaf(own.w, r1.z, sign * other.w * r1.w));
}

// Eight elements of a head from `first` on, rotated, times `scale`.
__device__ __forceinline__ uint4 rotate_eight(const float* head, const float2* rotation,
                                              uint32_t pairs, uint32_t first, float scale) {
  const auto element = [&](uint32_t i) { return load_four(head + i); };
  const float4 a = rotate_four(element, rotation, pairs, first);
  const float4 b = rotate_four(element, rotation, pairs, first + 4);
  const uint2 low = bf16::pack(make_float4(a.x * scale, a.y * scale, a.z * scale, a.w * scale));
  const uint2 high = bf16::pack(make_float4(b.x * scale, b.y * scale, b.z * scale, b.w * scale));
  return make_uint4(low.x, low.y, high.x, high.y);
}

// A head whose elements are divided by their root mean square and multiplied by weights, made by a
// whole warp; `dim` is a multiple of 4.
struct NormedHead {
  const float* head;
  const float* weights;
  float factor;

  __device__ __forceinline__ NormedHead(const float* from, const float* norm_weights, uint32_t dim,
                                        float eps, uint32_t lane)
      : head(from), weights(norm_weights) {
    float squares = 0.0f;
    for (uint32_t i = 4 * lane; i < dim; i += 128) {
      const float4 v = load_four(head + i);
      squares = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, squares))));
    }
    factor = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(dim) + eps);
  }

  __device__ __forceinline__ float4 operator()(uint32_t i) const {
    const float4 v = load_four(head + i), w = __ldg(reinterpret_cast<const float4*>(weights + i));
    return make_float4(v.x * factor * w.x, v.y * factor * w.y, v.z * factor * w.z,
                       v.w * factor * w.w);
  }
};

}  // namespace kilotok::attention
