// The CPU kernels for processors with AVX-512 (x86-64-v4).
#include "common.h"
#include "simd.h"

#if defined(FAC_HAS_VERSIONS)
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
#define FAC_VERSION avx512
#define FAC_VECTOR_BYTES 64
#include "kernels.h"
#pragma GCC pop_options
#endif
