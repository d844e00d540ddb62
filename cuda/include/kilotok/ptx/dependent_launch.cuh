// Programmatic dependent launch (PTX ISA, "griddepcontrol"; sm_90 and later). Without the launch
// attribute, and on older cards, the grid before has ended anyway and both do nothing.
#pragma once

namespace kilotok::ptx {

// Waits until the grid before has ended and its writes are visible.
__device__ __forceinline__ void wait_for_previous_grid() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next grid start as soon as there is room for it.
__device__ __forceinline__ void allow_next_grid() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace kilotok::ptx
