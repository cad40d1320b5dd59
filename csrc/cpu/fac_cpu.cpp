// Chooses the CPU kernels: their version by the processor, their layout by the tensors.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "common.h"

namespace fac {
namespace {

enum Version { kBaseline, kAvx2, kAvx512 };
constexpr const char* kNames[] = {"default", "avx2", "avx512"};  // torch's, for ATEN_CPU_CAPABILITY

Version best_version() {
#if defined(FAC_HAS_VERSIONS)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return kAvx512;
  if (__builtin_cpu_supports("x86-64-v3")) return kAvx2;
#endif
  return kBaseline;
}

Version choose_version() {
  const Version best = best_version();
  const char* given = std::getenv("FAC_CPU_CAPABILITY");
  if (given == nullptr) return best;
  for (const Version version : {kBaseline, kAvx2, kAvx512})
    if (kNames[version] == std::string(given)) {
      if (version <= best) return version;
      throw std::runtime_error(std::string("fac: FAC_CPU_CAPABILITY must be one that this processor and this build "
                                           "have, ") +
                               kNames[best] + " at most, got " + given);
    }
  throw std::runtime_error(std::string("fac: FAC_CPU_CAPABILITY must be default, avx2 or avx512, got '") + given + "'");
}

Version version() {
  static const Version chosen = choose_version();
  return chosen;
}

template <typename T>
Kernels<T> kernels(const Shape& s) {
#if defined(FAC_HAS_VERSIONS)
  if (version() == kAvx512) return avx512::kernels<T>(s.channels_last);
  if (version() == kAvx2) return avx2::kernels<T>(s.channels_last);
#endif
  return baseline::kernels<T>(s.channels_last);
}

}  // namespace

template <typename T>
void forward_cpu(const Shape& s, const T* input, const T* filters, T* output, Parallel parallel) {
  if (s.batch * s.channels * s.outputs() == 0) return;
  kernels<T>(s).forward(s, input, filters, output, parallel);
}

template <typename T>
void grad_input_cpu(const Shape& s, const T* filters, const T* grad, T* grad_input, Parallel parallel) {
  if (s.batch * s.channels * s.inputs() == 0) return;
  kernels<T>(s).grad_input(s, filters, grad, grad_input, parallel);
}

template <typename T>
void grad_filters_cpu(const Shape& s, const T* input, const T* grad, T* grad_filters, Parallel parallel) {
  if (s.batch * s.groups * s.outputs() == 0) return;
  kernels<T>(s).grad_filters(s, input, grad, grad_filters, parallel);
}

const char* cpu_simd() {
  constexpr const char* kSimd[] = {"baseline", "AVX2", "AVX-512"};
  return kSimd[version()];
}

#define FAC_INSTANTIATE(T)                                                      \
  template void forward_cpu(const Shape&, const T*, const T*, T*, Parallel);    \
  template void grad_input_cpu(const Shape&, const T*, const T*, T*, Parallel); \
  template void grad_filters_cpu(const Shape&, const T*, const T*, T*, Parallel);
FAC_INSTANTIATE(float)
FAC_INSTANTIATE(double)
FAC_INSTANTIATE(Half)
FAC_INSTANTIATE(BFloat16)

}  // namespace fac
