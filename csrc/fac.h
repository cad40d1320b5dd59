// The interface between the bindings and the kernels: one struct and six functions. Neither this file nor anything that
// it declares needs a torch header.
#pragma once
#include <cstdint>
#include <functional>

#include "dtypes.h"

namespace fac {

// Uses the numbers of fac_ext/arguments.py. kInside is no padding: a window that would leave the image is moved inside
// it (neighbourhood attention's rule); stride is 1 and before = (kernel / 2) * dilation.
enum class Padding : int64_t { kZeros = 0, kReplicate = 1, kReflect = 2, kCircular = 3, kInside = 4 };

// One axis of a call. Tap t of output pixel o reads position o * stride + t * dilation - before of the input, which is
// continued beyond its ends. The last position read is input + after - 1, so always
//   input + before + after = (output - 1) * stride + (kernel - 1) * dilation + 1
// and after is the padding less what the stride leaves over; it may be negative.
template <typename Int>
struct AxisOf {
  Int input;   // pixels
  Int output;  // pixels
  Int kernel;  // taps
  Int stride, dilation, before, after;
};
using Axis = AxisOf<int64_t>;

// The sizes of one call. Tensors are dense:
//   input and its gradient     (batch, channels, rows.input, columns.input)
//   output and its gradient    (batch, channels, rows.output, columns.output)
//   filters and their gradient (batch, groups * taps, rows.output, columns.output),
// where filter channel g * taps + i * columns.kernel + j is row i, column j of group g's filter, and channel c
// belongs to group c / (channels / groups). In memory all are row-major in this order or, if channels_last, have the
// channels innermost.
struct Shape {
  int64_t batch, channels, groups;
  Axis rows, columns;
  Padding padding;
  bool channels_last;

  FAC_HOST_DEVICE int64_t taps() const { return rows.kernel * columns.kernel; }
  FAC_HOST_DEVICE int64_t shared() const { return channels / groups; }  // channels that share a filter
  FAC_HOST_DEVICE int64_t inputs() const { return rows.input * columns.input; }
  FAC_HOST_DEVICE int64_t outputs() const { return rows.output * columns.output; }
};

// Runs items [0, items) on the caller's threads by calls of run(begin, end), each of at least `grain` items.
using Run = std::function<void(int64_t begin, int64_t end)>;
using Parallel = void (*)(int64_t items, int64_t grain, const Run& run);

// Compute the three partial maps of <grad, fac(input, filters)>, for T = float, double, Half, BFloat16. They add in
// Sum<T>, in one order whatever the number of threads.
template <typename T>
void forward_cpu(const Shape& shape, const T* input, const T* filters, T* output, Parallel parallel);
template <typename T>
void grad_input_cpu(const Shape& shape, const T* filters, const T* grad, T* grad_input, Parallel parallel);
template <typename T>
void grad_filters_cpu(const Shape& shape, const T* input, const T* grad, T* grad_filters, Parallel parallel);

// Names the instruction set that the CPU kernels use: the processor's best, or what FAC_CPU_CAPABILITY says, which is
// read once. Throws std::runtime_error where that is no version or not one for this processor.
const char* cpu_simd();

// Do the same on the current CUDA device and the given cudaStream_t. They return nullptr, or the error in words.
template <typename T>
const char* forward_cuda(const Shape& shape, const T* input, const T* filters, T* output, void* stream);
template <typename T>
const char* grad_input_cuda(const Shape& shape, const T* filters, const T* grad, T* grad_input, void* stream);
template <typename T>
const char* grad_filters_cuda(const Shape& shape, const T* input, const T* grad, T* grad_filters, void* stream);

}  // namespace fac
