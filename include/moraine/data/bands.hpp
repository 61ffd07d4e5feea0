#pragma once
// Fits the bands of a scene to those a model expects, by name and by wavelength: a matrix (model x
// scene) of weights that sum to 1 in each row, how each row came about, and a table to print.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <moraine/core/error.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/core/tensor.hpp>
#include <string>
#include <vector>

namespace moraine::data {

/// A band of a sensor. 0 means "not known".
struct Band {
  std::string name;
  double centre = 0;  ///< nm
  double width = 0;   ///< full width at half maximum, nm
};

/// model = weight * scene for every pixel.
struct BandMatrix {
  std::vector<Band> model, scene;
  std::vector<double> weight;    ///< (model x scene), row-major; every row sums to 1
  std::vector<std::string> how;  ///< one per model band: name, overlap, average or interpolation

  double at(std::size_t m, std::size_t s) const { return weight[m * scene.size() + s]; }
  /// Whether band m is one band of the scene as it stands.
  bool single(std::size_t m) const {
    return std::count(weight.begin() + static_cast<std::ptrdiff_t>(m * scene.size()),
                      weight.begin() + static_cast<std::ptrdiff_t>((m + 1) * scene.size()),
                      1.0) == 1;
  }
};

struct BandOptions {
  double tolerance = 20;  ///< nm that a model band may lie beyond the scene's outermost band edges
  double same_name = 80;  ///< nm that two bands of one name may differ
  bool by_position = false;  ///< with no wavelengths and no common names: first to first, and so on
};

namespace detail {

inline std::string number(double v, int digits) {
  char buffer[64];
  const auto r = std::to_chars(buffer, buffer + sizeof buffer, v, std::chars_format::fixed, digits);
  return std::string(buffer, r.ptr);
}
inline std::string label(const Band& b) {
  std::string s = b.name.empty() ? "(unnamed)" : b.name;
  if (b.centre > 0) s += " " + number(b.centre, 0) + " nm";
  return s;
}
inline bool same_name(const Band& a, const Band& b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  return !a.name.empty() && std::equal(a.name.begin(), a.name.end(), b.name.begin(), b.name.end(),
                                       [&](char x, char y) { return lower(x) == lower(y); });
}
/// How much two Gaussian responses share (Bhattacharyya coefficient): 1 for equal ones.
inline double shared_response(const Band& a, const Band& b) {
  const double p = std::max(a.width, 1.0) / 2.355, q = std::max(b.width, 1.0) / 2.355;
  const double d = a.centre - b.centre, both = p * p + q * q;
  return std::sqrt(2 * p * q / both) * std::exp(-d * d / (4 * both));
}

}  // namespace detail

/// The matrix from scene to model bands. For each model band the first rule that applies:
///   name           the scene has a band of that name (case ignored), at most `same_name` nm away
///   overlap        the scene band that shares most of the response, when that is 0.75 or more
///   average        three or more scene bands within the model band's full width at half maximum:
///                  their mean, weighted by the model band's Gaussian response (hyperspectral)
///   interpolation  between the two scene bands around it; beyond the outermost centres but within
///                  `tolerance` of the outer band edge, the outermost band
///   position       only with by_position, when neither side knows wavelengths and counts agree
/// Throws ErrorKind::value, naming the band and the scene's range, when none applies.
inline BandMatrix match_bands(const std::vector<Band>& model, const std::vector<Band>& scene,
                              const BandOptions& o = {}) {
  if (model.empty() || scene.empty())
    fail(ErrorKind::value, "match_bands: needs bands on both sides; model " +
                               std::to_string(model.size()) + ", scene " +
                               std::to_string(scene.size()));
  for (const std::vector<Band>* side : {&model, &scene})
    for (const Band& b : *side)
      if (!std::isfinite(b.centre) || !std::isfinite(b.width) || b.centre < 0 || b.width < 0)
        fail(ErrorKind::value,
             "match_bands: wavelengths must be finite and not negative; band " + detail::label(b));
  BandMatrix r{model, scene, std::vector<double>(model.size() * scene.size(), 0.0),
               std::vector<std::string>(model.size())};
  std::vector<std::size_t> known;  // scene bands with a wavelength, by wavelength
  for (std::size_t s = 0; s < scene.size(); ++s)
    if (scene[s].centre > 0) known.push_back(s);
  std::stable_sort(known.begin(), known.end(),
                   [&](std::size_t a, std::size_t b) { return scene[a].centre < scene[b].centre; });
  const bool no_wavelengths =
      known.empty() &&
      std::none_of(model.begin(), model.end(), [](const Band& b) { return b.centre > 0; });

  const auto row = [&](std::size_t m) {
    const Band& want = model[m];
    double* w = r.weight.data() + m * scene.size();
    for (std::size_t s = 0; s < scene.size(); ++s)
      if (detail::same_name(want, scene[s]) &&
          (want.centre == 0 || scene[s].centre == 0 ||
           std::fabs(want.centre - scene[s].centre) <= o.same_name)) {
        w[s] = 1;
        return "name";
      }
    if (want.centre > 0 && !known.empty()) {
      std::size_t best = known[0];
      for (const std::size_t s : known)
        if (detail::shared_response(want, scene[s]) > detail::shared_response(want, scene[best]))
          best = s;
      if (detail::shared_response(want, scene[best]) >= 0.75) {
        w[best] = 1;
        return "overlap";
      }
      std::vector<std::size_t> inside;
      for (const std::size_t s : known)
        if (std::fabs(scene[s].centre - want.centre) <= want.width / 2) inside.push_back(s);
      if (inside.size() >= 3) {
        double sum = 0;
        for (const std::size_t s : inside) {
          const double d = (scene[s].centre - want.centre) / (want.width / 2.355);
          sum += w[s] = std::exp(-0.5 * d * d);
        }
        for (const std::size_t s : inside) w[s] /= sum;
        return "average";
      }
      const auto above = std::find_if(known.begin(), known.end(), [&](std::size_t s) {
        return scene[s].centre >= want.centre;
      });
      if (above != known.begin() && above != known.end()) {
        const std::size_t hi = *above, lo = *(above - 1);
        const double t = (want.centre - scene[lo].centre) / (scene[hi].centre - scene[lo].centre);
        w[lo] = 1 - t;
        w[hi] = t;
        return "interpolation";
      }
      const std::size_t outer = above == known.end() ? known.back() : known.front();
      if (std::fabs(scene[outer].centre - want.centre) <= scene[outer].width / 2 + o.tolerance) {
        w[outer] = 1;
        return "interpolation";
      }
      fail(ErrorKind::value, "match_bands: the model's band " + detail::label(want) +
                                 " lies outside of the scene; it has " +
                                 detail::number(scene[known.front()].centre, 0) + ".." +
                                 detail::number(scene[known.back()].centre, 0) + " nm, tolerance " +
                                 detail::number(o.tolerance, 0) +
                                 " nm -> another scene, or give both bands one name");
    }
    if (o.by_position && no_wavelengths && model.size() == scene.size()) {
      w[m] = 1;
      return "position";
    }
    fail(ErrorKind::value, "match_bands: nothing in the scene fits the model's band " +
                               detail::label(want) +
                               "; no common name, no wavelengths to compare -> "
                               "give wavelengths for model and scene");
  };
  for (std::size_t m = 0; m < model.size(); ++m) r.how[m] = row(m);
  return r;
}

/// A table for a user: one line per model band.
inline std::string text(const BandMatrix& b) {
  std::vector<std::array<std::string, 3>> lines{{"model band", "rule", "from the scene"}};
  for (std::size_t m = 0; m < b.model.size(); ++m) {
    std::string from;
    std::size_t used = 0, shown = 0;
    for (std::size_t s = 0; s < b.scene.size(); ++s) used += b.at(m, s) != 0;
    for (std::size_t s = 0; s < b.scene.size(); ++s) {
      if (b.at(m, s) == 0) continue;
      if (++shown > 4 && used > 5) continue;  // the rest is counted below
      if (!from.empty()) from += " + ";
      if (used > 1) from += detail::number(b.at(m, s), 3) + " ";
      from += detail::label(b.scene[s]);
    }
    if (used > 5) from += " + " + std::to_string(used - 4) + " more";
    lines.push_back({detail::label(b.model[m]), b.how[m], from});
  }
  std::size_t first = 0, second = 0;
  for (const auto& l : lines) {
    first = std::max(first, l[0].size());
    second = std::max(second, l[1].size());
  }
  std::string out;
  for (const auto& l : lines)
    out += l[0] + std::string(first + 2 - l[0].size(), ' ') + l[1] +
           std::string(second + 2 - l[1].size(), ' ') + l[2] + "\n";
  return out;
}

/// The model's bands of a scene: (scene,H,W) -> (model,H,W).
inline Tensor<float> apply(const BandMatrix& b, const Tensor<float>& x) {
  if (x.rank() != 3 || x.size(0) != static_cast<Index>(b.scene.size()))
    fail(ErrorKind::shape, "apply: the scene must be (bands,H,W) with " +
                               std::to_string(b.scene.size()) + " bands; " + str(x.shape()));
  const Tensor<float> in = x.contiguous();
  const Index n = x.size(1) * x.size(2);
  Tensor<float> out = Tensor<float>::zeros(
      {static_cast<Index>(b.model.size()), x.size(1), x.size(2)});  // (model,H,W)
  parallel_for(n, 1 << 14, [&](Index begin, Index end) {
    for (std::size_t m = 0; m < b.model.size(); ++m)
      for (std::size_t s = 0; s < b.scene.size(); ++s) {
        // A band without weight is not read: its NaN or nodata must not spread.
        const float w = static_cast<float>(b.at(m, s));
        if (w == 0) continue;
        float* o = out.data() + static_cast<Index>(m) * n;
        const float* i = in.data() + static_cast<Index>(s) * n;
        for (Index p = begin; p < end; ++p) o[p] += w * i[p];
      }
  });
  return out;
}

}  // namespace moraine::data
