// Op accept: walks every run's rows as long as the target's own choice equals the row behind it.
// By block 0; nothing without runs.
//
// in:  block.pass: the rows verified; args.best of choose
// out: command->run: position, anchor, remaining, ended; mailbox: one KilotokRound per run, then
//      num_rounds; command->pass: the rows committed; args.counts where a run has penalties
// Every emitted token is the target's own choice: the drafts of an only run that equal it, and the
// choice behind the last of them, as far as the run goes on. Rows behind the emitted ones are not
// committed.
#pragma once

#include "kilotok/ops/choices.cuh"

namespace kilotok::ops {

namespace accept_op {

inline constexpr uint32_t ENDED_STOP = 1, ENDED_LENGTH = 2;

// One lane per run.
__device__ __forceinline__ void walk(KilotokRun* run, const KilotokRow* rows, uint32_t count,
                                     const uint32_t* chosen, KilotokRound& round) {
  uint32_t remaining = __ldcg(&run->remaining), token = 0;
  const uint32_t num_stops = min(__ldcg(&run->num_stops), 14u);
  round.drafted = count - 1;
  round.emitted = round.accepted = round.ended = 0;
  for (uint32_t row = 0; row < count; ++row) {
    token = chosen[row];
    const bool is_equal = row + 1 < count && rows[row + 1].token == token;
    round.tokens[row] = token;
    ++round.emitted;
    round.accepted += is_equal ? 1 : 0;
    if (remaining > 0) --remaining;
    if (remaining == 0) round.ended = ENDED_LENGTH;
    for (uint32_t i = 0; i < num_stops; ++i) {
      if (__ldcg(run->stops + i) == token) round.ended = ENDED_STOP;
    }
    if (round.ended != 0 || !is_equal) break;
  }
  run->position = __ldcg(&run->position) + round.emitted;
  run->anchor = token;
  run->remaining = remaining;
  run->ended = round.ended;
}

// Tokens of the slot, as op adjust looks at them.
__device__ __forceinline__ void count(const KilotokAccept& args, const KilotokRun* run,
                                      const KilotokRound& round) {
  if ((__ldcg(&run->rules) & KILOTOK_RULE_PENALTIES) == 0) return;
  const uint64_t slot = __ldcg(&run->slot);
  uint32_t* counts = reinterpret_cast<uint32_t*>(args.counts) + slot * args.stride;
  for (uint32_t i = 0; i < round.emitted; ++i) {
    uint32_t* word = counts + round.tokens[i];
    *word = __ldcg(word) + 1;
  }
}

}  // namespace accept_op

__device__ __forceinline__ void accept(const KilotokAccept& args, KilotokCommand* command,
                                       KilotokMailbox* mailbox, const Block& block) {
  if (block.index != 0) return;
  const uint32_t num_runs = __ldcg(&command->num_runs);
  if (num_runs == 0) return;
  const KilotokPass& pass = *block.pass;
  struct Told {
    uint32_t chosen[KILOTOK_ROWS];
    KilotokRound round[KILOTOK_ROWS];
  };
  Told& told = *reinterpret_cast<Told*>(block.scratch);
  if (block.warp < pass.rows) {
    const uint32_t token = chosen_token(args.best, block.warp, block);
    if (block.lane == 0) told.chosen[block.warp] = token;
  }
  sync_math();
  if (block.warp != 0) return;
  const uint32_t written = __ldcg(&command->written);
  const uint32_t run = block.lane;
  if (run < num_runs) {
    // Rows of several runs: one each.
    const uint32_t first = num_runs == 1 ? 0 : run, count = num_runs == 1 ? pass.rows : 1;
    KilotokRound& round = told.round[run];
    round = {};
    round.run = run;
    accept_op::walk(command->run + run, pass.row + first, count, told.chosen + first, round);
    accept_op::count(args, command->run + run, round);
    static_assert(sizeof(KilotokRound) % 16 == 0);
    auto* to = reinterpret_cast<uint4*>(mailbox->rounds + (written + run) % KILOTOK_ROUND_RING);
#pragma unroll
    for (uint32_t i = 0; i < sizeof(KilotokRound) / 16; ++i) {
      to[i] = reinterpret_cast<const uint4*>(&round)[i];
    }
    if (num_runs == 1) command->pass.rows = round.emitted;
    __threadfence_system();
  }
  __syncwarp();
  if (run == 0) {
    command->written = written + num_runs;
    *const_cast<volatile uint32_t*>(&mailbox->num_rounds) = written + num_runs;
  }
}

}  // namespace kilotok::ops
