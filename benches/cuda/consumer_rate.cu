// How fast do the math warps of one block per SM eat MXFP4 weights, against how fast memory
// delivers them?
//
//   nvcc -O3 -std=c++20 -I cuda/include -gencode=arch=compute_90a,code=sm_90a -o consumer_rate
//   benches/cuda/consumer_rate.cu
//   ./consumer_rate [seed [part of a variant's name]]     prints JSON on stdout, a table on stderr
//
// Every block streams a tape of its own through shared memory. Chunk k of warp w lies at (k WARPS +
// w) chunks from the start of the block's tape; a warp has a ring of SLOTS chunks and multiplies 32
// (or 64) rows x K by 8 columns of activations that stay in shared memory. `resident`: the ring is
// filled once and read over and over, which leaves the arithmetic alone; `stream`: from memory,
// with one block's whole ring but the chunks being read in flight. r = resident rate / read rate of
// plain 16-byte loads in the same run: spare speed is what wins back a stall. Every variant is
// first compared with float64 on random codes, scales and activations.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kilotok/mma/mxfp4_step.cuh"
#include "kilotok/ptx/bulk_copy.cuh"
#include "kilotok/ptx/mbarrier.cuh"
#include "kilotok/ptx/registers.cuh"
#include "kilotok/ptx/shared.cuh"
#include "measure.cuh"

using kilotok::layout::Mxfp4Step;
namespace ptx = kilotok::ptx;
namespace mma = kilotok::mma;
namespace mxfp4 = kilotok::mxfp4;

constexpr int K = 3072;
constexpr int STEPS = K / 64;  // of one row tile
constexpr uint32_t ROW_BYTES =
    2 * K + 64;  // the odd half line keeps the 8 columns out of each other's banks
constexpr uint32_t SHARED_BYTES = 227 * 1024;  // of a block, static part included
constexpr uint32_t MAX_TRIES = 1u << 22;       // of a wait, then the kernel stops with an error

enum class Moves { Shift, Mixed, Product };  // how the decoder moves bits to the right
enum class Feed {
  Self,
  Group
};  // who asks for chunks: each warp, or one warp of a fifth warpgroup

struct Args {
  const uint8_t* tape;
  size_t block_stride;
  const uint4* activations;  // [8][ROW_BYTES] bf16 times 2^64
  float* out;                // [block][warp][tiles_kept][rows][8] f32
  int chunks;                // per warp
  int tiles_kept;
  int is_resident;
  uint32_t two_28, two_24;  // 1 << 28 and 1 << 24, see DecodeByProduct
};

__device__ __forceinline__ void wait(uint32_t bar, uint32_t parity) {
  for (uint32_t tries = 0; !ptx::mbarrier_try_wait(bar, parity);) {
    if (++tries == MAX_TRIES) __trap();
  }
}

template <int WARPS, int CHUNK, int SLOTS, int TILES, Moves MOVES, Feed FEED>
__global__ void __launch_bounds__(WARPS * 32 + (FEED == Feed::Group ? 128 : 0), 1)
    consume(const __grid_constant__ Args args) {
  constexpr uint32_t CHUNK_BYTES = CHUNK * Mxfp4Step::BYTES;
  constexpr int CHUNKS_PER_TILE = STEPS * TILES / CHUNK;
  // Two sets of registers take turns, so that the next step is on its way while one is multiplied.
  static_assert(STEPS * TILES % CHUNK == 0 && CHUNK % (2 * TILES) == 0);
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ __align__(8) uint64_t full_bars[WARPS * SLOTS];
  __shared__ __align__(8) uint64_t empty_bars[WARPS * SLOTS];
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint8_t* rows = shared + WARPS * SLOTS * CHUNK_BYTES;
  if (threadIdx.x < WARPS * SLOTS) {
    ptx::mbarrier_init(ptx::shared_address(full_bars + threadIdx.x), 1);
    ptx::mbarrier_init(ptx::shared_address(empty_bars + threadIdx.x), 1);
    ptx::fence_mbarrier_init();
  }
  for (uint32_t i = threadIdx.x; i < 8 * ROW_BYTES / 16; i += blockDim.x) {
    reinterpret_cast<uint4*>(rows)[i] = args.activations[i];
  }
  __syncthreads();

  const uint8_t* tape = args.tape + blockIdx.x * args.block_stride;
  const int copied = args.is_resident ? min(args.chunks, SLOTS) : args.chunks;
  const auto ask = [&](uint32_t of_warp, int chunk, uint32_t slot, uint64_t policy) {
    const uint32_t bar = ptx::shared_address(full_bars + of_warp * SLOTS + slot);
    ptx::mbarrier_arrive_expect_tx(bar, CHUNK_BYTES);
    ptx::bulk_copy(ptx::shared_address(shared) + (of_warp * SLOTS + slot) * CHUNK_BYTES,
                   tape + (static_cast<size_t>(chunk) * WARPS + of_warp) * CHUNK_BYTES, CHUNK_BYTES,
                   bar, policy);
  };

  if (FEED == Feed::Group && warp >= WARPS) {
    ptx::registers_shrink<24>();
    if (warp > WARPS || lane >= WARPS) return;
    const uint64_t policy = ptx::policy_evict_first();
    uint32_t slot = 0, parity = 1;
    for (int chunk = 0; chunk < copied;) {
      wait(ptx::shared_address(empty_bars + lane * SLOTS + slot), parity);
      ask(lane, chunk, slot, policy);
      ++chunk;
      if (++slot == SLOTS) {
        slot = 0;
        parity ^= 1;
      }
    }
    return;
  }
  if constexpr (FEED == Feed::Group) ptx::registers_grow<112>();

  const uint64_t policy = ptx::policy_evict_first();
  if (FEED == Feed::Self && lane == 0) {
    for (int chunk = 0; chunk < min(copied, SLOTS); ++chunk) ask(warp, chunk, chunk, policy);
  }
  const uint32_t ring = ptx::shared_address(shared) + warp * SLOTS * CHUNK_BYTES;
  // Opaque, so that they stay in registers.
  const auto keep = [](uint32_t value) {
    asm volatile("" : "+r"(value));
    return value;
  };
  const uint32_t codes = keep(ring + Mxfp4Step::codes_offset(lane));
  const uint32_t scales = keep(ring + Mxfp4Step::scales_offset(lane));
  const uint32_t row =
      keep(ptx::shared_address(rows) + (lane / 4) * ROW_BYTES + 2 * Mxfp4Step::activation(lane, 0));
  const uint32_t full = keep(ptx::shared_address(full_bars + warp * SLOTS));
  const uint32_t empty = ptx::shared_address(empty_bars + warp * SLOTS);
  const auto decode = [&] {
    if constexpr (MOVES == Moves::Shift) return mxfp4::DecodeByShift{};
    if constexpr (MOVES == Moves::Mixed) return mxfp4::DecodeMixed{args.two_28};
    if constexpr (MOVES == Moves::Product) return mxfp4::DecodeByProduct{args.two_28, args.two_24};
  }();

  Mxfp4Step steps[2];
  uint4 x[2][2];
  // Step `i` of the chunk at these addresses; `x_at`: the lane's activations of the chunk's first K
  // step.
  const auto load = [&](int i, uint32_t codes_at, uint32_t scales_at, uint32_t x_at) {
    Mxfp4Step& to = steps[i % 2];
    to.codes[0] = ptx::load_shared_16(codes_at + i * Mxfp4Step::BYTES);
    to.codes[1] = ptx::load_shared_16(codes_at + i * Mxfp4Step::BYTES + 512);
    to.scales = ptx::load_shared_8(scales_at + i * Mxfp4Step::BYTES);
    if (i % TILES == 0) {
      const int k = i / TILES;
      x[k % 2][0] = ptx::load_shared_16(x_at + 128 * k);
      x[k % 2][1] = ptx::load_shared_16(x_at + 128 * k + 64);
    }
  };
  const auto multiply = [&](int i, mma::StepSums& sums) {
#pragma unroll
    for (int block = 0; block < 2; ++block) {
      const Mxfp4Step& step = steps[i % 2];
      mma::add_scaled(sums, mma::multiply_block(step, block, x[i / TILES % 2][block], decode),
                      block == 0 ? step.scales.x : step.scales.y);
    }
  };

  mma::StepSums sums[TILES] = {};
  uint32_t slot = 0, parity = 0;
  uint32_t codes_at = codes, scales_at = scales, x_at = row, full_at = full;
  const uint8_t* source = tape + (static_cast<size_t>(SLOTS) * WARPS + warp) * CHUNK_BYTES;
  const int last_ask = copied - SLOTS;
  const uint32_t flips = args.is_resident ? 0 : 1;
  int in_tile = 0, tile = 0;
  wait(full, 0);
  load(0, codes_at, scales_at, x_at);
  for (int chunk = 0; chunk < args.chunks; ++chunk) {
    const uint32_t old_codes = codes_at, old_full = full_at;
#pragma unroll
    for (int i = 0; i + 1 < CHUNK; ++i) {
      load(i + 1, codes_at, scales_at, x_at);
      multiply(i, sums[i % TILES]);
    }
    ++slot;
    codes_at += CHUNK_BYTES;
    scales_at += CHUNK_BYTES;
    full_at += 8;
    if (slot == SLOTS) {
      slot = 0;
      parity ^= flips;
      codes_at = codes;
      scales_at = scales;
      full_at = full;
    }
    const bool is_tile_done = ++in_tile == CHUNKS_PER_TILE;
    x_at = is_tile_done ? row : x_at + 128 * (CHUNK / TILES);
    if (chunk + 1 < args.chunks) {
      wait(full_at, parity);
      load(0, codes_at, scales_at, x_at);
    }
    multiply(CHUNK - 1, sums[(CHUNK - 1) % TILES]);
    __syncwarp();
    if constexpr (FEED == Feed::Group) {
      if (lane == 0) ptx::mbarrier_arrive(empty + (old_full - full));
    } else {
      // Lane 0's codes start where the slot does.
      if (lane == 0 && chunk < last_ask) {
        ptx::mbarrier_arrive_expect_tx(old_full, CHUNK_BYTES);
        ptx::bulk_copy(old_codes, source, CHUNK_BYTES, old_full, policy);
      }
      source += static_cast<size_t>(WARPS) * CHUNK_BYTES;
    }
    if (is_tile_done) {
      in_tile = 0;
#pragma unroll
      for (int of = 0; of < TILES; ++of) {
        float* out =
            args.out +
            (((static_cast<size_t>(blockIdx.x) * WARPS + warp) * args.tiles_kept + tile) * TILES +
             of) *
                256 +
            8 * (lane / 4) + 2 * (lane % 4);
#pragma unroll
        for (int half = 0; half < 4; ++half) {
          float* d = &sums[of].d[half / 2][2 * (half % 2)];
          *reinterpret_cast<float2*>(out + 64 * half) =
              make_float2(d[0] * mxfp4::RESULT_FACTOR, d[1] * mxfp4::RESULT_FACTOR);
          d[0] = d[1] = 0.0f;
        }
      }
      if (++tile == args.tiles_kept) tile = 0;
    }
  }
}

struct Variant {
  const char* name;
  const void* kernel;
  int warps, chunk, slots, tiles, threads;
};

template <int WARPS, int CHUNK, int SLOTS, int TILES, Moves MOVES, Feed FEED = Feed::Self>
Variant variant(const char* name) {
  return {name,
          reinterpret_cast<const void*>(consume<WARPS, CHUNK, SLOTS, TILES, MOVES, FEED>),
          WARPS,
          CHUNK,
          SLOTS,
          TILES,
          WARPS * 32 + (FEED == Feed::Group ? 128 : 0)};
}

struct Machine {
  int sms = 0;
  uint8_t* tape = nullptr;
  size_t tape_bytes = 0;
  uint4* activations = nullptr;
  float* out = nullptr;
  uint32_t seed = 0;
  std::vector<float> x;  // [8][K], rounded to bf16
};

// Submits one launch.
void launch(const Variant& v, const Machine& m, int chunks, int tiles_kept, bool is_resident) {
  const size_t chunk_bytes = static_cast<size_t>(v.chunk) * Mxfp4Step::BYTES;
  Args args{m.tape,        chunk_bytes * v.warps * (is_resident ? v.slots : chunks),
            m.activations, m.out,
            chunks,        tiles_kept,
            is_resident,   1u << 28,
            1u << 24};
  if (args.block_stride * m.sms > m.tape_bytes) std::exit(2);
  void* params[] = {&args};
  const uint32_t shared = static_cast<uint32_t>(v.warps * v.slots * chunk_bytes) + 8 * ROW_BYTES;
  CHECK(cudaLaunchKernel(v.kernel, dim3(m.sms), dim3(v.threads), params, shared, nullptr));
}

void set_activations(Machine& m, int live) {
  std::vector<uint16_t> rows(8 * ROW_BYTES / 2, 0);
  for (int n = 0; n < live; ++n) {
    for (int k = 0; k < K; ++k) {
      const __nv_bfloat16 b = __float2bfloat16(m.x[n * K + k] * mxfp4::ACTIVATION_FACTOR);
      std::memcpy(&rows[n * (ROW_BYTES / 2) + k], &b, 2);
    }
  }
  CHECK(cudaMemcpy(m.activations, rows.data(), 8 * ROW_BYTES, cudaMemcpyHostToDevice));
}

// The value of code `i` of a word, found bit by bit: which source bit decode() moves where.
double code_value(uint32_t word, int i) {
  static const int SIGN[8] = {15, 31, 13, 29, 9, 25, 19, 3},
                   HIGH[8] = {8, 24, 6, 22, 2, 18, 12, 28},
                   MIDDLE[8] = {7, 23, 5, 21, 1, 17, 11, 27},
                   LOW[8] = {14, 30, 4, 20, 0, 16, 10, 26};
  static const double VALUE[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  const int code =
      ((word >> HIGH[i]) & 1) * 4 + ((word >> MIDDLE[i]) & 1) * 2 + ((word >> LOW[i]) & 1);
  return ((word >> SIGN[i]) & 1) ? -VALUE[code] : VALUE[code];
}

// |error| / |reference| in the 2-norm over sampled row tiles of a two-tile run.
double error_of(const Variant& v, Machine& m, std::mt19937& rng) {
  const int per_tile = STEPS * v.tiles / v.chunk, chunks = 2 * per_tile;
  const size_t count = static_cast<size_t>(m.sms) * v.warps * 2 * v.tiles * 256;
  CHECK(cudaMemset(m.out, 0xff, count * sizeof(float)));
  launch(v, m, chunks, 2, false);
  std::vector<float> got(count);
  CHECK(cudaMemcpy(got.data(), m.out, count * sizeof(float), cudaMemcpyDeviceToHost));
  double error = 0, norm = 0;
  for (float value : got) {
    if (!std::isfinite(value)) return 1e9;  // also what was not written
  }
  for (int sample = 0; sample < 12; ++sample) {
    const int block = rng() % m.sms, warp = sample % v.warps, tile = rng() % 2,
              of = rng() % v.tiles;
    std::vector<double> want(256, 0.0);
    for (int k = 0; k < STEPS; ++k) {
      const int step = k * v.tiles + of, chunk = tile * per_tile + step / v.chunk;
      const size_t base =
          ((static_cast<size_t>(block) * chunks + chunk) * v.warps + warp) * v.chunk +
          step % v.chunk;
      const size_t first = base * (Mxfp4Step::BYTES / 4);
      for (int half = 0; half < 2; ++half)
        for (int lane = 0; lane < 32; ++lane)
          for (int w = 0; w < 4; ++w) {
            const uint32_t word = step_word(first + half * 128 + lane * 4 + w, m.seed, 127);
            const uint32_t scales = step_word(first + 256 + 2 * (lane / 4) + w / 2, m.seed, 127);
            for (int i = 0; i < 8; ++i) {
              const int reg = i / 2, row = 16 * half + lane / 4 + 8 * (reg & 1);
              const int at =
                  64 * k + 32 * (w / 2) + 8 * (lane % 4) + 4 * (w % 2) + 2 * (reg >> 1) + i % 2;
              const int code = (scales >> (8 * (2 * half + (reg & 1)))) & 255;
              const double weight = std::ldexp(code_value(word, i), code - 127);
              for (int n = 0; n < 8; ++n) want[row * 8 + n] += weight * m.x[n * K + at];
            }
          }
    }
    const float* out =
        &got[(((static_cast<size_t>(block) * v.warps + warp) * 2 + tile) * v.tiles + of) * 256];
    for (int i = 0; i < 256; ++i) {
      error += (out[i] - want[i]) * (out[i] - want[i]);
      norm += want[i] * want[i];
    }
  }
  return std::sqrt(error / norm);
}

// TB/s of weight bytes, scales included: median of 5 after a warm-up.
double rate(const Variant& v, const Machine& m, bool is_resident) {
  const int per_tile = STEPS * v.tiles / v.chunk;
  const size_t chunk_bytes = static_cast<size_t>(v.chunk) * Mxfp4Step::BYTES;
  const int chunks =
      static_cast<int>(m.tape_bytes / m.sms / v.warps / chunk_bytes) / per_tile * per_tile;
  const float ms = median_ms(5, [&] { launch(v, m, chunks, 1, is_resident); });
  return static_cast<double>(chunks) * v.warps * chunk_bytes * m.sms / ms / 1e9;
}

int main(int argc, char** argv) {
  using enum Moves;
  const Variant variants[] = {
      variant<8, 8, 2, 2, Mixed>("8 warps, 64 rows, mixed"),
      variant<8, 8, 2, 2, Product>("8 warps, 64 rows, product"),
      variant<10, 8, 2, 1, Product>("10 warps, product"),
      variant<12, 6, 2, 1, Mixed>("12 warps, mixed"),
      variant<12, 6, 2, 1, Product>("12 warps, product"),
      variant<12, 4, 3, 2, Product>("12 warps, 64 rows, product"),
      variant<16, 4, 2, 1, Shift>("16 warps, shift"),
      variant<16, 4, 2, 1, Mixed>("16 warps, mixed"),
      variant<16, 4, 2, 1, Product>("16 warps, product"),
      variant<16, 4, 2, 2, Mixed>("16 warps, 64 rows, mixed"),
      variant<16, 4, 2, 2, Product>("16 warps, 64 rows, product"),
      variant<20, 4, 2, 1, Mixed>("20 warps, mixed"),
      variant<20, 4, 2, 1, Product>("20 warps, product"),
      variant<16, 4, 2, 1, Mixed, Feed::Group>("16 warps, mixed, feeding group"),
  };
  Machine m;
  std::random_device device;
  m.seed = argc > 1 ? static_cast<uint32_t>(std::atoll(argv[1])) : device();
  std::mt19937 rng(m.seed);
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0));
  m.sms = properties.multiProcessorCount;
  m.tape_bytes = size_t{4} << 30;
  CHECK(cudaMalloc(&m.tape, m.tape_bytes));
  CHECK(cudaMalloc(&m.activations, 8 * ROW_BYTES));
  CHECK(cudaMalloc(&m.out, size_t{32} << 20));
  fill_steps<<<m.sms * 8, 256>>>(reinterpret_cast<uint32_t*>(m.tape), m.tape_bytes / 4, m.seed,
                                 127);
  CHECK(cudaDeviceSynchronize());
  std::normal_distribution<float> normal;
  m.x.resize(8 * K);
  for (float& x : m.x) x = __bfloat162float(__float2bfloat16(normal(rng)));
  const double ceiling = read_rate(m.tape, m.tape_bytes, reinterpret_cast<uint32_t*>(m.out), m.sms);
  std::fprintf(stderr, "%s, %d SMs, plain reads %.3f TB/s, seed %u\n", properties.name, m.sms,
               ceiling, m.seed);
  std::fprintf(stderr, "%-34s %5s %6s %8s %9s %8s %9s %9s\n", "variant", "regs", "flight",
               "resident", "r", "stream", "M=1 res.", "error");
  std::printf(
      "{\"benchmark\": \"consumer_rate\", \"seed\": %u, \"sms\": %d, \"k\": %d, \"columns\": 8, "
      "\"read_tb_per_s\": %.4f, \"variants\": [",
      m.seed, m.sms, K, ceiling);
  bool is_first = true, is_good = true;
  for (const Variant& v : variants) {
    if (argc > 2 && std::strstr(v.name, argv[2]) == nullptr) continue;
    cudaFuncAttributes attributes;
    CHECK(cudaFuncGetAttributes(&attributes, v.kernel));
    CHECK(cudaFuncSetAttribute(v.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(SHARED_BYTES - attributes.sharedSizeBytes)));
    set_activations(m, 8);
    const double error = error_of(v, m, rng);
    // Operands are exact (activations are drawn in bf16): what remains is the rounding of fp32 sums
    // over K.
    const bool is_right = error < 2e-6;
    is_good = is_good && is_right;
    const double resident = rate(v, m, true), stream = rate(v, m, false);
    set_activations(m, 1);
    const double resident_1 = rate(v, m, true), stream_1 = rate(v, m, false);
    const double flight = v.warps * (v.slots - 1) * v.chunk * Mxfp4Step::BYTES / 1024.0;
    std::fprintf(stderr, "%-34s %4d%s %4.0fKB %8.3f r = %.3f %8.3f %9.3f %9.1e%s\n", v.name,
                 attributes.numRegs, attributes.localSizeBytes ? "!" : " ", flight, resident,
                 resident / ceiling, stream, resident_1, error, is_right ? "" : "  WRONG");
    std::printf(
        "%s\n  {\"name\": \"%s\", \"warps\": %d, \"chunk_steps\": %d, \"slots\": %d, "
        "\"row_tiles\": %d, "
        "\"registers\": %d, \"local_bytes\": %zu, \"in_flight_kb\": %.1f, \"error\": %.3e, "
        "\"is_right\": %s, "
        "\"resident_tb_per_s\": %.4f, \"r\": %.4f, \"stream_tb_per_s\": %.4f, \"stream_fraction\": "
        "%.4f, "
        "\"resident_one_column_tb_per_s\": %.4f, \"stream_one_column_tb_per_s\": %.4f}",
        is_first ? "" : ",", v.name, v.warps, v.chunk, v.slots, v.tiles, attributes.numRegs,
        attributes.localSizeBytes, flight, error, is_right ? "true" : "false", resident,
        resident / ceiling, stream, stream / ceiling, resident_1, stream_1);
    is_first = false;
  }
  std::printf("\n]}\n");
  return is_good ? 0 : 1;
}
