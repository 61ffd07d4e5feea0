// Rows of ops/reduce.hpp.
#include <cmath>
#include <moraine/autograd/backward.hpp>
#include <moraine/ops/reduce.hpp>

#include "../op_case.hpp"

using namespace moraine;

OP_CASE(sum, {Shape{3, 5, 2}}, [](auto& x) { return sum(x[0]); });
OP_CASE(sum_last, {Shape{3, 5}}, [](auto& x) { return sum(x[0], {.axes = {-1}}); });
OP_CASE(sum_first, {Shape{3, 5}}, [](auto& x) { return sum(x[0], {.axes = {0}}); });
OP_CASE(sum_two_runs, {Shape{3, 5, 2, 4}}, [](auto& x) {
  return sum(x[0], {.axes = {0, 2}, .keep = true});
});
OP_CASE(mean, {Shape{3, 5}}, [](auto& x) { return mean(x[0]); });
OP_CASE(mean_middle, {Shape{3, 5, 2}}, [](auto& x) { return mean(x[0], {.axes = {1}}); });
OP_CASE(max, {Shape{3, 5}}, [](auto& x) { return max(x[0], -1).values; }, {.apart = true});
OP_CASE(max_middle, {Shape{3, 5, 2}}, [](auto& x) { return max(x[0], 1).values; }, {.apart = true});
OP_CASE(min_keep, {Shape{3, 5}}, [](auto& x) { return extremum(x[0], 0, true, true).values; },
        {.apart = true, .empty = {5}});

TEST_CASE("sums of nothing, and of one") {
  CHECK(sum(Tensor<float>::empty({0, 3})).item() == 0.f);
  CHECK(sum(Tensor<float>::empty({2, 0}), {.axes = {1}}).values() == std::vector<float>{0, 0});
  CHECK(std::isnan(mean(Tensor<float>::empty({0})).item()));
  CHECK(sum(Tensor<float>::scalar(3)).item() == 3.f);
}
TEST_CASE("extrema: the first of equals, NaN above all, an empty axis refused") {
  Tensor<float> x({2, 3}, {1, 3, 3, 2, NAN, 5});
  const auto m = max(x, 1);
  CHECK(m.indices.values() == std::vector<std::int64_t>{1, 1});
  CHECK(m.values.values()[0] == 3.f);
  CHECK(std::isnan(m.values.values()[1]));
  CHECK(argmax(x, 0).values() == std::vector<std::int64_t>{1, 1, 1});
  x.requires_grad();
  backward(max(x, 1).values, Tensor<float>::ones({2}));
  CHECK(x.grad().values() == std::vector<float>{0, 1, 0, 0, 1, 0});
  CHECK_ERROR(shape, "amax: axis 0 is empty; x (0,2)", max(Tensor<float>::empty({0, 2}), 0));
  CHECK(max(Tensor<float>::empty({0, 2}), 1).values.shape() == Shape{0});
}
TEST_CASE("a long sum in float keeps its digits") {
  const Index n = 1 << 20;
  const auto x = Tensor<float>::full({n}, 0.1f);
  CHECK(std::abs(sum(x).item() / (double(n) * 0.1f) - 1) < 1e-4);
  CHECK(std::abs(sum(x.reshaped({n, 1}), {.axes = {0}}).item() / (double(n) * 0.1f) - 1) < 1e-4);
}
TEST_CASE("axes that are not there are named") {
  const auto x = Tensor<float>::zeros({2, 3});
  CHECK_ERROR(shape, "axis 2 of a tensor with 2 axes", sum(x, {.axes = {2}}));
  CHECK_ERROR(shape, "axis -3 of a tensor with 2 axes", max(x, -3));
  CHECK_ERROR(shape, "expand: (2,3) does not fit (3,3)", expand_view(x, {3, 3}));
}
