#pragma once
// Reductions over the 32 lanes of a warp, in a fixed order.

namespace moraine::cuda {
namespace {

template <class T>
__device__ T warp_sum(T x) {
  for (int step = 16; step; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
template <class T>
__device__ T warp_max(T x) {
  for (int step = 16; step; step /= 2) {
    const T other = __shfl_xor_sync(0xffffffffu, x, step);
    x = other > x ? other : x;
  }
  return x;
}

}  // namespace
}  // namespace moraine::cuda
