// What the two CPU sources share: fac_cpu.cpp takes row-major tensors and hands over channels_last ones.
#pragma once
#include "fac.h"

// The inner loops are compiled for three instruction sets and chosen when the library is loaded.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define FAC_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FAC_MULTIVERSION
#endif

namespace fac {

template <typename T>
void forward_channels_last(const Shape& s, const T* input, const T* filters, T* output, Parallel parallel);
template <typename T>
void grad_input_channels_last(const Shape& s, const T* filters, const T* grad, T* grad_input, Parallel parallel);
template <typename T>
void grad_filters_channels_last(const Shape& s, const T* input, const T* grad, T* grad_filters, Parallel parallel);

}  // namespace fac
