#pragma once
// Pictures of maps for people: a small RGB canvas with rectangles and text, and class maps with
// their legend. Written as PNG by io/png.hpp.
#include <algorithm>
#include <array>
#include <cstdint>
#include <moraine/core/config.hpp>
#include <moraine/core/tensor.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace moraine MORAINE_API {

using Rgb = std::array<std::uint8_t, 3>;

namespace detail {

/// Letters of 5 x 7 dots from ' ' to '_', row by row from the top, 5 bits each, the leftmost dot in
/// the highest bit. Small letters are drawn as capitals; what has no glyph is a question mark.
inline constexpr std::uint64_t glyphs[64] = {
    0x000000000, 0x3a2111004, 0x3a2111004, 0x295f57d4a, 0x3a2111004, 0x674222173, 0x32544564d,
    0x108800000, 0x088842082, 0x208210888, 0x02aefbaa0, 0x0084f9080, 0x000003088, 0x0000f8000,
    0x00000018c, 0x044222110, 0x3a33ae62e, 0x11842108e, 0x3a213221f, 0x78217043e, 0x08ca97c42,
    0x7e1e0862e, 0x1910f462e, 0x7c2211084, 0x3a317462e, 0x3a317844c, 0x018c03180, 0x3a2111004,
    0x088882082, 0x001f07c00, 0x208208888, 0x3a2111004, 0x3a2111004, 0x3a31fc631, 0x7a31f463e,
    0x3e108420f, 0x7a318c63e, 0x7e10f421f, 0x7e10f4210, 0x3e109c62f, 0x4631fc631, 0x38842108e,
    0x1c4210a4c, 0x4654c5251, 0x42108421f, 0x4775ac631, 0x4739ace71, 0x3a318c62e, 0x7a31f4210,
    0x3a318d64d, 0x7a31f5251, 0x3e107043e, 0x7c8421084, 0x46318c62e, 0x46318a944, 0x4631ad771,
    0x454a22951, 0x462a21084, 0x7c222221f, 0x3a2111004, 0x3a2111004, 0x3a2111004, 0x3a2111004,
    0x00000001f,
};

}  // namespace detail

/// An RGB picture (h,w,3) to draw on.
class Canvas {
 public:
  Canvas(Index height, Index width, Rgb paper = {255, 255, 255})
      : pixels_(Tensor<std::uint8_t>::empty({height, width, 3})) {
    box(0, 0, height, width, paper);
  }
  const Tensor<std::uint8_t>& pixels() const { return pixels_; }
  void dot(Index y, Index x, Rgb c) {
    if (y < 0 || x < 0 || y >= pixels_.size(0) || x >= pixels_.size(1)) return;
    std::copy(c.begin(), c.end(), pixels_.data() + (y * pixels_.size(1) + x) * 3);
  }
  void box(Index y, Index x, Index h, Index w, Rgb c) {
    for (Index v = y; v < y + h; ++v)
      for (Index u = x; u < x + w; ++u) dot(v, u, c);
  }
  /// Upper left corner at (y,x); a letter takes 6 x 8 dots of size `dot_size`.
  void text(Index y, Index x, std::string_view s, Index dot_size = 2, Rgb ink = {20, 20, 20}) {
    for (const char c : s) {
      int i = static_cast<unsigned char>(c);
      if (i >= 'a' && i <= 'z') i -= 32;
      const std::uint64_t g = detail::glyphs[i < 32 || i > 95 ? '?' - 32 : i - 32];
      for (Index v = 0; v < 7; ++v)
        for (Index u = 0; u < 5; ++u)
          if (g >> ((6 - v) * 5 + 4 - u) & 1)
            box(y + v * dot_size, x + u * dot_size, dot_size, dot_size, ink);
      x += 6 * dot_size;
    }
  }

 private:
  Tensor<std::uint8_t> pixels_;
};

/// Keeps every k-th row and column of rows that come one after the other, so that a scene of any
/// size gives a picture of at most `most` pixels a side.
class Thumbnail {
 public:
  Thumbnail(Index height, Index width, Index most)
      : Thumbnail(height, width, std::max(height, width),
                  std::max<Index>(1, (std::max(height, width) + most - 1) / most)) {}
  /// Every `step`-th pixel of the middle of the scene, `side` pixels a side where it is that large.
  /// The cut begins at a multiple of `align` pixels.
  static Thumbnail middle(Index height, Index width, Index side, Index step, Index align) {
    Thumbnail t(height, width, side, step);
    t.top_ = std::max<Index>(0, height - side) / 2 / align * align;
    t.left_ = std::max<Index>(0, width - side) / 2 / align * align;
    return t;
  }
  Index height() const { return height_; }
  Index width() const { return width_; }
  std::uint8_t at(Index y, Index x) const {
    return values_[static_cast<std::size_t>(y * width_ + x)];
  }
  /// Rows (n,W) that begin at row `first` of the scene.
  void rows(Index first, Index n, const std::uint8_t* in) {
    for (Index y = std::max(first, top_); y < first + n; ++y) {
      const Index row = (y - top_) / step_;
      if (row >= height_) return;
      if ((y - top_) % step_) continue;
      for (Index x = 0; x < width_; ++x)
        values_[static_cast<std::size_t>(row * width_ + x)] =
            in[(y - first) * full_width_ + left_ + x * step_];
    }
  }

 private:
  Thumbnail(Index height, Index width, Index side, Index step)
      : step_(step),
        height_((std::min(height, side) + step - 1) / step),
        width_((std::min(width, side) + step - 1) / step),
        full_width_(width),
        values_(static_cast<std::size_t>(height_ * width_), 255) {}

  Index step_, height_, width_, full_width_, top_ = 0, left_ = 0;
  std::vector<std::uint8_t> values_;
};

/// One entry of a legend: pixels of this value, this colour, this text.
struct LegendEntry {
  std::uint8_t value = 0;
  Rgb colour{};
  std::string text;
};

/// Maps side by side in a grid of at most `columns`, each with its title, and one legend on the
/// right. Values without an entry are left white (nodata).
inline Tensor<std::uint8_t> draw_maps(const std::vector<const Thumbnail*>& maps,
                                      const std::vector<std::string>& titles,
                                      const std::vector<LegendEntry>& legend, Index columns = 3) {
  const Index n = static_cast<Index>(maps.size()), across = std::min(n, columns),
              down = (n + across - 1) / across, gap = 12, line = 24;
  Index h = 1, w = 1, letters = 0;
  for (const Thumbnail* m : maps) h = std::max(h, m->height()), w = std::max(w, m->width());
  // A tiny scene is drawn with larger pixels.
  const Index zoom = std::max<Index>(1, 256 / std::max(h, w));
  h *= zoom, w *= zoom;
  for (const LegendEntry& e : legend)
    letters = std::max(letters, static_cast<Index>(e.text.size()));
  const Index cell_h = h + line + gap, cell_w = w + gap;
  const Index legend_w = 28 + letters * 12 + gap;
  const Index height =
      std::max(down * cell_h + gap, static_cast<Index>(legend.size()) * line + line + 2 * gap);
  Canvas canvas(height, across * cell_w + gap + legend_w);
  std::array<Rgb, 256> colours;
  colours.fill({255, 255, 255});
  for (const LegendEntry& e : legend) colours[e.value] = e.colour;
  for (Index i = 0; i < n; ++i) {
    const Thumbnail& m = *maps[static_cast<std::size_t>(i)];
    const Index y0 = gap + i / across * cell_h, x0 = gap + i % across * cell_w;
    canvas.text(y0, x0, titles[static_cast<std::size_t>(i)]);
    canvas.box(y0 + line - 1, x0 - 1, m.height() * zoom + 2, m.width() * zoom + 2, {120, 120, 120});
    for (Index y = 0; y < m.height(); ++y)
      for (Index x = 0; x < m.width(); ++x)
        canvas.box(y0 + line + y * zoom, x0 + x * zoom, zoom, zoom, colours[m.at(y, x)]);
  }
  Index y = gap + line;
  const Index x = across * cell_w + gap;
  for (const LegendEntry& e : legend) {
    canvas.box(y - 1, x - 1, 18, 18, {120, 120, 120});
    canvas.box(y, x, 16, 16, e.colour);
    canvas.text(y + 1, x + 26, e.text);
    y += line;
  }
  return canvas.pixels();
}

/// Colours for up to 12 experts, then again from the first: hues that stay apart for the common
/// kinds of colour blindness by lightness as well.
inline Rgb expert_colour(Index e) {
  constexpr Rgb colours[] = {{0, 114, 178},  {230, 159, 0},  {0, 158, 115},   {204, 121, 167},
                             {240, 228, 66}, {86, 180, 233}, {213, 94, 0},    {90, 90, 90},
                             {120, 60, 160}, {160, 200, 80}, {200, 160, 120}, {20, 40, 90}};
  return colours[static_cast<std::size_t>(e % 12)];
}

}  // namespace moraine
