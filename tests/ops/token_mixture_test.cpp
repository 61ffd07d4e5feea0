// Rows of ops/token_mixture.hpp: the fused mixture against its definition.
#include <moraine/autograd/backward.hpp>
#include <moraine/ops/token_mixture.hpp>
#include <vector>

#include "../op_case.hpp"

using namespace moraine;

namespace {
/// Queries of the width that the tokens ask for, from any matrix: its columns in turn.
template <class T>
Tensor<T> queries(const Tensor<T>& x, const Tensor<T>& a) {
  return reshape(mul(reshape(x, {x.size(0), 1, x.size(1)}), Tensor<T>::ones({1, a.size(0), 1})),
                 {x.size(0), a.size(0) * x.size(1)});
}
}  // namespace

// q (n,r) is repeated for every expert, so that ragged sizes fit.
OP_CASE(
    token_mixture, {{Shape{7, 4}, Shape{3, 5, 4}, Shape{7, 3}}},
    [](auto& x) { return token_mixture(queries(x[0], x[1]), x[1], x[2], {.scale = 0.7f}); },
    [](auto& x) {
      return token_mixture_composed(queries(x[0], x[1]), x[1], x[2], {.scale = 0.7f});
    },
    {.empty = {7}, .large = {Shape{700, 8}, Shape{6, 32, 8}, Shape{700, 6}}});
OP_CASE(
    token_mixture_sink, {{Shape{7, 4}, Shape{3, 5, 4}, Shape{7, 3}}},
    [](auto& x) { return token_mixture(queries(x[0], x[1]), x[1], x[2], {.first = 1}); },
    [](auto& x) { return token_mixture_composed(queries(x[0], x[1]), x[1], x[2], {.first = 1}); },
    {.empty = {7}, .large = {Shape{700, 8}, Shape{6, 32, 8}, Shape{700, 6}}});

TEST_CASE("token_mixture: one token is the token, times the gate") {
  const Tensor<float> q({2, 2}, {9, -3, 0.5f, 1}), a({2, 1, 1}, {4, -7}),
      g({2, 2}, {1, 0, 0.25f, 2});
  CHECK(token_mixture(q, a, g).values() == std::vector<float>{4, 0, 1, 1, -14, 2.25f});
}

TEST_CASE("token_mixture: sizes that do not fit are told") {
  const auto t = [](const Shape& s) { return Tensor<float>::ones(s); };
  CHECK_THROWS_AS(token_mixture(t({2, 5}), t({3, 4, 2}), t({2, 3})), Error);
  CHECK_THROWS_AS(token_mixture(t({2, 6}), t({3, 4, 2}), t({2, 2})), Error);
  CHECK_THROWS_AS(token_mixture(t({2, 6}), t({3, 4, 2}), t({2, 3}), {.first = 5}), Error);
  CHECK_THROWS_AS(token_mixture(t({2, 6}), t({3, 0, 2}), t({2, 3})), Error);
}

TEST_CASE("token_mixture: both vector forms agree") {
  const Index n = 37, e = 3, t = 9, r = 5;
  std::vector<float> q(n * e * r), a(e * t * r), g(n * e), dy(n * (e * r + 1)), y[2], dq[2], da[2];
  for (std::size_t i = 0; i < q.size(); ++i) q[i] = std::sin(static_cast<float>(i));
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = std::cos(3.1f * static_cast<float>(i));
  for (std::size_t i = 0; i < g.size(); ++i) g[i] = 0.5f + 0.4f * std::sin(static_cast<float>(i));
  for (std::size_t i = 0; i < dy.size(); ++i) dy[i] = std::cos(static_cast<float>(i));
  std::vector<float> dg(g);
  for (int form = 0; form < 2; ++form) {
    y[form].resize(dy.size()), dq[form].resize(q.size()), da[form].resize(a.size());
    const TokenMixture<float> k{n, e, t, r, 1, 0.8f, q.data(), a.data(), g.data(), y[form].data()};
    const TokenMixtureGrad<float> b{k, dy.data(), dq[form].data(), nullptr, dg.data()};
    if (form == 0) {
      cpu::simd::portable_token_mixture(k, 0, n);
      cpu::simd::portable_token_mixture_grad(b, 0, n, da[form].data());
    } else {  // AVX2 where this machine has it
      cpu::token_mixture(k, 0, n);
      cpu::token_mixture_grad(b, 0, n, da[form].data());
    }
  }
  const auto close = [](const std::vector<float>& x, const std::vector<float>& z) {
    for (std::size_t i = 0; i < x.size(); ++i)
      if (!(std::abs(x[i] - z[i]) < 2e-5f)) return false;
    return true;
  };
  CHECK(close(y[0], y[1]));
  CHECK(close(dq[0], dq[1]));
  CHECK(close(da[0], da[1]));
}
