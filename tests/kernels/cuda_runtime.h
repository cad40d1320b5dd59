// Stands in for CUDA's header so that the CUDA sources compile as C++ and run on a CPU, one thread after another. Has
// enough of the launch API for kernels with static shared memory and barriers of a block or a warp.
//
// A fiber works through the threads of a block. When one of them waits at a barrier its fiber stops there, and a
// fresh one goes on with the next thread: kernels without barriers never switch. Each thread runs as far as it can
// before the next begins, so that a missing barrier shows: first to last in one block, last to first in the next, in
// a random order that follows from the seed in the one after. A barrier that some of its threads do not come to ends
// the program. Shared memory is full of NaN when a block begins, where the program knows its places.
#pragma once
#include <sanitizer/common_interface_defs.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static  // one block at a time

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
template <typename Bits>
Bits __ldcs(const Bits* from) {
  return *from;
}
template <typename Bits>
void __stcs(Bits* to, Bits value) {
  *to = value;
}

namespace standin {

constexpr size_t kStack = 256 << 10;
enum class Wait { kNothing, kWarp, kBlock };

// Where a stack stopped, to go on there. What swapcontext does takes most of the time of kernels with barriers: a
// system call, and AddressSanitizer's cleaning of the whole stack.
#if defined(__x86_64__)
extern "C" void standin_leave(void** from, void* to);
asm(R"(
.pushsection .text
standin_leave:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.popsection
)");
struct Context {
  void* top = nullptr;  // the six registers that a function keeps, and where it returns to

  void begin(char* stack, void (*work)()) {
    void** const end = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + kStack) & ~uintptr_t{15});
    std::fill(end - 8, end, nullptr);
    end[-2] = reinterpret_cast<void*>(work);
    top = end - 8;
  }
  void leave_for(const Context& to) { standin_leave(&top, to.top); }
};
#else
struct Context {
  ucontext_t context;

  void begin(char* stack, void (*work)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = kStack;
    makecontext(&context, work, 0);
  }
  void leave_for(const Context& to) { swapcontext(&context, &to.context); }
};
#endif

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  void* fake_stack = nullptr;  // AddressSanitizer's
  unsigned thread = 0;
  Wait wait = Wait::kNothing;  // at which barrier `thread` is, if at any
};

struct Array {
  char* start;
  size_t size;
};
struct Block {
  std::function<void()> body;
  std::vector<Array> arrays;  // its shared memory
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Fiber*> waiting, idle;  // by thread, if at a barrier; with no thread
  unsigned next = 0;
  std::vector<unsigned> order;  // the threads' turns
  Fiber* running = nullptr;
  Context main;
  void* main_fake_stack = nullptr;
  const void* main_stack = nullptr;
  size_t main_size = 0;
};
inline Block block;
inline std::mt19937 random;                                      // of the orders; the program may seed it
inline std::map<const void*, std::vector<Array>> shared_memory;  // by kernel, if the program lists its arrays
inline const void* launched = nullptr;                           // the last kernel

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

inline void to_main(Fiber* fiber) {
  __sanitizer_start_switch_fiber(&fiber->fake_stack, block.main_stack, block.main_size);
  fiber->context.leave_for(block.main);
  __sanitizer_finish_switch_fiber(fiber->fake_stack, nullptr, nullptr);
}
inline void to_fiber(Fiber* fiber) {
  block.running = fiber;
  __sanitizer_start_switch_fiber(&block.main_fake_stack, fiber->stack.get(), kStack);
  block.main.leave_for(fiber->context);
  __sanitizer_finish_switch_fiber(block.main_fake_stack, nullptr, nullptr);
}

// Ends a fiber's turn when its thread came to a barrier, or all threads have begun; never returns.
inline void work() {
  __sanitizer_finish_switch_fiber(nullptr, &block.main_stack, &block.main_size);
  Fiber* const fiber = block.running;
  for (;;) {
    while (block.next < blockDim.x) {
      threadIdx.x = fiber->thread = block.order[block.next++];
      block.body();
    }
    block.idle.push_back(fiber);
    to_main(fiber);
  }
}

inline void barrier(Wait wait) {
  Fiber* const fiber = block.running;
  fiber->wait = wait;
  block.waiting[fiber->thread] = fiber;
  to_main(fiber);
  threadIdx.x = fiber->thread;
}

inline void start_fiber() {
  if (block.idle.empty()) {
    Fiber* const fiber = block.fibers.emplace_back(new Fiber).get();
    fiber->context.begin(fiber->stack.get(), work);
    block.idle.push_back(fiber);
  }
  Fiber* const fiber = block.idle.back();
  block.idle.pop_back();
  to_fiber(fiber);
}

// Lets threads [first, last) go on from a barrier of one kind, if all of them are there.
inline bool release(unsigned first, unsigned last, Wait wait) {
  unsigned count = 0;
  for (unsigned t = first; t < last; ++t) count += block.waiting[t] && block.waiting[t]->wait == wait;
  if (count < last - first) return false;
  for (const unsigned t : block.order) {
    if (t < first || t >= last) continue;
    Fiber* const fiber = block.waiting[t];
    block.waiting[t] = nullptr;
    fiber->wait = Wait::kNothing;
    to_fiber(fiber);
  }
  return true;
}

inline void run_block() {
  const unsigned threads = blockDim.x, way = (blockIdx.x + blockIdx.y) % 3;
  block.order.resize(threads);
  for (unsigned t = 0; t < threads; ++t) block.order[t] = way == 1 ? threads - 1 - t : t;
  if (way == 2) std::shuffle(block.order.begin(), block.order.end(), random);
  for (const Array& array : block.arrays) std::memset(array.start, 0xff, array.size);
  block.waiting.assign(threads, nullptr);
  block.next = 0;
  while (block.next < threads) start_fiber();
  for (;;) {
    bool moved = release(0, threads, Wait::kBlock);
    for (unsigned warp = 0; warp < threads; warp += 32)
      moved |= release(warp, warp + 32 < threads ? warp + 32 : threads, Wait::kWarp);
    if (moved) continue;
    for (Fiber* fiber : block.waiting)
      if (fiber) fail("a barrier that not all of its threads come to");
    return;
  }
}

}  // namespace standin

inline void __syncthreads() { standin::barrier(standin::Wait::kBlock); }
inline void __syncwarp() { standin::barrier(standin::Wait::kWarp); }

using cudaStream_t = void*;
enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidConfiguration,
  cudaErrorInsufficientDriver,
  cudaErrorUnsupportedPtxVersion,
  cudaErrorNoKernelImageForDevice
};
#define CUDART_VERSION 13000
inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = 12040;
  return cudaSuccess;
}
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  unsigned dynamicSmemBytes;
  cudaStream_t stream;
};

// A GPU of one multiprocessor that holds `resident` blocks of any kernel.
namespace standin {
inline int resident = 4;
}
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 1;
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, size_t) {
  *blocks = standin::resident;
  return cudaSuccess;
}

inline const char* cudaGetErrorString(cudaError_t) { return "invalid configuration"; }

template <typename... P, typename... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A... arguments) {
  const dim3 grid = config->gridDim, size = config->blockDim;
  const bool blocks = grid.x && grid.x <= 0x7fffffff && grid.y && grid.y <= 65535 && grid.z == 1;
  if (!blocks || !size.x || size.x > 1024 || size.y != 1) return cudaErrorInvalidConfiguration;
  gridDim = grid;
  blockDim = size;
  standin::launched = reinterpret_cast<const void*>(kernel);
  standin::block.body = [&] { kernel(arguments...); };
  standin::block.arrays = standin::shared_memory[standin::launched];
  for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
    for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
      standin::run_block();
    }
  return cudaSuccess;
}
