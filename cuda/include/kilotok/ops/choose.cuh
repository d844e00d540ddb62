// Ops choose and draft_choose: the best token of each row among a block's share of the vocabulary.
//
// in:    args.logits [rows, stride] f32, stride a multiple of 4
// out:   args.best [blocks, KILOTOK_ROWS]: the block's candidates
// bytes: 4 * rows * vocab
// choose adds Gumbel noise to logits / temperature, exactly as the CPU does; in f64 only where an
// estimate says that a token may win. Rows of runs with rules come divided already (op adjust), and
// of those with filters only tokens count that op filter has kept.
#pragma once

#include "kilotok/format/noise.cuh"
#include "kilotok/ops/choices.cuh"

namespace kilotok::ops {

namespace choose_op {

// What decides about a row.
struct Rule {
  float temperature;  // 0: greedy
  uint64_t seed;
  uint64_t position;  // of the token to be chosen
  // The last token that is kept: order of its value, and its number.
  uint32_t least, last;

  __device__ __forceinline__ bool keeps(float value, uint32_t token) const {
    const uint32_t order = order_of(value);
    return order > least || (order == least && token <= last);
  }
};

__device__ __forceinline__ Rule rule_of(const KilotokChoose& args, const KilotokCommand* command,
                                        const KilotokPass& pass, uint32_t index) {
  if (__ldcg(&command->num_runs) == 0) return {0.0f, 0, 0, 0, 0};
  const KilotokRow& row = pass.row[index];
  const KilotokRun* run = command->run + row.run;
  const auto* seed = reinterpret_cast<const unsigned long long*>(&run->seed);
  Rule rule{__ldcg(&run->temperature), __ldcg(seed), static_cast<uint64_t>(row.position) + 1, 0,
            NO_TOKEN};
  const uint32_t rules = __ldcg(&run->rules);
  if (rules != 0 && rule.temperature != 0.0f) rule.temperature = 1.0f;
  if ((rules & KILOTOK_RULE_FILTERS) != 0) {
    const uint2 kept = __ldcg(reinterpret_cast<const uint2*>(args.kept) + index);
    rule.least = order_of(__uint_as_float(kept.x)), rule.last = kept.y;
  }
  return rule;
}

// Four logits of a lane.
__device__ __forceinline__ void consider_greedy(KilotokChoice& best, const float (&logit)[4],
                                                uint32_t first, uint32_t vocab) {
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    if (first + i < vocab && logit[i] > best.score) best = {logit[i], first + i};
  }
}

// `bound`: the best estimate of the warp so far.
__device__ __forceinline__ void consider_noisy(KilotokChoice& best, float& bound,
                                               const float (&logit)[4], uint32_t first,
                                               uint32_t vocab, const Rule& rule,
                                               const Noise& noise) {
  float scaled[4], about[4];
  uint32_t bits[4];
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    scaled[i] = logit[i] / rule.temperature;
    bits[i] = noise.bits(first + i);
    about[i] = scaled[i] + Noise::about(bits[i]);
    if (first + i >= vocab || !rule.keeps(logit[i], first + i)) about[i] = NAN;
    bound = fmaxf(bound, about[i]);
  }
  bound = warp_max(bound);
  const float least = bound - fminf(1e-3f + 1e-6f * fabsf(bound), 1e30f);
  uint32_t likely = 0;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    if (about[i] >= least) likely |= 1u << i;
  }
  if (likely == 0) return;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    if ((likely >> i & 1) != 0) {
      keep_better(best, scaled[i] + Noise::gumbel(bits[i]), first + i);
    }
  }
}

__device__ __forceinline__ void run(const KilotokChoose& args, const KilotokCommand* command,
                                    const Block& block) {
  const KilotokPass& pass = *block.pass;
  if (pass.rows == 0) return;
  // Every row has the same number of warps; some may be left over.
  const uint32_t parts = MATH_WARPS / pass.rows;
  const uint32_t row = block.warp % pass.rows, part = block.warp / pass.rows;
  const auto [begin, end] = share_of(args.vocab, block);
  KilotokChoice best{-INFINITY, NO_TOKEN};
  if (part < parts) {
    Rule rule{0.0f, 0, 0, 0, 0};
    if (command != nullptr) rule = rule_of(args, command, pass, row);
    const Noise noise(rule.seed, rule.position);
    const auto* logits = reinterpret_cast<const float4*>(
        reinterpret_cast<const float*>(args.logits) + static_cast<uint64_t>(row) * args.stride);
    float bound = -INFINITY;
    // All lanes turn equally often: they find the bound together.
#pragma unroll 4
    for (uint32_t at = begin + part * 32; at < end; at += parts * 32) {
      const uint32_t four = at + block.lane;
      float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (four < end) v = __ldcg(logits + four);
      const float logit[4] = {v.x, v.y, v.z, v.w};
      const uint32_t vocab = four < end ? args.vocab : 0;
      if (rule.temperature == 0.0f) {
        consider_greedy(best, logit, 4 * four, vocab);
      } else {
        consider_noisy(best, bound, logit, 4 * four, vocab, rule, noise);
      }
    }
    best = best_of_warp(best);
  }
  auto* shared = reinterpret_cast<KilotokChoice*>(block.scratch);
  if (block.lane == 0) shared[block.warp] = best;
  sync_math();
  if (block.thread < pass.rows) {
    best = shared[block.thread];
    for (uint32_t i = 1; i < parts; ++i) {
      const KilotokChoice other = shared[block.thread + i * pass.rows];
      keep_better(best, other.score, other.token);
    }
    reinterpret_cast<KilotokChoice*>(args.best)[block.index * KILOTOK_ROWS + block.thread] = best;
  }
}

}  // namespace choose_op

__device__ __forceinline__ void choose(const KilotokChoose& args, const KilotokCommand* command,
                                       const Block& block) {
  choose_op::run(args, command, block);
}

}  // namespace kilotok::ops
