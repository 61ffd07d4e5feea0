// Rows of ops/index.hpp.
#include <moraine/ops/index.hpp>

#include "../op_case.hpp"

using namespace moraine;
using op_test::integers;
using Ids = Tensor<std::int64_t>;

namespace {
/// The shape of x with n elements along the axis.
Shape with(Shape s, int axis, Index n) {
  s[axis] = n;
  return s;
}
/// Positions for an axis that may be empty: then there are none.
Ids positions(const Shape& shape, Index size) {
  return size ? integers(shape, size) : Ids::empty(with(shape, 0, 0));
}
}  // namespace

OP_CASE(index_select, {Shape{5, 3}},
        [](auto& x) { return index_select(x[0], positions({8}, x[0].size(0))); });
OP_CASE(index_select_last, {Shape{3, 5}}, [](auto& x) {
  return index_select(x[0], positions({2 * x[0].size(1)}, x[0].size(1)), -1);
});
OP_CASE(index_select_middle, {Shape{2, 5, 3}},
        [](auto& x) { return index_select(x[0], positions({7}, x[0].size(1)), 1); },
        // Two of five slices may not be read.
        {.nan_spreads = false});
OP_CASE(embedding, {Shape{5, 3}},
        [](auto& x) {
          return embedding(x[0], Ids({2, 3}, {2, 0, 1, 2, 4, 2}));
        },
        {.fixed = {5}, .empty = {3}});
OP_CASE(gather, {Shape{3, 6}}, [](auto& x) {
  const Index n = x[0].size(1);
  return gather(x[0], 1, integers(with(x[0].shape(), 1, n ? 3 * n : 0), n ? n : 1));
});
OP_CASE(gather_first, {Shape{4, 3, 2}}, [](auto& x) {
  const Index n = x[0].size(0);
  return gather(x[0], 0, integers(with(x[0].shape(), 0, n ? 9 : 0), n ? n : 1));
});
OP_CASE(take_along, {Shape{4, 3, 5}}, [](auto& x) {
  const Index n = x[0].size(-1);
  return take_along(x[0], integers({1, 1, 3 * n}, n ? n : 1), -1);
});
OP_CASE(index_add, {Shape{5, 3}, Shape{7, 3}},
        [](auto& x) { return index_add(x[0], 0, integers({x[1].size(0)}, x[0].size(0)), x[1]); },
        {.empty = {3, 7}});
OP_CASE(scatter_add, {Shape{3, 5}, Shape{3, 7}},
        [](auto& x) { return scatter_add(x[0], 1, integers(x[1].shape(), x[0].size(1)), x[1]); },
        {.empty = {3, 7}});
OP_CASE(scatter_add_first, {Shape{5, 3}, Shape{7, 3}},
        [](auto& x) { return scatter_add(x[0], 0, integers(x[1].shape(), x[0].size(0)), x[1]); },
        {.empty = {3, 7}, .large = {Shape{50, 3001}, Shape{70, 3001}}});

TEST_CASE("one_hot") {
  const auto y = one_hot(Ids({2, 2}, {0, 2, 1, 2}), 3);
  CHECK(y.shape() == Shape{2, 2, 3});
  CHECK(y.values() == std::vector<float>{1, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1});
  CHECK(one_hot<double>(Ids::empty({0}), 3).shape() == Shape{0, 3});
  CHECK_ERROR(value, "one_hot: position 3 is outside [0,3); element 1 of indices (2)",
              one_hot(Ids({2}, {0, 3}), 3));
}
TEST_CASE("positions outside the axis and shapes that do not fit are named") {
  const auto x = Tensor<float>::zeros({4, 3});
  CHECK_ERROR(value, "index_select: position 4 is outside [0,4); element 1 of indices (2)",
              index_select(x, Ids({2}, {0, 4})));
  CHECK_ERROR(value, "embedding: position -1 is outside [0,4); element 0 of indices (1)",
              embedding(x, Ids({1}, {-1})));
  CHECK_ERROR(shape, "index_select: indices need one axis; indices (1,2)",
              index_select(x, Ids({1, 2}, {0, 1})));
  CHECK_ERROR(shape, "gather: indices (5,3) differ from x (4,3) in more than axis 1",
              gather(x, 1, Ids::zeros({5, 3})));
  CHECK_ERROR(value, "gather: position 3 is outside [0,3); element 2 of indices (4,1)",
              gather(x, 1, Ids({4, 1}, {0, 1, 3, 0})));
  CHECK_ERROR(shape, "take_along: indices (2,3) do not broadcast to x (4,3) along axis 1",
              take_along(x, Ids::zeros({2, 3}), 1));
  CHECK_ERROR(shape, "scatter_add: indices (4,2) for source (4,3)",
              scatter_add(x, 1, Ids::zeros({4, 2}), Tensor<float>::zeros({4, 3})));
  CHECK_ERROR(shape, "index_add: indices (2) for 3 slices; source (3,3)",
              index_add(x, 0, Ids::zeros({2}), Tensor<float>::zeros({3, 3})));
  CHECK_ERROR(shape, "axis 2 of a tensor with 2 axes", gather(x, 2, Ids::zeros({4, 3})));
}
TEST_CASE("integer tensors are gathered too") {
  const Ids x({2, 3}, {1, 2, 3, 4, 5, 6});
  CHECK(index_select(x, Ids({2}, {2, 0}), 1).values() == std::vector<std::int64_t>{3, 1, 6, 4});
}
