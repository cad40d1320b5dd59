// The operators' schemas, their CPU implementations, and the Python module fac_ext._C. Registered through
// LibTorch's stable ABI, so that one build serves every torch from 2.10 on.
#include "ops.h"

#include <pybind11/pybind11.h>

#include <algorithm>

// Padding travels as a number: the stable ABI's string argument allocates on every call and never frees it.
STABLE_TORCH_LIBRARY(fac_ext, library) {
  library.def("fac(Tensor input, Tensor filters, int kernel_size, int padding) -> Tensor");
  library.def("fac_grad_input(Tensor filters, Tensor grad, int kernel_size, int padding) -> Tensor");
  library.def("fac_grad_filters(Tensor input, Tensor grad, int kernel_size, int padding) -> Tensor");
}

namespace fac {
namespace {

constexpr int64_t kGrain = 32768;  // multiply-adds that are worth a thread

template <typename Run>
void spread(const Shape& s, Run run) {
  const int64_t items = cpu_items(s);
  if (items == 0) return;
  const int64_t work = s.batch * s.channels * s.height * s.width * s.kernel * s.kernel / items;
  torch::stable::parallel_for(0, items, std::max<int64_t>(kGrain / std::max<int64_t>(work, 1), 1), run);
}

Tensor fac_cpu(const Tensor& input, const Tensor& filters, int64_t kernel, int64_t padding) {
  const Shape s = check_filters("fac", input, filters, kernel, padding);
  const Tensor x = torch::stable::contiguous(input), f = torch::stable::contiguous(filters);
  Tensor output = torch::stable::new_empty(x, x.sizes());
  switch_dtype("fac", x, [&](auto zero) {
    using T = decltype(zero);
    spread(s, [&](int64_t begin, int64_t end) {
      forward_cpu(s, data<T>(x), data<T>(f), mutable_data<T>(output), begin, end);
    });
  });
  return output;
}

Tensor fac_grad_input_cpu(const Tensor& filters, const Tensor& grad, int64_t kernel, int64_t padding) {
  const Shape s = check_filters("fac_grad_input", grad, filters, kernel, padding);
  const Tensor f = torch::stable::contiguous(filters), g = torch::stable::contiguous(grad);
  Tensor grad_input = torch::stable::new_empty(g, g.sizes());
  switch_dtype("fac_grad_input", g, [&](auto zero) {
    using T = decltype(zero);
    spread(s, [&](int64_t begin, int64_t end) {
      grad_input_cpu(s, data<T>(f), data<T>(g), mutable_data<T>(grad_input), begin, end);
    });
  });
  return grad_input;
}

Tensor fac_grad_filters_cpu(const Tensor& input, const Tensor& grad, int64_t kernel, int64_t padding) {
  const Shape s = check_images("fac_grad_filters", input, grad, kernel, padding);
  const Tensor x = torch::stable::contiguous(input), g = torch::stable::contiguous(grad);
  Tensor grad_filters =
      torch::stable::new_empty(x, {s.batch, s.channels * kernel * kernel, s.height, s.width});
  switch_dtype("fac_grad_filters", x, [&](auto zero) {
    using T = decltype(zero);
    spread(s, [&](int64_t begin, int64_t end) {
      grad_filters_cpu(s, data<T>(x), data<T>(g), mutable_data<T>(grad_filters), begin, end);
    });
  });
  return grad_filters;
}

}  // namespace
}  // namespace fac

STABLE_TORCH_LIBRARY_IMPL(fac_ext, CPU, library) {
  library.impl("fac", TORCH_BOX(&fac::fac_cpu));
  library.impl("fac_grad_input", TORCH_BOX(&fac::fac_grad_input_cpu));
  library.impl("fac_grad_filters", TORCH_BOX(&fac::fac_grad_filters_cpu));
}

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
