// Plain-C structs that cross the line between host (Rust) and device (CUDA).
//
// This is the only header both sides know. Its mirror is crates/kilotok-kernels/src/abi.rs; a test
// compiles this file with g++ and compares every size and offset. Device addresses travel as
// uint64_t, so that the layout does not depend on who reads it. Padding is always explicit.
#pragma once

#ifdef __CUDACC__
#include <cuda/std/cstddef>
#include <cuda/std/cstdint>
using cuda::std::uint32_t;
using cuda::std::uint64_t;
#else
#include <stddef.h>
#include <stdint.h>
#endif

// Arguments of kilotok_probe, passed by value.
typedef struct KilotokProbeArgs {
  uint64_t x;       // device address of [n] f32, read
  uint64_t y;       // device address of [n] f32, read and written: y = a * x + y
  uint64_t result;  // device address of one KilotokProbeResult, written
  uint64_t n;       // elements in x and y; any value, zero included
  float a;          // factor
  uint32_t reserved;
} KilotokProbeArgs;

// What the device says about itself, written by the first thread of the grid.
typedef struct KilotokProbeResult {
  uint64_t clock_cycles;  // SM cycles the first block needed
  uint64_t elapsed_ns;    // the same interval by the global timer
  uint32_t num_sms;       // PTX %nsmid: an upper bound of SM ids, not always the count
  uint32_t arch;          // __CUDA_ARCH__ of the image that ran
  uint32_t arch_family;   // __CUDA_ARCH_FAMILY_SPECIFIC__ of that image, 0 for portable code
  uint32_t num_blocks;    // blocks in the grid as the device saw it
} KilotokProbeResult;

static_assert(sizeof(KilotokProbeArgs) == 40, "KilotokProbeArgs is 40 bytes in abi.rs");
static_assert(sizeof(KilotokProbeResult) == 32, "KilotokProbeResult is 32 bytes in abi.rs");
