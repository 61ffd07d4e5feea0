#pragma once
// A domain: the sensor, the season, the sun and the air under which a scene is seen, so that domain
// shift is a dial. The seven named domains of the demo, and the box from which pre-training draws.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <moraine/core/error.hpp>
#include <moraine/core/random.hpp>
#include <moraine/core/shape.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace moraine::data {

/// Any number of bands. Vectors have one value per band; an empty gain means 1, an empty offset 0.
struct Domain {
  std::string name = "source";
  float gsd = 1.5f;                                ///< metres per pixel
  std::vector<float> centres{485, 555, 660, 830};  ///< nm
  std::vector<float> widths{70, 70, 60, 120};      ///< full width at half maximum, nm
  float season = 0.42f;                            ///< phase of the year, [0,1)
  float sun_elevation = 55;                        ///< degrees above the horizon
  float sun_azimuth = 150;                         ///< degrees from north, clockwise
  float haze = 0.010f;                             ///< optical depth scale, 0: clear air
  std::vector<float> gain;                         ///< of the sensor
  std::vector<float> offset;                       ///< of the sensor, reflectance
  float noise = 0.004f;                            ///< standard deviation, reflectance
  float psf = 0.6f;                                ///< sigma of the point spread, pixels
  float wet = 0.30f;                               ///< how wet bare soil is, [0,1]

  Index bands() const { return static_cast<Index>(centres.size()); }
};

/// Throws ErrorKind::value, naming the field, when a domain cannot be rendered.
inline void check(const Domain& d) {
  const auto need = [&](bool ok, const char* what) {
    if (!ok) fail(ErrorKind::value, "domain: " + d.name + ": " + what);
  };
  const std::size_t n = d.centres.size();
  need(n > 0 && d.widths.size() == n, "needs as many widths as centres, and at least one band");
  need(d.gain.empty() || d.gain.size() == n, "gain needs one value per band, or none");
  need(d.offset.empty() || d.offset.size() == n, "offset needs one value per band, or none");
  need(d.gsd >= 0.1f && d.gsd <= 30, "gsd must lie in 0.1..30 m");
  need(std::isfinite(d.season), "season must be finite");
  need(d.sun_elevation >= 5 && d.sun_elevation <= 90, "sun_elevation must lie in 5..90 degrees");
  need(std::isfinite(d.sun_azimuth), "sun_azimuth must be finite");
  need(d.haze >= 0 && d.haze <= 1, "haze must lie in 0..1");
  need(d.noise >= 0 && d.noise <= 1, "noise must lie in 0..1");
  need(d.psf >= 0.05f && d.psf <= 3, "psf must lie in 0.05..3 pixels");
  need(d.wet >= 0 && d.wet <= 1, "wet must lie in 0..1");
}

/// The domains of the demo, easiest first: where the model is trained, then what it never saw.
inline constexpr std::array<std::string_view, 7> domain_names{
    "source", "mild", "medium", "strong", "season", "sensor", "sun"};

/// One of domain_names. Constants: docs/05-scenes.md. Throws ErrorKind::value for another name.
inline Domain domain(std::string_view name) {
  Domain d;
  d.name = std::string(name);
  const std::vector<float> strong_centres{455, 575, 685, 765}, strong_widths{60, 100, 40, 50};
  if (name == "source") return d;
  if (name == "mild") {
    d.centres = {492, 560, 665, 842};
    d.widths = {65, 35, 30, 115};
    d.season = 0.47f;
    d.sun_elevation = 50;
    d.sun_azimuth = 165;
    d.haze = 0.020f;
    d.gain = {1.03f, 1, 0.97f, 1.02f};
    d.noise = 0.005f;
    d.psf = 0.7f;
    d.wet = 0.35f;
  } else if (name == "medium") {
    d.gsd = 1.8f;
    d.centres = {470, 540, 650, 865};
    d.widths = {60, 60, 60, 40};
    d.season = 0.55f;
    d.sun_elevation = 40;
    d.sun_azimuth = 195;
    d.haze = 0.040f;
    d.gain = {1.08f, 1, 0.95f, 0.9f};
    d.offset = {0.01f, 0, 0, -0.01f};
    d.noise = 0.006f;
    d.psf = 0.9f;
    d.wet = 0.15f;
  } else if (name == "strong") {
    d.gsd = 1.8f;
    d.centres = strong_centres;
    d.widths = strong_widths;
    d.season = 0.70f;
    d.sun_elevation = 30;
    d.sun_azimuth = 220;
    d.haze = 0.060f;
    d.gain = {0.9f, 1.05f, 1.1f, 0.85f};
    d.offset = {0.015f, 0.01f, 0, 0};
    d.noise = 0.010f;
    d.psf = 1.1f;
    d.wet = 0.60f;
  } else if (name == "season") {
    d.season = 0.66f;
    d.sun_elevation = 45;
    d.wet = 0.50f;
  } else if (name == "sensor") {
    d.centres = strong_centres;
    d.widths = strong_widths;
    d.gain = {0.9f, 1.05f, 1.1f, 0.85f};
  } else if (name == "sun") {
    d.sun_elevation = 25;
    d.sun_azimuth = 240;
    d.haze = 0.050f;
  } else {
    fail(ErrorKind::value, "domain: no domain is called '" + d.name +
                               "' -> source, mild, medium, strong, season, sensor or sun");
  }
  return d;
}

/// A domain of the pre-training box: blue, green, red and near infrared bands, any season, sun, air
/// and sensor. Every named domain lies inside the box.
inline Domain random_domain(std::uint64_t seed) {
  const Random r(seed, "data.domain", 0);
  std::uint64_t i = 0;
  const auto uniform = [&](float low, float high) { return r.uniform(i++, low, high); };
  const auto normal = [&](float sigma) { return sigma * static_cast<float>(r.normal(i++)); };
  Domain d;
  d.name = "random";
  d.centres = {uniform(445, 500), uniform(535, 580), uniform(640, 690), uniform(750, 875)};
  for (float& w : d.widths) w = uniform(25, 120);
  d.season = uniform(0, 1);
  d.sun_elevation = uniform(22, 65);
  d.sun_azimuth = uniform(90, 270);
  d.haze = uniform(0, 0.07f);
  d.gain.resize(4);
  d.offset.resize(4);
  for (float& g : d.gain) g = std::exp(normal(0.10f));
  for (float& o : d.offset) o = normal(0.008f);
  d.noise = uniform(0.002f, 0.012f);
  d.psf = uniform(0.4f, 1.3f);
  d.wet = uniform(0, 1);
  d.gsd = uniform(1.3f, 2.3f);
  return d;
}

/// The same scene, season and sun as `d` through a perfect sensor with the source bands in clear
/// air: the target of pre-training by masked modelling.
inline Domain reference_view(const Domain& d) {
  Domain r;
  r.name = "reference";
  r.gsd = d.gsd;
  r.season = d.season;
  r.sun_elevation = d.sun_elevation;
  r.sun_azimuth = d.sun_azimuth;
  r.wet = d.wet;
  r.haze = 0;
  r.noise = 0;
  r.psf = 0.4f;
  return r;
}

}  // namespace moraine::data
