#pragma once
// Low-rank token experts (SpectralMoE section 3, after Rein). Expert e holds T tokens
// T_e = A_e B_e of rank r; a row f attends to them and receives a mixture of U_e = T_e W1^T + b1:
//
//   a = softmax(f T_e^T / sqrt(D)),   dz_e = a U_e,   out = sum_e g_e dz_e
//
// Nothing of size T x D is formed per row: with the factors, f T_e^T = (f B_e^T) A_e^T, and
// a U_e = (a A_e)(B_e W1^T) + (sum a) b1; as the paper has it, a A_e is one op that keeps nothing
// of size T either, and rows visit only the experts they chose (ops/routed.hpp). As the published
// code has it, all experts are computed.
#include <moraine/ops/binary.hpp>
#include <moraine/ops/index.hpp>
#include <moraine/ops/linear.hpp>
#include <moraine/ops/matmul.hpp>
#include <moraine/ops/routed_mixture.hpp>
#include <moraine/ops/shape.hpp>
#include <moraine/ops/softmax.hpp>
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

/// The experts of one layer, side by side; what rows of any modality ask.
template <class T>
struct TokenExperts {
  Tensor<T> a;   ///< (E,T,r)
  Tensor<T> b;   ///< (E,r,D)
  Tensor<T> up;  ///< (E,r+1,D): b W1^T, then b1
};
/// a[e] (T,r), b[e] (r,D); w1 (D,D), b1 (D).
template <class T>
TokenExperts<T> gather_experts(const std::vector<Tensor<T>>& a, const std::vector<Tensor<T>>& b,
                               const Tensor<T>& w1, const Tensor<T>& b1) {
  const Index e = static_cast<Index>(b.size()), d = w1.size(0);
  const Tensor<T> bs = stack(b);  // (E,r,D)
  const Tensor<T> bias = expand(reshape(b1, {1, 1, d}), {e, 1, d});
  return {stack(a), bs, concat<T>({linear(bs, w1), bias}, 1)};
}

/// f (n,D), gates (n,E) -> (n,D). `chosen` (n,k): the experts whose gates are not zero.
template <class T>
Tensor<T> token_experts(const Tensor<T>& f, const TokenExperts<T>& x, const Tensor<T>& gates,
                        const Tensor<std::int64_t>& chosen, const TokenExpertOptions& o) {
  const Index n = f.size(0), d = f.size(1), e = x.a.size(0), t = x.a.size(1), r = x.a.size(2);
  const Tensor<T>& as = x.a;
  const T scale_by = static_cast<T>(1.0 / std::sqrt(static_cast<double>(d)));
  if (o.logits == ExpertLogits::dot && o.combine == Combine::weighted &&
      f.device() == Device::cpu) {
    const Routing to = make_routing(chosen, e);
    const Tensor<T> g = index_select(reshape(gates, {n * e}), gate_places(to));  // (m)
    const Tensor<T> mixed =
        routed_mixture(routed_down(f, x.b, to), as, g, to,
                       {.scale = scale_by, .first = o.drop_first ? 1 : 0});  // (m,r+1)
    return routed_up(mixed, x.up, to);                                       // (n,D)
  }

  const Tensor<T> bs = reshape(x.b, {e * r, d});                                // (E*r,D)
  const Tensor<T> up = reshape(slice(x.up, 1, 0, r), {e * r, d});               // (E*r,D)
  const Tensor<T> b1 = reshape(slice(slice(x.up, 1, r, r + 1), 0, 0, 1), {d});  // (D)
  Tensor<T> logits;                                                             // (E,n,T)
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
  // A row that did not choose an expert must get exactly 0 from it even where exp(dz) overflows:
  // exp(-inf).
  const Tensor<T> gv = gates.detach().contiguous();
  Tensor<T> closed = Tensor<T>::zeros({e, n, 1});
  for (Index i = 0; i < n; ++i)
    for (Index j = 0; j < e; ++j)
      if (!(gv.data()[i * e + j] > T(0)))
        closed.data()[j * n + i] = -std::numeric_limits<T>::infinity();
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
