#pragma once
// What an optimizer does to its parameters, as kernels: one step of AdamW (Loshchilov and Hutter,
// 2019, in the order of PyTorch) and the sum of squares that clipping needs. Not recorded.
//
//   p -= lr decay p;   m = b1 m + (1-b1) g;   v = b2 v + (1-b2) g^2
//   p -= lr m / (1-b1^step) / (sqrt(v / (1-b2^step)) + eps)
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/cpu/rows.hpp>
#include <moraine/ops/reduce.hpp>
#endif

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
template <class T>
struct AdamWStep {
  static constexpr const char* name = "adamw";
  double lr, beta1, beta2, eps, decay;
  Index step;  // counts from 1
  Index n;
  T* p;
  const T* g;
  T *m, *v;
  double grad_scale = 1;  // g is multiplied by it first
  static void cpu(const AdamWStep& k);
};
template <class T>
struct SumOfSquares {
  static constexpr const char* name = "sum_of_squares";
  Index n;
  const T* x;
  double* y;  // on the host
  static void cpu(const SumOfSquares& k);
};
#ifdef MORAINE_HOST  // ---- CPU
template <class T>
void AdamWStep<T>::cpu(const AdamWStep& k) {
  cpu::adamw({.lr = k.lr,
              .beta1 = k.beta1,
              .beta2 = k.beta2,
              .eps = k.eps,
              .decay = k.decay,
              .step = k.step,
              .grad_scale = k.grad_scale},
             k.n, k.p, k.g, k.m, k.v);
}
template <class T>
void SumOfSquares<T>::cpu(const SumOfSquares& k) {
  *k.y = cpu::sum_of_squares(k.x, k.n);
}
MORAINE_INSTANTIATE(AdamWStep)
MORAINE_INSTANTIATE(SumOfSquares)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
