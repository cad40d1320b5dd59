// The CUDA kernels for every call. One thread per value of the result (forward, gradient of the input) or per filter
// (gradient of the filters). Neighbouring threads are neighbours in memory: pixels of a row-major tensor, channels of a
// channels_last one. No kernel has atomics: repeatable bits. Int is the type of all indices within a sample: int, or
// int64_t for the call that needs it, which has no kernel of its own width.
#pragma once
#include "common.cuh"

namespace fac {
namespace {

template <typename T>
constexpr bool kFast = !std::is_same_v<T, double>;  // double is there for gradcheck

constexpr unsigned kThreads = 256;

// Element (sample n, channel c, pixel p) of an image is at n * sample + c * channel + p * pixel.
template <typename Int>
struct Strides {
  Int sample, channel, pixel;

  __device__ Strides(const Sizes<Int>& s, Int channels, Int pixels)
      : sample(channels * pixels), channel(s.channels_last ? 1 : pixels), pixel(s.channels_last ? channels : 1) {}
  __device__ int64_t start(Int n, Int c) const { return static_cast<int64_t>(n) * sample + c * channel; }
};

// The grid covers `channels` images of `pixels` per sample. Its x is the index in a plane or, channels_last, in a
// sample; its y counts planes or samples.
template <typename Int>
struct Place {
  Int n, c, pixel;
};
template <typename Int>
__device__ inline Int inner_index() {
  return static_cast<Int>(blockIdx.x) * static_cast<Int>(kThreads) + static_cast<Int>(threadIdx.x);
}
template <typename S, typename Int>
FAC_HOST_DEVICE inline Int inner_count(const S& s, Int channels, Int pixels) {
  return s.channels_last ? channels * pixels : pixels;
}
template <typename S, typename Int>
FAC_HOST_DEVICE inline Int outer_count(const S& s, Int channels) {
  return s.channels_last ? s.batch : s.batch * channels;
}
template <typename Int>
__device__ inline Place<Int> place(const Sizes<Int>& s, Int channels, Int inner, Int outer) {
  return s.channels_last ? Place<Int>{outer, inner % channels, inner / channels}
                         : Place<Int>{outer / channels, outer % channels, inner};
}

// Says whether 32 bits hold the indices within a sample, the number of planes, and twice every position: with room for
// the threads beyond the last index and for the grid's last step.
inline bool fits_32_bits(const Shape& s) {
  constexpr int64_t kLimit = (int64_t{1} << 31) - (1 << 17);
  const auto small = [](const Axis& axis) {
    return axis.input + axis.before + (axis.after > 0 ? axis.after : 0) < kLimit / 2;
  };
  return s.batch * s.channels < kLimit && s.channels * s.inputs() < kLimit && s.channels * s.outputs() < kLimit &&
         s.groups * s.taps() * s.outputs() < kLimit && small(s.rows) && small(s.columns);
}

// The columns of the input under the taps of output column x: kept, if K, their number, is known when compiling.
template <int K, typename Int>
struct Columns {
  const Sizes<Int>& s;
  const Int x;
  Int kept[K > 0 ? K : 1];

  __device__ Columns(const Sizes<Int>& s, Int x) : s(s), x(x) {
#pragma unroll
    for (int j = 0; j < K; ++j) kept[j] = under(j);
  }
  __device__ Int under(Int j) const { return source(position(s.columns, x, j, s.padding), s.columns.input, s.padding); }
  __device__ Int operator[](Int j) const { return K > 0 ? kept[j] : under(j); }
};

// K is the width of the kernel if it is known when compiling, else 0. Unrolls only a filter's columns: all of 7 x 7 at
// once would spill registers.
template <int K, typename T, typename Int>
__global__ void forward_kernel(Shape shape, const T* input, const T* filters, T* output) {
  const Sizes<Int> s(shape);
  const Int k = K > 0 ? K : s.columns.kernel, inner = inner_index<Int>();
  if (inner >= inner_count(s, s.channels, s.outputs)) return;
  const Strides<Int> in(s, s.channels, s.inputs), out(s, s.channels, s.outputs),
      filter(s, s.groups * s.taps, s.outputs);
  for (Int outer = blockIdx.y, count = outer_count(s, s.channels); outer < count; outer += gridDim.y) {
    const Place<Int> at = place(s, s.channels, inner, outer);
    const Int y = at.pixel / s.columns.output, x = at.pixel % s.columns.output;
    const Columns<K, Int> columns(s, x);
    const T* image = input + in.start(at.n, at.c);
    const Int group = at.c / (s.channels / s.groups);
    const T* taps = filters + filter.start(at.n, group * s.taps) + at.pixel * filter.pixel;
    Sum<T> sum = 0;
#pragma unroll 1
    for (Int i = 0; i < s.rows.kernel; ++i) {
      const Int row = source(position(s.rows, y, i, s.padding), s.rows.input, s.padding);
#pragma unroll
      for (Int j = 0; j < k; ++j) {
        const Int column = columns[j];
        const bool inside = row >= 0 && column >= 0;  // else a zero, which makes NaN of a NaN tap
        const Sum<T> value = inside ? widen(image[(row * s.columns.input + column) * in.pixel]) : Sum<T>(0);
        sum += value * widen(taps[(i * k + j) * filter.channel]);
      }
    }
    output[out.start(at.n, at.c) + at.pixel * out.pixel] = narrow<T>(sum);
  }
}

template <int K, typename T, typename Int>
__global__ void grad_input_kernel(Shape shape, const T* filters, const T* grad, T* grad_input) {
  const Sizes<Int> s(shape);
  const Int k = K > 0 ? K : s.columns.kernel, inner = inner_index<Int>();
  if (inner >= inner_count(s, s.channels, s.inputs)) return;
  const Strides<Int> in(s, s.channels, s.inputs), out(s, s.channels, s.outputs),
      filter(s, s.groups * s.taps, s.outputs);
  for (Int outer = blockIdx.y, count = outer_count(s, s.channels); outer < count; outer += gridDim.y) {
    const Place<Int> at = place(s, s.channels, inner, outer);
    const Int row = at.pixel / s.columns.input, column = at.pixel % s.columns.input;
    const Int row_preimages = preimage_count(s.rows, row, s.padding);
    const Int column_preimages = preimage_count(s.columns, column, s.padding);
    const T* image = grad + out.start(at.n, at.c);
    const T* taps = filters + filter.start(at.n, at.c / (s.channels / s.groups) * s.taps);
    Sum<T> sum = 0;
#pragma unroll 1
    for (Int m = 0; m < row_preimages; ++m)
#pragma unroll 1
      for (Int i = 0; i < s.rows.kernel; ++i) {
        const ProgressionOf<Int> rows = outputs_reading(s.rows, preimage_at(s.rows, row, m, s.padding), i, s.padding);
#pragma unroll 1
        for (Int y = rows.first; y < rows.last; y += rows.step)
#pragma unroll 1
          for (Int l = 0; l < column_preimages; ++l) {
            const Int q = preimage_at(s.columns, column, l, s.padding);
#pragma unroll
            for (Int j = 0; j < k; ++j) {
              const ProgressionOf<Int> columns = outputs_reading(s.columns, q, j, s.padding);
#pragma unroll 1
              for (Int x = columns.first; x < columns.last; x += columns.step) {
                const Int pixel = y * s.columns.output + x;
                const Int tap = (i * k + j) * filter.channel + pixel * filter.pixel;
                sum += widen(taps[tap]) * widen(image[pixel * out.pixel]);
              }
            }
          }
      }
    grad_input[in.start(at.n, at.c) + at.pixel * in.pixel] = narrow<T>(sum);
  }
}

template <int K, typename T, typename Int>
__global__ void grad_filters_kernel(Shape shape, const T* input, const T* grad, T* grad_filters) {
  const Sizes<Int> s(shape);
  const Int k = K > 0 ? K : s.columns.kernel, inner = inner_index<Int>();
  if (inner >= inner_count(s, s.groups, s.outputs)) return;
  const Strides<Int> in(s, s.channels, s.inputs), out(s, s.channels, s.outputs),
      filter(s, s.groups * s.taps, s.outputs);
  for (Int outer = blockIdx.y, count = outer_count(s, s.groups); outer < count; outer += gridDim.y) {
    const Place<Int> at = place(s, s.groups, inner, outer);
    const Int y = at.pixel / s.columns.output, x = at.pixel % s.columns.output, shared = s.channels / s.groups;
    const Columns<K, Int> columns(s, x);
    const T* channels = input + in.start(at.n, at.c * shared);
    const T* grads = grad + out.start(at.n, at.c * shared) + at.pixel * out.pixel;
    T* taps = grad_filters + filter.start(at.n, at.c * s.taps) + at.pixel * filter.pixel;
#pragma unroll 1
    for (Int i = 0; i < s.rows.kernel; ++i) {
      const Int row = source(position(s.rows, y, i, s.padding), s.rows.input, s.padding);
#pragma unroll
      for (Int j = 0; j < k; ++j) {
        const Int column = columns[j];
        const bool inside = row >= 0 && column >= 0;
        const Int pixel = (row * s.columns.input + column) * in.pixel;
        Sum<T> sum = 0;
#pragma unroll 1
        for (Int c = 0; c < shared; ++c) {
          const Sum<T> value = inside ? widen(channels[c * in.channel + pixel]) : Sum<T>(0);
          sum += value * widen(grads[c * out.channel]);
        }
        taps[(i * k + j) * filter.channel] = narrow<T>(sum);
      }
    }
  }
}

// Launches threads over `channels` images of `pixels` for each sample.
template <typename T>
const char* launch_general(Kernel<T> kernel, const Shape& s, int64_t channels, int64_t pixels, const T* a, const T* b,
                           T* out, void* stream) {
  const int64_t inner = inner_count(s, channels, pixels), outer = outer_count(s, channels);
  if (inner == 0 || outer == 0) return nullptr;
  const dim3 blocks(static_cast<unsigned>(divide_up(inner, kThreads)),
                    static_cast<unsigned>(outer < kMaxGridY ? outer : kMaxGridY));
  return launch(kernel, blocks, kThreads, s, a, b, out, stream);
}

// Picks the kernel for a width that was compiled for, else the one for any width, the only one for double and for
// indices of 64 bits.
template <typename T, typename Pick>
Kernel<T> by_width(const Shape& s, Pick pick) {
  constexpr std::integral_constant<int, 0> kAny;
  if (!fits_32_bits(s)) return pick(kAny, int64_t{});
  if constexpr (kFast<T>)
    if (has_width(s)) return by_odd_width<T>(s.columns.kernel, [=](auto k) { return pick(k, int{}); });
  return pick(kAny, int{});
}

}  // namespace
}  // namespace fac
