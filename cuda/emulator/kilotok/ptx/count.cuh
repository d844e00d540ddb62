// Stands in for include/kilotok/ptx/count.cuh: blocks run one after the other.
#pragma once

#include "kilotok/abi.h"

namespace kilotok::ptx {

inline uint32_t count_up(uint32_t* word) { return (*word)++; }

}  // namespace kilotok::ptx
