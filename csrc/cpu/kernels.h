// All CPU kernels, in the namespace FAC_VERSION and for the instruction set that is set where this is included. What
// they share with other sources is included before, in common.h and simd.h, and stays for any processor.
#pragma once
#include "channels_last.h"
#include "row_major.h"

namespace fac::FAC_VERSION {

template <typename T>
Kernels<T> kernels(bool channels_last) {
  if (channels_last) return {forward_channels_last<T>, grad_input_channels_last<T>, grad_filters_channels_last<T>};
  return {forward_row_major<T>, grad_input_row_major<T>, grad_filters_row_major<T>};
}
template Kernels<float> kernels(bool);
template Kernels<double> kernels(bool);
template Kernels<Half> kernels(bool);
template Kernels<BFloat16> kernels(bool);

}  // namespace fac::FAC_VERSION
