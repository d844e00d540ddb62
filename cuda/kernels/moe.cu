// The MXFP4 mixture-of-experts feed-forward, at most 8 rows and 64 (row, rank) pairs.
//
// kilotok_moe_up   grid (inter / 16, pairs), 256 threads   ops/single/moe_up.cuh
// kilotok_moe_down grid (size / 32), 256 threads           ops/single/moe_down.cuh
// Both need dynamic shared memory, and may be launched as programmatic dependents: the routes have
// to be complete when the grid before moe_up ends. user:  crates/kilotok-gpu/src/ops/moe.rs
#include "kilotok/ops/single/moe_down.cuh"
#include "kilotok/ops/single/moe_up.cuh"

// Two blocks per SM: one streams while the other starts or ends.
extern "C" __global__ void __launch_bounds__(kilotok::ops::single::MOE_THREADS, 2)
    kilotok_moe_up(const __grid_constant__ KilotokMoeUpArgs args) {
  kilotok::ops::single::moe_up(args, blockIdx.x, blockIdx.y);
}

extern "C" __global__ void __launch_bounds__(kilotok::ops::single::MOE_THREADS, 2)
    kilotok_moe_down(const __grid_constant__ KilotokMoeDownArgs args) {
  kilotok::ops::single::moe_down(args, blockIdx.x);
}
