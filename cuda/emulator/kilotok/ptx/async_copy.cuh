// Stands in for include/kilotok/ptx/async_copy.cuh. A copy lands at any time until it is waited
// for.
#pragma once

#include "kilotok/abi.h"

namespace kilotok::ptx {

inline void async_copy_16(uint32_t shared, const void* global, bool is_there) {
  if (shared % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0) {
    emulator::fail("a copy from %p to %u is not aligned", global, shared);
  }
  const emulator::Copy copy{emulator::shared_memory() + shared, is_there ? global : nullptr};
  if (emulator::toss()) {
    copy.land();
  } else {
    emulator::current().open.push_back(copy);
  }
}

inline void async_copy_commit() {
  emulator::Fiber& fiber = emulator::current();
  fiber.pending.push_back(fiber.open);
  fiber.open.clear();
}

template <int PENDING>
inline void async_copy_wait() {
  auto& pending = emulator::current().pending;
  while (pending.size() > PENDING) {
    for (const auto& copy : pending.front()) copy.land();
    pending.erase(pending.begin());
  }
}

}  // namespace kilotok::ptx
