// csrc/fac_cuda.cu on the CPU, for ctypes.
#include "../../csrc/fac_cuda.cu"

namespace {
fac::Shape shape(const int64_t* s) { return {s[0], s[1], s[2], s[3], s[4], static_cast<fac::Padding>(s[5])}; }
}  // namespace

extern "C" {
const char* forward(const int64_t* s, const double* a, const double* b, double* out) {
  return fac::forward_cuda(shape(s), a, b, out, nullptr);
}
const char* grad_input(const int64_t* s, const double* a, const double* b, double* out) {
  return fac::grad_input_cuda(shape(s), a, b, out, nullptr);
}
const char* grad_filters(const int64_t* s, const double* a, const double* b, double* out) {
  return fac::grad_filters_cuda(shape(s), a, b, out, nullptr);
}
}
