#pragma once
// Small pieces of HTML and SVG text: escaped strings, numbers that no locale touches, pictures as
// data: addresses, colours.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <moraine/core/config.hpp>
#include <moraine/core/tensor.hpp>
#include <moraine/io/json.hpp>
#include <moraine/io/png.hpp>
#include <string>
#include <string_view>

namespace moraine::inspect {

using Colour = std::array<std::uint8_t, 3>;

/// The eight colours of Okabe and Ito (2008), chosen to stay apart for people who see colours
/// differently; black is given as a grey so that it shows on dark paper. Then four of our own, and
/// again from the first. The expert maps of the program use the same order.
inline Colour palette(Index i) {
  constexpr Colour colours[] = {{0, 114, 178},  {230, 159, 0},  {0, 158, 115},   {204, 121, 167},
                                {240, 228, 66}, {86, 180, 233}, {213, 94, 0},    {90, 90, 90},
                                {120, 60, 160}, {160, 200, 80}, {200, 160, 120}, {20, 40, 90}};
  return colours[static_cast<std::size_t>(i % 12)];
}

/// 0..1 to dark blue .. yellow, lightness rising evenly: anchors of cividis (Nunez et al., 2018).
inline Colour ramp(double v) {
  constexpr double anchors[][3] = {{0, 34, 78},     {53, 69, 108},   {102, 105, 112},
                                   {148, 142, 119}, {200, 184, 102}, {254, 232, 56}};
  const double at = std::clamp(v, 0.0, 1.0) * 5;
  const int i = at >= 5 ? 4 : static_cast<int>(at);
  Colour out{};
  for (std::size_t k = 0; k < 3; ++k)
    out[k] = static_cast<std::uint8_t>(
        std::lround(anchors[i][k] + (at - i) * (anchors[i + 1][k] - anchors[i][k])));
  return out;
}

/// "#0072b2"
inline std::string hex(Colour c) {
  constexpr char digits[] = "0123456789abcdef";
  std::string out = "#";
  for (std::uint8_t v : c) out += digits[v >> 4], out += digits[v & 15];
  return out;
}
/// Whether dark ink reads better than white on this colour (relative luminance of WCAG 2).
inline bool is_light(Colour c) {
  constexpr double weight[] = {0.2126, 0.7152, 0.0722};
  double y = 0;
  for (std::size_t k = 0; k < 3; ++k) {
    const double v = c[k] / 255.0;
    y += weight[k] * (v <= 0.04045 ? v / 12.92 : std::pow((v + 0.055) / 1.055, 2.4));
  }
  return y > 0.18;
}

/// Text for an element or a quoted attribute. Bytes that are not UTF-8 and control characters
/// become U+FFFD, so that a name from a file can neither break the page nor hide in it.
inline std::string escape(std::string_view s) {
  std::string out;
  for (std::size_t bad = find_bad_utf8(s); !s.empty(); bad = find_bad_utf8(s)) {
    for (const char c : s.substr(0, bad)) {
      switch (c) {
        case '&':
          out += "&amp;";
          break;
        case '<':
          out += "&lt;";
          break;
        case '>':
          out += "&gt;";
          break;
        case '"':
          out += "&quot;";
          break;
        case '\'':
          out += "&#39;";
          break;
        default:
          if ((static_cast<unsigned char>(c) < 32 && c != '\n' && c != '\t') || c == 127)
            out += "\xef\xbf\xbd";
          else
            out += c;
      }
    }
    if (bad == std::string_view::npos) break;
    out += "\xef\xbf\xbd";
    s.remove_prefix(bad + 1);
  }
  return out;
}

/// With `digits` after the point: "0.369"; "n/a" for what is not finite.
inline std::string fixed(double v, int digits) {
  if (!std::isfinite(v)) return "n/a";
  char text[340];
  const auto end = std::to_chars(text, text + sizeof text, v, std::chars_format::fixed, digits).ptr;
  std::string out(text, end);
  // No "-0.00".
  if (out[0] == '-' && out.find_first_not_of("-0.") == std::string::npos) out.erase(0, 1);
  return out;
}
/// The shortest text of about six digits, for coordinates.
inline std::string brief(double v) {
  std::string out = fixed(v, 2);
  if (out.find('.') == std::string::npos) return out;
  out.erase(out.find_last_not_of('0') + 1);
  if (out.back() == '.') out.pop_back();
  return out;
}
/// "18 %"; "<1 %" where rounding would hide something.
inline std::string percent(double share) {
  if (!std::isfinite(share)) return "n/a";
  return share > 0 && share < 0.005 ? "<1 %" : fixed(100 * share, 0) + " %";
}
/// 1234567 -> "1,234,567"
inline std::string thousands(std::int64_t v) {
  std::string out = std::to_string(v);
  for (std::size_t at = out.size(), first = v < 0 ? 1 : 0; at > first + 3;)
    out.insert(at -= 3, 1, ',');
  return out;
}

inline std::string base64(std::string_view bytes) {
  constexpr char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t v = 0;
    for (std::size_t k = 0; k < 3; ++k)
      v = v << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (std::size_t k = 0; k < 4; ++k)
      out += i + k > bytes.size() ? '=' : digits[v >> (18 - 6 * k) & 63];
  }
  return out;
}
/// A picture (h,w,1 to 4) as an address that holds it: "data:image/png;base64,...".
inline std::string png_address(const Tensor<std::uint8_t>& pixels) {
  return "data:image/png;base64," + base64(png_bytes(pixels));
}

}  // namespace moraine::inspect
