// What the two CPU sources share: fac_cpu.cpp takes row-major tensors and hands over channels_last ones.
#pragma once
#include <algorithm>

#include "fac.h"

// The inner loops are compiled for three instruction sets and chosen when the library is loaded.
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

template <typename T>
void forward_channels_last(const Shape& s, const T* input, const T* filters, T* output, Parallel parallel);
template <typename T>
void grad_input_channels_last(const Shape& s, const T* filters, const T* grad, T* grad_input, Parallel parallel);
template <typename T>
void grad_filters_channels_last(const Shape& s, const T* input, const T* grad, T* grad_filters, Parallel parallel);

}  // namespace fac
