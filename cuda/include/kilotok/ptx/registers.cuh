// Moving registers between the warpgroups of a block (PTX ISA, "setmaxnreg"; sm_90a and later).
#pragma once

namespace kilotok::ptx {

template <int COUNT>
__device__ __forceinline__ void registers_grow() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

template <int COUNT>
__device__ __forceinline__ void registers_shrink() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

}  // namespace kilotok::ptx
