// The operators' schemas, their CPU implementations, and the Python module fac_ext._C. Registered through
// LibTorch's stable ABI, so that one build serves every torch from 2.10 on.
#include "ops.h"

#include <pybind11/pybind11.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

// Padding mode travels as a number: the stable ABI's string argument allocates on every call and never frees it.
#define FAC_SETTINGS                                                                                      \
  ", int[2] kernel_size, int[2] stride, int[2] dilation, int[4] padding, int padding_mode, "              \
  "int channels_per_filter) -> Tensor"

STABLE_TORCH_LIBRARY(fac_ext, library) {
  library.def("fac(Tensor input, Tensor filters" FAC_SETTINGS);
  library.def("fac_grad_input(Tensor filters, Tensor grad" FAC_SETTINGS);
  library.def("fac_grad_filters(Tensor input, Tensor grad" FAC_SETTINGS);
}

namespace fac {
namespace {

void on_torch_threads(int64_t items, int64_t grain, const Run& run) {
  torch::stable::parallel_for(0, items, grain, run);
}

struct Cpu {
  // A large result is new memory: its page faults, 4 kB each, would take longer than what is written there.
  template <typename T>
  static T* fresh(T* data, int64_t elements) {
#if defined(MADV_HUGEPAGE)
    constexpr uintptr_t page = 4096;
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
    const uintptr_t end = reinterpret_cast<uintptr_t>(data + elements) / page * page;
    if (end >= begin + (4 << 20)) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a wish
#endif
    return data;
  }
  template <typename T>
  static void forward(const Shape& s, const Tensor&, const T* input, const T* filters, T* output) {
    forward_cpu(s, input, filters, output, on_torch_threads);
  }
  template <typename T>
  static void grad_input(const Shape& s, const Tensor&, const T* filters, const T* grad, T* grad_input) {
    grad_input_cpu(s, filters, grad, grad_input, on_torch_threads);
  }
  template <typename T>
  static void grad_filters(const Shape& s, const Tensor&, const T* input, const T* grad, T* grad_filters) {
    grad_filters_cpu(s, input, grad, grad_filters, on_torch_threads);
  }
};

}  // namespace
}  // namespace fac

STABLE_TORCH_LIBRARY_IMPL(fac_ext, CPU, library) { fac::implement<fac::Cpu>(library); }

// FAC_EXT_VERSION, FAC_EXT_CUDA (toolkit, "" for none) and FAC_EXT_ARCHS come from setup.py.
PYBIND11_MODULE(_C, module) {
  module.doc() = "The compiled half of fac_ext. Importing it registers the operators torch.ops.fac_ext.*";
  module.def(
      "build_info",
      [] {
        pybind11::dict info;
        info["version"] = FAC_EXT_VERSION;
        info["cuda"] = *FAC_EXT_CUDA ? pybind11::object(pybind11::str(FAC_EXT_CUDA)) : pybind11::none();
        info["cuda_architectures"] = FAC_EXT_ARCHS;
        info["cpu_simd"] = fac::cpu_simd();
        return info;
      },
      "Version, CUDA toolkit (None: CPU alone), architectures, and the CPU instruction set in use.");
}
