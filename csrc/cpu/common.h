// Shared by the CPU sources. baseline.cpp, avx2.cpp and avx512.cpp compile the same kernels, of row_major.h and
// channels_last.h, for one instruction set each; fac_cpu.cpp chooses.
#pragma once
#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "../fac.h"
#include "../geometry.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

// Where GCC compiles the kernels for two more instruction sets, in avx2.cpp and avx512.cpp.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define FAC_HAS_VERSIONS
#endif

// Compiles an inner loop by itself: inlined elsewhere, it could lose what __restrict says.
#define FAC_NOINLINE __attribute__((noinline))

namespace fac {

constexpr int64_t kGrain = 32768;  // multiply-adds that are worth a thread

inline int64_t grain(const Shape& s, int64_t items) {
  const int64_t work = s.batch * s.channels * s.outputs() * s.taps() / items;
  return std::max<int64_t>(kGrain / std::max<int64_t>(work, 1), 1);
}

constexpr int64_t kLine = 64;  // bytes of a cache line

// Fetches the line kBytes further on in a stream into the second-level cache. The processor's own prefetcher begins
// anew at each page, does badly with many streams, and stays too close where much is computed.
template <int kBytes, typename T>
inline void prefetch(const T* stream) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(stream) + kBytes), 0, 2);
}

// Copies to memory around the caches, which a result larger than they are would only empty. That is half the traffic,
// as a line need not be read before it is overwritten. The caller ends with flush_stream() before others may read it.
template <typename T>
void stream(const T* from, T* to, int64_t count) {
#if defined(__SSE2__)
  const char* source = reinterpret_cast<const char*>(from);
  char* target = reinterpret_cast<char*>(to);
  int64_t bytes = count * static_cast<int64_t>(sizeof(T));
  const int64_t head = std::min<int64_t>(-reinterpret_cast<uintptr_t>(target) % 16, bytes);
  std::memcpy(target, source, head);
  for (source += head, target += head, bytes -= head; bytes >= 16; source += 16, target += 16, bytes -= 16)
    _mm_stream_si128(reinterpret_cast<__m128i*>(target), _mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
  std::memcpy(target, source, bytes);
#else
  std::memcpy(to, from, count * sizeof(T));
#endif
}
inline void flush_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}
template <typename T>
bool worth_streaming(int64_t elements) {
  return elements * static_cast<int64_t>(sizeof(T)) >= 8 << 20;
}

// The kernels of one layout.
template <typename T>
struct Kernels {
  void (*forward)(const Shape& s, const T* input, const T* filters, T* output, Parallel parallel);
  void (*grad_input)(const Shape& s, const T* filters, const T* grad, T* grad_input, Parallel parallel);
  void (*grad_filters)(const Shape& s, const T* input, const T* grad, T* grad_filters, Parallel parallel);
};

namespace baseline {
template <typename T>
Kernels<T> kernels(bool channels_last);
}
namespace avx2 {
template <typename T>
Kernels<T> kernels(bool channels_last);
}
namespace avx512 {
template <typename T>
Kernels<T> kernels(bool channels_last);
}

}  // namespace fac
