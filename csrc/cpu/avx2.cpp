// The CPU kernels for processors with AVX2, FMA and F16C (x86-64-v3).
#include "common.h"
#include "simd.h"

#if defined(FAC_HAS_VERSIONS)
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define FAC_VERSION avx2
#define FAC_VECTOR_BYTES 32
#include "kernels.h"
#pragma GCC pop_options
#endif
