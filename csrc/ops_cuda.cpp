// The operators' CUDA implementations. Compiled only where nvcc is; needs no CUDA header, and no CUDA in the
// torch that it is built against.
#include "ops.h"

#include <torch/csrc/stable/accelerator.h>

// Weak: a CPU build of torch has no such symbol, and never gets here.
extern "C" __attribute__((weak)) int32_t aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace fac {
namespace {

// run(T{}, stream) on the tensor's device and torch's current stream there; it returns what went wrong.
template <typename Run>
void on_device(const char* op, const Tensor& tensor, Run run) {
  const int32_t device = tensor.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream && !aoti_torch_get_current_cuda_stream(device, &stream), op,
                  ": torch gave no CUDA stream for device ", device);
  switch_dtype(op, tensor, [&](auto zero) {
    const char* error = run(zero, stream);
    STD_TORCH_CHECK(error == nullptr, op, ": CUDA kernel launch failed: ", error);
  });
}

Tensor fac_cuda(const Tensor& input, const Tensor& filters, int64_t kernel, int64_t padding) {
  const Shape s = check_filters("fac", input, filters, kernel, padding);
  const Tensor x = torch::stable::contiguous(input), f = torch::stable::contiguous(filters);
  Tensor output = torch::stable::new_empty(x, x.sizes());
  on_device("fac", x, [&](auto zero, void* stream) {
    using T = decltype(zero);
    return forward_cuda(s, data<T>(x), data<T>(f), mutable_data<T>(output), stream);
  });
  return output;
}

Tensor fac_grad_input_cuda(const Tensor& filters, const Tensor& grad, int64_t kernel, int64_t padding) {
  const Shape s = check_filters("fac_grad_input", grad, filters, kernel, padding);
  const Tensor f = torch::stable::contiguous(filters), g = torch::stable::contiguous(grad);
  Tensor grad_input = torch::stable::new_empty(g, g.sizes());
  on_device("fac_grad_input", g, [&](auto zero, void* stream) {
    using T = decltype(zero);
    return grad_input_cuda(s, data<T>(f), data<T>(g), mutable_data<T>(grad_input), stream);
  });
  return grad_input;
}

Tensor fac_grad_filters_cuda(const Tensor& input, const Tensor& grad, int64_t kernel, int64_t padding) {
  const Shape s = check_images("fac_grad_filters", input, grad, kernel, padding);
  const Tensor x = torch::stable::contiguous(input), g = torch::stable::contiguous(grad);
  Tensor grad_filters =
      torch::stable::new_empty(x, {s.batch, s.channels * kernel * kernel, s.height, s.width});
  on_device("fac_grad_filters", x, [&](auto zero, void* stream) {
    using T = decltype(zero);
    return grad_filters_cuda(s, data<T>(x), data<T>(g), mutable_data<T>(grad_filters), stream);
  });
  return grad_filters;
}

}  // namespace
}  // namespace fac

STABLE_TORCH_LIBRARY_IMPL(fac_ext, CUDA, library) {
  library.impl("fac", TORCH_BOX(&fac::fac_cuda));
  library.impl("fac_grad_input", TORCH_BOX(&fac::fac_grad_input_cuda));
  library.impl("fac_grad_filters", TORCH_BOX(&fac::fac_grad_filters_cuda));
}
