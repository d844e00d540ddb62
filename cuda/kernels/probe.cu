// kilotok: portable
//
// Proof that the whole way works: embedded image -> driver -> launch -> memory -> answer.
//
// in:    args.x [n] f32, args.y [n] f32 (see KilotokProbeArgs)
// out:   args.y [n] f32 = a * x + y; args.result, one KilotokProbeResult
// bytes: 12 n (read x, read y, write y); flops: 2 n
// grid:  any number of blocks of any size (grid-stride loop), ordinary or cooperative
// user:  crates/kilotok-gpu/src/selfcheck.rs, which fills x, y and a with small integers, so that
// the sum is exact and
//        has to match bit for bit.
#include "kilotok/abi.h"

namespace {

__device__ __forceinline__ uint64_t global_timer_ns() {
  uint64_t ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
}

__device__ __forceinline__ uint32_t num_sm_ids() {
  uint32_t count;
  asm("mov.u32 %0, %%nsmid;" : "=r"(count));
  return count;
}

// __CUDA_ARCH_FAMILY_SPECIFIC__ exists only in family- and arch-specific images.
__device__ __forceinline__ uint32_t image_arch_family() {
#ifdef __CUDA_ARCH_FAMILY_SPECIFIC__
  return __CUDA_ARCH_FAMILY_SPECIFIC__;
#else
  return 0;
#endif
}

__device__ __forceinline__ uint32_t image_arch() {
#ifdef __CUDA_ARCH__
  return __CUDA_ARCH__;
#else
  return 0;
#endif
}

}  // namespace

extern "C" __global__ void kilotok_probe(const __grid_constant__ KilotokProbeArgs args) {
  const bool is_reporter = blockIdx.x == 0 && threadIdx.x == 0;
  const uint64_t start_ns = is_reporter ? global_timer_ns() : 0;
  const long long start_cycles = is_reporter ? clock64() : 0;

  const float* x = reinterpret_cast<const float*>(args.x);
  float* y = reinterpret_cast<float*>(args.y);
  const uint64_t stride = static_cast<uint64_t>(gridDim.x) * blockDim.x;
  const uint64_t first = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (uint64_t i = first; i < args.n; i += stride) {
    y[i] = args.a * x[i] + y[i];
  }

  // Every thread of the reporter's block has stored its elements before the interval is read.
  __syncthreads();
  if (is_reporter) {
    auto* result = reinterpret_cast<KilotokProbeResult*>(args.result);
    result->clock_cycles = static_cast<uint64_t>(clock64() - start_cycles);
    result->elapsed_ns = global_timer_ns() - start_ns;
    result->num_sms = num_sm_ids();
    result->arch = image_arch();
    result->arch_family = image_arch_family();
    result->num_blocks = gridDim.x;
  }
}
