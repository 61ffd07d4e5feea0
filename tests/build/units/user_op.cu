// The device section of the user's kernel, in a file of its own.
#define MORAINE_DEVICE 1
#include <moraine/cuda/launch.cuh>

#include "user_op.hpp"

namespace {
template <class T>
__global__ void square_plus_one_kernel(SquarePlusOne<T> k) {
  for (moraine::Index i = moraine::cuda::first(); i < k.n; i += moraine::cuda::step())
    k.y[i] = k.x[i] * k.x[i] + T(1);
}
template <class T>
void square_plus_one_cuda(const SquarePlusOne<T>& k) {
  moraine::cuda::elementwise(k.n, square_plus_one_kernel<T>, k);
}
}  // namespace
MORAINE_CUDA_KERNEL(SquarePlusOne, float, square_plus_one_cuda)
