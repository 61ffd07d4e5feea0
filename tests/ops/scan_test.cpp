// Rows of ops/scan.hpp and ops/logsumexp.hpp.
#include <cmath>
#include <moraine/autograd/backward.hpp>
#include <moraine/ops/binary.hpp>
#include <moraine/ops/logsumexp.hpp>
#include <moraine/ops/scan.hpp>
#include <moraine/ops/unary.hpp>

#include "../op_case.hpp"

using namespace moraine;

OP_CASE(cumsum, {Shape{3, 7}}, [](auto& x) { return cumsum(x[0]); });
OP_CASE(cumsum_middle, {Shape{2, 5, 3}}, [](auto& x) { return cumsum(x[0], 1); },
        {.large = {Shape{5, 40, 700}}});
OP_CASE(
    logsumexp, {Shape{3, 7}}, [](auto& x) { return logsumexp(x[0]); },
    [](auto& x) { return log(sum(exp(x[0]), {.axes = {-1}})); });
OP_CASE(
    logsumexp_first, {Shape{4, 3, 2}},
    [](auto& x) { return logsumexp(x[0], {.axis = 0, .keep = true}); },
    [](auto& x) { return log(sum(exp(x[0]), {.axes = {0}, .keep = true})); }, {.empty = {3}});

TEST_CASE("logsumexp of large values, of nothing and of infinities") {
  const float inf = INFINITY;
  Tensor<float> x({4, 2}, {1000, 1000, -inf, -inf, inf, 1, -inf, 2});
  const std::vector<float> y = logsumexp(x).values();
  CHECK(y[0] == doctest::Approx(1000.6931f));
  CHECK(y[1] == -inf);
  CHECK(y[2] == inf);
  CHECK(y[3] == 2.f);
  CHECK(logsumexp(Tensor<float>::empty({2, 0})).values() == std::vector<float>{-inf, -inf});
  x.requires_grad();
  backward(sum(logsumexp(x)));
  CHECK(x.grad().values()[2] == 0.f);
  CHECK(x.grad().values()[6] == 0.f);
  CHECK(x.grad().values()[7] == 1.f);
}
