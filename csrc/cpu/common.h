// Shared by the CPU sources: fac_cpu.cpp chooses between row_major.cpp and channels_last.cpp.
#pragma once
#include <algorithm>
#include <cstring>

#include "../fac.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

// Compiles a function for three instruction sets; the library chooses one of them when it is loaded.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define FAC_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FAC_MULTIVERSION
#endif

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

template <typename T>
void forward_row_major(const Shape& s, const T* input, const T* filters, T* output, Parallel parallel);
template <typename T>
void grad_input_row_major(const Shape& s, const T* filters, const T* grad, T* grad_input, Parallel parallel);
template <typename T>
void grad_filters_row_major(const Shape& s, const T* input, const T* grad, T* grad_filters, Parallel parallel);
template <typename T>
void forward_channels_last(const Shape& s, const T* input, const T* filters, T* output, Parallel parallel);
template <typename T>
void grad_input_channels_last(const Shape& s, const T* filters, const T* grad, T* grad_input, Parallel parallel);
template <typename T>
void grad_filters_channels_last(const Shape& s, const T* input, const T* grad, T* grad_filters, Parallel parallel);

}  // namespace fac
