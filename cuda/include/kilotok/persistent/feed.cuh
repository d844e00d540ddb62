// A streaming warp: walks through the same ops as the math warps, ahead of them as far as the ring
// reaches, and asks for the weights of each. It needs nothing that an op computes but the experts
// of MoE ops and the verdict whether there is another round.
#pragma once

#include "kilotok/persistent/plan.cuh"
#include "kilotok/persistent/ring.cuh"

namespace kilotok {

__device__ __forceinline__ bool is_streamed(uint32_t kind) {
  return kind == KILOTOK_OP_LINEAR || kind == KILOTOK_OP_MOE_UP || kind == KILOTOK_OP_MOE_DOWN;
}

// Asks for bytes to be brought into L2; they are read soon.
__device__ __forceinline__ void prefetch_l2(const void* from, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}

// A warp of FEED_WARPS: lane l feeds math warp `feeder + FEED_WARPS * l`.
#ifndef KILOTOK_AHEAD
#define KILOTOK_AHEAD 2
#endif
struct Feed {
  Shared& shared;
  RingFeeder ring;
  uint64_t policy;
  uint32_t lane, warp;
  uint32_t index, count;  // block

  __device__ Feed(Shared& shared, uint32_t feeder, uint32_t lane, uint32_t index, uint32_t count)
      : shared(shared),
        ring(shared, min(feeder + FEED_WARPS * lane, MATH_WARPS - 1)),
        policy(ptx::policy_evict_first()),
        lane(lane),
        warp(feeder + FEED_WARPS * lane),
        index(index),
        count(count) {}

  // All weights of one op. `serial`: the op's number, for what math threads publish. `has_next`:
  // two more records follow.
  __device__ __forceinline__ void op(const KilotokOp* record, uint32_t kind, uint32_t serial,
                                     bool has_next) {
    if (kind == KILOTOK_OP_ROUTER) router(record);
    if (!is_streamed(kind)) return;
    uint32_t touched = 0;
    if (kind != KILOTOK_OP_LINEAR) {
      if (has_next && kind == KILOTOK_OP_MOE_UP) linear_ahead(record + 2);
      const uint32_t from = kind == KILOTOK_OP_MOE_UP ? serial : serial - 1;
      while (static_cast<int32_t>(load_volatile(shared.routed) - from) < 0) __nanosleep(20);
      __threadfence_block();
      touched = load_volatile(shared.touched.count);
    }
    const Plan plan(matrix_of(record), kind, touched, index, count);
    Walk walk(plan, min(warp, MATH_WARPS - 1), plan.slot_steps);
    bool is_busy = warp < MATH_WARPS && !walk.is_over;
    const uint8_t* from = is_busy ? walk.address(plan, shared.touched) : nullptr;
    while (__any_sync(0xFFFFFFFFu, is_busy)) {
      if (is_busy && ring.may_ask()) {
        ring.ask(from, walk.steps() * plan.step_bytes, policy);
        walk.next(plan);
        is_busy = !walk.is_over;
        if (is_busy) from = walk.address(plan, shared.touched);
      }
    }
  }

  // The matrix stands first in every payload that is streamed.
  __device__ __forceinline__ static KilotokMatrix matrix_of(const KilotokOp* record) {
    KilotokMatrix matrix;
#pragma unroll
    for (uint32_t i = 0; i < sizeof(KilotokMatrix) / 8; ++i) {
      reinterpret_cast<uint64_t*>(&matrix)[i] = __ldg(record->payload + i);
    }
    return matrix;
  }

  // While it is not known which experts come, memory would have nothing to do: the first slots of
  // the layer after them are brought into L2.
  __device__ __forceinline__ void linear_ahead(const KilotokOp* record) const {
    if (__ldg(&record->kind) != KILOTOK_OP_LINEAR) return;
    const Plan plan(matrix_of(record), KILOTOK_OP_LINEAR, 0, index, count);
    Walk walk(plan, min(warp, MATH_WARPS - 1), plan.slot_steps);
    for (uint32_t i = 0; i < KILOTOK_AHEAD && warp < MATH_WARPS && !walk.is_over; ++i) {
      prefetch_l2(walk.address(plan, shared.touched), walk.steps() * plan.step_bytes);
      walk.next(plan);
    }
  }

  // The router's weights do not pass through the ring; its rows are on their way to L2 while the op
  // before it ends.
  __device__ __forceinline__ void router(const KilotokOp* record) const {
    const KilotokRouter* args = reinterpret_cast<const KilotokRouter*>(record->payload);
    const uint32_t expert = index + warp * count;
    if (warp >= MATH_WARPS || expert >= __ldg(&args->experts)) return;
    const uint32_t bytes = __ldg(&args->width) * (__ldg(&args->format) == KILOTOK_F32 ? 4 : 2);
    if (bytes % 16 != 0) return;
    prefetch_l2(reinterpret_cast<const uint8_t*>(__ldg(&args->weights)) +
                    static_cast<uint64_t>(expert) * bytes,
                bytes);
  }
};

}  // namespace kilotok
