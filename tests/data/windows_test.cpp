// Windows cover every pixel, blending gives back what all windows agree on, rows come out once and
// in order, and a plan says beforehand what it needs.
#include <doctest/doctest.h>

#include <cmath>
#include <moraine/data/windows.hpp>
#include <vector>

using namespace moraine;
using data::Blend;

namespace {

/// Runs a plan with the scores score(k, y, x) of the scene; returns (K,H,W) as emitted.
template <class F>
std::vector<float> blended(const data::WindowPlan& plan, F&& score, Index skip = -1) {
  const auto& o = plan.options;
  std::vector<float> out(static_cast<std::size_t>(o.classes * o.height * o.width), -1.0f);
  Index next = 0;
  const auto emit = [&](Index y, const Tensor<float>& rows) {
    CHECK(y == next);
    CHECK(rows.size(0) == o.classes);
    CHECK(rows.size(2) == o.width);
    for (Index k = 0; k < o.classes; ++k)
      for (Index r = 0; r < rows.size(1); ++r)
        for (Index x = 0; x < o.width; ++x)
          out[static_cast<std::size_t>((k * o.height + y + r) * o.width + x)] = rows.at({k, r, x});
    next = y + rows.size(1);
  };
  data::ScoreBlender blender(plan);
  for (Index i = 0; i < plan.count(); ++i) {
    if (i == skip) {
      blender.skip(i, emit);
      continue;
    }
    const Window w = plan.window(i);
    Tensor<float> s = Tensor<float>::full({o.classes, o.size, o.size}, 1e9f);  // padding: unused
    for (Index k = 0; k < o.classes; ++k)
      for (Index y = 0; y < w.height; ++y)
        for (Index x = 0; x < w.width; ++x)
          s.data()[(k * o.size + y) * o.size + x] = score(i, k, w.y + y, w.x + x);
    blender.add(i, s, emit);
  }
  CHECK(next == o.height);
  return out;
}

float place(Index, Index k, Index y, Index x) {
  return static_cast<float>(k) + 0.01f * static_cast<float>(y) + 0.0001f * static_cast<float>(x);
}

}  // namespace

TEST_CASE("every pixel lies in a window and has a positive weight") {
  for (const Index h : {1, 5, 16, 17, 28, 40, 63})
    for (const Index w : {3, 16, 29, 50})
      for (const Index overlap : {0, 1, 4, 7, 8, 12, 15})
        for (const Blend blend : {Blend::none, Blend::linear, Blend::cosine}) {
          const auto p = data::plan_windows(
              {.height = h, .width = w, .size = 16, .overlap = overlap, .blend = blend});
          std::vector<double> weight(static_cast<std::size_t>(h * w), 0.0);
          for (Index i = 0; i < p.count(); ++i) {
            const Window win = p.window(i);
            REQUIRE(
                (win.x >= 0 && win.y >= 0 && win.x + win.width <= w && win.y + win.height <= h));
            // Only a scene that is too small has a smaller window.
            REQUIRE(win.width == std::min<Index>(16, w));
            REQUIRE(win.height == std::min<Index>(16, h));
            for (Index y = 0; y < win.height; ++y)
              for (Index x = 0; x < win.width; ++x)
                weight[static_cast<std::size_t>((win.y + y) * w + win.x + x)] +=
                    double(p.taper[static_cast<std::size_t>(y)]) *
                    double(p.taper[static_cast<std::size_t>(x)]);
          }
          bool same = true;
          for (Index y = 0; y < h; ++y)
            for (Index x = 0; x < w; ++x) {
              const double v = weight[static_cast<std::size_t>(y * w + x)];
              REQUIRE(v > 0);
              const double product = double(p.row_weight[static_cast<std::size_t>(y)]) *
                                     double(p.column_weight[static_cast<std::size_t>(x)]);
              same &= std::fabs(v - product) < 1e-5 * v;
            }
          REQUIRE(same);
        }
}

TEST_CASE("windows go row by row, neighbours overlap at least as told") {
  const auto p = data::plan_windows({.height = 100, .width = 70, .size = 32, .overlap = 8});
  CHECK(p.top == std::vector<Index>{0, 24, 48, 68});
  CHECK(p.left == std::vector<Index>{0, 24, 38});
  CHECK(p.window(4).x == 24);
  CHECK(p.window(4).y == 24);
  CHECK(p.count() == 12);
  CHECK_THROWS_AS(p.window(12), Error);
}

TEST_CASE("blending gives back scores that all windows agree on") {
  for (const Blend blend : {Blend::none, Blend::linear, Blend::cosine})
    for (const auto& [h, w] : {std::pair<Index, Index>{50, 41}, {9, 30}, {16, 16}, {5, 3}}) {
      const auto p = data::plan_windows(
          {.height = h, .width = w, .classes = 3, .size = 16, .overlap = 6, .blend = blend});
      const auto out = blended(p, place);
      for (Index k = 0; k < 3; ++k)
        for (Index y = 0; y < h; ++y)
          for (Index x = 0; x < w; ++x)
            REQUIRE(out[static_cast<std::size_t>((k * h + y) * w + x)] ==
                    doctest::Approx(place(0, k, y, x)).epsilon(1e-5));
    }
}

TEST_CASE("where windows disagree the map goes smoothly from one to the other") {
  const auto p = data::plan_windows(
      {.height = 16, .width = 26, .size = 16, .overlap = 6, .blend = Blend::linear});
  REQUIRE(p.count() == 2);
  const auto out = blended(p, [](Index i, Index, Index, Index) { return float(i); });
  for (std::size_t x = 0; x < 10; ++x) CHECK(out[x] == 0);
  for (std::size_t x = 0; x < 6; ++x)
    CHECK(out[10 + x] == doctest::Approx((double(x) + 0.5) / 6).epsilon(1e-5));
  for (std::size_t x = 16; x < 26; ++x) CHECK(out[x] == 1);
}

TEST_CASE("blending has the same bits for any number of threads") {
  const auto p =
      data::plan_windows({.height = 60, .width = 60, .classes = 5, .size = 16, .overlap = 5});
  const auto score = [](Index i, Index k, Index y, Index x) {
    return std::sin(static_cast<float>(7 * i + 3 * k + y * x));
  };
  const int before = threads();
  set_threads(1);
  const auto one = blended(p, score);
  for (const int n : {2, 3}) {
    set_threads(n);
    CHECK(blended(p, score) == one);
  }
  set_threads(before);
}

TEST_CASE("a window that is nodata throughout may be left out") {
  const auto p = data::plan_windows({.height = 40, .width = 40, .size = 16, .overlap = 4});
  const auto all = blended(p, place), some = blended(p, place, 4);
  const Window w = p.window(4);
  for (Index y = 0; y < 40; ++y)
    for (Index x = 0; x < 40; ++x) {
      const bool inside = y >= w.y && y < w.y + w.height && x >= w.x && x < w.x + w.width;
      const std::size_t i = static_cast<std::size_t>(y * 40 + x);
      if (!inside) CHECK(some[i] == all[i]);
    }
  Tensor<float> x({2, 2, 2}, {1, NAN, 3, 4, 5, NAN, 7, 8});
  const std::uint8_t valid[4] = {1, 0, 1, 0};
  CHECK(data::fill_nodata(x.data(), 2, 4, valid, {0.5f, 0.25f}) == 2);
  CHECK(x.values() == std::vector<float>{1, 0.5f, 3, 0.5f, 5, 0.25f, 7, 0.25f});
  const std::uint8_t none[4] = {};
  CHECK(data::fill_nodata(x.data(), 2, 4, none, {0, 0}) == 0);
  CHECK_THROWS_AS(data::fill_nodata(x.data(), 2, 4, none, {0}), Error);
}

TEST_CASE("windows are copied out of rows; a small scene is mirrored") {
  const auto p = data::plan_windows({.height = 20, .width = 24, .size = 8, .overlap = 2});
  Tensor<float> rows = Tensor<float>::empty({2, 8, 24});
  for (Index i = 0; i < rows.numel(); ++i) rows.data()[i] = static_cast<float>(i);
  std::vector<float> out(2 * 64);
  const Index i = p.columns() + 1;  // second row, second column: y 6, x 6
  data::copy_window(p, i, rows, 6, out.data());
  CHECK(out[0] == 6);
  CHECK(out[64 + 8 + 1] == 8 * 24 + 24 + 7);
  CHECK_THROWS_AS(data::copy_window(p, i, rows, 7, out.data()), Error);
  const auto small = data::plan_windows({.height = 2, .width = 3, .size = 8, .overlap = 2});
  REQUIRE(small.count() == 1);
  const Tensor<float> tiny({1, 2, 3}, {1, 2, 3, 4, 5, 6});
  std::vector<float> padded(64);
  data::copy_window(small, 0, tiny, 0, padded.data());
  CHECK(std::vector<float>(padded.begin(), padded.begin() + 8) ==
        std::vector<float>{1, 2, 3, 2, 1, 2, 3, 2});
  CHECK(padded[16] == 1);
  CHECK(padded[8] == 4);
}

TEST_CASE("the best class: ties to the lower one, nodata by the mask") {
  const Tensor<float> s({3, 1, 3}, {1, 5, 0, 1, 5, 2, 0, 6, 2});
  CHECK(data::best_class(s, {}).values() == std::vector<std::uint8_t>{0, 2, 1});
  CHECK(data::best_class(s, Tensor<std::uint8_t>({1, 3}, {1, 0, 1})).values() ==
        std::vector<std::uint8_t>{0, 255, 1});
  CHECK_THROWS_AS(data::best_class(s, Tensor<std::uint8_t>({3, 1}, {1, 0, 1})), Error);
}

TEST_CASE(
    "a plan says what it needs, keeps to a limit, and does not grow with the scene's height") {
  data::WindowOptions o{.height = 4096, .width = 4096, .bands = 4, .classes = 8};
  const auto p = data::plan_windows(o);
  o.height = 65536;
  CHECK(data::plan_windows(o).bytes == p.bytes);
  CHECK(p.text().find("4096 x 4096 pixels in 85 x 85 windows of 64, overlap 16, at most ") == 0);
  CHECK_THROWS_AS(data::plan_windows(o, p.bytes - 1), Error);
  CHECK_NOTHROW(data::plan_windows(o, p.bytes));
  // What blending really holds stays below what the plan said.
  const data::WindowOptions small{
      .height = 200, .width = 300, .bands = 4, .classes = 8, .size = 32, .overlap = 8};
  const auto q = data::plan_windows(small);
  const std::size_t before = cpu_device.live.load();
  cpu_device.reset_peak();
  data::ScoreBlender blender(q);
  const Tensor<float> s = Tensor<float>::zeros({8, 32, 32});
  for (Index i = 0; i < q.count(); ++i) blender.add(i, s, [](Index, const Tensor<float>&) {});
  CHECK(cpu_device.peak.load() - before <= q.bytes);
  CHECK(cpu_device.peak.load() - before >= 8u * 32 * 300 * 4);
}

TEST_CASE("windows out of order or of a wrong shape are refused") {
  const auto p =
      data::plan_windows({.height = 40, .width = 40, .classes = 2, .size = 16, .overlap = 4});
  data::ScoreBlender b(p);
  const auto ignore = [](Index, const Tensor<float>&) {};
  CHECK_THROWS_AS(b.add(1, Tensor<float>::zeros({2, 16, 16}), ignore), Error);
  CHECK_THROWS_AS(b.add(0, Tensor<float>::zeros({2, 16, 15}), ignore), Error);
  CHECK_THROWS_AS(data::plan_windows({.height = 0, .width = 4}), Error);
  CHECK_THROWS_AS(data::plan_windows({.height = 60, .width = 60, .size = 16, .overlap = 16}),
                  Error);
}
