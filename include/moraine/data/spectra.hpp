#pragma once
// The spectral library of the scene generator: reflectance of 13 pure materials from 400 to 2400 nm
// and what a sensor band with a Gaussian response sees of them. For data/scene.hpp, and for anybody
// who needs plausible spectra without a file. The curves are analytic stand-ins for field spectra
// (docs/05-scenes.md lists the formulas); they are ours, not measurements.
#include <algorithm>
#include <array>
#include <cmath>
#include <moraine/core/error.hpp>
#include <string>
#include <vector>

namespace moraine::data {

/// Rows of spectra() and of band_table().
enum class Material : int {
  young_leaf,
  dark_leaf,
  litter,
  dark_soil,
  bright_soil,
  clear_water,
  turbid_water,
  asphalt,
  concrete,
  tile,
  metal,
  slate,
  wet_soil
};
inline constexpr int material_count = 13;

/// Wavelength grid of spectra(): 400, 410, ..., 2400 nm.
inline constexpr int spectrum_size = 201;
inline double spectrum_wavelength(int i) { return 400.0 + 10.0 * i; }

using Spectra = std::array<std::array<double, spectrum_size>, material_count>;

/// Reflectance in [0.002, 1] of every Material on the wavelength grid.
inline const Spectra& spectra() {
  static const Spectra table = [] {
    Spectra s{};
    for (int i = 0; i < spectrum_size; ++i) {
      const double l = spectrum_wavelength(i);
      const auto bell = [l](double c, double w) {
        return std::exp(-0.5 * ((l - c) / w) * ((l - c) / w));
      };
      const auto step = [l](double c, double w) { return 1 / (1 + std::exp(-(l - c) / w)); };
      const auto rise = [l](double c, double w) { return 1 - std::exp(-(l - c) / w); };
      // A leaf: green peak, red edge that moves to longer waves with chlorophyll, water absorption.
      const auto leaf = [&](double chl, double water) {
        const double visible =
            0.03 + 0.075 * bell(550, 35) * (1.15 - 0.6 * chl) + 0.05 * (1 - chl) * step(560, 30);
        const double nir = (0.40 + 0.08 * chl) * step(708 + 14 * chl, 14);
        const double wet = 1 - 0.30 * water * step(1330, 40) - 0.55 * water * bell(1450, 55) -
                           0.25 * water * step(1850, 60) - 0.40 * water * bell(1940, 60) -
                           0.15 * water * step(2300, 80);
        return visible + nir * std::clamp(wet, 0.05, 1.0);
      };
      const double dark = 0.04 + 0.24 * rise(380, 520) - 0.02 * bell(2200, 40);
      const double slope = (l - 400) / 2000;
      const double value[material_count] = {
          leaf(0.35, 0.6),
          leaf(0.95, 1.0),
          0.05 + 0.36 * rise(380, 420) - 0.05 * bell(2100, 60) - 0.03 * bell(1450, 50),
          dark,
          0.08 + 0.38 * rise(390, 330) - 0.03 * bell(2200, 40) - 0.03 * bell(1930, 50),
          0.055 * std::exp(-(l - 400) / 110) + 0.004,
          0.03 + 0.09 * bell(580, 80) - 0.028 * step(760, 40),
          0.075 + 0.05 * slope + 0.015 * rise(400, 200),
          0.18 + 0.14 * rise(400, 250),
          0.06 + 0.25 * step(590, 25) + 0.06 * step(760, 60) - 0.04 * bell(870, 60),
          0.42 + 0.08 * slope,
          0.065 + 0.025 * slope,
          0.55 * dark - 0.02 * bell(1450, 60) - 0.03 * bell(1940, 80)};
      for (int m = 0; m < material_count; ++m)
        s[static_cast<std::size_t>(m)][static_cast<std::size_t>(i)] =
            std::clamp(value[m], 0.002, 1.0);
    }
    return s;
  }();
  return table;
}

/// Weights of the wavelength grid for a band with a Gaussian response; they sum to 1. `width` is
/// the full width at half maximum. Both in nm. Throws ErrorKind::value outside 400..2400 nm.
inline std::array<double, spectrum_size> band_response(double centre, double width) {
  if (!(centre >= 400 && centre <= 2400) || !(width > 0 && width <= 2000))
    fail(ErrorKind::value,
         "band_response: a band must lie in 400..2400 nm and be wider than 0; "
         "centre " +
             std::to_string(centre) + " width " + std::to_string(width));
  std::array<double, spectrum_size> r{};
  double sum = 0;
  // A band much narrower than the 10 nm grid still reads the sample that is nearest.
  const double sigma = std::max(width / 2.355, 2.0);
  for (int i = 0; i < spectrum_size; ++i) {
    const double d = (spectrum_wavelength(i) - centre) / sigma;
    sum += r[static_cast<std::size_t>(i)] = std::exp(-0.5 * d * d);
  }
  for (double& v : r) v /= sum;
  return r;
}

/// What each band sees of each material: value [m * bands + b], m a Material, reflectance.
/// `centres` and `widths` in nm, one per band. Throws when their sizes differ or are 0.
inline std::vector<float> band_table(const std::vector<float>& centres,
                                     const std::vector<float>& widths) {
  if (centres.size() != widths.size() || centres.empty())
    fail(ErrorKind::value, "band_table: needs one width per centre; " +
                               std::to_string(centres.size()) + " centres, " +
                               std::to_string(widths.size()) + " widths");
  const std::size_t bands = centres.size();
  const Spectra& s = spectra();
  std::vector<float> out(bands * material_count);
  for (std::size_t b = 0; b < bands; ++b) {
    const auto r = band_response(centres[b], widths[b]);
    for (std::size_t m = 0; m < material_count; ++m) {
      double sum = 0;
      for (std::size_t i = 0; i < spectrum_size; ++i) sum += r[i] * s[m][i];
      out[m * bands + b] = static_cast<float>(sum);
    }
  }
  return out;
}

}  // namespace moraine::data
