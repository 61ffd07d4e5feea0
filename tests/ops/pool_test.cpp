// Rows, PyTorch values and refusals of ops/pool.hpp.
#include <limits>
#include <moraine/ops/pool.hpp>

#include "../op_case.hpp"
#include "golden.hpp"

using namespace moraine;

namespace {

PoolOptions pool_options(const golden::Parameters& p) {
  const auto size = [&](const char* key, double otherwise) {
    const auto v = p.pair(key, otherwise);
    return Size2(static_cast<Index>(v.first), static_cast<Index>(v.second));
  };
  return {.kernel = size("kernel_size", 0),
          .stride = size("stride", 0),
          .padding = size("padding", 0),
          .dilation = size("dilation", 1),
          .count_include_pad = p.flag("count_include_pad", true)};
}

}  // namespace

OP_CASE(max_pool2d, {Shape{2, 3, 7, 6}},
        [](auto& x) { return max_pool2d(x[0], {.kernel = 3, .stride = 2, .padding = 1}); },
        {.apart = true});
OP_CASE(max_pool2d_dilation, {Shape{2, 3, 9, 8}},
        [](auto& x) {
          return max_pool2d(x[0], {.kernel = {3, 2}, .stride = 1, .dilation = 2});
        },
        {.apart = true, .fixed = {9, 8}});
OP_CASE(avg_pool2d, {Shape{2, 3, 7, 6}},
        [](auto& x) { return avg_pool2d(x[0], {.kernel = 3, .stride = 2, .padding = 1}); });
OP_CASE(avg_pool2d_inside, {Shape{2, 3, 7, 6}}, [](auto& x) {
  return avg_pool2d(x[0],
                    {.kernel = {3, 2}, .stride = 1, .padding = 1, .count_include_pad = false});
});
OP_CASE(adaptive_avg_pool2d, {Shape{2, 3, 7, 5}}, [](auto& x) {
  return adaptive_avg_pool2d(x[0], {4, 3});
});
OP_CASE(
    global_avg_pool2d, {Shape{2, 3, 7, 5}}, [](auto& x) { return global_avg_pool2d(x[0]); },
    [](auto& x) {
      return reshape(adaptive_avg_pool2d(x[0], 1), {x[0].size(0), x[0].size(1)});
    });
OP_CASE(
    global_max_pool2d, {Shape{2, 3, 7, 5}}, [](auto& x) { return global_max_pool2d(x[0]); },
    [](auto& x) {
      const Size2 all{x[0].size(2), x[0].size(3)};
      return reshape(max_pool2d(x[0], {.kernel = all}), {x[0].size(0), x[0].size(1)});
    },
    {.apart = true});

TEST_CASE("pooling agrees with PyTorch") {
  golden::check_group("pool", "max_pool2d", 6, [](auto& x, const golden::Parameters& p) {
    return max_pool2d(x[0], pool_options(p));
  });
  golden::check_group("pool", "avg_pool2d", 5, [](auto& x, const golden::Parameters& p) {
    return avg_pool2d(x[0], pool_options(p));
  });
  golden::check_group("pool", "adaptive_avg_pool2d", 4, [](auto& x, const golden::Parameters& p) {
    const auto to = p.pair("output_size", 1);
    return adaptive_avg_pool2d(x[0], {static_cast<Index>(to.first), static_cast<Index>(to.second)});
  });
}
TEST_CASE("max_pool2d: a tie goes to the first pixel, NaN wins, padding never does") {
  Tensor<float> x({1, 1, 2, 2}, {3.f, 3.f, 1.f, 3.f});
  x.requires_grad();
  backward(sum(max_pool2d(x, {.kernel = 2})));
  CHECK(x.grad().values() == std::vector<float>{1, 0, 0, 0});
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Tensor<float> y({1, 1, 2, 2}, {3.f, nan, 1.f, 9.f});
  CHECK(max_pool2d(y, {.kernel = 2}).item() != max_pool2d(y, {.kernel = 2}).item());
  const Tensor<float> low =
      Tensor<float>::full({1, 1, 3, 3}, -std::numeric_limits<float>::infinity());
  CHECK(max_pool2d(low, {.kernel = 3, .padding = 1}).values()[0] == low.values()[0]);
}
TEST_CASE("pooling refuses what does not fit") {
  const Tensor<float> x = Tensor<float>::zeros({1, 1, 4, 6});
  CHECK_ERROR(shape, "avg_pool2d: needs (B,C,H,W); x (4,6)",
              avg_pool2d(Tensor<float>::zeros({4, 6}), {.kernel = 2}));
  CHECK_ERROR(value,
              "max_pool2d: padding is more than half the kernel; padding (2,2), kernel (3,3)",
              max_pool2d(x, {.kernel = 3, .padding = 2}));
  CHECK_ERROR(shape,
              "max_pool2d: the window is larger than the padded image; window 5, image 4 + 2*0",
              max_pool2d(x, {.kernel = 5}));
  CHECK_ERROR(value, "max_pool2d: dilation is larger than the image; dilation (5,5), x (1,1,4,6)",
              max_pool2d(x, {.kernel = 2, .padding = 1, .dilation = 5}));
  CHECK_ERROR(value, "avg_pool2d: takes no dilation", avg_pool2d(x, {.kernel = 2, .dilation = 2}));
  CHECK_ERROR(shape,
              "adaptive_avg_pool2d: needs (B,C,H,W) and sizes of at least 1; x (1,1,4,6) to (0,2)",
              adaptive_avg_pool2d(x, {0, 2}));
}
