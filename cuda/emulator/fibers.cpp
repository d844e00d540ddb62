#include "fibers.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#ifndef __x86_64__
#error "fibers change stacks by hand, which is written for x86-64 alone"
#endif

// Saves the callee's registers and the stack pointer, and goes on from another one's.
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.text
.globl emulator_switch
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace emulator {

namespace {

constexpr size_t STACK_BYTES = 65536;
constexpr int WARPS = 100;  // Fiber::waits_for of warp 0

struct Warp {
  uint32_t here = 0;
  const char* what = nullptr;
  const void* in[32];
  void* out[32];
};

struct Scheduler {
  std::vector<Fiber> fibers;
  std::vector<uint32_t> ready;
  std::vector<Warp> warps;
  uint32_t arrived[16];
  uint32_t running = 0;
  void* main_stack = nullptr;
  uint8_t* shared = nullptr;
  const std::function<void(uint32_t)>* body = nullptr;
  std::mt19937 random;
};
Scheduler scheduler;

void yield() { emulator_switch(&current().stack_pointer, scheduler.main_stack); }

void wake(int reason) {
  for (uint32_t i = 0; i < scheduler.fibers.size(); ++i) {
    if (scheduler.fibers[i].waits_for != reason) continue;
    scheduler.fibers[i].waits_for = -1;
    scheduler.ready.push_back(i);
  }
}

void wait_for(int reason) {
  current().waits_for = reason;
  yield();
}

void enter() {
  (*scheduler.body)(scheduler.running);
  Fiber& fiber = current();
  if (!fiber.open.empty()) fail("thread %u has copies that it never committed", scheduler.running);
  for (const auto& group : fiber.pending) {
    if (!group.empty()) fail("thread %u has copies that it never waited for", scheduler.running);
  }
  fiber.is_done = true;
  yield();
  fail("a fiber that is done ran on");
}

}  // namespace

void Copy::land() const {
  if (from == nullptr) {
    std::memset(to, 0, 16);
  } else {
    std::memcpy(to, from, 16);
  }
}

Fiber& current() { return scheduler.fibers[scheduler.running]; }
uint8_t* shared_memory() { return scheduler.shared; }
bool toss() { return (scheduler.random() & 1) != 0; }

void meet_at_barrier(uint32_t number, uint32_t threads) {
  if (++scheduler.arrived[number] < threads) return wait_for(static_cast<int>(number));
  scheduler.arrived[number] = 0;
  wake(static_cast<int>(number));
  scheduler.ready.push_back(scheduler.running);
  yield();
}

void meet_warp(const char* what, const void* in, void* out, Work work) {
  const uint32_t number = scheduler.running / 32, lane = scheduler.running % 32;
  Warp& warp = scheduler.warps[number];
  if (warp.here == 0) warp.what = what;
  if (std::strcmp(warp.what, what) != 0) {
    fail("warp %u has diverged: %s and %s", number, warp.what, what);
  }
  warp.in[lane] = in;
  warp.out[lane] = out;
  if (++warp.here < 32) return wait_for(WARPS + static_cast<int>(number));
  work(warp.in, warp.out);
  warp.here = 0;
  wake(WARPS + static_cast<int>(number));
}

void run_block(uint32_t threads, uint32_t seed, uint8_t* shared,
               const std::function<void(uint32_t)>& body) {
  Scheduler& s = scheduler;
  s.random.seed(seed);
  s.body = &body;
  s.shared = shared;
  s.fibers.resize(threads);
  s.warps.assign(threads / 32, {});
  std::memset(s.arrived, 0, sizeof s.arrived);
  s.ready.clear();
  for (uint32_t i = 0; i < threads; ++i) {
    Fiber& fiber = s.fibers[i];
    fiber.stack.resize(STACK_BYTES);
    fiber.is_done = false;
    fiber.waits_for = -1;
    fiber.open.clear();
    fiber.pending.clear();
    const auto top = reinterpret_cast<uintptr_t>(fiber.stack.data() + STACK_BYTES) & ~uintptr_t{15};
    void** stack = reinterpret_cast<void**>(top);
    *--stack = nullptr;
    *--stack = reinterpret_cast<void*>(&enter);
    for (int reg = 0; reg < 6; ++reg) *--stack = nullptr;
    fiber.stack_pointer = stack;
    s.ready.push_back(i);
  }
  for (uint32_t left = threads; left > 0;) {
    if (s.ready.empty()) {
      for (uint32_t i = 0; i < threads; i += 32) {
        std::fprintf(stderr, "warp %u waits for %d\n", i / 32, s.fibers[i].waits_for);
      }
      fail("deadlock: nobody can go on (100 + n: the rest of warp n)");
    }
    const size_t which = s.random() % s.ready.size();
    s.running = s.ready[which];
    s.ready[which] = s.ready.back();
    s.ready.pop_back();
    emulator_switch(&s.main_stack, s.fibers[s.running].stack_pointer);
    if (s.fibers[s.running].is_done) --left;
  }
}

void fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::fprintf(stderr, "emulator: ");
  std::vfprintf(stderr, format, arguments);
  std::fprintf(stderr, "\n");
  va_end(arguments);
  std::abort();
}

}  // namespace emulator
