// Rows of ops/rope.hpp and ops/gated.hpp, and rotations by hand.
#include <moraine/nn/rope.hpp>
#include <moraine/ops/gated.hpp>

#include "../op_case.hpp"

using namespace moraine;

namespace {
/// A table (n-1,2,d) for all but the first of n tokens, by a grid of one row.
template <class T>
Tensor<T> rope_row_table(Rope kind, Index n, Index d) {
  const RopeConfig c{.kind = kind};
  return rope_table<T>(c, rope_periods<T>(c, d), 1, n < 1 ? 0 : n - 1);
}
}  // namespace

// qkv (B,N,3HD) with H 3 and D 12 (a tail of four and of six), the first token not turned.
OP_CASE(rope_half, {Shape{2, 5, 108}},
        [](auto& x) {
          using T = typename std::decay_t<decltype(x[0])>::value_type;
          return rope(x[0], rope_row_table<T>(Rope::half, x[0].size(1), 12), {.heads = 3});
        },
        {.fixed = {108}, .large = {Shape{3, 400, 108}}});
OP_CASE(rope_interleaved, {Shape{2, 5, 108}},
        [](auto& x) {
          using T = typename std::decay_t<decltype(x[0])>::value_type;
          return rope(x[0], rope_row_table<T>(Rope::interleaved, x[0].size(1), 12),
                      {.heads = 3, .layout = RopeLayout::interleaved});
        },
        {.fixed = {108}, .large = {Shape{3, 400, 108}}});

#define GATED_ROW(act)                                                                      \
  OP_CASE(                                                                                  \
      gated_##act, {Shape{3, 4, 22}}, [](auto& x) { return gated(x[0], Activation::act); }, \
      [](auto& x) { return gated_composed(x[0], Activation::act); },                        \
      {.low = -2, .high = 2, .fixed = {22}, .large = {Shape{300, 4, 22}}})
GATED_ROW(silu);
GATED_ROW(gelu);
GATED_ROW(none);

TEST_CASE("rope: by hand, both layouts, and what is left alone") {
  // One head of four channels; two tokens, the second a quarter turn in pair 0 and none in pair 1.
  const std::vector<float> x{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
                             1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const auto turned = [&](RopeLayout layout, const std::vector<float>& table) {
    return rope(Tensor<float>({1, 2, 12}, x), Tensor<float>({1, 2, 4}, table), {.layout = layout})
        .values();
  };
  CHECK(turned(RopeLayout::half, {0, 1, 0, 1, 1, 0, 1, 0}) ==
        std::vector<float>{1,  2, 3, 4, 5,  6, 7, 8, 9, 10, 11, 12,
                           -3, 2, 1, 4, -7, 6, 5, 8, 9, 10, 11, 12});
  CHECK(turned(RopeLayout::interleaved, {0, 0, 1, 1, 1, 1, 0, 0}) ==
        std::vector<float>{1,  2, 3, 4, 5,  6, 7, 8, 9, 10, 11, 12,
                           -2, 1, 3, 4, -6, 5, 7, 8, 9, 10, 11, 12});
}

TEST_CASE("rope: in place only where nobody else holds the projection") {
  const Tensor<float> table = rope_row_table<float>(Rope::half, 3, 4);
  Tensor<float> x = op_test::uniforms<float>({1, 3, 12}), other = x;
  const std::vector<float> before = x.values();
  const Tensor<float> copied = rope(std::move(x), table, {});
  CHECK(copied.data() != other.data());
  CHECK(other.values() == before);
  const float* at = other.data();
  const Tensor<float> here = rope(std::move(other), table, {});
  CHECK(here.data() == at);
  CHECK(here.values() == copied.values());
  // A borrowed tensor may be a mapped file: copied though one handle is all there is.
  std::vector<float> own = before;
  CHECK(rope(Tensor<float>::borrow(own.data(), {1, 3, 12}), table, {}).values() == copied.values());
  CHECK(own == before);
}

TEST_CASE("rope: periods, exact and as Meta's files hold them") {
  const RopeConfig c{.kind = Rope::half}, bf16{.kind = Rope::half, .periods = RopePeriods::bf16};
  const std::vector<float> rounded{1,       1.3359375f, 1.78125f, 2.375f,   3.15625f, 4.21875f,
                                   5.625f,  7.5f,       10,       13.3125f, 17.75f,   23.75f,
                                   31.625f, 42.25f,     56.25f,   75};
  CHECK(rope_periods<float>(bf16, 64).values() == rounded);
  const std::vector<float> exact = rope_periods<float>(c, 64).values();
  CHECK(exact[1] == doctest::Approx(1.333521).epsilon(1e-6));
  CHECK(exact[15] == doctest::Approx(74.989418).epsilon(1e-6));
  CHECK_ERROR(value, "rope: the head size must be a multiple of 4; 6", rope_periods<float>(c, 6));
}

TEST_CASE("rope, gated: what does not fit is refused") {
  const auto qkv = Tensor<float>::zeros({1, 3, 12});
  CHECK_ERROR(shape, "rope: needs (B,N,3C) with C a multiple of the heads; qkv (1,3,12), heads 3",
              rope(qkv, Tensor<float>::zeros({3, 2, 4}), {.heads = 3}));
  CHECK_ERROR(shape,
              "rope: needs a table (P,2,D) with P <= N and D = C / heads even; table (4,2,4), qkv "
              "(1,3,12), heads 1",
              rope(qkv, Tensor<float>::zeros({4, 2, 4}), {}));
  CHECK_ERROR(shape, "gated: needs (...,2F); ab (2,3)",
              gated(Tensor<float>::zeros({2, 3}), Activation::silu));
}
