// What the two bindings share: the checks that guard memory (the ones for people are in
// fac_ext/functional.py), the order of host code, and the switch over element types.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include "fac.h"

namespace fac {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check_operands(const char* op, const Tensor& a, const Tensor& b, int64_t kernel, int64_t padding) {
  STD_TORCH_CHECK(a.dim() == 4 && b.dim() == 4, op, ": both tensors must have 4 dimensions");
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type(), op, ": both tensors must have one dtype");
  STD_TORCH_CHECK(a.get_device_index() == b.get_device_index() && a.is_cpu() == b.is_cpu(), op,
                  ": both tensors must be on one device");
  STD_TORCH_CHECK(kernel > 0 && kernel % 2 == 1, op, ": kernel_size must be odd");
  STD_TORCH_CHECK(padding == 0 || padding == 1, op, ": unknown padding mode ", padding);
}

inline Shape shape_of(const Tensor& image, int64_t kernel, int64_t padding) {
  return {image.size(0), image.size(1), image.size(2), image.size(3), kernel, static_cast<Padding>(padding)};
}

inline Shape check_filters(const char* op, const Tensor& image, const Tensor& filters, int64_t kernel,
                           int64_t padding) {
  check_operands(op, image, filters, kernel, padding);
  const Shape s = shape_of(image, kernel, padding);
  STD_TORCH_CHECK(filters.size(0) == s.batch && filters.size(1) == s.channels * kernel * kernel &&
                      filters.size(2) == s.height && filters.size(3) == s.width,
                  op, ": filters must have shape (N, C * kernel_size^2, H, W)");
  return s;
}

inline Shape check_images(const char* op, const Tensor& input, const Tensor& grad, int64_t kernel, int64_t padding) {
  check_operands(op, input, grad, kernel, padding);
  for (int64_t axis = 0; axis < 4; ++axis)
    STD_TORCH_CHECK(input.size(axis) == grad.size(axis), op, ": input and grad must have one shape");
  return shape_of(input, kernel, padding);
}

// run(T{}) for the element type T of a tensor.
template <typename Run>
void switch_dtype(const char* op, const Tensor& tensor, Run run) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return run(float{});
    case ScalarType::Double: return run(double{});
    default: STD_TORCH_CHECK(false, op, ": dtype must be float32 or float64");
  }
}

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace fac
