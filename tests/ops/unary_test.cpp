// Rows of ops/unary.hpp.
#include <cmath>
#include <moraine/ops/binary.hpp>
#include <moraine/ops/unary.hpp>

#include "../op_case.hpp"

using namespace moraine;
using op_test::scalar;

namespace {
// The smallest relative step that a row of this shape takes is 8e-4, so inputs near a pole are out.
const std::vector<Shape> flat{Shape{3, 7}};
}  // namespace

OP_CASE(neg, flat, [](auto& x) { return neg(x[0]); });
OP_CASE(exp, flat, [](auto& x) { return exp(x[0]); }, {.low = -4, .high = 4});
OP_CASE(log, flat, [](auto& x) { return log(x[0]); }, {.low = 0.2, .high = 5});
OP_CASE(log1p, flat, [](auto& x) { return log1p(x[0]); }, {.low = -0.7, .high = 5});
OP_CASE(sqrt, flat, [](auto& x) { return sqrt(x[0]); }, {.low = 0.2, .high = 5});
OP_CASE(rsqrt, flat, [](auto& x) { return rsqrt(x[0]); }, {.low = 0.2, .high = 5});
OP_CASE(square, flat, [](auto& x) { return square(x[0]); });
OP_CASE(abs, flat, [](auto& x) { return abs(x[0]); }, {.kinks = {0}});
OP_CASE(sin, flat, [](auto& x) { return sin(x[0]); }, {.low = -7, .high = 7});
OP_CASE(cos, flat, [](auto& x) { return cos(x[0]); }, {.low = -7, .high = 7});
OP_CASE(tanh, flat, [](auto& x) { return tanh(x[0]); }, {.low = -3, .high = 3});
OP_CASE(erf, flat, [](auto& x) { return erf(x[0]); }, {.low = -3, .high = 3});
OP_CASE(sigmoid, flat, [](auto& x) { return sigmoid(x[0]); }, {.low = -6, .high = 6});
OP_CASE(softplus, flat, [](auto& x) { return softplus(x[0]); }, {.low = -6, .high = 6});
OP_CASE(
    normal_cdf, flat, [](auto& x) { return normal_cdf(x[0]); },
    [](auto& x) {
      using T = scalar<decltype(x)>;
      return scale(erf(scale(x[0], T(0.70710678118654752440))) + T(1), T(0.5));
    },
    {.low = -3, .high = 3});
OP_CASE(relu, flat, [](auto& x) { return relu(x[0]); }, {.kinks = {0}});
OP_CASE(
    gelu, flat, [](auto& x) { return gelu(x[0]); },
    [](auto& x) { return mul(x[0], normal_cdf(x[0])); }, {.low = -3, .high = 3});
OP_CASE(
    gelu_tanh, flat, [](auto& x) { return gelu_tanh(x[0]); },
    [](auto& x) {
      using T = scalar<decltype(x)>;
      const auto inner = add(x[0], scale(mul(square(x[0]), x[0]), T(0.044715)));
      return mul(scale(x[0], T(0.5)), tanh(scale(inner, T(0.79788456080286535588))) + T(1));
    },
    {.low = -3, .high = 3});
OP_CASE(
    quick_gelu, flat, [](auto& x) { return quick_gelu(x[0]); },
    [](auto& x) {
      using T = scalar<decltype(x)>;
      return mul(x[0], sigmoid(scale(x[0], T(1.702))));
    },
    {.low = -3, .high = 3});
OP_CASE(
    silu, flat, [](auto& x) { return silu(x[0]); },
    [](auto& x) { return mul(x[0], sigmoid(x[0])); }, {.low = -6, .high = 6});

TEST_CASE("unary: scalars, empty tensors and the ends of the range") {
  CHECK(exp(Tensor<float>::scalar(0)).item() == 1.f);
  CHECK(gelu(Tensor<float>::empty({0, 3})).shape() == Shape{0, 3});
  const Tensor<float> far({2}, {1e4f, -1e4f});
  CHECK(sigmoid(far).values() == std::vector<float>{1, 0});
  CHECK(silu(far).values() == std::vector<float>{1e4f, 0});
  CHECK(softplus(far).values() == std::vector<float>{1e4f, 0});
  CHECK(gelu(far).values() == std::vector<float>{1e4f, 0});
  CHECK(tanh(far).values() == std::vector<float>{1, -1});
}
TEST_CASE("activate() is the op of the same name") {
  const Tensor<float> x({3}, {-1, 0.5, 2});
  CHECK(activate(Activation::none, x).values() == x.values());
  CHECK(activate(Activation::gelu, x).values() == gelu(x).values());
  CHECK(activate(Activation::gelu_tanh, x).values() == gelu_tanh(x).values());
  CHECK(activate(Activation::quick_gelu, x).values() == quick_gelu(x).values());
  CHECK(activate(Activation::silu, x).values() == silu(x).values());
  CHECK(activate(Activation::relu, x).values() == relu(x).values());
}
