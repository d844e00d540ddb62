// One MoE layer (moe_up, then moe_down) in graph mode, without its router, against the bytes of the
// experts touched.
//
//   nvcc -O3 -std=c++20 -I cuda/include -gencode=arch=compute_90a,code=sm_90a -o moe_layer
//   benches/cuda/moe_layer.cu
//   ./moe_layer [seed]              prints JSON on stdout, a table on stderr
//
// A CUDA graph holds LAYERS layers one after the other, each with routes of its own, so that no
// expert is still in the cache when it is read again; the time of a layer is the graph's over
// LAYERS. Parity is tests/gpu/test_moe.py's business.
#include <cuda_runtime.h>

#include <numeric>
#include <random>
#include <set>

#include "../../cuda/kernels/moe.cu"
#include "measure.cuh"

constexpr int LAYERS = 48;

struct Shape {
  const char* name;
  int experts, top_k, size, inter;
};

template <typename Submit>
float graph_us(const Submit& submit) {
  cudaStream_t stream;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int layer = 0; layer < LAYERS; ++layer) submit(stream, layer);
  cudaGraph_t graph;
  CHECK(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t ready;
  CHECK(cudaGraphInstantiate(&ready, graph, 0));
  const float ms = median_ms(15, [&] { CHECK(cudaGraphLaunch(ready, nullptr)); });
  CHECK(cudaGraphExecDestroy(ready));
  CHECK(cudaGraphDestroy(graph));
  CHECK(cudaStreamDestroy(stream));
  return ms * 1e3f / LAYERS;
}

template <typename Args>
void launch(void (*kernel)(const Args), dim3 grid, uint32_t shared, cudaStream_t stream,
            bool is_programmatic, const Args& args) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(256);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = is_programmatic ? 1 : 0;
  CHECK(cudaLaunchKernelEx(&config, kernel, args));
}

template <typename T>
T* upload(const std::vector<T>& values) {
  T* device = nullptr;
  CHECK(cudaMalloc(&device, values.size() * sizeof(T)));
  CHECK(cudaMemcpy(device, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  return device;
}

uint64_t address(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

int main(int argc, char** argv) {
  const Shape shapes[] = {{"MiMo-V2.5-Pro, a TP8 rank", 384, 8, 6144, 256},
                          {"gpt-oss-20b", 32, 4, 2880, 2880}};
  std::random_device device;
  const uint32_t seed = argc > 1 ? static_cast<uint32_t>(std::atoll(argv[1])) : device();
  std::mt19937 rng(seed);
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0));
  const int sms = properties.multiProcessorCount;
  bool is_first = true;
  std::fprintf(stderr, "%-28s %2s %8s %8s %8s %9s %9s %9s %6s %6s %6s\n",
               "MoE layer without router", "M", "experts", "up us", "down us", "both us", "PDL us",
               "floor us", "up", "down", "PDL");
  for (const Shape& s : shapes) {
    const size_t matrix = static_cast<size_t>(s.size) * s.inter / 2048 * 1088;
    const size_t bytes = matrix * 3 * s.experts;
    uint8_t* weights = nullptr;
    CHECK(cudaMalloc(&weights, bytes));
    fill_steps<<<sms * 8, 256>>>(reinterpret_cast<uint32_t*>(weights), bytes / 4, seed, 118);
    CHECK(cudaDeviceSynchronize());
    float* residual = nullptr;
    uint16_t* hidden = nullptr;
    CHECK(cudaMalloc(&residual, 8 * s.size * sizeof(float)));
    CHECK(cudaMemset(residual, 0, 8 * s.size * sizeof(float)));
    CHECK(cudaMalloc(&hidden, 64 * s.inter * sizeof(uint16_t)));
    const double ceiling = read_rate(weights, bytes, reinterpret_cast<uint32_t*>(residual), sms);
    std::vector<uint16_t> x(8 * s.size);
    for (uint16_t& value : x)
      value = static_cast<uint16_t>(0x3F00 + rng() % 256 + (rng() % 2) * 0x8000);
    const uint16_t* rows = upload(x);
    for (int m : {1, 2, 4, 8}) {
      // One row goes through a shuffled list of all experts, several rows choose at random.
      std::vector<uint32_t> routes, order(s.experts);
      std::vector<float> gates(LAYERS * m * s.top_k, 0.125f);
      std::iota(order.begin(), order.end(), 0);
      size_t touched = 0, cursor = s.experts;
      for (int layer = 0; layer < LAYERS; ++layer) {
        std::set<uint32_t> distinct;
        for (int row = 0; row < m; ++row) {
          if (m > 1 || cursor + s.top_k > order.size()) {
            std::shuffle(order.begin(), order.end(), rng);
            cursor = 0;
          }
          for (int rank = 0; rank < s.top_k; ++rank) {
            routes.push_back(order[cursor + rank]);
            distinct.insert(order[cursor + rank]);
          }
          cursor += s.top_k;
        }
        touched += distinct.size();
      }
      const uint32_t* experts = upload(routes);
      const float* weights_of = upload(gates);
      const uint32_t pairs = m * s.top_k;
      const uint32_t up_shared = s.size / 64 * 1088;
      CHECK(cudaFuncSetAttribute(kilotok_moe_up, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(up_shared)));
      bool is_programmatic = false;
      const auto up = [&](cudaStream_t stream, int layer) {
        const KilotokMoeUpArgs args{address(weights),
                                    address(rows),
                                    address(experts + layer * pairs),
                                    address(hidden),
                                    2 * matrix,
                                    static_cast<uint32_t>(m),
                                    static_cast<uint32_t>(s.top_k),
                                    static_cast<uint32_t>(s.size),
                                    static_cast<uint32_t>(s.inter)};
        launch(kilotok_moe_up, dim3(s.inter / 16, pairs), up_shared, stream, is_programmatic, args);
      };
      const uint32_t steps = s.inter / 64, slice_steps = std::max(4u, (steps + 7) / 8);
      const uint32_t shared =
          8 * 3 * slice_steps * 1088 + pairs * ((steps + slice_steps - 1) / slice_steps) * 128;
      CHECK(cudaFuncSetAttribute(kilotok_moe_down, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared)));
      const auto down = [&](cudaStream_t stream, int layer) {
        const KilotokMoeDownArgs args{address(weights + 2 * matrix * s.experts),
                                      address(hidden),
                                      address(experts + layer * pairs),
                                      address(weights_of + layer * pairs),
                                      address(residual),
                                      matrix,
                                      static_cast<uint32_t>(m),
                                      static_cast<uint32_t>(s.top_k),
                                      static_cast<uint32_t>(s.size),
                                      static_cast<uint32_t>(s.inter),
                                      slice_steps,
                                      0};
        launch(kilotok_moe_down, dim3(s.size / 32), shared, stream, is_programmatic, args);
      };
      const float up_us = graph_us(up), down_us = graph_us(down);
      const auto both = [&](cudaStream_t stream, int layer) {
        up(stream, layer);
        down(stream, layer);
      };
      const float plain_us = graph_us(both);
      is_programmatic = true;
      const float layer_us = graph_us(both);
      const double mean = static_cast<double>(touched) / LAYERS,
                   floor = mean * matrix * 3 / ceiling / 1e6;
      const double up_share = mean * matrix * 2 / ceiling / 1e6 / up_us,
                   down_share = mean * matrix / ceiling / 1e6 / down_us, share = floor / layer_us;
      std::fprintf(stderr,
                   "%-28s %2d %8.1f %8.2f %8.2f %9.2f %9.2f %9.2f %5.0f%% %5.0f%% %5.0f%%\n",
                   s.name, m, mean, up_us, down_us, plain_us, layer_us, floor, 100 * up_share,
                   100 * down_share, 100 * share);
      std::printf(
          "%s\n  {\"shape\": \"%s\", \"rows\": %d, \"experts_touched\": %.2f, \"up_us\": %.3f, "
          "\"down_us\": %.3f, \"layer_without_pdl_us\": %.3f, \"layer_us\": %.3f, \"layer_bytes\": "
          "%.0f, \"layer_flops\": %.0f, "
          "\"read_tb_per_s\": %.4f, \"floor_us\": %.3f, \"fraction\": %.4f, \"up_fraction\": %.4f, "
          "\"down_fraction\": %.4f}",
          is_first ? "{\"benchmark\": \"moe_layer\", \"layers\": [" : ",", s.name, m, mean, up_us,
          down_us, plain_us, layer_us, mean * matrix * 3, 6.0 * pairs * s.size * s.inter, ceiling,
          floor, share, up_share, down_share);
      is_first = false;
    }
    CHECK(cudaFree(weights));
  }
  std::printf("\n], \"seed\": %u}\n", seed);
  return 0;
}
