// Rows of ops/pad.hpp, ops/roll.hpp and ops/window_partition.hpp.
#include <moraine/ops/pad.hpp>
#include <moraine/ops/roll.hpp>
#include <moraine/ops/window_partition.hpp>

#include "../op_case.hpp"

using namespace moraine;
using Floats = std::vector<float>;

OP_CASE(pad_constant, {Shape{2, 3, 4}}, [](auto& x) {
  return pad(x[0], {{1, 2}, {0, 3}}, {.value = 0.5});
});
OP_CASE(pad_constant_crop, {Shape{2, 5, 6}},
        [](auto& x) {
          return pad(x[0], {{-1, 2}, {1, -2}});
        },
        {.fixed = {5, 6}, .nan_spreads = false});
OP_CASE(pad_reflect, {Shape{2, 3, 4}},
        [](auto& x) {
          return pad(x[0], {{2, 1}, {0, 3}}, {.mode = PadMode::reflect});
        },
        {.fixed = {3, 4}});
OP_CASE(pad_replicate, {Shape{2, 3, 4}}, [](auto& x) {
  return pad(x[0], {{2, 1}, {0, 7}}, {.mode = PadMode::replicate});
});
OP_CASE(roll, {Shape{2, 5, 4}}, [](auto& x) { return roll(x[0], {2, -1}, {1, 2}); });
OP_CASE(flip, {Shape{2, 5, 4}}, [](auto& x) { return flip(x[0], {0, -1}); });
OP_CASE(window_partition, {Shape{2, 5, 7, 3}}, [](auto& x) { return window_partition(x[0], 4); });
OP_CASE(
    window_round_trip, {Shape{2, 5, 7, 3}},
    [](auto& x) {
      return window_unpartition(window_partition(x[0], 3), x[0].size(1), x[0].size(2));
    },
    [](auto& x) { return reshape(x[0], x[0].shape()); });

TEST_CASE("padding by hand") {
  const Tensor<float> x({3}, {1, 2, 3});
  CHECK(pad(x, {{2, 1}}, {.value = 9}).values() == Floats{9, 9, 1, 2, 3, 9});
  CHECK(pad(x, {{2, 2}}, {.mode = PadMode::reflect}).values() == Floats{3, 2, 1, 2, 3, 2, 1});
  CHECK(pad(x, {{2, 1}}, {.mode = PadMode::replicate}).values() == Floats{1, 1, 1, 2, 3, 3});
  CHECK(pad(x, {{-1, 1}}).values() == Floats{2, 3, 0});
  CHECK(pad(Tensor<float>::empty({0, 2}), {{1, 0}, {0, 1}}).values() == Floats{0, 0, 0});
}
TEST_CASE("roll and flip by hand") {
  const Tensor<float> x({4}, {1, 2, 3, 4});
  CHECK(roll(x, {1}, {0}).values() == Floats{4, 1, 2, 3});
  CHECK(roll(x, {-9}, {0}).values() == Floats{2, 3, 4, 1});
  CHECK(flip(x, {0}).values() == Floats{4, 3, 2, 1});
}
TEST_CASE("windows by hand: row by row, zeros where the map ends") {
  const Tensor<float> x({1, 2, 3, 1}, {1, 2, 3, 4, 5, 6});
  const auto w = window_partition(x, 2);
  CHECK(w.shape() == Shape{2, 2, 2, 1});
  CHECK(w.values() == Floats{1, 2, 4, 5, 3, 0, 6, 0});
}
TEST_CASE("what cannot be padded or cut is refused") {
  const auto x = Tensor<float>::zeros({2, 3});
  CHECK_ERROR(shape, "pad: reflect by 3 and 0 on axis 1 of (2,3)",
              pad(x, {{3, 0}}, {.mode = PadMode::reflect}));
  CHECK_ERROR(shape, "pad: replicate by -1 and 0 on axis 1 of (2,3)",
              pad(x, {{-1, 0}}, {.mode = PadMode::replicate}));
  CHECK_ERROR(shape, "pad: replicate by 1 and 0 on axis 0 of (0)",
              pad(Tensor<float>::empty({0}), {{1, 0}}, {.mode = PadMode::replicate}));
  CHECK_ERROR(shape, "pad: cuts off more than there is; axis 1 of (2,3) by -2 and -2",
              pad(x, {{-2, -2}}));
  CHECK_ERROR(shape, "pad: 3 axes to pad; x (2,3)", pad(x, {{}, {}, {}}));
  CHECK_ERROR(shape, "roll: 1 shifts for 2 axes", roll(x, {1}, {0, 1}));
  CHECK_ERROR(shape, "window_partition: needs (B,H,W,C) and a size of at least 1; x (2,3), size 2",
              window_partition(x, 2));
  CHECK_ERROR(
      shape, "window_unpartition: needs square windows that fill a map of 4 x 4; windows (3,2,2,1)",
      window_unpartition(Tensor<float>::zeros({3, 2, 2, 1}), 4, 4));
}
