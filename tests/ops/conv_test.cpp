// Rows, PyTorch values and refusals of ops/conv.hpp, ops/conv_transpose.hpp, ops/pixel_shuffle.hpp.
#include <moraine/core/parallel.hpp>
#include <moraine/ops/conv_transpose.hpp>

#include "../op_case.hpp"
#include "golden.hpp"

using namespace moraine;
using op_test::scalar;

namespace {

Size2 size2(std::pair<double, double> p) {
  return {static_cast<Index>(p.first), static_cast<Index>(p.second)};
}
template <class T>
Tensor<T> third(const std::vector<Tensor<T>>& x) {
  return x.size() > 2 ? x[2] : Tensor<T>();
}

/// The definition, tap by tap, from recorded ops.
template <class T>
Tensor<T> conv_by_taps(const Tensor<T>& x, const Tensor<T>& w, Index groups) {
  const Index h = x.size(2) - w.size(2) + 1, v = x.size(3) - w.size(3) + 1;
  const Index in = w.size(1), out = w.size(0) / groups;
  std::vector<Tensor<T>> y;
  for (Index g = 0; g < groups; ++g) {
    const Tensor<T> part = slice(x, 1, g * in, (g + 1) * in);
    const Tensor<T> weight = slice(w, 0, g * out, (g + 1) * out);
    Tensor<T> sum_of_taps;
    for (Index i = 0; i < w.size(2); ++i)
      for (Index j = 0; j < w.size(3); ++j) {
        Tensor<T> at = slice(slice(part, 2, i, i + h), 3, j, j + v);           // (B,C,h,v)
        at = reshape(permute(at, {0, 2, 3, 1}), {x.size(0), h * v, in});       // (B,hv,C)
        const Tensor<T> tap = slice(slice(weight, 2, i, i + 1), 3, j, j + 1);  // (O,C,1,1)
        const Tensor<T> t = matmul(at, transpose(reshape(tap, {out, in})));    // (B,hv,O)
        sum_of_taps = sum_of_taps.defined() ? add(sum_of_taps, t) : t;
      }
    y.push_back(reshape(transpose(sum_of_taps), {x.size(0), out, h, v}));
  }
  return concat(y, 1);
}

}  // namespace

// Sizes: kernels and groups are fixed by the row; images, batches and channels vary.
OP_CASE(
    conv2d, {Shape{2, 3, 7, 6}, Shape{5, 3, 4, 4}}, [](auto& x) { return conv2d(x[0], x[1]); },
    [](auto& x) { return conv_by_taps(x[0], x[1], 1); }, {.fixed = {4, 7, 6}});
OP_CASE(
    conv2d_strides, {Shape{2, 3, 9, 8}, Shape{5, 3, 4, 4}, Shape{5}},
    [](auto& x) {
      return conv2d(x[0], x[1], x[2], {.stride = {2, 1}, .padding = {1, 2}, .dilation = {1, 2}});
    },
    {.fixed = {4, 9, 8}});
OP_CASE(
    conv2d_groups, {Shape{2, 4, 7, 5}, Shape{6, 2, 3, 3}},
    [](auto& x) { return conv2d(x[0], x[1], {}, {.groups = 2}); },
    [](auto& x) { return conv_by_taps(x[0], x[1], 2); },
    {.fixed = {2, 3, 4, 6, 7, 5}, .empty = {}});
OP_CASE(
    conv2d_depthwise, {Shape{2, 3, 8, 7}, Shape{6, 1, 5, 4}},
    [](auto& x) { return conv2d(x[0], x[1], {}, {.groups = 3}); },
    [](auto& x) { return conv_by_taps(x[0], x[1], 3); }, {.fixed = {3, 4, 5, 6, 8, 7}});
OP_CASE(conv2d_depthwise_strides, {Shape{2, 3, 8, 7}, Shape{3, 1, 5, 4}, Shape{3}},
        [](auto& x) {
          return conv2d(x[0], x[1], x[2], {.stride = {1, 3}, .padding = 2, .groups = 3});
        },
        {.fixed = {3, 4, 5}});
OP_CASE(
    conv2d_pointwise, {Shape{2, 3, 6, 7}, Shape{5, 3, 1, 1}, Shape{5}},
    [](auto& x) { return conv2d(x[0], x[1], x[2]); },
    [](auto& x) {
      return add(conv_by_taps(x[0], x[1], 1), reshape(x[2], {x[2].size(0), 1, 1}));
    });
OP_CASE(conv2d_patches, {Shape{2, 3, 9, 10}, Shape{5, 3, 4, 4}, Shape{5}},
        [](auto& x) { return conv2d(x[0], x[1], x[2], {.stride = 4}); }, {.fixed = {4, 9, 10}});
OP_CASE(conv_transpose2d, {Shape{2, 3, 6, 7}, Shape{3, 5, 4, 4}, Shape{5}},
        [](auto& x) {
          return conv_transpose2d(x[0], x[1], x[2],
                                  {.stride = {2, 3}, .padding = 1, .output_padding = {1, 2}});
        },
        {.fixed = {4}});
OP_CASE(conv_transpose2d_depthwise, {Shape{2, 3, 6, 7}, Shape{3, 1, 5, 4}},
        [](auto& x) {
          return conv_transpose2d(x[0], x[1], {}, {.dilation = {2, 1}, .groups = 3});
        },
        {.fixed = {3, 4, 5}});
OP_CASE(pixel_shuffle, {Shape{3, 8, 5, 7}}, [](auto& x) { return pixel_shuffle(x[0], 2); },
        {.fixed = {8}});
OP_CASE(pixel_unshuffle, {Shape{3, 5, 8, 6}}, [](auto& x) { return pixel_unshuffle(x[0], 2); },
        {.fixed = {8, 6}});
OP_CASE(patches, {Shape{2, 5, 7, 9}},
        [](auto& x) {
          return patches(x[0], {3, 2});
        },
        {.fixed = {7, 9}});
OP_CASE(unpatch, {Shape{2, 6, 20}},
        [](auto& x) {
          return unpatch(x[0], {2, 3}, 2);
        },
        {.fixed = {6, 20}, .empty = {}});

TEST_CASE("conv2d agrees with PyTorch") {
  golden::check_group("conv", "conv2d", 13, [](auto& x, const golden::Parameters& p) {
    return conv2d(x[0], x[1], third(x),
                  {.stride = size2(p.pair("stride", 1)),
                   .padding = size2(p.pair("padding", 0)),
                   .dilation = size2(p.pair("dilation", 1)),
                   .groups = static_cast<Index>(p.number("groups", 1))});
  });
}
TEST_CASE("conv_transpose2d agrees with PyTorch") {
  golden::check_group("conv", "conv_transpose2d", 8, [](auto& x, const golden::Parameters& p) {
    return conv_transpose2d(x[0], x[1], third(x),
                            {.stride = size2(p.pair("stride", 1)),
                             .padding = size2(p.pair("padding", 0)),
                             .output_padding = size2(p.pair("output_padding", 0)),
                             .dilation = size2(p.pair("dilation", 1)),
                             .groups = static_cast<Index>(p.number("groups", 1))});
  });
}
TEST_CASE("a convolution of several pieces gives the same bits for any thread count") {
  // 40 x 30 pixels and 9 * 24 taps: the columns come in several pieces, for one image and many.
  for (Index batch : {1, 5}) {
    std::vector<std::vector<float>> seen;
    for (int n : {1, 2, 3}) {
      set_threads(n);
      Tensor<float> x = op_test::uniforms<float>({batch, 24, 40, 30});
      Tensor<float> w = op_test::uniforms<float>({40, 24, 3, 3}, -1, 1, 2);
      x.requires_grad(), w.requires_grad();
      const Tensor<float> y = conv2d(x, w, {}, {.padding = 1});
      backward(sum(mul(y, y)));
      for (const Tensor<float>& t : {y, x.grad(), w.grad()}) seen.push_back(t.values());
    }
    for (std::size_t i = 3; i < seen.size(); ++i) CHECK(seen[i] == seen[i % 3]);
    // Against the taps: pieces are put together in the right places.
    const Tensor<double> x = op_test::uniforms<double>({batch, 24, 40, 30});
    const Tensor<double> w = op_test::uniforms<double>({40, 24, 3, 3}, -1, 1, 2);
    const Tensor<double> want = conv_by_taps(x, w, 1);  // inside, without the border
    const Tensor<double> got = slice(slice(conv2d(x, w, {}, {.padding = 1}), 2, 1, 39), 3, 1, 29);
    CHECK(golden::distance(got, want) < 1e-12);
    CHECK(got.shape() == Shape{batch, 40, 38, 28});
  }
  set_threads(usable_cpus());
}
TEST_CASE("a frozen weight gets no gradient, and the input's needs only the weight") {
  Tensor<float> x = op_test::uniforms<float>({1, 2, 64, 64});
  const Tensor<float> w = op_test::uniforms<float>({2, 2, 3, 3});
  x.requires_grad();
  const std::size_t before = cpu_device.live;
  const Tensor<float> y = conv2d(x, w);
  CHECK(cpu_device.live - before == std::size_t{2 * 62 * 62 * 4});  // y alone: x is not kept twice
  backward(sum(y));
  CHECK(x.grad().defined());
  CHECK(!w.grad().defined());
}
TEST_CASE("patches and unpatch are inverse, in token order") {
  const Tensor<float> x = op_test::uniforms<float>({2, 3, 8, 12});
  CHECK(unpatch(patches(x, 4), {2, 3}, 4).values() == x.values());
  const Tensor<float> t = patches(x, {4, 6});  // token 1 is the upper right block
  CHECK(t.at({0, 1, 0}) == x.at({0, 0, 0, 6}));
  CHECK(t.at({0, 2, 0}) == x.at({0, 0, 4, 0}));
  CHECK(t.at({1, 3, 2 * 24 + 6 + 1}) == x.at({1, 2, 5, 7}));
  CHECK(pixel_unshuffle(pixel_shuffle(reshape(x, {1, 24, 4, 6}), 2), 2).values() == x.values());
}
TEST_CASE("convolutions refuse what does not fit") {
  const auto zeros = [](const Shape& s) { return Tensor<float>::zeros(s); };
  const std::string needs =
      "conv2d: needs x (B,C,H,W), weight (O,C/groups,kh,kw), O a multiple of groups; ";
  CHECK_ERROR(shape, needs + "x (1,3,8,8), weight (4,2,3,3), groups 1",
              conv2d(zeros({1, 3, 8, 8}), zeros({4, 2, 3, 3})));
  CHECK_ERROR(shape, needs + "x (3,8,8), weight (4,3,3,3), groups 1",
              conv2d(zeros({3, 8, 8}), zeros({4, 3, 3, 3})));
  CHECK_ERROR(shape, needs + "x (1,4,8,8), weight (3,2,3,3), groups 2",
              conv2d(zeros({1, 4, 8, 8}), zeros({3, 2, 3, 3}), {}, {.groups = 2}));
  CHECK_ERROR(shape, "conv2d: bias (3) for weight (out,in,kh,kw) (4,3,3,3)",
              conv2d(zeros({1, 3, 8, 8}), zeros({4, 3, 3, 3}), zeros({3})));
  CHECK_ERROR(shape, "conv2d: the window is larger than the padded image; window 5, image 3 + 2*0",
              conv2d(zeros({1, 1, 3, 8}), zeros({1, 1, 5, 3})));
  CHECK_ERROR(value,
              "conv2d: kernel, stride and dilation must be at least 1, padding at least 0 (at most "
              "2^24 each); kernel 3, stride 0, dilation 1, padding 0",
              conv2d(zeros({1, 1, 8, 8}), zeros({1, 1, 3, 3}), {}, {.stride = 0}));
  CHECK_ERROR(shape,
              "conv_transpose2d: needs x (B,I,H,W), weight (I,O/groups,kh,kw), I a multiple of "
              "groups; x (1,3,4,4), weight (2,3,2,2), groups 1",
              conv_transpose2d(zeros({1, 3, 4, 4}), zeros({2, 3, 2, 2})));
  CHECK_ERROR(shape, "conv_transpose2d: padding leaves no output; size -1",
              conv_transpose2d(zeros({1, 1, 2, 2}), zeros({1, 1, 2, 2}), {}, {.padding = 2}));
  CHECK_ERROR(
      value,
      "conv_transpose2d: input, kernel, stride and dilation must be at least 1 (at most "
      "2^24), output_padding below stride or dilation; input 2, kernel 2, stride 2, padding "
      "0, output_padding 2, dilation 1",
      conv_transpose2d(zeros({1, 1, 2, 2}), zeros({1, 1, 2, 2}), {},
                       {.stride = 2, .output_padding = 2}));
  CHECK_ERROR(shape, "pixel_shuffle: channels must be a multiple of r*r; x (1,6,2,2), r 2",
              pixel_shuffle(zeros({1, 6, 2, 2}), 2));
  CHECK_ERROR(shape, "pixel_unshuffle: height and width must be multiples of r; x (1,1,5,4), r 2",
              pixel_unshuffle(zeros({1, 1, 5, 4}), 2));
  CHECK_ERROR(shape,
              "unpatch: needs (B, grid_h*grid_w, K*p*p); tokens (1,5,8), grid (2,3), patch (2,2)",
              unpatch(zeros({1, 5, 8}), {2, 3}, 2));
  CHECK_ERROR(shape, "patches: needs (B,C,H,W) with at least one patch; x (1,1,3,9), patch (4,4)",
              patches(zeros({1, 1, 3, 9}), 4));
}
