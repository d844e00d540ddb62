// Op draft_choose: the drafter's own token of every row, greedily; see choose.
#pragma once

#include "kilotok/ops/choose.cuh"

namespace kilotok::ops {

__device__ __forceinline__ void draft_choose(const KilotokChoose& args, const Block& block) {
  choose_op::run(args, nullptr, block);
}

}  // namespace kilotok::ops
