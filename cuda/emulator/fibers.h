// The threads of a block as fibers of one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace emulator {

// 16 bytes on their way into shared memory; `from` null: zeros.
struct Copy {
  uint8_t* to;
  const void* from;
  void land() const;
};

struct Fiber {
  void* stack_pointer = nullptr;
  std::vector<uint8_t> stack;
  int waits_for = -1;  // a barrier, 100 + a warp, or nothing
  bool is_done = false;
  std::vector<Copy> open;                  // asked for since the last commit
  std::vector<std::vector<Copy>> pending;  // groups, oldest first
};

// Runs `body(thread)` on all threads of a block; shared memory begins at `shared`.
void run_block(uint32_t threads, uint32_t seed, uint8_t* shared,
               const std::function<void(uint32_t)>& body);

// Of the fiber that runs.
Fiber& current();
uint8_t* shared_memory();
bool toss();

void meet_at_barrier(uint32_t number, uint32_t threads);

// Once all 32 lanes are here, one of them does `work` on what all have given.
using Work = void (*)(const void* const* in, void* const* out);
void meet_warp(const char* what, const void* in, void* out, Work work);

[[noreturn]] void fail(const char* format, ...);

}  // namespace emulator
