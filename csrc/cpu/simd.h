// Eight numbers at a time, for loops that compilers do not vectorize by themselves. Uses the vector types that GCC and
// Clang translate for any processor.
#pragma once
#include <cstring>
#include <type_traits>

#include "../dtypes.h"

namespace fac {

#define FAC_INLINE inline __attribute__((always_inline))
#define FAC_INLINE_LAMBDA __attribute__((always_inline))

typedef uint16_t Uint16x8 __attribute__((vector_size(16)));
typedef uint32_t Uint32x8 __attribute__((vector_size(32)));
typedef int32_t Int32x8 __attribute__((vector_size(32)));
typedef int64_t Int64x8 __attribute__((vector_size(64)));
template <typename S>
struct Vec8Of;
template <>
struct Vec8Of<float> {
  typedef float type __attribute__((vector_size(32)));
  typedef Int32x8 index;
};
template <>
struct Vec8Of<double> {
  typedef double type __attribute__((vector_size(64)));
  typedef Int64x8 index;
};
template <typename S>
using Vec8 = typename Vec8Of<S>::type;

FAC_INLINE void load(const float* from, Vec8<float>& lanes) { std::memcpy(&lanes, from, sizeof lanes); }
FAC_INLINE void load(const double* from, Vec8<double>& lanes) { std::memcpy(&lanes, from, sizeof lanes); }
FAC_INLINE void load(const BFloat16* from, Vec8<float>& lanes) {
  Uint16x8 bits;
  std::memcpy(&bits, from, sizeof bits);
  lanes = (Vec8<float>)(__builtin_convertvector(bits, Uint32x8) << 16);
}
FAC_INLINE void load(const Half* from, Vec8<float>& lanes) {  // widen of dtypes.h
  Uint16x8 bits;
  std::memcpy(&bits, from, sizeof bits);
  const Uint32x8 wide = __builtin_convertvector(bits, Uint32x8), size = wide & 0x7fff, sign = (wide & 0x8000) << 16;
  const Uint32x8 infinite = (Uint32x8)(size >= 0x7c00), tiny = (Uint32x8)(size < 0x400);
  const Uint32x8 normal = (size << 13) + (112u << 23) + (infinite & (112u << 23));
  const Uint32x8 subnormal = (Uint32x8)(__builtin_convertvector((Int32x8)size, Vec8<float>) * 0x1p-24f);
  lanes = (Vec8<float>)(sign | (subnormal & tiny) | (normal & ~tiny));
}
FAC_INLINE void store(const Vec8<float>& lanes, float* to) { std::memcpy(to, &lanes, sizeof lanes); }
FAC_INLINE void store(const Vec8<double>& lanes, double* to) { std::memcpy(to, &lanes, sizeof lanes); }
FAC_INLINE void store(const Vec8<float>& lanes, BFloat16* to) {  // narrow of dtypes.h
  const Uint32x8 bits = (Uint32x8)lanes, nan = (Uint32x8)((bits & 0x7fffffff) > 0x7f800000);
  const Uint32x8 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Uint16x8 narrowed = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), Uint16x8);
  std::memcpy(to, &narrowed, sizeof narrowed);
}
FAC_INLINE void store(const Vec8<float>& lanes, Half* to) {  // narrow of dtypes.h
  const Uint32x8 bits = (Uint32x8)lanes, size = bits & 0x7fffffff, sign = (bits >> 16) & 0x8000;
  const Uint32x8 tiny = (Uint32x8)(size < 0x38800000), large = (Uint32x8)(size >= 0x477ff000);
  const Uint32x8 nan = (Uint32x8)(size > 0x7f800000);
  const Uint32x8 normal = (size - (112u << 23) + 0xfff + ((size >> 13) & 1)) >> 13;
  const Uint32x8 subnormal = (Uint32x8)((Vec8<float>)size + 0.5f) - bits_of(0.5f);
  const Uint32x8 small = (subnormal & tiny) | (normal & ~tiny), huge = 0x7c00 | (nan & 0x200);
  const Uint16x8 narrowed = __builtin_convertvector(sign | (small & ~large) | (huge & large), Uint16x8);
  std::memcpy(to, &narrowed, sizeof narrowed);
}

#if defined(__clang__)
#define FAC_SHUFFLE(S, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FAC_SHUFFLE(S, a, b, ...) __builtin_shuffle(a, b, typename Vec8Of<S>::index{__VA_ARGS__})
#endif

#define FAC_INTERLEAVE_LOW(S, a, b) FAC_SHUFFLE(S, a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define FAC_INTERLEAVE_HIGH(S, a, b) FAC_SHUFFLE(S, a, b, 2, 10, 3, 11, 6, 14, 7, 15)

// Makes rows[l][r] of rows[r][l]: exchanges halves of four lanes, then, four by four, interleaves twice.
template <typename S>
FAC_INLINE void transpose(Vec8<S> (&rows)[8]) {
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    const Vec8<S> a = rows[r], b = rows[r + 4];
    rows[r] = FAC_SHUFFLE(S, a, b, 0, 1, 2, 3, 8, 9, 10, 11);
    rows[r + 4] = FAC_SHUFFLE(S, a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  }
#pragma GCC unroll 2
  for (int r = 0; r < 8; r += 4) {
    const Vec8<S> a = FAC_INTERLEAVE_LOW(S, rows[r], rows[r + 2]), b = FAC_INTERLEAVE_LOW(S, rows[r + 1], rows[r + 3]);
    const Vec8<S> c = FAC_INTERLEAVE_HIGH(S, rows[r], rows[r + 2]),
                  d = FAC_INTERLEAVE_HIGH(S, rows[r + 1], rows[r + 3]);
    rows[r] = FAC_INTERLEAVE_LOW(S, a, b);
    rows[r + 1] = FAC_INTERLEAVE_HIGH(S, a, b);
    rows[r + 2] = FAC_INTERLEAVE_LOW(S, c, d);
    rows[r + 3] = FAC_INTERLEAVE_HIGH(S, c, d);
  }
}

}  // namespace fac
