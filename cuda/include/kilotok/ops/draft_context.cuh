// Op draft_context: keys and values of committed rows into the context rings of a drafter layer.
//
// in:    args.kv [rows, kv_stride] f32 = all keys, all values, before norm and rotation;
//        args.rotations of the rows' positions
// out:   args.keys, args.values, bf16, at position % positions of the row's slot
// bytes: rows * kv_heads * dim * 12
// A warp makes a head at a time.
#pragma once

#include "kilotok/attention/rotate.cuh"
#include "kilotok/format/bf16.cuh"

namespace kilotok::ops {

__device__ __forceinline__ void draft_context(const KilotokDraftContext& args, const Block& block) {
  const uint32_t dim = args.dim, count = block.pass->rows * args.kv_heads * 2;
#pragma unroll 1
  for (uint32_t i = block.warp * block.count + block.index; i < count;
       i += MATH_WARPS * block.count) {
    const uint32_t row = i / (2 * args.kv_heads), head = i - row * 2 * args.kv_heads;
    const bool is_value = head >= args.kv_heads;
    const KilotokRow at = block.pass->row[row];
    const float* from = reinterpret_cast<const float*>(args.kv) +
                        static_cast<uint64_t>(row) * args.kv_stride + head * dim;
    const uint64_t place =
        (static_cast<uint64_t>(at.slot) * args.kv_heads + head - (is_value ? args.kv_heads : 0)) *
            args.positions +
        at.position % args.positions;
    uint16_t* to = reinterpret_cast<uint16_t*>(is_value ? args.values : args.keys) + place * dim;
    if (is_value) {
      for (uint32_t first = 4 * block.lane; first < dim; first += 128) {
        const float4 v = attention::load_four(from + first);
        *reinterpret_cast<uint2*>(to + first) =
            bf16::pack(make_float4(v.x * args.value_scale, v.y * args.value_scale,
                                   v.z * args.value_scale, v.w * args.value_scale));
      }
    } else {
      const attention::NormedHead normed(from, reinterpret_cast<const float*>(args.k_norm), dim,
                                         args.eps, block.lane);
      const auto* rotation = reinterpret_cast<const float2*>(args.rotations) + row * args.pairs;
      for (uint32_t first = 4 * block.lane; first < dim; first += 128) {
        *reinterpret_cast<uint2*>(to + first) =
            bf16::pack(attention::rotate_four(normed, rotation, args.pairs, first));
      }
    }
  }
}

}  // namespace kilotok::ops
