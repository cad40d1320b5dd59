// Runs the kernels alone, for tests/kernels/test_kernels.py: csrc/cuda/fac_cuda.cu on the CPU, thread after thread, and
// the CPU kernels on one thread. Copies operands into arrays of exactly their size, so that a sanitizer sees every
// access beyond an end; with `cuda` = 2 the last of them starts one value after a multiple of 16 bytes. Reads
// numbers from standard input and writes results to standard output:
//   run     {cuda, type, operator, fac::Shape in its order}, two operands    -> {fast, kernel}, the result, for each
//           call, where fast is 0 if a general kernel of fac_cuda.cu ran, 2 if it was one with indices of 64 bits, else
//           1; kernel is the place of that kernel in the program
//   axis    {fac::Axis in its order, padding}                                -> what taps read, and back
//   refused                                                                  -> what each refused launch says, by line
//   widen | narrow   {type, count}, values                                   -> values of the other type
#include <cstdio>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "../../csrc/cpu/simd.h"
#include "../../csrc/cuda/fac_cuda.cu"

namespace {

using fac::Axis;
using fac::Shape;

template <typename T>
bool read(T* values, size_t count) {
  return std::fread(values, sizeof(T), count, stdin) == count;
}
template <typename T>
std::vector<T> read_array(size_t count) {
  std::vector<T> values(count);
  if (!read(values.data(), count)) std::exit(2);
  return values;
}
template <typename T>
void write(const std::vector<T>& values) {
  std::fwrite(values.data(), sizeof(T), values.size(), stdout);
}

Axis axis_of(const int64_t* a) { return {a[0], a[1], a[2], a[3], a[4], a[5], a[6]}; }

void on_this_thread(int64_t items, int64_t, const fac::Run& run) {
  for (int64_t item = 0; item < items; ++item) run(item, item + 1);
}

template <typename T, typename Int, int... kWidths>
bool is_general(const void* kernel) {
  return (... || (kernel == reinterpret_cast<const void*>(&fac::forward_kernel<kWidths, T, Int>) ||
                  kernel == reinterpret_cast<const void*>(&fac::grad_input_kernel<kWidths, T, Int>) ||
                  kernel == reinterpret_cast<const void*>(&fac::grad_filters_kernel<kWidths, T, Int>)));
}

template <typename T>
void run(int64_t cuda, int64_t which, const Shape& s) {
  const int64_t input = s.batch * s.channels * s.inputs(), output = s.batch * s.channels * s.outputs();
  const int64_t filters = s.batch * s.groups * s.taps() * s.outputs();
  const std::vector<T> a = read_array<T>(which == 1 ? filters : input),
                       b = read_array<T>(which == 0 ? filters : output);
  const int64_t offset = cuda == 2, size = which == 0 ? output : which == 1 ? input : filters;
  std::vector<T> out(offset + size);
  T* const result = out.data() + offset;
  const char* error = nullptr;
  int64_t fast = 0;
  if (cuda) {
    standin::launched = nullptr;
    error = which == 0   ? fac::forward_cuda(s, a.data(), b.data(), result, nullptr)
            : which == 1 ? fac::grad_input_cuda(s, a.data(), b.data(), result, nullptr)
                         : fac::grad_filters_cuda(s, a.data(), b.data(), result, nullptr);
    fast = standin::launched && !is_general<T, int, 0, 3, 5, 7>(standin::launched);
    if (standin::launched && is_general<T, int64_t, 0>(standin::launched)) fast = 2;
  } else {
    if (which == 0) fac::forward_cpu(s, a.data(), b.data(), out.data(), on_this_thread);
    if (which == 1) fac::grad_input_cpu(s, a.data(), b.data(), out.data(), on_this_thread);
    if (which == 2) fac::grad_filters_cpu(s, a.data(), b.data(), out.data(), on_this_thread);
  }
  if (error) {
    std::fprintf(stderr, "%s\n", error);
    std::exit(3);
  }
  const auto kernel = cuda ? static_cast<int64_t>(reinterpret_cast<uintptr_t>(standin::launched)) : 0;
  std::fwrite(&fast, sizeof(fast), 1, stdout);
  std::fwrite(&kernel, sizeof(kernel), 1, stdout);
  if (size) std::fwrite(result, sizeof(T), size, stdout);
}

void run_calls() {
  for (int64_t n[22]; read(n, 22);) {
    const Shape s = {n[3], n[4], n[5], axis_of(n + 6), axis_of(n + 13), static_cast<fac::Padding>(n[20]), n[21] != 0};
    if (n[1] == 0) run<double>(n[0], n[2], s);
    if (n[1] == 1) run<float>(n[0], n[2], s);
    if (n[1] == 2) run<fac::Half>(n[0], n[2], s);
    if (n[1] == 3) run<fac::BFloat16>(n[0], n[2], s);
  }
}

// Writes, for each axis, the source of tap t of output pixel o; then how often outputs_reading finds (o, t) for it.
void map_axes() {
  for (int64_t n[8]; read(n, 8);) {
    const Axis a = axis_of(n);
    const auto padding = static_cast<fac::Padding>(n[7]);
    std::vector<int64_t> sources(a.output * a.kernel), found(a.output * a.kernel);
    for (int64_t o = 0; o < a.output; ++o)
      for (int64_t t = 0; t < a.kernel; ++t)
        sources[o * a.kernel + t] = fac::source(fac::position(a, o, t, padding), a.input, padding);
    for (int64_t i = 0; i < a.input; ++i)
      for (int64_t m = 0; m < fac::preimage_count(a, i, padding); ++m)
        for (int64_t t = 0; t < a.kernel; ++t) {
          const fac::Progression outputs = fac::outputs_reading(a, fac::preimage_at(a, i, m, padding), t, padding);
          for (int64_t o = outputs.first; o < outputs.last; o += outputs.step)
            found.at(o * a.kernel + t) += sources[o * a.kernel + t] == i ? 1 : 1000;
        }
    write(sources);
    write(found);
  }
}

// Converts one by one, and eight at a time, which must give the same; count is a multiple of eight.
template <typename From, typename To, typename One, typename Eight>
void convert_all(size_t count, One one, Eight eight) {
  const std::vector<From> values = read_array<From>(count);
  std::vector<To> converted, again(count);
  for (const From value : values) converted.push_back(one(value));
  for (size_t i = 0; i < count; i += 8) eight(&values[i], &again[i]);
  if (std::memcmp(converted.data(), again.data(), count * sizeof(To))) std::exit(4);
  write(converted);
}
template <typename T>
void widen_all(size_t count) {
  convert_all<T, float>(
      count, [](T value) { return fac::widen(value); },
      [](const T* from, float* to) {
        fac::Vec8<float> lanes;
        fac::load(from, lanes);
        fac::store(lanes, to);
      });
}
template <typename T>
void narrow_all(size_t count) {
  convert_all<float, T>(
      count, [](float value) { return fac::narrow<T>(value); },
      [](const float* from, T* to) {
        fac::Vec8<float> lanes;
        fac::load(from, lanes);
        fac::store(lanes, to);
      });
}

}  // namespace

// Takes a seed for the orders of threads, and where kernels and their shared arrays are: "seed kernel at size ...".
void set_up(const char* text) {
  std::istringstream numbers(text);
  uint64_t seed = 0, kernel = 0, at = 0, size = 0;
  numbers >> seed;
  standin::random.seed(static_cast<unsigned>(seed));
  while (numbers >> kernel >> at >> size)
    standin::shared_memory[reinterpret_cast<const void*>(kernel)].push_back({reinterpret_cast<char*>(at), size});
}

int main(int, char** arguments) {
  const std::string command = arguments[1];
  set_up(arguments[2]);
  if (command == "run") run_calls();
  if (command == "axis") map_axes();
  if (command == "refused")
    for (int error = cudaErrorInvalidConfiguration; error <= cudaErrorNoKernelImageForDevice; ++error)
      std::printf("%s\n", fac::explain(static_cast<cudaError_t>(error)));
  int64_t n[2];
  if ((command == "widen" || command == "narrow") && read(n, 2)) {
    const bool half = n[0] == 2;
    if (command == "widen") half ? widen_all<fac::Half>(n[1]) : widen_all<fac::BFloat16>(n[1]);
    if (command == "narrow") half ? narrow_all<fac::Half>(n[1]) : narrow_all<fac::BFloat16>(n[1]);
  }
}
