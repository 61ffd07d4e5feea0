#pragma once
// A trunk trained on some bands (red, green, blue) for a sensor with others: the kernels of its
// patch embedding for the sensor's bands, as a matrix that can be printed before it is believed.
//
//   const auto a = adapt_bands(rgb_bands(), sensor, {.policy = BandPolicy::wavelength});
//   std::puts(text(a).c_str());
//   adapt(vit, a);
#include <moraine/data/bands.hpp>
#include <moraine/models/vit.hpp>
#include <string>
#include <vector>

namespace moraine MORAINE_API {

/// What a band of the sensor gets that the model does not have. A band that it has (the same name,
/// at most 80 nm away, or three quarters of the response in common) gets that band's kernel under
/// every policy but copy.
enum class BandPolicy : unsigned char {
  copy,        ///< sensor band i takes the kernel of model band i mod C, whatever their names
  mean,        ///< the mean of the model's kernels
  wavelength,  ///< linear between the two model bands around it; beyond the outermost, the
               ///< outermost
  zero         ///< nothing: the trunk starts as if the band were not there
};
inline const char* name_of(BandPolicy p) {
  return p == BandPolicy::copy         ? "copy"
         : p == BandPolicy::mean       ? "mean"
         : p == BandPolicy::wavelength ? "wavelength"
                                       : "zero";
}

struct BandAdaptationOptions {
  BandPolicy policy = BandPolicy::wavelength;
  /// Scales the columns so that pixels equal in all bands give the same tokens as before.
  bool keep_response = false;
};

/// kernel of sensor band s = sum over m of weight(s, m) times the kernel of model band m.
struct BandAdaptation {
  std::vector<data::Band> model, sensor;
  std::vector<double> weight;    ///< (sensor x model), row-major
  std::vector<std::string> how;  ///< one per sensor band: name, overlap, or the policy
  double at(std::size_t s, std::size_t m) const { return weight[s * model.size() + m]; }
};

/// Red, green and blue in the order of photographs: what most foundation models were trained on.
inline std::vector<data::Band> rgb_bands() {
  return {{"red", 665, 35}, {"green", 560, 35}, {"blue", 490, 65}};
}

/// The matrix. Throws ErrorKind::value when a side has no bands, a wavelength is not finite or is
/// negative, the policy wavelength meets a band without one, or keep_response a model band that no
/// sensor band uses.
inline BandAdaptation adapt_bands(const std::vector<data::Band>& model,
                                  const std::vector<data::Band>& sensor,
                                  const BandAdaptationOptions& o = {}) {
  const std::size_t c = model.size();
  if (!c || sensor.empty())
    fail(ErrorKind::value, "adapt_bands: needs bands on both sides; model " + std::to_string(c) +
                               ", sensor " + std::to_string(sensor.size()));
  for (const std::vector<data::Band>* side : {&model, &sensor})
    for (const data::Band& b : *side)
      if (!std::isfinite(b.centre) || !std::isfinite(b.width) || b.centre < 0 || b.width < 0)
        fail(ErrorKind::value, "adapt_bands: wavelengths must be finite and not negative; band " +
                                   data::detail::label(b));
  BandAdaptation a{model, sensor, std::vector<double>(sensor.size() * c, 0.0), {}};
  const auto row = [&](std::size_t s) {
    const data::Band& band = sensor[s];
    double* w = a.weight.data() + s * c;
    if (o.policy == BandPolicy::copy) {
      w[s % c] = 1;
      return name_of(o.policy);
    }
    for (std::size_t m = 0; m < c; ++m)
      if (data::detail::same_name(band, model[m]) &&
          (band.centre == 0 || model[m].centre == 0 ||
           std::fabs(band.centre - model[m].centre) <= data::BandOptions{}.same_name)) {
        w[m] = 1;
        return "name";
      }
    const auto share = [&](std::size_t m) {
      return band.centre > 0 && model[m].centre > 0 ? data::detail::shared_response(band, model[m])
                                                    : 0;
    };
    std::size_t best = 0;
    for (std::size_t m = 1; m < c; ++m)
      if (share(m) > share(best)) best = m;
    if (share(best) >= 0.75) {
      w[best] = 1;
      return "overlap";
    }
    if (o.policy == BandPolicy::mean)
      for (std::size_t m = 0; m < c; ++m) w[m] = 1.0 / static_cast<double>(c);
    if (o.policy == BandPolicy::wavelength) {
      const data::Band *below = nullptr, *above = nullptr;
      for (const data::Band& m : model) {
        if (m.centre <= 0) continue;
        if (m.centre <= band.centre && (!below || m.centre > below->centre)) below = &m;
        if (m.centre >= band.centre && (!above || m.centre < above->centre)) above = &m;
      }
      if (band.centre <= 0 || (!below && !above))
        fail(ErrorKind::value, "adapt_bands: no wavelength to place it by; band " +
                                   data::detail::label(band) +
                                   " -> give wavelengths, or the policy mean, copy or zero");
      if (!below) below = above;
      if (!above) above = below;
      const double gap = above->centre - below->centre;
      const double t = gap > 0 ? (band.centre - below->centre) / gap : 0;
      w[below - model.data()] += 1 - t;
      w[above - model.data()] += t;
    }
    return name_of(o.policy);
  };
  for (std::size_t s = 0; s < sensor.size(); ++s) a.how.push_back(row(s));
  if (o.keep_response)
    for (std::size_t m = 0; m < c; ++m) {
      double sum = 0;
      for (std::size_t s = 0; s < sensor.size(); ++s) sum += a.at(s, m);
      if (!(sum > 0))
        fail(ErrorKind::value, "adapt_bands: no sensor band uses the model's " +
                                   data::detail::label(model[m]) +
                                   ", so its response cannot be kept -> another policy, or "
                                   "keep_response off");
      for (std::size_t s = 0; s < sensor.size(); ++s) a.weight[s * c + m] /= sum;
    }
  return a;
}

/// The matrix as a table, a line for every band of the sensor.
inline std::string text(const BandAdaptation& a) {
  const auto padded = [](std::string s, std::size_t width, bool left) {
    if (s.size() < width) s.insert(left ? s.size() : 0, width - s.size(), ' ');
    return s;
  };
  std::size_t first = std::string("sensor band").size();
  for (const data::Band& b : a.sensor) first = std::max(first, data::detail::label(b).size());
  std::string out = padded("sensor band", first, true) + "  " + padded("rule", 10, true);
  for (const data::Band& m : a.model) out += "  " + padded(data::detail::label(m), 8, false);
  out += '\n';
  for (std::size_t s = 0; s < a.sensor.size(); ++s) {
    out +=
        padded(data::detail::label(a.sensor[s]), first, true) + "  " + padded(a.how[s], 10, true);
    for (std::size_t m = 0; m < a.model.size(); ++m)
      out += "  " + padded(data::detail::number(a.at(s, m), 3),
                           std::max<std::size_t>(8, data::detail::label(a.model[m]).size()), false);
    out += '\n';
  }
  return out;
}

/// Kernels (D,C,p,p) of the model's C bands -> (D,S,p,p) of the sensor's S, detached.
template <class T>
Tensor<T> adapt_kernels(const Tensor<T>& kernels, const BandAdaptation& a) {
  const Index c = static_cast<Index>(a.model.size()), s = static_cast<Index>(a.sensor.size());
  if (kernels.rank() != 4 || kernels.size(1) != c)
    fail(ErrorKind::shape,
         "adapt_bands: needs kernels (D," + std::to_string(c) + ",p,p); " + str(kernels.shape()));
  const Tensor<T> from = kernels.detach().contiguous();
  const Index d = from.size(0), area = from.size(2) * from.size(3);
  Tensor<T> to = Tensor<T>::zeros({d, s, from.size(2), from.size(3)});
  for (Index i = 0; i < d; ++i)
    for (Index j = 0; j < s; ++j)
      for (Index m = 0; m < c; ++m) {
        const T w = static_cast<T>(a.at(static_cast<std::size_t>(j), static_cast<std::size_t>(m)));
        if (w == T(0)) continue;
        const T* x = from.data() + (i * c + m) * area;
        T* y = to.data() + (i * s + j) * area;
        for (Index k = 0; k < area; ++k) y[k] += w * x[k];
      }
  return to;
}

/// Gives a trunk the sensor's bands; its patch embedding is then trained or frozen as it was.
template <class T>
void adapt(ViT<T>& vit, const BandAdaptation& a) {
  Tensor<T>& weight = vit.patch_embed.proj.weight;
  const bool trained = weight.tracked();
  Tensor<T> next = adapt_kernels(weight, a);
  if (trained) next.requires_grad();
  weight = next;
  vit.config.channels = static_cast<Index>(a.sensor.size());
}

}  // namespace moraine
