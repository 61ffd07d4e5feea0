// The scene generator against the statistics of its prototype (fixtures/scene_reference.inc, made
// by scripts/make_scene_reference.py), and what it promises: the same bits for any number of
// threads, no seams in a landscape, shadows that fall the right way.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <moraine/data/scene.hpp>
#include <string>
#include <vector>

using namespace moraine;

namespace {

struct Shares {
  float gsd;
  std::array<double, 8> share, error;
  double trees, roofs;
};
struct ClassMean {
  std::string domain;
  int land;
  std::array<double, 4> mean, error, spread;
};
struct NoiseRow {
  int step, octaves;
  double variance, slope;
};
struct MaterialRow {
  std::string domain;
  int material;
  std::array<double, 4> seen;
};

std::vector<Shares> reference_shares;
std::vector<ClassMean> reference_classes;
std::vector<NoiseRow> reference_noise;
std::vector<MaterialRow> reference_materials;

void fill_reference() {
  if (!reference_shares.empty()) return;
#define SCENE_SHARES(g, a, b, c, d, e, f, h, i, p, q, r, s, t, u, v, w, x, y) \
  reference_shares.push_back({g, {a, b, c, d, e, f, h, i}, {p, q, r, s, t, u, v, w}, x, y});
#define SCENE_CLASS(name, k, a, b, c, d, e, f, g, h, i, j, l, m) \
  reference_classes.push_back({name, k, {a, b, c, d}, {e, f, g, h}, {i, j, l, m}});
#define SCENE_NOISE(a, b, c, d) reference_noise.push_back({a, b, c, d});
#define SCENE_MATERIAL(a, b, c, d, e, f) reference_materials.push_back({a, b, {c, d, e, f}});
#include "../parity/fixtures/scene_reference.inc"
#include "message.hpp"
}

constexpr int reference_tiles = 1024;  // behind every number of the fixture
constexpr int tiles = 256;

struct Threads {
  int before = threads();
  explicit Threads(int n) { set_threads(n); }
  ~Threads() { set_threads(before); }
};

}  // namespace

TEST_CASE("materials: what each band sees agrees with the prototype to rounding") {
  fill_reference();
  REQUIRE(reference_materials.size() == 26);
  for (const MaterialRow& r : reference_materials) {
    const data::Domain d = data::domain(r.domain);
    const std::vector<float> table = data::band_table(d.centres, d.widths);
    for (std::size_t b = 0; b < 4; ++b)
      CHECK(table[static_cast<std::size_t>(r.material) * 4 + b] ==
            doctest::Approx(r.seen[b]).epsilon(1e-6));
  }
}

TEST_CASE("noise: variance and slope of every field agree with the prototype") {
  fill_reference();
  REQUIRE(reference_noise.size() == 4);
  for (const NoiseRow& r : reference_noise) {
    double variance = 0, slope = 0;
    const int n = 2048;
    std::vector<float> row(64);
    for (int t = 0; t < n; ++t) {
      const data::FractalNoise f(static_cast<std::uint64_t>(t), "test", 64, 64, r.step, r.octaves);
      double sum = 0, square = 0;
      for (Index y = 0; y < 64; ++y) {
        f.row(y, 0, 64, 1, row.data());
        for (std::size_t x = 0; x < 64; ++x) {
          sum += row[x];
          square += row[x] * row[x];
          if (x) slope += (row[x] - row[x - 1]) * (row[x] - row[x - 1]) / (64.0 * 63 * n);
        }
      }
      variance += (square / 4096 - (sum / 4096) * (sum / 4096)) / n;
    }
    // Standard errors with 2048 fields: 1.4 % of the variance of the coarsest field.
    CHECK(variance == doctest::Approx(r.variance).epsilon(0.05));
    CHECK(slope == doctest::Approx(r.slope).epsilon(0.05));
  }
}

TEST_CASE("tiles: class shares and heights agree with the prototype") {
  fill_reference();
  REQUIRE(reference_shares.size() == 2);
  for (const Shares& r : reference_shares) {
    std::array<double, 8> share{};
    double trees = 0, roofs = 0, trees_n = 0, roofs_n = 0;
    for (int t = 0; t < reference_tiles; ++t) {
      const auto l = data::make_layout(static_cast<std::uint64_t>(t), {.gsd = r.gsd});
      for (Index i = 0; i < 4096; ++i) {
        const std::uint8_t k = l.label.data()[i];
        REQUIRE(k < 8);
        share[k] += 1.0 / (4096.0 * reference_tiles);
        if (k == 5) trees += l.height.data()[i], ++trees_n;
        if (k == 6) roofs += l.height.data()[i], ++roofs_n;
      }
    }
    for (std::size_t k = 0; k < 8; ++k) {
      CAPTURE(k);
      CHECK(std::fabs(share[k] - r.share[k]) < 3.5 * std::sqrt(2.0) * r.error[k]);
    }
    CHECK(trees / trees_n == doctest::Approx(r.trees).epsilon(0.03));
    CHECK(roofs / roofs_n == doctest::Approx(r.roofs).epsilon(0.03));
  }
}

TEST_CASE("tiles: mean and spread of every class, band and domain agree with the prototype") {
  fill_reference();
  REQUIRE(reference_classes.size() == 56);
  std::size_t row = 0;
  for (const std::string_view name : data::domain_names) {
    const data::Domain d = data::domain(name);
    double n[8] = {}, sum[8][4] = {}, square[8][4] = {};
    std::vector<float> x(4 * 4096);
    for (int t = 0; t < tiles; ++t) {
      const std::uint64_t seed = static_cast<std::uint64_t>(t);
      const auto l = data::make_layout(seed, {.gsd = d.gsd});
      data::render_into(l, d, seed, x.data());
      for (std::size_t i = 0; i < 4096; ++i) {
        const std::uint8_t k = l.label.data()[i];
        ++n[k];
        for (std::size_t b = 0; b < 4; ++b) {
          const double v = x[b * 4096 + i];
          sum[k][b] += v;
          square[k][b] += v * v;
        }
      }
    }
    for (int k = 0; k < 8; ++k, ++row) {
      const ClassMean& r = reference_classes[row];
      REQUIRE(r.domain == name);
      REQUIRE(r.land == k);
      for (std::size_t b = 0; b < 4; ++b) {
        CAPTURE(name);
        CAPTURE(k);
        CAPTURE(b);
        const double mean = sum[k][b] / n[k];
        const double spread = std::sqrt(square[k][b] / n[k] - mean * mean);
        // The fixture's error is of 1024 tiles; ours has fewer and varies accordingly.
        const double error = r.error[b] * std::sqrt(1.0 + double(reference_tiles) / tiles);
        CHECK(std::fabs(mean - r.mean[b]) < 3.5 * error);
        CHECK(spread == doctest::Approx(r.spread[b]).epsilon(0.12));
      }
    }
  }
}

TEST_CASE("a scene has the same bits for 1, 2 and 3 threads, and another seed has others") {
  const data::Domain d = data::domain("strong");
  const data::LayoutOptions size{.gsd = d.gsd, .height = 200, .width = 331};
  std::vector<float> first, heights;
  std::vector<std::uint8_t> labels;
  for (const int n : {1, 2, 3}) {
    const Threads guard(n);
    const data::Scene s = data::render(data::make_layout(5, size), d, 9);
    if (n == 1) {
      first = s.reflectance.values();
      labels = s.labels.values();
      heights = s.height.values();
    }
    CHECK(s.reflectance.values() == first);
    CHECK(s.labels.values() == labels);
    CHECK(s.height.values() == heights);
  }
  CHECK(data::make_layout(6, size).label.values() != labels);
  CHECK(data::render(data::make_layout(5, size), d, 10).reflectance.values() != first);
}

TEST_CASE("domains of one gsd see the same land; a domain may have any number of bands") {
  const auto l = data::make_layout(11);
  data::Domain d = data::domain("sun");
  const data::Scene a = data::render(l, data::domain("source"), 1), b = data::render(l, d, 1);
  CHECK(a.labels.values() == b.labels.values());
  CHECK(a.reflectance.values() != b.reflectance.values());
  d.centres.clear();
  d.widths.clear();
  for (int i = 0; i < 50; ++i) {
    d.centres.push_back(static_cast<float>(420 + 40 * i));
    d.widths.push_back(10);
  }
  CHECK(data::render(l, d, 1).reflectance.shape() == Shape{50, 64, 64});
  // A band does not depend on the bands beside it.
  d.noise = 0;
  data::Domain one = d;
  one.centres = {d.centres[7]};
  one.widths = {10};
  const auto all = data::render(l, d, 1).reflectance.values();
  const auto alone = data::render(l, one, 1).reflectance.values();
  CHECK(std::equal(alone.begin(), alone.end(), all.begin() + 7 * 4096));
}

TEST_CASE("a landscape has the densities of tiles and no seams at its blocks") {
  fill_reference();
  const Index n = 1024;
  const auto l = data::make_layout(21, {.height = n, .width = n});
  std::array<double, 8> share{};
  for (Index i = 0; i < n * n; ++i) share[l.label.data()[i]] += 1.0 / double(n * n);
  // 256 tiles' worth: the errors of the shares are twice those of the fixture.
  for (std::size_t k = 0; k < 8; ++k) {
    CAPTURE(k);
    CHECK(std::fabs(share[k] - reference_shares[0].share[k]) <
          4 * 2 * reference_shares[0].error[k]);
  }
  // How often the label, and how much the ground, changes between neighbours: at the borders of the
  // 64 px blocks as everywhere else. Columns and rows.
  for (const bool vertical : {false, true}) {
    const Index step = vertical ? n : 1, across = vertical ? 1 : n;
    double border = 0, inside = 0, ground = 0, ground_inside = 0;
    int borders = 0, insides = 0;
    for (Index c = 1; c < n; ++c) {
      double changed = 0, rise = 0;
      for (Index r = 0; r < n; ++r) {
        const Index i = c * step + r * across;
        changed += l.label.data()[i] != l.label.data()[i - step];
        rise += std::fabs(l.terrain.data()[i] - l.terrain.data()[i - step]);
      }
      if (c % 64 == 0) {
        border += changed / n, ground += rise / n, ++borders;
      } else {
        inside += changed / n, ground_inside += rise / n, ++insides;
      }
    }
    CHECK(border / borders == doctest::Approx(inside / insides).epsilon(0.08));
    CHECK(ground / borders == doctest::Approx(ground_inside / insides).epsilon(0.10));
  }
}

TEST_CASE("a landscape's crowns and buildings are whole where blocks meet") {
  // Any crown or roof that a block border cut off would leave a column on which heights of trees
  // jump more often than elsewhere.
  const Index n = 1024;
  const auto l = data::make_layout(22, {.height = n, .width = n});
  double border = 0, inside = 0;
  int borders = 0, insides = 0;
  for (Index c = 1; c < n; ++c) {
    double jump = 0, both = 1;
    for (Index r = 0; r < n; ++r) {
      const Index i = r * n + c;
      if (l.label.data()[i] < 5 || l.label.data()[i] == 7 || l.label.data()[i - 1] < 5) continue;
      jump += std::fabs(l.height.data()[i] - l.height.data()[i - 1]);
      ++both;
    }
    if (c % 64 == 0)
      border += jump / both, ++borders;
    else
      inside += jump / both, ++insides;
  }
  CHECK(border / borders == doctest::Approx(inside / insides).epsilon(0.12));
}

TEST_CASE("a tower throws its shadow away from the sun") {
  data::Layout l = data::make_layout(1, {.height = 48, .width = 48});
  for (Index i = 0; i < 48 * 48; ++i) {
    l.label.data()[i] = static_cast<std::uint8_t>(data::Land::grass);
    l.surface.data()[i] = 0;
    l.rows.data()[i] = l.terrain.data()[i] = l.height.data()[i] = 0;
  }
  for (Index y = 23; y < 26; ++y)
    for (Index x = 23; x < 26; ++x) l.height.data()[y * 48 + x] = 10;
  data::Domain d = data::domain("source");
  d.noise = 0;
  d.psf = 0.1f;
  const auto nir_at = [&](float azimuth, Index y, Index x) {
    d.sun_azimuth = azimuth;
    d.sun_elevation = 45;
    return data::render(l, d, 1).reflectance.at({3, y, x});
  };
  const auto dark = [&](float azimuth, Index y, Index x) {
    return nir_at(azimuth, y, x) < 0.6f * nir_at(azimuth, 5, 5);
  };
  CHECK(dark(180, 19, 24));  // sun in the south: shadow to the north, up
  CHECK_FALSE(dark(180, 29, 24));
  CHECK(dark(90, 24, 19));  // sun in the east: shadow to the west, left
  CHECK_FALSE(dark(90, 24, 29));
  CHECK(dark(270, 24, 29));
  CHECK_FALSE(dark(180, 14, 24));  // 10 m at 45 degrees: 6.7 pixels, no further
}

TEST_CASE("pre-training domains lie in their box, and the named ones lie in it too") {
  const auto inside = [](const data::Domain& d) {
    const float low[4] = {445, 535, 640, 750}, high[4] = {500, 580, 690, 875};
    for (std::size_t b = 0; b < 4; ++b)
      if (d.centres[b] < low[b] || d.centres[b] > high[b] || d.widths[b] < 25 || d.widths[b] > 120)
        return false;
    return d.gsd >= 1.3f && d.gsd <= 2.3f && d.sun_elevation >= 22 && d.sun_elevation <= 65 &&
           d.sun_azimuth >= 90 && d.sun_azimuth <= 270 && d.haze >= 0 && d.haze <= 0.07f &&
           d.noise >= 0.002f && d.noise <= 0.012f && d.psf >= 0.4f && d.psf <= 1.3f;
  };
  for (std::uint64_t s = 0; s < 200; ++s) {
    const data::Domain d = data::random_domain(s);
    CHECK(inside(d));
    CHECK_NOTHROW(data::check(d));
    CHECK_NOTHROW(data::check(data::reference_view(d)));
  }
  for (const std::string_view name : data::domain_names) CHECK(inside(data::domain(name)));
}

TEST_CASE("odd sizes and coarse or fine pixels make valid scenes") {
  struct Size {
    float gsd;
    Index h, w;
  };
  for (const Size s :
       {Size{1.5f, 8, 8}, Size{1.5f, 9, 96}, Size{2.3f, 97, 65}, Size{1.5f, 33, 200},
        Size{10, 64, 64}, Size{30, 100, 40}, Size{0.3f, 64, 64}, Size{0.3f, 200, 130}}) {
    data::Domain d = data::domain("medium");
    d.gsd = s.gsd;
    const auto l = data::make_layout(3, {.gsd = s.gsd, .height = s.h, .width = s.w});
    const data::Scene scene = data::render(l, d, 3);
    CHECK(scene.reflectance.shape() == Shape{4, s.h, s.w});
    for (const float v : scene.reflectance.values()) REQUIRE(std::isfinite(v));
    for (const float v : scene.height.values()) REQUIRE((v >= 0 && v < 30));
    for (const std::uint8_t v : scene.labels.values()) REQUIRE(v < 8);
  }
}

TEST_CASE("what cannot be made is refused with numbers") {
  CHECK(message_of([] { data::make_layout(1, {.height = 7}); }).find("7 x 64") !=
        std::string::npos);
  CHECK_THROWS_AS(data::make_layout(1, {.gsd = 0}), Error);
  CHECK_THROWS_AS(data::make_layout(1, {.gsd = std::nanf("")}), Error);
  CHECK(message_of([] { data::domain("easy"); }).find("'easy'") != std::string::npos);
  const auto l = data::make_layout(1);
  CHECK(message_of([&] { data::render(l, data::domain("strong"), 1); }).find("gsd") !=
        std::string::npos);
  data::Domain d;
  d.widths.pop_back();
  CHECK_THROWS_AS(data::render(l, d, 1), Error);
  d = data::Domain{};
  d.centres[0] = 350;
  CHECK_THROWS_AS(data::render(l, d, 1), Error);
  d = data::Domain{};
  d.gain = {1, 1};
  CHECK_THROWS_AS(data::render(l, d, 1), Error);
  CHECK_THROWS_AS(data::render(data::Layout{}, data::Domain{}, 1), Error);
}
