#pragma once
// Scaled dot-product attention:
//
//   S = scale q k^T + bias + rel_h[.., key row] + rel_w[.., key column],   P = softmax(S),  y = P v
//   dv = P^T dy,   dP = dy v^T,   dS = P (dP - sum_j dP_j P_j),   dq = scale dS k,
//   dk = scale dS^T q,   dbias, drel_h, drel_w = dS, summed to their shapes
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/cpu/attention.hpp>
#include <moraine/cpu/attention_backward.hpp>
#endif
#include <cmath>
#include <cstdint>
#include <moraine/ops/compare.hpp>
#include <moraine/ops/matmul.hpp>
#include <moraine/ops/softmax.hpp>
#include <string>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

#ifdef MORAINE_HOST
/// What is added to the scores (B,H,N,M). A row that may look at no key gives 0 and gradients of 0,
/// as in PyTorch's scaled_dot_product_attention.
template <class T>
struct AttentionOptions {
  double scale = 0;     ///< 0: 1/sqrt(D)
  Tensor<T> bias = {};  ///< broadcasts to (B,H,N,M)
  Mask key_mask = {};   ///< (B,M), 0: -inf is added; broadcast over heads and queries
  /// (B): only the first so many keys of each product are there. Others cost nothing, and what they
  /// hold, NaN included, is not read (a mask adds -inf to them: NaN stays NaN).
  Tensor<std::int64_t> keys = {};
  /// (B,H,N,Rows) and (B,H,N,Columns) with M = Rows * Columns: the key of row r and column c gets
  /// rel_h[.., r] + rel_w[.., c]. SAM's decomposed relative positions; both or none.
  Tensor<T> rel_h = {}, rel_w = {};
  /// bf16: q, k, v and P are rounded for the value; the gradient is that of float products. Float
  /// on the CPU only.
  Product product = Product::fp32;

  bool plain() const {
    return !bias.defined() && !key_mask.defined() && !keys.defined() && !rel_h.defined() &&
           !rel_w.defined();
  }
};

namespace detail {
inline double attention_scale(double scale, Index d) {
  return scale != 0 ? scale : 1.0 / std::sqrt(static_cast<double>(d));
}

/// Fails unless the options fit scores of that shape.
template <class T>
void check_attention(const char* op, const AttentionOptions<T>& o, const Shape& scores) {
  const Index b = scores[0], h = scores[1], n = scores[2], m = scores[3];
  const auto refuse = [&](const std::string& what) {
    fail(ErrorKind::shape, std::string(op) + ": " + what + "; scores (B,H,N,M) " + str(scores));
  };
  if (o.bias.defined()) {
    bool fits = o.bias.rank() <= 4;
    for (int i = 1; fits && i <= o.bias.rank(); ++i)
      fits = o.bias.size(-i) == 1 || o.bias.size(-i) == scores[4 - i];
    if (!fits) refuse("bias " + str(o.bias.shape()) + " does not broadcast to the scores");
  }
  if (o.key_mask.defined() && o.key_mask.shape() != Shape{b, m})
    refuse("needs key_mask (B,M), got " + str(o.key_mask.shape()));
  if (o.keys.defined()) {
    if (o.keys.shape() != Shape{b}) refuse("needs keys (B), got " + str(o.keys.shape()));
    for (std::int64_t k : o.keys.values())
      if (k < 0 || k > m)
        fail(ErrorKind::value, std::string(op) + ": keys holds " + std::to_string(k) + " of " +
                                   std::to_string(m) + " keys");
  }
  if (!o.rel_h.defined() && !o.rel_w.defined()) return;
  if (!o.rel_h.defined() || !o.rel_w.defined()) refuse("rel_h and rel_w are given together");
  const auto fits = [&](const Tensor<T>& x) {
    return x.rank() == 4 && x.size(0) == b && x.size(1) == h && x.size(2) == n;
  };
  if (!fits(o.rel_h) || !fits(o.rel_w) || o.rel_h.size(3) * o.rel_w.size(3) != m)
    refuse("needs rel_h (B,H,N,Rows), rel_w (B,H,N,Columns) with Rows * Columns = M, got " +
           str(o.rel_h.shape()) + ", " + str(o.rel_w.shape()));
}

/// Softmax, but 0 in rows that hold nothing but -inf.
template <class T>
Tensor<T> softmax_or_zero(const Tensor<T>& s) {
  if (s.device() != Device::cpu) return softmax(s);
  const Tensor<T> c = s.contiguous().detach(), y = softmax(c);
  const Index m = s.size(-1), rows = m > 0 ? s.numel() / m : 0;
  for (Index i = 0; i < rows; ++i) {
    const T* const x = c.data() + i * m;
    Index j = 0;
    while (j < m && x[j] == -HUGE_VAL) ++j;
    for (T* p = y.data() + i * m; j == m && p < y.data() + (i + 1) * m; ++p) *p = 0;
  }
  return record("softmax", y, {&s}, [y, rows, m](const Tensor<T>& dy) {
    const Tensor<T> g = dy.contiguous(), dx = empty_like(y);
    launch(Device::cpu, SoftmaxGrad<T>{rows, m, false, y.data(), g.data(), dx.data()});
    return Grads<T>{dx};
  });
}
}  // namespace detail

/// The definition: q (...,N,D), k (...,M,D), v (...,M,Dv) -> (...,N,Dv), op by op, with all scores
/// held. Four axes where the options need them.
template <class T>
Tensor<T> attention_composed(const Tensor<T>& q, const Tensor<T>& k, const Tensor<T>& v,
                             const AttentionOptions<T>& o = {}) {
  const double scale = detail::attention_scale(o.scale, q.size(-1));
  Tensor<T> s = matmul(q, transpose(k), static_cast<T>(scale));  // (...,N,M)
  if (o.plain()) return matmul(softmax(s), v);                   // (...,N,Dv)
  if (o.bias.defined()) s = add(s, o.bias);
  if (o.key_mask.defined() || o.keys.defined()) {
    const Index b = s.size(0), m = s.size(-1);
    Tensor<T> hidden = Tensor<T>::zeros({b, 1, 1, m});
    const Mask mask = o.key_mask.to(Device::cpu).contiguous();
    const Tensor<std::int64_t> keys = o.keys.to(Device::cpu).contiguous();
    for (Index i = 0; i < b * m; ++i)
      if ((mask.defined() && !mask.data()[i]) || (keys.defined() && i % m >= keys.data()[i / m]))
        hidden.data()[i] = static_cast<T>(-HUGE_VAL);
    s = add(s, hidden.to(s.device()));
  }
  if (o.rel_h.defined()) {
    const Index b = s.size(0), h = s.size(1), n = s.size(2), rows = o.rel_h.size(3),
                columns = o.rel_w.size(3);
    s = add(reshape(s, {b, h, n, rows, columns}), reshape(o.rel_h, {b, h, n, rows, 1}));
    s = add(s, reshape(o.rel_w, {b, h, n, 1, columns}));  // (B,H,N,Rows,Columns)
    s = reshape(s, {b, h, n, rows * columns});            // (B,H,N,M)
  }
  return matmul(detail::softmax_or_zero(s), v);  // (...,N,Dv)
}

namespace detail {
/// x (B,H,N,D), whose last axis has stride 1, as the kernels walk it.
template <class T>
cpu::Heads<const T> heads_of(const Tensor<T>& x) {
  return {x.data(), x.strides()[0], x.strides()[1], x.strides()[2]};
}
template <class T>
cpu::Heads<T> mutable_heads(const Tensor<T>& x) {
  if (!x.defined()) return {};
  return {x.data(), x.strides()[0], x.strides()[1], x.strides()[2]};
}
template <class T>
Tensor<T> unit_rows(const Tensor<T>& x) {
  return x.strides()[-1] == 1 || x.size(-1) == 1 ? x.detach() : x.contiguous().detach();
}
/// A fresh tensor (B,H,N,D), laid out as (B,N,H,D): what a projection before or after reads without
/// a copy.
template <class T>
Tensor<T> tokens_first(Index b, Index h, Index n, Index d) {
  const Tensor<T> t = Tensor<T>::empty({b, n, h, d});
  return t.view({b, h, n, d}, {n * h * d, d, h * d, 1});
}
/// x, broadcast to the scores by its strides.
template <class T, class U = const T>
cpu::ScoreBias<U> score_bias(const Tensor<T>& x, const Shape& scores) {
  if (!x.defined()) return {};
  const Tensor<T> wide = expand_view(x.detach(), scores);
  return {wide.data(), wide.strides()[0], wide.strides()[1], wide.strides()[2],
          scores[3] == 1 ? 0 : wide.strides()[3]};
}

/// One call of the kernels and what its gradient needs: q, k, v, y by views (B,H,N,D), and the
/// options.
template <class T>
struct AttentionCall {
  Tensor<T> q, k, v, y, lse;
  T scale = T(1);
  Product product = Product::fp32;
  Shape scores;
  Tensor<T> bias, rel_h, rel_w;
  Mask mask;
  Tensor<std::int64_t> keys;
  bool dbias = false, drel = false;

  AttentionCall(const char* op, const AttentionOptions<T>& o, Tensor<T> q_, Tensor<T> k_,
                Tensor<T> v_, Tensor<T> y_)
      : q(std::move(q_)), k(std::move(k_)), v(std::move(v_)), y(std::move(y_)) {
    scale = static_cast<T>(attention_scale(o.scale, q.size(3)));
    product = o.product;
    scores = {q.size(0), q.size(1), q.size(2), k.size(2)};
    if (o.plain()) return;
    check_attention(op, o, scores);
    bias = o.bias.detach();
    if (bias.defined() && bias.rank() > 0 && bias.size(-1) > 1 && bias.strides()[-1] > 1)
      bias = bias.contiguous();
    rel_h = contiguous(o.rel_h);
    rel_w = contiguous(o.rel_w);
    mask = contiguous(o.key_mask);
    keys = contiguous(o.keys);
    dbias = wants(o.bias);
    drel = wants(o.rel_h) || wants(o.rel_w);
  }
  /// Fills y, and lse when a gradient will follow.
  void forward(bool gradient) {
    if (gradient) lse = Tensor<T>::empty({scores[0], scores[1], scores[2]});
    cpu::attention(cpu::Attention<T>{.batch = scores[0],
                                     .heads = scores[1],
                                     .nq = scores[2],
                                     .nk = scores[3],
                                     .d = q.size(3),
                                     .dv = v.size(3),
                                     .q = heads_of(q),
                                     .k = heads_of(k),
                                     .v = heads_of(v),
                                     .out = mutable_heads(y),
                                     .scale = scale,
                                     .terms = terms(),
                                     .lse = lse.data()},
                   product);
  }
  /// Fills the views dq, dk, dvalue (undefined: not wanted); returns the gradients of bias, rel_h
  /// and rel_w.
  Grads<T> backward(const Tensor<T>& dy, const Tensor<T>& dq, const Tensor<T>& dk,
                    const Tensor<T>& dvalue) const {
    const Tensor<T> g = unit_rows(dy);
    Grads<T> out(3);
    // A bias that all keys share changes nothing: its gradient is 0.
    const bool by_key = dbias && bias.rank() > 0 && bias.size(-1) > 1;
    if (dbias) out[0] = by_key ? Tensor<T>::empty(bias.shape()) : Tensor<T>::zeros(bias.shape());
    if (drel) out[1] = empty_like(rel_h), out[2] = empty_like(rel_w);
    cpu::attention_backward(cpu::AttentionBackward<T>{
        .batch = scores[0],
        .heads = scores[1],
        .nq = scores[2],
        .nk = scores[3],
        .d = q.size(3),
        .dv = v.size(3),
        .q = heads_of(q),
        .k = heads_of(k),
        .v = heads_of(v),
        .out = heads_of(y),
        .dout = heads_of(g),
        .scale = scale,
        .terms = terms(),
        .lse = lse.data(),
        .dq = mutable_heads(dq),
        .dk = mutable_heads(dk),
        .dvalue = mutable_heads(dvalue),
        .dbias = by_key ? score_bias<T, T>(out[0], scores) : cpu::ScoreBias<T>{},
        .drel_h = out[1].data(),
        .drel_w = out[2].data()});
    return out;
  }

 private:
  template <class S>
  static Tensor<S> contiguous(const Tensor<S>& x) {
    return x.defined() ? x.contiguous().detach() : x;
  }
  cpu::ScoreTerms<T> terms() const {
    return {.bias = score_bias(bias, scores),
            .mask = mask.data(),
            .keys = keys.data(),
            .rel_h = rel_h.data(),
            .rel_w = rel_w.data(),
            .rows = rel_h.defined() ? rel_h.size(3) : 0,
            .columns = rel_w.defined() ? rel_w.size(3) : 0};
  }
};
inline void check_self_attention(const char* op, const Shape& qkv, Index heads) {
  if (qkv.rank != 3 || heads < 1 || qkv[2] % (3 * heads) != 0)
    fail(ErrorKind::shape, std::string(op) +
                               ": needs (B,N,3C) with C a multiple of the heads; qkv " + str(qkv) +
                               ", heads " + std::to_string(heads));
}
/// Not composed by itself there: that holds all scores, and every user of attention would compile
/// it.
inline void check_attention_device(const char* op, Device d) {
  if (d != Device::cpu)
    fail(ErrorKind::device, std::string(op) +
                                ": has no CUDA kernel yet -> attention_composed, which holds all "
                                "scores, or .to(Device::cpu)");
}
}  // namespace detail

/// q (B,H,N,D), k (B,H,M,D), v (B,H,M,Dv) -> (B,H,N,Dv). Nothing of size N x M is held but what the
/// options bring.
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
  const Index b = q.size(0), h = q.size(1), n = q.size(2), m = k.size(2), d = q.size(3),
              dv = v.size(3);
  detail::check_attention_device("attention", q.device());
  detail::AttentionCall<T> call("attention", o, detail::unit_rows(q), detail::unit_rows(k),
                                detail::unit_rows(v), detail::tokens_first<T>(b, h, n, dv));
  const bool dq = wants(q), dk = wants(k), dval = wants(v);
  const bool any = dq || dk || dval || call.dbias || call.drel;
  call.forward(any);
  const Tensor<T> y = call.y;
  return record("attention", y, {&q, &k, &v, &o.bias, &o.rel_h, &o.rel_w},
                [=](const Tensor<T>& dy) {
                  Grads<T> out(3);
                  if (dq) out[0] = detail::tokens_first<T>(b, h, n, d);
                  if (dk) out[1] = detail::tokens_first<T>(b, h, m, d);
                  if (dval) out[2] = detail::tokens_first<T>(b, h, m, dv);
                  const Grads<T> more = call.backward(dy, out[0], out[1], out[2]);
                  out.insert(out.end(), more.begin(), more.end());
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
  detail::check_self_attention("self_attention", qkv.shape(), heads);
  const Index b = qkv.size(0), n = qkv.size(1), c = qkv.size(2) / 3, d = c / heads;
  detail::check_attention_device("self_attention", qkv.device());
  const auto part = [=](const Tensor<T>& x, Index i) {  // (B,H,N,D)
    return x.view({b, heads, n, d}, {n * 3 * c, d, 3 * c, 1}, i * c);
  };
  const Tensor<T> x = qkv.contiguous().detach(), y = Tensor<T>::empty({b, n, c});
  const auto whole = [=](const Tensor<T>& t) { return t.view({b, heads, n, d}, {n * c, d, c, 1}); };
  detail::AttentionCall<T> call("self_attention", o, part(x, 0), part(x, 1), part(x, 2), whole(y));
  const bool grad = wants(qkv), any = grad || call.dbias || call.drel;
  call.forward(any);
  return record("self_attention", y, {&qkv, &o.bias, &o.rel_h, &o.rel_w}, [=](const Tensor<T>& dy) {
    const Tensor<T> g = dy.contiguous();
    Grads<T> out(1);
    if (grad) out[0] = Tensor<T>::empty({b, n, 3 * c});
    const auto to = [&](Index i) { return grad ? part(out[0], i) : Tensor<T>(); };
    const Grads<T> more = call.backward(whole(g), to(0), to(1), to(2));
    out.insert(out.end(), more.begin(), more.end());
    return out;
  });
}

/// The maps of self_attention, softmax(scores): (B,H,N,N), held whole, for who wants to look at
/// them. Not recorded on the tape. They are what the same kernels return for values that are rows
/// of the identity.
template <class T>
Tensor<T> self_attention_weights(const Tensor<T>& qkv, Index heads,
                                 const AttentionOptions<T>& o = {}) {
  const NoGrad off;
  detail::check_self_attention("self_attention_weights", qkv.shape(), heads);
  const Index b = qkv.size(0), n = qkv.size(1), c = qkv.size(2) / 3, d = c / heads;
  detail::check_attention_device("self_attention_weights", qkv.device());
  const Tensor<T> x = qkv.contiguous().detach(), one = Tensor<T>::zeros({n, n});
  for (Index i = 0; i < n; ++i) one.data()[i * n + i] = T(1);
  const auto part = [&](Index i) {  // (B,H,N,D)
    return x.view({b, heads, n, d}, {n * 3 * c, d, 3 * c, 1}, i * c);
  };
  const Tensor<T> p = Tensor<T>::empty({b, heads, n, n});
  detail::AttentionCall<T> call("self_attention_weights", o, part(0), part(1),
                                one.view({b, heads, n, n}, {0, 0, n, 1}), p);
  call.forward(false);
  return p;
}
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
