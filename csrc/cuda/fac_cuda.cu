// Chooses among the CUDA kernels: those for every call, in general.cuh, and the fast ones for one filter per channel,
// in row_major.cuh and channels_last.cuh. The tests run these same files on a CPU too.
#include "channels_last.cuh"
#include "general.cuh"
#include "row_major.cuh"

namespace fac {

template <typename T>
const char* forward_cuda(const Shape& s, const T* input, const T* filters, T* output, void* stream) {
  if constexpr (kFast<T>) {
    if (row_major_ok(s, input, filters, output)) return launch_row_major_forward(s, input, filters, output, stream);
    if (channels_last_ok(s, input, filters, output))
      return launch_channels_last_forward(s, input, filters, output, stream);
  }
  const auto pick = [](auto k, auto index) -> Kernel<T> {
    return forward_kernel<decltype(k)::value, T, decltype(index)>;
  };
  const Kernel<T> kernel = by_width<T>(s, pick);
  return launch_general(kernel, s, s.channels, s.outputs(), input, filters, output, stream);
}

template <typename T>
const char* grad_input_cuda(const Shape& s, const T* filters, const T* grad, T* grad_input, void* stream) {
  if constexpr (kFast<T>) {
    if (row_major_grad_input_ok(s, filters, grad, grad_input))
      return launch_row_major_grad_input(s, filters, grad, grad_input, stream);
    if (channels_last_grad_input_ok(s, filters, grad, grad_input))
      return launch_channels_last_grad_input(s, filters, grad, grad_input, stream);
  }
  const auto pick = [](auto k, auto index) -> Kernel<T> {
    return grad_input_kernel<decltype(k)::value, T, decltype(index)>;
  };
  const Kernel<T> kernel = by_width<T>(s, pick);
  return launch_general(kernel, s, s.channels, s.inputs(), filters, grad, grad_input, stream);
}

template <typename T>
const char* grad_filters_cuda(const Shape& s, const T* input, const T* grad, T* grad_filters, void* stream) {
  if constexpr (kFast<T>) {
    if (row_major_ok(s, input, grad, grad_filters))
      return launch_row_major_grad_filters(s, input, grad, grad_filters, stream);
    if (channels_last_ok(s, input, grad, grad_filters))
      return launch_channels_last_grad_filters(s, input, grad, grad_filters, stream);
  }
  const auto pick = [](auto k, auto index) -> Kernel<T> {
    return grad_filters_kernel<decltype(k)::value, T, decltype(index)>;
  };
  const Kernel<T> kernel = by_width<T>(s, pick);
  return launch_general(kernel, s, s.groups, s.outputs(), input, grad, grad_filters, stream);
}

#define FAC_INSTANTIATE(T)                                                           \
  template const char* forward_cuda(const Shape&, const T*, const T*, T*, void*);    \
  template const char* grad_input_cuda(const Shape&, const T*, const T*, T*, void*); \
  template const char* grad_filters_cuda(const Shape&, const T*, const T*, T*, void*);
FAC_INSTANTIATE(float)
FAC_INSTANTIATE(double)
FAC_INSTANTIATE(Half)
FAC_INSTANTIATE(BFloat16)

}  // namespace fac
