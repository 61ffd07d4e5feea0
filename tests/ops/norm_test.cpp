// Rows of ops/norm.hpp.
#include <moraine/ops/norm.hpp>

#include "../op_case.hpp"

using namespace moraine;

OP_CASE(
    layer_norm, {Shape{3, 7}, Shape{7}, Shape{7}},
    [](auto& x) { return layer_norm(x[0], x[1], x[2], 1e-6); },
    [](auto& x) { return layer_norm_composed(x[0], x[1], x[2], 1e-6); });
OP_CASE(
    layer_norm_plain, {Shape{2, 3, 5}},
    [](auto& x) {
      using T = op_test::scalar<decltype(x)>;
      return layer_norm(x[0], Tensor<T>(), Tensor<T>(), 1e-5);
    },
    [](auto& x) {
      using T = op_test::scalar<decltype(x)>;
      return layer_norm_composed(x[0], Tensor<T>(), Tensor<T>(), 1e-5);
    });

TEST_CASE("layer_norm names what does not fit") {
  const auto x = Tensor<float>::zeros({2, 3});
  CHECK_ERROR(shape, "layer_norm: weight or bias (2) for x (2,3)",
              layer_norm(x, Tensor<float>::zeros({2}), Tensor<float>(), 1e-6));
  CHECK_ERROR(shape, "layer_norm: needs at least one axis; x ()",
              layer_norm(Tensor<float>::scalar(1), Tensor<float>(), Tensor<float>(), 1e-6));
}
TEST_CASE("a constant row has norm 0, without overflow") {
  const auto y = layer_norm(Tensor<float>::full({2, 9}, 7), Tensor<float>(), Tensor<float>(), 1e-6);
  CHECK(y.values() == std::vector<float>(18, 0.f));
}
