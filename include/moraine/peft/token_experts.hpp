#pragma once
// Low-rank token experts (SpectralMoE section 3, after Rein). Expert e holds T tokens
// T_e = A_e B_e of rank r; a row f attends to them and receives a mixture of U_e = T_e W1^T + b1:
//
//   a = softmax(f T_e^T / sqrt(D)),   dz_e = a U_e,   out = sum_e g_e dz_e
//
// Nothing of size T x D is formed per row: with the factors, f T_e^T = (f B_e^T) A_e^T, and
// a U_e = (a A_e)(B_e W1^T) + (sum a) b1; as the paper has it, a A_e is one op that keeps nothing
// of size T either (ops/token_mixture.hpp). All experts are computed densely: at these ranks that
// costs less than sorting rows by expert.
#include <moraine/ops/binary.hpp>
#include <moraine/ops/linear.hpp>
#include <moraine/ops/matmul.hpp>
#include <moraine/ops/shape.hpp>
#include <moraine/ops/softmax.hpp>
#include <moraine/ops/token_mixture.hpp>
#include <moraine/ops/unary.hpp>

#include <cmath>
#include <limits>
#include <vector>

namespace moraine MORAINE_API {

enum class ExpertLogits : unsigned char {
  dot,     ///< f . T_t / sqrt(D), as the paper writes
  sumprod  ///< (sum f)(sum T_t) / sqrt(D), as the published code computes
};
enum class Combine : unsigned char {
  weighted,  ///< sum_e g_e dz_e, as the paper writes
  logsumexp  ///< log sum over the chosen experts of exp(dz_e), gates unused, as the published code
};

struct TokenExpertOptions {
  ExpertLogits logits = ExpertLogits::dot;
  bool drop_first = false;  ///< leave token 0 out of the value sum (it then acts as a sink)
  Combine combine = Combine::weighted;
};

/// f (n,D); a[e] (T,r), b[e] (r,D); w1 (D,D), b1 (D); gates (n,E) -> (n,D).
template <class T>
Tensor<T> token_experts(const Tensor<T>& f, const std::vector<Tensor<T>>& a,
                        const std::vector<Tensor<T>>& b, const Tensor<T>& w1, const Tensor<T>& b1,
                        const Tensor<T>& gates, const TokenExpertOptions& o) {
  const Index n = f.size(0), d = f.size(1), e = static_cast<Index>(a.size());
  const Index t = a[0].size(0), r = a[0].size(1);
  const Tensor<T> as = stack(a), bs = concat(b, 0);  // (E,T,r), (E*r,D)
  const Tensor<T> up = linear(bs, w1);               // (E*r,D)
  const T scale_by = static_cast<T>(1.0 / std::sqrt(static_cast<double>(d)));
  if (o.logits == ExpertLogits::dot && o.combine == Combine::weighted) {
    const Tensor<T> mixed = token_mixture(
        linear(f, bs), as, gates, {.scale = scale_by, .first = o.drop_first ? 1 : 0});  // (n,E*r+1)
    return matmul(mixed, concat<T>({up, reshape(b1, {1, d})}, 0));                      // (n,D)
  }

  Tensor<T> logits;  // (E,n,T)
  if (o.logits == ExpertLogits::dot) {
    const Tensor<T> q = reshape(linear(f, bs), {n, e, r});            // (n,E,r)
    logits = matmul(permute(q, {1, 0, 2}), transpose(as), scale_by);  // (E,n,T)
  } else {
    const Tensor<T> sf = sum(f, {.axes = {1}, .keep = true});         // (n,1)
    const Tensor<T> sb = reshape(sum(bs, {.axes = {1}}), {e, r, 1});  // (E,r,1)
    const Tensor<T> st = reshape(matmul(as, sb), {e, 1, t});          // (E,1,T)
    logits = scale(mul(reshape(sf, {1, n, 1}), st), scale_by);        // (E,n,T)
  }
  Tensor<T> p = softmax(logits);  // (E,n,T)
  Tensor<T> values = as;
  if (o.drop_first) {
    p = slice(p, 2, 1, t);
    values = slice(as, 1, 1, t);
  }
  const Tensor<T> low = matmul(p, values);  // (E,n,r)
  const Tensor<T> mass =
      o.drop_first ? sum(p, {.axes = {2}, .keep = true}) : Tensor<T>();  // (E,n,1)

  if (o.combine == Combine::weighted) {
    const Tensor<T> g = reshape(transpose(gates), {e, n, 1});                      // (E,n,1)
    const Tensor<T> mixed = reshape(permute(mul(low, g), {1, 0, 2}), {n, e * r});  // (n,E*r)
    const Tensor<T> share = sum(o.drop_first ? mul(g, mass) : g, {.axes = {0}});   // (n,1)
    return add(matmul(mixed, up), mul(share, b1));                                 // (n,D)
  }
  const Tensor<T> each = matmul(low, reshape(up, {e, r, d}));                    // (E,n,D)
  const Tensor<T> dz = o.drop_first ? add(each, mul(mass, b1)) : add(each, b1);  // (E,n,D)
  Tensor<T> chosen = Tensor<T>::zeros({e, n, 1});
  const Tensor<T> gv = gates.detach().contiguous();
  for (Index i = 0; i < n; ++i)
    for (Index j = 0; j < e; ++j)
      chosen.data()[j * n + i] = gv.data()[i * e + j] > T(0) ? T(1) : T(0);
  // A row that is not chosen must add exactly 0 even where exp(dz) overflows: exp(-inf).
  Tensor<T> closed = Tensor<T>::zeros({e, n, 1});
  for (Index i = 0; i < e * n; ++i)
    closed.data()[i] = chosen.data()[i] > T(0) ? T(0) : -std::numeric_limits<T>::infinity();
  const Tensor<T> total = sum(exp(add(dz, closed)), {.axes = {0}});  // (n,D)
  // The published code puts the double epsilon where a sum is exactly 0; it has no gradient there.
  Tensor<T> fill = Tensor<T>::zeros(total.shape());
  const Tensor<T> tv = total.detach().contiguous();
  for (Index i = 0; i < fill.numel(); ++i)
    if (tv.data()[i] == T(0)) fill.data()[i] = static_cast<T>(2.220446049250313e-16);
  return log(add(total, fill));  // (n,D)
}

/// The tokens themselves, T_e = A_e B_e: (T,r), (r,D) -> (T,D).
template <class T>
Tensor<T> expert_tokens(const Tensor<T>& a, const Tensor<T>& b) {
  return matmul(a, b);
}

}  // namespace moraine
