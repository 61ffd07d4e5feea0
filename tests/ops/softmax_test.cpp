// Rows of ops/softmax.hpp.
#include <cmath>
#include <moraine/ops/binary.hpp>
#include <moraine/ops/softmax.hpp>
#include <moraine/ops/unary.hpp>

#include "../op_case.hpp"

using namespace moraine;
using op_test::scalar;

OP_CASE(
    softmax, {Shape{3, 7}}, [](auto& x) { return softmax(x[0]); },
    [](auto& x) {
      const auto e = exp(x[0]);
      return div(e, sum(e, {.axes = {-1}, .keep = true}));
    });
OP_CASE(softmax_middle, {Shape{3, 5, 2}}, [](auto& x) { return softmax(x[0], 1); });
OP_CASE(
    log_softmax, {Shape{3, 7}}, [](auto& x) { return log_softmax(x[0]); },
    [](auto& x) { return log(softmax(x[0])); });
OP_CASE(log_softmax_first, {Shape{4, 5}}, [](auto& x) { return log_softmax(x[0], 0); });

TEST_CASE("softmax keeps its precision far from zero") {
  const Tensor<float> x({2, 3}, {1000.f, 1000.f, 1000.f, -1000.f, 0.f, 1000.f});
  const std::vector<float> y = softmax(x).values();
  CHECK(y[0] == doctest::Approx(1.0 / 3));
  CHECK(y[3] == 0.f);
  CHECK(y[5] == 1.f);
  CHECK(log_softmax(x).values()[3] == -2000.f);
}
TEST_CASE("softmax of a masked row ignores minus infinity") {
  const Tensor<double> x({1, 3}, {0.5, -INFINITY, 1.0});
  const std::vector<double> y = softmax(x).values();
  CHECK(y[1] == 0);
  CHECK(y[0] + y[2] == doctest::Approx(1));
}
TEST_CASE("softmax refuses what has no axis") {
  CHECK_ERROR(shape, "softmax: needs at least one axis; x ()", softmax(Tensor<float>::scalar(1)));
  CHECK_ERROR(shape, "axis 2 of a tensor with 2 axes", softmax(Tensor<float>::zeros({2, 2}), 2));
}
