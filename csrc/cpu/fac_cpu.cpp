// Chooses the CPU kernels of a call by the layout of its tensors: row_major.cpp or channels_last.cpp.
#include "common.h"

namespace fac {

template <typename T>
void forward_cpu(const Shape& s, const T* input, const T* filters, T* output, Parallel parallel) {
  if (s.batch * s.channels * s.outputs() == 0) return;
  if (s.channels_last) return forward_channels_last(s, input, filters, output, parallel);
  forward_row_major(s, input, filters, output, parallel);
}

template <typename T>
void grad_input_cpu(const Shape& s, const T* filters, const T* grad, T* grad_input, Parallel parallel) {
  if (s.batch * s.channels * s.inputs() == 0) return;
  if (s.channels_last) return grad_input_channels_last(s, filters, grad, grad_input, parallel);
  grad_input_row_major(s, filters, grad, grad_input, parallel);
}

template <typename T>
void grad_filters_cpu(const Shape& s, const T* input, const T* grad, T* grad_filters, Parallel parallel) {
  if (s.batch * s.groups * s.outputs() == 0) return;
  if (s.channels_last) return grad_filters_channels_last(s, input, grad, grad_filters, parallel);
  grad_filters_row_major(s, input, grad, grad_filters, parallel);
}

const char* cpu_simd() {
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "AVX-512";
  if (__builtin_cpu_supports("x86-64-v3")) return "AVX2";
#endif
  return "baseline";
}

#define FAC_INSTANTIATE(T)                                                      \
  template void forward_cpu(const Shape&, const T*, const T*, T*, Parallel);    \
  template void grad_input_cpu(const Shape&, const T*, const T*, T*, Parallel); \
  template void grad_filters_cpu(const Shape&, const T*, const T*, T*, Parallel);
FAC_INSTANTIATE(float)
FAC_INSTANTIATE(double)
FAC_INSTANTIATE(Half)
FAC_INSTANTIATE(BFloat16)

}  // namespace fac
