// The ring of a math warp: slots of weights that the streaming warp fills and the math warp
// empties.
//
// A lane of a streaming warp feeds one math warp. It asks for the next slot only when fewer than
// IN_FLIGHT of its slots are on their way: what is queued in the memory system delays everything
// that blocks tell each other, what has landed does not.
#pragma once

#include "kilotok/persistent/shared.cuh"
#include "kilotok/ptx/bulk_copy.cuh"
#include "kilotok/ptx/mbarrier.cuh"
#include "kilotok/ptx/shared.cuh"

namespace kilotok {

#ifndef KILOTOK_IN_FLIGHT
#define KILOTOK_IN_FLIGHT 2
#endif
inline constexpr uint32_t IN_FLIGHT = KILOTOK_IN_FLIGHT;
static_assert(IN_FLIGHT >= 1 && IN_FLIGHT <= SLOTS);

__device__ __forceinline__ void ring_init(Shared& shared, uint32_t thread) {
  if (thread < MATH_WARPS * SLOTS) {
    ptx::mbarrier_init(ptx::shared_address(&shared.full[0][0] + thread), 1);
    ptx::mbarrier_init(ptx::shared_address(&shared.empty[0][0] + thread), 1);
    ptx::fence_mbarrier_init();
  }
}

// The math warp's end. All that lasts from op to op is the number of slots taken so far.
struct RingReader {
  uint32_t slots, full, empty;  // shared addresses of the warp's first ones
  uint32_t taken;

  __device__ RingReader(Shared& shared, uint32_t warp)
      : slots(ptx::shared_address(shared.ring[warp])),
        full(ptx::shared_address(shared.full[warp])),
        empty(ptx::shared_address(shared.empty[warp])),
        taken(shared.taken[warp]) {}

  // At the end of an op.
  __device__ __forceinline__ void keep(Shared& shared, const Block& block) const {
    if (block.lane == 0) shared.taken[block.warp] = taken;
    __syncwarp();
  }

  // Waits for the next slot; its shared address.
  __device__ __forceinline__ uint32_t wait() const {
    const uint32_t slot = taken % SLOTS, parity = taken / SLOTS;
    ptx::mbarrier_wait(full + 8 * slot, parity);
    return slots + slot * SLOT_BYTES;
  }

  // Gives the slot back; all lanes have read what they need of it.
  __device__ __forceinline__ void release(uint32_t lane) {
    __syncwarp();
    if (lane == 0) ptx::mbarrier_arrive(empty + 8 * (taken % SLOTS));
    if (++taken == 2 * SLOTS) taken = 0;
  }
};

// The streaming lane's end.
struct RingFeeder {
  uint32_t slots, full, empty;
  uint32_t slot = 0, parity = 0;             // of the next slot to fill
  uint32_t landing = 0, landing_parity = 0;  // of the oldest slot that may be on its way
  uint32_t flying = 0;
  bool is_first_lap = true;

  __device__ RingFeeder(Shared& shared, uint32_t warp)
      : slots(ptx::shared_address(shared.ring[warp])),
        full(ptx::shared_address(shared.full[warp])),
        empty(ptx::shared_address(shared.empty[warp])) {}

  __device__ __forceinline__ bool may_ask() {
    if (flying == IN_FLIGHT) {
      if (!ptx::mbarrier_test_wait(full + 8 * landing, landing_parity)) return false;
      --flying;
      if (++landing == SLOTS) {
        landing = 0;
        landing_parity ^= 1;
      }
    }
    return is_first_lap || ptx::mbarrier_test_wait(empty + 8 * slot, parity ^ 1);
  }

  __device__ __forceinline__ void ask(const void* from, uint32_t bytes, uint64_t policy) {
    ptx::mbarrier_arrive_expect_tx(full + 8 * slot, bytes);
    ptx::bulk_copy(slots + slot * SLOT_BYTES, from, bytes, full + 8 * slot, policy);
    ++flying;
    if (++slot == SLOTS) {
      slot = 0;
      parity ^= 1;
      is_first_lap = false;
    }
  }
};

}  // namespace kilotok
