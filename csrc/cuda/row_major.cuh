// Row-major tensors with a filter for each channel. A thread owns sixteen bytes of a row, V pixels, and moves the
// filters in pieces of that size: a warp reads or writes 512 consecutive bytes of each tap. One row of the kernel is in
// flight at a time: K pieces in each thread.
#pragma once
#include "common.cuh"

namespace fac {
namespace {

constexpr int kRowThreads = 256;     // in a block, unless one row takes more of them
constexpr int kMaxRowThreads = 512;  // then at most these, so that each may have 128 registers

// The pixels of a result that a thread owns: x, x + 1, ..., x + V - 1 of row y in a plane.
struct Piece {
  int64_t plane, y, x;
};
template <typename T>
__device__ inline Piece piece_of(int64_t index, int64_t height, int64_t width) {
  const int64_t in_row = width / kVector<T>, line = index / in_row;
  return {line / height, line % height, index % in_row * kVector<T>};
}

// Reads what tap t of those pixels looks at.
template <typename T>
__device__ inline Vector<Sum<T>, kVector<T>> values_under(const Shape& s, const T* image, const Piece& at, int64_t t) {
  const int64_t i = t / s.columns.kernel, j = t % s.columns.kernel;
  const int64_t row = source(position(s.rows, at.y, i, s.padding), s.rows.input, s.padding);
  Vector<Sum<T>, kVector<T>> value;
#pragma unroll
  for (int v = 0; v < kVector<T>; ++v) {
    const int64_t column = source(position(s.columns, at.x + v, j, s.padding), s.columns.input, s.padding);
    value.at[v] = row >= 0 && column >= 0 ? widen(image[row * s.columns.input + column]) : Sum<T>(0);
  }
  return value;
}

// The values of an input row under K taps at distance 1, for V neighbouring pixels of the output: V + K - 1 of them,
// value[v + j] under tap j of pixel v.
template <int K, typename T>
struct Window {
  static constexpr int kCount = kVector<T> + K - 1;
  int column[kCount];
  Sum<T> value[kCount];

  __device__ Window(const Axis& a, int64_t x, Padding padding) {
#pragma unroll
    for (int u = 0; u < kCount; ++u) column[u] = static_cast<int>(source(x + u - a.before, a.input, padding));
  }
  // Row -1 is a row of zeros.
  __device__ void read(const T* image, int64_t row, int64_t width) {
#pragma unroll
    for (int u = 0; u < kCount; ++u)
      value[u] = row >= 0 && column[u] >= 0 ? widen(image[row * width + column[u]]) : Sum<T>(0);
  }
};

// K is the width of the kernel; 0 stands for any width, stride, dilation and padding, one tap after the other.
template <int K, typename T>
__global__ void __launch_bounds__(kRowThreads) row_major_forward(Shape s, const T* input, const T* filters, T* output) {
  constexpr int V = kVector<T>;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (index >= s.batch * s.channels * s.outputs() / V) return;
  const Piece at = piece_of<T>(index, s.rows.output, s.columns.output);
  const T* image = input + at.plane * s.inputs();
  const T* taps = filters + at.plane * s.taps() * s.outputs() + at.y * s.columns.output + at.x;
  Sum<T> sum[V] = {};
  if constexpr (K > 0) {
    Window<K, T> window(s.columns, at.x, s.padding);
#pragma unroll 1
    for (int64_t i = 0; i < s.rows.kernel; ++i) {
      // 1. load the filters of this row
      Vector<T> tap[K];
#pragma unroll
      for (int j = 0; j < K; ++j) tap[j] = load_once(taps + (i * K + j) * s.outputs());
      // 2. accumulate
      window.read(image, source(position(s.rows, at.y, i, kFixed), s.rows.input, s.padding), s.columns.input);
#pragma unroll
      for (int j = 0; j < K; ++j)
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] += window.value[v + j] * widen(tap[j].at[v]);
    }
  } else {
#pragma unroll 1
    for (int64_t t = 0; t < s.taps(); ++t) {
      // 1. load the filters of this tap
      const Vector<T> tap = load_once(taps + t * s.outputs());
      // 2. accumulate
      const Vector<Sum<T>, V> value = values_under<T>(s, image, at, t);
#pragma unroll
      for (int v = 0; v < V; ++v) sum[v] += value.at[v] * widen(tap.at[v]);
    }
  }
  // 3. store
  Vector<T> result;
#pragma unroll
  for (int v = 0; v < V; ++v) result.at[v] = rounded<T>(sum[v]);
  store<V>(result, output + index * V);
}

template <int K, typename T>
__global__ void __launch_bounds__(kRowThreads)
    row_major_grad_filters(Shape s, const T* input, const T* grad, T* result) {
  constexpr int V = kVector<T>;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (index >= s.batch * s.channels * s.outputs() / V) return;
  const Piece at = piece_of<T>(index, s.rows.output, s.columns.output);
  const T* image = input + at.plane * s.inputs();
  T* taps = result + at.plane * s.taps() * s.outputs() + at.y * s.columns.output + at.x;
  // 1. load the output's gradient
  const Vector<T> g = load<V>(grad + index * V);
  if constexpr (K > 0) {
    Window<K, T> window(s.columns, at.x, s.padding);
#pragma unroll 1
    for (int64_t i = 0; i < s.rows.kernel; ++i) {
      // 2. multiply and store the taps of this row
      window.read(image, source(position(s.rows, at.y, i, kFixed), s.rows.input, s.padding), s.columns.input);
#pragma unroll
      for (int j = 0; j < K; ++j) {
        Vector<T> tap;
#pragma unroll
        for (int v = 0; v < V; ++v) tap.at[v] = rounded<T>(window.value[v + j] * widen(g.at[v]));
        store_once(tap, taps + (i * K + j) * s.outputs());
      }
    }
  } else {
#pragma unroll 1
    for (int64_t t = 0; t < s.taps(); ++t) {
      // 2. multiply and store this tap
      const Vector<Sum<T>, V> value = values_under<T>(s, image, at, t);
      Vector<T> tap;
#pragma unroll
      for (int v = 0; v < V; ++v) tap.at[v] = rounded<T>(value.at[v] * widen(g.at[v]));
      store_once(tap, taps + t * s.outputs());
    }
  }
}

// Threads for one row of the input and of the output.
template <typename T>
FAC_HOST_DEVICE inline int64_t threads_per_row(const Shape& s) {
  return (s.columns.input > s.columns.output ? s.columns.input : s.columns.output) / kVector<T>;
}

// Reads every filter where it lies: a thread adds up, over the rows of the kernel, what each of its K columns gives
// from V pixels of the output. Then columns meet in shared memory, one at a time, moved by j * dilation: a block holds
// whole rows. A thread each adds up the positions beyond a row's ends, and hands them to the pixels that they show.
template <int K, typename T>
__global__ void __launch_bounds__(kMaxRowThreads, 1)
    row_major_grad_input(Shape s, const T* filters, const T* grad, T* result) {
  constexpr int V = kVector<T>;
  __shared__ Sum<T> shared[V][kMaxRowThreads];  // pixel v of a thread at [v][thread]: no bank conflicts, however moved
  const int per_row = static_cast<int>(threads_per_row<T>(s)), thread = threadIdx.x, chunk = thread % per_row;
  const int64_t line = static_cast<int64_t>(blockIdx.x) * (blockDim.x / per_row) + thread / per_row;
  const int x = chunk * V, before = static_cast<int>(s.columns.before), dilation = static_cast<int>(s.columns.dilation);
  const int in_width = static_cast<int>(s.columns.input), out_width = static_cast<int>(s.columns.output);
  const bool exists = line < s.batch * s.channels * s.rows.input;
  const int64_t plane = line / s.rows.input, y = line % s.rows.input;
  Sum<T> part[K][V] = {};
  if (exists && x < out_width) {
    const T* image = grad + plane * s.outputs() + x;
    const T* taps = filters + plane * s.taps() * s.outputs() + x;
    Axis rows = s.rows;
    rows.stride = 1;
    const int64_t preimages = preimage_count(rows, y, s.padding);
#pragma unroll 1
    for (int64_t m = 0; m < preimages; ++m)
#pragma unroll 1
      for (int64_t i = 0; i < s.rows.kernel; ++i) {
        const Progression outputs = outputs_reading(rows, preimage_at(rows, y, m, s.padding), i, kFixed);
        if (outputs.first >= outputs.last) continue;
        // 1. load the filters of this row
        Vector<T> tap[K];
#pragma unroll
        for (int j = 0; j < K; ++j) tap[j] = load_once(taps + (i * K + j) * s.outputs() + outputs.first * out_width);
        // 2. accumulate
        const Vector<T> g = load<V>(image + outputs.first * out_width);
#pragma unroll
        for (int j = 0; j < K; ++j)
#pragma unroll
          for (int v = 0; v < V; ++v) part[j][v] += widen(tap[j].at[v]) * widen(g.at[v]);
      }
  }
  // 3. exchange with the neighbouring columns
  Sum<T>* const row = shared[0] + thread - chunk;  // of this thread's row
  const auto pixel = [row](unsigned o) -> Sum<T>& { return row[o % V * kMaxRowThreads + o / V]; };
  const int beyond = chunk < before ? chunk - before : in_width + chunk - before;
  Sum<T> sum[V] = {}, outside = 0;
#pragma unroll
  for (int j = 0; j < K; ++j) {
    __syncthreads();
#pragma unroll
    for (int v = 0; v < V; ++v) pixel(x + v) = part[j][v];
    __syncthreads();
    const int move = before - j * dilation;
#pragma unroll
    for (int v = 0; v < V; ++v)
      if (x + v + move >= 0 && x + v + move < out_width) sum[v] += pixel(x + v + move);
    if (beyond + move >= 0 && beyond + move < out_width) outside += pixel(beyond + move);
  }
  // 4. fold the padding
  if (s.padding != Padding::kZeros) {
    __syncthreads();
    row[chunk] = outside;
    __syncthreads();
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int64_t preimages = x < in_width ? preimage_count(s.columns, x + v, s.padding) : 1;
#pragma unroll 1
      for (int64_t m = 1; m < preimages; ++m) {
        const int64_t q = preimage_at(s.columns, x + v, m, s.padding);
        sum[v] += row[q < 0 ? q + before : q - in_width + before];
      }
    }
  }
  // 5. store
  if (!exists || x >= in_width) return;
  Vector<T> values;
#pragma unroll
  for (int v = 0; v < V; ++v) values.at[v] = rounded<T>(sum[v]);
  store<V>(values, result + line * in_width + x);
}

template <typename T>
bool row_major_ok(const Shape& s, const T* a, const T* b, const T* out) {
  return fast_path_ok(s, a, b, out) && !s.channels_last && s.columns.output % kVector<T> == 0;
}
template <typename T>
bool row_major_grad_input_ok(const Shape& s, const T* a, const T* b, const T* out) {
  const int64_t threads = threads_per_row<T>(s), after = s.columns.after > 0 ? s.columns.after : 0;
  return row_major_ok(s, a, b, out) && uniform_window(s) && s.columns.input % kVector<T> == 0 &&
         threads <= kMaxRowThreads && s.columns.before + after <= threads;
}

// Picks the kernel for a width with a window of its own, else the one for any call.
template <typename T, typename Pick>
Kernel<T> by_window(const Shape& s, Pick pick) {
  const bool window = has_width(s) && s.columns.stride == 1 && s.columns.dilation == 1 && s.padding != Padding::kInside;
  return window ? by_odd_width<T>(s.columns.kernel, pick) : pick(std::integral_constant<int, 0>());
}
template <typename T>
dim3 row_major_blocks(const Shape& s) {
  return dim3(static_cast<unsigned>(divide_up(s.batch * s.channels * s.outputs() / kVector<T>, kRowThreads)));
}
template <typename T>
const char* launch_row_major_forward(const Shape& s, const T* input, const T* filters, T* output, void* stream) {
  const auto pick = [](auto k) -> Kernel<T> { return row_major_forward<decltype(k)::value, T>; };
  return launch(by_window<T>(s, pick), row_major_blocks<T>(s), kRowThreads, s, input, filters, output, stream);
}
template <typename T>
const char* launch_row_major_grad_filters(const Shape& s, const T* input, const T* grad, T* result, void* stream) {
  const auto pick = [](auto k) -> Kernel<T> { return row_major_grad_filters<decltype(k)::value, T>; };
  return launch(by_window<T>(s, pick), row_major_blocks<T>(s), kRowThreads, s, input, grad, result, stream);
}
template <typename T>
const char* launch_row_major_grad_input(const Shape& s, const T* filters, const T* grad, T* result, void* stream) {
  const auto pick = [](auto k) -> Kernel<T> { return row_major_grad_input<decltype(k)::value, T>; };
  const int64_t per_row = threads_per_row<T>(s), rows = per_row < kRowThreads ? kRowThreads / per_row : 1;
  const dim3 blocks(static_cast<unsigned>(divide_up(s.batch * s.channels * s.rows.input, rows)));
  return launch(by_odd_width<T>(s.columns.kernel, pick), blocks, per_row * rows, s, filters, grad, result, stream);
}

}  // namespace
}  // namespace fac
