#pragma once
// The fused product that every model is made of:
//
//   y = residual + scale * act(x W^T + b)
//
// With h = x W^T + b and u = act(h):
//   dscale = sum dy u,  du = dy scale,  dh = du act'(h),  db = sum dh,  dW = dh^T x,  dx = dh W
//
// With Product::bf16 the operands of all three products (x, W and dh) are rounded to bfloat16; the
// sums, h and everything around it stay float.
#include <moraine/ops/matmul.hpp>
#include <moraine/ops/unary.hpp>

#include <memory>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
template <class T>
struct Linear_ {
  static constexpr const char* name = "linear";
  Index m, n, k;
  const T *x, *w, *b;  // x (m,k), w (n,k), b (n) or null
  Activation act;
  T* pre;  // (m,n) or null: x W^T + b
  const T *residual, *scale;
  const cpu::PackedWeight<T>* packed;
  T* y;
  Product product = Product::fp32;
  static void cpu(const Linear_& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

template <class T>
struct LinearOptions {
  Activation activation = Activation::none;
  Tensor<T> residual = {};  ///< (...,out), added at the end
  Tensor<T> scale = {};     ///< (out), a factor on what is added to the residual (layer scale)
  Product product = Product::fp32;  ///< of the value and the gradients; float on the CPU only
  /// The same W, packed before for the value and for dx, for this product; nn::Linear owns them
  /// while W is frozen.
  std::shared_ptr<const cpu::PackedWeight<T>> packed = {}, packed_back = {};
};

/// The definition: the same value and gradients, op by op.
template <class T>
Tensor<T> linear_composed(const Tensor<T>& x, const Tensor<T>& w, const Tensor<T>& b,
                          const LinearOptions<T>& o = {}) {
  Tensor<T> y = matmul(x, transpose(w));
  if (b.defined()) y = add(y, b);
  y = activate(o.activation, y);
  if (o.scale.defined()) y = mul(y, o.scale);
  return o.residual.defined() ? add(o.residual, y) : y;
}

/// x (...,in), w (out,in), b (out) or undefined -> (...,out).
template <class T>
Tensor<T> linear(const Tensor<T>& x, const Tensor<T>& w, const Tensor<T>& b = {},
                 const LinearOptions<T>& o = {}) {
  if (w.rank() != 2 || x.rank() < 1 || x.size(-1) != w.size(1))
    fail(ErrorKind::shape, "linear: input width differs from the weight's; x " + str(x.shape()) +
                               ", weight (out,in) " + str(w.shape()));
  Shape leading = x.shape();
  leading.erase(leading.rank - 1);
  const Index n = w.size(0), k = w.size(1), m = leading.numel();
  if (b.defined() && b.shape() != Shape{n})
    fail(ErrorKind::shape,
         "linear: bias " + str(b.shape()) + " for weight (out,in) " + str(w.shape()));
  if (o.scale.defined() && o.scale.shape() != Shape{n})
    fail(ErrorKind::shape,
         "linear: scale " + str(o.scale.shape()) + " for weight (out,in) " + str(w.shape()));
  Shape out = x.shape();
  out[-1] = n;
  if (o.residual.defined() && o.residual.shape() != out)
    fail(ErrorKind::shape, "linear: residual " + str(o.residual.shape()) + ", output " + str(out));
  check_device("linear", x.device(), w.device());
  if (x.device() != Device::cpu) return linear_composed(x, w, b, o);

  const Tensor<T> cx = x.contiguous().detach(), cw = w.contiguous().detach();
  const Tensor<T> cb = b.defined() ? b.contiguous().detach() : Tensor<T>();
  const Tensor<T> cr = o.residual.defined() ? o.residual.contiguous().detach() : Tensor<T>();
  const Tensor<T> cs = o.scale.defined() ? o.scale.contiguous().detach() : Tensor<T>();
  const bool dscale = o.scale.defined() && wants(o.scale);
  const bool below = wants(x) || wants(w) || (b.defined() && wants(b));
  // With an activation the backward needs h; with a trained scale also act(h), which follows from
  // it.
  const bool keep_pre = (below && o.activation != Activation::none) || dscale;
  Tensor<T> y = Tensor<T>::empty(out), pre;
  if (keep_pre) pre = Tensor<T>::empty(out);
  launch(Device::cpu, Linear_<T>{m, n, k, cx.data(), cw.data(), cb.data(), o.activation, pre.data(),
                                 cr.data(), cs.data(), o.packed.get(), y.data(), o.product});
  const bool dx = wants(x), dw = wants(w), db = b.defined() && wants(b);
  return record("linear", y, {&x, &w, &b, &o.residual, &o.scale},
                [dx, dw, db, dscale, act = o.activation, pre, m, n, k, from = x.shape(),
                 back = o.packed_back, product = o.product, kx = dw ? cx : Tensor<T>(),
                 kw = dx ? cw : Tensor<T>(), ks = cs](const Tensor<T>& dy) {
                  Grads<T> g(5);
                  g[3] = dy;
                  Tensor<T> dh = dy.contiguous().reshaped({m, n});
                  if (dscale) {
                    const Tensor<T> u = activate(act, pre.reshaped({m, n}));
                    g[4] = sum_to(binary_values<rules::Mul>(dh, u), {n});
                  }
                  if (!dx && !dw && !db) return g;
                  if (ks.defined()) dh = binary_values<rules::Mul>(dh, ks);
                  if (act != Activation::none) dh = activation_grad(act, pre.reshaped({m, n}), dh);
                  if (db) g[2] = sum_to(dh, {n});
                  if (dw) {  // (out,in)
                    g[1] = Tensor<T>::empty({n, k});
                    cpu::gemm<T>({.m = n,
                                  .n = k,
                                  .k = m,
                                  .a = {dh.data(), 1, n},
                                  .b = {kx.data(), k, 1},
                                  .c = {g[1].data(), k, 1},
                                  .product = product});
                  }
                  if (dx) {  // (...,in)
                    g[0] = Tensor<T>::empty(from);
                    cpu::gemm<T>({.m = m,
                                  .n = k,
                                  .k = n,
                                  .a = {dh.data(), n, 1},
                                  .b = {kw.data(), k, 1},
                                  .c = {g[0].data(), k, 1},
                                  .packed = back.get(),
                                  .product = product});
                  }
                  return g;
                });
}

// ---- CPU
template <class T>
void Linear_<T>::cpu(const Linear_& g) {
  cpu::gemm<T>({.m = g.m,
                .n = g.n,
                .k = g.k,
                .a = {g.x, g.k, 1},
                .b = {g.w, 1, g.k},
                .c = {g.y, g.n, 1},
                .bias = g.b,
                .act = g.act,
                .pre = g.pre,
                .residual = g.residual,
                .scale = g.scale,
                .packed = g.packed,
                .product = g.product});
}
MORAINE_INSTANTIATE(Linear_)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
