// kilotok: only sm_90a sm_100f
// kilotok: tight registers
//
// The kernels that run programs (program.h): one block of 512 threads per SM.
//
// kilotok_persistent  cooperative; stays until it is told to park or has been idle for too long
// kilotok_graph_op    runs op `machine.op`; programmatic dependent of the op before it
// user: crates/kilotok-gpu/src/machine
#include "kilotok/persistent/resident.cuh"

extern "C" __global__ void __launch_bounds__(KILOTOK_BLOCK_THREADS, 1)
    kilotok_persistent(const __grid_constant__ KilotokMachine machine) {
  kilotok::resident(machine);
}

extern "C" __global__ void __launch_bounds__(KILOTOK_BLOCK_THREADS, 1)
    kilotok_graph_op(const __grid_constant__ KilotokMachine machine) {
  kilotok::Shared& shared = kilotok::start(0, 2);
  kilotok::ptx::allow_next_grid();
  if (threadIdx.x < kilotok::MATH_THREADS) {
    kilotok::ptx::registers_grow<kilotok::MATH_REGISTERS>();
    kilotok::Math{machine, shared}.run_alone();
  } else {
    kilotok::ptx::registers_shrink<kilotok::FEED_REGISTERS>();
    kilotok::feed_alone(machine, shared);
  }
}
