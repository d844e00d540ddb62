// Op adjust: biases, penalties and temperature, in place, for the rows whose runs have rules.
//
// in:    args.logits [rows, stride] f32, stride a multiple of 4; args.counts [slots, stride] u32;
//        args.biases [slots, stride] f32; the row's run
// out:   args.logits; args.peaks [blocks, KILOTOK_ROWS] f32: the largest of each block's share
// bytes: 4 to 16 * rows * vocab, and 4 more written
// Every operation is rounded by itself, as on the CPU.
#pragma once

#include "kilotok/ops/choices.cuh"

namespace kilotok::ops {

namespace adjust_op {

struct Rule {
  uint32_t rules;
  float temperature, repetition, presence, frequency;
};

__device__ __forceinline__ float penalised(float logit, uint32_t word, uint32_t drafted,
                                           const Rule& rule) {
  if (word == 0 && drafted == 0) return logit;
  const float r = rule.repetition;
  logit = logit > 0.0f ? logit / r : __fmul_rn(logit, r);
  const uint32_t count = (word & ~KILOTOK_IN_PROMPT) + drafted;
  if (count == 0) return logit;
  const float often = __fmul_rn(rule.frequency, static_cast<float>(count));
  return __fsub_rn(logit, __fadd_rn(rule.presence, often));
}

}  // namespace adjust_op

__device__ __forceinline__ void adjust(const KilotokAdjust& args, const KilotokCommand* command,
                                       const Block& block) {
  const KilotokPass& pass = *block.pass;
  if (pass.rows == 0) return;
  const uint32_t parts = MATH_WARPS / pass.rows;
  const uint32_t row = block.warp % pass.rows, part = block.warp / pass.rows;
  const Share share = share_of(args.vocab, block);
  const KilotokRun* run = command->run + pass.row[row].run;
  const adjust_op::Rule rule{__ldcg(&run->rules), __ldcg(&run->temperature),
                             __ldcg(&run->repetition), __ldcg(&run->presence),
                             __ldcg(&run->frequency)};
  float peak = -INFINITY;
  if (part < parts && rule.rules != 0) {
    const uint64_t slot = pass.row[row].slot;
    auto* logits = reinterpret_cast<float4*>(reinterpret_cast<float*>(args.logits) +
                                             static_cast<uint64_t>(row) * args.stride);
    const auto* counts = reinterpret_cast<const uint4*>(
        reinterpret_cast<const uint32_t*>(args.counts) + slot * args.stride);
    const auto* biases = reinterpret_cast<const float4*>(
        reinterpret_cast<const float*>(args.biases) + slot * args.stride);
    const uint32_t drafted_rows = __ldcg(&command->num_runs) == 1 ? row : 0;
    for (uint32_t four = share.begin + part * 32 + block.lane; four < share.end;
         four += parts * 32) {
      const float4 v = __ldcg(logits + four);
      float logit[4] = {v.x, v.y, v.z, v.w};
      if ((rule.rules & KILOTOK_RULE_BIAS) != 0) {
        const float4 bias = __ldcg(biases + four);
        logit[0] += bias.x;
        logit[1] += bias.y;
        logit[2] += bias.z;
        logit[3] += bias.w;
      }
      if ((rule.rules & KILOTOK_RULE_PENALTIES) != 0) {
        const uint4 c = __ldcg(counts + four);
        const uint32_t words[4] = {c.x, c.y, c.z, c.w};
        uint32_t drafted[4] = {0, 0, 0, 0};
        for (uint32_t before = 1; before <= drafted_rows; ++before) {
          const uint32_t token = pass.row[before].token;
#pragma unroll
          for (uint32_t i = 0; i < 4; ++i) drafted[i] += token == 4 * four + i ? 1 : 0;
        }
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
          logit[i] = adjust_op::penalised(logit[i], words[i], drafted[i], rule);
        }
      }
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        if (rule.temperature != 0.0f) logit[i] /= rule.temperature;
        // What lies behind the vocabulary stays as it is.
        if (4 * four + i >= args.vocab) {
          logit[i] = i == 1 ? v.y : i == 2 ? v.z : v.w;
        } else {
          peak = fmaxf(peak, logit[i]);
        }
      }
      logits[four] = make_float4(logit[0], logit[1], logit[2], logit[3]);
    }
    peak = warp_max(peak);
  }
  auto* shared = reinterpret_cast<float*>(block.scratch);
  if (block.lane == 0) shared[block.warp] = peak;
  sync_math();
  // A warp of row r is warp r, too.
  if (block.warp < pass.rows && block.lane == 0 && rule.rules != 0) {
    for (uint32_t i = 1; i < parts; ++i) peak = fmaxf(peak, shared[row + i * pass.rows]);
    // Of two zeros, which are equal to fmaxf, the larger one.
    reinterpret_cast<float*>(args.peaks)[block.index * KILOTOK_ROWS + row] = peak + 0.0f;
  }
}

}  // namespace kilotok::ops
