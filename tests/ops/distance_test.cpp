// Rows of ops/distance.hpp; its two vector forms, whose bits must agree.
#include <moraine/autograd/backward.hpp>
#include <moraine/ops/binary.hpp>
#include <moraine/ops/distance.hpp>
#include <moraine/ops/shape.hpp>
#include <moraine/ops/unary.hpp>
#include <vector>

#include "../op_case.hpp"

using namespace moraine;

namespace {
/// The definition: f - w as a tensor of three axes.
template <class T>
Tensor<T> difference(const Tensor<T>& f, const Tensor<T>& w) {
  return sub(reshape(f, {f.size(0), 1, f.size(1)}), reshape(w, {1, w.size(0), w.size(1)}));
}
/// f with its columns moved by 4 in turn up and down: no difference comes near the kink at 0.
template <class T>
Tensor<T> spread(const Tensor<T>& f) {
  Tensor<T> by = Tensor<T>::empty({f.size(1)});
  for (Index i = 0; i < by.numel(); ++i) by.data()[i] = i % 3 ? T(4) : T(-4);
  return add(f, by);
}
}  // namespace

OP_CASE(
    distance_l1, {{Shape{5, 11}, Shape{3, 11}}},
    [](auto& x) { return distance(spread(x[0]), x[1], Metric::l1); },
    [](auto& x) { return sum(abs(difference(spread(x[0]), x[1])), {.axes = {2}}); },
    {.empty = {5}, .large = {Shape{700, 37}, Shape{6, 37}}});
OP_CASE(
    distance_l2, {{Shape{5, 11}, Shape{3, 11}}},
    [](auto& x) { return distance(x[0], x[1], Metric::l2); },
    [](auto& x) { return sqrt(sum(square(difference(x[0], x[1])), {.axes = {2}})); },
    {.empty = {5}, .large = {Shape{700, 37}, Shape{6, 37}}});
OP_CASE(
    distance_l2sq, {{Shape{5, 11}, Shape{3, 11}}},
    [](auto& x) { return distance(x[0], x[1], Metric::l2sq); },
    [](auto& x) { return sum(square(difference(x[0], x[1])), {.axes = {2}}); },
    {.empty = {5}, .large = {Shape{700, 37}, Shape{6, 37}}});

TEST_CASE("distance: known values, and no slope where a row is its prototype") {
  for (Metric m : {Metric::l1, Metric::l2, Metric::l2sq}) {
    Tensor<float> f({2, 3}, {1, 2, 3, 4, 0, 3}), w({1, 3}, {1, 2, 3});
    f.requires_grad(), w.requires_grad();
    const Tensor<float> c = distance(f, w, m);
    const float far = m == Metric::l1 ? 5.0f : m == Metric::l2 ? std::sqrt(13.0f) : 13.0f;
    CHECK(c.values() == std::vector<float>{0, far});
    backward(sum(c));
    const std::vector<float> g = f.grad().values();
    const float unit = m == Metric::l1 ? 0.0f : m == Metric::l2 ? 1 / far : 2.0f;
    CHECK(g[0] == 0);
    CHECK(g[2] == 0);
    CHECK(g[3] == (m == Metric::l1 ? 1.0f : doctest::Approx(3 * unit)));
    CHECK(g[4] == (m == Metric::l1 ? -1.0f : doctest::Approx(-2 * unit)));
    CHECK(w.grad().values()[0] == -g[3]);
  }
}

TEST_CASE("distance: vectors of four and of eight give the same bits in l1") {
  const Index n = 19, e = 6, d = 45;
  std::vector<float> f(n * d), w(e * d), dc(n * e), c[2], df[2], dw[2];
  for (std::size_t i = 0; i < f.size(); ++i) f[i] = std::sin(static_cast<float>(i));
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = std::cos(3.1f * static_cast<float>(i));
  for (std::size_t i = 0; i < dc.size(); ++i) dc[i] = std::sin(1.7f * static_cast<float>(i));
  w[5] = f[5];
  for (int form = 0; form < 2; ++form) {
    c[form].resize(dc.size()), df[form].resize(f.size()), dw[form].assign(w.size(), 0.0f);
    const Distance<float> k{n, e, d, Metric::l1, f.data(), w.data(), c[form].data()};
    const DistanceGrad<float> g{n,        e,   d,         Metric::l1,      f.data(),
                                w.data(), k.c, dc.data(), df[form].data(), nullptr};
    if (form == 0) {
      cpu::simd::portable_distance(k, 0, n);
      cpu::simd::portable_distance_grad(g, 0, n, dw[form].data());
    } else {  // AVX2 where this machine has it
      cpu::distance(k, 0, n);
      cpu::distance_grad(g, 0, n, dw[form].data());
    }
  }
  CHECK(c[0] == c[1]);
  CHECK(df[0] == df[1]);
  CHECK(dw[0] == dw[1]);
}
