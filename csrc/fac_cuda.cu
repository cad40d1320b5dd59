// The CUDA kernels: one thread per pixel of the result (forward, gradient of the input) or per pixel of the
// output (gradient of the filters), neighbours in x side by side, so that every access to the filters is
// coalesced and each of their values is read or written once. Gathers only: no atomics, repeatable bits.
// No warp intrinsics and no shared memory: the tests run this very file on a CPU too.
#include <cuda_runtime.h>

#include "geometry.h"

namespace fac {
namespace {

constexpr unsigned kThreads = 256;
constexpr int64_t kMaxGridY = 65535;  // planes beyond it are reached by a stride

// K is the kernel size where it is known when compiling, else 0. Only a filter's columns are unrolled: all of
// 7 x 7 at once would spill registers.
template <int K, typename T>
__global__ void forward_kernel(Shape s, const T* input, const T* filters, T* output) {
  const int64_t k = K > 0 ? K : s.kernel, pixels = s.height * s.width;
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pixel >= pixels) return;
  const int64_t y = pixel / s.width, x = pixel % s.width;
  for (int64_t plane = blockIdx.y; plane < s.batch * s.channels; plane += gridDim.y) {
    const T* taps = filters + plane * k * k * pixels + pixel;
    T sum = 0;
#pragma unroll 1
    for (int64_t i = 0; i < k; ++i) {
      const int64_t row = source(y + i - k / 2, s.height, s.padding);
#pragma unroll
      for (int64_t j = 0; j < k; ++j) {
        const int64_t column = source(x + j - k / 2, s.width, s.padding);
        if (row >= 0 && column >= 0)
          sum += input[plane * pixels + row * s.width + column] * taps[(i * k + j) * pixels];
      }
    }
    output[plane * pixels + pixel] = sum;
  }
}

template <int K, typename T>
__global__ void grad_input_kernel(Shape s, const T* filters, const T* grad, T* grad_input) {
  const int64_t k = K > 0 ? K : s.kernel, pixels = s.height * s.width;
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pixel >= pixels) return;
  const Span rows = positions(pixel / s.width, s.height, k / 2, s.padding);
  const Span columns = positions(pixel % s.width, s.width, k / 2, s.padding);
  for (int64_t plane = blockIdx.y; plane < s.batch * s.channels; plane += gridDim.y) {
    T sum = 0;
    for (int64_t row = rows.first; row < rows.last; ++row)
      for (int64_t column = columns.first; column < columns.last; ++column)
#pragma unroll 1
        for (int64_t i = 0; i < k; ++i)
#pragma unroll
          for (int64_t j = 0; j < k; ++j) {  // output pixel (y, x) saw this input pixel through tap (i, j)
            const int64_t y = row - i + k / 2, x = column - j + k / 2;
            if (y < 0 || y >= s.height || x < 0 || x >= s.width) continue;
            const int64_t at = y * s.width + x;
            sum += filters[((plane * k + i) * k + j) * pixels + at] * grad[plane * pixels + at];
          }
    grad_input[plane * pixels + pixel] = sum;
  }
}

template <int K, typename T>
__global__ void grad_filters_kernel(Shape s, const T* input, const T* grad, T* grad_filters) {
  const int64_t k = K > 0 ? K : s.kernel, pixels = s.height * s.width;
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pixel >= pixels) return;
  const int64_t y = pixel / s.width, x = pixel % s.width;
  for (int64_t plane = blockIdx.y; plane < s.batch * s.channels; plane += gridDim.y) {
    const T g = grad[plane * pixels + pixel];
    T* taps = grad_filters + plane * k * k * pixels + pixel;
#pragma unroll 1
    for (int64_t i = 0; i < k; ++i) {
      const int64_t row = source(y + i - k / 2, s.height, s.padding);
#pragma unroll
      for (int64_t j = 0; j < k; ++j) {
        const int64_t column = source(x + j - k / 2, s.width, s.padding);
        const bool inside = row >= 0 && column >= 0;
        taps[(i * k + j) * pixels] = inside ? input[plane * pixels + row * s.width + column] * g : T(0);
      }
    }
  }
}

template <typename T>
using Kernel = void (*)(Shape, const T*, const T*, T*);

template <typename T>
const char* launch(Kernel<T> kernel, const Shape& s, const T* a, const T* b, T* out, void* stream) {
  const int64_t planes = s.batch * s.channels, pixels = s.height * s.width;
  if (planes == 0 || pixels == 0) return nullptr;
  const int64_t blocks = (pixels + kThreads - 1) / kThreads;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(planes < kMaxGridY ? planes : kMaxGridY));
  config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, s, a, b, out);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

template <typename T>
const char* forward_cuda(const Shape& s, const T* input, const T* filters, T* output, void* stream) {
  const Kernel<T> kernel = s.kernel == 3   ? forward_kernel<3, T>
                           : s.kernel == 5 ? forward_kernel<5, T>
                           : s.kernel == 7 ? forward_kernel<7, T>
                                           : forward_kernel<0, T>;
  return launch(kernel, s, input, filters, output, stream);
}

template <typename T>
const char* grad_input_cuda(const Shape& s, const T* filters, const T* grad, T* grad_input, void* stream) {
  const Kernel<T> kernel = s.kernel == 3   ? grad_input_kernel<3, T>
                           : s.kernel == 5 ? grad_input_kernel<5, T>
                           : s.kernel == 7 ? grad_input_kernel<7, T>
                                           : grad_input_kernel<0, T>;
  return launch(kernel, s, filters, grad, grad_input, stream);
}

template <typename T>
const char* grad_filters_cuda(const Shape& s, const T* input, const T* grad, T* grad_filters, void* stream) {
  const Kernel<T> kernel = s.kernel == 3   ? grad_filters_kernel<3, T>
                           : s.kernel == 5 ? grad_filters_kernel<5, T>
                           : s.kernel == 7 ? grad_filters_kernel<7, T>
                                           : grad_filters_kernel<0, T>;
  return launch(kernel, s, input, grad, grad_filters, stream);
}

template const char* forward_cuda(const Shape&, const float*, const float*, float*, void*);
template const char* forward_cuda(const Shape&, const double*, const double*, double*, void*);
template const char* grad_input_cuda(const Shape&, const float*, const float*, float*, void*);
template const char* grad_input_cuda(const Shape&, const double*, const double*, double*, void*);
template const char* grad_filters_cuda(const Shape&, const float*, const float*, float*, void*);
template const char* grad_filters_cuda(const Shape&, const double*, const double*, double*, void*);

}  // namespace fac
