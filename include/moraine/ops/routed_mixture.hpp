#pragma once
// ops/token_mixture.hpp for rows that visit few experts (ops/routed.hpp): entry i asks the tokens
// of its own expert alone,
//
//   p_it = softmax_t(scale q_i . a_{e_i,t}),   y_i = g_i [sum_t p_it a_{e_i,t}, sum_t p_it]
//
// (t >= first). The same kernels, an expert at a time; the gradients of a as there.
#include <moraine/ops/routed.hpp>
#include <moraine/ops/token_mixture.hpp>

#include <string>
#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
template <class T>
struct RoutedMixture {
  static constexpr const char* name = "routed_mixture";
  Index experts, tokens, rank, first;
  T scale;
  const Index* begin;
  const T *q, *a, *g;  // (m,r), (E,T,r), (m)
  T* y;                // (m,r+1)
  static void cpu(const RoutedMixture& k);
};
template <class T>
struct RoutedMixtureGrad {
  static constexpr const char* name = "routed_mixture";
  RoutedMixture<T> forward;  // its y is not read
  const T* dy;
  T *dq, *da, *dg;  // all are computed
  static void cpu(const RoutedMixtureGrad& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

/// q (m,r), a (E,T,r), g (m), entries in the order of the routing -> (m,r+1): what each entry's
/// tokens give, then what they weigh.
template <class T>
Tensor<T> routed_mixture(const Tensor<T>& q, const Tensor<T>& a, const Tensor<T>& g,
                         const Routing& to, const TokenMixtureOptions<T>& o = {}) {
  if (q.rank() != 2 || a.rank() != 3 || g.rank() != 1 || q.size(0) != to.entries() ||
      g.size(0) != to.entries() || a.size(0) != to.experts || q.size(1) != a.size(2) ||
      a.size(1) < 1)
    fail(ErrorKind::shape, "routed_mixture: needs q (m,r), a (E,T,r) with a token, g (m) for " +
                               std::to_string(to.entries()) + " visits to " +
                               std::to_string(to.experts) + " experts; q " + str(q.shape()) +
                               ", a " + str(a.shape()) + ", g " + str(g.shape()));
  if (o.first < 0 || o.first > a.size(1))
    fail(ErrorKind::value, "routed_mixture: first is " + std::to_string(o.first) + " of " +
                               std::to_string(a.size(1)) + " tokens");
  check_device("routed_mixture", q.device(), a.device());
  check_device("routed_mixture", q.device(), g.device());
  const Tensor<T> cq = q.contiguous().detach(), ca = a.contiguous().detach(),
                  cg = g.contiguous().detach();
  Tensor<T> y = Tensor<T>::empty({q.size(0), q.size(1) + 1});
  const RoutedMixture<T> k{to.experts,       a.size(1), a.size(2), o.first,   o.scale,
                           to.begin->data(), cq.data(), ca.data(), cg.data(), y.data()};
  launch(q.device(), k);
  const bool any = wants(q) || wants(a) || wants(g);
  return record("routed_mixture", y, {&q, &a, &g},
                [k, to, kq = any ? cq : Tensor<T>(), ka = any ? ca : Tensor<T>(),
                 kg = any ? cg : Tensor<T>()](const Tensor<T>& dy) {
                  const Tensor<T> c = dy.contiguous();
                  const Grads<T> out{empty_like(kq), empty_like(ka), empty_like(kg)};
                  launch(c.device(), RoutedMixtureGrad<T>{k, c.data(), out[0].data(), out[1].data(),
                                                          out[2].data()});
                  return out;
                });
}

// ---- CPU
namespace detail {
/// The entries of expert e from `at` on, as rows of a mixture of one expert.
template <class T>
TokenMixture<T> one_expert(const RoutedMixture<T>& k, Index e, Index at, Index count) {
  return {count,
          1,
          k.tokens,
          k.rank,
          k.first,
          k.scale,
          k.q + at * k.rank,
          k.a + e * k.tokens * k.rank,
          k.g + at,
          k.y + at * (k.rank + 1)};
}
}  // namespace detail

template <class T>
void RoutedMixture<T>::cpu(const RoutedMixture& k) {
  detail::for_visits(k.experts, k.begin, 64, [&](Index e, Index at, Index count) {
    moraine::cpu::token_mixture(detail::one_expert(k, e, at, count), 0, count);
  });
}
template <class T>
void RoutedMixtureGrad<T>::cpu(const RoutedMixtureGrad& g) {
  // Every 256 entries of an expert have a da of their own; then these in order.
  const RoutedMixture<T>& k = g.forward;
  constexpr Index piece = 256;
  const Index size = k.tokens * k.rank;
  std::vector<Index> first(static_cast<std::size_t>(k.experts) + 1);
  for (Index e = 0; e < k.experts; ++e)
    first[static_cast<std::size_t>(e) + 1] =
        first[static_cast<std::size_t>(e)] + (k.begin[e + 1] - k.begin[e] + piece - 1) / piece;
  std::vector<T> part(static_cast<std::size_t>(first.back() * size));
  detail::for_visits(k.experts, k.begin, piece, [&](Index e, Index at, Index count) {
    const Index mine = first[static_cast<std::size_t>(e)] + (at - k.begin[e]) / piece;
    moraine::cpu::token_mixture_grad(
        TokenMixtureGrad<T>{detail::one_expert(k, e, at, count), g.dy + at * (k.rank + 1),
                            g.dq + at * k.rank, nullptr, g.dg + at},
        0, count, part.data() + mine * size);
  });
  for (Index e = 0; e < k.experts; ++e)
    for (Index x = 0; x < size; ++x) {
      T s = 0;
      for (Index p = first[static_cast<std::size_t>(e)]; p < first[static_cast<std::size_t>(e) + 1];
           ++p)
        s += part[static_cast<std::size_t>(p * size + x)];
      g.da[e * size + x] = s;
    }
}
MORAINE_INSTANTIATE(RoutedMixture)
MORAINE_INSTANTIATE(RoutedMixtureGrad)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
