// What the bindings and the kernels agree on: one struct and six functions. No torch header is needed by
// this file nor by anything that it declares.
#pragma once
#include <cstdint>

namespace fac {

enum class Padding : int64_t { kZeros = 0, kReplicate = 1 };  // the numbers are those of fac_ext/functional.py

// The sizes of one call. All tensors are dense and row-major:
//   input, output, their gradients  (batch, channels, height, width)
//   filters and their gradient      (batch, channels * kernel * kernel, height, width),
// where filter channel c * kernel^2 + i * kernel + j is row i, column j of channel c's filter.
struct Shape {
  int64_t batch;
  int64_t channels;
  int64_t height;  // pixels
  int64_t width;   // pixels
  int64_t kernel;  // taps per side, odd
  Padding padding;
};

// The three partial maps of <grad, fac(input, filters)>. Work is cut into items, a band of rows of one plane
// each, which write disjoint parts of the result: the caller spreads [0, cpu_items) over its threads.
int64_t cpu_items(const Shape& shape);

template <typename T>  // float, double
void forward_cpu(const Shape& shape, const T* input, const T* filters, T* output, int64_t begin, int64_t end);
template <typename T>
void grad_input_cpu(const Shape& shape, const T* filters, const T* grad, T* grad_input, int64_t begin, int64_t end);
template <typename T>
void grad_filters_cpu(const Shape& shape, const T* input, const T* grad, T* grad_filters, int64_t begin, int64_t end);

const char* cpu_simd();  // the instruction set that the CPU kernels use on this machine

// The same on the current CUDA device and the given cudaStream_t. They return nullptr, or what went wrong.
template <typename T>  // float, double
const char* forward_cuda(const Shape& shape, const T* input, const T* filters, T* output, void* stream);
template <typename T>
const char* grad_input_cuda(const Shape& shape, const T* filters, const T* grad, T* grad_input, void* stream);
template <typename T>
const char* grad_filters_cuda(const Shape& shape, const T* input, const T* grad, T* grad_filters, void* stream);

}  // namespace fac
