// The CUDA kernels for every call. One thread per value of the result (forward, gradient of the input) or per filter
// (gradient of the filters). Neighbouring threads are neighbours in memory: pixels of a row-major tensor, channels of a
// channels_last one. No kernel has atomics: repeatable bits.
#pragma once
#include "common.cuh"

namespace fac {
namespace {

template <typename T>
constexpr bool kFast = !std::is_same_v<T, double>;  // double is there for gradcheck

constexpr unsigned kThreads = 256;

// Element (sample n, channel c, pixel p) of an image is at n * sample + c * channel + p * pixel.
struct Strides {
  int64_t sample, channel, pixel;
};
FAC_HOST_DEVICE inline Strides image_strides(const Shape& s, int64_t pixels) {
  return s.channels_last ? Strides{pixels * s.channels, 1, s.channels} : Strides{pixels * s.channels, pixels, 1};
}

// The filters likewise: (n, g, tap, p) is at n * sample + (g * taps + tap) * channel + p * pixel.
FAC_HOST_DEVICE inline Strides filter_strides(const Shape& s) {
  const int64_t channels = s.groups * s.taps(), pixels = s.outputs();
  return s.channels_last ? Strides{pixels * channels, 1, channels} : Strides{pixels * channels, pixels, 1};
}

// The grid covers `channels` images of `pixels` per sample. Its x is the index in a plane or, channels_last, in a
// sample; its y counts planes or samples.
struct Place {
  int64_t n, c, pixel;
};
__device__ inline int64_t inner_index() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
FAC_HOST_DEVICE inline int64_t inner_count(const Shape& s, int64_t channels, int64_t pixels) {
  return s.channels_last ? channels * pixels : pixels;
}
FAC_HOST_DEVICE inline int64_t outer_count(const Shape& s, int64_t channels) {
  return s.channels_last ? s.batch : s.batch * channels;
}
FAC_HOST_DEVICE inline Place place(const Shape& s, int64_t channels, int64_t inner, int64_t outer) {
  return s.channels_last ? Place{outer, inner % channels, inner / channels}
                         : Place{outer / channels, outer % channels, inner};
}

// K is the width of the kernel if it is known when compiling, else 0. Unrolls only a filter's columns: all of 7 x 7 at
// once would spill registers.
template <int K, typename T>
__global__ void forward_kernel(Shape s, const T* input, const T* filters, T* output) {
  const int64_t k = K > 0 ? K : s.columns.kernel, inner = inner_index();
  if (inner >= inner_count(s, s.channels, s.outputs())) return;
  const Strides in = image_strides(s, s.inputs()), out = image_strides(s, s.outputs()), filter = filter_strides(s);
  for (int64_t outer = blockIdx.y; outer < outer_count(s, s.channels); outer += gridDim.y) {
    const Place at = place(s, s.channels, inner, outer);
    const int64_t y = at.pixel / s.columns.output, x = at.pixel % s.columns.output;
    const T* image = input + at.n * in.sample + at.c * in.channel;
    const int64_t group = at.c / s.shared();
    const T* taps = filters + at.n * filter.sample + group * s.taps() * filter.channel + at.pixel * filter.pixel;
    Sum<T> sum = 0;
#pragma unroll 1
    for (int64_t i = 0; i < s.rows.kernel; ++i) {
      const int64_t row = source(position(s.rows, y, i, s.padding), s.rows.input, s.padding);
#pragma unroll
      for (int64_t j = 0; j < k; ++j) {
        const int64_t column = source(position(s.columns, x, j, s.padding), s.columns.input, s.padding);
        const bool inside = row >= 0 && column >= 0;  // else a zero, which makes NaN of a NaN tap
        const Sum<T> value = inside ? widen(image[(row * s.columns.input + column) * in.pixel]) : Sum<T>(0);
        sum += value * widen(taps[(i * k + j) * filter.channel]);
      }
    }
    output[at.n * out.sample + at.c * out.channel + at.pixel * out.pixel] = narrow<T>(sum);
  }
}

template <int K, typename T>
__global__ void grad_input_kernel(Shape s, const T* filters, const T* grad, T* grad_input) {
  const int64_t k = K > 0 ? K : s.columns.kernel, inner = inner_index();
  if (inner >= inner_count(s, s.channels, s.inputs())) return;
  const Strides in = image_strides(s, s.inputs()), out = image_strides(s, s.outputs()), filter = filter_strides(s);
  for (int64_t outer = blockIdx.y; outer < outer_count(s, s.channels); outer += gridDim.y) {
    const Place at = place(s, s.channels, inner, outer);
    const int64_t row = at.pixel / s.columns.input, column = at.pixel % s.columns.input;
    const int64_t row_preimages = preimage_count(s.rows, row, s.padding);
    const int64_t column_preimages = preimage_count(s.columns, column, s.padding);
    const T* image = grad + at.n * out.sample + at.c * out.channel;
    const T* taps = filters + at.n * filter.sample + at.c / s.shared() * s.taps() * filter.channel;
    Sum<T> sum = 0;
#pragma unroll 1
    for (int64_t m = 0; m < row_preimages; ++m)
#pragma unroll 1
      for (int64_t i = 0; i < s.rows.kernel; ++i) {
        const Progression rows = outputs_reading(s.rows, preimage_at(s.rows, row, m, s.padding), i, s.padding);
#pragma unroll 1
        for (int64_t y = rows.first; y < rows.last; y += rows.step)
#pragma unroll 1
          for (int64_t l = 0; l < column_preimages; ++l) {
            const int64_t q = preimage_at(s.columns, column, l, s.padding);
#pragma unroll
            for (int64_t j = 0; j < k; ++j) {
              const Progression columns = outputs_reading(s.columns, q, j, s.padding);
#pragma unroll 1
              for (int64_t x = columns.first; x < columns.last; x += columns.step) {
                const int64_t pixel = y * s.columns.output + x;
                const int64_t tap = (i * k + j) * filter.channel + pixel * filter.pixel;
                sum += widen(taps[tap]) * widen(image[pixel * out.pixel]);
              }
            }
          }
      }
    grad_input[at.n * in.sample + at.c * in.channel + at.pixel * in.pixel] = narrow<T>(sum);
  }
}

template <int K, typename T>
__global__ void grad_filters_kernel(Shape s, const T* input, const T* grad, T* grad_filters) {
  const int64_t k = K > 0 ? K : s.columns.kernel, inner = inner_index();
  if (inner >= inner_count(s, s.groups, s.outputs())) return;
  const Strides in = image_strides(s, s.inputs()), out = image_strides(s, s.outputs()), filter = filter_strides(s);
  for (int64_t outer = blockIdx.y; outer < outer_count(s, s.groups); outer += gridDim.y) {
    const Place at = place(s, s.groups, inner, outer);
    const int64_t y = at.pixel / s.columns.output, x = at.pixel % s.columns.output, shared = s.shared();
    const T* channels = input + at.n * in.sample + at.c * shared * in.channel;
    const T* grads = grad + at.n * out.sample + at.c * shared * out.channel + at.pixel * out.pixel;
    T* taps = grad_filters + at.n * filter.sample + at.c * s.taps() * filter.channel + at.pixel * filter.pixel;
#pragma unroll 1
    for (int64_t i = 0; i < s.rows.kernel; ++i) {
      const int64_t row = source(position(s.rows, y, i, s.padding), s.rows.input, s.padding);
#pragma unroll
      for (int64_t j = 0; j < k; ++j) {
        const int64_t column = source(position(s.columns, x, j, s.padding), s.columns.input, s.padding);
        const bool inside = row >= 0 && column >= 0;
        const int64_t pixel = (row * s.columns.input + column) * in.pixel;
        Sum<T> sum = 0;
#pragma unroll 1
        for (int64_t c = 0; c < shared; ++c) {
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

// Picks the kernel for a width that was compiled for, else the one for any width, the only one for double.
template <typename T, typename Pick>
Kernel<T> by_width(int64_t k, Pick pick) {
  if constexpr (kFast<T>)
    if (k == 3 || k == 5 || k == 7) return by_odd_width<T>(k, pick);
  return pick(std::integral_constant<int, 0>());
}

}  // namespace
}  // namespace fac
