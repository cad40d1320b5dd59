// Padding as arithmetic on one axis of n pixels, written once for CPU and CUDA. A position q runs over
// [-radius, n + radius): the axis with its border.
#pragma once
#include "fac.h"

#ifdef __CUDACC__
#define FAC_HOST_DEVICE __host__ __device__
#else
#define FAC_HOST_DEVICE
#endif

namespace fac {

// The pixel that position q shows, or -1 where it shows a zero.
FAC_HOST_DEVICE inline int64_t source(int64_t q, int64_t n, Padding padding) {
  if (q >= 0 && q < n) return q;
  if (padding == Padding::kZeros) return -1;
  return q < 0 ? 0 : n - 1;
}

// The positions first <= q < last that show pixel i: the adjoint of source, which turns the gradient with
// respect to the input into a gather.
struct Span {
  int64_t first, last;
};
FAC_HOST_DEVICE inline Span positions(int64_t i, int64_t n, int64_t radius, Padding padding) {
  Span span = {i, i + 1};
  if (padding == Padding::kReplicate && i == 0) span.first -= radius;
  if (padding == Padding::kReplicate && i == n - 1) span.last += radius;
  return span;
}

}  // namespace fac
