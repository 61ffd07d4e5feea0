// Rows, PyTorch values and refusals of ops/resize.hpp.
#include <moraine/ops/resize.hpp>
#include <moraine/ops/shape.hpp>

#include "../op_case.hpp"
#include "golden.hpp"

using namespace moraine;

namespace {

Interpolation mode_of(const std::string& name) {
  for (Interpolation m : {Interpolation::bilinear, Interpolation::bicubic, Interpolation::area,
                          Interpolation::nearest})
    if (name == name_of(m)) return m;
  CHECK(name == "nearest-exact");
  return Interpolation::nearest_exact;
}
ResizeOptions resize_options(const golden::Parameters& p) {
  const auto size = p.pair("size", 0), factor = p.pair("scale_factor", 0);
  return {.size = {static_cast<Index>(size.first), static_cast<Index>(size.second)},
          .scale_factor = {factor.first, factor.second},
          .mode = mode_of(p.word("mode")),
          .align_corners = p.flag("align_corners"),
          .antialias = p.flag("antialias")};
}

}  // namespace

OP_CASE(resize_bilinear, {Shape{2, 3, 5, 7}}, [](auto& x) {
  return resize(x[0], {.size = {8, 4}});
});
OP_CASE(resize_bilinear_corners, {Shape{2, 3, 5, 7}}, [](auto& x) {
  return resize(x[0], {.size = {8, 4}, .align_corners = true});
});
OP_CASE(resize_bilinear_antialias, {Shape{2, 3, 5, 7}}, [](auto& x) {
  return resize(x[0], {.size = {8, 3}, .antialias = true});
});
OP_CASE(resize_bicubic, {Shape{2, 3, 5, 7}}, [](auto& x) {
  return resize(x[0], {.size = {8, 4}, .mode = Interpolation::bicubic});
});
OP_CASE(resize_bicubic_factor, {Shape{2, 3, 5, 7}}, [](auto& x) {
  return resize(x[0], {.scale_factor = {1.7, 2.3}, .mode = Interpolation::bicubic});
});
OP_CASE(resize_bicubic_antialias, {Shape{2, 3, 5, 7}}, [](auto& x) {
  return resize(x[0], {.size = {8, 3}, .mode = Interpolation::bicubic, .antialias = true});
});
OP_CASE(resize_area, {Shape{2, 3, 5, 7}}, [](auto& x) {
  return resize(x[0], {.size = {8, 3}, .mode = Interpolation::area});
});
OP_CASE(resize_nearest, {Shape{2, 3, 5, 7}},
        [](auto& x) {
          return resize(x[0], {.size = {8, 9}, .mode = Interpolation::nearest});
        },
        {.nan_spreads = false});
OP_CASE(resize_nearest_exact, {Shape{2, 3, 5, 7}},
        [](auto& x) {
          return resize(x[0], {.size = {3, 4}, .mode = Interpolation::nearest_exact});
        },
        {.nan_spreads = false});
OP_CASE(
    resize_axis, {Shape{5, 3}}, [](auto& x) { return resize_axis(x[0], 0, 8); },
    [](auto& x) {
      const auto image =
          resize(reshape(x[0], {1, 1, x[0].size(0), x[0].size(1)}), {.size = {8, x[0].size(1)}});
      return reshape(image, {8, x[0].size(1)});
    },
    {.empty = {3}});

TEST_CASE("resize agrees with PyTorch in every mode, by size and by factor") {
  const auto run = [](auto& x, const golden::Parameters& p) {
    return resize(x[0], resize_options(p));
  };
  golden::check_group("resize_bilinear", "interpolate", 33, run);
  golden::check_group("resize_bicubic", "interpolate", 33, run);
  golden::check_group("resize_other", "interpolate", 32, run);
}
TEST_CASE("a factor is not the size that it gives") {
  // DINOv2's 37 -> 16 with a factor of 16.1/37: same size, other coordinates.
  const Tensor<double> x = op_test::uniforms<double>({1, 1, 37, 37});
  const double f = 16.1 / 37;
  const Tensor<double> a = resize(x, {.scale_factor = f, .mode = Interpolation::bicubic});
  const Tensor<double> b = resize(x, {.size = 16, .mode = Interpolation::bicubic});
  CHECK(a.shape() == b.shape());
  CHECK(golden::distance(a, b) > 0.05);
}
TEST_CASE("an axis that keeps its size is copied, whatever the factor, as in PyTorch") {
  const Tensor<double> x = op_test::uniforms<double>({1, 1, 7, 7});
  const Scale2 f{1.1, 1.05};
  for (Interpolation m : {Interpolation::bilinear, Interpolation::nearest, Interpolation::area})
    CHECK(resize(x, {.scale_factor = f, .mode = m}).values() == x.values());
  CHECK(
      resize(x, {.scale_factor = f, .mode = Interpolation::bicubic, .antialias = true}).values() ==
      x.values());
  CHECK(resize(x, {.scale_factor = f, .mode = Interpolation::bicubic}).values() != x.values());
  CHECK(resize(x, {.scale_factor = f, .mode = Interpolation::nearest_exact}).values() !=
        x.values());
}
TEST_CASE("nearest: twice the size repeats every pixel, and rounding is that of float") {
  // torch.nn.functional.interpolate(arange(9), scale_factor=2.1, mode="nearest"), PyTorch 2.15.
  const Tensor<double> x = Tensor<double>::arange(9).reshaped({1, 1, 1, 9});
  const Tensor<double> y = resize(x, {.scale_factor = {1, 2.1}, .mode = Interpolation::nearest});
  CHECK(y.values() == std::vector<double>{0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8});
}
TEST_CASE("a constant stays constant, and a transposed table has the weights of its table") {
  const Tensor<double> one = Tensor<double>::ones({1, 1, 13, 9});
  for (Interpolation m : {Interpolation::bilinear, Interpolation::bicubic, Interpolation::area})
    for (double v : resize(one, {.size = {29, 4}, .mode = m}).values())
      CHECK(v == doctest::Approx(1).epsilon(1e-14));
  const AxisTable t = resize_table(11, 4, {.mode = Interpolation::bicubic, .antialias = true});
  const AxisTable back = transposed(transposed(t));
  CHECK(back.first == t.first);
  CHECK(back.weight == t.weight);
}
TEST_CASE("resize refuses what does not fit") {
  const Tensor<float> x = Tensor<float>::zeros({1, 1, 4, 6});
  CHECK_ERROR(shape, "resize: needs (...,H,W); x (3)",
              resize(Tensor<float>::zeros({3}), {.size = 2}));
  CHECK_ERROR(value, "resize: give either size or scale_factor; x (1,1,4,6)", resize(x, {}));
  CHECK_ERROR(value, "resize: give either size or scale_factor; x (1,1,4,6)",
              resize(x, {.size = 2, .scale_factor = 2}));
  CHECK_ERROR(value,
              "resize: align_corners and antialias belong to bilinear and bicubic; mode area",
              resize(x, {.size = 2, .mode = Interpolation::area, .antialias = true}));
  CHECK_ERROR(value, "resize: align_corners and antialias exclude each other",
              resize(x, {.size = 2, .align_corners = true, .antialias = true}));
  CHECK_ERROR(shape, "resize: every axis needs 1 to 2^24 pixels; x (1,1,4,6) to (0,0)",
              resize(x, {.scale_factor = 0.1}));
  CHECK_ERROR(shape, "resize: every axis needs 1 to 2^24 pixels; x (1,1,0,6) to (2,2)",
              resize(Tensor<float>::zeros({1, 1, 0, 6}), {.size = 2}));
  CHECK_ERROR(shape, "resize: every axis needs 1 to 2^24 pixels; x (1,1,4,6) to (-1,3)",
              resize(x, {.size = {-1, 3}}));
  CHECK_ERROR(
      value,
      "resize: factors must be above 0 and give at most 2^24 pixels; -1.000000, 2.000000 for "
      "x (1,1,4,6)",
      resize(x, {.scale_factor = {-1, 2}}));
  CHECK_ERROR(shape, "resize_axis: the axis needs 1 to 2^24 entries; x (1,1,4,6), axis 2 to 0",
              resize_axis(x, 2, 0));
}
