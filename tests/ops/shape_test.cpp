// Rows of ops/shape.hpp.
#include <moraine/ops/binary.hpp>
#include <moraine/ops/shape.hpp>

#include "../op_case.hpp"

using namespace moraine;
using Floats = std::vector<float>;

OP_CASE(reshape, {Shape{3, 4}}, [](auto& x) { return reshape(x[0], {x[0].numel()}); });
OP_CASE(permute, {Shape{2, 3, 4}}, [](auto& x) { return permute(x[0], {2, 0, 1}); });
OP_CASE(transpose, {Shape{2, 3, 4}}, [](auto& x) { return transpose(x[0], 0, -1); });
OP_CASE(expand, {Shape{3, 1, 4}}, [](auto& x) {
  return expand(x[0], {2, x[0].size(0), 5, x[0].size(2)});
});
OP_CASE(slice, {Shape{3, 7}},
        [](auto& x) {
          const Index n = x[0].size(1);
          return slice(x[0], 1, n ? n / 3 : 0, n, 2);
        },
        {.nan_spreads = false});
OP_CASE(concat, {Shape{3, 2}, Shape{3, 5}, Shape{3, 4}}, [](auto& x) {
  return concat<op_test::scalar<decltype(x)>>({x[0], x[1], x[2]}, 1);
});
OP_CASE(concat_first, {Shape{2, 3}, Shape{5, 3}},
        [](auto& x) {
          return concat<op_test::scalar<decltype(x)>>({x[0], x[1]}, 0);
        },
        {.empty = {2, 3, 5}});
OP_CASE(stack, {Shape{3, 4}, Shape{3, 4}}, [](auto& x) {
  return stack<op_test::scalar<decltype(x)>>({x[0], x[1]}, 1);
});
OP_CASE(stack_last, {Shape{3, 4}, Shape{3, 4}}, [](auto& x) {
  return stack<op_test::scalar<decltype(x)>>({x[0], x[1]}, -1);
});
OP_CASE(split, {Shape{3, 7}},
        [](auto& x) {
          const auto p = split(x[0], {2, 4, 1}, 1);
          return add(slice(p[1], 1, 0, 2), p[0]);
        },
        {.fixed = {7}, .nan_spreads = false});

TEST_CASE("shape changes by hand") {
  const Tensor<float> x({2, 3}, {1, 2, 3, 4, 5, 6});
  CHECK(reshape(x, {3, -1}).shape() == Shape{3, 2});
  CHECK(transpose(x).values() == Floats{1, 4, 2, 5, 3, 6});
  CHECK(slice(x, 1, 0, 3, 2).values() == Floats{1, 3, 4, 6});
  CHECK(slice(x, 0, 1, 1).shape() == Shape{0, 3});
  CHECK(stack<float>({x, x}, 0).shape() == Shape{2, 2, 3});
  CHECK(stack<float>({x, x}, -1).values() == Floats{1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6});
  CHECK(split(x, {1, 2}, -1)[1].values() == Floats{2, 3, 5, 6});
  CHECK(slice(Tensor<std::int64_t>::arange(4), 0, 1, 3).values() ==
        std::vector<std::int64_t>{1, 2});
}
TEST_CASE("shapes that do not fit are named") {
  const auto x = Tensor<float>::zeros({2, 3});
  CHECK_ERROR(shape, "reshape: (2,3) has 6 elements; wanted (4,2)", reshape(x, {4, 2}));
  CHECK_ERROR(shape, "reshape: (2,3) has 6 elements; wanted (4,-1)", reshape(x, {4, -1}));
  CHECK_ERROR(shape, "reshape: (2,3) has 6 elements; wanted (-2,-3)", reshape(x, {-2, -3}));
  CHECK_ERROR(shape, "permute: needs each of 2 axes once; x (2,3)", permute(x, {0, 0}));
  CHECK_ERROR(shape, "expand: (2,3) does not fit (3)", expand(x, {3}));
  CHECK_ERROR(shape, "slice: [1,4) step 1 on axis 1 of (2,3)", slice(x, 1, 1, 4));
  CHECK_ERROR(shape, "slice: [0,3) step 0 on axis 1 of (2,3)", slice(x, 1, 0, 3, 0));
  CHECK_ERROR(shape, "concat: no tensors", concat<float>({}, 0));
  CHECK_ERROR(shape, "concat: (2,2) does not fit (2,3) along axis 0",
              concat<float>({x, Tensor<float>::zeros({2, 2})}, 0));
  CHECK_ERROR(shape, "split: pieces add up to 2; x (2,3) axis 1", split(x, {1, 1}, 1));
  CHECK_ERROR(shape, "axis 3 of a tensor with 2 axes", transpose(x, 0, 3));
}
TEST_CASE("a reshape that cannot deduce its size is refused") {
  CHECK_ERROR(shape, "reshape: (0,3) has 0 elements; wanted (0,-1)",
              reshape(Tensor<float>::empty({0, 3}), {0, -1}));
  CHECK_ERROR(shape, "reshape: (2,3) has 6 elements; wanted (-1,-1)",
              reshape(Tensor<float>::zeros({2, 3}), {-1, -1}));
}
