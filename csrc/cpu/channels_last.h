// The CPU kernels for channels_last tensors: the taps of a pixel's channel lie side by side, and so do the channels of
// a pixel. For each output pixel they make a table of the pixels under its taps, then pass over its channels and read
// (or write) the filters in the order of memory. Where each channel has its own filter, they take eight channels at
// once and transpose their taps, eight by eight, in registers, to lie as the channels of the pixels do.
// One file, though long: the three passes read or write the same layout by the same few helpers.
#pragma once
#include "common.h"
#include "shared_filters.h"

namespace fac::FAC_VERSION {
namespace {

constexpr int64_t kBandRows = 45;  // of the input, in its gradient; up to k - 1 rows of filters are read for two bands
constexpr int64_t kBlockChannels = 128;
constexpr int kLanes = 8;

// Tabulates the sources of all taps of all output pixels of one axis, -1 where there is a zero.
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

// Points under[tap] at the channels of the input pixel under each tap, or at a row of zeros.
template <typename T>
void look_under(const Shape& s, const T* sample, const int64_t* rows, const int64_t* columns, const T* zeros,
                const T** under) {
  for (int64_t i = 0; i < s.rows.kernel; ++i)
    for (int64_t j = 0; j < s.columns.kernel; ++j)
      *under++ = rows[i] < 0 || columns[j] < 0 ? zeros : sample + (rows[i] * s.columns.input + columns[j]) * s.channels;
}

// Load tap first + l of eight channels into rows[l], and store it back.
template <typename T>
FAC_INLINE void load_taps(const T* filters, int64_t taps, int64_t first, Vec8<Sum<T>> (&rows)[kLanes]) {
  for (int c = 0; c < kLanes; ++c) load(filters + c * taps + first, rows[c]);
  transpose<Sum<T>>(rows);
}
template <typename T>
FAC_INLINE void store_taps(Vec8<Sum<T>> (&rows)[kLanes], T* filters, int64_t taps, int64_t first) {
  transpose<Sum<T>>(rows);
  for (int c = 0; c < kLanes; ++c) store(rows[c], filters + c * taps + first);
}

// Load and store values[c * step] of eight channels.
template <typename T>
FAC_INLINE void load_apart(const T* values, int64_t step, Vec8<Sum<T>>& lanes) {
  lanes =
      Vec8<Sum<T>>{widen(values[0]),        widen(values[step]),     widen(values[2 * step]), widen(values[3 * step]),
                   widen(values[4 * step]), widen(values[5 * step]), widen(values[6 * step]), widen(values[7 * step])};
}
template <typename T>
FAC_INLINE void store_apart(const Vec8<Sum<T>>& lanes, T* values, int64_t step) {
#pragma GCC unroll 8
  for (int c = 0; c < kLanes; ++c) values[c * step] = narrow<T>(lanes[c]);
}
template <typename T>
FAC_INLINE void prefetch_all(const T* from, int64_t count) {
  for (int64_t i = 0; i < count; i += kLine / sizeof(T)) prefetch<16384>(from + i);
}

// Calls visit(number of taps) with a constant for the two usual sizes of filters, else visit(0).
template <typename Visit>
FAC_INLINE int64_t with_taps(int64_t taps, const Visit& visit) {
  return taps == 25  ? visit(std::integral_constant<int, 25>())
         : taps == 9 ? visit(std::integral_constant<int, 9>())
                     : visit(std::integral_constant<int, 0>());
}

// Filters all channels but the last few, where each has its own filter; returns how many.
template <int kTaps, typename T>
FAC_NOINLINE int64_t filter_8_channels(int64_t some, int64_t channels, const T* const* under, const T* filters,
                                       T* __restrict output) {
  const int64_t taps = kTaps ? kTaps : some;
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes, filters += kLanes * taps) {
    Vec8<Sum<T>> sum = {}, other = {}, pixel;
    prefetch_all(filters, kLanes * taps);
    int64_t tap = 0;
    for (; tap + kLanes <= taps; tap += kLanes) {
      Vec8<Sum<T>> rows[kLanes];
      load_taps(filters, taps, tap, rows);
#pragma GCC unroll 8
      for (int l = 0; l < kLanes; ++l) {
        load(under[tap + l] + c, pixel);
        (l % 2 ? other : sum) += rows[l] * pixel;
      }
    }
    for (; tap < taps; ++tap) {
      Vec8<Sum<T>> row;
      load_apart(filters + tap, taps, row);
      load(under[tap] + c, pixel);
      sum += row * pixel;
    }
    store(sum + other, output + c);
  }
  return c;
}

template <typename T>
FAC_NOINLINE void filter_pixel(const Shape& s, const T* const* under, const T* filters, Sum<T>* __restrict sums,
                               T* __restrict output) {
  const int64_t taps = s.taps(), shared = s.shared();
  int64_t c = 0;
  if (shared == 1)
    c = with_taps(taps,
                  [&](auto constant) { return filter_8_channels<constant>(taps, s.channels, under, filters, output); });
  if (shared == 1) {
    for (; c < s.channels; ++c) {
      Sum<T> sum = 0;
      for (int64_t tap = 0; tap < taps; ++tap) sum += widen(under[tap][c]) * widen(filters[c * taps + tap]);
      output[c] = narrow<T>(sum);
    }
    return;
  }
  if (shared >= kWidth<Sum<T>>) {
    for (int64_t first = 0; first < s.channels; first += shared, filters += taps)
      filter_group(taps, under, first, shared, filters, output);
    return;
  }
  std::fill_n(sums, s.channels, Sum<T>(0));
  for (int64_t first = 0; first < s.channels; first += shared, filters += taps)
    for (int64_t tap = 0; tap < taps; ++tap) {
      const Sum<T> weight = widen(filters[tap]);
      const T* __restrict pixel = under[tap] + first;
      for (c = 0; c < shared; ++c) sums[first + c] += widen(pixel[c]) * weight;
    }
  for (c = 0; c < s.channels; ++c) output[c] = narrow<T>(sums[c]);
}

template <int kTaps, typename T>
FAC_NOINLINE int64_t correlate_8_channels(int64_t some, int64_t channels, const T* const* under, const T* grad,
                                          T* grad_filters) {
  const int64_t taps = kTaps ? kTaps : some;
  int64_t channel = 0;
  for (; channel + kLanes <= channels; channel += kLanes, grad_filters += kLanes * taps) {
    Vec8<Sum<T>> g;
    load(grad + channel, g);
    int64_t tap = 0;
    for (; tap + kLanes <= taps; tap += kLanes) {
      Vec8<Sum<T>> rows[kLanes];
#pragma GCC unroll 8
      for (int l = 0; l < kLanes; ++l) {
        load(under[tap + l] + channel, rows[l]);
        rows[l] *= g;
      }
      store_taps(rows, grad_filters, taps, tap);
    }
    for (; tap < taps; ++tap) {
      Vec8<Sum<T>> row;
      load(under[tap] + channel, row);
      row *= g;
      store_apart(row, grad_filters + tap, taps);
    }
  }
  return channel;
}

template <typename T>
FAC_NOINLINE void correlate_pixel(const Shape& s, const T* const* under, const T* grad, T* grad_filters) {
  const int64_t taps = s.taps(), shared = s.shared();
  int64_t channel = 0;
  if (shared == 1)
    channel = with_taps(taps, [&](auto constant) {
      return correlate_8_channels<constant>(taps, s.channels, under, grad, grad_filters);
    });
  grad_filters += channel * taps;
  constexpr int64_t kTaps = kWidth<Sum<T>>;
  if (shared >= 2 * kTaps && taps >= kTaps) {
    // the last taps of a group overlap with those before
    for (; channel < s.channels; channel += shared, grad_filters += taps)
      for (int64_t tap = 0; tap < taps; tap += kTaps) {
        const int64_t first = std::min(tap, taps - kTaps);
        correlate_taps(under + first, channel, shared, grad, grad_filters + first);
      }
    return;
  }
  for (; channel < s.channels; channel += shared, grad_filters += taps)
    for (int64_t tap = 0; tap < taps; ++tap) {
      Vec8<Sum<T>> partial = {}, pixel, g;
      int64_t c = channel;
      for (; c + kLanes <= channel + shared; c += kLanes) {
        load(under[tap] + c, pixel);
        load(grad + c, g);
        partial += pixel * g;
      }
      Sum<T> sum = 0;
      for (; c < channel + shared; ++c) sum += widen(under[tap][c]) * widen(grad[c]);
      for (int l = 0; l < kLanes; ++l) sum += partial[l];
      grad_filters[tap] = narrow<T>(sum);
    }
}

// Adds grad * filters of one output pixel to the sums of the input pixels under its taps (nullptr: not in this band, or
// a zero; kAll: there is none of these).
template <int kTaps, bool kAll, typename T>
FAC_NOINLINE int64_t scatter_8_channels(int64_t some, int64_t channels, const T* filters, const T* grad,
                                        Sum<T>* const* under) {
  const int64_t taps = kTaps ? kTaps : some;
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes, filters += kLanes * taps) {
    Vec8<Sum<T>> g, sum;
    load(grad + c, g);
    prefetch_all(filters, kLanes * taps);
    int64_t tap = 0;
    for (; tap + kLanes <= taps; tap += kLanes) {
      Vec8<Sum<T>> rows[kLanes];
      load_taps(filters, taps, tap, rows);
#pragma GCC unroll 8
      for (int l = 0; l < kLanes; ++l) {
        if (!kAll && under[tap + l] == nullptr) continue;
        Sum<T>* to = under[tap + l] + c;
        load(to, sum);
        sum += rows[l] * g;
        store(sum, to);
      }
    }
    for (; tap < taps; ++tap) {
      Vec8<Sum<T>> row;
      if (!kAll && under[tap] == nullptr) continue;
      load_apart(filters + tap, taps, row);
      Sum<T>* to = under[tap] + c;
      load(to, sum);
      sum += row * g;
      store(sum, to);
    }
  }
  return c;
}

// Does the same for channels [begin, end); under[tap] points at channel `begin`.
template <typename T>
FAC_NOINLINE void scatter_pixel(const Shape& s, const T* filters, const T* grad, Sum<T>* const* under, int64_t begin,
                                int64_t end) {
  const int64_t taps = s.taps(), shared = s.shared();
  int64_t c = begin;
  if (shared == 1) {
    const bool all = std::find(under, under + taps, nullptr) == under + taps;
    c += with_taps(taps, [&](auto constant) {
      return all ? scatter_8_channels<constant, true>(taps, end - c, filters + c * taps, grad + c, under)
                 : scatter_8_channels<constant, false>(taps, end - c, filters + c * taps, grad + c, under);
    });
  }
  while (c < end) {
    const T* weights = filters + c / shared * taps;
    const int64_t last = std::min(end, (c / shared + 1) * shared);
    for (int64_t tap = 0; tap < taps; ++tap) {
      if (under[tap] == nullptr) continue;
      const Sum<T> weight = widen(weights[tap]);
      for (int64_t channel = c; channel < last; ++channel) under[tap][channel - begin] += weight * widen(grad[channel]);
    }
    c = last;
  }
}

template <typename T>
struct Scratch {  // of one thread, for one pixel
  std::vector<Sum<T>> sums;
  std::vector<T> filters;
};

// Calls visit(pixel, under, scratch) for every output pixel; pixel counts them all.
template <typename T, typename Visit>
void for_output_pixels(const Shape& s, const T* input, Parallel parallel, const Visit& visit) {
  const Sources rows(s.rows, s.padding), columns(s.columns, s.padding);
  const std::vector<T> zeros(s.channels);
  const int64_t lines = s.batch * s.rows.output;
  parallel(lines, grain(s, lines), [&](int64_t begin, int64_t end) {
    std::vector<const T*> under(s.taps());
    Scratch<T> scratch{std::vector<Sum<T>>(s.channels), std::vector<T>(s.groups * s.taps())};
    for (int64_t line = begin; line < end; ++line) {
      const T* sample = input + line / s.rows.output * s.inputs() * s.channels;
      for (int64_t x = 0; x < s.columns.output; ++x) {
        look_under(s, sample, rows.of(line % s.rows.output), columns.of(x), zeros.data(), under.data());
        visit(line * s.columns.output + x, under.data(), scratch);
      }
    }
    flush_stream();
  });
}

template <typename T>
void forward_channels_last(const Shape& s, const T* input, const T* filters, T* output, Parallel parallel) {
  for_output_pixels(s, input, parallel, [&](int64_t pixel, const T* const* under, Scratch<T>& scratch) {
    filter_pixel(s, under, filters + pixel * s.groups * s.taps(), scratch.sums.data(), output + pixel * s.channels);
  });
}

template <typename T>
void grad_filters_channels_last(const Shape& s, const T* input, const T* grad, T* grad_filters, Parallel parallel) {
  const int64_t size = s.groups * s.taps();
  const bool streaming = worth_streaming<T>(s.batch * s.outputs() * size);
  for_output_pixels(s, input, parallel, [&](int64_t pixel, const T* const* under, Scratch<T>& scratch) {
    T* out = grad_filters + pixel * size;
    correlate_pixel(s, under, grad + pixel * s.channels, streaming ? scratch.filters.data() : out);
    if (streaming) stream(scratch.filters.data(), out, size);
  });
}

// Lists, for each input row or column, what its gradient adds up: the output pixels that read it, each by a tap.
class Readers {
 public:
  Readers(const Axis& a, Padding padding, const Place& output, int64_t tap) : firsts_(1) {
    for (int64_t i = 0; i < a.input; ++i) {
      for (int64_t m = 0; m < preimage_count(a, i, padding); ++m)
        for (int64_t t = 0; t < a.kernel; ++t) {
          const Progression outputs = outputs_reading(a, preimage_at(a, i, m, padding), t, padding);
          for (int64_t o = outputs.first; o < outputs.last; o += outputs.step)
            places_.push_back({o * output.pixel, o * output.weight + t * tap});
        }
      firsts_.push_back(static_cast<int64_t>(places_.size()));
    }
  }
  const Place* of(int64_t i) const { return places_.data() + firsts_[i]; }
  int64_t count(int64_t i) const { return firsts_[i + 1] - firsts_[i]; }

 private:
  std::vector<int64_t> firsts_;
  std::vector<Place> places_;
};

// Sums each input pixel's gradient in registers, where channels share their filters.
template <typename T>
void grad_input_of_shared_filters(const Shape& s, const T* filters, const T* grad, T* grad_input, Parallel parallel) {
  const int64_t taps = s.groups * s.taps(), height = s.rows.input, width = s.columns.input, shared = s.shared();
  const Readers rows(s.rows, s.padding, {s.columns.output * s.channels, s.columns.output * taps}, s.columns.kernel);
  const Readers columns(s.columns, s.padding, {s.channels, taps}, 1);
  const int64_t lines = s.batch * height;
  parallel(lines, grain(s, lines), [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int64_t y = line % height, sample = line / height * s.outputs();
      for (int64_t x = 0; x < width; ++x)
        for (int64_t group = 0; group < s.groups; ++group)
          weigh_pixels(rows.of(y), rows.count(y), columns.of(x), columns.count(x),
                       grad + sample * s.channels + group * shared, filters + sample * taps + group * s.taps(),
                       grad_input + (line * width + x) * s.channels + group * shared, shared);
    }
  });
}

// An item is a band of input rows and a block of channels. Goes in order through the output pixels that read them, so
// that the sums of a few rows are in the cache at a time: in place, or in float where T is a half.
template <typename T>
void grad_input_channels_last(const Shape& s, const T* filters, const T* grad, T* grad_input, Parallel parallel) {
  constexpr bool in_place = std::is_same_v<T, Sum<T>>;
  if (s.shared() >= kWidth<Sum<T>>) return grad_input_of_shared_filters(s, filters, grad, grad_input, parallel);
  const Sources rows(s.rows, s.padding), columns(s.columns, s.padding);
  const int64_t height = s.rows.input, width = s.columns.input;
  const int64_t bands = (height + kBandRows - 1) / kBandRows;
  const int64_t blocks = (s.channels + kBlockChannels - 1) / kBlockChannels;
  const int64_t items = s.batch * bands * blocks;
  parallel(items, grain(s, items), [&](int64_t begin, int64_t end) {
    std::vector<Sum<T>> scratch;
    std::vector<Sum<T>*> under(s.taps());
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / (bands * blocks), top = item / blocks % bands * kBandRows;
      const int64_t bottom = std::min(top + kBandRows, height);
      const int64_t first = item % blocks * kBlockChannels, last = std::min(first + kBlockChannels, s.channels);
      T* out = grad_input + ((n * height + top) * width) * s.channels + first;
      Sum<T>* sums;
      int64_t pitch;  // from pixel to pixel
      if constexpr (in_place) {
        sums = out, pitch = s.channels;
        for (int64_t pixel = 0; pixel < (bottom - top) * width; ++pixel)
          std::fill_n(sums + pixel * pitch, last - first, 0);
      } else {
        pitch = last - first;
        scratch.assign((bottom - top) * width * pitch, 0);
        sums = scratch.data();
      }
      for (int64_t y = 0; y < s.rows.output; ++y) {
        const int64_t* to = rows.of(y);
        if (std::none_of(to, to + s.rows.kernel, [&](int64_t row) { return row >= top && row < bottom; })) continue;
        for (int64_t x = 0; x < s.columns.output; ++x) {
          const int64_t* column = columns.of(x);
          for (int64_t i = 0; i < s.rows.kernel; ++i)
            for (int64_t j = 0; j < s.columns.kernel; ++j)
              under[i * s.columns.kernel + j] = to[i] >= top && to[i] < bottom && column[j] >= 0
                                                    ? sums + ((to[i] - top) * width + column[j]) * pitch
                                                    : nullptr;
          const int64_t pixel = (n * s.rows.output + y) * s.columns.output + x;
          scatter_pixel(s, filters + pixel * s.groups * s.taps(), grad + pixel * s.channels, under.data(), first, last);
        }
      }
      if constexpr (!in_place)
        for (int64_t pixel = 0; pixel < (bottom - top) * width; ++pixel)
          for (int64_t c = 0; c < pitch; ++c) out[pixel * s.channels + c] = narrow<T>(sums[pixel * pitch + c]);
    }
  });
}

}  // namespace
}  // namespace fac::FAC_VERSION
