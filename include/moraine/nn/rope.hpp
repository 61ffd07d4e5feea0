#pragma once
// Where the patch tokens of a grid stand, as the angles that RoPE turns their queries and keys by:
// the tables that ops/rope.hpp reads, for the families that have them (DINOv3, EVA-02).
//
//   angle of an axis = turn * coordinate / period_k,   period_k = base^(k/n),   n = D/4
//   a token's angles = those of its row, then those of its column
#include <moraine/ops/rope.hpp>

#include <cmath>
#include <vector>

namespace moraine MORAINE_API {

/// `none`: the trunk has no rotary embedding.
enum class Rope : unsigned char { none, half, interleaved };

/// What a patch's coordinate along an axis of G patches is.
enum class RopeCoordinate : unsigned char {
  centre,  ///< 2 (i + 0.5) / G - 1, and a whole turn (2 pi) at period 1: DINOv3
  index    ///< i * reference / G, so that a larger grid spans the angles of the trained one: EVA-02
};

enum class RopePeriods : unsigned char {
  exact,  ///< by the formula: transformers, timm
  bf16,   ///< rounded to bfloat16: what Meta's DINOv3 files hold and its code runs
  stored  ///< the buffer rope_embed.periods of the file
};

struct RopeConfig {
  Rope kind = Rope::none;
  RopeCoordinate coordinate = RopeCoordinate::centre;
  RopePeriods periods = RopePeriods::exact;
  double base = 100;
  Index reference_h = 16, reference_w = 16;  ///< of RopeCoordinate::index
};

/// The n = D/4 periods of a head of D channels by the formula, (n).
template <class T>
Tensor<T> rope_periods(const RopeConfig& c, Index d) {
  if (d < 4 || d % 4)
    fail(ErrorKind::value, "rope: the head size must be a multiple of 4; " + std::to_string(d));
  Tensor<T> p = Tensor<T>::empty({d / 4});
  for (Index k = 0; k < d / 4; ++k) {
    const double v = std::pow(c.base, static_cast<double>(k) / static_cast<double>(d / 4));
    p.data()[k] = c.periods == RopePeriods::bf16
                      ? static_cast<T>(static_cast<float>(bfloat16(static_cast<float>(v))))
                      : static_cast<T>(v);
  }
  return p;
}

/// The table of an h x w grid for heads of D channels: (h*w,2,D), cosines and sines. `periods`
/// (D/4).
template <class T>
Tensor<T> rope_table(const RopeConfig& c, const Tensor<T>& periods, Index h, Index w) {
  const Index n = periods.numel(), d = 4 * n;
  const bool centre = c.coordinate == RopeCoordinate::centre;
  // Cosines and sines of every row and of every column; a token's are copies of the two.
  const auto axis = [&](Index g, Index reference) {
    std::vector<T> cs(static_cast<std::size_t>(g * 2 * n));
    for (Index i = 0; i < g; ++i) {
      const double at = static_cast<double>(i), size = static_cast<double>(g);
      const double x = centre ? 6.283185307179586 * (2 * (at + 0.5) / size - 1)
                              : at * static_cast<double>(reference) / size;
      for (Index k = 0; k < n; ++k) {
        const double angle = x / static_cast<double>(periods.data()[k]);
        cs[static_cast<std::size_t>(i * 2 * n + k)] = static_cast<T>(std::cos(angle));
        cs[static_cast<std::size_t>((i * 2 + 1) * n + k)] = static_cast<T>(std::sin(angle));
      }
    }
    return cs;
  };
  const std::vector<T> rows = axis(h, c.reference_h), columns = axis(w, c.reference_w);
  Tensor<T> table = Tensor<T>::empty({h * w, 2, d});
  T* to = table.data();
  for (Index y = 0; y < h; ++y)
    for (Index x = 0; x < w; ++x)
      for (Index part = 0; part < 2; ++part, to += d) {  // cosines, sines
        const T* r = rows.data() + (y * 2 + part) * n;
        const T* l = columns.data() + (x * 2 + part) * n;
        for (Index k = 0; k < n; ++k) {
          if (c.kind == Rope::half) {  // [row, column], twice
            to[k] = to[2 * n + k] = r[k];
            to[n + k] = to[3 * n + k] = l[k];
          } else {  // each angle twice in a row
            to[2 * k] = to[2 * k + 1] = r[k];
            to[2 * n + 2 * k] = to[2 * n + 2 * k + 1] = l[k];
          }
        }
      }
  return table;
}

}  // namespace moraine
