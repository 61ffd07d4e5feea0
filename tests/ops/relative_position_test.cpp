// Rows of ops/relative_position.hpp against the definition.
#include <moraine/ops/relative_position.hpp>

#include "../op_case.hpp"

using namespace moraine;

// qkv (B,rows,columns,3HD) with B 2 and H 3, and a table. The map stays: its table goes with it.
#define MORAINE_RELATIVE_CASE(name, map, d, axis, s, ...)                                         \
  OP_CASE(                                                                                        \
      name, {map, Shape{2 * s - 1, d}},                                                           \
      [](auto& x) {                                                                               \
        const Shape n = x[0].shape();                                                             \
        return relative_position(reshape(x[0], {n[0], n[1] * n[2], n[3]}), 3, x[1], {n[1], n[2]}, \
                                 MapAxis::axis);                                                  \
      },                                                                                          \
      [](auto& x) {                                                                               \
        const Shape n = x[0].shape();                                                             \
        return relative_position_composed(reshape(x[0], {n[0], n[1] * n[2], n[3]}), 3, x[1],      \
                                          {n[1], n[2]}, MapAxis::axis);                           \
      },                                                                                          \
      {.fixed = {map[1], map[2], map[3], 2 * s - 1, d}, __VA_ARGS__})

MORAINE_RELATIVE_CASE(relative_rows, (Shape{2, 4, 6, 45}), 5, rows, 4,
                      .large = {Shape{64, 4, 6, 45}, Shape{7, 5}});
MORAINE_RELATIVE_CASE(relative_columns, (Shape{2, 4, 6, 45}), 5, columns, 6,
                      .large = {Shape{64, 4, 6, 45}, Shape{11, 5}});
MORAINE_RELATIVE_CASE(relative_one_row, (Shape{2, 1, 6, 45}), 5, rows, 1,
                      .large = {Shape{64, 1, 6, 45}, Shape{1, 5}});

TEST_CASE("relative positions by hand: the key before comes later in the table") {
  // Two heads of one element, a map of 1 x 2: y(n,k) = q(n) table(n - k + 1).
  const Tensor<float> qkv({1, 2, 6}, {2, 3, 0, 0, 0, 0, 5, 7, 0, 0, 0, 0}),
      table({3, 1}, {1, 10, 100});
  const Tensor<float> y = relative_position(qkv, 2, table, {1, 2}, MapAxis::columns);
  CHECK(y.shape() == Shape{1, 2, 2, 2});
  CHECK(y.values() == std::vector<float>{20, 2, 500, 50, 30, 3, 700, 70});
}

TEST_CASE("relative positions: what does not fit is refused") {
  const auto qkv = Tensor<float>::zeros({1, 6, 12});
  CHECK_ERROR(shape,
              "relative_position: needs qkv (B,rows*columns,3C) and a table (2S-1,C/heads), S the "
              "rows; qkv (1,6,12), heads 2, map (2,3), table (5,2)",
              relative_position(qkv, 2, Tensor<float>::zeros({5, 2}), {2, 3}, MapAxis::rows));
}
