#pragma once
// Scaled dot-product attention:
//
//   S = scale q k^T + bias,   P = softmax(S),   y = P v
//   dv = P^T dy,   dP = dy v^T,   dS = P (dP - sum_j dP_j P_j),   dq = scale dS k,   dk = scale
//   dS^T q
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/cpu/attention.hpp>
#endif
#include <cmath>
#include <moraine/ops/matmul.hpp>
#include <moraine/ops/softmax.hpp>
#include <type_traits>

namespace moraine MORAINE_API {

#ifdef MORAINE_HOST
template <class T>
struct AttentionOptions {
  double scale = 0;     ///< 0: 1/sqrt(D)
  Tensor<T> bias = {};  ///< added to the scores; broadcasts to (B,H,N,M)
};

/// The definition: q (...,N,D), k (...,M,D), v (...,M,Dv) -> (...,N,Dv), op by op, with all scores
/// held.
template <class T>
Tensor<T> attention_composed(const Tensor<T>& q, const Tensor<T>& k, const Tensor<T>& v,
                             const AttentionOptions<T>& o = {}) {
  const double scale = o.scale != 0 ? o.scale : 1.0 / std::sqrt(static_cast<double>(q.size(-1)));
  Tensor<T> s = matmul(q, transpose(k), static_cast<T>(scale));  // (...,N,M)
  if (o.bias.defined()) s = add(s, o.bias);
  return matmul(softmax(s), v);  // (...,N,Dv)
}

namespace detail {
/// x (B,H,N,D) as the kernels walk it; its last axis has stride 1.
template <class T>
cpu::Heads<const T> heads_of(const Tensor<T>& x) {
  return {x.data(), x.strides()[0], x.strides()[1], x.strides()[2]};
}
template <class T>
Tensor<T> unit_rows(const Tensor<T>& x) {
  return x.strides()[-1] == 1 || x.size(-1) == 1 ? x.detach() : x.contiguous().detach();
}
/// A fresh tensor with the logical shape of x (B,H,N,D), laid out as (B,N,H,D): what a projection
/// before or after reads without a copy.
template <class T>
Tensor<T> tokens_first(Index b, Index h, Index n, Index d) {
  const Tensor<T> t = Tensor<T>::empty({b, n, h, d});
  return t.view({b, h, n, d}, {n * h * d, d, h * d, 1});
}
template <class T>
cpu::Heads<T> mutable_heads(const Tensor<T>& x) {
  return {x.data(), x.strides()[0], x.strides()[1], x.strides()[2]};
}
}  // namespace detail

/// q (B,H,N,D), k (B,H,M,D), v (B,H,M,Dv) -> (B,H,N,Dv). Holds no N x M matrix unless there is a
/// bias.
template <class T>
Tensor<T> attention(const Tensor<T>& q, const Tensor<T>& k, const Tensor<T>& v,
                    const AttentionOptions<T>& o = {}) {
  if (q.rank() != 4 || k.rank() != 4 || v.rank() != 4 || q.size(0) != k.size(0) ||
      q.size(1) != k.size(1) || k.size(0) != v.size(0) || k.size(1) != v.size(1) ||
      k.size(2) != v.size(2) || q.size(3) != k.size(3))
    fail(ErrorKind::shape, "attention: needs q (B,H,N,D), k (B,H,M,D), v (B,H,M,Dv); q " +
                               str(q.shape()) + ", k " + str(k.shape()) + ", v " + str(v.shape()));
  check_device("attention", q.device(), k.device());
  check_device("attention", q.device(), v.device());
  if (o.bias.defined() || q.device() != Device::cpu) return attention_composed(q, k, v, o);
  const Index b = q.size(0), h = q.size(1), n = q.size(2), m = k.size(2), d = q.size(3),
              dv = v.size(3);
  const T scale = static_cast<T>(o.scale != 0 ? o.scale : 1.0 / std::sqrt(static_cast<double>(d)));
  const Tensor<T> cq = detail::unit_rows(q), ck = detail::unit_rows(k), cv = detail::unit_rows(v);
  const bool dq = wants(q), dk = wants(k), dval = wants(v), any = dq || dk || dval;
  const Tensor<T> y = detail::tokens_first<T>(b, h, n, dv);
  const Tensor<T> lse = any ? Tensor<T>::empty({b, h, n}) : Tensor<T>();
  cpu::attention(cpu::Attention<T>{.batch = b,
                                   .heads = h,
                                   .nq = n,
                                   .nk = m,
                                   .d = d,
                                   .dv = dv,
                                   .q = detail::heads_of(cq),
                                   .k = detail::heads_of(ck),
                                   .v = detail::heads_of(cv),
                                   .out = detail::mutable_heads(y),
                                   .scale = scale,
                                   .lse = lse.data()});
  return record("attention", y, {&q, &k, &v},
                [=, kq = any ? cq : Tensor<T>(), kk = any ? ck : Tensor<T>(),
                 kv = any ? cv : Tensor<T>(), ky = any ? y : Tensor<T>()](const Tensor<T>& dy) {
                  const Tensor<T> g = detail::unit_rows(dy);
                  Grads<T> out(3);
                  if (dq) out[0] = detail::tokens_first<T>(b, h, n, d);
                  if (dk) out[1] = detail::tokens_first<T>(b, h, m, d);
                  if (dval) out[2] = detail::tokens_first<T>(b, h, m, dv);
                  const auto to = [](const Tensor<T>& t) {
                    return t.defined() ? detail::mutable_heads(t) : cpu::Heads<T>{};
                  };
                  cpu::attention_backward(cpu::AttentionBackward<T>{.batch = b,
                                                                    .heads = h,
                                                                    .nq = n,
                                                                    .nk = m,
                                                                    .d = d,
                                                                    .dv = dv,
                                                                    .q = detail::heads_of(kq),
                                                                    .k = detail::heads_of(kk),
                                                                    .v = detail::heads_of(kv),
                                                                    .out = detail::heads_of(ky),
                                                                    .dout = detail::heads_of(g),
                                                                    .scale = scale,
                                                                    .lse = lse.data(),
                                                                    .dq = to(out[0]),
                                                                    .dk = to(out[1]),
                                                                    .dvalue = to(out[2])});
                  return out;
                });
}

/// The definition of self_attention.
template <class T>
Tensor<T> self_attention_composed(const Tensor<T>& qkv, Index heads,
                                  const AttentionOptions<T>& o = {}) {
  const Index b = qkv.size(0), n = qkv.size(1), d = qkv.size(2) / (3 * heads);
  const Tensor<T> parts =
      permute(reshape(qkv, {b, n, 3, heads, d}), {2, 0, 3, 1, 4});  // (3,B,H,N,D)
  const auto part = [&](Index i) { return reshape(slice(parts, 0, i, i + 1), {b, heads, n, d}); };
  const Tensor<T> y = attention_composed(part(0), part(1), part(2), o);  // (B,H,N,D)
  return reshape(permute(y, {0, 2, 1, 3}), {b, n, heads * d});           // (B,N,C)
}

/// Self-attention from one fused projection: qkv (B,N,3C), rows q, k, v, each head by head
/// -> (B,N,C). Reads q, k and v where they lie and writes their gradients side by side.
template <class T>
Tensor<T> self_attention(const Tensor<T>& qkv, Index heads, const AttentionOptions<T>& o = {}) {
  if (qkv.rank() != 3 || heads < 1 || qkv.size(2) % (3 * heads) != 0)
    fail(ErrorKind::shape, "self_attention: needs (B,N,3C) with C a multiple of the heads; qkv " +
                               str(qkv.shape()) + ", heads " + std::to_string(heads));
  if (o.bias.defined() || qkv.device() != Device::cpu)
    return self_attention_composed(qkv, heads, o);
  const Index b = qkv.size(0), n = qkv.size(1), c = qkv.size(2) / 3, d = c / heads;
  const T scale = static_cast<T>(o.scale != 0 ? o.scale : 1.0 / std::sqrt(static_cast<double>(d)));
  const Tensor<T> x = qkv.contiguous().detach();
  const Tensor<T> y = Tensor<T>::empty({b, n, c});
  const bool grad = wants(qkv);
  const Tensor<T> lse = grad ? Tensor<T>::empty({b, heads, n}) : Tensor<T>();
  const auto third = [=](auto* data, Index i) {
    return cpu::Heads<std::remove_pointer_t<decltype(data)>>{data + i * c, n * 3 * c, d, 3 * c};
  };
  const auto whole = [=](auto* data) {
    return cpu::Heads<std::remove_pointer_t<decltype(data)>>{data, n * c, d, c};
  };
  const T* px = x.data();
  cpu::attention(cpu::Attention<T>{.batch = b,
                                   .heads = heads,
                                   .nq = n,
                                   .nk = n,
                                   .d = d,
                                   .dv = d,
                                   .q = third(px, 0),
                                   .k = third(px, 1),
                                   .v = third(px, 2),
                                   .out = whole(y.data()),
                                   .scale = scale,
                                   .lse = lse.data()});
  return record("self_attention", y, {&qkv},
                [=, x = grad ? x : Tensor<T>(), y = grad ? y : Tensor<T>()](const Tensor<T>& dy) {
                  const Tensor<T> g = dy.contiguous(), dx = empty_like(x);
                  const T *px = x.data(), *py = y.data(), *pg = g.data();
                  T* pd = dx.data();
                  cpu::attention_backward(cpu::AttentionBackward<T>{.batch = b,
                                                                    .heads = heads,
                                                                    .nq = n,
                                                                    .nk = n,
                                                                    .d = d,
                                                                    .dv = d,
                                                                    .q = third(px, 0),
                                                                    .k = third(px, 1),
                                                                    .v = third(px, 2),
                                                                    .out = whole(py),
                                                                    .dout = whole(pg),
                                                                    .scale = scale,
                                                                    .lse = lse.data(),
                                                                    .dq = third(pd, 0),
                                                                    .dk = third(pd, 1),
                                                                    .dvalue = third(pd, 2)});
                  return Grads<T>{dx};
                });
}
#endif

}  // namespace moraine
