// The inner loops for groups of channels that share a filter (one group: kernel prediction, cost volumes, neighbourhood
// attention). Each filter value serves many channels, so arithmetic sets the time and not memory: sums stay in
// registers over the taps, or over the channels, and each value of a filter is loaded once for several vectors.
#pragma once
#include <utility>

#include "common.h"

namespace fac::FAC_VERSION {
namespace {

// As many numbers as the instruction set takes at a time.
template <typename S>
struct LanesOf {
  typedef S type __attribute__((vector_size(FAC_VECTOR_BYTES)));
};
template <typename S>
using Lanes = typename LanesOf<S>::type;
template <typename S>
constexpr int kWidth = FAC_VECTOR_BYTES / sizeof(S);

// Says whether values are added in the type that they are stored in; else each one is widened first.
template <typename T>
constexpr bool kStored = std::is_same_v<T, Sum<T>>;

FAC_INLINE void load_lanes(const float* from, Lanes<float>& lanes) { std::memcpy(&lanes, from, sizeof lanes); }
FAC_INLINE void load_lanes(const double* from, Lanes<double>& lanes) { std::memcpy(&lanes, from, sizeof lanes); }
template <typename T>
FAC_INLINE void load_lanes(const T* from, Lanes<float>& lanes) {
  float wide[kWidth<float>];
  for (int l = 0; l < kWidth<float>; ++l) wide[l] = widen(from[l]);
  std::memcpy(&lanes, wide, sizeof lanes);
}
template <typename T>
FAC_INLINE void store_lanes(const Lanes<Sum<T>>& lanes, T* to) {
  if constexpr (std::is_same_v<T, Sum<T>>)
    std::memcpy(to, &lanes, sizeof lanes);
  else
    for (int l = 0; l < kWidth<float>; ++l) to[l] = narrow<T>(lanes[l]);
}

// Calls visit(first, count as a constant) over all of [0, total), in runs of eight, four, two and one, or of two and
// one.
template <bool kLong = true, typename Visit>
FAC_INLINE void for_runs(int64_t total, const Visit& visit) {
  int64_t first = 0;
  const auto runs = [&](auto count) {
    for (; first + count <= total; first += count) visit(first, count);
  };
  if constexpr (kLong) {
    runs(std::integral_constant<int, 8>());
    runs(std::integral_constant<int, 4>());
  }
  runs(std::integral_constant<int, 2>());
  runs(std::integral_constant<int, 1>());
}

// A list of (pixel, weight) places: what one result adds up. They are offsets, so that a row's list serves all rows.
struct Place {
  int64_t pixel, weight;
};

// Sums weights[w] * pixels[p] over all rows x columns of places, for kCount vectors of channels. Products go to as many
// sums as hide a multiply-add's latency.
template <int kCount, typename T>
FAC_NOINLINE void weigh_vectors(const Place* rows, int64_t row_count, const Place* columns, int64_t column_count,
                                const T* __restrict pixels, const T* __restrict weights, T* __restrict output) {
  using S = Sum<T>;
  constexpr int kParts = kCount >= 8 ? 1 : kCount == 4 ? 2 : 4;
  Lanes<S> sums[kParts][kCount] = {};
  for (int64_t r = 0; r < row_count; ++r) {
    const T* const line = pixels + rows[r].pixel;
    const T* const taps = weights + rows[r].weight;
    int64_t t = 0;
    for (; t + kParts <= column_count; t += kParts)
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part) {
        const T* const pixel = line + columns[t + part].pixel;
        const S weight = widen(taps[columns[t + part].weight]);
#pragma GCC unroll 8
        for (int v = 0; v < kCount; ++v) {
          Lanes<S> value;
          load_lanes(pixel + v * kWidth<S>, value);
          sums[part][v] += value * weight;
        }
      }
    for (; t < column_count; ++t) {
      const T* const pixel = line + columns[t].pixel;
      const S weight = widen(taps[columns[t].weight]);
#pragma GCC unroll 8
      for (int v = 0; v < kCount; ++v) {
        Lanes<S> value;
        load_lanes(pixel + v * kWidth<S>, value);
        sums[0][v] += value * weight;
      }
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < kCount; ++v) {
    Lanes<S> sum = sums[0][v];
#pragma GCC unroll 4
    for (int part = 1; part < kParts; ++part) sum += sums[part][v];
    store_lanes<T>(sum, output + v * kWidth<S>);
  }
}

// The same for any number of channels from kWidth on; the last vector may overlap with those before.
template <typename T>
void weigh_pixels(const Place* rows, int64_t row_count, const Place* columns, int64_t column_count, const T* pixels,
                  const T* weights, T* output, int64_t channels) {
  for_runs<kStored<T>>(channels / kWidth<Sum<T>>, [&](int64_t run, auto count) {
    const int64_t first = run * kWidth<Sum<T>>;
    weigh_vectors<count>(rows, row_count, columns, column_count, pixels + first, weights, output + first);
  });
  const int64_t last = channels - kWidth<Sum<T>>;
  if (channels % kWidth<Sum<T>>)
    weigh_vectors<1>(rows, row_count, columns, column_count, pixels + last, weights, output + last);
}

// Sums filters[tap] * under[tap] over the taps, for kCount vectors of channels.
template <int kCount, typename T>
FAC_NOINLINE void filter_vectors(int64_t taps, const T* const* under, int64_t first, const T* __restrict filters,
                                 T* __restrict output) {
  using S = Sum<T>;
  constexpr int kParts = kCount >= 8 ? 1 : kCount == 4 ? 2 : 4;
  Lanes<S> sums[kParts][kCount] = {};
  const auto add = [&](int part, int64_t tap) FAC_INLINE_LAMBDA {
    const T* const pixel = under[tap] + first;
    const S weight = widen(filters[tap]);
#pragma GCC unroll 8
    for (int v = 0; v < kCount; ++v) {
      Lanes<S> value;
      load_lanes(pixel + v * kWidth<S>, value);
      sums[part][v] += value * weight;
    }
  };
  int64_t tap = 0;
  for (; tap + kParts <= taps; tap += kParts)
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) add(part, tap + part);
  for (; tap < taps; ++tap) add(0, tap);
#pragma GCC unroll 8
  for (int v = 0; v < kCount; ++v) {
    Lanes<S> sum = sums[0][v];
#pragma GCC unroll 4
    for (int part = 1; part < kParts; ++part) sum += sums[part][v];
    store_lanes<T>(sum, output + first + v * kWidth<S>);
  }
}

// The same for all channels [first, first + channels), kWidth or more.
template <typename T>
void filter_group(int64_t taps, const T* const* under, int64_t first, int64_t channels, const T* filters, T* output) {
  for_runs<kStored<T>>(channels / kWidth<Sum<T>>, [&](int64_t run, auto count) {
    filter_vectors<count>(taps, under, first + run * kWidth<Sum<T>>, filters, output);
  });
  if (channels % kWidth<Sum<T>>) filter_vectors<1>(taps, under, first + channels - kWidth<Sum<T>>, filters, output);
}

// Adds lanes in pairs: lane l of the result is a[l] + a[l ^ kHalf] or, where l has the bit kHalf, the same of b.
template <int kHalf, typename V, int... kLane>
FAC_INLINE V add_pairs(const V& a, const V& b, std::integer_sequence<int, kLane...>) {
  constexpr int kCount = sizeof...(kLane);
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (kLane & kHalf ? kLane + kCount : kLane)...) +
         __builtin_shufflevector(a, b, ((kLane & kHalf ? kLane + kCount : kLane) ^ kHalf)...);
#else
  using Number = std::conditional_t<sizeof(V) / kCount == 4, int32_t, int64_t>;
  typedef Number Index __attribute__((vector_size(sizeof(V))));
  return __builtin_shuffle(a, b, Index{(kLane & kHalf ? kLane + kCount : kLane)...}) +
         __builtin_shuffle(a, b, Index{((kLane & kHalf ? kLane + kCount : kLane) ^ kHalf)...});
#endif
}

// Makes lane l the sum of vectors[l]'s lanes: halves the number of vectors log2(kWidth) times.
template <typename S, int kHalf = kWidth<S> / 2>
FAC_INLINE Lanes<S> sum_each(Lanes<S>* vectors) {
#pragma GCC unroll 8
  for (int t = 0; t < kHalf; ++t)
    vectors[t] = add_pairs<kHalf>(vectors[t], vectors[t + kHalf], std::make_integer_sequence<int, kWidth<S>>());
  if constexpr (kHalf > 1) return sum_each<S, kHalf / 2>(vectors);
  return vectors[0];
}

// Computes the products of kWidth taps' pixels with one gradient (or query), each summed over the channels.
template <typename T>
FAC_NOINLINE void correlate_taps(const T* const* under, int64_t first, int64_t channels, const T* __restrict grad,
                                 T* __restrict out) {
  using S = Sum<T>;
  Lanes<S> sums[kWidth<S>] = {};
  int64_t c = first;
  const int64_t last = first + channels;
  for (; c + kWidth<S> <= last; c += kWidth<S>) {
    Lanes<S> g;
    load_lanes(grad + c, g);
#pragma GCC unroll 16
    for (int t = 0; t < kWidth<S>; ++t) {
      Lanes<S> value;
      load_lanes(under[t] + c, value);
      sums[t] += value * g;
    }
  }
  Lanes<S> total = sum_each<S>(sums);
  for (; c < last; ++c)
    for (int t = 0; t < kWidth<S>; ++t) total[t] += widen(under[t][c]) * widen(grad[c]);
  store_lanes<T>(total, out);
}

// Sums weights[r][weight_at[j]] * under[r][pixel_at[j]] over rows r and taps j, for kWidth columns of kCount channels,
// whose planes lie `plane` apart.
template <int kCount, typename W, typename T>
FAC_NOINLINE void filter_planes(int64_t row_count, const Sum<T>* const* under, const W* const* weights, int64_t x,
                                int64_t k, const int64_t* pixel_at, const int64_t* weight_at, int64_t first,
                                int64_t plane, T* __restrict output, int64_t output_plane) {
  using S = Sum<T>;
  Lanes<S> sums[kCount] = {};
  for (int64_t r = 0; r < row_count; ++r)
    for (int64_t j = 0; j < k; ++j) {
      const W* const at = weights[r] + weight_at[j] + x;
      prefetch<FAC_VECTOR_BYTES>(at);  // of the next columns
      Lanes<S> weight;
      load_lanes(at, weight);
      const S* const pixels = under[r] + pixel_at[j] + x + first * plane;
#pragma GCC unroll 8
      for (int c = 0; c < kCount; ++c) {
        Lanes<S> value;
        load_lanes(pixels + c * plane, value);
        sums[c] += value * weight;
      }
    }
#pragma GCC unroll 8
  for (int c = 0; c < kCount; ++c) store_lanes<T>(sums[c], output + (first + c) * output_plane);
}

// Sums under[c][at[j]] * grad[c] over the channels, for kTaps taps j and kWidth columns; grad has these columns alone.
template <int kTaps, typename T>
FAC_NOINLINE void correlate_planes(const int64_t* at, const Sum<T>* under, int64_t plane, const Sum<T>* grad,
                                   int64_t channels, T* __restrict out, int64_t out_tap) {
  using S = Sum<T>;
  Lanes<S> sums[kTaps] = {};
  const S* taps[kTaps];
  for (int j = 0; j < kTaps; ++j) taps[j] = under + at[j];
  for (int64_t c = 0; c < channels; ++c) {
    Lanes<S> g;
    load_lanes(grad + c * kWidth<S>, g);
#pragma GCC unroll 8
    for (int j = 0; j < kTaps; ++j) {
      Lanes<S> value;
      load_lanes(taps[j] + c * plane, value);
      sums[j] += value * g;
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < kTaps; ++j) store_lanes<T>(sums[j], out + j * out_tap);
}

}  // namespace
}  // namespace fac::FAC_VERSION
