// Stands in for include/kilotok/ptx/shared.cuh: addresses count from the start of shared memory.
#pragma once

#include "kilotok/abi.h"

namespace kilotok::ptx {

inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(static_cast<const uint8_t*>(pointer) - emulator::shared_memory());
}

}  // namespace kilotok::ptx
