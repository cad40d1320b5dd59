// channels_last tensors with a K x K filter for each channel: the filters of one pixel are consecutive. A lane owns
// a word of channels, U = 4 bytes of them, whose filters are K * K words. A warp brings the filters of its words
// into shared memory (or takes them from there) in coalesced pieces of sixteen bytes, and each lane reads (or writes)
// its own, without bank conflicts, K * K being odd. One file, though long: three kernels and the pieces that they
// share.
#pragma once
#include <cuda_pipeline.h>

#include <algorithm>
#include <atomic>

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
    image = base_address(image);
#pragma unroll
    for (int i = 0; i < K; ++i)
#pragma unroll
      for (int j = 0; j < K; ++j) {
        const int index = row[i] + column[j];
        word[i][j] = index >= 0 ? *reinterpret_cast<const unsigned*>(image + static_cast<unsigned>(index)) : 0;
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
      if (const int piece = lane + 32 * p; piece < at.words * kTaps * U / V)
        store_once<V>(stage[piece], to + piece * V);
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

template <int K, typename T>
int64_t walks(const Shape& s) {
  return s.batch * channel_blocks(s, kWalkWords<K> * kWord<T>) * tiles(s.columns.input, kWalkColumns - K + 1);
}

// Returns the pixel at which the walk of an axis of n pixels is at y, or -1 where there is none.
template <int K>
__device__ inline int wrap(int y, int n, Padding padding) {
  if (y >= 0 && y < n) return y;
  if (padding != Padding::kCircular || y >= n + K / 2) return -1;
  return y < 0 ? y + n : y - n;
}

// The running sums of a word of channels: [i] of position y - K / 2 + i, [j] for column j of the kernel.
template <int K, typename T>
using WalkSums = Sum<T>[K][K][kWord<T>];

// Moves the sums to the next row's positions and adds the products of a column's taps and the output's gradient.
template <int K, typename T>
__device__ inline void move_and_add(const T* taps, const Vector<T, kWord<T>>& g, WalkSums<K, T>& sums) {
  constexpr int U = kWord<T>;
#pragma unroll
  for (int t = 0; t < K * K; ++t)
#pragma unroll
    for (int u = 0; u < U; ++u) {
      const Sum<T> above = t + K < K * K ? sums[(t + K) / K][t % K][u] : Sum<T>(0);
      sums[t / K][t % K][u] = above + widen(taps[u * K * K + t]) * widen(g.at[u]);
    }
}
// The same on a row without filters.
template <int K, typename T>
__device__ inline void move(WalkSums<K, T>& sums) {
  constexpr int U = kWord<T>;
#pragma unroll
  for (int i = 0; i < K; ++i)
#pragma unroll
    for (int e = 0; e < K * U; ++e) sums[i][e / U][e % U] = i + 1 < K ? sums[i + 1][e / U][e % U] : Sum<T>(0);
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
__device__ inline void add_columns(const Shape& s, const Sum<T> (&shared)[K][kWord<T>][kWalkThreads<K>], int x,
                                   int first, int word, bool folds, Sum<T> (&sum)[kWord<T>]) {
  constexpr int U = kWord<T>, kHalf = K / 2, kWords = kWalkWords<K>;
  const int slot = x + kHalf - first;  // of tap column 0; the K slots up to it are the block's
#pragma unroll
  for (int j = 0; j < K; ++j)
#pragma unroll
    for (int u = 0; u < U; ++u) sum[u] += shared[j][u][(slot - j) * kWords + word];
  if (!folds || (x > kHalf && x < s.columns.input - 1 - kHalf)) return;
  const int64_t preimages = preimage_count(s.columns, x, s.padding);
#pragma unroll 1
  for (int64_t m = 1; m < preimages; ++m) {
    const int to = static_cast<int>(preimage_at(s.columns, x, m, s.padding)) + kHalf - first;
#pragma unroll
    for (int j = 0; j < K; ++j)
      if (to - j >= 0 && to - j < kWalkColumns)
#pragma unroll
        for (int u = 0; u < U; ++u) sum[u] += shared[j][u][(to - j) * kWords + word];
  }
}

// Sizes within a sample fit 32 bits (channels_last_grad_input_ok). The grid's y counts the walks of a column: equal
// shares of the rows, but for the last.
template <int K, typename T>
__global__ void __launch_bounds__(kWalkThreads<K>)
    channels_last_grad_input(Shape s, const T* filters, const T* grad, T* result) {
  constexpr int U = kWord<T>, V = kVector<T>, kTaps = K * K, kHalf = K / 2, kWords = kWalkWords<K>;
  constexpr int kPieces = kWords * kTaps * U / V, kOwn = kWalkColumns - 2 * kHalf;
  constexpr int kColumns = 32 / kWords, kRounds = (kColumns * kPieces + 31) / 32;  // a warp's
  constexpr bool kOnce = K < 7 || U == 1;  // else the places take the registers of a resident block
  __shared__ Vector<T> staged[kWalkColumns * kPieces];
  __shared__ Sum<T> exchange[2][K][U][kWalkThreads<K>];
  const int thread = threadIdx.x, lane = thread % 32, word = thread % kWords, own = thread / kWords;
  const int height = static_cast<int>(s.rows.input), width = static_cast<int>(s.columns.input);
  const int channels = static_cast<int>(s.channels), segment = (height - 1) / static_cast<int>(gridDim.y) + 1;
  const int blocks = (channels - 1) / (kWords * U) + 1, across = (width - 1) / kOwn + 1;
  const int channel = static_cast<int>(blockIdx.x) % blocks * (kWords * U),
            rest = static_cast<int>(blockIdx.x) / blocks;
  const int first = rest % across * kOwn - kHalf, n = rest / across;  // the block's leftmost column
  const int top = static_cast<int>(blockIdx.y) * segment, bottom = top + segment < height ? top + segment : height;
  const int words = (channels - channel) / U < kWords ? (channels - channel) / U : kWords;
  const int x = first + own, column = wrap<K>(x, width, s.padding);
  const bool replicate = s.padding == Padding::kReplicate, folds = replicate || s.padding == Padding::kReflect;
  const bool mine = column >= 0 && word < words;
  const bool writes = own >= kHalf && own < kWalkColumns - kHalf && x < width && word < words;
  const int64_t sample = static_cast<int64_t>(n) * height * width * channels + channel;
  filters += sample * kTaps;
  grad += sample + word * U;
  result += sample + word * U;

  // A warp brings the filters of its own columns on row y, in rounds. A piece's place in a row is -1 if there is none.
  const auto place = [=](int round) {
    const int piece = lane + 32 * round, part = piece % kPieces;
    const int from = wrap<K>(first + thread / 32 * kColumns + piece / kPieces, width, s.padding);
    const bool exists = piece < kColumns * kPieces && from >= 0 && part < words * kTaps * U / V;
    return exists ? from * channels * kTaps + part * V : -1;
  };
  int places[kRounds];
  if constexpr (kOnce)
#pragma unroll
    for (int round = 0; round < kRounds; ++round) places[round] = place(round);
  const auto fetch = [&](int y) {
    const T* row = filters + static_cast<int64_t>(y) * (width * channels * kTaps);
#pragma unroll
    for (int round = 0; round < kRounds; ++round)
      if (const int at = kOnce ? places[round] : place(round); at >= 0)
        __pipeline_memcpy_async(staged + thread / 32 * (kColumns * kPieces) + lane + 32 * round, row + at, 16);
    __pipeline_commit();
  };

  WalkSums<K, T> sums = {};
  int row = wrap<K>(top - kHalf, height, s.padding);
  if (row >= 0) fetch(row);
#pragma unroll 1
  for (int y = top - kHalf; y < bottom + kHalf; ++y) {
    // 1. move the sums and accumulate
    if (row >= 0) {
      Vector<T, U> g = {};
      if (mine) g = load<U>(grad + (row * width + column) * channels);
      __pipeline_wait_prior(0);
      __syncwarp();
      if (mine) move_and_add<K, T>(staged[0].at + thread * kTaps * U, g, sums);
      __syncwarp();
    } else {
      move<K, T>(sums);
    }
    // 2. load the filters of the next row (async)
    row = y + 1 < bottom + kHalf ? wrap<K>(y + 1, height, s.padding) : -1;
    if (row >= 0) fetch(row);
    // 3. fold the padding
    const int q = y - kHalf;
    if (folds && y == height - 1)
#pragma unroll
      for (int m = 1; m <= kHalf; ++m)
        replicate ? fold<K, T>(sums, kHalf + m, kHalf) : fold<K, T>(sums, kHalf + m, kHalf - m);
    if (folds && q < 0)
#pragma unroll
      for (int i = 1; i < K; ++i)
        if (q + i == (replicate ? 0 : -q)) fold<K, T>(sums, 0, i);
    if (q < top) continue;  // the same for all threads of the block
    // 4. exchange with the neighbouring columns
    auto& shared = exchange[(q - top) % 2];
#pragma unroll
    for (int e = 0; e < K * U; ++e) shared[e / U][e % U][thread] = sums[0][e / U][e % U];
    __syncthreads();
    if (!writes) continue;
    Sum<T> sum[U] = {};
    add_columns<K, T>(s, shared, x, first, word, folds, sum);
    // 5. store
    Vector<T, U> values;
#pragma unroll
    for (int u = 0; u < U; ++u) values.at[u] = rounded<T>(sum[u]);
    store<U>(values, result + (q * width + x) * channels);
  }
}

// Returns the blocks of a kernel that the current device holds at a time.
template <int K, typename T>
int64_t resident_walks() {
  static std::atomic<int> known[64];  // by device; 0: not asked yet
  int device = 0;
  cudaGetDevice(&device);
  std::atomic<int>& blocks = known[device % 64];
  if (blocks == 0) {
    int each = 0, multiprocessors = 0;
    cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, channels_last_grad_input<K, T>, kWalkThreads<K>, 0);
    cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    blocks = each * multiprocessors > 0 ? each * multiprocessors : 1;  // 1: the launch will say why
  }
  return blocks;
}
// Returns how many walks share the rows of a column. All blocks together take a number of waves, each as long as its
// rows and the K - 1 more that it reads: the least product, with walks of 32 rows or more.
template <int K, typename T>
int64_t walks_down(const Shape& s) {
  const int64_t side_by_side = walks<K, T>(s), resident = resident_walks<K, T>(), height = s.rows.input;
  int64_t best = 1, least = divide_up(side_by_side, resident) * (height + K - 1);
  for (int64_t waves = 1; waves <= 8; ++waves) {
    int64_t down = std::min(waves * resident / side_by_side, std::min(height / 32, kMaxGridY));
    if (down < 2) continue;
    const int64_t rows = divide_up(height, down);
    down = divide_up(height, rows);
    const int64_t time = divide_up(side_by_side * down, resident) * (rows + K - 1);
    if (time < least) best = down, least = time;
  }
  return best;
}

// Returns the number of blocks of the forward pass and of the gradient of the filters.
template <typename T>
int64_t channels_last_tiles(const Shape& s) {
  return s.batch * channel_blocks(s, 32 * kWord<T>) * tiles(s.columns.output, kTileColumns) *
         tiles(s.rows.output, kTileRows);
}
// Walks of K = 7 are the most that there are.
template <typename T>
bool channels_last_ok(const Shape& s, const T* a, const T* b, const T* out) {
  return fast_path_ok(s) && piece_values(a, b, out, {}) == kVector<T> && s.channels_last && has_width(s) &&
         s.rows.kernel == s.columns.kernel && s.channels % kVector<T> == 0 && s.inputs() * s.channels < 1 << 30 &&
         channels_last_tiles<T>(s) <= kMaxGridX && walks<7, T>(s) <= kMaxGridX;
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
  return dim3(static_cast<unsigned>(channels_last_tiles<T>(s)));
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
  dim3 blocks;
  int64_t threads = 0;
  const auto pick = [&](auto k) -> Kernel<T> {
    constexpr int K = decltype(k)::value;
    threads = kWalkThreads<K>;
    blocks = dim3(static_cast<unsigned>(walks<K, T>(s)), static_cast<unsigned>(walks_down<K, T>(s)));
    return channels_last_grad_input<K, T>;
  };
  const Kernel<T> kernel = by_odd_width<T>(s.columns.kernel, pick);
  return launch(kernel, blocks, threads, s, filters, grad, result, stream);
}

}  // namespace
}  // namespace fac
