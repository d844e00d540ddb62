// Norm and rotary embedding of heads that an op reads from global memory, four elements at a time.
#pragma once

#include "kilotok/persistent/block.cuh"

namespace kilotok::attention {

__device__ __forceinline__ float4 load_four(const float* from) {
  return __ldcg(reinterpret_cast<const float4*>(from));
}

// Elements `first` .. `first` + 3 of a head after rotation of its pairs (i, i + pairs);
// `element(i)` gives four elements from i on before it. `rotation`: [pairs] (cos, sin).
template <typename Element>
__device__ __forceinline__ float4 rotate_four(const Element& element, const float2* rotation,
                                              uint32_t pairs, uint32_t first) {
  const float4 own = element(first);
  if (first >= 2 * pairs) return own;
  const bool is_low = first < pairs;
  const uint32_t at = is_low ? first : first - pairs;
  const float4 other = element(is_low ? first + pairs : at);
  const float4 r0 = load_four(reinterpret_cast<const float*>(rotation + at));
  const float4 r1 = load_four(reinterpret_cast<const float*>(rotation + at + 2));
  const float sign = is_low ? -1.0f : 1.0f;
  return make_float4(
      fmaf(own.x, r0.x, sign * other.x * r0.y), fmaf(own.y, r0.z, sign * other.y * r0.w),
      fmaf(own.z, r1.x, sign * other.z * r1.y), fmaf(own.w, r1.z, sign * other.w * r1.w));
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
