// Op filter: which tokens top-k, top-p and min-p leave, for the rows whose runs have filters.
//
// in:    args.scaled [rows, stride] f32, stride a multiple of 4; args.peaks [blocks, KILOTOK_ROWS]
// out:   args.kept [KILOTOK_ROWS]: value and token of the last one that is kept
// bytes: 4 * rows * vocab a pass over the row: about 5 passes, 20 where thousands of tokens are
// kept
//
// A block per row. What is kept are the first tokens in the order of their values, so the op looks
// for the last of them by halving an interval of values; a step counts the tokens above a value and
// sums their probabilities. As soon as few enough tokens are in the interval, they are listed in
// shared memory. Sums are integers, so that no order of summing changes them: exp(value - largest),
// in f32, in units of 2^-44. Against the CPU's f64 a probability is off by 2e-7 of itself at most,
// and another token is the last one only where a sum is that near to top_p.
#pragma once

#include "kilotok/ops/choices.cuh"

namespace kilotok::ops {

namespace filter_op {

// Tokens that are listed at most.
inline constexpr uint32_t LISTED = 6144;
// Blocks whose best tokens are the first guess.
inline constexpr uint32_t GUESS = 64;
// Below the order of -inf.
inline constexpr uint32_t FLOOR = 0x007FFFFEu;

struct Sum {
  uint64_t mass;
  uint32_t count;
  uint32_t reserved;
};

struct Scratch {
  uint2 list[LISTED];  // order of the value, token
  Sum sums[2][MATH_WARPS];
  uint32_t used;
  float guess;
};
static_assert(sizeof(Scratch) <= SCRATCH_BYTES);

// Whether a value is kept that `above` has above it.
struct Test {
  uint32_t count;
  double mass;
  float min_p;

  __device__ __forceinline__ bool operator()(const Sum& above, uint32_t order, float peak) const {
    if (above.count == 0) return true;
    if (above.count >= count || static_cast<double>(above.mass) >= mass) return false;
    return min_p <= 0.0f || exp(static_cast<double>(value_of(order) - peak)) >= min_p;
  }
};

struct Row {
  const float4* values;
  uint32_t vocab;
  float peak;
  Scratch& shared;
  const Block& block;
  uint32_t turn = 0;
  // The tokens listed: above `low` and not above `high`; above that there are `beyond`.
  bool has_list = false;
  uint32_t low = 0, high = 0, listed = 0;
  Sum beyond{};

  __device__ __forceinline__ uint64_t mass_of(float value) const {
    return static_cast<uint64_t>(expf(value - peak) * 0x1p44f);
  }

  // What `look` says of every token, summed up: it gets order and token, and adds to a sum.
  template <typename Look>
  __device__ __forceinline__ Sum sum(bool of_list, const Look& look) {
    Sum mine{};
    if (of_list) {
      for (uint32_t i = block.thread; i < listed; i += MATH_THREADS) {
        const uint2 entry = shared.list[i];
        look(mine, entry.x, entry.y);
      }
    } else {
      const uint32_t fours = (vocab + 3) / 4;
#pragma unroll 2
      for (uint32_t four = block.thread; four < fours; four += MATH_THREADS) {
        const float4 v = __ldcg(values + four);
        const float value[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
          if (4 * four + i < vocab) look(mine, order_of(value[i]), 4 * four + i);
        }
      }
    }
#pragma unroll
    for (uint32_t distance = 16; distance > 0; distance /= 2) {
      mine.mass += __shfl_xor_sync(0xFFFFFFFFu, mine.mass, distance);
      mine.count += __shfl_xor_sync(0xFFFFFFFFu, mine.count, distance);
    }
    // Two places in turns, so that one barrier is enough.
    turn ^= 1;
    if (block.lane == 0) shared.sums[turn][block.warp] = mine;
    sync_math();
    Sum all{};
    for (uint32_t warp = 0; warp < MATH_WARPS; ++warp) {
      all.mass += shared.sums[turn][warp].mass;
      all.count += shared.sums[turn][warp].count;
    }
    return all;
  }

  __device__ __forceinline__ Sum above(uint32_t order) {
    const bool of_list = has_list && order >= low && order <= high;
    Sum all = sum(of_list, [&](Sum& mine, uint32_t other, uint32_t) {
      if (other <= order) return;
      ++mine.count;
      mine.mass += mass_of(value_of(other));
    });
    if (of_list) {
      all.count += beyond.count;
      all.mass += beyond.mass;
    }
    return all;
  }

  __device__ __forceinline__ void make_list(uint32_t from, uint32_t to, const Sum& above_it) {
    if (block.thread == 0) shared.used = 0;
    sync_math();
    sum(false, [&](Sum&, uint32_t order, uint32_t token) {
      if (order <= from || order > to) return;
      const uint32_t at = atomicAdd(&shared.used, 1u);
      if (at < LISTED) shared.list[at] = make_uint2(order, token);
    });
    has_list = true;
    low = from, high = to, beyond = above_it;
    listed = min(shared.used, LISTED);
  }

  // Tokens with a value up to a token.
  __device__ __forceinline__ uint32_t equal_to(uint32_t order, uint32_t token) {
    const bool of_list = has_list && order > low && order <= high;
    return sum(of_list, [&](Sum& mine, uint32_t other,
                            uint32_t at) { mine.count += other == order && at <= token ? 1 : 0; })
        .count;
  }
};

// The largest and the `nth` largest peak of all blocks.
__device__ __forceinline__ float2 peaks_of(uint64_t peaks, uint32_t blocks, uint32_t row,
                                           uint32_t nth, Scratch& shared, const Block& block) {
  const auto* from = reinterpret_cast<const float*>(peaks) + row;
  float most = -INFINITY;
  for (uint32_t i = block.lane; i < blocks; i += 32) {
    most = fmaxf(most, __ldcg(from + i * KILOTOK_ROWS));
  }
  most = warp_max(most);
  for (uint32_t i = block.thread; i < blocks; i += MATH_THREADS) {
    const float mine = __ldcg(from + i * KILOTOK_ROWS);
    uint32_t better = 0;
    for (uint32_t j = 0; j < blocks; ++j) {
      const float other = __ldcg(from + j * KILOTOK_ROWS);
      better += other > mine || (other == mine && j < i) ? 1 : 0;
    }
    if (better + 1 == nth) shared.guess = mine;
  }
  sync_math();
  return make_float2(most, shared.guess);
}

// The value between two others, by the numbers or by their order in turns: either way alone may
// take many steps.
__device__ __forceinline__ uint32_t between(uint32_t low, uint32_t high, uint32_t step) {
  const uint32_t middle = low + (high - low) / 2;
  if (step % 2 != 0) return middle;
  const uint32_t other = order_of(0.5f * value_of(low) + 0.5f * value_of(high));
  return other > low && other < high ? other : middle;
}

__device__ __forceinline__ void filter_row(const KilotokFilter& args, const KilotokRun* run,
                                           uint32_t index, const Block& block) {
  auto& shared = *reinterpret_cast<Scratch*>(block.scratch);
  auto* kept = reinterpret_cast<KilotokChoice*>(args.kept) + index;
  const uint32_t asked = __ldcg(&run->top_k);
  const float top_p = __ldcg(&run->top_p), min_p = __ldcg(&run->min_p);
  const uint32_t top_k = asked == 0 ? args.vocab : min(asked, args.vocab);
  const uint32_t nth = min(min(top_k, GUESS), args.blocks);
  const float2 peaks = peaks_of(args.peaks, args.blocks, index, nth, shared, block);
  if (peaks.x == -INFINITY) {
    if (block.thread == 0) *kept = {-INFINITY, 0};
    return;
  }
  const float* values =
      reinterpret_cast<const float*>(args.scaled) + static_cast<uint64_t>(index) * args.stride;
  Row row{reinterpret_cast<const float4*>(values), args.vocab, peaks.x, shared, block};
  const uint32_t top = order_of(peaks.x);
  const Sum all = row.above(FLOOR);
  uint32_t low = FLOOR, high = top;
  Sum at_low = all, at_high{};
  double limit = INFINITY;
  // First the sum that top_p is a share of, then the first value that is not kept, then the last
  // one that is.
  for (uint32_t phase = top_p < 1.0f && top_k < all.count ? 0 : 1; phase < 3; ++phase) {
    Test test{top_k, INFINITY, 0.0f};
    if (phase == 1) {
      if (top_p < 1.0f) {
        uint64_t total = all.mass;
        if (top_k < all.count) {
          // Of the tokens with the last value as many as there is room for.
          const uint32_t some = min(top_k - at_high.count, at_low.count - at_high.count);
          total = at_high.mass + some * row.mass_of(value_of(high));
        }
        limit = static_cast<double>(top_p) * static_cast<double>(total);
      }
      test = {top_k, limit, min_p};
    } else if (phase == 2) {
      test.count = at_low.count;
    }
    high = top, at_high = {};
    uint32_t first = FLOOR;
    if (low == FLOOR && all.count > LISTED) first = order_of(peaks.y) - 1;
    for (uint32_t step = 0; high - low > 1; ++step) {
      const bool has_list = row.has_list && low >= row.low && high <= row.high;
      if (!has_list && at_low.count - at_high.count <= LISTED) row.make_list(low, high, at_high);
      uint32_t middle = between(low, high, step);
      if (step == 0 && first > low && first < high) middle = first;
      const Sum above = row.above(middle);
      if (test(above, middle, peaks.x)) {
        high = middle, at_high = above;
      } else {
        low = middle, at_low = above;
      }
    }
  }
  // Of the tokens with that value the first ones.
  const uint64_t mass = row.mass_of(value_of(high));
  uint32_t least = 1, most = at_low.count - at_high.count;
  while (least < most) {
    const uint32_t middle = least + (most - least + 1) / 2, before = at_high.count + middle - 1;
    const double sum = static_cast<double>(at_high.mass + (middle - 1) * mass);
    if (before < top_k && sum < limit) {
      least = middle;
    } else {
      most = middle - 1;
    }
  }
  uint32_t token = 0, last = args.vocab - 1;
  while (token < last) {
    const uint32_t middle = token + (last - token) / 2;
    if (row.equal_to(high, middle) >= least) {
      last = middle;
    } else {
      token = middle + 1;
    }
  }
  if (block.thread == 0) *kept = {value_of(high), token};
}

}  // namespace filter_op

__device__ __forceinline__ void filter(const KilotokFilter& args, const KilotokCommand* command,
                                       const Block& block) {
  const KilotokPass& pass = *block.pass;
  for (uint32_t row = block.index; row < pass.rows; row += block.count) {
    const KilotokRun* run = command->run + pass.row[row].run;
    if ((__ldcg(&run->rules) & KILOTOK_RULE_FILTERS) == 0) continue;
    filter_op::filter_row(args, run, row, block);
    sync_math();
  }
}

}  // namespace kilotok::ops
