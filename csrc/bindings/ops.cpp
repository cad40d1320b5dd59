// Registers the operators' schemas and CPU implementations, and defines the Python module fac_ext._C. Uses LibTorch's
// stable ABI, so that one build serves every torch from 2.10 on.
#include "ops.h"

#include <pybind11/pybind11.h>

#include <atomic>

#include "../cpu/block_cache.h"

// Weak: torch 2.10 has no such function, and large results are new memory there.
extern "C" __attribute__((weak)) AOTITorchError torch_from_blob(
    void* data, int64_t dimensions, const int64_t* sizes, const int64_t* strides, int64_t offset, int32_t dtype,
    int32_t device_type, int32_t device_index, AtenTensorHandle* tensor, int32_t layout, const uint8_t* metadata,
    int64_t metadata_size, void (*deleter)(void* data, void* context), void* context);

// Padding mode is a number, because the stable ABI allocates a string argument on every call and never frees it.
#define FAC_SETTINGS                                                                         \
  ", int[2] kernel_size, int[2] stride, int[2] dilation, int[4] padding, int padding_mode, " \
  "int channels_per_filter) -> Tensor"

STABLE_TORCH_LIBRARY(fac_ext, library) {
  library.def("fac(Tensor input, Tensor filters" FAC_SETTINGS);
  library.def("fac_grad_input(Tensor filters, Tensor grad" FAC_SETTINGS);
  library.def("fac_grad_filters(Tensor input, Tensor grad" FAC_SETTINGS);
}

namespace fac {
namespace {

void on_torch_threads(int64_t items, int64_t grain, const Run& run) {
  std::atomic<bool> short_of_memory = false;  // torch turns what is thrown into an error without its cause
  torch::stable::parallel_for(0, items, grain, [&](int64_t begin, int64_t end) {
    try {
      run(begin, end);
    } catch (const std::bad_alloc&) {
      short_of_memory = true;
    }
  });
  if (short_of_memory) throw std::bad_alloc();
}

#if defined(FAC_KEEPS_MEMORY)
constexpr int128 kLarge = 4 << 20;  // bytes

Tensor tensor_in(Block block, ScalarType dtype, const Ints& n, MemoryFormat layout) {
  const Ints strides = layout == MemoryFormat::ChannelsLast ? Ints{n[1] * n[2] * n[3], 1, n[3] * n[1], n[1]}
                                                            : Ints{n[1] * n[2] * n[3], n[2] * n[3], n[3], 1};
  const auto give_back = [](void* data, void* bytes) {
    Memory::of_process().give({data, reinterpret_cast<size_t>(bytes)});
  };
  AtenTensorHandle tensor;
  const AOTITorchError error = torch_from_blob(block.data, 4, n.data(), strides.data(), 0,
                                               torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
                                               aoti_torch_device_type_cpu(), -1, &tensor, aoti_torch_layout_strided(),
                                               nullptr, 0, give_back, reinterpret_cast<void*>(block.bytes));
  if (error) Memory::of_process().give(block);
  TORCH_ERROR_CODE_CHECK(error);
  return Tensor(tensor);
}
#endif

struct Cpu {
  static Tensor allocate(const Tensor& like, const Ints& sizes, MemoryFormat layout) {
#if defined(FAC_KEEPS_MEMORY)
    const int128 bytes = bytes_of(sizes, like.element_size());
    if (bytes >= kLarge && bytes < kMaxBytes && torch_from_blob)
      if (const Block block = Memory::of_process().take(static_cast<size_t>(bytes)); block.data)
        return tensor_in(block, like.scalar_type(), sizes, layout);
#endif
    return make_empty(like, sizes, layout);
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
  fac::cpu_simd();  // an error in FAC_CPU_CAPABILITY is one of the import
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
  module.def(
      "release_memory",
      [] {
#if defined(FAC_KEEPS_MEMORY)
        fac::Memory::of_process().release();
#endif
      },
      "Return the memory of large CPU results that have died, which waits for the next ones, to the system.");
}
