// The ops by kind, block after block.
#include "device.h"
//
#include "kilotok/ops/accept.cuh"
#include "kilotok/ops/adjust.cuh"
#include "kilotok/ops/attention.cuh"
#include "kilotok/ops/choose.cuh"
#include "kilotok/ops/draft_attention.cuh"
#include "kilotok/ops/draft_choose.cuh"
#include "kilotok/ops/draft_context.cuh"
#include "kilotok/ops/filter.cuh"
#include "kilotok/ops/lay_out.cuh"
#include "kilotok/ops/rope.cuh"

#include <numeric>
#include <random>
#include <vector>

namespace {

using namespace kilotok;

template <typename T>
const T& as(const void* payload) {
  return *static_cast<const T*>(payload);
}

void execute(uint32_t kind, const void* payload, KilotokCommand* command, KilotokMailbox* mailbox,
             const Block& block) {
  switch (kind) {
    case KILOTOK_OP_ROPE: return ops::rope(as<KilotokRope>(payload), block);
    case KILOTOK_OP_ATTENTION: return ops::attention(as<KilotokAttention>(payload), block);
    case KILOTOK_OP_DRAFT_ATTENTION:
      return ops::draft_attention(as<KilotokDraftAttention>(payload), block);
    case KILOTOK_OP_DRAFT_CONTEXT:
      return ops::draft_context(as<KilotokDraftContext>(payload), block);
    case KILOTOK_OP_ADJUST: return ops::adjust(as<KilotokAdjust>(payload), command, block);
    case KILOTOK_OP_FILTER: return ops::filter(as<KilotokFilter>(payload), command, block);
    case KILOTOK_OP_CHOOSE: return ops::choose(as<KilotokChoose>(payload), command, block);
    case KILOTOK_OP_DRAFT_CHOOSE: return ops::draft_choose(as<KilotokChoose>(payload), block);
    case KILOTOK_OP_LAY_OUT: return ops::lay_out(as<KilotokLayOut>(payload), command, block);
    case KILOTOK_OP_ACCEPT:
      return ops::accept(as<KilotokAccept>(payload), command, mailbox, block);
    default: emulator::fail("there is no op of kind %u here", kind);
  }
}

}  // namespace

// Runs one op; addresses in `payload` are host addresses.
extern "C" void kilotok_emulate(uint32_t kind, const void* payload, KilotokCommand* command,
                                KilotokMailbox* mailbox, uint32_t blocks, uint32_t seed) {
  alignas(128) static uint8_t scratch[SCRATCH_BYTES];
  std::vector<uint32_t> order(blocks);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(seed);
  std::shuffle(order.begin(), order.end(), random);
  const KilotokPass pass = command->pass;
  for (const uint32_t index : order) {
    std::memset(scratch, 0xFF, sizeof scratch);
    emulator::run_block(MATH_THREADS, random(), scratch, [&](uint32_t thread) {
      execute(kind, payload, command, mailbox,
              Block{index, blocks, thread, thread / 32, thread % 32, scratch, &pass});
    });
  }
}
