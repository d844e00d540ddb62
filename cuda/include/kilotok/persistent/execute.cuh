// Runs one op in a block: the only place that knows all of them.
#pragma once

#include "kilotok/ops/accept.cuh"
#include "kilotok/ops/adjust.cuh"
#include "kilotok/ops/attention.cuh"
#include "kilotok/ops/choose.cuh"
#include "kilotok/ops/draft_attention.cuh"
#include "kilotok/ops/draft_choose.cuh"
#include "kilotok/ops/draft_context.cuh"
#include "kilotok/ops/embed.cuh"
#include "kilotok/ops/filter.cuh"
#include "kilotok/ops/lay_out.cuh"
#include "kilotok/ops/linear.cuh"
#include "kilotok/ops/moe_down.cuh"
#include "kilotok/ops/moe_up.cuh"
#include "kilotok/ops/rope.cuh"
#include "kilotok/ops/router.cuh"

namespace kilotok {

template <typename T>
__device__ __forceinline__ const T& payload(const Shared& shared) {
  static_assert(sizeof(T) <= sizeof(KilotokOp::payload));
  return *reinterpret_cast<const T*>(shared.op.payload);
}

// `is_alone`: no other op runs in this kernel.
__device__ __forceinline__ void execute(const KilotokMachine& machine, const Block& block,
                                        Shared& shared, bool is_alone) {
  KilotokCommand* command = reinterpret_cast<KilotokCommand*>(machine.command);
  switch (shared.op.kind) {
    case KILOTOK_OP_EMBED:
      return ops::embed(payload<KilotokEmbed>(shared), block);
    case KILOTOK_OP_ROPE:
      return ops::rope(payload<KilotokRope>(shared), block);
    case KILOTOK_OP_LINEAR:
      return ops::linear(payload<KilotokLinear>(shared), block, shared);
    case KILOTOK_OP_ATTENTION:
      return ops::attention(payload<KilotokAttention>(shared), block);
    case KILOTOK_OP_ROUTER:
      return ops::router(payload<KilotokRouter>(shared), block, shared);
    case KILOTOK_OP_MOE_UP:
      return ops::moe_up(payload<KilotokMoeUp>(shared), block, shared);
    case KILOTOK_OP_MOE_DOWN:
      return ops::moe_down(payload<KilotokMoeDown>(shared), block, shared, is_alone);
    case KILOTOK_OP_DRAFT_ATTENTION:
      return ops::draft_attention(payload<KilotokDraftAttention>(shared), block);
    case KILOTOK_OP_DRAFT_CONTEXT:
      return ops::draft_context(payload<KilotokDraftContext>(shared), block);
    case KILOTOK_OP_ADJUST:
      return ops::adjust(payload<KilotokAdjust>(shared), command, block);
    case KILOTOK_OP_FILTER:
      return ops::filter(payload<KilotokFilter>(shared), command, block);
    case KILOTOK_OP_CHOOSE:
      return ops::choose(payload<KilotokChoose>(shared), command, block);
    case KILOTOK_OP_DRAFT_CHOOSE:
      return ops::draft_choose(payload<KilotokChoose>(shared), block);
    case KILOTOK_OP_LAY_OUT:
      return ops::lay_out(payload<KilotokLayOut>(shared), command, block);
    case KILOTOK_OP_ACCEPT:
      return ops::accept(payload<KilotokAccept>(shared), command,
                         reinterpret_cast<KilotokMailbox*>(machine.mailbox), block);
    default:
      return;
  }
}

}  // namespace kilotok
