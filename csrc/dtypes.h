// The element types. The half precisions only store: all arithmetic with them is in float. On the CPU their conversions
// are integer arithmetic without branches: compilers turn it into vector code for any instruction set, and it does not
// depend on the processor's denormal flags.
#pragma once
#include <bit>
#include <cstdint>

#ifdef __CUDACC__
#define FAC_HOST_DEVICE __host__ __device__
#else
#define FAC_HOST_DEVICE
#endif

namespace fac {

struct Half {
  uint16_t bits;  // IEEE binary16
};
struct BFloat16 {
  uint16_t bits;  // the upper half of a float
};

template <typename T>
struct SumOf {
  using type = T;
};
template <>
struct SumOf<Half> {
  using type = float;
};
template <>
struct SumOf<BFloat16> {
  using type = float;
};
template <typename T>
using Sum = typename SumOf<T>::type;  // the type in which products are added

FAC_HOST_DEVICE inline uint32_t bits_of(float value) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(value);
#else
  return std::bit_cast<uint32_t>(value);
#endif
}
FAC_HOST_DEVICE inline float float_of(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  return std::bit_cast<float>(bits);
#endif
}

FAC_HOST_DEVICE inline float widen(float value) { return value; }
FAC_HOST_DEVICE inline double widen(double value) { return value; }
FAC_HOST_DEVICE inline float widen(BFloat16 value) { return float_of(static_cast<uint32_t>(value.bits) << 16); }
FAC_HOST_DEVICE inline float widen(Half value) {
#ifdef __CUDA_ARCH__
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#else
  const uint32_t size = value.bits & 0x7fff, sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  const uint32_t rebias = 112u << 23;
  const uint32_t normal = (size << 13) + rebias + (size >= 0x7c00 ? rebias : 0);  // infinity and NaN: twice
  const uint32_t subnormal = bits_of(static_cast<float>(static_cast<int32_t>(size)) * 0x1p-24f);
  const uint32_t choose = -static_cast<uint32_t>(size < 0x400);  // a mask, since a choice of floats becomes a branch
  return float_of(sign | (subnormal & choose) | (normal & ~choose));
#endif
}

// Rounds to the nearest representable value, ties to even.
template <typename T>
FAC_HOST_DEVICE inline T narrow(Sum<T> value) {
  return value;
}
template <>
FAC_HOST_DEVICE inline BFloat16 narrow<BFloat16>(float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return {static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded)};
}
template <>
FAC_HOST_DEVICE inline Half narrow<Half>(float value) {
#ifdef __CUDA_ARCH__
  Half half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half.bits) : "f"(value));
  return half;
#else
  const uint32_t bits = bits_of(value), size = bits & 0x7fffffff, sign = (bits >> 16) & 0x8000;
  const uint32_t normal = (size - (112u << 23) + 0xfff + ((size >> 13) & 1)) >> 13;
  const uint32_t subnormal = bits_of(float_of(size) + 0.5f) - bits_of(0.5f);  // 0.5 has the steps of a subnormal
  const uint32_t small = size < 0x38800000 ? subnormal : normal;
  const uint32_t large = size > 0x7f800000 ? 0x7e00u : 0x7c00u;  // NaN, infinity
  return {static_cast<uint16_t>(sign | (size < 0x477ff000 ? small : large))};
#endif
}

}  // namespace fac
