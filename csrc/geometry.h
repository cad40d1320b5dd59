// Map a tap to the pixel that it reads, and back, on one axis: written once for CPU and CUDA. A position is a pixel
// index that may lie beyond the ends, in [-before, input + after). Its source is the pixel that padding shows there.
// Int is the type of the arithmetic: it must hold twice every position.
#pragma once
#include <type_traits>

#include "fac.h"

namespace fac {

template <typename Int>
using Same = std::type_identity_t<Int>;  // an argument that has no say in what Int is

// Returns the position under tap t of output pixel o.
template <typename Int>
FAC_HOST_DEVICE inline Int position(const AxisOf<Int>& a, Same<Int> o, Same<Int> t, Padding padding) {
  if (padding != Padding::kInside) return o * a.stride + t * a.dilation - a.before;
  const Int phase = o % a.dilation, length = (a.input - phase + a.dilation - 1) / a.dilation;
  Int start = o / a.dilation - a.kernel / 2;  // the window, in every dilation-th pixel
  if (start > length - a.kernel) start = length - a.kernel;
  if (start < 0) start = 0;
  return (start + t) * a.dilation + phase;
}

// Returns the pixel that position q shows, or -1 where it shows a zero.
template <typename Int>
FAC_HOST_DEVICE inline Int source(Int q, Same<Int> n, Padding padding) {
  if (q >= 0 && q < n) return q;
  if (padding == Padding::kReplicate) return q < 0 ? 0 : n - 1;
  if (padding == Padding::kReflect) return q < 0 ? -q : 2 * (n - 1) - q;
  if (padding == Padding::kCircular) return q < 0 ? q + n : q - n;
  return -1;
}

// Give the positions that show pixel i, the inverse of source: preimage_at(i, m) for m in [0, preimage_count(i)).
template <typename Int>
FAC_HOST_DEVICE inline Int preimage_count(const AxisOf<Int>& a, Same<Int> i, Padding padding) {
  const Int n = a.input;
  const bool first = i == 0, last = i == n - 1;
  switch (padding) {
    case Padding::kReplicate: return 1 + (first ? a.before : 0) + (last && a.after > 0 ? a.after : 0);
    case Padding::kReflect: return 1 + (!first && i <= a.before) + (!last && n - 1 - i <= a.after);
    case Padding::kCircular: return 1 + (n - i <= a.before) + (i < a.after);
    default: return 1;
  }
}
template <typename Int>
FAC_HOST_DEVICE inline Int preimage_at(const AxisOf<Int>& a, Same<Int> i, Same<Int> m, Padding padding) {
  const Int n = a.input;
  if (m == 0) return i;
  switch (padding) {
    case Padding::kReplicate: return i == 0 && m <= a.before ? -m : n - 1 + m - (i == 0 ? a.before : 0);
    case Padding::kReflect: return m == 1 && i > 0 && i <= a.before ? -i : 2 * (n - 1) - i;
    default: return m == 1 && n - i <= a.before ? i - n : i + n;  // circular
  }
}

// The output pixels whose tap t reads position q: first, first + step, ... before last.
template <typename Int>
struct ProgressionOf {
  Int first, last, step;
};
using Progression = ProgressionOf<int64_t>;
template <typename Int>
FAC_HOST_DEVICE inline ProgressionOf<Int> outputs_reading(const AxisOf<Int>& a, Same<Int> q, Same<Int> t,
                                                          Padding padding) {
  if (padding != Padding::kInside) {
    Int o = q + a.before - t * a.dilation;
    if (a.stride != 1) {
      if (o % a.stride) return {0, 0, 1};
      o /= a.stride;
    }
    return o >= 0 && o < a.output ? ProgressionOf<Int>{o, o + 1, 1} : ProgressionOf<Int>{0, 0, 1};
  }
  const Int phase = q % a.dilation, length = (a.input - phase + a.dilation - 1) / a.dilation;
  const Int start = q / a.dilation - t, half = a.kernel / 2;
  if (start < 0 || start > length - a.kernel) return {0, 0, 1};
  const Int first = start == 0 ? 0 : start + half, last = start == length - a.kernel ? length - 1 : start + half;
  return {first * a.dilation + phase, last * a.dilation + phase + 1, a.dilation};
}

}  // namespace fac
