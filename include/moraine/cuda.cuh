#pragma once
// The CUDA backend: allocator, copies, and the device sections of every op that has one. Compile
// include/moraine/cuda.cu (one line) into a program to link it.
#if !defined(__CUDACC__)
#error "moraine/cuda.cuh needs a CUDA compiler; a plain C++ file includes moraine/moraine.hpp"
#endif
#define MORAINE_DEVICE 1
#include <moraine/core/device.hpp>
#include <moraine/cuda/launch.cuh>
#include <moraine/ops/matmul.hpp>
#include <moraine/ops/softmax.hpp>
#include <moraine/ops/unary.hpp>

#include <cuda_runtime.h>

extern "C" {
/// Refer to this symbol to keep a shared library that holds only the backend from being dropped by
/// a linker that was told --as-needed.
__attribute__((visibility("default"), used)) int moraine_cuda_backend = 1;
}

namespace moraine::cuda {
namespace {
[[maybe_unused]] const bool bound = [] {
  int count = 0;
  const cudaError_t e = cudaGetDeviceCount(&count);
  if (e != cudaSuccess || count == 0) {
    cuda_device.status = cudaGetErrorString(e == cudaSuccess ? cudaErrorNoDevice : e);
    return false;
  }
  cuda_device = {[](std::size_t bytes) {
                   void* p = nullptr;
                   check(cudaMalloc(&p, bytes ? bytes : 1), "cudaMalloc");
                   return p;
                 },
                 [](void* p) { cudaFree(p); },
                 [](void* to, const void* from, std::size_t bytes) {
                   check(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "cudaMemcpy");
                 },
                 [] { check(cudaDeviceSynchronize(), "cudaDeviceSynchronize"); }, "ok"};
  return true;
}();
}  // namespace
}  // namespace moraine::cuda
