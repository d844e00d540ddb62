// kilotok: portable
//
// One op of a program by itself, for parity tests of the ops that stream no weights.
//
// in:    machine.ops: one KilotokOp; machine.command: its pass, for most ops nothing else;
//        machine.mailbox: device memory, for accept
// out:   what the op writes
// grid:  any number of blocks of 384 threads; dynamic shared memory SCRATCH_BYTES
// user:  crates/kilotok-gpu/src/ops/check.rs
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

namespace {

template <typename T>
__device__ __forceinline__ const T& payload(const KilotokOp& op) {
  static_assert(sizeof(T) <= sizeof(KilotokOp::payload));
  return *reinterpret_cast<const T*>(op.payload);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kilotok::MATH_THREADS, 1)
    kilotok_ops_check(const __grid_constant__ KilotokMachine machine) {
  using namespace kilotok;
  extern __shared__ __align__(128) uint8_t scratch[];
  __shared__ KilotokOp op;
  __shared__ KilotokPass pass;
  auto* command = reinterpret_cast<KilotokCommand*>(machine.command);
  if (threadIdx.x == 0) {
    op = *reinterpret_cast<const KilotokOp*>(machine.ops);
    pass = command->pass;
  }
  __syncthreads();
  const Block block{blockIdx.x,       gridDim.x, threadIdx.x, threadIdx.x / 32,
                    threadIdx.x % 32, scratch,   &pass};
  switch (op.kind) {
    case KILOTOK_OP_ROPE:
      return ops::rope(payload<KilotokRope>(op), block);
    case KILOTOK_OP_ATTENTION:
      return ops::attention(payload<KilotokAttention>(op), block);
    case KILOTOK_OP_DRAFT_ATTENTION:
      return ops::draft_attention(payload<KilotokDraftAttention>(op), block);
    case KILOTOK_OP_DRAFT_CONTEXT:
      return ops::draft_context(payload<KilotokDraftContext>(op), block);
    case KILOTOK_OP_ADJUST:
      return ops::adjust(payload<KilotokAdjust>(op), command, block);
    case KILOTOK_OP_FILTER:
      return ops::filter(payload<KilotokFilter>(op), command, block);
    case KILOTOK_OP_CHOOSE:
      return ops::choose(payload<KilotokChoose>(op), command, block);
    case KILOTOK_OP_DRAFT_CHOOSE:
      return ops::draft_choose(payload<KilotokChoose>(op), block);
    case KILOTOK_OP_LAY_OUT:
      return ops::lay_out(payload<KilotokLayOut>(op), command, block);
    case KILOTOK_OP_ACCEPT:
      return ops::accept(payload<KilotokAccept>(op), command,
                         reinterpret_cast<KilotokMailbox*>(machine.mailbox), block);
    default:
      return;
  }
}
