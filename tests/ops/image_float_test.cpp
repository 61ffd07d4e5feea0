// The float kernels of convolution, resizing, pooling and normalisation against the loops in
// double, at sizes with tails of every kind; the same bits for any thread count; NaN and infinity
// reach what they should and nothing else.
#include <doctest/doctest.h>

#include <moraine/autograd/backward.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/ops/batch_norm.hpp>
#include <moraine/ops/conv_transpose.hpp>
#include <moraine/ops/group_norm.hpp>
#include <moraine/ops/pool.hpp>
#include <moraine/ops/resize.hpp>

#include "../op_case.hpp"

using namespace moraine;
using op_test::uniforms;

namespace {

template <class T>
using List = std::vector<Tensor<T>>;

Tensor<double> wide(const Tensor<float>& t) {
  const std::vector<float> v = t.values();
  return Tensor<double>(t.shape(), {v.begin(), v.end()});
}
/// Largest difference, as a share of the largest value.
double far(const Tensor<float>& a, const Tensor<double>& b) {
  REQUIRE(a.shape() == b.shape());
  const std::vector<float> x = a.values();
  const std::vector<double> y = b.values();
  double most = 1e-30, worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double d = std::abs(double(x[i]) - y[i]);
    if (!(d <= worst)) worst = d;
    most = std::max(most, std::abs(y[i]));
  }
  return worst / most;
}
/// Value and gradients of f, in float and in double.
template <class F>
void agree(const std::vector<Shape>& shapes, F f, double tolerance = 4e-6) {
  List<float> x;
  List<double> z;
  unsigned seed = 3;
  for (const Shape& s : shapes) {
    x.push_back(uniforms<float>(s, -1, 1, seed++));
    z.push_back(wide(x.back()).requires_grad());
    x.back().requires_grad();
  }
  const Tensor<float> y = f(x);
  const Tensor<double> w = f(z);
  CHECK(far(y, w) <= tolerance);
  const auto g = uniforms<float>(y.shape(), -1, 1, 99);
  backward(y, g);
  backward(w, wide(g));
  for (std::size_t i = 0; i < x.size(); ++i) {
    CAPTURE(i);
    CHECK(far(x[i].grad(), z[i].grad()) <= tolerance);
  }
}
/// The same bits of value and gradients with 1, 2, 3 and 8 threads.
template <class F>
void same_bits(const std::vector<Shape>& shapes, F f) {
  std::vector<std::vector<float>> first;
  for (int n : {1, 2, 3, 8}) {
    set_threads(n);
    List<float> x;
    unsigned seed = 3;
    for (const Shape& s : shapes) x.push_back(uniforms<float>(s, -1, 1, seed++).requires_grad());
    const Tensor<float> y = f(x);
    backward(y, uniforms<float>(y.shape(), -1, 1, 99));
    std::vector<std::vector<float>> seen{y.values()};
    for (const auto& t : x) seen.push_back(t.grad().values());
    if (first.empty()) first = seen;
    CHECK(seen == first);
  }
  set_threads(usable_cpus());
}

}  // namespace

TEST_CASE("depthwise convolution: kernels, tails, strides, dilations, several outputs a channel") {
  for (Index k : {1, 2, 3, 4, 5, 7, 9})
    for (Index size : {1, 5, 8, 13, 17, 24, 31, 41}) {
      CAPTURE(k);
      CAPTURE(size);
      agree({{2, 3, size + k, size + 1 + k}, {3, 1, k, k}, {3}},
            [k](auto& x) { return conv2d(x[0], x[1], x[2], {.padding = k / 2, .groups = 3}); });
    }
  for (Index stride : {1, 2, 3})
    for (Index dilation : {1, 2})
      for (Index padding : {0, 1, 4}) {
        CAPTURE(stride);
        CAPTURE(dilation);
        CAPTURE(padding);
        agree({{1, 2, 19, 23}, {4, 1, 3, 5}}, [&](auto& x) {
          return conv2d(x[0], x[1], {},
                        {.stride = {stride, 1 + stride / 2},
                         .padding = padding,
                         .dilation = {dilation, 3 - dilation},
                         .groups = 2});
        });
      }
  // Planes of several bands, and wider than a band is high.
  agree({{1, 2, 150, 140}, {2, 1, 7, 7}},
        [](auto& x) { return conv2d(x[0], x[1], {}, {.padding = 3, .groups = 2}); });
  agree({{1, 2, 9, 4000}, {2, 1, 5, 3}},
        [](auto& x) { return conv2d(x[0], x[1], {}, {.padding = 2, .groups = 2}); });
}
TEST_CASE("dense convolution: pieces, tails, strides, dilations, groups, negative remainders") {
  for (Index size : {3, 6, 7, 16, 19, 37})
    for (Index k : {1, 2, 3}) {
      CAPTURE(size);
      CAPTURE(k);
      agree({{2, 5, size, size + 3}, {7, 5, k, k}, {7}},
            [k](auto& x) { return conv2d(x[0], x[1], x[2], {.padding = k / 2}); });
    }
  for (Index stride : {1, 2, 3})
    for (Index dilation : {1, 2, 3})
      for (Index padding : {0, 2, 5}) {
        CAPTURE(stride);
        CAPTURE(dilation);
        CAPTURE(padding);
        agree({{1, 4, 21, 18}, {6, 2, 3, 4}}, [&](auto& x) {
          return conv2d(x[0], x[1], {},
                        {.stride = {stride, 4 - stride},
                         .padding = {padding, 1},
                         .dilation = {dilation, 1},
                         .groups = 2});
        });
        if (padding < 5)
          agree({{1, 4, 9, 8}, {4, 3, 3, 4}, {6}}, [&](auto& x) {
            return conv_transpose2d(x[0], x[1], x[2],
                                    {.stride = {stride, 4 - stride},
                                     .padding = {padding, 1},
                                     .dilation = {dilation, 1},
                                     .groups = 2});
          });
      }
  for (Index stride : {2, 3, 4})  // what heads enlarge by
    agree({{2, 5, 13, 11}, {5, 3, stride, stride}, {3}},
          [&](auto& x) { return conv_transpose2d(x[0], x[1], x[2], {.stride = stride}); });
}
TEST_CASE("resizing and average pooling: tails, both orders of the axes, bands") {
  for (Interpolation mode : {Interpolation::bilinear, Interpolation::bicubic, Interpolation::area,
                             Interpolation::nearest})
    for (Size2 to : {Size2{1, 1}, Size2{7, 9}, Size2{13, 40}, Size2{33, 5}, Size2{64, 65}})
      for (Size2 from : {Size2{1, 2}, Size2{5, 4}, Size2{14, 37}, Size2{40, 11}}) {
        CAPTURE(str(to));
        CAPTURE(str(from));
        agree({{2, 3, from.h, from.w}},
              [&](auto& x) { return resize(x[0], {.size = to, .mode = mode}); });
      }
  agree({{1, 1, 300, 700}}, [](auto& x) { return resize(x[0], {.size = {91, 170}}); });
  agree({{1, 1, 90, 170}}, [](auto& x) { return resize(x[0], {.size = {301, 707}}); });
  agree({{2, 3, 29, 31}}, [](auto& x) {
    return avg_pool2d(x[0], {.kernel = {3, 4}, .stride = {2, 3}, .padding = 1});
  });
}
TEST_CASE("maximum pooling: tails, and the first of equal values, exactly") {
  for (Index size : {3, 6, 8, 15, 17, 33, 70})
    for (Index stride : {1, 2, 3})
      for (Index dilation : {1, 2}) {
        CAPTURE(size);
        agree(
            {{2, 3, size + 2, size + 5}},
            [&](auto& x) {
              return max_pool2d(
                  x[0], {.kernel = 3, .stride = stride, .padding = 1, .dilation = dilation});
            },
            3e-7);  // sums of up to nine floats
      }
  // Equal values, infinities and NaN: the gradient goes to the place that double's loop finds.
  std::vector<float> v(20 * 23);
  for (std::size_t i = 0; i < v.size(); ++i)
    v[i] = i % 97 == 13 ? NAN : i % 5 == 1 ? INFINITY : i % 7 < 6 ? -INFINITY : float(i % 3);
  Tensor<float> x({1, 1, 20, 23}, v);
  Tensor<double> z = wide(x).requires_grad();
  x.requires_grad();
  const auto y = max_pool2d(x, {.kernel = 3, .stride = 2, .padding = 1});
  const auto w = max_pool2d(z, {.kernel = 3, .stride = 2, .padding = 1});
  for (Index i = 0; i < y.numel(); ++i) {
    const double a = y.data()[i], b = w.data()[i];
    CHECK((a == b || (std::isnan(a) && std::isnan(b))));
  }
  backward(y, Tensor<float>::ones(y.shape()));
  backward(w, Tensor<double>::ones(w.shape()));
  CHECK(far(x.grad(), z.grad()) == 0);
}
TEST_CASE("batch and group norm: tails, a large mean, group norm against its definition") {
  for (Index inner : {1, 2, 15, 16, 17, 33, 100, 5000}) {
    CAPTURE(inner);
    agree(
        {{3, 6, inner}, {6}, {6}},
        [](auto& x) {
          using T = op_test::scalar<decltype(x)>;
          return batch_norm_train(x[0], BatchNormInputs<T>{.weight = x[1], .bias = x[2]}).y;
        },
        2e-5);
    if (inner < 2) continue;
    agree(
        {{3, 6, inner}, {6}, {6}}, [](auto& x) { return group_norm(x[0], 3, x[1], x[2]); }, 2e-5);
    const auto x = uniforms<double>({2, 6, inner}), w = uniforms<double>({6}, -1, 1, 2);
    const auto a = group_norm(x, 2, w, w), b = group_norm_composed(x, 2, w, w);
    for (Index i = 0; i < a.numel(); ++i)
      CHECK(a.data()[i] == doctest::Approx(b.data()[i]).epsilon(1e-11));
  }
  Tensor<float> x = uniforms<float>({1, 4, 10000});
  for (Index i = 0; i < x.numel(); ++i) x.data()[i] += 1000.0f;
  CHECK(far(group_norm(x, 2), group_norm(wide(x), 2)) < 1e-4);  // x has 24 bits, 10 of them mean
}
TEST_CASE("convolutions, resizing, pooling and norms give the same bits for any thread count") {
  same_bits({{3, 6, 45, 39}, {6, 1, 5, 5}, {6}},
            [](auto& x) { return conv2d(x[0], x[1], x[2], {.padding = 2, .groups = 6}); });
  same_bits({{1, 16, 70, 61}, {24, 16, 3, 3}, {24}},
            [](auto& x) { return conv2d(x[0], x[1], x[2], {.stride = 2, .padding = 1}); });
  same_bits({{2, 16, 40, 41}, {16, 12, 2, 2}, {12}},
            [](auto& x) { return conv_transpose2d(x[0], x[1], x[2], {.stride = 2}); });
  same_bits({{2, 5, 37, 41}}, [](auto& x) { return resize(x[0], {.size = {148, 150}}); });
  same_bits({{2, 5, 99, 141}}, [](auto& x) { return resize(x[0], {.size = {48, 50}}); });
  same_bits({{2, 5, 99, 141}},
            [](auto& x) { return max_pool2d(x[0], {.kernel = 3, .stride = 2, .padding = 1}); });
  same_bits({{4, 6, 50, 50}, {6}, {6}}, [](auto& x) {
    return batch_norm_train(x[0], BatchNormInputs<float>{.weight = x[1], .bias = x[2]}).y;
  });
  same_bits({{4, 6, 50, 50}, {6}, {6}}, [](auto& x) { return group_norm(x[0], 2, x[1], x[2]); });
}
TEST_CASE("NaN and infinity reach the windows that hold them, and nothing else") {
  for (Index groups : {1, 3})
    for (float bad : {NAN, INFINITY})
      for (Index at : {0, 20, 23 * 7 + 22, 23 * 18 + 3}) {
        Tensor<float> x = uniforms<float>({1, 3, 19, 23});
        x.data()[at] = bad;
        const auto w = uniforms<float>({3, 3 / groups, 5, 5}, 0.5, 1);
        const auto y = conv2d(x, w, {}, {.padding = 2, .groups = groups});
        for (Index h = 0; h < 19; ++h)
          for (Index v = 0; v < 23; ++v) {
            const bool near = std::abs(h - at / 23) <= 2 && std::abs(v - at % 23) <= 2;
            CHECK(std::isfinite(y.at({0, 0, h, v})) == !near);
          }
        // The gradient of the weight: every tap whose partner is inside.
        Tensor<float> p = w.clone();
        p.requires_grad();
        backward(conv2d(x, p, {}, {.padding = 2, .groups = groups}),
                 Tensor<float>::ones({1, 3, 19, 23}));
        for (Index i = 0; i < 5; ++i)
          for (Index j = 0; j < 5; ++j) {
            const Index h = at / 23 + 2 - i, v = at % 23 + 2 - j;
            const bool meets = h >= 0 && h < 19 && v >= 0 && v < 23;
            CHECK(std::isfinite(p.grad().at({0, 0, i, j})) == !meets);
          }
      }
  Tensor<float> x = uniforms<float>({1, 1, 9, 9});
  x.data()[40] = NAN;
  const auto y = resize(x, {.size = {18, 18}});
  Index bad = 0;
  for (float v : y.values()) bad += std::isnan(v);
  CHECK(bad == 16);
}
