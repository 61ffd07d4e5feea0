// Rows of ops/compare.hpp.
#include <cmath>
#include <moraine/ops/compare.hpp>

#include "../op_case.hpp"

using namespace moraine;
using op_test::integers;
using Bytes = std::vector<std::uint8_t>;

namespace {
Mask mask_for(const Shape& s) {
  const auto i = integers(s, 2);
  return equal(i, 1);
}
}  // namespace

OP_CASE(where, {Shape{3, 4}, Shape{3, 4}},
        [](auto& x) { return where(mask_for(x[0].shape()), x[0], x[1]); }, {.nan_spreads = false});
OP_CASE(where_broadcast, {Shape{3, 1, 4}, Shape{2, 1}},
        [](auto& x) { return where(mask_for({x[0].size(-1)}), x[0], x[1]); },
        {.nan_spreads = false, .large = {Shape{3, 1, 40000}, Shape{2, 1}}});
OP_CASE(masked_fill, {Shape{3, 4}},
        [](auto& x) { return masked_fill(x[0], mask_for({x[0].size(-1)}), 2.5); },
        {.nan_spreads = false});
OP_CASE(less_mask, {Shape{3, 4}, Shape{4}},
        [](auto& x) {
          using T = op_test::scalar<decltype(x)>;
          return cast<T>(less(x[0], x[1]));
        },
        {.gradient = false, .nan_spreads = false});

TEST_CASE("every comparison, with NaN") {
  const Tensor<float> a({4}, {1, 2, 3, NAN}), b({4}, {2, 2, 2, 2});
  CHECK(equal(a, b).values() == Bytes{0, 1, 0, 0});
  CHECK(not_equal(a, b).values() == Bytes{1, 0, 1, 1});
  CHECK(less(a, b).values() == Bytes{1, 0, 0, 0});
  CHECK(less_equal(a, b).values() == Bytes{1, 1, 0, 0});
  CHECK(greater(a, b).values() == Bytes{0, 0, 1, 0});
  CHECK(greater_equal(a, 2).values() == Bytes{0, 1, 1, 0});
  CHECK(equal(Tensor<std::int64_t>({3}, {1, 255, 3}), 255).values() == Bytes{0, 1, 0});
}
TEST_CASE("masks that do not fit are refused") {
  const auto x = Tensor<float>::zeros({2, 3});
  CHECK_ERROR(shape, "less: shapes do not broadcast; a (2,3), b (2)",
              less(x, Tensor<float>::zeros({2})));
  CHECK_ERROR(shape, "where: shapes do not broadcast; a (2,3), b (4)",
              where(Mask::zeros({4}), x, x));
  CHECK_ERROR(shape, "expand: (2,2,3) does not fit (2,3)",
              masked_fill(x, Mask::zeros({2, 2, 3}), 1));
}
