// Rows of ops/matmul.hpp, ops/linear.hpp and autograd/checkpoint.hpp.
#include <cmath>
#include <moraine/autograd/checkpoint.hpp>
#include <moraine/ops/linear.hpp>
#include <moraine/ops/matmul.hpp>

#include "../op_case.hpp"

using namespace moraine;
using op_test::scalar;

namespace {
/// A B by sums of broadcast products.
template <class T>
Tensor<T> by_sums(const Tensor<T>& a, const Tensor<T>& b) {
  Shape sa = a.shape(), sb = b.shape();
  sa.push(1);
  sb.insert(sb.rank - 2, 1);
  return sum(mul(reshape(a, sa), reshape(b, sb)), {.axes = {-2}});
}
const std::vector<Shape> linear_shapes{Shape{3, 5}, Shape{4, 5}, Shape{4}};
const std::vector<Shape> full_shapes{Shape{3, 5}, Shape{4, 5}, Shape{4}, Shape{3, 4}, Shape{4}};
}  // namespace

// A view may take another path through the product: to rounding, not to the bit.
OP_CASE(
    matmul, {Shape{3, 5}, Shape{5, 4}}, [](auto& x) { return matmul(x[0], x[1]); },
    [](auto& x) { return by_sums(x[0], x[1]); }, {.exact_views = false});
OP_CASE(
    matmul_batched, {Shape{2, 3, 5}, Shape{2, 5, 4}}, [](auto& x) { return matmul(x[0], x[1]); },
    [](auto& x) { return by_sums(x[0], x[1]); },
    {.exact_views = false, .large = {Shape{40, 30, 50}, Shape{40, 50, 20}}});
OP_CASE(
    matmul_broadcast, {Shape{2, 1, 3, 5}, Shape{6, 5, 4}},
    [](auto& x) {
      using T = scalar<decltype(x)>;
      return matmul(x[0], x[1], T(0.5));
    },
    [](auto& x) {
      using T = scalar<decltype(x)>;
      return scale(by_sums(x[0], x[1]), T(0.5));
    },
    {.exact_views = false});
OP_CASE(
    matmul_shared_right, {Shape{2, 3, 5}, Shape{5, 4}}, [](auto& x) { return matmul(x[0], x[1]); },
    [](auto& x) { return by_sums(x[0], x[1]); }, {.exact_views = false});
OP_CASE(
    matmul_transposed, {Shape{2, 3, 5}, Shape{2, 4, 5}},
    [](auto& x) { return matmul(x[0], transpose(x[1])); },
    [](auto& x) { return by_sums(x[0], transpose(x[1])); }, {.exact_views = false});
OP_CASE(matmul_heads, {Shape{2, 3, 8}, Shape{2, 3, 8}},
        [](auto& x) {  // (B,N,H D) -> scores (B,H,N,N) of permuted views
          const Index b = x[0].size(0), n = x[0].size(1);
          const auto q = permute(reshape(x[0], {b, n, 2, 4}), {0, 2, 1, 3});
          const auto k = permute(reshape(x[1], {b, n, 2, 4}), {0, 2, 3, 1});
          return matmul(q, k);
        },
        {.fixed = {8}, .exact_views = false});
OP_CASE(
    linear, linear_shapes, [](auto& x) { return linear(x[0], x[1], x[2]); },
    [](auto& x) { return linear_composed(x[0], x[1], x[2]); },
    {.exact_views = false, .large = {Shape{300, 64}, Shape{96, 64}, Shape{96}}});
OP_CASE(
    linear_batched, {Shape{2, 3, 5}, Shape{4, 5}}, [](auto& x) { return linear(x[0], x[1]); },
    [](auto& x) { return add(matmul(x[0], transpose(x[1])), scalar<decltype(x)>(0) * sum(x[1])); },
    {.exact_views = false});
// With a bias around 1 the slopes are near 1. Around 0 the three terms of a bias gradient cancel to
// a few hundredths at one of the ragged sizes, and what is left is off by 3e-5 of itself. Here the
// worst of all is 2e-6 with -O2, and 1.3e-5 in the sanitizers' build (-O1).
#define LINEAR_ROW(name, act)                                                                  \
  OP_CASE(                                                                                     \
      linear_##name, full_shapes,                                                              \
      [](auto& x) {                                                                            \
        return linear(x[0], x[1], x[2], {.activation = act, .residual = x[3], .scale = x[4]}); \
      },                                                                                       \
      [](auto& x) {                                                                            \
        return linear_composed(x[0], x[1], x[2],                                               \
                               {.activation = act, .residual = x[3], .scale = x[4]});          \
      },                                                                                       \
      {.ranges = {{-1, 1}, {-1, 1}, {0.5, 1.5}, {-1, 1}, {-1, 1}},                             \
       .exact_views = false,                                                                   \
       .large = {Shape{300, 64}, Shape{96, 64}, Shape{96}, Shape{300, 96}, Shape{96}}})
LINEAR_ROW(residual_scale, Activation::none);
LINEAR_ROW(gelu, Activation::gelu);
LINEAR_ROW(gelu_tanh, Activation::gelu_tanh);
LINEAR_ROW(quick_gelu, Activation::quick_gelu);
LINEAR_ROW(silu, Activation::silu);
OP_CASE(
    linear_relu, {Shape{3, 5}, Shape{4, 5}, Shape{4}},
    [](auto& x) { return linear(x[0], x[1], x[2], {.activation = Activation::relu}); },
    [](auto& x) { return relu(linear_composed(x[0], x[1], x[2])); },
    // Positive sums keep away from the kink at 0; the other side is checked below.
    {.ranges = {{0.5, 1}, {0.5, 1}, {-0.2, 0.2}}, .exact_views = false});
OP_CASE(
    linear_scale_only, {Shape{3, 5}, Shape{4, 5}, Shape{4}},
    [](auto& x) { return linear(x[0], x[1], {}, {.activation = Activation::gelu, .scale = x[2]}); },
    [](auto& x) {
      return linear_composed(x[0], x[1], {}, {.activation = Activation::gelu, .scale = x[2]});
    },
    {.exact_views = false});
OP_CASE(
    checkpoint, {Shape{3, 5}},
    [](auto& x) { return checkpoint([](const auto& u) { return gelu(mul(u, u)); }, x[0]); },
    [](auto& x) { return gelu(mul(x[0], x[0])); });

TEST_CASE("products of nothing are zero, and of no rows empty") {
  CHECK(matmul(Tensor<float>::empty({2, 0}), Tensor<float>::empty({0, 3})).values() ==
        std::vector<float>(6, 0.f));
  CHECK(linear(Tensor<float>::empty({2, 0}), Tensor<float>::empty({3, 0}),
               Tensor<float>({3}, {1, 2, 3}))
            .values() == std::vector<float>{1, 2, 3, 1, 2, 3});
  CHECK(matmul(Tensor<float>::empty({0, 2}), Tensor<float>::zeros({2, 3})).shape() == Shape{0, 3});
}
TEST_CASE("the fused relu cuts what is negative, and its gradient") {
  const Tensor<float> w({2, 1}, {1, -1});
  Tensor<float> x({2, 1}, {3, -2});
  x.requires_grad();
  const auto y = linear(x, w, {}, {.activation = Activation::relu});
  CHECK(y.values() == std::vector<float>{3, 0, 0, 2});
  backward(sum(y));
  CHECK(x.grad().values() == std::vector<float>{1, -1});
}
TEST_CASE("products name shapes that do not fit") {
  const auto a = Tensor<float>::zeros({2, 3}), w = Tensor<float>::zeros({4, 3});
  CHECK_ERROR(shape, "matmul: inner sizes differ; a (2,3), b (2,3)", matmul(a, a));
  CHECK_ERROR(shape, "matmul: inner sizes differ; a (2,3), b (3)",
              matmul(a, Tensor<float>::zeros({3})));
  CHECK_ERROR(shape, "matmul: shapes do not broadcast; a (2), b (3)",
              matmul(Tensor<float>::zeros({2, 2, 3}), Tensor<float>::zeros({3, 3, 2})));
  CHECK_ERROR(shape,
              "linear: input width differs from the weight's; x (2,3), weight (out,in) (3,4)",
              linear(a, Tensor<float>::zeros({3, 4})));
  CHECK_ERROR(shape, "linear: bias (3) for weight (out,in) (4,3)",
              linear(a, w, Tensor<float>::zeros({3})));
  CHECK_ERROR(shape, "linear: residual (2,3), output (2,4)", linear(a, w, {}, {.residual = a}));
  CHECK_ERROR(shape, "linear: scale (1) for weight (out,in) (4,3)",
              linear(a, w, {}, {.scale = Tensor<float>::zeros({1})}));
}
TEST_CASE("checkpoint reaches the parameters that its function uses") {
  Tensor<double> w({2}, {3, 4}), x({2}, {1, 2});
  w.requires_grad();
  backward(sum(checkpoint([&](const Tensor<double>& u) { return mul(u, w); }, x)));
  CHECK(w.grad().values() == std::vector<double>{1, 2});
}
