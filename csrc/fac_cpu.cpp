// The CPU kernels. The filters are k^2 times the size of the input and every value is used once, so memory
// decides: each pass reads (or writes) the k taps of one filter row as k sequential streams, while the sums
// and the padded band of the input stay in the second-level cache. Borders cost nothing in the inner loops:
// a band of rows is copied with its padding first, 1 / k^2 of the filters' traffic.
#include <algorithm>
#include <vector>

#include "geometry.h"

// The inner loops are compiled for three instruction sets and chosen when the library is loaded.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define FAC_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FAC_MULTIVERSION
#endif

namespace fac {
namespace {

constexpr int64_t kBandElements = 16384;  // of one band of one plane

struct Band {
  int64_t plane;        // n * channels + c
  int64_t first, last;  // rows
};

int64_t band_rows(const Shape& s) { return std::clamp<int64_t>(kBandElements / s.width, 1, s.height); }

int64_t bands(const Shape& s) { return (s.height + band_rows(s) - 1) / band_rows(s); }

Band band_of(const Shape& s, int64_t item) {
  const int64_t rows = band_rows(s), first = item % bands(s) * rows;
  return {item / bands(s), first, std::min(first + rows, s.height)};
}

// sums[x] += sum_j padded[x + j] * filters[j * tap + x], for all k taps of a filter row at once (K > 0: unrolled)
template <int K, typename T>
FAC_MULTIVERSION void add_filtered_row(int64_t k, const T* __restrict padded, const T* __restrict filters,
                                       int64_t tap, T* __restrict sums, int64_t width) {
  if (K > 0) {
    for (int64_t x = 0; x < width; ++x) {
      T sum = sums[x];
      for (int j = 0; j < K; ++j) sum += padded[x + j] * filters[j * tap + x];
      sums[x] = sum;
    }
  } else {
    for (int64_t j = 0; j < k; ++j)
      for (int64_t x = 0; x < width; ++x) sums[x] += padded[x + j] * filters[j * tap + x];
  }
}

template <typename T>
using RowFunction = void (*)(int64_t, const T*, const T*, int64_t, T*, int64_t);

template <typename T>
RowFunction<T> filtered_row(int64_t k) {
  return k == 3   ? add_filtered_row<3, T>
         : k == 5 ? add_filtered_row<5, T>
         : k == 7 ? add_filtered_row<7, T>
                  : add_filtered_row<0, T>;
}

// The transpose of the above: sums[x + j] += filters[j * tap + x] * grad[x]
template <typename T>
FAC_MULTIVERSION void add_scattered_row(int64_t k, const T* __restrict filters, int64_t tap,
                                        const T* __restrict grad, T* __restrict sums, int64_t width) {
  for (int64_t j = 0; j < k; ++j)
    for (int64_t x = 0; x < width; ++x) sums[x + j] += filters[j * tap + x] * grad[x];
}

template <typename T>
FAC_MULTIVERSION void multiply_row(const T* __restrict a, const T* __restrict b, T* __restrict out, int64_t width) {
  for (int64_t x = 0; x < width; ++x) out[x] = a[x] * b[x];
}

// Rows [band.first - radius, band.last + radius) of a plane with their border, width + k - 1 apart.
template <typename T>
void pad_band(const Shape& s, const T* plane, const Band& band, T* padded) {
  const int64_t radius = s.kernel / 2;
  for (int64_t q = band.first - radius; q < band.last + radius; ++q) {
    const int64_t y = source(q, s.height, s.padding);
    if (y < 0) {
      padded = std::fill_n(padded, s.width + 2 * radius, T(0));
      continue;
    }
    const T* row = plane + y * s.width;
    const bool zeros = s.padding == Padding::kZeros;
    padded = std::fill_n(padded, radius, zeros ? T(0) : row[0]);
    padded = std::copy_n(row, s.width, padded);
    padded = std::fill_n(padded, radius, zeros ? T(0) : row[s.width - 1]);
  }
}

}  // namespace

int64_t cpu_items(const Shape& s) {
  return s.height == 0 || s.width == 0 ? 0 : s.batch * s.channels * bands(s);
}

template <typename T>
void forward_cpu(const Shape& s, const T* input, const T* filters, T* output, int64_t begin, int64_t end) {
  const int64_t k = s.kernel, pixels = s.height * s.width, pitch = s.width + k - 1;
  const RowFunction<T> add_row = filtered_row<T>(k);
  std::vector<T> padded((band_rows(s) + k - 1) * pitch);
  for (int64_t item = begin; item < end; ++item) {
    const Band band = band_of(s, item);
    pad_band(s, input + band.plane * pixels, band, padded.data());
    T* sums = output + band.plane * pixels;
    std::fill(sums + band.first * s.width, sums + band.last * s.width, T(0));
    for (int64_t i = 0; i < k; ++i) {
      const T* taps = filters + (band.plane * k + i) * k * pixels;
      for (int64_t y = band.first; y < band.last; ++y)
        add_row(k, &padded[(y - band.first + i) * pitch], taps + y * s.width, pixels, sums + y * s.width, s.width);
    }
  }
}

template <typename T>
void grad_input_cpu(const Shape& s, const T* filters, const T* grad, T* grad_input, int64_t begin, int64_t end) {
  const int64_t k = s.kernel, radius = k / 2, pixels = s.height * s.width, pitch = s.width + k - 1;
  std::vector<T> sums(band_rows(s) * pitch);  // rows folded, columns still with their border
  for (int64_t item = begin; item < end; ++item) {
    const Band band = band_of(s, item);
    std::fill(sums.begin(), sums.end(), T(0));
    for (int64_t i = 0; i < k; ++i) {
      const T* taps = filters + (band.plane * k + i) * k * pixels;
      for (int64_t row = band.first; row < band.last; ++row) {
        const Span span = positions(row, s.height, radius, s.padding);
        const int64_t first = std::max<int64_t>(span.first - i + radius, 0);
        const int64_t last = std::min(span.last - i + radius, s.height);
        for (int64_t y = first; y < last; ++y)  // output rows that saw this input row through filter row i
          add_scattered_row(k, taps + y * s.width, pixels, grad + band.plane * pixels + y * s.width,
                            &sums[(row - band.first) * pitch], s.width);
      }
    }
    for (int64_t row = band.first; row < band.last; ++row) {
      const T* sum = &sums[(row - band.first) * pitch] + radius;
      T* out = grad_input + band.plane * pixels + row * s.width;
      std::copy_n(sum, s.width, out);
      if (s.padding == Padding::kZeros) continue;
      for (int64_t q = 1; q <= radius; ++q) {
        out[0] += sum[-q];
        out[s.width - 1] += sum[s.width - 1 + q];
      }
    }
  }
}

template <typename T>
void grad_filters_cpu(const Shape& s, const T* input, const T* grad, T* grad_filters, int64_t begin, int64_t end) {
  const int64_t k = s.kernel, pixels = s.height * s.width, pitch = s.width + k - 1;
  std::vector<T> padded((band_rows(s) + k - 1) * pitch);
  for (int64_t item = begin; item < end; ++item) {
    const Band band = band_of(s, item);
    pad_band(s, input + band.plane * pixels, band, padded.data());
    for (int64_t tap = 0; tap < k * k; ++tap) {
      T* out = grad_filters + (band.plane * k * k + tap) * pixels;
      for (int64_t y = band.first; y < band.last; ++y)
        multiply_row(&padded[(y - band.first + tap / k) * pitch + tap % k],
                     grad + band.plane * pixels + y * s.width, out + y * s.width, s.width);
    }
  }
}

const char* cpu_simd() {
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "AVX-512";
  if (__builtin_cpu_supports("x86-64-v3")) return "AVX2";
#endif
  return "baseline";
}

template void forward_cpu(const Shape&, const float*, const float*, float*, int64_t, int64_t);
template void forward_cpu(const Shape&, const double*, const double*, double*, int64_t, int64_t);
template void grad_input_cpu(const Shape&, const float*, const float*, float*, int64_t, int64_t);
template void grad_input_cpu(const Shape&, const double*, const double*, double*, int64_t, int64_t);
template void grad_filters_cpu(const Shape&, const float*, const float*, float*, int64_t, int64_t);
template void grad_filters_cpu(const Shape&, const double*, const double*, double*, int64_t, int64_t);

}  // namespace fac
