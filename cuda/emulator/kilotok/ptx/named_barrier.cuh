// Stands in for include/kilotok/ptx/named_barrier.cuh.
#pragma once

#include "kilotok/abi.h"

namespace kilotok::ptx {

inline void named_barrier(uint32_t number, uint32_t threads) {
  emulator::meet_at_barrier(number, threads);
}

}  // namespace kilotok::ptx
