// channels_last tensors with a K x K filter for each channel: the filters of one pixel are consecutive. A lane owns
// a word of channels, U = 4 bytes of them, whose filters are K * K words. A warp brings the filters of its words
// into shared memory (or takes them from there) in coalesced pieces of sixteen bytes, and each lane reads (or writes)
// its own, without bank conflicts, K * K being odd.
#pragma once
#include <cuda_pipeline.h>

#include "common.cuh"

namespace fac {
namespace {

template <typename T>
constexpr int kWord = 4 / sizeof(T);

constexpr int kTileRows = 4;     // warps of a block, one on each row of a tile of the output
constexpr int kTileColumns = 8;  // pixels that a warp passes, one after the other; neighbours share the cached input

// A warp's part of the output: row y, columns [x, end), channels from `channel` on, of which `words` words exist.
struct Strip {
  int64_t n, y, x, end, channel;
  int words;
};
FAC_HOST_DEVICE inline int64_t channel_blocks(const Shape& s, int channels) { return divide_up(s.channels, channels); }
FAC_HOST_DEVICE inline int64_t tiles(int64_t pixels, int64_t size) { return divide_up(pixels, size); }

template <typename T>
__device__ inline int words_from(const Shape& s, int64_t channel, int limit) {
  const int64_t left = (s.channels - channel) / kWord<T>;
  return left < limit ? static_cast<int>(left) : limit;
}

// Where the taps of a tile's rows and columns look in a sample of the input: the parts of an index, which is
// negative where the padding shows zeros.
constexpr int kNowhere = -(1 << 30);
template <int K>
struct Taps {
  int part[kTileRows + kTileColumns][K];

  __device__ void fill(const Shape& s, const Strip& at) {
    for (int e = threadIdx.x; e < (kTileRows + kTileColumns) * K; e += 32 * kTileRows) {
      const int slot = e / K;
      const bool row = slot < kTileRows;
      const int64_t o = row ? at.y - threadIdx.x / 32 + slot : at.x + slot - kTileRows;
      const Axis& axis = row ? s.rows : s.columns;
      const int64_t i = source(position(axis, o, e % K, s.padding), axis.input, s.padding);
      part[slot][e % K] = i < 0 ? kNowhere : static_cast<int>(i * s.channels * (row ? s.columns.input : 1));
    }
  }
};

// Finds this warp's strip, and fills the block's table of where its taps look.
template <typename T, int K>
__device__ inline Strip own_strip(const Shape& s, Taps<K>& where) {
  constexpr int kChannels = 32 * kWord<T>;
  const int64_t across = tiles(s.columns.output, kTileColumns), down = tiles(s.rows.output, kTileRows);
  int64_t block = blockIdx.x;
  const int64_t channel = block % channel_blocks(s, kChannels) * kChannels;
  block /= channel_blocks(s, kChannels);
  const int64_t x = block % across * kTileColumns, y = block / across % down * kTileRows + threadIdx.x / 32;
  const int64_t end = x + kTileColumns < s.columns.output ? x + kTileColumns : s.columns.output;
  const Strip at = {block / across / down, y, x, end, channel, words_from<T>(s, channel, 32)};
  where.fill(s, at);
  __syncthreads();
  return at;
}

// The words under a filter.
template <int K, typename T>
struct Patch {
  unsigned word[K][K];

  __device__ Patch(const T* image, const int* row, const int* column) {
#pragma unroll
    for (int i = 0; i < K; ++i)
#pragma unroll
      for (int j = 0; j < K; ++j) {
        const int index = row[i] + column[j];
        word[i][j] = index >= 0 ? *reinterpret_cast<const unsigned*>(image + index) : 0;
      }
  }
  // Channel u under tap t. The upper of two BFloat16 is a float already, but for what the lower adds to it.
  __device__ Sum<T> at(int t, int u) const {
    const unsigned bits = word[t / K][t % K];
    if constexpr (std::is_same_v<T, BFloat16>) return float_of(u ? bits & 0xffff0000 : bits << 16);
    return widen(__builtin_bit_cast(Vector<T, kWord<T>>, bits).at[u]);
  }
};

template <int K, typename T>
__global__ void __launch_bounds__(32 * kTileRows)
    channels_last_forward(Shape s, const T* input, const T* filters, T* output) {
  constexpr int U = kWord<T>, V = kVector<T>, kTaps = K * K, kPieces = (kTaps + 3) / 4;
  __shared__ Vector<T> staged[kTileRows][32 * kTaps * U / V];
  const int lane = threadIdx.x % 32;
  Vector<T>* const stage = staged[threadIdx.x / 32];
  __shared__ Taps<K> where;
  const Strip at = own_strip<T>(s, where);
  if (at.y >= s.rows.output) return;
  const int64_t channel = at.channel + lane * U;
  const bool mine = lane < at.words;
  const T* image = input + at.n * s.inputs() * s.channels + (mine ? channel : 0);
#pragma unroll 1
  for (int64_t x = at.x; x < at.end; ++x) {
    // 1. load the filters of this pixel (async)
    const int64_t start = ((at.n * s.rows.output + at.y) * s.columns.output + x) * s.channels;
    const Vector<T>* from = reinterpret_cast<const Vector<T>*>(filters + (start + at.channel) * kTaps);
#pragma unroll
    for (int p = 0; p < kPieces; ++p)
      if (const int piece = lane + 32 * p; piece < at.words * kTaps * U / V)
        __pipeline_memcpy_async(stage + piece, from + piece, 16);
    __pipeline_commit();
    // 2. load the input under them
    const Patch<K, T> patch(image, where.part[threadIdx.x / 32], where.part[kTileRows + x - at.x]);
    __pipeline_wait_prior(0);
    __syncwarp();
    // 3. accumulate
    const T* taps = stage[0].at + lane * U * kTaps;
    Vector<T, U> result;
#pragma unroll
    for (int u = 0; u < U; ++u) {
      Sum<T> sum = 0;
#pragma unroll
      for (int t = 0; t < kTaps; ++t) sum += patch.at(t, u) * widen(taps[u * kTaps + t]);
      result.at[u] = rounded<T>(sum);
    }
    // 4. store
    if (mine) store<U>(result, output + start + channel);
    __syncwarp();
  }
}

template <int K, typename T>
__global__ void __launch_bounds__(32 * kTileRows)
    channels_last_grad_filters(Shape s, const T* input, const T* grad, T* result) {
  constexpr int U = kWord<T>, V = kVector<T>, kTaps = K * K, kPieces = (kTaps + 3) / 4;
  __shared__ Vector<T> staged[kTileRows][32 * kTaps * U / V];
  const int lane = threadIdx.x % 32;
  Vector<T>* const stage = staged[threadIdx.x / 32];
  __shared__ Taps<K> where;
  const Strip at = own_strip<T>(s, where);
  if (at.y >= s.rows.output) return;
  const int64_t channel = lane < at.words ? at.channel + lane * U : 0;
  const T* image = input + at.n * s.inputs() * s.channels + channel;
#pragma unroll 1
  for (int64_t x = at.x; x < at.end; ++x) {
    // 1. load the output's gradient and the input under the taps
    const int64_t start = ((at.n * s.rows.output + at.y) * s.columns.output + x) * s.channels;
    const Vector<T, U> g = load<U>(grad + start + channel);
    const Patch<K, T> patch(image, where.part[threadIdx.x / 32], where.part[kTileRows + x - at.x]);
    // 2. multiply, into shared memory
    T* taps = stage[0].at + lane * U * kTaps;
#pragma unroll
    for (int u = 0; u < U; ++u)
#pragma unroll
      for (int t = 0; t < kTaps; ++t) taps[u * kTaps + t] = rounded<T>(patch.at(t, u) * widen(g.at[u]));
    __syncwarp();
    // 3. store
    T* to = result + (start + at.channel) * kTaps;
#pragma unroll
    for (int p = 0; p < kPieces; ++p)
      if (const int piece = lane + 32 * p; piece < at.words * kTaps * U / V) store_once(stage[piece], to + piece * V);
    __syncwarp();
  }
}

// The gradient of the input, dilation 1 and "same" padding. A block walks down the output over 32 neighbouring
// columns; a thread owns a word of channels of one column, and reads every filter once, when the walk passes its
// row. Tap (i, j) of row y goes to position y + i - K / 2 and column x + j - K / 2 of the input: the running sums of
// K positions stay in registers, for each j apart. The first position of them is then complete, and its K sums are
// exchanged with the neighbouring columns. What lies beyond the image is folded back onto it, or, circular, is read
// from the other side. The K - 1 outer columns are read by two blocks, at the same time: once from the L2 cache.
constexpr int kWalkColumns = 32;
template <int K>
constexpr int kWalkWords = K == 7 ? 4 : 8;  // so that shared memory stays below 48 KB
template <int K>
constexpr int kWalkThreads = kWalkColumns * kWalkWords<K>;

// Rows of the input for one walk: long, since K - 1 rows more are read, but not so long that there are fewer than some
// 512 blocks for a GPU's multiprocessors.
template <int K, typename T>
FAC_HOST_DEVICE inline int64_t walks(const Shape& s) {
  return s.batch * channel_blocks(s, kWalkWords<K> * kWord<T>) * tiles(s.columns.input, kWalkColumns - K + 1);
}
template <int K, typename T>
FAC_HOST_DEVICE inline int64_t walk_rows(const Shape& s) {
  const int64_t rows = divide_up(s.rows.input, divide_up(512, walks<K, T>(s)));
  return rows < 32 ? 32 : rows;
}

// Returns the pixel at which the walk of an axis of n pixels is at y, or -1 where there is none.
__device__ inline int64_t wrap(int64_t y, int64_t n, Padding padding) {
  if (y >= 0 && y < n) return y;
  return padding == Padding::kCircular ? source(y, n, padding) : -1;
}

// The running sums of a word of channels: [i] of position y - K / 2 + i, [j] for column j of the kernel.
template <int K, typename T>
using WalkSums = Sum<T>[K][K][kWord<T>];

// Adds the products of a column's taps and the output's gradient.
template <int K, typename T>
__device__ inline void add_taps(const T* taps, const Vector<T, kWord<T>>& g, WalkSums<K, T>& sums) {
  constexpr int U = kWord<T>;
#pragma unroll
  for (int t = 0; t < K * K; ++t)
#pragma unroll
    for (int u = 0; u < U; ++u) sums[t / K][t % K][u] += widen(taps[u * K * K + t]) * widen(g.at[u]);
}

// Adds the sums of position `from` to those of position `to`.
template <int K, typename T>
__device__ inline void fold(WalkSums<K, T>& sums, int from, int to) {
  constexpr int U = kWord<T>;
#pragma unroll
  for (int e = 0; e < K * U; ++e) sums[to][e / U][e % U] += sums[from][e / U][e % U];
}

// Adds up the sums of the block's columns that belong to column x, and to what lies beyond the image and shows it.
template <int K, typename T>
__device__ inline void add_columns(const Shape& s, const Sum<T> (&shared)[K][kWord<T>][kWalkThreads<K>], int64_t x,
                                   int64_t first, int word, bool folds, Sum<T> (&sum)[kWord<T>]) {
  constexpr int U = kWord<T>, kHalf = K / 2, kWords = kWalkWords<K>;
  const int64_t preimages = folds ? preimage_count(s.columns, x, s.padding) : 1;
#pragma unroll 1
  for (int64_t m = 0; m < preimages; ++m) {
    const int64_t to = preimage_at(s.columns, x, m, s.padding) + kHalf - first;  // slot of tap column 0
#pragma unroll
    for (int j = 0; j < K; ++j)
      if (to - j >= 0 && to - j < kWalkColumns)
#pragma unroll
        for (int u = 0; u < U; ++u) sum[u] += shared[j][u][(to - j) * kWords + word];
  }
}

template <int K, typename T>
__global__ void __launch_bounds__(kWalkThreads<K>)
    channels_last_grad_input(Shape s, const T* filters, const T* grad, T* result) {
  constexpr int U = kWord<T>, V = kVector<T>, kTaps = K * K, kHalf = K / 2, kWords = kWalkWords<K>;
  constexpr int kPieces = kWords * kTaps * U / V, kOwn = kWalkColumns - 2 * kHalf;
  __shared__ Vector<T> staged[kWalkColumns * kPieces];
  __shared__ int columns[kWalkColumns];  // where their filters are in a row, or -1
  __shared__ Sum<T> exchange[2][K][U][kWalkThreads<K>];
  const int thread = threadIdx.x, lane = thread % 32, word = thread % kWords, own = thread / kWords;
  const int64_t height = s.rows.input, width = s.columns.input;
  const int64_t blocks = channel_blocks(s, kWords * U), across = tiles(width, kOwn);
  const int64_t segment = walk_rows<K, T>(s), down = tiles(height, segment);
  const int64_t channel = blockIdx.x % blocks * (kWords * U), rest = blockIdx.x / blocks;
  const int64_t first = rest % across * kOwn - kHalf, n = rest / across / down;  // the block's leftmost column
  const int64_t top = rest / across % down * segment, bottom = top + segment < height ? top + segment : height;
  const int words = words_from<T>(s, channel, kWords);
  const int64_t x = first + own, column = x < width + kHalf ? wrap(x, width, s.padding) : -1;
  const bool replicate = s.padding == Padding::kReplicate, folds = replicate || s.padding == Padding::kReflect;
  const bool writes = own >= kHalf && own < kWalkColumns - kHalf && x < width && word < words;

  for (int slot = thread; slot < kWalkColumns; slot += kWalkThreads<K>) {
    const int64_t at = first + slot, from = at < width + kHalf ? wrap(at, width, s.padding) : -1;
    columns[slot] = from < 0 ? -1 : static_cast<int>(from * s.channels * kTaps);
  }
  __syncthreads();
  // A warp brings the filters of its own columns on row y.
  const auto fetch = [&](int64_t y) {
    constexpr int kColumns = 32 / kWords;
    const T* row = filters + ((n * height + y) * width * s.channels + channel) * kTaps;
#pragma unroll
    for (int piece = lane; piece < kColumns * kPieces; piece += 32) {
      const int slot = thread / 32 * kColumns + piece / kPieces, part = piece % kPieces, from = columns[slot];
      if (from >= 0 && part < words * kTaps * U / V)
        __pipeline_memcpy_async(staged + slot * kPieces + part, row + from + part * V, 16);
    }
    __pipeline_commit();
  };

  WalkSums<K, T> sums = {};
  int64_t row = wrap(top - kHalf, height, s.padding);
  if (row >= 0) fetch(row);
#pragma unroll 1
  for (int64_t y = top - kHalf; y < bottom + kHalf; ++y) {
    // 1. accumulate
    if (row >= 0) {
      const bool reads = column >= 0 && word < words;
      Vector<T, U> g = {};
      if (reads) g = load<U>(grad + ((n * height + row) * width + column) * s.channels + channel + word * U);
      __pipeline_wait_prior(0);
      __syncwarp();
      if (reads) add_taps<K, T>(staged[0].at + thread * kTaps * U, g, sums);
      __syncwarp();
    }
    // 2. load the filters of the next row (async)
    row = y + 1 < bottom + kHalf ? wrap(y + 1, height, s.padding) : -1;
    if (row >= 0) fetch(row);
    // 3. fold the padding
    const int64_t q = y - kHalf;
    if (folds && y == height - 1)
#pragma unroll
      for (int m = 1; m <= kHalf; ++m)
        replicate ? fold<K, T>(sums, kHalf + m, kHalf) : fold<K, T>(sums, kHalf + m, kHalf - m);
    if (folds && q < 0)
#pragma unroll
      for (int i = 1; i < K; ++i)
        if (q + i == (replicate ? 0 : -q)) fold<K, T>(sums, 0, i);
    if (q >= top) {  // the same for all threads of the block
      // 4. exchange with the neighbouring columns
      auto& shared = exchange[(q - top) % 2];
#pragma unroll
      for (int e = 0; e < K * U; ++e) shared[e / U][e % U][thread] = sums[0][e / U][e % U];
      __syncthreads();
      if (writes) {
        Sum<T> sum[U] = {};
        add_columns<K, T>(s, shared, x, first, word, folds, sum);
        // 5. store
        Vector<T, U> values;
#pragma unroll
        for (int u = 0; u < U; ++u) values.at[u] = rounded<T>(sum[u]);
        store<U>(values, result + ((n * height + q) * width + x) * s.channels + channel + word * U);
      }
    }
    // 6. move the sums to the next row's positions
#pragma unroll
    for (int i = 0; i < K; ++i)
#pragma unroll
      for (int e = 0; e < K * U; ++e) sums[i][e / U][e % U] = i + 1 < K ? sums[i + 1][e / U][e % U] : Sum<T>(0);
  }
}

template <typename T>
bool channels_last_ok(const Shape& s, const T* a, const T* b, const T* out) {
  return fast_path_ok(s, a, b, out) && s.channels_last && has_width(s) && s.rows.kernel == s.columns.kernel &&
         s.channels % kVector<T> == 0 && s.inputs() * s.channels < 1 << 30;
}
template <typename T>
bool channels_last_grad_input_ok(const Shape& s, const T* a, const T* b, const T* out) {
  const auto same = [](const Axis& axis) {
    return axis.dilation == 1 && axis.before == axis.kernel / 2 && axis.after == axis.before &&
           axis.input >= axis.kernel;
  };
  return channels_last_ok(s, a, b, out) && uniform_window(s) && same(s.rows) && same(s.columns) &&
         s.columns.output * s.channels * s.taps() < int64_t{1} << 31;
}

template <typename T>
dim3 channels_last_blocks(const Shape& s) {
  return dim3(static_cast<unsigned>(s.batch * channel_blocks(s, 32 * kWord<T>) * tiles(s.columns.output, kTileColumns) *
                                    tiles(s.rows.output, kTileRows)));
}
template <typename T>
const char* launch_channels_last_forward(const Shape& s, const T* input, const T* filters, T* output, void* stream) {
  const auto pick = [](auto k) -> Kernel<T> { return channels_last_forward<decltype(k)::value, T>; };
  return launch(by_odd_width<T>(s.columns.kernel, pick), channels_last_blocks<T>(s), 32 * kTileRows, s, input, filters,
                output, stream);
}
template <typename T>
const char* launch_channels_last_grad_filters(const Shape& s, const T* input, const T* grad, T* result, void* stream) {
  const auto pick = [](auto k) -> Kernel<T> { return channels_last_grad_filters<decltype(k)::value, T>; };
  return launch(by_odd_width<T>(s.columns.kernel, pick), channels_last_blocks<T>(s), 32 * kTileRows, s, input, grad,
                result, stream);
}
template <typename T>
const char* launch_channels_last_grad_input(const Shape& s, const T* filters, const T* grad, T* result, void* stream) {
  int64_t blocks = 0, threads = 0;
  const auto pick = [&](auto k) -> Kernel<T> {
    constexpr int K = decltype(k)::value;
    threads = kWalkThreads<K>;
    blocks = walks<K, T>(s) * tiles(s.rows.input, walk_rows<K, T>(s));
    return channels_last_grad_input<K, T>;
  };
  const Kernel<T> kernel = by_odd_width<T>(s.columns.kernel, pick);
  return launch(kernel, dim3(static_cast<unsigned>(blocks)), threads, s, filters, grad, result, stream);
}

}  // namespace
}  // namespace fac
