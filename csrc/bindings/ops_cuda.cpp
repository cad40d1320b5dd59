// Registers the operators' CUDA implementations. Compiled only where nvcc is; needs no CUDA header, and no CUDA in the
// torch that it is built against.
#include "ops.h"

#include <torch/csrc/stable/accelerator.h>

// Weak: a CPU build of torch has no such symbol, and never gets here.
extern "C" __attribute__((weak)) int32_t aoti_torch_get_current_cuda_stream(int32_t device, void** stream);

namespace fac {
namespace {

// Calls run(stream) on the tensor's device, with torch's current stream there; run returns nullptr, or the error.
template <typename Launch>
void on_device(const Tensor& tensor, Launch run) {
  const int32_t device = tensor.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream && !aoti_torch_get_current_cuda_stream(device, &stream),
                  "fac_ext: torch gave no CUDA stream for device ", device);
  const char* error = run(stream);
  STD_TORCH_CHECK(error == nullptr, "fac_ext: CUDA kernel launch failed: ", error);
}

struct Cuda {
  static Tensor allocate(const Tensor& like, const Ints& sizes, MemoryFormat layout) {
    return make_empty(like, sizes, layout);
  }
  template <typename T>
  static void forward(const Shape& s, const Tensor& like, const T* input, const T* filters, T* output) {
    on_device(like, [&](void* stream) { return forward_cuda(s, input, filters, output, stream); });
  }
  template <typename T>
  static void grad_input(const Shape& s, const Tensor& like, const T* filters, const T* grad, T* grad_input) {
    on_device(like, [&](void* stream) { return grad_input_cuda(s, filters, grad, grad_input, stream); });
  }
  template <typename T>
  static void grad_filters(const Shape& s, const Tensor& like, const T* input, const T* grad, T* grad_filters) {
    on_device(like, [&](void* stream) { return grad_filters_cuda(s, input, grad, grad_filters, stream); });
  }
};

}  // namespace
}  // namespace fac

STABLE_TORCH_LIBRARY_IMPL(fac_ext, CUDA, library) { fac::implement<fac::Cuda>(library); }
