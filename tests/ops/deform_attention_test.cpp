// Rows, PyTorch values and refusals of ops/deform_attention.hpp.
#include <moraine/core/parallel.hpp>
#include <moraine/ops/binary.hpp>
#include <moraine/ops/deform_attention.hpp>
#include <moraine/ops/reduce.hpp>

#include "../op_case.hpp"
#include "parity.hpp"

using namespace moraine;

// Places stay inside (0,1), and the gradient is smooth between the centres of pixels only: the row
// takes grids of one pixel a level, whose kinks are at 0, 1/2 and 1, and PyTorch's values the rest.
OP_CASE(deform_attention, {Shape{2, 2, 3, 5}, Shape{2, 4, 3, 2, 6, 2}, Shape{2, 4, 3, 2, 6}},
        [](auto& x) {
          return deform_attention(x[0], {1, 1}, x[1], x[2]);
        },
        {.ranges = {{-1, 1}, {0.55, 0.95}, {-1, 1}}, .fixed = {2, 3}, .empty = {4, 6}});

namespace {
template <class T>
std::vector<Tensor<T>> inputs(unsigned seed, Index queries, Index size) {
  return {op_test::uniforms<T>({2, 26, 3, size}, -1, 1, seed),
          op_test::uniforms<T>({2, queries, 3, 2, 4, 2}, -0.2, 1.2, seed + 1),
          op_test::uniforms<T>({2, queries, 3, 2, 4}, -1, 1, seed + 2)};
}
const std::vector<Size2> grids{{4, 5}, {3, 2}};
}  // namespace

TEST_CASE("deform_attention agrees with grid_sample, values and gradients") {
  parity::check_parity("deform", [](auto& c) {
    std::vector<Size2> sizes;
    const auto flat = c.integers("grids");
    for (std::size_t i = 0; i < flat.size(); i += 2) sizes.push_back({flat[i], flat[i + 1]});
    c.value(deform_attention(c.x(0), sizes, c.x(1), c.x(2)));
  });
}
TEST_CASE("deform_attention in float against double, for every tail of a vector") {
  for (Index size : {1, 2, 3, 7, 8, 9, 15, 16, 31, 32, 33, 40, 64}) {
    CAPTURE(size);
    auto f = inputs<float>(5, 7, size);
    std::vector<Tensor<double>> d;
    for (auto& t : f) {
      const std::vector<float> v = t.values();
      d.push_back(Tensor<double>(t.shape(), {v.begin(), v.end()}).requires_grad());
      t.requires_grad();
    }
    const auto y = deform_attention(f[0], grids, f[1], f[2]);
    const auto z = deform_attention(d[0], grids, d[1], d[2]);
    backward(sum(mul(y, y)));
    backward(sum(mul(z, z)));
    const auto far = [](const Tensor<float>& a, const Tensor<double>& b) {
      double most = 0, worst = 0;
      for (Index i = 0; i < a.numel(); ++i) {
        worst = std::max(worst, std::abs(double(a.data()[i]) - b.data()[i]));
        most = std::max(most, std::abs(b.data()[i]));
      }
      return worst / most;
    };
    CHECK(far(y, z) < 2e-6);
    CHECK(far(f[0].grad(), d[0].grad()) < 2e-6);
    CHECK(far(f[1].grad(), d[1].grad()) < 2e-5);  // differences of neighbouring values
    CHECK(far(f[2].grad(), d[2].grad()) < 1e-5);
  }
}
TEST_CASE("deform_attention gives the same bits for any thread count") {
  std::vector<std::vector<float>> first;
  for (int n : {1, 2, 3, 8}) {
    set_threads(n);
    auto x = inputs<float>(9, 300, 32);
    for (auto& t : x) t.requires_grad();
    const auto y = deform_attention(x[0], grids, x[1], x[2]);
    backward(sum(mul(y, y)));
    std::vector<std::vector<float>> seen{y.values()};
    for (const auto& t : x) seen.push_back(t.grad().values());
    if (first.empty()) first = seen;
    CHECK(seen == first);
  }
  set_threads(usable_cpus());
}
TEST_CASE("deform_attention: places that are not finite give NaN, places far away nothing") {
  const auto value = Tensor<float>::ones({1, 4, 1, 9});
  const auto one = Tensor<float>::ones({1, 1, 1, 1, 1});
  const auto at = [&](float x, float y) {
    return deform_attention(value, {2}, Tensor<float>({1, 1, 1, 1, 1, 2}, {x, y}), one).values();
  };
  CHECK(at(0.5f, 0.5f) == std::vector<float>(9, 1.0f));
  CHECK(at(0, 0.5f) == std::vector<float>(9, 0.5f));  // half of it beside the plane
  CHECK(at(1e30f, 0.5f) == std::vector<float>(9, 0.0f));
  CHECK(at(0.5f, -3) == std::vector<float>(9, 0.0f));
  for (float v : {NAN, INFINITY, -INFINITY}) {
    CHECK(std::isnan(at(v, 0.5f)[8]));
    CHECK(std::isnan(at(0.5f, v)[0]));
  }
  // An infinity that no place touches stays out of the result.
  auto v = value.clone();
  v.data()[27] = INFINITY;  // the lower right pixel
  const auto y =
      deform_attention(v, {2}, Tensor<float>({1, 1, 1, 1, 1, 2}, {0.1f, 0.1f}), one).values();
  for (float f : y) CHECK(f == doctest::Approx(0.49));
}
TEST_CASE("deform_attention refuses what does not fit") {
  const auto zeros = [](const Shape& s) { return Tensor<float>::zeros(s); };
  CHECK_ERROR(shape,
              "deform_attention: needs value (B,S,H,D), locations (B,Q,H,L,P,2), weights "
              "(B,Q,H,L,P) and L grids; value (1,4,2,8), locations (1,3,2,2,4,2), weights "
              "(1,3,2,2,4), grids 1",
              deform_attention(zeros({1, 4, 2, 8}), {2}, zeros({1, 3, 2, 2, 4, 2}),
                               zeros({1, 3, 2, 2, 4})));
  CHECK_ERROR(shape, "deform_attention: the grids have 6 pixels; value (1,4,2,8)",
              deform_attention(zeros({1, 4, 2, 8}), {{2, 3}}, zeros({1, 3, 2, 1, 4, 2}),
                               zeros({1, 3, 2, 1, 4})));
  CHECK_ERROR(shape, "deform_attention: a grid needs 1 to 2^24 rows and columns; (0,2)",
              deform_attention(zeros({1, 0, 2, 8}), {{0, 2}}, zeros({1, 3, 2, 1, 4, 2}),
                               zeros({1, 3, 2, 1, 4})));
}
