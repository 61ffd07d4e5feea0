#pragma once
// Launch shapes and error checks for kernels; only cuda.cuh's translation unit sees this file.
#include <moraine/core/error.hpp>
#include <moraine/core/shape.hpp>

#include <cuda_runtime.h>

#include <string>

namespace moraine::cuda {
namespace {

inline void check(cudaError_t e, const char* what) {
  if (e != cudaSuccess)
    fail(ErrorKind::device, std::string("cuda: ") + what + " failed; " + cudaGetErrorString(e));
}

// One thread per element, in steps of the whole grid.
__device__ inline Index first() { return Index{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ inline Index step() { return Index{gridDim.x} * blockDim.x; }
template <class K>
void elementwise(Index n, void (*kernel)(K), const K& k) {
  if (n == 0) return;
  const Index blocks = (n + 255) / 256;
  kernel<<<static_cast<unsigned>(blocks < 4096 ? blocks : 4096), 256>>>(k);
  check(cudaGetLastError(), K::name);
}

// One warp (threadIdx.x) per row, eight rows per block (threadIdx.y).
__device__ inline Index first_row() { return Index{blockIdx.x} * blockDim.y + threadIdx.y; }
__device__ inline Index row_step() { return Index{gridDim.x} * blockDim.y; }
template <class K>
void per_row(Index rows, void (*kernel)(K), const K& k) {
  if (rows == 0) return;
  const Index blocks = (rows + 7) / 8;
  kernel<<<static_cast<unsigned>(blocks < 65535 ? blocks : 65535), dim3(32, 8)>>>(k);
  check(cudaGetLastError(), K::name);
}

}  // namespace
}  // namespace moraine::cuda
