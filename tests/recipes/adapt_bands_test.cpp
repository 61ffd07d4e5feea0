// A trunk for other bands: the matrix of each policy, its table, and what the trunk then computes.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdio>
#include <moraine/models/dinov2.hpp>
#include <moraine/nn/init.hpp>
#include <moraine/recipes/adapt_bands.hpp>

using namespace moraine;

namespace {
const std::vector<data::Band> nir_rgb{
    {"NIR", 833, 110}, {"red", 660, 30}, {"green", 565, 30}, {"blue", 485, 60}};

ViT<float> trunk_of_rgb() {
  ViT<float> vit(vit_config(Dinov2Config{.hidden_size = 16,
                                         .num_hidden_layers = 1,
                                         .num_attention_heads = 2,
                                         .image_size = 28,
                                         .patch_size = 7}));
  for (Named<float>& p : parameters<float>(vit))
    init::normal(*p.tensor, 0.3, init::stream(5, p.name));
  return vit;
}
Tensor<float> band_pixels(Index bands, Index equal_to = -1) {
  Tensor<float> x = Tensor<float>::empty({1, bands, 28, 28});
  for (Index i = 0; i < x.numel(); ++i) {
    const Index at = equal_to >= 0 ? i % (28 * 28) : i;
    x.data()[i] = std::sin(0.3f * static_cast<float>(at));
  }
  return x;
}
double band_difference(const Tensor<float>& a, const Tensor<float>& b) {
  REQUIRE(a.shape() == b.shape());
  double worst = 0;
  const auto x = a.values(), y = b.values();
  for (std::size_t i = 0; i < x.size(); ++i)
    worst = std::fmax(worst, std::fabs(double(x[i]) - y[i]));
  return worst;
}
std::vector<double> band_row(const BandAdaptation& a, std::size_t s) {
  return {a.at(s, 0), a.at(s, 1), a.at(s, 2)};
}
using BandRow = std::vector<double>;
}  // namespace

TEST_CASE("adapt_bands: the matrix of each policy") {
  const auto copy = adapt_bands(rgb_bands(), nir_rgb, {.policy = BandPolicy::copy});
  // SpectralMoE's rule for GID: band i takes the kernel of i mod 3.
  CHECK(band_row(copy, 0) == BandRow{1, 0, 0});
  CHECK(band_row(copy, 1) == BandRow{0, 1, 0});
  CHECK(band_row(copy, 3) == BandRow{1, 0, 0});

  const auto zero = adapt_bands(rgb_bands(), nir_rgb, {.policy = BandPolicy::zero});
  CHECK(band_row(zero, 0) == BandRow{0, 0, 0});
  CHECK(band_row(zero, 1) == BandRow{1, 0, 0});
  CHECK(band_row(zero, 3) == BandRow{0, 0, 1});
  CHECK(zero.how == std::vector<std::string>{"zero", "name", "name", "name"});

  const auto mean = adapt_bands(rgb_bands(), nir_rgb, {.policy = BandPolicy::mean});
  CHECK(band_row(mean, 0) == BandRow{1.0 / 3, 1.0 / 3, 1.0 / 3});

  // Yellow lies between green (560) and red (665); 833 nm beyond red; without names, by overlap.
  const auto wave = adapt_bands(
      rgb_bands(), {{"yellow", 602, 20}, {"B8", 833, 110}, {"B2", 492, 66}, {"", 443, 20}});
  CHECK(wave.at(0, 0) == doctest::Approx(0.4));
  CHECK(wave.at(0, 1) == doctest::Approx(0.6));
  CHECK(band_row(wave, 1) == BandRow{1, 0, 0});
  CHECK(band_row(wave, 2) == BandRow{0, 0, 1});
  CHECK(band_row(wave, 3) == BandRow{0, 0, 1});
  CHECK(wave.how == std::vector<std::string>{"wavelength", "wavelength", "overlap", "wavelength"});
  CHECK(text(wave) ==
        "sensor band       rule        red 665 nm  green 560 nm  blue 490 nm\n"
        "yellow 602 nm     wavelength       0.400         0.600        0.000\n"
        "B8 833 nm         wavelength       1.000         0.000        0.000\n"
        "B2 492 nm         overlap          0.000         0.000        1.000\n"
        "(unnamed) 443 nm  wavelength       0.000         0.000        1.000\n");
}

TEST_CASE("adapt_bands: the trunk computes what the matrix says") {
  ViT<float> rgb = trunk_of_rgb();
  const Tensor<float> three = band_pixels(3), before = rgb(three);

  // The same bands: nothing changes.
  ViT<float> same = trunk_of_rgb();
  adapt(same, adapt_bands(rgb_bands(), rgb_bands()));
  CHECK(band_difference(same(three), before) == 0);

  // A band that the policy leaves out has no effect, whatever it holds; the others keep their
  // place.
  ViT<float> four = trunk_of_rgb();
  adapt(four, adapt_bands(rgb_bands(), nir_rgb, {.policy = BandPolicy::zero}));
  CHECK(four.config.channels == 4);
  const Tensor<float> nir = band_pixels(1);
  CHECK(band_difference(four(concat(std::vector<Tensor<float>>{nir, three}, 1)), before) < 1e-5);

  // keep_response: pixels equal in all bands give the tokens they gave before.
  for (const BandPolicy p :
       {BandPolicy::copy, BandPolicy::mean, BandPolicy::wavelength, BandPolicy::zero}) {
    CAPTURE(name_of(p));
    ViT<float> kept = trunk_of_rgb();
    adapt(kept, adapt_bands(rgb_bands(), nir_rgb, {.policy = p, .keep_response = true}));
    CHECK(band_difference(kept(band_pixels(4, 0)), rgb(band_pixels(3, 0))) < 1e-5);
  }
  ViT<float> louder = trunk_of_rgb();
  adapt(louder, adapt_bands(rgb_bands(), nir_rgb, {.policy = BandPolicy::mean}));
  CHECK(band_difference(louder(band_pixels(4, 0)), rgb(band_pixels(3, 0))) > 1e-2);

  // A trained embedding stays trained, a frozen one frozen.
  CHECK(!four.patch_embed.proj.weight.tracked());
  ViT<float> trained = trunk_of_rgb();
  trained.patch_embed.proj.weight.requires_grad();
  adapt(trained, adapt_bands(rgb_bands(), nir_rgb));
  CHECK(trained.patch_embed.proj.weight.tracked());
}

TEST_CASE("adapt_bands: the example of chapter 3") {
  ViT<float> vit = trunk_of_rgb();
  const std::vector<data::Band> sensor{{"nir", 833, 110}, {"red", 665, 30}, {"green", 560, 35}};
  const BandAdaptation a = adapt_bands(rgb_bands(), sensor, {.policy = BandPolicy::mean});
  std::puts(text(a).c_str());
  adapt(vit, a);  // vit.config.channels is 3 now, the first of them near infrared
  CHECK(vit.config.channels == 3);
  CHECK(text(a) ==
        "sensor band   rule        red 665 nm  green 560 nm  blue 490 nm\n"
        "nir 833 nm    mean             0.333         0.333        0.333\n"
        "red 665 nm    name             1.000         0.000        0.000\n"
        "green 560 nm  name             0.000         1.000        0.000\n");
}

TEST_CASE("adapt_bands: what it refuses") {
  const auto message = [](auto&& f) -> std::string {
    try {
      f();
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  CHECK(message([] { adapt_bands({}, rgb_bands()); }) ==
        "adapt_bands: needs bands on both sides; model 0, sensor 3");
  CHECK(message([] {
          adapt_bands(rgb_bands(), {{"VV", 0, 0}});
        }) ==
        "adapt_bands: no wavelength to place it by; band VV -> give wavelengths, or the policy "
        "mean, copy or zero");
  CHECK(message([] {
          adapt_bands(rgb_bands(), {{"x", -1, 0}});
        }).find("not negative") != std::string::npos);
  CHECK(message([] {
          adapt_bands(rgb_bands(), {{"red", 665, 30}},
                      {.policy = BandPolicy::zero, .keep_response = true});
        }).find("no sensor band uses the model's green 560 nm") != std::string::npos);
  CHECK(message([] {
          adapt_kernels(Tensor<float>::zeros({4, 5, 2, 2}), adapt_bands(rgb_bands(), nir_rgb));
        }) == "adapt_bands: needs kernels (D,3,p,p); (4,5,2,2)");
}
