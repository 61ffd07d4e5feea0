#pragma once
// Tensors as pictures (H,W,3) for reports and previews: a scene in natural or false colours, a map
// of classes, which expert won where, how sure the gate was.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/core/tensor.hpp>
#include <moraine/inspect/html.hpp>
#include <moraine/inspect/routing.hpp>
#include <string>
#include <vector>

namespace moraine::inspect {

using Picture = Tensor<std::uint8_t>;  ///< (H,W,3), red, green, blue

/// What stands for "nothing here" in maps of bytes, and its colour.
inline constexpr std::uint8_t no_value = 255;
inline constexpr Colour no_colour{200, 200, 200};

struct StretchOptions {
  std::array<Index, 3> bands{2, 1, 0};  ///< shown as red, green, blue
  /// Quantiles of each band that become black and white.
  double low = 0.01, high = 0.99;
};

/// Bands of x (C,H,W) stretched for the eye; NaN becomes grey.
inline Picture composite(const Tensor<float>& x, const StretchOptions& o = {}) {
  if (x.rank() != 3 || !x.numel())
    fail(ErrorKind::shape, "composite: needs (C,H,W); " + str(x.shape()));
  const Index area = x.size(1) * x.size(2);
  const Tensor<float> in = x.contiguous();
  Picture out = Picture::empty({x.size(1), x.size(2), 3});
  for (std::size_t k = 0; k < 3; ++k) {
    if (o.bands[k] < 0 || o.bands[k] >= x.size(0))
      fail(ErrorKind::value, "composite: band " + std::to_string(o.bands[k]) + " of a scene with " +
                                 std::to_string(x.size(0)));
    const float* from = in.data() + o.bands[k] * area;
    std::vector<float> good;
    for (Index i = 0; i < area; ++i)
      if (std::isfinite(from[i])) good.push_back(from[i]);
    float low = 0, high = 1;
    if (!good.empty()) {
      const auto quantile = [&](double q) {
        const auto at =
            good.begin() + static_cast<std::ptrdiff_t>(q * static_cast<double>(good.size() - 1));
        std::nth_element(good.begin(), at, good.end());
        return *at;
      };
      low = quantile(o.low), high = std::max(quantile(o.high), std::nextafter(low, 1e30f));
    }
    for (Index i = 0; i < area; ++i)
      out.data()[i * 3 + static_cast<Index>(k)] =
          std::isfinite(from[i]) ? static_cast<std::uint8_t>(std::lround(
                                       255 * std::clamp((from[i] - low) / (high - low), 0.f, 1.f)))
                                 : no_colour[k];
  }
  return out;
}

/// colour(value) for each element of values (H,W).
template <class T, class F>
Picture paint(const Tensor<T>& values, F colour) {
  if (values.rank() != 2 || !values.numel())
    fail(ErrorKind::shape, "picture: needs values (H,W); " + str(values.shape()));
  const Tensor<T> in = values.contiguous();
  Picture out = Picture::empty({values.size(0), values.size(1), 3});
  for (Index i = 0; i < in.numel(); ++i) {
    const Colour c = colour(in.data()[i]);
    std::copy(c.begin(), c.end(), out.data() + i * 3);
  }
  return out;
}
/// A map of classes (H,W); a value without a colour is grey.
template <class T>
Picture class_picture(const Tensor<T>& labels, const std::vector<Colour>& colours) {
  return paint(labels, [&](T v) {
    const auto i = static_cast<std::size_t>(v);
    return v >= 0 && i < colours.size() ? colours[i] : no_colour;
  });
}
/// Winning experts (H,W), no_value where there is none.
inline Picture expert_picture(const Tensor<std::uint8_t>& winner) {
  return paint(winner, [](std::uint8_t v) { return v == no_value ? no_colour : palette(v); });
}
/// Values times 254 (H,W), no_value where there is none.
inline Picture ramp_picture(const Tensor<std::uint8_t>& values) {
  return paint(values, [](std::uint8_t v) { return v == no_value ? no_colour : ramp(v / 254.0); });
}

/// The routing of one layer and stream over one picture, as the bands of routing.tif hold it:
/// winning expert, its probability and the entropy times 254; no_value where there is nothing.
struct ExpertMap {
  Index layer = 0;
  std::string stream;
  Tensor<std::uint8_t> winner, probability, entropy;  ///< (h,w)
};

/// Of image `image` of the forward that a RoutingCollector heard last; h x w patches an image.
inline ExpertMap expert_map(const RoutingPlace& place, Index h, Index w, Index image = 0) {
  const RoutingRows& r = place.last;
  if (h < 1 || w < 1 || image < 0 || !r.winner.defined() || (image + 1) * h * w > r.winner.numel())
    fail(ErrorKind::shape, "expert_map: " + place.path + " heard " +
                               std::to_string(r.winner.defined() ? r.winner.numel() : 0) +
                               " rows last; image " + std::to_string(image) + " of " +
                               std::to_string(h) + " x " + std::to_string(w) + " patches needs " +
                               std::to_string((image + 1) * h * w));
  ExpertMap m{place.layer, place.stream, Tensor<std::uint8_t>::empty({h, w}),
              Tensor<std::uint8_t>::empty({h, w}), Tensor<std::uint8_t>::empty({h, w})};
  for (Index i = 0, from = image * h * w; i < h * w; ++i) {
    m.winner.data()[i] = static_cast<std::uint8_t>(std::min(r.winner.data()[from + i], 254));
    m.probability.data()[i] =
        static_cast<std::uint8_t>(std::lround(254 * r.probability.data()[from + i]));
    m.entropy.data()[i] = static_cast<std::uint8_t>(std::lround(254 * r.entropy.data()[from + i]));
  }
  return m;
}

}  // namespace moraine::inspect
