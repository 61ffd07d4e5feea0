#pragma once
// Layer normalisation over the last axis, with biased variance and eps inside the square root:
//
//   h = (x - mean x) / sqrt(var x + eps),   y = h w + b
//   dh = dy w,   dx = (dh - mean dh - h mean(dh h)) / sqrt(var x + eps)
//   dw = sum dy h,   db = sum dy
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/cpu/rows.hpp>
#include <moraine/ops/binary.hpp>
#include <moraine/ops/reduce.hpp>
#include <moraine/ops/unary.hpp>
#endif

#include <cmath>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
template <class T>
struct LayerNorm_ {
  static constexpr const char* name = "layer_norm";
  Index rows, cols;
  const T *x, *w, *b;  // w and b may be null
  T eps;
  T *y, *mean, *rstd;  // mean and rstd, one per row, may be null
  static void cpu(const LayerNorm_& k);
};
template <class T>
struct LayerNormGrad {
  static constexpr const char* name = "layer_norm";
  Index rows, cols;
  const T *x, *w, *mean, *rstd, *dy;
  T* dx;       // may be null
  T *dw, *db;  // may be null; one row each
  static void cpu(const LayerNormGrad& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

/// The definition of layer_norm, op by op.
template <class T>
Tensor<T> layer_norm_composed(const Tensor<T>& x, const Tensor<T>& w, const Tensor<T>& b,
                              double eps) {
  const Tensor<T> c = sub(x, mean(x, {.axes = {-1}, .keep = true}));
  Tensor<T> y = mul(c, rsqrt(mean(square(c), {.axes = {-1}, .keep = true}) + static_cast<T>(eps)));
  if (w.defined()) y = mul(y, w);
  return b.defined() ? add(y, b) : y;
}

/// x (...,C), w and b (C) or undefined -> (...,C).
template <class T>
Tensor<T> layer_norm(const Tensor<T>& x, const Tensor<T>& w, const Tensor<T>& b, double eps) {
  if (x.rank() < 1)
    fail(ErrorKind::shape, "layer_norm: needs at least one axis; x " + str(x.shape()));
  const Index cols = x.size(-1), rows = cols ? x.numel() / cols : 0;
  for (const Tensor<T>* p : {&w, &b})
    if (p->defined() && p->shape() != Shape{cols})
      fail(ErrorKind::shape,
           "layer_norm: weight or bias " + str(p->shape()) + " for x " + str(x.shape()));
  const Tensor<T> cx = x.contiguous().detach();
  const Tensor<T> cw = w.defined() ? w.contiguous().detach() : w,
                  cb = b.defined() ? b.contiguous().detach() : b;
  const bool dx = wants(x), dw = wants(w), db = wants(b);
  Tensor<T> y = empty_like(cx), mean, rstd;
  if (dx || dw)
    mean = Tensor<T>::empty({rows}, x.device()), rstd = Tensor<T>::empty({rows}, x.device());
  launch(x.device(), LayerNorm_<T>{rows, cols, cx.data(), cw.data(), cb.data(), static_cast<T>(eps),
                                   y.data(), mean.data(), rstd.data()});
  return record("layer_norm", y, {&x, &w, &b},
                [dx, dw, db, rows, cols, mean, rstd, w = cw,
                 x = dx || dw ? cx : Tensor<T>()](const Tensor<T>& dy) {
                  const Tensor<T> g = dy.contiguous();
                  Grads<T> out(3);
                  if (dx) out[0] = empty_like(g);
                  if (dw) out[1] = Tensor<T>::empty({cols}, g.device());
                  if (db) out[2] = Tensor<T>::empty({cols}, g.device());
                  launch(g.device(),
                         LayerNormGrad<T>{rows, cols, x.data(), w.data(), mean.data(), rstd.data(),
                                          g.data(), out[0].data(), out[1].data(), out[2].data()});
                  return out;
                });
}

// ---- CPU
template <class T>
void LayerNorm_<T>::cpu(const LayerNorm_& k) {
  cpu::layer_norm(cpu::LayerNorm<T>{.rows = k.rows,
                                    .cols = k.cols,
                                    .x = k.x,
                                    .w = k.w,
                                    .b = k.b,
                                    .eps = k.eps,
                                    .y = k.y,
                                    .mean = k.mean,
                                    .rstd = k.rstd});
}
template <class T>
void LayerNormGrad<T>::cpu(const LayerNormGrad& k) {
  cpu::layer_norm_backward(cpu::LayerNormBackward<T>{.rows = k.rows,
                                                     .cols = k.cols,
                                                     .x = k.x,
                                                     .w = k.w,
                                                     .mean = k.mean,
                                                     .rstd = k.rstd,
                                                     .dy = k.dy,
                                                     .dx = k.dx,
                                                     .dw = k.dw,
                                                     .db = k.db});
}
MORAINE_INSTANTIATE(LayerNorm_)
MORAINE_INSTANTIATE(LayerNormGrad)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
