// The CPU kernels for row-major tensors. The filters are k^2 times the size of the input and every value is used
// once, so memory sets the time: each pass reads (or writes) the taps of one filter row as sequential streams, while
// the sums and the padded band of the input stay in the second-level cache. Padding, stride and dilation cost
// nothing in the inner loops: a band of rows is first copied as the taps will read it, at 1 / k^2 of the filters'
// traffic.
// One file, though long: the three passes share the layout of the band and its inner loops.
#pragma once
#include "common.h"
#include "shared_filters.h"

namespace fac::FAC_VERSION {
namespace {

constexpr int64_t kBandElements = 16384;  // of one band of one plane

// The layout of one input row in scratch memory, in which tap j of output pixel x is at element at[j] + x: the row with
// its border or, where stride is not 1 or the border would be most of it, a row of its own for each tap.
struct Columns {
  std::vector<int64_t> source;  // the input column at each element, -1 for zero
  std::vector<int64_t> at;
  int64_t begin = 0, end = 0;  // elements that are the whole input row in its order
  bool one_row;                // it is the row with its border

  Columns(const Axis& a, Padding padding)
      : one_row(a.stride == 1 && padding != Padding::kInside && a.dilation <= a.output) {
    const int64_t pitch = one_row ? a.dilation : a.output;
    for (int64_t j = 0; j < a.kernel; ++j) at.push_back(j * pitch);
    source.resize(at.back() + a.output);
    if (one_row) {
      for (int64_t m = 0; m < size(); ++m) source[m] = fac::source(m - a.before, a.input, padding);
      begin = a.before;
      end = a.before + a.input;
    } else {
      for (int64_t j = 0; j < a.kernel; ++j)
        for (int64_t x = 0; x < a.output; ++x)
          source[at[j] + x] = fac::source(position(a, x, j, padding), a.input, padding);
    }
  }

  int64_t size() const { return static_cast<int64_t>(source.size()); }

  // Adds what lies at each element to the input column that it shows: the transpose of the layout.
  template <typename S>
  void fold(const S* row, std::vector<S>& line) const {
    const auto add = [&](int64_t m) {
      if (source[m] >= 0) line[source[m]] += row[m];
    };
    if (end > begin)
      std::copy(row + begin, row + end, line.begin());
    else
      std::fill(line.begin(), line.end(), S(0));
    for (int64_t m = 0; m < begin; ++m) add(m);
    for (int64_t m = end; m < size(); ++m) add(m);
  }
};

struct Band {
  int64_t first, last;  // rows
};

int64_t band_rows(int64_t height, int64_t width, int64_t elements) {
  return std::clamp<int64_t>(elements / width, 1, height);
}
int64_t bands(int64_t height, int64_t rows) { return (height + rows - 1) / rows; }
Band band_of(int64_t index, int64_t height, int64_t rows) {
  return {index * rows, std::min((index + 1) * rows, height)};
}

template <typename T>
FAC_NOINLINE void widen_row(const T* __restrict row, Sum<T>* __restrict out, int64_t width) {
  for (int64_t x = 0; x < width; ++x) out[x] = widen(row[x]);
}

template <typename T>
FAC_NOINLINE void narrow_row(const Sum<T>* __restrict row, T* __restrict out, int64_t width) {
  for (int64_t x = 0; x < width; ++x) out[x] = narrow<T>(row[x]);
}

// Numbers the positions that the output rows of a band read: tap row i of output row y is number of(y, i).
struct Rows {
  int64_t first, kernel;
  std::vector<int64_t> positions, numbers;

  Rows(const Axis& a, Padding padding, const Band& band) : first(band.first), kernel(a.kernel) {
    for (int64_t y = band.first; y < band.last; ++y)
      for (int64_t i = 0; i < kernel; ++i) numbers.push_back(position(a, y, i, padding));
    positions = numbers;
    std::sort(positions.begin(), positions.end());
    positions.erase(std::unique(positions.begin(), positions.end()), positions.end());
    for (int64_t& q : numbers) q = std::lower_bound(positions.begin(), positions.end(), q) - positions.begin();
  }
  int64_t of(int64_t y, int64_t i) const { return numbers[(y - first) * kernel + i]; }
};

std::vector<Rows> all_rows(const Shape& s, int64_t band) {
  std::vector<Rows> rows;
  for (int64_t index = 0; index < bands(s.rows.output, band); ++index)
    rows.emplace_back(s.rows, s.padding, band_of(index, s.rows.output, band));
  return rows;
}

// Holds those rows of one plane or of several channels' planes, each in the layout of Columns.
template <typename T>
class PaddedBand {
 public:
  PaddedBand(const Shape& s, const Columns& columns) : s_(s), columns_(columns) {}

  void fill(const T* planes, const Rows& rows, int64_t channels = 1) {
    rows_ = &rows;
    plane_ = static_cast<int64_t>(rows.positions.size()) * columns_.size();
    if (static_cast<int64_t>(values_.size()) < channels * plane_) values_.resize(channels * plane_);
    for (int64_t c = 0; c < channels; ++c)
      for (size_t number = 0; number < rows.positions.size(); ++number)
        lay_out(planes + c * s_.inputs(), rows.positions[number], &values_[c * plane_ + number * columns_.size()]);
  }
  int64_t plane() const { return plane_; }  // from channel to channel

  const Sum<T>* row(int64_t y, int64_t i) const {  // the row that tap row i of output row y reads
    return &values_[rows_->of(y, i) * columns_.size()];
  }

 private:
  void lay_out(const T* plane, int64_t q, Sum<T>* out) {
    const int64_t y = source(q, s_.rows.input, s_.padding);
    if (y < 0) {
      std::fill_n(out, columns_.size(), Sum<T>(0));
      return;
    }
    const T* row = plane + y * s_.columns.input;
    const auto pick = [&](int64_t m) { out[m] = columns_.source[m] < 0 ? Sum<T>(0) : widen(row[columns_.source[m]]); };
    for (int64_t m = 0; m < columns_.begin; ++m) pick(m);
    widen_row(row, out + columns_.begin, columns_.end - columns_.begin);
    for (int64_t m = columns_.end; m < columns_.size(); ++m) pick(m);
  }

  const Shape& s_;
  const Columns& columns_;
  const Rows* rows_ = nullptr;
  std::vector<Sum<T>> values_;
  int64_t plane_ = 0;
};

// Adds to sums[x] the products of R filter rows of K taps; row i reads under[i]. Memory serves about ten sequential
// streams best: 25 of them defeat the prefetcher, five add up the sums too often.
template <int R, int K, typename T>
FAC_NOINLINE void add_filtered_rows(const int64_t* at, const Sum<T>* const* under, const T* __restrict filters,
                                    int64_t tap, Sum<T>* __restrict sums, int64_t width) {
  const Sum<T>* pixels[R * K];
  for (int t = 0; t < R * K; ++t) pixels[t] = under[t / K] + at[t % K];
  const auto add = [&](int64_t x) __attribute__((always_inline)) {
    Sum<T> sum = sums[x];
    for (int t = 0; t < R * K; ++t) sum += pixels[t][x] * widen(filters[t * tap + x]);
    sums[x] = sum;
  };
  constexpr int64_t kStep = kLine / sizeof(T);
  int64_t x = 0;
  for (; x + kStep <= width; x += kStep) {
    for (int t = 0; t < R * K; ++t) prefetch<2048>(filters + t * tap + x);
    for (int64_t i = 0; i < kStep; ++i) add(x + i);
  }
  for (; x < width; ++x) add(x);
}

// The same for one row of any number of taps.
template <typename T>
FAC_NOINLINE void add_filtered_row(int64_t k, const int64_t* at, const Sum<T>* padded, const T* filters, int64_t tap,
                                   Sum<T>* __restrict sums, int64_t width) {
  for (int64_t j = 0; j < k; ++j) {
    const Sum<T>* __restrict under = padded + at[j];
    const T* __restrict taps = filters + j * tap;
    for (int64_t x = 0; x < width; x += kLine / sizeof(T)) prefetch<2048>(taps + x);
    for (int64_t x = 0; x < width; ++x) sums[x] += under[x] * widen(taps[x]);
  }
}

// How many filter rows of k taps are taken at once where `left` are left, and that step.
constexpr int64_t rows_at_once(int64_t k, int64_t left) {
  return k == 3 && left >= 3 ? 3 : k == 5 && left >= 2 ? 2 : 1;
}
template <typename T>
void add_rows(int64_t rows, int64_t k, const int64_t* at, const Sum<T>* const* under, const T* filters, int64_t tap,
              Sum<T>* sums, int64_t width) {
  if (k == 3 && rows == 3)
    add_filtered_rows<3, 3>(at, under, filters, tap, sums, width);
  else if (k == 5 && rows == 2)
    add_filtered_rows<2, 5>(at, under, filters, tap, sums, width);
  else if (k == 5)
    add_filtered_rows<1, 5>(at, under, filters, tap, sums, width);
  else if (k == 7)
    add_filtered_rows<1, 7>(at, under, filters, tap, sums, width);
  else
    add_filtered_row(k, at, under[0], filters, tap, sums, width);
}

// The transpose of the above: sums[at[j] + x] += filters[j * tap + x] * grad[x]
template <typename T>
FAC_NOINLINE void add_scattered_row(int64_t k, const int64_t* at, const T* __restrict filters, int64_t tap,
                                    const T* __restrict grad, Sum<T>* __restrict sums, int64_t width) {
  for (int64_t j = 0; j < k; ++j) {
    Sum<T>* __restrict under = sums + at[j];
    const T* __restrict taps = filters + j * tap;
    for (int64_t x = 0; x < width; x += kLine / sizeof(T)) prefetch<2048>(taps + x);
    for (int64_t x = 0; x < width; ++x) under[x] += widen(taps[x]) * widen(grad[x]);
  }
}

template <typename T>
FAC_NOINLINE void multiply_row(const Sum<T>* __restrict a, const T* __restrict b, T* __restrict out, int64_t width) {
  for (int64_t x = 0; x < width; ++x) out[x] = narrow<T>(a[x] * widen(b[x]));
}

// The same, stored around the caches. At 16 bytes a step and with no row in between, whatever the width of a row.
template <typename T>
void stream_products(const Sum<T>* a, const T* b, T* out, int64_t width) {
#if defined(__SSE2__)
  if constexpr (std::is_same_v<T, Sum<T>>) {
    typedef T Sixteen __attribute__((vector_size(16)));
    constexpr int64_t kStep = 16 / sizeof(T);
    const int64_t head = std::min<int64_t>(-reinterpret_cast<uintptr_t>(out) % 16 / sizeof(T), width);
    const int64_t last = head + (width - head) / kStep * kStep;
    for (int64_t x = 0; x < head; ++x) out[x] = a[x] * b[x];
    for (int64_t x = head; x < last; x += kStep) {
      Sixteen left, right;
      std::memcpy(&left, a + x, sizeof left);
      std::memcpy(&right, b + x, sizeof right);
      _mm_stream_si128(reinterpret_cast<__m128i*>(out + x), (__m128i)(left * right));
    }
    for (int64_t x = last; x < width; ++x) out[x] = a[x] * b[x];
    return;
  }
#endif
  multiply_row(a, b, out, width);
}

template <typename T>
FAC_NOINLINE void add_product_row(const Sum<T>* __restrict a, const T* __restrict b, Sum<T>* __restrict sums,
                                  int64_t width) {
  for (int64_t x = 0; x < width; ++x) sums[x] += a[x] * widen(b[x]);
}

constexpr int64_t kSharedChannels = 8;          // from which on filters are applied to several channels at once
constexpr int64_t kSharedBandValues = 1 << 18;  // of all channels of a group, in the second-level cache

constexpr int64_t kSharedTaps = 32;  // on an axis, at most, as a row's filters are held at once

template <typename T>
bool rows_of_shared_filters(const Shape& s) {
  return s.shared() >= kSharedChannels && s.columns.output >= kWidth<Sum<T>> && s.rows.kernel <= kSharedTaps &&
         s.columns.kernel <= kSharedTaps;
}

int64_t shared_band_rows(const Shape& s, const Columns& columns, int64_t height) {
  const int64_t fit = kSharedBandValues / (s.shared() * columns.size()) - s.rows.kernel + 1;
  return std::min(std::clamp<int64_t>(fit, 4, 16), height);
}

// Calls visit(x) for the first of kWidth columns until all are covered; the last may overlap with those before.
template <typename S, typename Visit>
FAC_INLINE void for_columns(int64_t width, const Visit& visit) {
  for (int64_t x = 0; x < width; x += kWidth<S>) visit(std::min(x, width - kWidth<S>));
}

template <typename T>
void forward_of_shared_filters(const Shape& s, const T* input, const T* filters, T* output, Parallel parallel) {
  const Columns columns(s.columns, s.padding);
  const int64_t width = s.columns.output, k = s.columns.kernel, height = s.rows.kernel, shared = s.shared();
  const int64_t rows = shared_band_rows(s, columns, s.rows.output), count = bands(s.rows.output, rows);
  const std::vector<Rows> rows_read = all_rows(s, rows);
  std::vector<int64_t> weight_at(k);
  for (int64_t j = 0; j < k; ++j) weight_at[j] = j * s.outputs();
  const int64_t items = s.batch * s.groups * count;
  parallel(items, grain(s, items), [&](int64_t begin, int64_t end) {
    PaddedBand<T> padded(s, columns);
    std::vector<const Sum<T>*> under(height);
    std::vector<const T*> weights(height);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / count;
      const Band band = band_of(item % count, s.rows.output, rows);
      padded.fill(input + group * shared * s.inputs(), rows_read[item % count], shared);
      for (int64_t y = band.first; y < band.last; ++y) {
        for (int64_t i = 0; i < height; ++i) {
          under[i] = padded.row(y, i);
          weights[i] = filters + (group * s.taps() + i * k) * s.outputs() + y * width;
        }
        for_columns<Sum<T>>(width, [&](int64_t x) {
          T* const out = output + group * shared * s.outputs() + y * width + x;
          for_runs(shared, [&](int64_t first, auto channels) {
            filter_planes<channels>(height, under.data(), weights.data(), x, k, columns.at.data(), weight_at.data(),
                                    first, padded.plane(), out, s.outputs());
          });
        });
      }
    }
  });
}

// Calls visit(count) with `count`, one to eight, as a constant.
template <typename Visit>
void with_taps_up_to_8(int64_t count, const Visit& visit) {
  switch (count) {
    case 1: return visit(std::integral_constant<int, 1>());
    case 2: return visit(std::integral_constant<int, 2>());
    case 3: return visit(std::integral_constant<int, 3>());
    case 4: return visit(std::integral_constant<int, 4>());
    case 5: return visit(std::integral_constant<int, 5>());
    case 6: return visit(std::integral_constant<int, 6>());
    case 7: return visit(std::integral_constant<int, 7>());
    default: return visit(std::integral_constant<int, 8>());
  }
}

template <typename T>
void grad_of_shared_filters(const Shape& s, const T* input, const T* grad, T* grad_filters, Parallel parallel) {
  const Columns columns(s.columns, s.padding);
  const int64_t width = s.columns.output, k = s.columns.kernel, shared = s.shared();
  const int64_t rows = shared_band_rows(s, columns, s.rows.output), count = bands(s.rows.output, rows);
  const std::vector<Rows> rows_read = all_rows(s, rows);
  const int64_t parts = (k + 7) / 8, items = s.batch * s.groups * count;
  parallel(items, grain(s, items), [&](int64_t begin, int64_t end) {
    PaddedBand<T> padded(s, columns);
    std::vector<Sum<T>> query(shared * kWidth<Sum<T>>);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / count;
      const Band band = band_of(item % count, s.rows.output, rows);
      padded.fill(input + group * shared * s.inputs(), rows_read[item % count], shared);
      for (int64_t y = band.first; y < band.last; ++y)
        for_columns<Sum<T>>(width, [&](int64_t x) {
          const T* const g = grad + group * shared * s.outputs() + y * width + x;
          for (int64_t c = 0; c < shared; ++c)
            widen_row(g + c * s.outputs(), &query[c * kWidth<Sum<T>>], kWidth<Sum<T>>);
          for (int64_t i = 0; i < s.rows.kernel; ++i)
            for (int64_t part = 0; part < parts; ++part) {
              // even parts of at most eight taps
              const int64_t first = part * k / parts, taps = (part + 1) * k / parts - first;
              T* const out = grad_filters + (group * s.taps() + i * k + first) * s.outputs() + y * width + x;
              with_taps_up_to_8(taps, [&](auto n) {
                correlate_planes<n>(&columns.at[first], padded.row(y, i) + x, padded.plane(), query.data(), shared, out,
                                    s.outputs());
              });
            }
        });
    }
  });
}

// What the gradient of an input row adds up: by row `tap` of the filters, output row `output`, which is number `number`
// among those that the rows of a band have.
struct Reader {
  int64_t output, tap, number;
};

// Lists the readers of each row of a band, and numbers their outputs.
struct BandReaders {
  std::vector<std::vector<Reader>> rows;
  std::vector<int64_t> outputs;

  BandReaders(const Shape& s, const Band& band) : rows(band.last - band.first) {
    for (int64_t row = band.first; row < band.last; ++row)
      for (int64_t m = 0; m < preimage_count(s.rows, row, s.padding); ++m)
        for (int64_t i = 0; i < s.rows.kernel; ++i) {
          const Progression found = outputs_reading(s.rows, preimage_at(s.rows, row, m, s.padding), i, s.padding);
          for (int64_t y = found.first; y < found.last; y += found.step) {
            rows[row - band.first].push_back({y, i, 0});
            outputs.push_back(y);
          }
        }
    std::sort(outputs.begin(), outputs.end());
    outputs.erase(std::unique(outputs.begin(), outputs.end()), outputs.end());
    for (std::vector<Reader>& readers : rows)
      for (Reader& reader : readers)
        reader.number = std::lower_bound(outputs.begin(), outputs.end(), reader.output) - outputs.begin();
  }
};

// Copies filters and gradients to rows with zeros at both ends, so that one loop over the taps makes each sum of a
// padded row; then folds its border.
template <typename T>
void grad_input_of_shared_filters(const Shape& s, const Columns& columns, const T* filters, const T* grad,
                                  T* grad_input, Parallel parallel) {
  using S = Sum<T>;
  const int64_t width = s.columns.output, k = s.columns.kernel, shared = s.shared(), margin = columns.at.back();
  const int64_t padded_width = (columns.size() + kWidth<S> - 1) / kWidth<S> * kWidth<S>, pitch = margin + padded_width;
  const int64_t rows = shared_band_rows(s, columns, s.rows.input), count = bands(s.rows.input, rows);
  std::vector<int64_t> pixel_at(k), weight_at(k);
  for (int64_t j = 0; j < k; ++j) {
    pixel_at[j] = margin - columns.at[j];
    weight_at[j] = j * pitch + pixel_at[j];
  }
  const int64_t items = s.batch * s.groups * count;
  parallel(items, grain(s, items), [&](int64_t begin, int64_t end) {
    std::vector<S> taps, grads, sums(shared * padded_width), line(s.columns.input);
    std::vector<const S*> under, weights;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / count;
      const Band band = band_of(item % count, s.rows.input, rows);
      const BandReaders readers(s, band);
      const int64_t held = static_cast<int64_t>(readers.outputs.size()), plane = held * pitch;
      grads.assign(shared * plane, S(0));
      for (int64_t c = 0; c < shared; ++c)
        for (int64_t number = 0; number < held; ++number)
          widen_row(grad + (group * shared + c) * s.outputs() + readers.outputs[number] * width,
                    &grads[c * plane + number * pitch + margin], width);
      for (int64_t row = band.first; row < band.last; ++row) {
        const std::vector<Reader>& adds = readers.rows[row - band.first];
        const int64_t n = static_cast<int64_t>(adds.size());
        if (static_cast<int64_t>(taps.size()) < n * k * pitch) taps.resize(n * k * pitch);
        under.resize(n);
        weights.resize(n);
        for (int64_t r = 0; r < n; ++r) {
          for (int64_t j = 0; j < k; ++j)
            widen_row(filters + (group * s.taps() + adds[r].tap * k + j) * s.outputs() + adds[r].output * width,
                      &taps[(r * k + j) * pitch + margin], width);
          under[r] = &grads[adds[r].number * pitch];
          weights[r] = &taps[r * k * pitch];
        }
        for_columns<S>(padded_width, [&](int64_t x) {
          for_runs(shared, [&](int64_t first, auto channels) {
            filter_planes<channels, S, S>(n, under.data(), weights.data(), x, k, pixel_at.data(), weight_at.data(),
                                          first, plane, &sums[x], padded_width);
          });
        });
        for (int64_t c = 0; c < shared; ++c) {
          columns.fold(&sums[c * padded_width], line);
          narrow_row(line.data(), grad_input + (group * shared + c) * s.inputs() + row * s.columns.input,
                     s.columns.input);
        }
      }
    }
  });
}

template <typename T>
void forward_row_major(const Shape& s, const T* input, const T* filters, T* output, Parallel parallel) {
  if (rows_of_shared_filters<T>(s)) return forward_of_shared_filters(s, input, filters, output, parallel);
  const Columns columns(s.columns, s.padding);
  const int64_t width = s.columns.output, k = s.columns.kernel;
  const int64_t rows = band_rows(s.rows.output, width, s.shared() == 1 ? kBandElements : kBandElements / 8);
  // channels of one group are neighbours, so that the filters that they share are still in the cache
  const std::vector<Rows> rows_read = all_rows(s, rows);
  const int64_t count = bands(s.rows.output, rows), items = s.batch * s.channels * count;
  parallel(items, grain(s, items), [&](int64_t begin, int64_t end) {
    PaddedBand<T> padded(s, columns);
    std::vector<Sum<T>> scratch;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t band_index = item / s.shared() % count, group = item / (s.shared() * count);
      const int64_t plane = group * s.shared() + item % s.shared();
      const Band band = band_of(band_index, s.rows.output, rows);
      const int64_t elements = (band.last - band.first) * width;
      padded.fill(input + plane * s.inputs(), rows_read[band_index]);
      T* out = output + plane * s.outputs() + band.first * width;
      Sum<T>* sums;
      if constexpr (std::is_same_v<T, Sum<T>>) {
        sums = out;
      } else {
        scratch.resize(elements);
        sums = scratch.data();
      }
      std::fill_n(sums, elements, Sum<T>(0));
      for (int64_t i = 0, n; i < s.rows.kernel; i += n) {
        n = rows_at_once(k, s.rows.kernel - i);
        const T* taps = filters + (group * s.taps() + i * k) * s.outputs();
        for (int64_t y = band.first; y < band.last; ++y) {
          const Sum<T>* under[3];
          for (int64_t row = 0; row < n; ++row) under[row] = padded.row(y, i + row);
          add_rows(n, k, columns.at.data(), under, taps + y * width, s.outputs(), sums + (y - band.first) * width,
                   width);
        }
      }
      if constexpr (!std::is_same_v<T, Sum<T>>) narrow_row(sums, out, elements);
    }
  });
}

template <typename T>
void grad_input_row_major(const Shape& s, const T* filters, const T* grad, T* grad_input, Parallel parallel) {
  const Columns columns(s.columns, s.padding);
  if (rows_of_shared_filters<T>(s) && columns.one_row)
    return grad_input_of_shared_filters(s, columns, filters, grad, grad_input, parallel);
  const int64_t width = s.columns.output, k = s.columns.kernel, pitch = columns.size();
  const int64_t rows = band_rows(s.rows.input, s.columns.input, s.shared() == 1 ? kBandElements : kBandElements / 8);
  const int64_t count = bands(s.rows.input, rows), items = s.batch * s.channels * count;
  parallel(items, grain(s, items), [&](int64_t begin, int64_t end) {
    std::vector<Sum<T>> sums(rows * pitch);  // rows folded, columns still as Columns lays them out
    std::vector<Sum<T>> line(s.columns.input);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t band_index = item / s.shared() % count, group = item / (s.shared() * count);
      const int64_t plane = group * s.shared() + item % s.shared();
      const Band band = band_of(band_index, s.rows.input, rows);
      std::fill(sums.begin(), sums.end(), Sum<T>(0));
      for (int64_t i = 0; i < s.rows.kernel; ++i) {
        const T* taps = filters + (group * s.taps() + i * k) * s.outputs();
        for (int64_t row = band.first; row < band.last; ++row)
          for (int64_t m = 0; m < preimage_count(s.rows, row, s.padding); ++m) {
            const Progression outputs = outputs_reading(s.rows, preimage_at(s.rows, row, m, s.padding), i, s.padding);
            for (int64_t y = outputs.first; y < outputs.last; y += outputs.step)
              add_scattered_row(k, columns.at.data(), taps + y * width, s.outputs(),
                                grad + plane * s.outputs() + y * width, &sums[(row - band.first) * pitch], width);
          }
      }
      for (int64_t row = band.first; row < band.last; ++row) {
        const Sum<T>* sum = &sums[(row - band.first) * pitch];
        columns.fold(sum, line);
        narrow_row(line.data(), grad_input + plane * s.inputs() + row * s.columns.input, s.columns.input);
      }
    }
  });
}

template <typename T>
void grad_filters_row_major(const Shape& s, const T* input, const T* grad, T* grad_filters, Parallel parallel) {
  if (rows_of_shared_filters<T>(s)) return grad_of_shared_filters(s, input, grad, grad_filters, parallel);
  const Columns columns(s.columns, s.padding);
  const int64_t width = s.columns.output, k = s.columns.kernel, taps = s.taps(), shared = s.shared();
  // where channels share a filter, a band's sums of all taps are in the cache at once
  const int64_t rows = band_rows(s.rows.output, width, shared == 1 ? kBandElements : 4 * kBandElements / taps);
  const std::vector<Rows> rows_read = all_rows(s, rows);
  const int64_t count = bands(s.rows.output, rows), items = s.batch * s.groups * count;
  const bool streaming = worth_streaming<T>(s.batch * s.groups * taps * s.outputs());
  parallel(items, grain(s, items), [&](int64_t begin, int64_t end) {
    PaddedBand<T> padded(s, columns);
    std::vector<Sum<T>> sums(shared == 1 ? 0 : taps * rows * width);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / count;
      const Band band = band_of(item % count, s.rows.output, rows);
      T* out = grad_filters + group * taps * s.outputs();
      std::fill(sums.begin(), sums.end(), Sum<T>(0));
      for (int64_t plane = group * shared; plane < (group + 1) * shared; ++plane) {
        padded.fill(input + plane * s.inputs(), rows_read[item % count]);
        const T* g = grad + plane * s.outputs();
        for (int64_t tap = 0; tap < taps; ++tap)
          for (int64_t y = band.first; y < band.last; ++y) {
            const Sum<T>* under = padded.row(y, tap / k) + columns.at[tap % k];
            T* products = out + tap * s.outputs() + y * width;
            if (shared > 1) {
              add_product_row(under, g + y * width, &sums[(tap * rows + y - band.first) * width], width);
            } else if (streaming) {
              stream_products(under, g + y * width, products, width);
            } else {
              multiply_row(under, g + y * width, products, width);
            }
          }
      }
      if (shared > 1)
        for (int64_t tap = 0; tap < taps; ++tap)
          narrow_row(&sums[tap * rows * width], out + tap * s.outputs() + band.first * width,
                     (band.last - band.first) * width);
    }
    flush_stream();
  });
}

}  // namespace
}  // namespace fac::FAC_VERSION
