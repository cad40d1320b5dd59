// Tries the barriers of the stand-in for CUDA, for tests/kernels/test_kernels.py: a sum over a block that is right only
// if all threads meet, and barriers that they miss.
#include <string>

#include "cuda_runtime.h"

// Each thread adds what its neighbours wrote, twice.
void meets(int* out) {
  __shared__ int values[2][96];
  const int thread = static_cast<int>(threadIdx.x), next = (thread + 1) % 96;
  values[0][thread] = thread;
  __syncthreads();
  values[1][thread] = values[0][thread] + values[0][next];
  __syncthreads();
  out[blockIdx.x * 96 + thread] = values[1][thread] + values[1][next];
}
void warps_meet(int* out) {
  __shared__ int values[96];
  const int thread = static_cast<int>(threadIdx.x), next = thread / 32 * 32 + (thread + 1) % 32;
  if (thread < 64) {
    values[thread] = thread;
    __syncwarp();
    out[blockIdx.x * 96 + thread] = values[next];
  }
}
void some_leave(int*) {
  if (threadIdx.x != 7) __syncthreads();
}
void part_of_a_warp(int*) {
  if (threadIdx.x % 32 < 8) __syncwarp();
  __syncthreads();
}

int main(int, char** arguments) {
  const std::string which = arguments[1];
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(3);
  config.blockDim = dim3(96);
  int out[3 * 96] = {};
  cudaLaunchKernelEx(&config,
                     which == "meets"        ? meets
                     : which == "warps_meet" ? warps_meet
                     : which == "some_leave" ? some_leave
                                             : part_of_a_warp,
                     out);
  for (const int value : out) std::printf("%d ", value);
}
