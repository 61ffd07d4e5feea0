// Bands of a scene matched to a model's: Sentinel-2 to four bands, hyperspectral averages,
// interpolation, names, and what is refused.
#include <doctest/doctest.h>

#include "message.hpp"

#include <cmath>
#include <moraine/data/bands.hpp>
#include <string>
#include <vector>

using namespace moraine;
using data::Band;

namespace {

const std::vector<Band> four{
    {"blue", 485, 70}, {"green", 555, 70}, {"red", 660, 60}, {"nir", 830, 120}};

/// Sentinel-2A, level 2A: 12 bands, centre and width in nm (ESA's user guide, rounded).
const std::vector<Band> sentinel2{{"B1", 443, 21}, {"B2", 492, 66},   {"B3", 560, 36},
                                  {"B4", 665, 31}, {"B5", 704, 15},   {"B6", 741, 15},
                                  {"B7", 783, 20}, {"B8", 833, 106},  {"B8A", 865, 21},
                                  {"B9", 945, 20}, {"B11", 1614, 91}, {"B12", 2202, 175}};

}  // namespace

TEST_CASE("Sentinel-2's twelve bands to blue, green, red, near infrared: B2 B3 B4 B8") {
  const auto m = data::match_bands(four, sentinel2);
  const std::size_t expected[4] = {1, 2, 3, 7};
  for (std::size_t b = 0; b < 4; ++b) {
    CHECK(m.at(b, expected[b]) == 1);
    CHECK(m.single(b));
    CHECK(m.how[b] == "overlap");
  }
  CHECK(data::text(m) ==
        "model band    rule     from the scene\n"
        "blue 485 nm   overlap  B2 492 nm\n"
        "green 555 nm  overlap  B3 560 nm\n"
        "red 660 nm    overlap  B4 665 nm\n"
        "nir 830 nm    overlap  B8 833 nm\n");
}

TEST_CASE("a hyperspectral scene is averaged with the model band's response") {
  std::vector<Band> scene;
  for (int i = 0; i < 100; ++i) scene.push_back({"", 420 + 6.5 * i, 8});
  const auto m = data::match_bands(four, scene);
  for (std::size_t b = 0; b < 4; ++b) {
    CHECK(m.how[b] == "average");
    double sum = 0, centre = 0;
    for (std::size_t s = 0; s < scene.size(); ++s) {
      sum += m.at(b, s);
      centre += m.at(b, s) * scene[s].centre;
      if (std::fabs(scene[s].centre - four[b].centre) > four[b].width / 2) CHECK(m.at(b, s) == 0);
    }
    CHECK(sum == doctest::Approx(1).epsilon(1e-12));
    CHECK(std::fabs(centre - four[b].centre) < 3);
  }
  CHECK(data::text(m).find(" more\n") != std::string::npos);
}

TEST_CASE("between two bands: linear in wavelength; beyond the last: up to the tolerance") {
  const std::vector<Band> scene{{"b", 700, 20}, {"a", 600, 20}};
  const auto m = data::match_bands({{"x", 625, 20}}, scene);
  CHECK(m.how[0] == "interpolation");
  CHECK(m.at(0, 0) == doctest::Approx(0.25));
  CHECK(m.at(0, 1) == doctest::Approx(0.75));
  CHECK(data::match_bands({{"x", 725, 20}}, scene).at(0, 0) == 1);
  const std::string message = message_of([&] { data::match_bands({{"x", 745, 20}}, scene); });
  CHECK(message.find("x 745 nm") != std::string::npos);
  CHECK(message.find("600..700 nm") != std::string::npos);
  CHECK_NOTHROW(data::match_bands({{"x", 745, 20}}, scene, {.tolerance = 40}));
}

TEST_CASE("names: they decide where wavelengths are near or unknown, and not where they are far") {
  const auto near = data::match_bands({{"NIR", 830, 120}}, {{"red", 685, 40}, {"nir", 765, 50}});
  CHECK(near.how[0] == "name");
  CHECK(near.at(0, 1) == 1);
  // Landsat's B5 is near infrared, Sentinel-2's B5 the red edge.
  const auto far = data::match_bands({{"B5", 865, 28}}, sentinel2);
  CHECK(far.how[0] == "overlap");
  CHECK(far.at(0, 8) == 1);
  CHECK(data::match_bands({{"red", 0, 0}}, {{"blue", 0, 0}, {"red", 0, 0}}).at(0, 1) == 1);
}

TEST_CASE("without names and wavelengths nothing is guessed, unless by position") {
  const std::vector<Band> unknown(4);
  CHECK(message_of([&] { data::match_bands(four, unknown); }).find("blue 485 nm") !=
        std::string::npos);
  CHECK_THROWS_AS(data::match_bands(unknown, unknown), Error);
  const auto m = data::match_bands(unknown, unknown, {.by_position = true});
  for (std::size_t b = 0; b < 4; ++b) CHECK(m.at(b, b) == 1);
  CHECK_THROWS_AS(data::match_bands(unknown, std::vector<Band>(5), {.by_position = true}), Error);
  CHECK_THROWS_AS(data::match_bands({}, four), Error);
  CHECK_THROWS_AS(data::match_bands({{"x", NAN, 1}}, four), Error);
}

TEST_CASE("the matrix applied: weights, and bands without weight are not read") {
  const std::vector<Band> scene{{"a", 600, 20}, {"b", 700, 20}, {"far", 2000, 20}};
  const auto m = data::match_bands({{"x", 625, 20}, {"b", 700, 20}}, scene);
  const Tensor<float> x({3, 1, 2}, {1, 2, 3, 4, NAN, NAN});
  const auto y = data::apply(m, x);
  CHECK(y.shape() == Shape{2, 1, 2});
  CHECK(y.at({0, 0, 0}) == doctest::Approx(1.5));
  CHECK(y.at({0, 0, 1}) == doctest::Approx(2.5));
  CHECK(y.at({1, 0, 1}) == 4);
  CHECK_THROWS_AS(data::apply(m, Tensor<float>::zeros({2, 1, 2})), Error);
}
