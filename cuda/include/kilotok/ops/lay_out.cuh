// Op lay_out: the rows of a round, from the runs of the command. By block 0; nothing without runs.
//
// in:  command->run, command->skip; args.best of draft_choose
// out: command->pass
//   drafter: the anchor of the only run and args.rows - 1 masks
//   target:  every run's anchor; behind that of an only run, where drafts are not skipped,
//            min(drafts, args.rows - 1, remaining - 1) of the tokens drafted
#pragma once

#include "kilotok/ops/choices.cuh"

namespace kilotok::ops {

__device__ __forceinline__ void lay_out(const KilotokLayOut& args, KilotokCommand* command,
                                        const Block& block) {
  if (block.index != 0) return;
  const uint32_t num_runs = __ldcg(&command->num_runs);
  if (num_runs == 0 || block.warp >= KILOTOK_ROWS) return;
  const bool is_draft = args.is_draft != 0;
  // A warp per row.
  const uint32_t row = block.warp;
  const uint32_t which = num_runs == 1 ? 0 : min(row, num_runs - 1);
  const KilotokRun* run = command->run + which;
  uint32_t rows = num_runs;
  if (is_draft) {
    rows = args.rows;
  } else if (num_runs == 1 && (__ldcg(&command->skip) & KILOTOK_FLAG_DRAFT) == 0) {
    const uint32_t remaining = __ldcg(&run->remaining);
    rows = 1 + min(min(__ldcg(&run->drafts), args.rows - 1), remaining == 0 ? 0 : remaining - 1);
  }
  if (row >= rows) return;
  const uint32_t behind = num_runs == 1 ? row : 0;  // the anchor
  uint32_t token = KILOTOK_MASK_TOKEN;
  if (behind == 0) {
    token = __ldcg(&run->anchor);
  } else if (!is_draft) {
    token = chosen_token(args.best, row, block);
  }
  if (block.lane == 0) {
    command->pass.row[row] = {__ldcg(&run->slot), __ldcg(&run->position) + behind, token, which};
    if (row == 0) command->pass.rows = rows;
  }
}

}  // namespace kilotok::ops
