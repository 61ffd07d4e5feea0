// Rows of ops/batch_norm.hpp and ops/group_norm.hpp.
#include <moraine/ops/batch_norm.hpp>
#include <moraine/ops/binary.hpp>
#include <moraine/ops/group_norm.hpp>
#include <moraine/ops/unary.hpp>

#include "../op_case.hpp"

using namespace moraine;
using op_test::scalar;
using op_test::uniforms;

namespace {
/// A parameter per channel of (B,C,S).
template <class T>
Tensor<T> channel(const Tensor<T>& w) {
  return reshape(w, {1, w.size(0), 1});
}
}  // namespace

OP_CASE(
    batch_norm_train, {Shape{3, 4, 5}, Shape{4}, Shape{4}},
    [](auto& x) { return batch_norm_train(x[0], {.weight = x[1], .bias = x[2]}).y; },
    [](auto& x) {
      using T = scalar<decltype(x)>;
      const auto c = sub(x[0], mean(x[0], {.axes = {0, 2}, .keep = true}));
      const auto h = mul(c, rsqrt(mean(square(c), {.axes = {0, 2}, .keep = true}) + T(1e-5)));
      return add(mul(h, channel(x[1])), channel(x[2]));
    },
    {.empty = {4}});
OP_CASE(batch_norm_train_rows, {Shape{6, 3}}, [](auto& x) { return batch_norm_train(x[0]).y; },
        // A single row is refused; see below.
        {.fixed = {6}, .empty = {3}, .large = {Shape{40000, 5}}});
OP_CASE(
    batch_norm_eval, {Shape{3, 4, 5}, Shape{4}, Shape{4}},
    [](auto& x) {
      using T = scalar<decltype(x)>;
      const Shape c{x[0].size(1)};
      return batch_norm(
          x[0],
          {.weight = x[1], .bias = x[2], .mean = uniforms<T>(c), .var = uniforms<T>(c, 0.5, 2)});
    },
    [](auto& x) {
      using T = scalar<decltype(x)>;
      const Shape c{x[0].size(1)};
      const auto h =
          mul(sub(x[0], channel(uniforms<T>(c))), channel(rsqrt(uniforms<T>(c, 0.5, 2) + T(1e-5))));
      return add(mul(h, channel(x[1])), channel(x[2]));
    });
OP_CASE(
    group_norm, {Shape{2, 6, 5}, Shape{6}, Shape{6}},
    [](auto& x) { return group_norm(x[0], 3, x[1], x[2]); },
    [](auto& x) {
      using T = scalar<decltype(x)>;
      const auto g = reshape(x[0], {x[0].size(0), 3, 2, x[0].size(2)});
      const auto c = sub(g, mean(g, {.axes = {2, 3}, .keep = true}));
      const auto h = mul(c, rsqrt(mean(square(c), {.axes = {2, 3}, .keep = true}) + T(1e-5)));
      return add(mul(reshape(h, x[0].shape()), channel(x[1])), channel(x[2]));
    },
    {.fixed = {6}});
OP_CASE(group_norm_plain, {Shape{2, 4, 3}},
        [](auto& x) { return group_norm(x[0], x[0].size(1) ? x[0].size(1) : 1); });

TEST_CASE("the running statistics move by the momentum, the variance unbiased") {
  const Tensor<double> x({4, 1}, {1, 2, 3, 6});
  const auto r = batch_norm_train(
      x, {.mean = Tensor<double>({1}, {1}), .var = Tensor<double>({1}, {2})}, {.momentum = 0.25});
  CHECK(r.mean.item() == doctest::Approx(0.75 * 1 + 0.25 * 3).epsilon(1e-14));
  CHECK(r.var.item() == doctest::Approx(0.75 * 2 + 0.25 * 14 / 3).epsilon(1e-14));
}
TEST_CASE("norms name shapes that do not fit") {
  const auto x = Tensor<float>::zeros({2, 6, 3});
  CHECK_ERROR(shape, "batch_norm: a parameter (3) for x (2,6,3)",
              batch_norm_train(x, {.weight = Tensor<float>::zeros({3})}));
  CHECK_ERROR(shape, "batch_norm: training needs at least two values per channel; x (1,6)",
              batch_norm_train(Tensor<float>::zeros({1, 6})));
  CHECK_ERROR(value, "batch_norm: needs the running mean and variance; x (2,6,3)",
              batch_norm(x, {}));
  CHECK_ERROR(shape,
              "group_norm: needs (B,C,...) with C a multiple of the groups; x (2,6,3), groups 4",
              group_norm(x, 4));
  CHECK_ERROR(shape, "group_norm: weight or bias (5) for x (2,6,3)",
              group_norm(x, 3, Tensor<float>::zeros({5})));
}
