// Op embed: residual = row of the embedding, or the mask embedding of a drafter row.
//
// in:    args.embedding [vocab][width] bf16, args.mask [width] f32, tokens of the pass
// out:   args.to (residual, x, squares)
// bytes: 2 rows * width
// A warp makes 32 columns of one row.
#pragma once

#include "kilotok/ops/residual.cuh"

namespace kilotok::ops {

__device__ __forceinline__ void embed(const KilotokEmbed& args, const Block& block) {
  const uint32_t pieces = args.tiles * block.pass->rows;
  for (uint32_t piece = block.index * MATH_WARPS + block.warp; piece < pieces;
       piece += block.count * MATH_WARPS) {
    const uint32_t row = piece / args.tiles, tile = piece % args.tiles;
    const uint32_t column = 32 * tile + block.lane;
    const uint32_t token = block.pass->row[row].token;
    float value = 0.0f;
    if (column < args.width) {
      if (token == KILOTOK_MASK_TOKEN) {
        value = __ldg(reinterpret_cast<const float*>(args.mask) + column);
      } else {
        const uint64_t at = static_cast<uint64_t>(token) * args.width + column;
        value =
            __bfloat162float(__ldg(reinterpret_cast<const __nv_bfloat16*>(args.embedding) + at));
      }
    }
    ResidualElement element;
    element.load(args.to, row, tile, block.lane);
    element.residual = 0.0f;
    element.add(args.to, row, tile, block.lane, value);
  }
}

}  // namespace kilotok::ops
