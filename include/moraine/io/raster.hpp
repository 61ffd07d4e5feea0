#pragma once
// What a raster file says about itself: size, type, layout, nodata, georeferencing, names, colours.
// For readers, writers and programs; no library is needed here.
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <moraine/core/config.hpp>
#include <moraine/core/dtype.hpp>
#include <moraine/core/error.hpp>
#include <moraine/core/shape.hpp>
#include <moraine/io/file.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moraine MORAINE_API {

/// A rectangle of pixels; (x,y) is its upper left corner.
struct Window {
  Index x = 0, y = 0, width = 0, height = 0;
};

/// A TIFF tag as it stands in the file, values in this machine's byte order. Never interpreted when
/// it is copied.
struct RawTag {
  std::uint16_t tag = 0;
  std::uint16_t type = 0;  ///< TIFF's number: 2 ASCII, 3 SHORT, 12 DOUBLE ...
  std::uint64_t count = 0;
  std::vector<std::byte> bytes;
  bool operator==(const RawTag& o) const {
    return tag == o.tag && type == o.type && count == o.count && bytes == o.bytes;
  }
};
/// The tags that hold georeferencing: 33550 pixel scale, 33922 tie points, 34264 transformation,
/// 34735 keys, 34736 and 34737 their numbers and texts (OGC GeoTIFF 1.1).
using GeoTags = std::vector<RawTag>;
inline constexpr std::uint16_t geo_tag_numbers[] = {33550, 33922, 34264, 34735, 34736, 34737};

/// The value that means "nothing was measured here", as text (GDAL's tag 42113) and as number.
struct Nodata {
  std::string text;
  double value = 0;  ///< may be NaN
  /// Whether a stored value is nodata. Compared as float as well, since the text of a float's value
  /// has often been rounded.
  bool is(double v) const {
    return v == value || (std::isnan(v) && std::isnan(value)) ||
           static_cast<float>(v) == static_cast<float>(value);
  }
};

/// Reads the text of tag 42113: a number, "nan", "inf", "-inf". Empty for anything else.
inline std::optional<Nodata> parse_nodata(std::string_view text) {
  const std::size_t nul = text.find('\0');
  if (nul != std::string_view::npos) text = text.substr(0, nul);
  while (!text.empty() && (text.front() == ' ' || text.front() == '+')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\n')) text.remove_suffix(1);
  Nodata n{std::string(text), 0};
  if (text == "-nan") text = "nan";
  const auto r = std::from_chars(text.data(), text.data() + text.size(), n.value);
  if (r.ec != std::errc{} || r.ptr != text.data() + text.size()) return std::nullopt;
  return n;
}

/// A nodata value as GDAL writes it: whole numbers without a fraction, "nan" for NaN.
inline Nodata make_nodata(double value) {
  char buffer[32];
  const auto r = std::to_chars(buffer, buffer + sizeof buffer, value);
  return {std::isnan(value) ? "nan" : std::string(buffer, r.ptr), value};
}

/// One item of GDAL's metadata (tag 42112).
struct MetadataItem {
  std::string name;
  std::string text;
  int sample = -1;  ///< band, from 0; -1: the whole raster
  std::string role{};
  std::string domain{};
};

namespace detail {

inline void append_xml(std::string& out, std::string_view s) {
  for (char c : s) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else if (static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t')
      out += c;
  }
}
inline std::string from_xml(std::string_view s) {
  struct {
    const char* name;
    char c;
  } const known[] = {
      {"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}};
  std::string out;
  for (std::size_t i = 0; i < s.size();) {
    bool hit = false;
    if (s[i] == '&')
      for (const auto& k : known)
        if (s.substr(i).starts_with(k.name)) {
          out += k.c;
          i += std::strlen(k.name);
          hit = true;
          break;
        }
    if (!hit) out += s[i++];
  }
  return out;
}
/// The value of `name="..."` in the text of a start tag.
inline std::string xml_attribute(std::string_view tag, std::string_view name) {
  const std::string key = " " + std::string(name) + "=\"";
  const std::size_t at = tag.find(key);
  if (at == std::string_view::npos) return {};
  const std::size_t end = tag.find('"', at + key.size());
  if (end == std::string_view::npos) return {};
  return from_xml(tag.substr(at + key.size(), end - at - key.size()));
}

}  // namespace detail

/// The items of a GDALMetadata document. Whatever it does not understand it leaves out: these are
/// names for people, nothing is computed from them.
inline std::vector<MetadataItem> parse_gdal_metadata(std::string_view xml) {
  std::vector<MetadataItem> items;
  for (std::size_t at = 0; (at = xml.find("<Item ", at)) != std::string_view::npos;) {
    const std::size_t open = xml.find('>', at);
    if (open == std::string_view::npos) break;
    const std::string_view tag = xml.substr(at + 5, open - at - 5);
    at = open + 1;
    if (tag.ends_with("/")) continue;
    const std::size_t close = xml.find("</Item>", at);
    if (close == std::string_view::npos) break;
    MetadataItem item{detail::xml_attribute(tag, "name"),
                      detail::from_xml(xml.substr(at, close - at)), -1,
                      detail::xml_attribute(tag, "role"), detail::xml_attribute(tag, "domain")};
    const std::string sample = detail::xml_attribute(tag, "sample");
    if (!sample.empty()) {
      int v = -1;
      if (std::from_chars(sample.data(), sample.data() + sample.size(), v).ec == std::errc{} &&
          v >= 0)
        item.sample = v;
    }
    items.push_back(std::move(item));
    at = close;
  }
  return items;
}

/// The same as a document.
inline std::string gdal_metadata_text(const std::vector<MetadataItem>& items) {
  if (items.empty()) return {};
  std::string xml = "<GDALMetadata>\n";
  for (const MetadataItem& i : items) {
    xml += "  <Item name=\"";
    detail::append_xml(xml, i.name);
    xml += '"';
    if (i.sample >= 0) xml += " sample=\"" + std::to_string(i.sample) + "\"";
    for (const auto& [key, value] : {std::pair{"role", &i.role}, std::pair{"domain", &i.domain}}) {
      if (value->empty()) continue;
      xml += std::string(" ") + key + "=\"";
      detail::append_xml(xml, *value);
      xml += '"';
    }
    xml += '>';
    detail::append_xml(xml, i.text);
    xml += "</Item>\n";
  }
  return xml + "</GDALMetadata>\n";
}

using Colour = std::array<std::uint16_t, 3>;  ///< red, green, blue, each 0..65535

/// Everything about a raster but its pixels.
struct RasterInfo {
  Index width = 0, height = 0;
  int bands = 1;
  Dtype dtype = Dtype::u8;  ///< the type pixels are read as
  int bits = 8;             ///< of a stored sample
  bool tiled = false;
  Index block_width = 0, block_height = 0;  ///< of a tile or strip
  bool planar = false;                      ///< every band in blocks of its own
  bool big_tiff = false;
  int predictor = 1;
  std::string compression, photometric;
  std::optional<Nodata> nodata;
  GeoTags geo;
  std::vector<MetadataItem> metadata;
  std::vector<std::string> band_names;   ///< one a band, or none at all; "" for a band without
  std::vector<std::string> class_names;  ///< by class number, from items CLASS_0, CLASS_1 ...
  std::vector<Colour> colour_map;        ///< by pixel value; stored samples are not looked up in it
  /// x = g[0] + col g[1] + row g[2], y = g[3] + col g[4] + row g[5], of a pixel's upper left
  /// corner.
  std::optional<std::array<double, 6>> geotransform;
  int epsg = 0;  ///< of the coordinate system, when the keys name one; else 0

  /// Bytes of all blocks that one row of pixels touches, decoded.
  std::uint64_t block_row_bytes() const {
    const auto across = static_cast<std::uint64_t>((width + block_width - 1) / block_width);
    const auto row_bits = static_cast<std::uint64_t>(block_width) *
                          static_cast<std::uint64_t>(bands) * static_cast<std::uint64_t>(bits);
    return across * ((row_bits + 7) / 8) * static_cast<std::uint64_t>(block_height);
  }
};

namespace detail {

inline const RawTag* find_tag(const GeoTags& tags, int number) {
  for (const RawTag& t : tags)
    if (t.tag == number) return &t;
  return nullptr;
}
inline std::vector<double> doubles_of(const RawTag* t) {
  std::vector<double> v;
  if (t && t->type == 12) {
    v.resize(t->bytes.size() / 8);
    if (!v.empty()) std::memcpy(v.data(), t->bytes.data(), v.size() * 8);
  }
  return v;
}
/// The value of a GeoKey that is stored in the directory itself; 0 when absent.
inline int geo_key(const GeoTags& tags, int key) {
  const RawTag* t = find_tag(tags, 34735);
  if (!t || t->type != 3) return 0;
  std::vector<std::uint16_t> v(t->bytes.size() / 2);
  if (!v.empty()) std::memcpy(v.data(), t->bytes.data(), v.size() * 2);
  for (std::size_t i = 4; i + 4 <= v.size(); i += 4)
    if (v[i] == key && v[i + 1] == 0) return v[i + 3];
  return 0;
}

}  // namespace detail

/// Where pixels lie, from the tie point and scale or from the transformation. Files whose raster
/// type is "point" give pixel centres; they are moved by half a pixel, as GDAL does.
inline std::optional<std::array<double, 6>> geotransform_of(const GeoTags& tags) {
  const auto scale = detail::doubles_of(detail::find_tag(tags, 33550));
  const auto tie = detail::doubles_of(detail::find_tag(tags, 33922));
  const auto matrix = detail::doubles_of(detail::find_tag(tags, 34264));
  std::array<double, 6> g;
  if (scale.size() >= 2 && tie.size() >= 6 && scale[0] != 0 && scale[1] != 0)
    g = {tie[3] - tie[0] * scale[0], scale[0], 0, tie[4] + tie[1] * scale[1], 0, -scale[1]};
  else if (matrix.size() >= 16)
    g = {matrix[3], matrix[0], matrix[1], matrix[7], matrix[4], matrix[5]};
  else
    return std::nullopt;
  if (detail::geo_key(tags, 1025) == 2) {  // GTRasterTypeGeoKey: RasterPixelIsPoint
    g[0] -= 0.5 * (g[1] + g[2]);
    g[3] -= 0.5 * (g[4] + g[5]);
  }
  return g;
}

/// EPSG code of the projected or else the geographic system; 0 when none is named.
inline int epsg_of(const GeoTags& tags) {
  for (int key : {3072, 2048})
    if (const int code = detail::geo_key(tags, key); code > 0 && code < 32767) return code;
  return 0;
}

/// The tags of a window that begins at pixel (x,y) of the raster that `tags` belong to.
inline GeoTags shifted(GeoTags tags, Index x, Index y) {
  for (RawTag& t : tags) {
    std::vector<double> v = detail::doubles_of(&t);
    if (t.tag == 33922)
      for (std::size_t i = 0; i + 6 <= v.size(); i += 6) {
        v[i] -= static_cast<double>(x);
        v[i + 1] -= static_cast<double>(y);
      }
    else if (t.tag == 34264 && v.size() >= 16)
      for (std::size_t row : {0u, 4u, 8u})
        v[row + 3] += v[row] * static_cast<double>(x) + v[row + 1] * static_cast<double>(y);
    else
      continue;
    if (!v.empty()) std::memcpy(t.bytes.data(), v.data(), v.size() * 8);
  }
  return tags;
}

}  // namespace moraine
