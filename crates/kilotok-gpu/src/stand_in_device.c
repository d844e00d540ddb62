// A device on the host, for device_tests.rs: memory is malloc, a launch of any kernel runs
// kilotok_probe at once. Whatever the driver would refuse is refused: no current context, a foreign
// handle, a wrong argument. Structs are written down from CUDA's documentation, not taken from any
// header.
#include <stdint.h>

enum {
  BAD_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NO_CONTEXT = 201,
  NOT_FOUND = 500,
  NOT_READY = 600,
  LAUNCH_FAILED = 719,
  UNLISTED = 917
};

struct Attribute {
  unsigned id;
  char pad[4];
  union {
    char bytes[64];
    int flag;
  } value;
};

struct Config {
  unsigned grid[3], block[3], shared_bytes;
  void* stream;
  struct Attribute* attributes;
  unsigned num_attributes;
};

struct Args {
  uint64_t x, y, result, n;
  float a;
  uint32_t reserved;
};

// A machine (stand_in_machine.c) has kernels of its own, and memory to give.
#ifndef FREE_BYTES
#define FREE_BYTES live_
static int machine_kernel(const char* name) { return 0; }
static int machine_launch(int kernel, const struct Config* c, void** params) { return BAD_VALUE; }
static int machine_is_busy(void) { return 0; }
static void machine_wait(void) {}
#else
static int machine_kernel(const char* name);
static int machine_launch(int kernel, const struct Config* c, void** params);
static int machine_is_busy(void);
static void machine_wait(void);
#endif

static char context_[2], stream_, library_, kernels_[4], functions_[4];
static __thread char* current_;
static int holds_[2], streams_, libraries_, max_dynamic_shared_bytes_, pending_;
static long live_;  // allocations and handles not given back
static unsigned launches_;

#define NEED_CONTEXT \
  if (!current_ || !holds_[current_ - context_]) return NO_CONTEXT
#define NEED(condition) \
  if (!(condition)) return BAD_VALUE

int cuGetErrorName(int e, const char** s) {
  if (e != OUT_OF_MEMORY && e != NOT_FOUND) return BAD_VALUE;
  *s = e == NOT_FOUND ? "CUDA_ERROR_NOT_FOUND" : "CUDA_ERROR_OUT_OF_MEMORY";
  return 0;
}
int cuGetErrorString(int e, const char** s) {
  if (e != NOT_FOUND) return BAD_VALUE;
  *s = "named symbol not found";
  return 0;
}

int cuDevicePrimaryCtxRetain(void** c, int d) {
  NEED(d == 70 || d == 71);
  *c = &context_[d - 70];
  holds_[d - 70]++;
  return 0;
}
int cuDevicePrimaryCtxRelease_v2(int d) {
  NEED(d == 70 || d == 71);
  NEED(holds_[d - 70] > 0);
  holds_[d - 70]--;
  return 0;
}
int cuCtxGetCurrent(void** c) {
  *c = current_;
  return 0;
}
int cuCtxSetCurrent(void* c) {
  current_ = c;
  return 0;
}
// "Total" counts holds of the first context, to be seen from outside.
int cuMemGetInfo_v2(size_t* free, size_t* total) {
  NEED_CONTEXT;
  *free = FREE_BYTES;
  *total = holds_[0];
  return 0;
}

int cuStreamCreate(void** s, unsigned flags) {
  NEED_CONTEXT;
  NEED(flags == 1);
  *s = &stream_;
  streams_++, live_++;
  return 0;
}
int cuStreamDestroy_v2(void* s) {
  NEED_CONTEXT;
  NEED(s == &stream_);
  streams_--, live_--;
  return 0;
}
int cuStreamSynchronize(void* s) {
  NEED_CONTEXT;
  NEED(s == &stream_ && streams_ > 0);
  machine_wait();
  int status = pending_;
  pending_ = 0;
  return status;
}
int cuStreamQuery(void* s) {
  NEED_CONTEXT;
  NEED(s == &stream_ && streams_ > 0);
  if (machine_is_busy()) return NOT_READY;
  return pending_;
}

int cuEventCreate(void** e, unsigned flags) {
  NEED_CONTEXT;
  NEED(flags == 0);
  *e = calloc(1, sizeof(float));
  live_++;
  return 0;
}
int cuEventDestroy_v2(void* e) {
  NEED_CONTEXT;
  free(e);
  live_--;
  return pending_ ? BAD_VALUE : 0;
}
int cuEventRecord(void* e, void* s) {
  NEED_CONTEXT;
  NEED(s == &stream_);
  static float clock;
  *(float*)e = clock += 0.25f;
  return 0;
}
int cuEventSynchronize(void* e) {
  NEED_CONTEXT;
  NEED(*(float*)e > 0);
  return 0;
}
int cuEventElapsedTime_v2(float* ms, void* start, void* end) {
  NEED_CONTEXT;
  *ms = *(float*)end - *(float*)start;
  return 0;
}

int cuLibraryLoadData(void** l, const void* code, void* a, void* b, unsigned n, void* c, void* d,
                      unsigned m) {
  NEED_CONTEXT;
  NEED(!memcmp(code, "image", 5) && !a && !b && !n && !c && !d && !m);
  *l = &library_;
  libraries_++, live_++;
  return 0;
}
int cuLibraryUnload(void* l) {
  NEED_CONTEXT;
  NEED(l == &library_);
  libraries_--, live_--;
  return 0;
}
int cuLibraryGetKernel(void** k, void* l, const char* name) {
  NEED(l == &library_ && libraries_ > 0);
  int kernel = strcmp(name, "kilotok_probe") ? machine_kernel(name) : 0;
  if (kernel == 0 && strcmp(name, "kilotok_probe")) return NOT_FOUND;
  *k = &kernels_[kernel];
  return 0;
}
int cuKernelGetFunction(void** f, void* k) {
  NEED_CONTEXT;
  NEED((char*)k >= kernels_ && (char*)k < kernels_ + 4);
  *f = &functions_[(char*)k - kernels_];
  return 0;
}
int cuFuncGetAttribute(int* v, int a, void* f) {
  NEED(f == functions_ && libraries_ > 0);
  static const int values[] = {1024, 16, 0, 8, 40, 0, 90};
  NEED(a >= 0 && a <= 6);
  *v = values[a];
  return 0;
}
int cuFuncSetAttribute(void* f, int a, int v) {
  NEED((char*)f >= functions_ && a == 8 && v >= 0 && v <= 232448);
  max_dynamic_shared_bytes_ = v;
  return 0;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n, void* f, int threads, size_t shared_bytes) {
  NEED(f == functions_ && threads > 0);
  *n = 2048 / threads - (int)(shared_bytes >> 16);
  return 0;
}

// What is launched between begin and end, 256 launches at most, to be run when the graph is launched.
static int captures_, num_captured_;
static struct { struct Config config; int function; char args[64]; } captured_[256];

// grid[1] says how many attributes are expected; a grid of no blocks fails when the stream is
// waited for.
int cuLaunchKernelEx(const struct Config* c, void* f, void** params, void** extra) {
  NEED_CONTEXT;
  NEED(libraries_ > 0 && !extra && c->stream == &stream_ && streams_ > 0);
  NEED((int)c->shared_bytes <= max_dynamic_shared_bytes_);
  if (captures_) {
    NEED(num_captured_ < 256);
    captured_[num_captured_].config = *c;
    captured_[num_captured_].function = (char*)f - functions_;
    memcpy(captured_[num_captured_++].args, params[0], 64);
    return 0;
  }
  if (f != functions_) return machine_launch((char*)f - functions_, c, params);
  NEED(c->block[0] == 256 && c->block[1] == 2 && c->block[2] == 1 && c->grid[2] == 1);
  NEED(c->num_attributes == c->grid[1] - 1);
  for (unsigned i = 0; i < c->num_attributes; i++) {
    NEED(c->attributes[i].id == (i ? 6 : 2) && c->attributes[i].value.flag == 1);
    for (int byte = 4; byte < 64; byte++) NEED(!c->attributes[i].value.bytes[byte]);
  }
  if (!c->grid[0]) {
    pending_ = UNLISTED;
    return 0;
  }
  const struct Args* args = params[0];
  float *x = (float*)args->x, *y = (float*)args->y;
  for (uint64_t i = 0; i < args->n; i++) y[i] += args->a * x[i];
  ((uint32_t*)args->result)[7] = ++launches_;
  return 0;
}

int cuMemAlloc_v2(uint64_t* p, size_t bytes) {
  NEED_CONTEXT;
  if (bytes > 1ul << 30) return OUT_OF_MEMORY;
  *p = (uint64_t)malloc(bytes);
  memset((void*)*p, 0xff, bytes);
  live_++;
  return 0;
}
int cuMemFree_v2(uint64_t p) {
  NEED_CONTEXT;
  free((void*)p);
  live_--;
  return 0;
}
int cuMemHostAlloc(void** p, size_t bytes, unsigned flags) {
  NEED_CONTEXT;
  NEED(flags == 1 || flags == 3);
  if (bytes > 1ul << 30) return OUT_OF_MEMORY;
  *p = malloc(bytes);
  memset(*p, 0xff, bytes);
  live_++;
  return 0;
}
int cuMemHostGetDevicePointer_v2(uint64_t* d, void* h, unsigned flags) {
  NEED_CONTEXT;
  NEED(!flags);
  *d = (uint64_t)h;
  return 0;
}
int cuMemFreeHost(void* p) {
  NEED_CONTEXT;
  free(p);
  live_--;
  return 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t d, const void* h, size_t n, void* s) {
  NEED_CONTEXT;
  NEED(s == &stream_);
  memcpy((void*)d, h, n);
  return 0;
}
int cuMemcpyDtoHAsync_v2(void* h, uint64_t d, size_t n, void* s) {
  NEED_CONTEXT;
  NEED(s == &stream_);
  memcpy(h, (void*)d, n);
  return 0;
}
int cuMemsetD8Async(uint64_t d, unsigned char v, size_t n, void* s) {
  NEED_CONTEXT;
  NEED(s == &stream_);
  memset((void*)d, v, n);
  return 0;
}

int cuStreamBeginCapture_v2(void* s, int mode) {
  NEED_CONTEXT;
  NEED(s == &stream_ && mode == 1 && !captures_);
  captures_ = 1, num_captured_ = 0;
  return 0;
}
int cuStreamEndCapture(void* s, void** graph) {
  NEED_CONTEXT;
  NEED(s == &stream_ && captures_);
  captures_ = 0;
  *graph = malloc(sizeof(captured_) + sizeof(int));
  memcpy(*graph, &num_captured_, sizeof(int));
  memcpy((char*)*graph + sizeof(int), captured_, sizeof(captured_));
  live_++;
  return 0;
}
int cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long flags) {
  NEED_CONTEXT;
  NEED(!flags);
  *exec = malloc(sizeof(captured_) + sizeof(int));
  memcpy(*exec, graph, sizeof(captured_) + sizeof(int));
  live_++;
  return 0;
}
int cuGraphDestroy(void* graph) {
  NEED_CONTEXT;
  free(graph);
  live_--;
  return 0;
}
int cuGraphExecDestroy(void* exec) { return cuGraphDestroy(exec); }
int cuGraphLaunch(void* exec, void* s) {
  NEED_CONTEXT;
  NEED(s == &stream_ && !captures_);
  memcpy(&num_captured_, exec, sizeof(int));
  memcpy(captured_, (char*)exec + sizeof(int), sizeof(captured_));
  for (int i = 0; i < num_captured_; i++) {
    void* params[1] = {captured_[i].args};
    int status = machine_launch(captured_[i].function, &captured_[i].config, params);
    if (status) return status;
  }
  return 0;
}
