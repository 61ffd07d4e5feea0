#pragma once
// y_i = exp(x_i - max x) / sum_j exp(x_j - max x), over the last axis.
//   dx_i = y_i (dy_i - sum_j y_j dy_j)
// log_softmax: y_i = x_i - max x - log sum_j exp(x_j - max x);  dx_i = dy_i - exp(y_i) sum_j dy_j
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/cpu/rows.hpp>
#include <moraine/ops/shape.hpp>
#endif
#ifdef MORAINE_DEVICE
#include <moraine/cuda/launch.cuh>
#include <moraine/cuda/reduce.cuh>
#endif

#include <cmath>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
template <class T>
struct Softmax {
  static constexpr const char* name = "softmax";
  Index rows, cols;
  bool log;
  const T* x;
  T* y;
  static void cpu(const Softmax& k);
};
template <class T>
struct SoftmaxGrad {
  static constexpr const char* name = "softmax";
  Index rows, cols;
  bool log;
  const T *y, *dy;
  T* dx;
  static void cpu(const SoftmaxGrad& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient
template <class T>
Tensor<T> softmax_rows(const Tensor<T>& x, bool log) {
  const char* op = log ? "log_softmax" : "softmax";
  if (x.rank() < 1)
    fail(ErrorKind::shape, std::string(op) + ": needs at least one axis; x " + str(x.shape()));
  const Index cols = x.size(-1), rows = cols ? x.numel() / cols : 0;
  const Tensor<T> c = x.contiguous().detach();
  Tensor<T> y = empty_like(c);
  launch(x.device(), Softmax<T>{rows, cols, log, c.data(), y.data()});
  return record(op, y, {&x}, [y = y.detach(), rows, cols, log](const Tensor<T>& dy) {
    const Tensor<T> g = dy.contiguous();
    Tensor<T> dx = empty_like(y);
    launch(y.device(), SoftmaxGrad<T>{rows, cols, log, y.data(), g.data(), dx.data()});
    return Grads<T>{dx};
  });
}
/// Softmax over one axis.
template <class T>
Tensor<T> softmax(const Tensor<T>& x, int axis = -1) {
  if (x.rank() < 2 || x.shape().axis(axis) == x.rank() - 1) return softmax_rows(x, false);
  return transpose(softmax_rows(transpose(x, axis, -1), false), axis, -1);
}
/// log(softmax(x)) without its loss of precision.
template <class T>
Tensor<T> log_softmax(const Tensor<T>& x, int axis = -1) {
  if (x.rank() < 2 || x.shape().axis(axis) == x.rank() - 1) return softmax_rows(x, true);
  return transpose(softmax_rows(transpose(x, axis, -1), true), axis, -1);
}

// ---- CPU
template <class T>
void Softmax<T>::cpu(const Softmax& k) {
  k.log ? cpu::log_softmax(k.x, k.rows, k.cols, k.y) : cpu::softmax(k.x, k.rows, k.cols, k.y);
}
template <class T>
void SoftmaxGrad<T>::cpu(const SoftmaxGrad& k) {
  k.log ? cpu::log_softmax_backward(k.y, k.dy, k.rows, k.cols, k.dx)
        : cpu::softmax_backward(k.y, k.dy, k.rows, k.cols, k.dx);
}
MORAINE_INSTANTIATE(Softmax)
MORAINE_INSTANTIATE(SoftmaxGrad)
#endif

#ifdef MORAINE_DEVICE  // ---- CUDA: one warp per row; everything here has internal linkage
namespace {
template <class T>
__global__ void softmax_kernel(Softmax<T> k) {
  for (Index r = cuda::first_row(); r < k.rows; r += cuda::row_step()) {
    const T* x = k.x + r * k.cols;
    T* y = k.y + r * k.cols;
    T m = -INFINITY;
    for (Index i = threadIdx.x; i < k.cols; i += 32) m = x[i] > m ? x[i] : m;
    m = cuda::warp_max(m);
    T s = 0;
    for (Index i = threadIdx.x; i < k.cols; i += 32) s += exp(x[i] - m);
    s = cuda::warp_sum(s);
    const T l = k.log ? log(s) : T(0);
    for (Index i = threadIdx.x; i < k.cols; i += 32)
      y[i] = k.log ? x[i] - m - l : exp(x[i] - m) / s;
  }
}
template <class T>
__global__ void softmax_grad_kernel(SoftmaxGrad<T> k) {
  for (Index r = cuda::first_row(); r < k.rows; r += cuda::row_step()) {
    const T *y = k.y + r * k.cols, *dy = k.dy + r * k.cols;
    T* dx = k.dx + r * k.cols;
    T s = 0;
    for (Index i = threadIdx.x; i < k.cols; i += 32) s += k.log ? dy[i] : y[i] * dy[i];
    s = cuda::warp_sum(s);
    for (Index i = threadIdx.x; i < k.cols; i += 32)
      dx[i] = k.log ? dy[i] - exp(y[i]) * s : y[i] * (dy[i] - s);
  }
}
template <class T>
void softmax_cuda(const Softmax<T>& k) {
  cuda::per_row(k.rows, softmax_kernel<T>, k);
}
template <class T>
void softmax_grad_cuda(const SoftmaxGrad<T>& k) {
  cuda::per_row(k.rows, softmax_grad_kernel<T>, k);
}
}  // namespace
MORAINE_CUDA_KERNEL(Softmax, float, softmax_cuda)
MORAINE_CUDA_KERNEL(Softmax, double, softmax_cuda)
MORAINE_CUDA_KERNEL(SoftmaxGrad, float, softmax_grad_cuda)
MORAINE_CUDA_KERNEL(SoftmaxGrad, double, softmax_grad_cuda)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
