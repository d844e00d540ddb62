// The streaming warp: walks through the same ops as the math warps, ahead of them as far as the ring
// reaches, and asks for the weights of each. It needs nothing that an op computes but the experts of
// MoE ops and the verdict whether there is another round.
#pragma once

#include "kilotok/persistent/plan.cuh"
#include "kilotok/persistent/ring.cuh"

namespace kilotok {

__device__ __forceinline__ bool is_streamed(uint32_t kind) {
  return kind == KILOTOK_OP_LINEAR || kind == KILOTOK_OP_MOE_UP || kind == KILOTOK_OP_MOE_DOWN;
}

struct Feed {
  RingFeeder feeder;
  Shared& shared;
  uint64_t policy;
  uint32_t lane;
  uint32_t index, count;  // block

  __device__ Feed(Shared& shared, uint32_t lane, uint32_t index, uint32_t count)
      : feeder(shared, min(lane, MATH_WARPS - 1)),
        shared(shared),
        policy(ptx::policy_evict_first()),
        lane(lane),
        index(index),
        count(count) {}

  // All weights of one op. `serial`: the op's number, for what math threads publish.
  __device__ void op(const KilotokOp* record, uint32_t kind, uint32_t serial) {
    if (!is_streamed(kind)) return;
    // The matrix stands first in every payload that is streamed.
    const uint4* words = reinterpret_cast<const uint4*>(record->payload);
    const uint64_t* longs = record->payload;
    const uint4 shape = __ldg(words + 1);
    const KilotokMatrix matrix = {__ldg(longs), __ldg(longs + 1), shape.x, shape.y, shape.z,
                                  shape.w};
    uint32_t touched = 0;
    if (kind != KILOTOK_OP_LINEAR) {
      const uint32_t from = kind == KILOTOK_OP_MOE_UP ? serial : serial - 1;
      while (static_cast<int32_t>(load_volatile(shared.routed) - from) < 0) __nanosleep(20);
      __threadfence_block();
      touched = load_volatile(shared.touched.count);
    }
    const Plan plan(matrix, kind, touched, index, count);
    const uint32_t warp = lane;
    Walk walk(plan, warp, plan.slot_steps);
    bool is_busy = lane < MATH_WARPS && !walk.is_over;
    while (__any_sync(0xFFFFFFFFu, is_busy)) {
      bool has_asked = false;
      if (is_busy && feeder.may_ask()) {
        feeder.ask(walk.address(plan, shared.touched), walk.steps() * plan.step_bytes, policy);
        walk.next(plan, warp);
        is_busy = !walk.is_over;
        has_asked = true;
      }
      if (!__any_sync(0xFFFFFFFFu, has_asked)) __nanosleep(20);
    }
  }
};

}  // namespace kilotok
