// The CPU kernels for channels_last tensors: the taps of a pixel's channel lie side by side, the channels of a
// pixel too. An output pixel is one item of work: a table of the pixels under its taps, then a pass over its
// channels that reads (or writes) the filters in the order of memory.
#include <algorithm>
#include <vector>

#include "fac_cpu.h"
#include "geometry.h"

namespace fac {
namespace {

constexpr int64_t kGrain = 32768;      // multiply-adds that are worth a thread
constexpr int64_t kBandRows = 16;      // of the input, in the gradient of the input
constexpr int64_t kBlockChannels = 16;

// Sources of all taps of all output pixels of one axis, -1 where there is a zero.
class Sources {
 public:
  Sources(const Axis& a, Padding padding) : kernel_(a.kernel), table_(a.output * a.kernel) {
    for (int64_t o = 0; o < a.output; ++o)
      for (int64_t t = 0; t < a.kernel; ++t)
        table_[o * kernel_ + t] = source(position(a, o, t, padding), a.input, padding);
  }
  const int64_t* of(int64_t o) const { return &table_[o * kernel_]; }

 private:
  int64_t kernel_;
  std::vector<int64_t> table_;
};

// under[tap]: the channels of the input pixel under each tap, or a row of zeros.
template <typename T>
void look_under(const Shape& s, const T* sample, const int64_t* rows, const int64_t* columns, const T* zeros,
                const T** under) {
  for (int64_t i = 0; i < s.rows.kernel; ++i)
    for (int64_t j = 0; j < s.columns.kernel; ++j)
      *under++ = rows[i] < 0 || columns[j] < 0
                     ? zeros
                     : sample + (rows[i] * s.columns.input + columns[j]) * s.channels;
}

template <typename T>
FAC_MULTIVERSION void filter_pixel(const Shape& s, const T* const* under, const T* __restrict filters,
                                   Sum<T>* __restrict sums, T* __restrict output) {
  const int64_t taps = s.taps(), shared = s.shared();
  if (shared == 1) {
    for (int64_t c = 0; c < s.channels; ++c, filters += taps) {
      Sum<T> sum = 0;
      for (int64_t tap = 0; tap < taps; ++tap) sum += widen(under[tap][c]) * widen(filters[tap]);
      output[c] = narrow<T>(sum);
    }
    return;
  }
  std::fill_n(sums, s.channels, Sum<T>(0));
  for (int64_t first = 0; first < s.channels; first += shared, filters += taps)
    for (int64_t tap = 0; tap < taps; ++tap) {
      const Sum<T> weight = widen(filters[tap]);
      const T* __restrict pixel = under[tap] + first;
      for (int64_t c = 0; c < shared; ++c) sums[first + c] += widen(pixel[c]) * weight;
    }
  for (int64_t c = 0; c < s.channels; ++c) output[c] = narrow<T>(sums[c]);
}

template <typename T>
FAC_MULTIVERSION void correlate_pixel(const Shape& s, const T* const* under, const T* __restrict grad,
                                      T* __restrict grad_filters) {
  const int64_t taps = s.taps(), shared = s.shared();
  for (int64_t first = 0; first < s.channels; first += shared, grad_filters += taps)
    for (int64_t tap = 0; tap < taps; ++tap) {
      Sum<T> sum = 0;
      for (int64_t c = first; c < first + shared; ++c) sum += widen(under[tap][c]) * widen(grad[c]);
      grad_filters[tap] = narrow<T>(sum);
    }
}

// Adds grad * filters of one output pixel, channels [first, last), to the sums of the input pixels under its taps
// (under[tap] points at channel `first`; nullptr: not in this band, or a zero).
template <typename T>
FAC_MULTIVERSION void scatter_pixel(const Shape& s, const T* __restrict filters, const T* __restrict grad,
                                    Sum<T>* const* under, int64_t first, int64_t last) {
  const int64_t taps = s.taps(), shared = s.shared();
  for (int64_t c = first; c < last;) {
    const T* weights = filters + c / shared * taps;
    const int64_t end = std::min(last, (c / shared + 1) * shared);
    for (int64_t tap = 0; tap < taps; ++tap) {
      if (under[tap] == nullptr) continue;
      const Sum<T> weight = widen(weights[tap]);
      for (int64_t channel = c; channel < end; ++channel) under[tap][channel - first] += weight * widen(grad[channel]);
    }
    c = end;
  }
}

int64_t grain(const Shape& s, int64_t items) {
  const int64_t work = s.batch * s.channels * s.outputs() * s.taps() / items;
  return std::max<int64_t>(kGrain / std::max<int64_t>(work, 1), 1);
}

// run(n, y, x, under, pixel) for every output pixel; pixel counts them all
template <typename T, typename Visit>
void for_output_pixels(const Shape& s, const T* input, Parallel parallel, const Visit& visit) {
  const Sources rows(s.rows, s.padding), columns(s.columns, s.padding);
  const std::vector<T> zeros(s.channels);
  const int64_t lines = s.batch * s.rows.output;
  parallel(lines, grain(s, lines), [&](int64_t begin, int64_t end) {
    std::vector<const T*> under(s.taps());
    std::vector<Sum<T>> sums(s.channels);
    for (int64_t line = begin; line < end; ++line) {
      const T* sample = input + line / s.rows.output * s.inputs() * s.channels;
      for (int64_t x = 0; x < s.columns.output; ++x) {
        look_under(s, sample, rows.of(line % s.rows.output), columns.of(x), zeros.data(), under.data());
        visit(line * s.columns.output + x, under.data(), sums.data());
      }
    }
  });
}

}  // namespace

template <typename T>
void forward_channels_last(const Shape& s, const T* input, const T* filters, T* output, Parallel parallel) {
  for_output_pixels(s, input, parallel, [&](int64_t pixel, const T* const* under, Sum<T>* sums) {
    filter_pixel(s, under, filters + pixel * s.groups * s.taps(), sums, output + pixel * s.channels);
  });
}

template <typename T>
void grad_filters_channels_last(const Shape& s, const T* input, const T* grad, T* grad_filters, Parallel parallel) {
  for_output_pixels(s, input, parallel, [&](int64_t pixel, const T* const* under, Sum<T>*) {
    correlate_pixel(s, under, grad + pixel * s.channels, grad_filters + pixel * s.groups * s.taps());
  });
}

// An item is a band of input rows and a block of channels: their sums stay in the cache while the output pixels
// that look at them are gone through in order.
template <typename T>
void grad_input_channels_last(const Shape& s, const T* filters, const T* grad, T* grad_input, Parallel parallel) {
  const Sources rows(s.rows, s.padding), columns(s.columns, s.padding);
  const int64_t height = s.rows.input, width = s.columns.input;
  const int64_t bands = (height + kBandRows - 1) / kBandRows;
  const int64_t blocks = (s.channels + kBlockChannels - 1) / kBlockChannels;
  const int64_t items = s.batch * bands * blocks;
  parallel(items, grain(s, items), [&](int64_t begin, int64_t end) {
    std::vector<Sum<T>> sums(std::min(kBandRows, height) * width * kBlockChannels);
    std::vector<Sum<T>*> under(s.taps());
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / (bands * blocks), top = item / blocks % bands * kBandRows;
      const int64_t bottom = std::min(top + kBandRows, height);
      const int64_t first = item % blocks * kBlockChannels, last = std::min(first + kBlockChannels, s.channels);
      std::fill(sums.begin(), sums.end(), Sum<T>(0));
      for (int64_t y = 0; y < s.rows.output; ++y) {
        const int64_t* to = rows.of(y);
        if (std::none_of(to, to + s.rows.kernel, [&](int64_t row) { return row >= top && row < bottom; })) continue;
        for (int64_t x = 0; x < s.columns.output; ++x) {
          for (int64_t i = 0; i < s.rows.kernel; ++i)
            for (int64_t j = 0; j < s.columns.kernel; ++j) {
              const int64_t row = to[i], column = columns.of(x)[j];
              const bool here = row >= top && row < bottom && column >= 0;
              under[i * s.columns.kernel + j] =
                  here ? &sums[((row - top) * width + column) * kBlockChannels] : nullptr;
            }
          const int64_t pixel = (n * s.rows.output + y) * s.columns.output + x;
          scatter_pixel(s, filters + pixel * s.groups * s.taps(), grad + pixel * s.channels, under.data(), first, last);
        }
      }
      for (int64_t row = top; row < bottom; ++row)
        for (int64_t column = 0; column < width; ++column) {
          const Sum<T>* sum = &sums[((row - top) * width + column) * kBlockChannels];
          T* out = grad_input + ((n * height + row) * width + column) * s.channels;
          for (int64_t c = first; c < last; ++c) out[c] = narrow<T>(sum[c - first]);
        }
    }
  });
}

#define FAC_INSTANTIATE(T)                                                                \
  template void forward_channels_last(const Shape&, const T*, const T*, T*, Parallel);    \
  template void grad_input_channels_last(const Shape&, const T*, const T*, T*, Parallel); \
  template void grad_filters_channels_last(const Shape&, const T*, const T*, T*, Parallel);
FAC_INSTANTIATE(float)
FAC_INSTANTIATE(double)
FAC_INSTANTIATE(Half)
FAC_INSTANTIATE(BFloat16)

}  // namespace fac
