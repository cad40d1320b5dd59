// The host code of the three operators, once for all devices: check, choose the layout, call Device::allocate, switch
// over the element type, and call Device::forward, ::grad_input or ::grad_filters. The checks here guard memory; the
// ones for users are in fac_ext/arguments.py.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "../fac.h"

// Weak: torch has told why a call failed since 2.13.
extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();

namespace fac {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Ints = std::vector<int64_t>;
constexpr int64_t kMaxGeometry = int64_t{1} << 31;  // kernel_size, stride, dilation and padding are below it

inline bool strides_follow(const Tensor& t, std::initializer_list<int64_t> inner_to_outer) {
  int64_t expected = 1;
  for (const int64_t axis : inner_to_outer) {
    if (t.size(axis) != 1 && t.stride(axis) != expected) return false;
    expected *= t.size(axis);
  }
  return true;
}
inline bool has_layout(const Tensor& t, MemoryFormat layout) {
  return t.numel() == 0 ||
         (layout == MemoryFormat::ChannelsLast ? strides_follow(t, {1, 3, 2, 0}) : strides_follow(t, {3, 2, 1, 0}));
}
inline bool is_row_major(const Tensor& t) { return has_layout(t, MemoryFormat::Contiguous); }
inline bool is_channels_last(const Tensor& t) { return !is_row_major(t) && has_layout(t, MemoryFormat::ChannelsLast); }

using int128 = __int128;
constexpr int128 kMaxBytes = int128(1) << 62;

// Returns the bytes of a tensor of these sizes, kMaxBytes for any more.
inline int128 bytes_of(const Ints& sizes, int64_t element) {
  int128 bytes = element;
  for (const int64_t size : sizes) bytes = std::min(bytes * size, kMaxBytes);
  return bytes;
}

// Calls make(), which needs so many bytes of torch. The stable ABI has one error for all that fails, so this makes one
// that names memory, in words that fac_ext/derivatives.py and stfan know. Only an older error of a GPU shows here too.
template <typename Make>
Tensor with_memory(int128 bytes, Make make) {
  try {
    return make();
  } catch (const std::exception&) {
    const std::string why =
        torch_exception_get_what_without_backtrace ? torch_exception_get_what_without_backtrace() : "";
    if (why.find("CUDA error") != why.npos && why.find("out of memory") == why.npos)
      throw std::runtime_error("fac: " + why);
    throw std::runtime_error("fac: out of memory: " + std::to_string(static_cast<int64_t>(bytes)) + " bytes" +
                             (bytes == kMaxBytes ? " or more" : ""));
  }
}

inline Tensor make_empty(const Tensor& like, const Ints& sizes, MemoryFormat layout) {
  return with_memory(bytes_of(sizes, like.element_size()), [&] {
    return torch::stable::empty(sizes, like.scalar_type(), std::nullopt, like.device(), std::nullopt, layout);
  });
}

// Returns the tensor in a layout: itself, without a call of torch, where it has that.
inline Tensor make_contiguous(const Tensor& tensor, MemoryFormat layout) {
  if (has_layout(tensor, layout)) return tensor;
  return with_memory(bytes_of({tensor.numel()}, tensor.element_size()),
                     [&] { return torch::stable::contiguous(tensor, layout); });
}

// Solves Axis's equation for the input, in numbers that do not overflow.
inline int128 input_size(int64_t output, int64_t kernel, int64_t stride, int64_t dilation, int64_t before,
                         int64_t after) {
  return (int128(output) - 1) * stride + (int128(kernel) - 1) * dilation + 1 - before - after;
}

inline Axis make_axis(const char* op, int64_t input, int64_t output, size_t index, const Ints& kernel_size,
                      const Ints& stride, const Ints& dilation, const Ints& padding, Padding mode) {
  const Axis a = {
      input, output, kernel_size[index], stride[index], dilation[index], padding[2 * index], padding[2 * index + 1]};
  STD_TORCH_CHECK(a.kernel > 0 && a.stride > 0 && a.dilation > 0, op,
                  ": kernel_size, stride and dilation must be positive");
  STD_TORCH_CHECK(a.before >= 0 && a.after > -a.stride, op, ": padding must not be negative");
  STD_TORCH_CHECK(int128(input) == input_size(output, a.kernel, a.stride, a.dilation, a.before, a.after), op,
                  ": the sizes do not fit kernel_size, stride, dilation and padding");
  if (output == 0) return a;
  const int64_t beyond = std::max(a.before, a.after);
  const bool fits = mode == Padding::kInside
                        ? a.stride == 1 && input == output && a.before == a.kernel / 2 * a.dilation &&
                              int128(a.kernel) * a.dilation <= input
                        : beyond <= 0 || mode == Padding::kZeros || (mode == Padding::kReplicate && input > 0) ||
                              (mode == Padding::kReflect && beyond < input) ||
                              (mode == Padding::kCircular && beyond <= input);
  STD_TORCH_CHECK(fits, op, ": the padding is larger than the input allows");
  return a;
}

// `image` has the channels (it is the input, or the output's gradient); `other` is the call's other operand.
inline Shape make_shape(const char* op, const Tensor& image, const Tensor& other, int64_t input_height,
                        int64_t input_width, int64_t output_height, int64_t output_width, bool channels_last,
                        const Ints& kernel_size, const Ints& stride, const Ints& dilation, const Ints& padding,
                        int64_t padding_mode, int64_t channels_per_filter) {
  STD_TORCH_CHECK(image.scalar_type() == other.scalar_type(), op, ": both tensors must have one dtype");
  STD_TORCH_CHECK(image.get_device_index() == other.get_device_index() && image.is_cpu() == other.is_cpu(), op,
                  ": both tensors must be on one device");
  STD_TORCH_CHECK(image.size(0) == other.size(0), op, ": both tensors must have one batch size");
  STD_TORCH_CHECK(padding_mode >= 0 && padding_mode <= 4, op, ": unknown padding mode ", padding_mode);
  const int64_t channels = image.size(1);
  STD_TORCH_CHECK(channels_per_filter > 0 && channels % channels_per_filter == 0, op,
                  ": channels_per_filter must divide the channels");
  const Padding mode = static_cast<Padding>(padding_mode);
  return {image.size(0),
          channels,
          channels / channels_per_filter,
          make_axis(op, input_height, output_height, 0, kernel_size, stride, dilation, padding, mode),
          make_axis(op, input_width, output_width, 1, kernel_size, stride, dilation, padding, mode),
          mode,
          channels_last};
}

inline void check_ranks(const char* op, const Tensor& a, const Tensor& b, const Ints& kernel_size, const Ints& stride,
                        const Ints& dilation, const Ints& padding) {
  STD_TORCH_CHECK(a.dim() == 4 && b.dim() == 4, op, ": both tensors must have 4 dimensions");
  STD_TORCH_CHECK(kernel_size.size() == 2 && stride.size() == 2 && dilation.size() == 2 && padding.size() == 4, op,
                  ": kernel_size, stride and dilation have 2 numbers, padding has 4");
  for (const Ints* numbers : {&kernel_size, &stride, &dilation, &padding})
    for (const int64_t number : *numbers)
      STD_TORCH_CHECK(number > -kMaxGeometry && number < kMaxGeometry, op, ": ", number, " is out of range");
}

inline void check_filters(const char* op, const Shape& s, const Tensor& filters) {
  STD_TORCH_CHECK(filters.size(1) == int128(s.groups) * s.taps() && filters.size(2) == s.rows.output &&
                      filters.size(3) == s.columns.output,
                  op, ": filters must have shape (N, groups * taps, height, width) of the output");
}

// Calls run(T{}), a kernel, for the element type T of a tensor.
template <typename Run>
void switch_dtype(const char* op, const Tensor& tensor, Run run) try {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return run(float{});
    case ScalarType::Double: return run(double{});
    case ScalarType::Half: return run(Half{});
    case ScalarType::BFloat16: return run(BFloat16{});
    default: STD_TORCH_CHECK(false, op, ": dtype must be float64, float32, float16 or bfloat16");
  }
} catch (const std::bad_alloc&) {
  throw std::runtime_error("fac: out of memory: the tables and sums of a kernel");
}

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// The filters, being large, decide the layout.
template <typename Device>
Tensor fac(const Tensor& input, const Tensor& filters, Ints kernel_size, Ints stride, Ints dilation, Ints padding,
           int64_t padding_mode, int64_t channels_per_filter) {
  check_ranks("fac", input, filters, kernel_size, stride, dilation, padding);
  const MemoryFormat layout = is_channels_last(filters) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  const Shape s = make_shape("fac", input, filters, input.size(2), input.size(3), filters.size(2), filters.size(3),
                             layout == MemoryFormat::ChannelsLast, kernel_size, stride, dilation, padding, padding_mode,
                             channels_per_filter);
  check_filters("fac", s, filters);
  const Tensor x = make_contiguous(input, layout), f = make_contiguous(filters, layout);
  Tensor output = Device::allocate(x, {s.batch, s.channels, s.rows.output, s.columns.output}, layout);
  switch_dtype("fac", x, [&](auto zero) {
    using T = decltype(zero);
    Device::forward(s, x, data<T>(x), data<T>(f), mutable_data<T>(output));
  });
  return output;
}

template <typename Device>
Tensor fac_grad_input(const Tensor& filters, const Tensor& grad, Ints kernel_size, Ints stride, Ints dilation,
                      Ints padding, int64_t padding_mode, int64_t channels_per_filter) {
  check_ranks("fac_grad_input", filters, grad, kernel_size, stride, dilation, padding);
  const MemoryFormat layout = is_channels_last(filters) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  const auto size = [&](size_t i) {
    return input_size(grad.size(2 + i), kernel_size[i], stride[i], dilation[i], padding[2 * i], padding[2 * i + 1]);
  };
  for (const int128 wide : {size(0), size(1)})
    STD_TORCH_CHECK(wide >= 0 && wide < int128(1) << 62, "fac_grad_input: the padding leaves no input");
  const int64_t height = static_cast<int64_t>(size(0)), width = static_cast<int64_t>(size(1));
  const Shape s = make_shape("fac_grad_input", grad, filters, height, width, grad.size(2), grad.size(3),
                             layout == MemoryFormat::ChannelsLast, kernel_size, stride, dilation, padding, padding_mode,
                             channels_per_filter);
  check_filters("fac_grad_input", s, filters);
  const Tensor f = make_contiguous(filters, layout), g = make_contiguous(grad, layout);
  Tensor grad_input = Device::allocate(g, {s.batch, s.channels, height, width}, layout);
  switch_dtype("fac_grad_input", g, [&](auto zero) {
    using T = decltype(zero);
    Device::grad_input(s, g, data<T>(f), data<T>(g), mutable_data<T>(grad_input));
  });
  return grad_input;
}

// There are no filters to decide the layout: the output's gradient has theirs, where it is dense.
template <typename Device>
Tensor fac_grad_filters(const Tensor& input, const Tensor& grad, Ints kernel_size, Ints stride, Ints dilation,
                        Ints padding, int64_t padding_mode, int64_t channels_per_filter) {
  check_ranks("fac_grad_filters", input, grad, kernel_size, stride, dilation, padding);
  const bool channels_last = is_channels_last(grad) || (!is_row_major(grad) && is_channels_last(input));
  const MemoryFormat layout = channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  STD_TORCH_CHECK(input.size(1) == grad.size(1), "fac_grad_filters: input and grad must have the same channels");
  const Shape s = make_shape("fac_grad_filters", input, grad, input.size(2), input.size(3), grad.size(2), grad.size(3),
                             channels_last, kernel_size, stride, dilation, padding, padding_mode, channels_per_filter);
  const Tensor x = make_contiguous(input, layout), g = make_contiguous(grad, layout);
  STD_TORCH_CHECK(int128(s.groups) * s.taps() < int128(1) << 62, "fac_grad_filters: too many taps");
  Tensor grad_filters = Device::allocate(x, {s.batch, s.groups * s.taps(), s.rows.output, s.columns.output}, layout);
  switch_dtype("fac_grad_filters", x, [&](auto zero) {
    using T = decltype(zero);
    Device::grad_filters(s, x, data<T>(x), data<T>(g), mutable_data<T>(grad_filters));
  });
  return grad_filters;
}

template <typename Device, typename Library>
void implement(Library& library) {
  library.impl("fac", TORCH_BOX(&fac<Device>));
  library.impl("fac_grad_input", TORCH_BOX(&fac_grad_input<Device>));
  library.impl("fac_grad_filters", TORCH_BOX(&fac_grad_filters<Device>));
}

}  // namespace fac
