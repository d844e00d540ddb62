// kilotok: only sm_90a sm_100f
// kilotok: tight registers
//
// The resident kernel of engine.cu once more, with what persistent/trace.cuh adds to it: stamps for
// a trace, random delays and further barriers for a stress test.
//
// kilotok_persistent_traced  as kilotok_persistent
// user: crates/kilotok-gpu/src/machine
#define KILOTOK_TRACED 1
#include "kilotok/persistent/resident.cuh"

extern "C" __global__ void __launch_bounds__(KILOTOK_BLOCK_THREADS, 1)
    kilotok_persistent_traced(const __grid_constant__ KilotokMachine machine) {
  kilotok::resident(machine);
}
