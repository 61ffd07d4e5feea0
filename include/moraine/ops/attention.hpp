#pragma once
// Scaled dot-product attention:
//
//   S = scale q k^T + bias,   P = softmax(S),   y = P v
//   dv = P^T dy,   dP = dy v^T,   dS = P (dP - sum_j dP_j P_j),   dq = scale dS k,   dk = scale dS^T q
#include <moraine/ops/matmul.hpp>
#include <moraine/ops/softmax.hpp>

#include <cmath>

namespace moraine MORAINE_API {

#ifdef MORAINE_HOST
template <class T> struct AttentionOptions {
  double scale = 0;       ///< 0: 1/sqrt(D)
  Tensor<T> bias = {};    ///< added to the scores; broadcasts to (B,H,N,M)
};

/// The definition: q (...,N,D), k (...,M,D), v (...,M,Dv) -> (...,N,Dv), op by op, with all scores held.
template <class T>
Tensor<T> attention_composed(const Tensor<T>& q, const Tensor<T>& k, const Tensor<T>& v,
                             const AttentionOptions<T>& o = {}) {
  const double scale = o.scale != 0 ? o.scale : 1.0 / std::sqrt(static_cast<double>(q.size(-1)));
  Tensor<T> s = matmul(q, transpose(k), static_cast<T>(scale));  // (...,N,M)
  if (o.bias.defined()) s = add(s, o.bias);
  return matmul(softmax(s), v);                                  // (...,N,Dv)
}

/// q (B,H,N,D), k (B,H,M,D), v (B,H,M,Dv) -> (B,H,N,Dv).
template <class T>
Tensor<T> attention(const Tensor<T>& q, const Tensor<T>& k, const Tensor<T>& v,
                    const AttentionOptions<T>& o = {}) {
  return attention_composed(q, k, v, o);
}

/// Self-attention from one fused projection: qkv (B,N,3C), rows q, k, v, each head by head
/// -> (B,N,C).
template <class T>
Tensor<T> self_attention(const Tensor<T>& qkv, Index heads, const AttentionOptions<T>& o = {}) {
  if (qkv.rank() != 3 || heads < 1 || qkv.size(2) % (3 * heads) != 0)
    fail(ErrorKind::shape, "self_attention: needs (B,N,3C) with C a multiple of the heads; qkv " +
                               str(qkv.shape()) + ", heads " + std::to_string(heads));
  const Index b = qkv.size(0), n = qkv.size(1), d = qkv.size(2) / (3 * heads);
  const Tensor<T> parts = permute(reshape(qkv, {b, n, 3, heads, d}), {2, 0, 3, 1, 4});  // (3,B,H,N,D)
  const auto part = [&](Index i) { return reshape(slice(parts, 0, i, i + 1), {b, heads, n, d}); };
  const Tensor<T> y = attention(part(0), part(1), part(2), o);         // (B,H,N,D)
  return reshape(permute(y, {0, 2, 1, 3}), {b, n, heads * d});         // (B,N,C)
}
#endif

}  // namespace moraine
