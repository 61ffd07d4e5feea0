// The eight transforms form the group of the square; views, batches and normalisation are functions
// of (seed, step, index) and of nothing else.
#include <doctest/doctest.h>

#include <cmath>
#include <moraine/data/crops.hpp>
#include <set>
#include <vector>

using namespace moraine;
using data::Dihedral;

namespace {

Tensor<float> counting(const Shape& s) {
  Tensor<float> t = Tensor<float>::empty(s);
  for (Index i = 0; i < t.numel(); ++i) t.data()[i] = static_cast<float>(i);
  return t;
}

}  // namespace

TEST_CASE("dihedral: the known pictures of a 2 x 3 image") {
  const Tensor<float> x({2, 3}, {1, 2, 3, 4, 5, 6});
  const auto image = [&](int n) { return data::transformed(x, Dihedral::of(n)); };
  CHECK(image(0).values() == std::vector<float>{1, 2, 3, 4, 5, 6});
  CHECK(image(1).shape() == Shape{3, 2});
  CHECK(image(1).values() == std::vector<float>{3, 6, 2, 5, 1, 4});  // a quarter turn to the left
  CHECK(image(2).values() == std::vector<float>{6, 5, 4, 3, 2, 1});
  CHECK(image(3).values() == std::vector<float>{4, 1, 5, 2, 6, 3});
  CHECK(image(4).values() == std::vector<float>{3, 2, 1, 6, 5, 4});  // left and right change places
  CHECK(image(5).values() == std::vector<float>{1, 4, 2, 5, 3, 6});  // the transpose
  CHECK(image(7).values() == std::vector<float>{6, 3, 5, 2, 4, 1});
  CHECK_THROWS_AS(Dihedral::of(8), Error);
  CHECK_THROWS_AS(data::transformed(Tensor<float>({2}, {1, 2}), Dihedral{}), Error);
}

TEST_CASE("dihedral: composition, inverse, eight different elements, order of the group") {
  const Tensor<float> x = counting({2, 5, 4});
  std::set<std::vector<float>> pictures;
  const Tensor<float> square = counting({4, 4});
  for (int a = 0; a < 8; ++a) {
    const Dihedral da = Dihedral::of(a);
    CHECK(da.number() == a);
    pictures.insert(data::transformed(square, da).values());
    CHECK(da.then(da.inverse()).number() == 0);
    CHECK(da.inverse().then(da).number() == 0);
    CHECK(data::transformed(data::transformed(x, da), da.inverse()).values() == x.values());
    for (int b = 0; b < 8; ++b) {
      const Dihedral db = Dihedral::of(b), ab = da.then(db);
      const auto twice = data::transformed(data::transformed(x, da), db);
      const auto once = data::transformed(x, ab);
      CHECK(twice.shape() == once.shape());
      CHECK(twice.values() == once.values());
      for (int c = 0; c < 8; ++c)
        CHECK(ab.then(Dihedral::of(c)).number() == da.then(db.then(Dihedral::of(c))).number());
    }
  }
  CHECK(pictures.size() == 8);
}

TEST_CASE("views: inside the image, over all places and transforms, reproducible") {
  std::set<Index> ys, turns;
  double log_gain = 0, square = 0, offset = 0;
  int n = 0;
  for (std::uint64_t step = 0; step < 40; ++step)
    for (std::uint64_t i = 0; i < 25; ++i) {
      const data::View v = data::random_view(7, step, i, 70, 100, 4);
      const data::View again = data::random_view(7, step, i, 70, 100, 4);
      CHECK(v.y == again.y);
      CHECK(v.gain == again.gain);
      CHECK((v.y >= 0 && v.y <= 6 && v.x >= 0 && v.x <= 36));
      ys.insert(v.y);
      turns.insert(v.turn.number());
      for (std::size_t b = 0; b < 4; ++b, ++n) {
        log_gain += std::log(v.gain[b]);
        square += std::log(v.gain[b]) * std::log(v.gain[b]);
        offset += v.offset[b] * v.offset[b];
      }
    }
  CHECK(ys.size() == 7);
  CHECK(turns.size() == 8);
  CHECK(std::fabs(log_gain / n) < 3.5 * 0.05 / std::sqrt(n));
  CHECK(std::sqrt(square / n) == doctest::Approx(0.05).epsilon(0.05));
  CHECK(std::sqrt(offset / n) == doctest::Approx(0.005).epsilon(0.05));
  CHECK(data::random_view(7, 0, 0, 70, 100, 4).gain != data::random_view(8, 0, 0, 70, 100, 4).gain);
  CHECK(data::random_view(7, 0, 0, 70, 100, 4).gain != data::random_view(7, 1, 0, 70, 100, 4).gain);
  CHECK_THROWS_AS(data::random_view(7, 0, 0, 63, 100, 4), Error);
}

TEST_CASE("fixed views: the first is the tile itself, the others differ in turn and bands") {
  CHECK(data::fixed_view(1, 5, 0, 64, 4).gain.empty());
  const data::View v = data::fixed_view(1, 5, 3, 64, 4);
  CHECK(v.turn.number() == 3);
  CHECK(v.gain.size() == 4);
  CHECK(v.gain != data::fixed_view(1, 6, 3, 64, 4).gain);
  CHECK(v.gain != data::fixed_view(1, 5, 4, 64, 4).gain);
  CHECK(v.gain == data::fixed_view(1, 5, 3, 64, 4).gain);
}

TEST_CASE("batches: image, labels and height are cut and turned together") {
  data::Sample s;
  s.image = counting({2, 6, 7});
  s.labels = Tensor<std::uint8_t>::empty({6, 7});
  s.height = Tensor<float>::empty({6, 7});
  for (Index i = 0; i < 42; ++i) {
    s.labels.data()[i] = static_cast<std::uint8_t>(i);
    s.height.data()[i] = static_cast<float>(i);
  }
  data::View a{.y = 1, .x = 2, .size = 4, .turn = Dihedral::of(6), .gain = {}, .offset = {}};
  data::View b = a;
  b.gain = {2, 1};
  b.offset = {0.5f, 0};
  const data::Batch batch = data::make_batch({&s, &s}, {a, b});
  CHECK(batch.images.shape() == Shape{2, 2, 4, 4});
  CHECK(batch.labels.shape() == Shape{2, 4, 4});
  // 6: mirror, then half a turn: rows upside down.
  for (Index y = 0; y < 4; ++y)
    for (Index x = 0; x < 4; ++x) {
      const Index from = (1 + 3 - y) * 7 + 2 + x;
      CHECK(batch.labels.at({0, y, x}) == from);
      CHECK(batch.height.at({1, y, x}) == static_cast<float>(from));
      CHECK(batch.images.at({0, 1, y, x}) == static_cast<float>(42 + from));
      CHECK(batch.images.at({1, 0, y, x}) == 2 * static_cast<float>(from) + 0.5f);
    }
  data::Sample bare;
  bare.image = counting({2, 6, 7});
  CHECK_FALSE(data::make_batch({&bare}, {a}).labels.defined());
  CHECK_THROWS_AS(data::make_batch({&s, &bare}, {a, a}), Error);
  CHECK_THROWS_AS(data::make_batch({&s}, {a, a}), Error);
  CHECK_THROWS_AS(data::make_batch({}, {}), Error);
  a.y = 3;
  CHECK_THROWS_AS(data::make_batch({&s}, {a}), Error);
  b.gain = {1};
  CHECK_THROWS_AS(data::make_batch({&s}, {b}), Error);
}

TEST_CASE("normalisation: one constant per band, in place") {
  Tensor<float> x = Tensor<float>::full({2, 4, 3, 3}, 0.24f);
  data::normalise(x, data::demo_normalisation());
  CHECK(x.at({1, 0, 2, 2}) == doctest::Approx((0.24 - 0.10) / 0.05).epsilon(1e-5));
  CHECK(x.at({0, 3, 0, 1}) == doctest::Approx((0.24 - 0.28) / 0.14).epsilon(1e-5));
  Tensor<float> rgb = Tensor<float>::zeros({3, 2, 2});
  CHECK_THROWS_AS(data::normalise(rgb, data::demo_normalisation()), Error);
  CHECK_NOTHROW(data::normalise(rgb, data::demo_normalisation(3)));
  CHECK_THROWS_AS(data::normalise(rgb, {{0, 0, 0}, {1, 0, 1}}), Error);
}
