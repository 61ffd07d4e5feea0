// Rows of ops/binary.hpp.
#include <cmath>
#include <moraine/ops/binary.hpp>

#include "../op_case.hpp"

using namespace moraine;
using op_test::scalar;

namespace {
const std::vector<Shape> same{Shape{3, 4}, Shape{3, 4}};
const std::vector<Shape> row{Shape{3, 4}, Shape{4}};
const std::vector<Shape> cross{Shape{3, 1, 4}, Shape{2, 1}};
}  // namespace

OP_CASE(add, same, [](auto& x) { return add(x[0], x[1]); });
OP_CASE(add_row, row, [](auto& x) { return add(x[0], x[1]); });
OP_CASE(add_cross, cross, [](auto& x) { return add(x[0], x[1]); },
        {.large = {Shape{3, 1, 40000}, Shape{2, 1}}});
OP_CASE(sub, same, [](auto& x) { return sub(x[0], x[1]); });
OP_CASE(sub_cross, cross, [](auto& x) { return sub(x[0], x[1]); },
        {.large = {Shape{3, 1, 40000}, Shape{2, 1}}});
OP_CASE(mul, same, [](auto& x) { return mul(x[0], x[1]); });
OP_CASE(mul_row, row, [](auto& x) { return mul(x[0], x[1]); });
OP_CASE(mul_cross, cross, [](auto& x) { return mul(x[0], x[1]); },
        {.large = {Shape{3, 1, 40000}, Shape{2, 1}}});
OP_CASE(mul_with_itself, {Shape{3, 4}}, [](auto& x) { return mul(x[0], x[0]); });
OP_CASE(div, same, [](auto& x) { return div(x[0], x[1]); }, {.ranges = {{-1, 1}, {0.5, 2}}});
OP_CASE(div_column, {Shape{3, 4}, Shape{3, 1}}, [](auto& x) { return div(x[0], x[1]); },
        {.ranges = {{-1, 1}, {0.5, 2}}});
OP_CASE(pow, same, [](auto& x) { return pow(x[0], x[1]); }, {.ranges = {{0.3, 2}, {-2, 3}}});
OP_CASE(maximum, same, [](auto& x) { return maximum(x[0], x[1]); }, {.ranges = {{0, 1}, {0, 1}}});
OP_CASE(minimum, same, [](auto& x) { return minimum(x[0], x[1]); });
OP_CASE(scale, {Shape{3, 4}}, [](auto& x) {
  using T = scalar<decltype(x)>;
  return T(0.5) * (-(x[0] * T(3))) + T(2);
});

TEST_CASE("broadcasting by hand") {
  const Tensor<float> a({2, 1}, {1, 10}), b({3}, {1, 2, 3});
  CHECK((a + b).values() == std::vector<float>{2, 3, 4, 11, 12, 13});
  CHECK((Tensor<float>::scalar(2) * b).values() == std::vector<float>{2, 4, 6});
  CHECK((Tensor<float>::empty({0, 1}) + b).shape() == Shape{0, 3});
  CHECK_ERROR(shape, "add: shapes do not broadcast; a (2,3), b (2)",
              add(Tensor<float>::zeros({2, 3}), Tensor<float>::zeros({2})));
  CHECK_ERROR(shape, "div: shapes do not broadcast; a (0), b (2)",
              div(Tensor<float>::zeros({0}), Tensor<float>::zeros({2})));
}
TEST_CASE("maximum and minimum keep a NaN from either side, and give a tie's gradient to a") {
  const Tensor<float> a({3}, {NAN, 1, 2}), b({3}, {1, NAN, 2});
  CHECK(std::isnan(maximum(a, b).values()[0]));
  CHECK(std::isnan(maximum(a, b).values()[1]));
  CHECK(std::isnan(minimum(a, b).values()[0]));
  CHECK(std::isnan(minimum(a, b).values()[1]));
  CHECK(maximum(a, b).values()[2] == 2.f);
}
TEST_CASE("operands on two devices are refused") {
  CHECK_ERROR(device, "add: operands on cpu and cuda -> move one with .to(device)",
              check_device("add", Device::cpu, Device::cuda));
}
