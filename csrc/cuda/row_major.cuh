// Row-major tensors with a filter for each channel. A thread owns a piece of a row, V pixels of together sixteen bytes,
// and moves the filters in pieces of that size: a warp reads or writes 512 consecutive bytes of each tap. One row of
// the kernel is in flight at a time: K pieces in each thread. Where rows are no multiple of sixteen bytes, a piece has
// eight or four. Pieces are fewer than 2^31, so that all but the places in memory is in 32 bits. One
// file, though long: three kernels and the pieces that they share.
#pragma once
#include "common.cuh"

namespace fac {
namespace {

constexpr int kRowThreads = 256;     // in a block, unless one row takes more of them
constexpr int kMaxRowThreads = 512;  // then at most these, so that each may have 128 registers

// The pixels of a result that a thread owns: x, x + 1, ..., x + V - 1 of row y in a plane.
struct Piece {
  int plane, y, x;
};
template <int V>
__device__ inline Piece piece_of(unsigned index, unsigned height, unsigned width) {
  const unsigned in_row = width / V, line = index / in_row, plane = line / height;
  return {static_cast<int>(plane), static_cast<int>(line - plane * height), static_cast<int>(index % in_row * V)};
}
__device__ inline int64_t pixel_of(int y, int x, int width) { return static_cast<int64_t>(y) * width + x; }

// Reads what tap t of those pixels looks at.
template <int V, typename T>
__device__ inline Vector<Sum<T>, V> values_under(const Sizes<int>& s, const T* image, const Piece& at, int t) {
  const int i = t / s.columns.kernel, j = t % s.columns.kernel;
  const int row = source(position(s.rows, at.y, i, s.padding), s.rows.input, s.padding);
  Vector<Sum<T>, V> value;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int column = source(position(s.columns, at.x + v, j, s.padding), s.columns.input, s.padding);
    value.at[v] = row >= 0 && column >= 0 ? widen(image[pixel_of(row, column, s.columns.input)]) : Sum<T>(0);
  }
  return value;
}

// The values of an input row under K taps at distance 1, for V neighbouring pixels of the output: V + K - 1 of them,
// value[v + j] under tap j of pixel v.
template <int K, typename T, int V>
struct Window {
  static constexpr int kCount = V + K - 1;
  int column[kCount];
  Sum<T> value[kCount];

  __device__ Window(const AxisOf<int>& a, int x, Padding padding) {
#pragma unroll
    for (int u = 0; u < kCount; ++u) column[u] = source(x + u - a.before, a.input, padding);
  }
  // Row -1 is a row of zeros.
  __device__ void read(const T* image, int row, int width) {
    const T* line = base_address(image + pixel_of(row < 0 ? 0 : row, 0, width));
#pragma unroll
    for (int u = 0; u < kCount; ++u)
      value[u] = row >= 0 && column[u] >= 0 ? widen(line[static_cast<unsigned>(column[u])]) : Sum<T>(0);
  }
};

// K is the width of the kernel; 0 stands for any width, stride, dilation and padding, one tap after the other.
template <int K, typename T, int V>
__global__ void __launch_bounds__(kRowThreads)
    row_major_forward(Shape shape, const T* input, const T* filters, T* output) {
  const Sizes<int> s(shape);
  const int64_t outputs = shape.outputs();
  const unsigned index = blockIdx.x * kRowThreads + threadIdx.x;
  if (index >= static_cast<unsigned>(s.batch * s.channels * s.rows.output * (s.columns.output / V))) return;
  const Piece at = piece_of<V>(index, s.rows.output, s.columns.output);
  const T* image = input + at.plane * shape.inputs();
  const T* taps = filters + at.plane * (s.taps * outputs) + pixel_of(at.y, at.x, s.columns.output);
  Sum<T> sum[V] = {};
  if constexpr (K > 0) {
    Window<K, T, V> window(s.columns, at.x, s.padding);
#pragma unroll 1
    for (int i = 0; i < s.rows.kernel; ++i) {
      // 1. load the filters of this row
      Vector<T, V> tap[K];
#pragma unroll
      for (int j = 0; j < K; ++j) tap[j] = load_once<V>(taps + (i * K + j) * outputs);
      // 2. accumulate
      window.read(image, source(position(s.rows, at.y, i, kFixed), s.rows.input, s.padding), s.columns.input);
#pragma unroll
      for (int j = 0; j < K; ++j)
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] += window.value[v + j] * widen(tap[j].at[v]);
    }
  } else {
#pragma unroll 1
    for (int t = 0; t < s.taps; ++t) {
      // 1. load the filters of this tap
      const Vector<T, V> tap = load_once<V>(taps + t * outputs);
      // 2. accumulate
      const Vector<Sum<T>, V> value = values_under<V>(s, image, at, t);
#pragma unroll
      for (int v = 0; v < V; ++v) sum[v] += value.at[v] * widen(tap.at[v]);
    }
  }
  // 3. store
  Vector<T, V> result;
#pragma unroll
  for (int v = 0; v < V; ++v) result.at[v] = rounded<T>(sum[v]);
  store<V>(result, output + static_cast<int64_t>(index) * V);
}

// Blocks of row_major_grad_filters for which a multiprocessor must have registers: the most without spilling any.
#if !defined(__CUDA_ARCH__) || (__CUDA_ARCH__ >= 800 && __CUDA_ARCH__ < 1000)
constexpr int kBlocksOf3 = 6, kBlocksOf5 = 6, kFewestBlocks = 4;
#else
constexpr int kBlocksOf3 = __CUDA_ARCH__ < 800 ? 4 : 5, kBlocksOf5 = 4, kFewestBlocks = __CUDA_ARCH__ < 1200 ? 4 : 3;
#endif
template <int K, int V>
constexpr int kStoringBlocks = V == 8   ? (K == 7 ? kFewestBlocks : 4)
                               : K == 3 ? kBlocksOf3
                               : K == 5 ? kBlocksOf5
                                        : 4;

template <int K, typename T, int V>
__global__ void __launch_bounds__(kRowThreads, kStoringBlocks<K, V>)
    row_major_grad_filters(Shape shape, const T* input, const T* grad, T* result) {
  const Sizes<int> s(shape);
  const int64_t outputs = shape.outputs();
  const unsigned index = blockIdx.x * kRowThreads + threadIdx.x;
  if (index >= static_cast<unsigned>(s.batch * s.channels * s.rows.output * (s.columns.output / V))) return;
  const Piece at = piece_of<V>(index, s.rows.output, s.columns.output);
  const T* image = input + at.plane * shape.inputs();
  T* taps = result + at.plane * (s.taps * outputs) + pixel_of(at.y, at.x, s.columns.output);
  // 1. load the output's gradient
  const Vector<T, V> g = load<V>(grad + static_cast<int64_t>(index) * V);
  if constexpr (K > 0) {
    Window<K, T, V> window(s.columns, at.x, s.padding);
#pragma unroll 1
    for (int i = 0; i < s.rows.kernel; ++i) {
      // 2. multiply and store the taps of this row
      window.read(image, source(position(s.rows, at.y, i, kFixed), s.rows.input, s.padding), s.columns.input);
#pragma unroll
      for (int j = 0; j < K; ++j) {
        Vector<T, V> tap;
#pragma unroll
        for (int v = 0; v < V; ++v) tap.at[v] = rounded<T>(window.value[v + j] * widen(g.at[v]));
        store_once<V>(tap, taps + (i * K + j) * outputs);
      }
    }
  } else {
#pragma unroll 1
    for (int t = 0; t < s.taps; ++t) {
      // 2. multiply and store this tap
      const Vector<Sum<T>, V> value = values_under<V>(s, image, at, t);
      Vector<T, V> tap;
#pragma unroll
      for (int v = 0; v < V; ++v) tap.at[v] = rounded<T>(value.at[v] * widen(g.at[v]));
      store_once<V>(tap, taps + t * outputs);
    }
  }
}

// Threads for one row of the input and of the output.
FAC_HOST_DEVICE inline int64_t threads_per_row(const Shape& s, int64_t values) {
  return (s.columns.input > s.columns.output ? s.columns.input : s.columns.output) / values;
}

// Blocks of row_major_grad_input for which a multiprocessor must have registers, of 64 in a thread: for a row of 480
// threads, two instead of one; of 240, four instead of three.
template <int K, int V>
constexpr int kFoldingBlocks = K == 3 || (K == 5 && V <= 4) ? 2 : 1;

// Reads every filter where it lies: a thread adds up, over the rows of the kernel, what each of its K columns gives
// from V pixels of the output. Then columns meet in shared memory, one at a time, moved by j * dilation: a block holds
// whole rows. A thread each adds up the positions beyond a row's ends, and hands them to the pixels that they show.
template <int K, typename T, int V>
__global__ void __launch_bounds__(kMaxRowThreads, kFoldingBlocks<K, V>)
    row_major_grad_input(Shape shape, const T* filters, const T* grad, T* result) {
  __shared__ Sum<T> shared[V][kMaxRowThreads];  // pixel v of a thread at [v][thread]: no bank conflicts, however moved
  const Sizes<int> s(shape);
  const int per_row = static_cast<int>(threads_per_row(shape, V)), thread = threadIdx.x, chunk = thread % per_row;
  const unsigned line = blockIdx.x * (blockDim.x / per_row) + thread / per_row, height = s.rows.input;
  const int x = chunk * V, before = s.columns.before, dilation = s.columns.dilation;
  const int in_width = s.columns.input, out_width = s.columns.output;
  const bool exists = line < static_cast<unsigned>(s.batch * s.channels) * height;
  const int64_t plane = line / height, outputs = shape.outputs();
  Sum<T> part[K][V] = {};
  if (exists && x < out_width) {
    const T* image = grad + plane * outputs + x;
    const T* taps = filters + plane * (s.taps * outputs) + x;
    const int y = static_cast<int>(line % height);
    AxisOf<int> rows = s.rows;
    rows.stride = 1;
    const int preimages = preimage_count(rows, y, s.padding);
#pragma unroll 1
    for (int m = 0; m < preimages; ++m)
#pragma unroll 1
      for (int i = 0; i < s.rows.kernel; ++i) {
        const auto reading = outputs_reading(rows, preimage_at(rows, y, m, s.padding), i, kFixed);
        if (reading.first >= reading.last) continue;
        // 1. load the filters of this row
        const int64_t pixel = pixel_of(reading.first, 0, out_width);
        Vector<T, V> tap[K];
#pragma unroll
        for (int j = 0; j < K; ++j) tap[j] = load_once<V>(taps + (i * K + j) * outputs + pixel);
        // 2. accumulate
        const Vector<T, V> g = load<V>(image + pixel);
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
      const int preimages = x < in_width ? preimage_count(s.columns, x + v, s.padding) : 1;
#pragma unroll 1
      for (int m = 1; m < preimages; ++m) {
        const int q = preimage_at(s.columns, x + v, m, s.padding);
        sum[v] += row[q < 0 ? q + before : q - in_width + before];
      }
    }
  }
  // 5. store
  if (!exists || x >= in_width) return;
  Vector<T, V> values;
#pragma unroll
  for (int v = 0; v < V; ++v) values.at[v] = rounded<T>(sum[v]);
  store<V>(values, result + static_cast<int64_t>(line) * in_width + x);
}

// Says whether the windows of neighbouring pixels overlap so that a thread may keep one for all of its pixels.
inline bool has_window(const Shape& s) {
  return has_width(s) && s.columns.stride == 1 && s.columns.dilation == 1 && s.padding != Padding::kInside;
}
// Pieces of less than sixteen bytes are there for such windows alone: one tap after the other, a thread of few pixels
// is no faster than the general kernels.
template <typename T>
bool row_major_ok(const Shape& s, const T* a, const T* b, const T* out) {
  const int64_t values = piece_values(a, b, out, {s.columns.output});
  return fast_path_ok(s) && !s.channels_last && (values == kVector<T> || (values > 0 && has_window(s))) &&
         s.batch * s.channels * s.outputs() < (int64_t{1} << 31) * values && s.taps() < 1 << 30;
}
template <typename T>
bool row_major_grad_input_ok(const Shape& s, const T* a, const T* b, const T* out) {
  const int64_t values = piece_values(a, b, out, {s.columns.input, s.columns.output});
  if (!fast_path_ok(s) || s.channels_last || values == 0 || !uniform_window(s)) return false;
  const int64_t threads = threads_per_row(s, values), after = s.columns.after > 0 ? s.columns.after : 0;
  return threads <= kMaxRowThreads && s.columns.before + after <= threads && s.taps() < 1 << 30 &&
         s.batch * s.channels * s.rows.input < int64_t{1} << 31;
}

// Picks the kernel for pieces of so many values.
template <typename T, typename Pick>
Kernel<T> by_piece(int64_t values, Pick pick) {
  if (values == kVector<T>) return pick(std::integral_constant<int, kVector<T>>());
  if (values == kVector<T> / 2) return pick(std::integral_constant<int, kVector<T> / 2>());
  return pick(std::integral_constant<int, kVector<T> / 4>());
}
// Picks the kernel for a width with a window of its own, else the one for any call.
template <typename T, int V, typename Pick>
Kernel<T> by_window(const Shape& s, Pick pick) {
  if constexpr (V == kVector<T>)
    if (!has_window(s)) return pick(std::integral_constant<int, 0>());
  return by_odd_width<T>(s.columns.kernel, pick);
}
inline dim3 row_major_blocks(const Shape& s, int64_t values) {
  return dim3(static_cast<unsigned>(divide_up(s.batch * s.channels * s.outputs() / values, kRowThreads)));
}
template <typename T>
const char* launch_row_major_forward(const Shape& s, const T* input, const T* filters, T* output, void* stream) {
  const int64_t values = piece_values(input, filters, output, {s.columns.output});
  const auto pick = [&](auto v) -> Kernel<T> {
    const auto pick = [=](auto k) -> Kernel<T> { return row_major_forward<decltype(k)::value, T, decltype(v)::value>; };
    return by_window<T, decltype(v)::value>(s, pick);
  };
  return launch(by_piece<T>(values, pick), row_major_blocks(s, values), kRowThreads, s, input, filters, output, stream);
}
template <typename T>
const char* launch_row_major_grad_filters(const Shape& s, const T* input, const T* grad, T* result, void* stream) {
  const int64_t values = piece_values(input, grad, result, {s.columns.output});
  const auto pick = [&](auto v) -> Kernel<T> {
    const auto pick = [=](auto k) -> Kernel<T> {
      return row_major_grad_filters<decltype(k)::value, T, decltype(v)::value>;
    };
    return by_window<T, decltype(v)::value>(s, pick);
  };
  return launch(by_piece<T>(values, pick), row_major_blocks(s, values), kRowThreads, s, input, grad, result, stream);
}
template <typename T>
const char* launch_row_major_grad_input(const Shape& s, const T* filters, const T* grad, T* result, void* stream) {
  const int64_t values = piece_values(filters, grad, result, {s.columns.input, s.columns.output});
  const auto pick = [&](auto v) -> Kernel<T> {
    const auto pick = [=](auto k) -> Kernel<T> {
      return row_major_grad_input<decltype(k)::value, T, decltype(v)::value>;
    };
    return by_odd_width<T>(s.columns.kernel, pick);
  };
  const int64_t per_row = threads_per_row(s, values), rows = per_row < kRowThreads ? kRowThreads / per_row : 1;
  const dim3 blocks(static_cast<unsigned>(divide_up(s.batch * s.channels * s.rows.input, rows)));
  return launch(by_piece<T>(values, pick), blocks, per_row * rows, s, filters, grad, result, stream);
}

}  // namespace
}  // namespace fac
