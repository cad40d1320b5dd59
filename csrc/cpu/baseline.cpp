// The CPU kernels for any processor that the compiler's flags allow.
#include "common.h"
#include "simd.h"

#define FAC_VERSION baseline
#define FAC_VECTOR_BYTES 16
#include "kernels.h"
