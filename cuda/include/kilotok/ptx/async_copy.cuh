// Copies of 16 bytes from global to shared memory that threads do not wait for (PTX ISA,
// "cp.async").
#pragma once

#include "kilotok/abi.h"

namespace kilotok::ptx {

// Through L2 alone. Where `is_there` is false, nothing is read and zeros are written.
__device__ __forceinline__ void async_copy_16(uint32_t shared, const void* global, bool is_there) {
  const uint32_t bytes = is_there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
               "r"(bytes)
               : "memory");
}

// The copies that this thread has asked for since the last call become a group, maybe an empty one.
__device__ __forceinline__ void async_copy_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most `PENDING` of this thread's newest groups are under way.
template <int PENDING>
__device__ __forceinline__ void async_copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

}  // namespace kilotok::ptx
