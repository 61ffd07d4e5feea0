#pragma once
// The gate of a SwiGLU network (Shazeer, 2020), its two halves side by side in one projection:
//
//   y = act(a) * b  with (a, b) = ab          da = dy b act'(a),  db = dy act(a)
//
// One pass over ab instead of two copies, an activation and a product.
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/autograd/record.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/ops/binary.hpp>
#include <moraine/ops/shape.hpp>
#include <moraine/ops/unary.hpp>
#endif

#include <string>
#include <type_traits>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
template <class T>
struct Gated_ {
  static constexpr const char* name = "gated";
  Index rows, f;
  Activation act;
  const T* ab;  // (rows,2f)
  const T* dy;  // (rows,f), or null: the value is wanted
  T* out;       // the value (rows,f), or the gradient of ab
  static void cpu(const Gated_& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

/// The definition, op by op.
template <class T>
Tensor<T> gated_composed(const Tensor<T>& ab, Activation act) {
  const Index f = ab.size(-1) / 2;
  return mul(activate(act, slice(ab, -1, 0, f)), slice(ab, -1, f, 2 * f));
}

/// ab (...,2F) -> (...,F): the activation of the first half times the second.
template <class T>
Tensor<T> gated(const Tensor<T>& ab, Activation act) {
  if (ab.rank() < 1 || ab.size(-1) % 2)
    fail(ErrorKind::shape, "gated: needs (...,2F); ab " + str(ab.shape()));
  if (ab.device() != Device::cpu)
    fail(ErrorKind::device, "gated: has no CUDA kernel yet -> gated_composed, or .to(Device::cpu)");
  const Tensor<T> x = ab.contiguous().detach();
  Shape out = ab.shape();
  out[-1] /= 2;
  const Index f = out[-1], rows = f ? x.numel() / (2 * f) : 0;
  const Tensor<T> y = Tensor<T>::empty(out);
  launch(Device::cpu, Gated_<T>{rows, f, act, x.data(), nullptr, y.data()});
  return record("gated", y, {&ab},
                [rows, f, act, kept = wants(ab) ? x : Tensor<T>()](const Tensor<T>& dy) {
                  const Tensor<T> g = dy.contiguous(), dx = empty_like(kept);
                  launch(Device::cpu, Gated_<T>{rows, f, act, kept.data(), g.data(), dx.data()});
                  return Grads<T>{dx};
                });
}

// ---- CPU
namespace cpu {
/// y *= x, in blocks of eight (see cpu/axpy.hpp).
template <class T>
void scale_row(Index n, const T* __restrict x, T* __restrict y) {
  Index i = 0;
  for (; i + 8 <= n; i += 8)
    for (Index j = 0; j < 8; ++j) y[i + j] *= x[i + j];
  for (; i < n; ++i) y[i] *= x[i];
}
template <class T>
void activate_row(Activation act, const T* x, Index n, T* y) {
  if constexpr (std::is_same_v<T, float>)
    row_kernels().activation(act, x, n, y);
  else
    for (Index i = 0; i < n; ++i) y[i] = activate(act, x[i]);
}
template <class T>
void activate_row_dx(Activation act, const T* x, const T* dy, Index n, T* dx) {
  if constexpr (std::is_same_v<T, float>)
    row_kernels().activation_dx(act, x, dy, n, dx);
  else
    for (Index i = 0; i < n; ++i) dx[i] = dy[i] * activate_grad(act, x[i]);
}
}  // namespace cpu

template <class T>
void Gated_<T>::cpu(const Gated_& k) {
  const Index f = k.f;
  parallel_for(k.rows, 1 + 16384 / (2 * f + 1), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      const T *a = k.ab + r * 2 * f, *b = a + f;
      if (!k.dy) {
        T* y = k.out + r * f;
        moraine::cpu::activate_row(k.act, a, f, y);
        moraine::cpu::scale_row(f, b, y);
        continue;
      }
      T *da = k.out + r * 2 * f, *db = da + f;
      moraine::cpu::activate_row(k.act, a, f, db);
      moraine::cpu::scale_row(f, k.dy + r * f, db);
      moraine::cpu::activate_row_dx(k.act, a, k.dy + r * f, f, da);
      moraine::cpu::scale_row(f, b, da);
    }
  });
}
MORAINE_INSTANTIATE(Gated_)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
