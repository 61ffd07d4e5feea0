// Rows of ops/dropout.hpp.
#include <cmath>
#include <moraine/ops/dropout.hpp>

#include "../op_case.hpp"

using namespace moraine;

OP_CASE(dropout, {Shape{3, 7}},
        [](auto& x) {
          return dropout(x[0], {.p = 0.3, .training = true, .random = Random(1, "row", 0)});
        },
        {.nan_spreads = false});
OP_CASE(drop_path, {Shape{5, 3, 2}},
        [](auto& x) {
          return drop_path(x[0], {.p = 0.5, .training = true, .random = Random(3, "row", 0)});
        },
        {.fixed = {5}, .nan_spreads = false, .large = {Shape{5, 3, 20000}}});

TEST_CASE("dropout drops its share, keeps the mean, and follows its counter") {
  const auto x = Tensor<float>::ones({100000});
  const auto drop = [&](std::uint64_t step) {
    return dropout(x, {.p = 0.25, .training = true, .random = Random(7, "layer 1", step)}).values();
  };
  const std::vector<float> y = drop(0);
  Index zeros = 0, kept = 0;
  for (float v : y) zeros += v == 0, kept += v == 1.f / 0.75f;
  CHECK(zeros + kept == 100000);
  // Five standard deviations of a binomial count.
  CHECK(std::abs(double(zeros) - 25000) < 5 * std::sqrt(100000 * 0.25 * 0.75));
  CHECK(drop(0) == y);
  CHECK(drop(1) != y);
}
TEST_CASE("outside training nothing happens, and everything may be dropped") {
  const Tensor<float> x({2, 2}, {1, 2, 3, 4});
  CHECK(dropout(x, {.p = 0.9}).data() == x.data());
  CHECK(dropout(x, {.p = 1, .training = true}).values() == std::vector<float>(4, 0.f));
  CHECK_ERROR(value, "dropout: p must lie in [0,1]; p 1.500000", dropout(x, {.p = 1.5}));
  CHECK_ERROR(value, "drop_path: p must lie in [0,1]; p nan", drop_path(x, {.p = NAN}));
}
TEST_CASE("drop_path drops samples whole") {
  const auto y = drop_path(Tensor<float>::ones({64, 3}),
                           {.p = 0.5, .training = true, .random = Random(5, "path", 2)});
  Index dropped = 0;
  for (Index b = 0; b < 64; ++b) {
    const float v = y.at({b, 0});
    CHECK(y.at({b, 1}) == v);
    CHECK(y.at({b, 2}) == v);
    dropped += v == 0;
  }
  CHECK(dropped > 12);
  CHECK(dropped < 52);
}
