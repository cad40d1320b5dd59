// Shared by the CUDA kernels: pieces of sixteen bytes or fewer as the unit of the large tensors, and a launch.
#pragma once
#include <cuda_runtime.h>

#include <cstdio>
#include <initializer_list>
#include <type_traits>

#include "../geometry.h"

namespace fac {
namespace {

// Neighbouring values that one instruction moves.
template <typename T, int kCount = 16 / sizeof(T)>
struct alignas(kCount * sizeof(T)) Vector {
  T at[kCount];
};
template <typename T>
constexpr int kVector = 16 / sizeof(T);

// Sixteen, eight or four bytes, as one instruction moves them.
template <int kCount, typename T>
using Bits =
    std::conditional_t<kCount * sizeof(T) == 16, uint4, std::conditional_t<kCount * sizeof(T) == 8, uint2, unsigned>>;

// Filters and their gradient are touched once: "streaming" asks the caches to drop them first.
template <int kCount, typename T>
__device__ inline Vector<T, kCount> load_once(const T* from) {
  return __builtin_bit_cast(Vector<T, kCount>, __ldcs(reinterpret_cast<const Bits<kCount, T>*>(from)));
}
template <int kCount, typename T>
__device__ inline void store_once(const Vector<T, kCount>& values, T* to) {
  __stcs(reinterpret_cast<Bits<kCount, T>*>(to), __builtin_bit_cast(Bits<kCount, T>, values));
}
// Load and store through the caches as usual.
template <int kCount, typename T>
__device__ inline Vector<T, kCount> load(const T* from) {
  return __builtin_bit_cast(Vector<T, kCount>, *reinterpret_cast<const Bits<kCount, T>*>(from));
}
template <int kCount, typename T>
__device__ inline void store(const Vector<T, kCount>& values, T* to) {
  *reinterpret_cast<Bits<kCount, T>*>(to) = __builtin_bit_cast(Bits<kCount, T>, values);
}

// Returns a pointer to global memory as one base address, to which 32-bit offsets are added as the memory is read: else
// the compiler keeps a 64-bit address for each of them.
template <typename T>
__device__ inline const T* base_address(const T* pointer) {
#ifdef __CUDA_ARCH__
  asm("" : "+l"(pointer));
  __builtin_assume(__isGlobal(pointer));
#endif
  return pointer;
}

// Narrows in one instruction where there is one.
template <typename T>
__device__ inline T rounded(Sum<T> value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, BFloat16>) {
    BFloat16 result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
  }
#endif
  return narrow<T>(value);
}

// What a Shape says, in 32 bits or 64.
template <typename Int>
struct Sizes {
  Int batch, channels, groups;
  AxisOf<Int> rows, columns;
  Int taps, inputs, outputs;
  Padding padding;
  bool channels_last;

  __device__ explicit Sizes(const Shape& s)
      : batch(static_cast<Int>(s.batch)),
        channels(static_cast<Int>(s.channels)),
        groups(static_cast<Int>(s.groups)),
        rows(axis(s.rows)),
        columns(axis(s.columns)),
        taps(static_cast<Int>(s.taps())),
        inputs(static_cast<Int>(s.inputs())),
        outputs(static_cast<Int>(s.outputs())),
        padding(s.padding),
        channels_last(s.channels_last) {}
  __device__ static AxisOf<Int> axis(const Axis& a) {
    return {static_cast<Int>(a.input),  static_cast<Int>(a.output),   static_cast<Int>(a.kernel),
            static_cast<Int>(a.stride), static_cast<Int>(a.dilation), static_cast<Int>(a.before),
            static_cast<Int>(a.after)};
  }
};

// For geometry.h in kernels that are never launched for kInside: no other padding changes the positions under taps.
constexpr Padding kFixed = Padding::kZeros;

// Returns nullptr, or an error in words, with what to do where the build does not fit the machine. The text is the
// thread's own, until its next error.
inline const char* explain(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  const bool driver = error == cudaErrorInsufficientDriver || error == cudaErrorUnsupportedPtxVersion;
  if (!driver && error != cudaErrorNoKernelImageForDevice) return cudaGetErrorString(error);
  thread_local char text[320];
  int has = 0;  // 12040 for CUDA 12.4
  if (driver) cudaDriverGetVersion(&has);
  if (driver)
    std::snprintf(text, sizeof(text),
                  "the GPU's driver is for CUDA %d.%d, and fac_ext was compiled by CUDA %d.%d: update the driver, or "
                  "compile fac_ext with the driver's CUDA",
                  has / 1000, has % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  else
    std::snprintf(
        text, sizeof(text),
        "fac_ext has no code for this GPU (fac_ext.build_info()[\"cuda_architectures\"]): compile it where the "
        "GPU is visible, or with TORCH_CUDA_ARCH_LIST");
  return text;
}

template <typename T>
using Kernel = void (*)(Shape, const T*, const T*, T*);

template <typename T>
const char* launch(Kernel<T> kernel, dim3 blocks, int64_t threads, const Shape& s, const T* a, const T* b, T* out,
                   void* stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = static_cast<cudaStream_t>(stream);
  return explain(cudaLaunchKernelEx(&config, kernel, s, a, b, out));
}

// Picks the kernel for a width of 3, 5 or 7 taps.
template <typename T, typename Pick>
Kernel<T> by_odd_width(int64_t k, Pick pick) {
  if (k == 3) return pick(std::integral_constant<int, 3>());
  if (k == 5) return pick(std::integral_constant<int, 5>());
  return pick(std::integral_constant<int, 7>());
}

constexpr int64_t kMaxGridX = (int64_t{1} << 31) - 1, kMaxGridY = 65535;

FAC_HOST_DEVICE inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Says whether a call meets what all fast kernels require: one filter per channel, and fewer than 2^30 positions on
// an axis.
inline bool fast_path_ok(const Shape& s) {
  const auto small = [](const Axis& axis) {
    return axis.input + axis.before + (axis.after > 0 ? axis.after : 0) < 1 << 30 && axis.output < 1 << 30;
  };
  return s.batch > 0 && s.channels > 0 && s.inputs() > 0 && s.outputs() > 0 && s.groups == s.channels &&
         small(s.rows) && small(s.columns);
}
// Returns the values in the largest pieces of 16, 8 or 4 bytes of which three tensors' places and rows of these widths
// are multiples, or 0.
template <typename T>
int64_t piece_values(const T* a, const T* b, const T* out, std::initializer_list<int64_t> widths) {
  uintptr_t bits = reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) | reinterpret_cast<uintptr_t>(out);
  for (const int64_t width : widths) bits |= width * sizeof(T);
  for (const unsigned bytes : {16, 8, 4})
    if (bits % bytes == 0) return bytes / sizeof(T);
  return 0;
}
inline bool has_width(const Shape& s) {
  return s.columns.kernel == 3 || s.columns.kernel == 5 || s.columns.kernel == 7;
}
// Says whether the width is compiled for, the stride is 1, and the window is the same everywhere.
inline bool uniform_window(const Shape& s) {
  return has_width(s) && s.rows.stride == 1 && s.columns.stride == 1 && s.padding != Padding::kInside;
}

}  // namespace
}  // namespace fac
