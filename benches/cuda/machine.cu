// The machine itself, without a checkpoint: ops against float64, persistent against graph mode bit
// by bit, and the time of a stack of layers in both modes against the bytes that it has to read.
//
//   nvcc -O3 -std=c++20 --expt-relaxed-constexpr -I cuda/include \
//     -gencode=arch=compute_90a,code=sm_90a -o machine benches/cuda/machine.cu
//   ./machine check | bench         prints JSON on stdout, a table on stderr
#include <cuda_runtime.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../../cuda/kernels/engine.cu"
#include "matrices.cuh"
#include "measure.cuh"

namespace {

template <typename T>
T* device_copy(const std::vector<T>& from) {
  T* to;
  CHECK(cudaMalloc(&to, std::max<size_t>(from.size() * sizeof(T), 16)));
  CHECK(cudaMemcpy(to, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
  return to;
}

template <typename T>
std::vector<T> host_copy(const T* from, size_t count) {
  std::vector<T> to(count);
  CHECK(cudaMemcpy(to.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost));
  return to;
}

template <typename T>
T* zeros(size_t count) {
  T* to;
  CHECK(cudaMalloc(&to, count * sizeof(T)));
  CHECK(cudaMemset(to, 0, count * sizeof(T)));
  return to;
}

template <typename T>
KilotokOp record(uint32_t kind, const T& payload, uint32_t flags = 0) {
  KilotokOp op{};
  op.kind = kind;
  op.flags = flags;
  static_assert(sizeof(T) <= sizeof(op.payload));
  std::memcpy(op.payload, &payload, sizeof(T));
  return op;
}

// Runs a program in either mode.
class Machine {
 public:
  explicit Machine(const std::vector<KilotokOp>& program, uint32_t blocks = 0)
      : count_(program.size()) {
    cudaDeviceProp properties;
    CHECK(cudaGetDeviceProperties(&properties, 0));
    args_.num_blocks = blocks == 0 ? properties.multiProcessorCount : blocks;
    args_.ops = address(device_copy(program));
    command_ = zeros<KilotokCommand>(1);
    args_.command = address(command_);
    CHECK(cudaHostAlloc(&mailbox_, sizeof(KilotokMailbox), cudaHostAllocMapped));
    std::memset(mailbox_, 0, sizeof(KilotokMailbox));
    args_.mailbox = address(mailbox_);
    barrier_ = zeros<uint32_t>(32);
    args_.barrier = address(barrier_);
    args_.idle_ms = 200;
    CHECK(cudaFuncSetAttribute(kilotok_persistent, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               KILOTOK_SHARED_BYTES));
    CHECK(cudaFuncSetAttribute(kilotok_graph_op, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               KILOTOK_SHARED_BYTES));
    CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }

  // Milliseconds of the command, as the host sees it.
  double persistent(KilotokCommand command) {
    if (!is_resident_) start();
    command.num_ops = count_;
    volatile KilotokMailbox* box = mailbox_;
    std::memcpy(&mailbox_->command, &command, sizeof(command));
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const auto begin = std::chrono::steady_clock::now();
    box->doorbell = ++number_;
    while (box->finished != number_) {
      const cudaError_t status = cudaStreamQuery(stream_);
      if (status != cudaErrorNotReady) CHECK(status);
      if (box->error != 0 || std::chrono::steady_clock::now() - begin > std::chrono::seconds(4)) {
        std::fprintf(stderr, "machine: error %u, waiting %u %u %u %u, finished %u of %u\n",
                     box->error, box->waiting[0], box->waiting[1], box->waiting[2], box->waiting[3],
                     box->finished, number_);
        std::exit(1);
      }
    }
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
        .count();
  }

  void park() {
    if (!is_resident_) return;
    CHECK(cudaStreamSynchronize(stream_));  // it parks by itself
    is_resident_ = false;
    mailbox_->parked = 0;
  }

  // Milliseconds of one graph of all ops, `rounds` times.
  float graph(KilotokCommand command, uint32_t rounds) {
    park();
    command.num_ops = count_;
    CHECK(cudaMemcpy(command_, &command, sizeof(command), cudaMemcpyHostToDevice));
    CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    for (uint32_t round = 0; round < rounds; ++round) {
      for (uint32_t op = 0; op < count_; ++op) launch_op(op, op > 0 || round > 0);
    }
    cudaGraph_t graph;
    CHECK(cudaStreamEndCapture(stream_, &graph));
    cudaGraphExec_t ready;
    CHECK(cudaGraphInstantiate(&ready, graph, 0));
    const float ms = median_ms(5, [&] { CHECK(cudaGraphLaunch(ready, nullptr)); });
    CHECK(cudaGraphExecDestroy(ready));
    CHECK(cudaGraphDestroy(graph));
    return ms;
  }

 private:
  void start() {
    CHECK(cudaMemsetAsync(barrier_, 0, 128, stream_));
    args_.op = number_;
    void* params[] = {&args_};
    CHECK(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(kilotok_persistent),
                                      dim3(args_.num_blocks), dim3(KILOTOK_BLOCK_THREADS), params,
                                      KILOTOK_SHARED_BYTES, stream_));
    is_resident_ = true;
  }

  void launch_op(uint32_t op, bool is_dependent) {
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(args_.num_blocks);
    config.blockDim = dim3(KILOTOK_BLOCK_THREADS);
    config.dynamicSmemBytes = KILOTOK_SHARED_BYTES;
    config.stream = stream_;
    config.attrs = &attribute;
    config.numAttrs = is_dependent ? 1 : 0;
    KilotokMachine args = args_;
    args.op = op;
    CHECK(cudaLaunchKernelEx(&config, kilotok_graph_op, args));
  }

  uint32_t count_;
  KilotokMachine args_{};
  KilotokCommand* command_;
  KilotokMailbox* mailbox_;
  uint32_t* barrier_;
  cudaStream_t stream_;
  uint32_t number_ = 0;
  bool is_resident_ = false;
};

KilotokCommand command_of_rows(uint32_t rows, uint32_t rounds = 1) {
  KilotokCommand command{};
  command.rounds = rounds;
  command.pass.rows = rows;
  return command;
}

int failures = 0;
void expect(bool is_true, const std::string& what, double value) {
  std::fprintf(stderr, "  %-66s %10.3g %s\n", what.c_str(), value, is_true ? "" : "FAILED");
  failures += !is_true;
}

struct Residual {
  std::vector<float> start, weight;
  float *residual, *squares;
  uint16_t* x;
  uint32_t stride;

  explicit Residual(uint32_t width) : stride(up(width, 128)) {
    start.assign(KILOTOK_ROWS * stride, 0);
    weight.assign(stride, 0);
    for (uint32_t i = 0; i < width; ++i) weight[i] = uniform(0.5f, 1.5f);
    for (uint32_t r = 0; r < KILOTOK_ROWS; ++r) {
      for (uint32_t i = 0; i < width; ++i) start[r * stride + i] = uniform(-1, 1);
    }
    residual = device_copy(start);
    squares = zeros<float>(stride / 32 * KILOTOK_ROWS);
    x = zeros<uint16_t>(KILOTOK_ROWS * stride);
  }
  void reset() {
    CHECK(cudaMemcpy(residual, start.data(), start.size() * 4, cudaMemcpyHostToDevice));
  }
  KilotokResidual args() const {
    return {address(residual),
            address(device_copy(weight)),
            address(x),
            address(squares),
            0,
            stride,
            stride,
            0,
            0};
  }
};

void check_linear(uint32_t format, uint32_t rows_out, uint32_t cols, uint32_t store) {
  const Weights w = random_weights(format, rows_out, cols);
  const bool is_swiglu = store == KILOTOK_STORE_SWIGLU;
  const uint32_t inter = rows_out / 2;
  const uint32_t tiles = is_swiglu ? (inter + 15) / 16 : (rows_out + 31) / 32;
  const auto steps =
      pack(format, tiles, cols, [&](uint32_t tile, uint32_t row) -> std::pair<const Weights*, int> {
        uint32_t at = tile * 32 + row;
        if (is_swiglu) {
          at = tile * 16 + row % 16;
          if (at >= inter) return {&w, -1};
          return {&w, static_cast<int>(row < 16 ? at : at + inter)};
        }
        return {&w, at < rows_out ? static_cast<int>(at) : -1};
      });
  const uint32_t x_stride = up(cols, 256);
  std::vector<uint16_t> x(KILOTOK_ROWS * x_stride, 0);
  std::vector<float> squares(3 * KILOTOK_ROWS);
  for (uint32_t r = 0; r < KILOTOK_ROWS; ++r) {
    for (uint32_t i = 0; i < cols; ++i) x[r * x_stride + i] = to_bf16(uniform(-1, 1));
    for (uint32_t p = 0; p < 3; ++p) squares[p * KILOTOK_ROWS + r] = uniform(1, 2);
  }
  Residual residual(rows_out);
  float* out = zeros<float>(KILOTOK_ROWS * up(rows_out, 128));
  KilotokLinear args{};
  args.weights = matrix_of(format, tiles, cols, device_copy(steps));
  args.norm = {address(device_copy(squares)), 3, 7.0f, 1e-5f, 0};
  args.to = residual.args();
  args.x = address(device_copy(x));
  args.out = address(out);
  args.x_stride = x_stride;
  args.out_stride = up(rows_out, 128);
  args.out_width = is_swiglu ? inter : rows_out;
  args.store = store;
  const std::string name = "linear format " + std::to_string(format) + " store " +
                           std::to_string(store) + " " + std::to_string(rows_out) + "x" +
                           std::to_string(cols);
  const auto read = [&](uint32_t r, uint32_t i, const std::vector<float>& o) {
    if (is_swiglu)
      return from_bf16(reinterpret_cast<const uint16_t*>(o.data())[r * args.out_stride + i]);
    return o[r * args.out_stride + i];
  };
  std::vector<std::vector<float>> results;
  const std::vector<KilotokOp> program = {record(KILOTOK_OP_LINEAR, args)};
  for (uint32_t blocks : {0u, 5u}) {
    Machine machine(program, blocks);
    for (uint32_t rows : {8u, 1u, 3u}) {
      for (bool is_graph : {false, true}) {
        residual.reset();
        if (is_graph) {
          if (store == KILOTOK_STORE_RESIDUAL) continue;  // timing repeats it
          machine.graph(command_of_rows(rows), 1);
        } else {
          machine.persistent(command_of_rows(rows));
        }
        machine.park();
        std::vector<float> got = store == KILOTOK_STORE_RESIDUAL
                                     ? host_copy(residual.residual, KILOTOK_ROWS * residual.stride)
                                     : host_copy(out, KILOTOK_ROWS * args.out_stride);
        if (results.empty()) results.push_back(got);
        const auto& base = results[0];
        double worst = 0;
        const uint32_t width = args.out_width;
        uint32_t unequal = 0;
        for (uint32_t r = 0; r < rows; ++r) {
          const float sum = squares[r] + squares[8 + r] + squares[16 + r];
          const double rms = 1.0 / std::sqrt(sum / 7.0 + 1e-5);
          const auto dot = [&](uint32_t row) {
            double s = 0, a = 0;
            for (uint32_t k = 0; k < cols; ++k) {
              const double p = static_cast<double>(w.values[static_cast<size_t>(row) * cols + k]) *
                               from_bf16(x[r * x_stride + k]);
              s += p;
              a += std::fabs(p);
            }
            return std::pair{s * rms, a * rms};
          };
          for (uint32_t i = 0; i < width; ++i) {
            const float value =
                store == KILOTOK_STORE_RESIDUAL ? got[r * residual.stride + i] : read(r, i, got);
            const float first =
                store == KILOTOK_STORE_RESIDUAL ? base[r * residual.stride + i] : read(r, i, base);
            unequal += std::memcmp(&value, &first, 4) != 0;
            if (blocks != 0 || rows != 8 || is_graph) continue;
            auto [want, scale] = dot(i);
            if (is_swiglu) {
              auto [u, us] = dot(i + inter);
              want = want / (1 + std::exp(-want)) * u;
              scale = scale * us * 0 + std::fabs(want) + 0.02;
              worst = std::max(worst, std::fabs(value - want) / scale / 100);
              continue;
            }
            if (store == KILOTOK_STORE_RESIDUAL)
              want += residual.start[r * residual.stride + i], scale += 1;
            worst = std::max(worst, std::fabs(value - want) / scale);
          }
        }
        if (blocks == 0 && rows == 8 && !is_graph) expect(worst < 1e-4, name, worst);
        if (unequal != 0)
          expect(false,
                 name + " bits differ at blocks " + std::to_string(blocks) + " rows " +
                     std::to_string(rows) + (is_graph ? " graph" : ""),
                 unequal);
      }
    }
  }
}

void check_moe(uint32_t format, uint32_t experts, uint32_t top_k, uint32_t hidden, uint32_t inter,
               uint32_t kind, uint32_t rows) {
  std::vector<Weights> gate_up, down;
  std::vector<uint8_t> up_steps, down_steps;
  const uint32_t up_tiles = (inter + 15) / 16, down_tiles = (hidden + 31) / 32;
  for (uint32_t e = 0; e < experts; ++e) {
    gate_up.push_back(random_weights(format, 2 * inter, hidden));
    down.push_back(random_weights(format, hidden, inter));
  }
  for (uint32_t e = 0; e < experts; ++e) {
    auto u = pack(format, up_tiles, hidden,
                  [&](uint32_t tile, uint32_t row) -> std::pair<const Weights*, int> {
                    const uint32_t at = tile * 16 + row % 16;
                    if (at >= inter) return {&gate_up[e], -1};
                    return {&gate_up[e], static_cast<int>(row < 16 ? at : at + inter)};
                  });
    up_steps.insert(up_steps.end(), u.begin(), u.end());
    auto d = pack(format, down_tiles, inter,
                  [&](uint32_t tile, uint32_t row) -> std::pair<const Weights*, int> {
                    const uint32_t at = tile * 32 + row;
                    return {&down[e], at < hidden ? static_cast<int>(at) : -1};
                  });
    down_steps.insert(down_steps.end(), d.begin(), d.end());
  }
  const uint32_t x_stride = up(hidden, 256), h_stride = up(inter, 256);
  std::vector<uint16_t> x(KILOTOK_ROWS * x_stride, 0);
  for (uint32_t r = 0; r < KILOTOK_ROWS; ++r) {
    for (uint32_t i = 0; i < hidden; ++i) x[r * x_stride + i] = to_bf16(uniform(-1, 1));
  }
  std::vector<float> router(static_cast<size_t>(experts) * hidden), bias(experts);
  for (auto& v : router) v = uniform(-0.1f, 0.1f);
  for (auto& v : bias) v = uniform(-0.1f, 0.1f);
  Residual residual(hidden);
  float* logits = zeros<float>(KILOTOK_ROWS * experts);
  uint16_t* h = zeros<uint16_t>(KILOTOK_PAIRS * h_stride);
  KilotokRoutes* routes = zeros<KilotokRoutes>(1);
  KilotokRouter r{};
  r.weights = address(device_copy(router));
  r.x = address(device_copy(x));
  r.logits = address(logits);
  r.x_stride = x_stride;
  r.experts = experts;
  r.width = hidden;
  r.format = KILOTOK_F32;
  KilotokMoeUp u{};
  u.weights = matrix_of(format, up_tiles, hidden, device_copy(up_steps), up_steps.size() / experts);
  u.activation = {kind == KILOTOK_ROUTER_SOFTMAX ? 1u : 0u, 1.702f, 7.0f, 0};
  u.x = r.x;
  u.hidden = address(h);
  u.logits = r.logits;
  u.router_bias = address(device_copy(bias));
  u.routes = address(routes);
  u.x_stride = x_stride;
  u.hidden_stride = h_stride;
  u.out_width = inter;
  u.experts = experts;
  u.top_k = top_k;
  u.router = kind;
  u.router_scale = 1.5f;
  KilotokMoeDown d{};
  d.weights =
      matrix_of(format, down_tiles, inter, device_copy(down_steps), down_steps.size() / experts);
  d.to = residual.args();
  d.hidden = u.hidden;
  d.routes = u.routes;
  d.hidden_stride = h_stride;
  d.top_k = top_k;
  Machine machine(
      {record(KILOTOK_OP_ROUTER, r), record(KILOTOK_OP_MOE_UP, u), record(KILOTOK_OP_MOE_DOWN, d)});
  residual.reset();
  machine.persistent(command_of_rows(rows));
  machine.park();
  const auto got = host_copy(residual.residual, KILOTOK_ROWS * residual.stride);
  double worst = 0;
  for (uint32_t row = 0; row < rows; ++row) {
    std::vector<double> score(experts), key(experts);
    for (uint32_t e = 0; e < experts; ++e) {
      double s = 0;
      for (uint32_t k = 0; k < hidden; ++k)
        s += static_cast<double>(router[e * hidden + k]) * from_bf16(x[row * x_stride + k]);
      score[e] = kind == KILOTOK_ROUTER_SOFTMAX ? s + bias[e] : 1 / (1 + std::exp(-s));
      key[e] = kind == KILOTOK_ROUTER_SOFTMAX ? score[e] : score[e] + bias[e];
    }
    std::vector<uint32_t> chosen;
    std::vector<double> gates;
    double sum = 0;
    for (uint32_t rank = 0; rank < top_k; ++rank) {
      uint32_t best = 0;
      for (uint32_t e = 1; e < experts; ++e)
        if (key[e] > key[best]) best = e;
      chosen.push_back(best);
      gates.push_back(kind == KILOTOK_ROUTER_SOFTMAX ? std::exp(score[best] - score[chosen[0]])
                                                     : score[best]);
      sum += gates.back();
      key[best] = -1e30;
    }
    std::vector<double> total(hidden, 0), scale(hidden, 1);
    for (uint32_t rank = 0; rank < top_k; ++rank) {
      double g = gates[rank];
      if (kind != KILOTOK_ROUTER_SIGMOID) g /= sum;
      if (kind != KILOTOK_ROUTER_SOFTMAX) g *= 1.5;
      std::vector<double> a(inter);
      for (uint32_t i = 0; i < inter; ++i) {
        double gate = 0, upv = 0;
        for (uint32_t k = 0; k < hidden; ++k) {
          const double v = from_bf16(x[row * x_stride + k]);
          gate += v * gate_up[chosen[rank]].values[static_cast<size_t>(i) * hidden + k];
          upv += v * gate_up[chosen[rank]].values[static_cast<size_t>(i + inter) * hidden + k];
        }
        if (kind == KILOTOK_ROUTER_SOFTMAX) {
          gate = std::min(gate, 7.0);
          upv = std::clamp(upv, -7.0, 7.0);
          a[i] = gate / (1 + std::exp(-1.702 * gate)) * (upv + 1);
        } else {
          a[i] = gate / (1 + std::exp(-gate)) * upv;
        }
        a[i] = from_bf16(to_bf16(g * a[i]));
      }
      for (uint32_t o = 0; o < hidden; ++o) {
        double s = 0;
        for (uint32_t i = 0; i < inter; ++i) {
          const double p = a[i] * down[chosen[rank]].values[static_cast<size_t>(o) * inter + i];
          s += p;
          scale[o] += std::fabs(p);
        }
        total[o] += s;
      }
    }
    for (uint32_t o = 0; o < hidden; ++o) {
      const double want = total[o] + residual.start[row * residual.stride + o];
      worst = std::max(worst, std::fabs(got[row * residual.stride + o] - want) / scale[o]);
    }
  }
  // bf16 of hidden may round the other way: 2^-9 of a term.
  const std::string name = "moe format " + std::to_string(format) + " " + std::to_string(experts) +
                           "/" + std::to_string(top_k) + " " + std::to_string(hidden) + "x" +
                           std::to_string(inter) + " rows " + std::to_string(rows);
  expect(worst < 1e-3, name, worst);
  // Graph mode, a single time: capture cost is no matter here, but the median repeats it five
  // times.
  residual.reset();
  Machine again(
      {record(KILOTOK_OP_ROUTER, r), record(KILOTOK_OP_MOE_UP, u), record(KILOTOK_OP_MOE_DOWN, d)},
      17);
  again.persistent(command_of_rows(rows));
  again.park();
  const auto other = host_copy(residual.residual, KILOTOK_ROWS * residual.stride);
  uint32_t unequal = 0;
  for (uint32_t row = 0; row < rows; ++row)
    unequal +=
        std::memcmp(&got[row * residual.stride], &other[row * residual.stride], 4 * hidden) != 0;
  expect(unequal == 0, name + ": 17 blocks, same bits", unequal);
}

__global__ void fill(uint32_t* to, size_t words, uint32_t format, uint32_t seed) {
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < words;
       i += static_cast<size_t>(gridDim.x) * blockDim.x) {
    uint32_t v = (i + seed) * 2654435761u;
    v ^= v >> 15;
    v *= 2246822519u;
    v ^= v >> 13;
    if (format == KILOTOK_MXFP4 && i % 272 >= 256) v = 0x78787878u;
    if (format == KILOTOK_FP8 && i % 1056 >= 1024) v = 0x3a000000u;
    if (format == KILOTOK_BF16) v = (v & 0x807F807Fu) | 0x3C003C00u;
    to[i] = v;
  }
}

uint8_t* random_steps(uint32_t format, size_t bytes) {
  uint8_t* steps;
  CHECK(cudaMalloc(&steps, bytes));
  static uint32_t seed = 0;
  fill<<<1024, 256>>>(reinterpret_cast<uint32_t*>(steps), bytes / 4, format, seed += 977);
  CHECK(cudaGetLastError());
  return steps;
}

struct LayerShape {
  const char* name;
  uint32_t layers, hidden, qkv, attention, experts, top_k, inter, dense_format, router_format;
};

// A stack of layers without attention: what reads weights.
void bench_layers(const LayerShape& s, double ceiling, bool is_first) {
  std::vector<KilotokOp> program;
  Residual residual(s.hidden);
  const uint32_t x_stride = up(s.hidden, 256), a_stride = up(s.attention, 256),
                 h_stride = up(s.inter, 256);
  float* qkv = zeros<float>(KILOTOK_ROWS * up(s.qkv, 128));
  uint16_t* attention = zeros<uint16_t>(KILOTOK_ROWS * a_stride);
  uint16_t* hidden = zeros<uint16_t>(KILOTOK_PAIRS * h_stride);
  float* logits = zeros<float>(KILOTOK_ROWS * s.experts);
  KilotokRoutes* routes = zeros<KilotokRoutes>(1);
  std::vector<float> bias(s.experts, 0.0f);
  float* router_bias = device_copy(bias);
  double fixed = 0, per_expert = 0;
  const KilotokNorm norm = {address(residual.squares), s.hidden / 32, static_cast<float>(s.hidden),
                            1e-5f, 0};
  KilotokResidual to = residual.args();
  to.x_stride = x_stride;
  for (uint32_t layer = 0; layer < s.layers; ++layer) {
    const auto linear = [&](uint32_t format, uint32_t rows, uint32_t cols, uint64_t x,
                            uint32_t stride, bool is_residual) {
      const uint32_t tiles = (rows + 31) / 32;
      const size_t bytes = static_cast<size_t>(tiles) *
                           ((cols + depth_of(format) - 1) / depth_of(format)) * bytes_of(format);
      fixed += bytes;
      KilotokLinear a{};
      a.weights = matrix_of(format, tiles, cols, random_steps(format, bytes));
      if (!is_residual) a.norm = norm;
      a.to = to;
      a.x = x;
      a.out = address(qkv);
      a.x_stride = stride;
      a.out_stride = up(s.qkv, 128);
      a.out_width = rows;
      a.store = is_residual ? KILOTOK_STORE_RESIDUAL : KILOTOK_STORE_F32;
      program.push_back(record(KILOTOK_OP_LINEAR, a));
    };
    linear(s.dense_format, s.qkv, s.hidden, address(residual.x), x_stride, false);
    linear(s.dense_format, s.hidden, s.attention, address(attention), a_stride, true);
    KilotokRouter r{};
    const size_t router_bytes =
        static_cast<size_t>(s.experts) * s.hidden * (s.router_format == KILOTOK_F32 ? 4 : 2);
    r.weights = address(random_steps(KILOTOK_BF16, router_bytes));
    fixed += router_bytes;
    r.x = address(residual.x);
    r.logits = address(logits);
    r.norm = norm;
    r.x_stride = x_stride;
    r.experts = s.experts;
    r.width = s.hidden;
    r.format = s.router_format;
    program.push_back(record(KILOTOK_OP_ROUTER, r));
    const uint32_t up_tiles = (s.inter + 15) / 16, down_tiles = (s.hidden + 31) / 32;
    const size_t up_bytes = static_cast<size_t>(up_tiles) * ((s.hidden + 63) / 64) * 1088;
    const size_t down_bytes = static_cast<size_t>(down_tiles) * ((s.inter + 63) / 64) * 1088;
    per_expert += up_bytes + down_bytes;
    KilotokMoeUp u{};
    u.weights = matrix_of(KILOTOK_MXFP4, up_tiles, s.hidden,
                          random_steps(KILOTOK_MXFP4, up_bytes * s.experts), up_bytes);
    u.norm = norm;
    u.x = address(residual.x);
    u.hidden = address(hidden);
    u.logits = address(logits);
    u.router_bias = address(router_bias);
    u.routes = address(routes);
    u.x_stride = x_stride;
    u.hidden_stride = h_stride;
    u.out_width = s.inter;
    u.experts = s.experts;
    u.top_k = s.top_k;
    u.router = KILOTOK_ROUTER_SIGMOID_NORMALIZED;
    u.router_scale = 1.0f;
    program.push_back(record(KILOTOK_OP_MOE_UP, u));
    KilotokMoeDown d{};
    d.weights = matrix_of(KILOTOK_MXFP4, down_tiles, s.inter,
                          random_steps(KILOTOK_MXFP4, down_bytes * s.experts), down_bytes);
    d.to = to;
    d.hidden = address(hidden);
    d.routes = address(routes);
    d.hidden_stride = h_stride;
    d.top_k = s.top_k;
    program.push_back(record(KILOTOK_OP_MOE_DOWN, d));
  }
  CHECK(cudaDeviceSynchronize());
  struct Part {
    const char* name;
    std::vector<uint32_t> kinds;
  };
  for (const Part& part :
       {Part{"linear", {KILOTOK_OP_LINEAR}}, Part{"router", {KILOTOK_OP_ROUTER}},
        Part{"moe_up", {KILOTOK_OP_MOE_UP}},
        Part{"moe_up + moe_down", {KILOTOK_OP_MOE_UP, KILOTOK_OP_MOE_DOWN}},
        Part{"router + moe", {KILOTOK_OP_ROUTER, KILOTOK_OP_MOE_UP, KILOTOK_OP_MOE_DOWN}}}) {
    std::vector<KilotokOp> some;
    for (const KilotokOp& op : program) {
      if (std::count(part.kinds.begin(), part.kinds.end(), op.kind) > 0) some.push_back(op);
    }
    Machine machine(some);
    for (uint32_t rows : {1u, 8u}) {
      residual.reset();
      machine.persistent(command_of_rows(rows, 1));
      double best = 1e9;
      for (int i = 0; i < 5; ++i)
        best = std::min(best, machine.persistent(command_of_rows(rows, 4)) / 4);
      std::fprintf(stderr, "%-12s rows %u  %-20s %8.2f us a layer\n", s.name, rows, part.name,
                   best * 1e3 / s.layers);
    }
    machine.park();
  }
  Machine machine(program);
  for (uint32_t rows : {1u, 8u}) {
    constexpr uint32_t ROUNDS = 4;
    residual.reset();
    machine.persistent(command_of_rows(rows, 1));
    double best = 1e9;
    for (int i = 0; i < 5; ++i)
      best = std::min(best, machine.persistent(command_of_rows(rows, ROUNDS)) / ROUNDS);
    machine.park();
    residual.reset();
    const float graph = machine.graph(command_of_rows(rows), ROUNDS) / ROUNDS;
    // Distinct experts of the last layer stand for all: routes of random layers are alike.
    const auto last = host_copy(routes, 1)[0];
    uint32_t distinct = 0;
    for (uint32_t p = 0; p < rows * s.top_k; ++p) {
      bool is_new = true;
      for (uint32_t q = 0; q < p; ++q) is_new &= last.expert[q] != last.expert[p];
      distinct += is_new;
    }
    const double bytes = fixed + per_expert * distinct;
    const double floor_us = bytes / ceiling * 1e6;
    std::fprintf(stderr,
                 "%-12s rows %u  experts %2u  persistent %8.2f us/layer (%.1f %%)  graph %8.2f "
                 "(%.1f %%)  floor %.2f  ratio %.2f\n",
                 s.name, rows, distinct, best * 1e3 / s.layers, floor_us / best / 10,
                 graph * 1e3 / s.layers, floor_us / graph / 10, floor_us / s.layers, graph / best);
    std::printf(
        "%s{\"shape\": \"%s\", \"rows\": %u, \"layers\": %u, \"experts\": %u, \"persistent_us\": "
        "%.3f, \"graph_us\": %.3f, \"floor_us\": %.3f}",
        is_first ? "" : ",\n", s.name, rows, s.layers, distinct, best * 1e3 / s.layers,
        graph * 1e3 / s.layers, floor_us / s.layers);
    is_first = false;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "check";
  if (what == "check") {
    for (uint32_t format : {KILOTOK_BF16, KILOTOK_FP8, KILOTOK_MXFP4}) {
      for (uint32_t store : {KILOTOK_STORE_F32, KILOTOK_STORE_RESIDUAL, KILOTOK_STORE_SWIGLU}) {
        check_linear(format, 96, 384, store);
        check_linear(format, 200, 160, store);
      }
      check_linear(format, 4500, 256, KILOTOK_STORE_F32);
      check_linear(format, 64, 6144, KILOTOK_STORE_F32);
      check_linear(format, 64, 12000, KILOTOK_STORE_F32);
    }
    for (uint32_t rows : {1u, 5u, 8u}) {
      check_moe(KILOTOK_MXFP4, 16, 2, 384, 160, KILOTOK_ROUTER_SIGMOID_NORMALIZED, rows);
      check_moe(KILOTOK_MXFP4, 40, 8, 512, 96, KILOTOK_ROUTER_SIGMOID, rows);
      check_moe(KILOTOK_MXFP4, 32, 4, 480, 480, KILOTOK_ROUTER_SOFTMAX, rows);
      check_moe(KILOTOK_FP8, 9, 3, 256, 128, KILOTOK_ROUTER_SIGMOID, rows);
      check_moe(KILOTOK_BF16, 9, 3, 256, 128, KILOTOK_ROUTER_SOFTMAX, rows);
    }
    std::fprintf(stderr, "%d failures\n", failures);
    return failures != 0;
  }
  const size_t sweep = size_t{4} << 30;
  const double ceiling =
      1e12 * read_rate(random_steps(KILOTOK_BF16, sweep), sweep, zeros<uint32_t>(1), 132);
  std::fprintf(stderr, "read ceiling %.3f TB/s\n", ceiling / 1e12);
  std::printf("{\"ceiling\": %.4g, \"layers\": [", ceiling);
  {
    KilotokOp nothing{};
    nothing.kind = 99;
    Machine machine(std::vector<KilotokOp>(240, nothing));
    machine.persistent(command_of_rows(1, 1));
    double best = 1e9;
    for (int i = 0; i < 5; ++i)
      best = std::min(best, machine.persistent(command_of_rows(1, 4)) / 4);
    machine.park();
    const float graph = machine.graph(command_of_rows(1), 4) / 4;
    std::fprintf(stderr, "an op that does nothing: persistent %.3f us, graph %.3f us\n",
                 best * 1e3 / 240, graph * 1e3 / 240);
    Machine one({nothing});
    one.persistent(command_of_rows(1, 1));
    best = 1e9;
    for (int i = 0; i < 50; ++i) best = std::min(best, one.persistent(command_of_rows(1, 1)));
    one.park();
    std::fprintf(stderr, "doorbell to answer, one empty op: %.3f us\n", best * 1e3);
  }
  bench_layers({"mimo-pro/8", 24, 6144, 3392, 2048, 384, 8, 256, KILOTOK_FP8, KILOTOK_BF16},
               ceiling, true);
  bench_layers({"gpt-oss-20b", 24, 2880, 5120, 4096, 32, 4, 2880, KILOTOK_BF16, KILOTOK_BF16},
               ceiling, false);
  std::printf("]}\n");
}
