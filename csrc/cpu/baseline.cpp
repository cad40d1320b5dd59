// The CPU kernels for any processor that the compiler's flags allow.
#include "common.h"
#include "simd.h"

#define FAC_VERSION baseline
#include "kernels.h"
