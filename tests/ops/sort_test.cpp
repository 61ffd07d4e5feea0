// Rows of ops/sort.hpp.
#include <cmath>
#include <moraine/ops/sort.hpp>

#include "../op_case.hpp"

using namespace moraine;
using Ids = std::vector<std::int64_t>;

OP_CASE(top_k, {Shape{3, 7}},
        [](auto& x) { return top_k(x[0], x[0].size(1) < 2 ? x[0].size(1) : 2).values; },
        {.apart = true});
OP_CASE(top_k_many, {Shape{3, 12}}, [](auto& x) { return top_k(x[0], x[0].size(1)).values; },
        {.apart = true});
OP_CASE(
    top_k_smallest_middle, {Shape{3, 7, 2}},
    [](auto& x) {
      return top_k(x[0], x[0].size(1) < 3 ? x[0].size(1) : 3, {.axis = 1, .largest = false}).values;
    },
    {.apart = true, .nan_spreads = false});
OP_CASE(sort, {Shape{3, 7}}, [](auto& x) { return sort(x[0]).values; }, {.apart = true});
OP_CASE(sort_descending, {Shape{3, 7}},
        [](auto& x) { return sort(x[0], {.axis = 0, .descending = true}).values; },
        {.apart = true});

TEST_CASE("ties go to the lower index, in both directions and for any k") {
  const Tensor<float> x({7}, {1, 3, 3, 2, 3, 1, 2});
  CHECK(top_k(x, 2).indices.values() == Ids{1, 2});
  CHECK(top_k(x, 7).indices.values() == Ids{1, 2, 4, 3, 6, 0, 5});
  CHECK(top_k(x, 3, {.largest = false}).indices.values() == Ids{0, 5, 3});
  CHECK(argsort(x).values() == Ids{0, 5, 3, 6, 1, 2, 4});
  CHECK(argsort(x, {.descending = true}).values() == Ids{1, 2, 4, 3, 6, 0, 5});
  const auto flat = Tensor<float>::zeros({20});  // more than the short list
  CHECK(top_k(flat, 10).indices.values() == Ids{0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  CHECK(top_k(Tensor<float>({2}, {-0.f, 0.f}), 1).indices.values() == Ids{0});
}
TEST_CASE("NaN is the largest") {
  const Tensor<float> x({4}, {1, NAN, INFINITY, NAN});
  CHECK(top_k(x, 3).indices.values() == Ids{1, 3, 2});
  CHECK(argsort(x).values() == Ids{0, 2, 1, 3});
}
TEST_CASE("more than there is, is refused") {
  const auto x = Tensor<float>::zeros({2, 3});
  CHECK_ERROR(value, "top_k: wants 4 of 3 elements; x (2,3) axis 1", top_k(x, 4));
  CHECK_ERROR(value, "top_k: wants -1 of 2 elements; x (2,3) axis 0", top_k(x, -1, {.axis = 0}));
  CHECK(top_k(x, 0).values.shape() == Shape{2, 0});
  CHECK_ERROR(shape, "axis -1 of a tensor with 0 axes", argsort(Tensor<float>::scalar(1)));
}
