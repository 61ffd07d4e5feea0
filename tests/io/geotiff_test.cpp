// Rasters written, read back, cut off and forged; real scenes against numbers from GDAL 3.6.

#include <cmath>
#include <limits>
#include <moraine/io/geotiff.hpp>

#include "scratch.hpp"

using namespace moraine;
using scratch::contains;
using scratch::message_of;

namespace {

RawTag doubles(std::uint16_t tag, std::vector<double> v) {
  RawTag t{tag, 12, v.size(), {}};
  t.bytes.resize(v.size() * 8);
  std::memcpy(t.bytes.data(), v.data(), t.bytes.size());
  return t;
}
RawTag shorts(std::uint16_t tag, std::vector<std::uint16_t> v) {
  RawTag t{tag, 3, v.size(), {}};
  t.bytes.resize(v.size() * 2);
  std::memcpy(t.bytes.data(), v.data(), t.bytes.size());
  return t;
}
RawTag ascii(std::uint16_t tag, const std::string& v) {
  RawTag t{tag, 2, v.size() + 1, {}};
  t.bytes.resize(v.size() + 1);
  std::memcpy(t.bytes.data(), v.c_str(), t.bytes.size());
  return t;
}
/// UTM zone 33 north, 10 m, upper left corner at (400000, 5800000).
GeoTags utm33(bool point = false) {
  return {doubles(33550, {10, 10, 0}), doubles(33922, {0, 0, 0, 400000, 5800000, 0}),
          shorts(34735, {1,    1,     0,    4, 1024, 0,
                         1,    1,     1025, 0, 1,    static_cast<std::uint16_t>(point ? 2 : 1),
                         1026, 34737, 5,    0, 3072, 0,
                         1,    32633}),
          ascii(34737, "test|")};
}

/// Values that use the whole range of T and differ everywhere.
template <class T>
Tensor<T> pattern(Index bands, Index h, Index w) {
  Tensor<T> t = Tensor<T>::empty({bands, h, w});
  for (Index i = 0; i < t.numel(); ++i) {
    const auto v = static_cast<std::uint64_t>(i) * 2654435761u >> 7;
    if constexpr (std::is_floating_point_v<T>)
      t.data()[i] = static_cast<T>(static_cast<double>(v % 100003) / 7.0 - 5000);
    else
      t.data()[i] = static_cast<T>(v);
  }
  return t;
}
template <class T>
void write_raster(const std::string& path, const Tensor<T>& t, GeoTiffOptions o, Index step) {
  o.bands = static_cast<int>(t.size(0));
  o.height = t.size(1);
  o.width = t.size(2);
  o.dtype = dtype_of<T>;
  GeoTiffWriter w(path, o);
  for (Index y = 0; y < o.height; y += step) {
    const Index n = std::min(step, o.height - y);
    w.write_rows(t.view({o.bands, n, o.width}, t.strides(), y * o.width));
  }
  w.finish();
}
bool same(const AnyTensor& a, const AnyTensor& b) {
  return a.dtype == b.dtype && a.shape == b.shape && a.bytes == b.bytes &&
         std::memcmp(a.data, b.data, a.bytes) == 0;
}

/// A hand-made little-endian TIFF: 12-byte entries {tag, type, count, value}, then the rest.
std::string forged(const std::vector<std::array<std::uint32_t, 4>>& entries,
                   const std::string& rest = {}) {
  std::string f("II\x2a\0\x08\0\0\0", 8);
  const auto put = [&](std::uint32_t v, int n) {
    f.append(reinterpret_cast<const char*>(&v), static_cast<std::size_t>(n));
  };
  put(static_cast<std::uint32_t>(entries.size()), 2);
  for (const auto& e : entries) {
    put(e[0], 2);
    put(e[1], 2);
    put(e[2], 4);
    put(e[3], 4);
  }
  put(0, 4);
  return f + rest;
}
GeoTiffReader open_bytes(const std::string& f, ReadLimits limits = {}) {
  return GeoTiffReader(reinterpret_cast<const std::byte*>(f.data()), f.size(), nullptr,
                       "forged.tif", limits);
}

}  // namespace

TEST_CASE_TEMPLATE("geotiff: every type, compression and predictor comes back as it was", T,
                   std::uint8_t, std::uint16_t, std::int16_t, std::uint32_t, std::int32_t, float,
                   double) {
  scratch::Dir dir;
  for (TiffCompression c : {TiffCompression::none, TiffCompression::lzw, TiffCompression::deflate,
                            TiffCompression::zstd})
    for (bool predictor : {false, true})
      for (Index bands : {1, 3}) {
        const Tensor<T> t = pattern<T>(bands, 75, 50);
        write_raster(dir / "a.tif", t, {.tile = 32, .compression = c, .predictor = predictor}, 7);
        GeoTiffReader r(dir / "a.tif");
        CHECK(r.info().tiled);
        CHECK(r.info().block_width == 32);
        CHECK(same(r.read_all(), t));
        // A window across tiles, with bands in another order.
        const std::vector<int> order = bands == 3 ? std::vector<int>{2, 0} : std::vector<int>{0};
        const AnyTensor part = r.read({.x = 20, .y = 30, .width = 25, .height = 40}, order);
        const Tensor<T> p = part.as<T>();
        const Tensor<float> f = r.read_float({.x = 20, .y = 30, .width = 25, .height = 40}, order);
        bool equal = true;
        for (Index b = 0; b < p.size(0); ++b)
          for (Index y = 0; y < 40; ++y)
            for (Index x = 0; x < 25; ++x) {
              const T v = t.at({order[static_cast<std::size_t>(b)], y + 30, x + 20});
              equal = equal && p.at({b, y, x}) == v && f.at({b, y, x}) == static_cast<float>(v);
            }
        CHECK(equal);
      }
}

TEST_CASE("geotiff: what a GIS needs goes through unchanged") {
  scratch::Dir dir;
  const Tensor<std::uint8_t> labels = pattern<std::uint8_t>(1, 40, 30);
  const std::vector<Colour> colours = {{0, 0, 0}, {65535, 0, 0}, {0, 32896, 257}};
  write_raster(dir / "map.tif", labels,
               {.tile = 16,
                .predictor = false,
                .nodata = make_nodata(255),
                .geo = utm33(),
                .colour_map = colours,
                .band_names = {"class & <name>"},
                .class_names = {"void", "water", "\"tree\""},
                .metadata = {{"SOURCE", "scene 1"}}},
               11);
  GeoTiffReader r(dir / "map.tif");
  const RasterInfo& f = r.info();
  CHECK(f.geo == utm33());
  CHECK(f.epsg == 32633);
  REQUIRE(f.geotransform);
  CHECK(*f.geotransform == std::array<double, 6>{400000, 10, 0, 5800000, 0, -10});
  REQUIRE(f.nodata);
  CHECK(f.nodata->text == "255");
  CHECK(f.nodata->is(255));
  CHECK_FALSE(f.nodata->is(254));
  CHECK(f.photometric == "palette");
  REQUIRE(f.colour_map.size() == 256);
  CHECK(f.colour_map[2] == colours[2]);
  CHECK(f.colour_map[3] == Colour{0, 0, 0});
  CHECK(f.band_names == std::vector<std::string>{"class & <name>"});
  CHECK(f.class_names == std::vector<std::string>{"void", "water", "\"tree\""});
  REQUIRE(!f.metadata.empty());
  CHECK(f.metadata[0].name == "SOURCE");
  CHECK(f.metadata[0].text == "scene 1");
  CHECK(same(r.read_all(), labels));
  CHECK(f.compression == "deflate");
  CHECK_FALSE(f.big_tiff);
  // Again with the tags that were read: the same bytes.
  write_raster(dir / "two.tif", labels,
               {.tile = 16,
                .predictor = false,
                .nodata = f.nodata,
                .geo = f.geo,
                .colour_map = f.colour_map,
                .band_names = f.band_names,
                .class_names = f.class_names,
                .metadata = {{"SOURCE", "scene 1"}}},
               40);
  CHECK(read_file(dir / "map.tif") == read_file(dir / "two.tif"));
}

TEST_CASE("raster: geotransform of points, matrices and windows") {
  CHECK((*geotransform_of(utm33(true)))[0] == 399995);
  CHECK((*geotransform_of(utm33(true)))[3] == 5800005);
  CHECK((*geotransform_of(shifted(utm33(), 3, 5)))[0] == 400030);
  CHECK((*geotransform_of(shifted(utm33(), 3, 5)))[3] == 5799950);
  const GeoTags matrix = {doubles(34264, {2, 1, 0, 100, 0.5, -3, 0, 200, 0, 0, 0, 0, 0, 0, 0, 1})};
  CHECK(*geotransform_of(matrix) == std::array<double, 6>{100, 2, 1, 200, 0.5, -3});
  CHECK(*geotransform_of(shifted(matrix, 10, 100)) ==
        std::array<double, 6>{220, 2, 1, -95, 0.5, -3});
  CHECK_FALSE(geotransform_of({}));
  CHECK_FALSE(geotransform_of({doubles(33550, {0, 0, 0}), doubles(33922, {0, 0, 0, 1, 2, 0})}));
  CHECK_FALSE(geotransform_of({doubles(33550, {1}), doubles(33922, {0, 0})}));
  CHECK(epsg_of({shorts(34735, {1, 1, 0})}) == 0);
}

TEST_CASE("raster: nodata texts") {
  CHECK(parse_nodata("-32768")->value == -32768);
  CHECK(parse_nodata(" -9999 ")->value == -9999);
  CHECK(std::isnan(parse_nodata("nan")->value));
  CHECK(std::isnan(parse_nodata("-nan")->value));
  CHECK(parse_nodata("nan")->is(std::numeric_limits<float>::quiet_NaN()));
  CHECK(parse_nodata("-3.4028234663852886e+38")->is(-3.4028234663852886e+38f));
  CHECK(parse_nodata("-3.40282347e+38")->is(std::numeric_limits<float>::lowest()));
  CHECK(std::isinf(parse_nodata("-inf")->value));
  CHECK_FALSE(parse_nodata(""));
  CHECK_FALSE(parse_nodata("none"));
  CHECK_FALSE(parse_nodata("1,5"));
  CHECK(parse_nodata(std::string_view("0\0x", 3))->value == 0);
  CHECK(make_nodata(-32768).text == "-32768");
  CHECK(make_nodata(std::nan("")).text == "nan");
  CHECK(parse_nodata(make_nodata(std::numeric_limits<float>::lowest()).text)
            ->is(std::numeric_limits<float>::lowest()));
}

TEST_CASE("raster: GDAL metadata, also broken") {
  const auto items = parse_gdal_metadata(
      "<GDALMetadata>\n<Item name=\"a\">x &amp;lt; &quot;</Item><Item name=\"OFFSET\" sample=\"2\" "
      "role=\"offset\">-1000</Item>"
      "<Item name=\"e\"/><Item name=\"d\" domain=\"RPC\"></Item></GDALMetadata>");
  REQUIRE(items.size() == 3);
  CHECK(items[0].text == "x &lt; \"");
  CHECK(items[1].sample == 2);
  CHECK(items[1].role == "offset");
  CHECK(items[2].domain == "RPC");
  for (const char* bad : {"", "<Item ", "<Item name=\"a\"", "<Item name=\"a\">x",
                          "<Item name=\"a>x</Item>", "<Item >"})
    CHECK_NOTHROW(parse_gdal_metadata(bad));
}

TEST_CASE("geotiff: BigTIFF when the estimate passes the limit") {
  scratch::Dir dir;
  const Tensor<float> t = pattern<float>(2, 20, 20);
  for (std::uint64_t above : {3199u, 3200u}) {
    write_raster(dir / "b.tif", t, {.tile = 16, .geo = utm33(), .big_tiff_above = above}, 20);
    GeoTiffReader r(dir / "b.tif");
    CHECK(r.info().big_tiff == (above == 3199u));
    CHECK(r.info().geo == utm33());
    CHECK(same(r.read_all(), t));
  }
}

TEST_CASE("geotiff: bands of rows decode no block twice, and a small cache still reads right") {
  scratch::Dir dir;
  const Tensor<std::int16_t> t = pattern<std::int16_t>(2, 100, 100);
  write_raster(dir / "a.tif", t, {.tile = 32}, 100);
  GeoTiffReader r(dir / "a.tif");
  CHECK(r.info().block_row_bytes() == 4u * 32 * 32 * 2 * 2);
  for (Index y = 0; y < 100; y += 10) r.read_float({0, y, 100, 10});
  CHECK(r.blocks_decoded() == 16);
  GeoTiffReader small(dir / "a.tif", {.cache_bytes = 1});
  CHECK(same(small.read_all(), t));
  CHECK(small.blocks_decoded() == 16);
  small.read({0, 0, 100, 1});
  small.read({0, 1, 100, 1});
  CHECK(small.blocks_decoded() == 24);
}

TEST_CASE("geotiff: windows and options that do not fit are one clear line") {
  scratch::Dir dir;
  const Tensor<std::uint8_t> t = pattern<std::uint8_t>(2, 20, 30);
  write_raster(dir / "a.tif", t, {.tile = 16}, 20);
  GeoTiffReader r(dir / "a.tif");
  for (const Window& w :
       {Window{-1, 0, 1, 1}, Window{0, 0, 31, 1}, Window{0, 0, 1, 21}, Window{30, 0, 1, 1},
        Window{0, 0, 0, 1}, Window{INT64_MAX, 0, 1, 1}, Window{0, 0, INT64_MAX, 1}})
    CHECK(
        contains(message_of([&] { r.read(w); }), "\"a.tif\": the window is not inside the raster"));
  CHECK(contains(message_of([&] { r.read({0, 0, 1, 1}, {2}); }), "no band 2; it has 2"));
  const auto refuses = [&](GeoTiffOptions o, const char* part) {
    if (o.width == 0) o.width = o.height = 16;
    CHECK_MESSAGE(contains(message_of([&] { GeoTiffWriter w(dir / "x.tif", o); }), part), part);
  };
  refuses({.width = -1, .height = 5}, "its size is not one");
  refuses({.bands = 0}, "0 bands");
  refuses({.dtype = Dtype::f16}, "type F16");
  refuses({.tile = 100}, "multiple of 16");
  refuses({.bands = 2, .colour_map = {{1, 2, 3}}}, "needs one band");
  refuses({.colour_map = std::vector<Colour>(257)}, "257 colours");
  refuses({.band_names = {"a", "b"}}, "2 names for 1 bands");
  refuses({.rgb = true}, "needs three bands");
  refuses({.geo = {{33550, 12, 3, {}}}}, "geo tag 33550");
  refuses({.geo = {{33550, 99, 3, {}}}}, "geo tag 33550");
  CHECK(scratch::list(dir.path).size() == 1);
  GeoTiffWriter w(dir / "x.tif", {.width = 16, .height = 16});
  CHECK(contains(message_of([&] { w.write_rows(pattern<std::int16_t>(1, 2, 16)); }),
                 "of I16, expected (1,at most 16,16) of U8"));
  CHECK(contains(message_of([&] { w.write_rows(pattern<std::uint8_t>(1, 17, 16)); }), "(1,17,16)"));
  CHECK(contains(message_of([&] { w.write_rows(pattern<std::uint8_t>(1, 2, 15)); }),
                 "rows do not fit"));
  CHECK(contains(message_of([&] { w.finish(); }), "lacks rows; 16 of 16"));
}

TEST_CASE("geotiff: nothing is left of a writer that did not finish") {
  scratch::Dir dir;
  const Tensor<std::uint8_t> t = pattern<std::uint8_t>(1, 20, 30);
  write_raster(dir / "a.tif", t, {.tile = 16}, 20);
  const std::string before = read_file(dir / "a.tif");
  {
    GeoTiffWriter w(dir / "a.tif", {.width = 30, .height = 200});
    w.write_rows(t);
  }
  CHECK(read_file(dir / "a.tif") == before);
  CHECK(scratch::list(dir.path).size() == 1);
  CHECK(contains(message_of([&] { GeoTiffWriter w(dir / "no/a.tif", {.width = 1, .height = 1}); }),
                 "there is no directory"));
  CHECK(contains(message_of([&] { GeoTiffWriter w(dir.path, {.width = 1, .height = 1}); }),
                 "is a directory"));
}

TEST_CASE("geotiff: a full disk, at any byte, is one clear line and leaves the old file") {
  scratch::Dir dir;
  const Tensor<float> t = pattern<float>(1, 64, 64);
  const GeoTiffOptions o{.tile = 32, .compression = TiffCompression::none, .geo = utm33()};
  write_raster(dir / "a.tif", t, o, 64);
  const std::string before = read_file(dir / "a.tif");
  for (std::size_t at = 0; at < before.size(); at += at < 32 ? 4 : 997) {
    std::string message;
    {
      scratch::FullDisk full(at);
      message = message_of([&] { write_raster(dir / "a.tif", t, o, 64); });
    }
    CHECK_MESSAGE(contains(message, "cannot write"), at << ": " << message);
    REQUIRE(read_file(dir / "a.tif") == before);
    REQUIRE(scratch::list(dir.path).size() == 1);
  }
}

TEST_CASE("geotiff: cut off at every length it is an answer or an error") {
  scratch::Dir dir;
  const Tensor<std::uint16_t> t = pattern<std::uint16_t>(2, 40, 40);
  write_raster(dir / "a.tif", t, {.tile = 16, .geo = utm33()}, 40);
  const std::string whole = read_file(dir / "a.tif");
  int errors = 0;
  for (std::size_t n = 0; n < whole.size(); n += 13)
    errors += !message_of([&] { open_bytes(whole.substr(0, n)).read_all(); }).empty();
  CHECK(errors > 0);
  CHECK(contains(message_of([&] { open_bytes(""); }), "\"forged.tif\": cannot be opened"));
  CHECK(contains(message_of([&] { open_bytes("\x89PNG\r\n"); }), "is it a TIFF"));
  CHECK(contains(message_of([&] { GeoTiffReader r(dir / "none.tif"); }), "cannot open"));
  CHECK(contains(message_of([&] { GeoTiffReader r(dir.path); }), "is a directory"));
}

TEST_CASE("geotiff: small files with great claims are refused before memory is asked for") {
  const long before = scratch::peak_mib();
  using E = std::vector<std::array<std::uint32_t, 4>>;
  const auto claim = [&](E more) {
    E e = {{256, 4, 1, 100}, {257, 4, 1, 100}};
    e.insert(e.end(), more.begin(), more.end());
    return message_of([&] { open_bytes(forged(e, std::string(2900, 'x'))).read_all(); });
  };
  // 65529 samples of 64 bits in one strip.
  CHECK(contains(claim({{258, 3, 1, 64},
                        {259, 3, 1, 8},
                        {262, 3, 1, 1},
                        {273, 4, 1, 8},
                        {277, 3, 1, 65529},
                        {278, 4, 1, 100},
                        {279, 4, 1, 2000}}),
                 "its blocks are too large; 100 x 100 pixels of 65529 bands"));
  CHECK(contains(claim({{258, 3, 1, 8},
                        {259, 3, 1, 5},
                        {262, 3, 1, 1},
                        {277, 3, 1, 1},
                        {322, 4, 1, 65536},
                        {323, 4, 1, 65536},
                        {324, 4, 1, 8},
                        {325, 4, 1, 2000}}),
                 "its blocks are too large"));
  CHECK(contains(claim({{258, 3, 1, 16},
                        {259, 3, 1, 8},
                        {262, 3, 1, 1},
                        {273, 4, 1, 8},
                        {277, 3, 1, 600},
                        {278, 4, 1, 100},
                        {279, 4, 1, 2000}}),
                 "is too short for 12000000 bytes"));
  CHECK(contains(claim({{258, 3, 1, 8},
                        {259, 3, 1, 5},
                        {262, 3, 1, 1},
                        {273, 4, 1, 70000},
                        {277, 3, 1, 1},
                        {278, 4, 1, 100},
                        {279, 4, 1, 2000}}),
                 "lies outside the file"));
  CHECK(contains(claim({{258, 3, 1, 8},
                        {259, 3, 1, 6},
                        {262, 3, 1, 1},
                        {273, 4, 1, 8},
                        {277, 3, 1, 1},
                        {279, 4, 1, 20}}),
                 "old-style jpeg (6)"));
  CHECK(contains(claim({{258, 3, 1, 8}, {259, 3, 1, 777}, {273, 4, 1, 8}, {279, 4, 1, 20}}),
                 "(777)"));
  CHECK(contains(
      claim({{258, 3, 1, 128}, {259, 3, 1, 1}, {262, 3, 1, 1}, {273, 4, 1, 8}, {279, 4, 1, 20}}),
      "128 bits"));
  CHECK(contains(claim({{258, 3, 1, 4},
                        {259, 3, 1, 1},
                        {262, 3, 1, 5},
                        {273, 4, 1, 8},
                        {277, 3, 1, 4},
                        {279, 4, 1, 20}}),
                 "separated inks with 4 bits"));
  CHECK(claim({{258, 3, 1, 8},
               {259, 3, 1, 1},
               {262, 3, 1, 6},
               {273, 4, 1, 8},
               {277, 3, 1, 3},
               {279, 4, 1, 2000}}) != "");
  CHECK(message_of([&] { open_bytes(forged({{256, 4, 1, 0}, {257, 4, 1, 5}})); }) != "");
  CHECK(message_of([&] {
          open_bytes(forged({{256, 4, 1, 4294967295u},
                             {257, 4, 1, 4294967295u},
                             {258, 3, 1, 8},
                             {259, 3, 1, 1},
                             {262, 3, 1, 1},
                             {273, 4, 1, 8},
                             {278, 4, 1, 1},
                             {279, 4, 1, 20}}));
        }) != "");
  CHECK(scratch::peak_mib() - before < 64);
}

TEST_CASE("geotiff: blocks that were never written read as nodata") {
  // 16 x 16 pixels of one tile with offset 0 and length 0; nodata "7".
  const std::string f = forged({{256, 4, 1, 16},
                                {257, 4, 1, 16},
                                {258, 3, 1, 8},
                                {259, 3, 1, 8},
                                {262, 3, 1, 1},
                                {277, 3, 1, 1},
                                {322, 4, 1, 16},
                                {323, 4, 1, 16},
                                {324, 4, 1, 0},
                                {325, 4, 1, 0},
                                {42113, 2, 2, '7'}});
  auto r = open_bytes(f);
  CHECK(r.info().nodata->value == 7);
  const Tensor<std::uint8_t> t = r.read_all().as<std::uint8_t>();
  CHECK(t.at({0, 0, 0}) == 7);
  CHECK(t.at({0, 15, 15}) == 7);
}

TEST_CASE("geotiff: real scenes read as GDAL reads them") {
  const std::string dir = scratch::data_dir();
  if (dir.empty()) return;
  // CRC-32 of `gdal_translate -of ENVI -co INTERLEAVE=BSQ` (bands, rows, columns), GDAL 3.6.2.
  struct Row {
    const char* file;
    Shape shape;
    Dtype dtype;
    const char* crc;
    int epsg;
    const char* nodata;
    std::array<double, 3> corner;  ///< x, y, pixel size
  };
  for (const Row& row : {Row{"enmap_potsdam/images/enmap_potsdam_tile_128_0.tif",
                             {224, 32, 32},
                             Dtype::f32,
                             "00aca7a5",
                             32633,
                             "-32768",
                             {366015, 5809965, 30}},
                         Row{"dsm/dsm.tif",
                             {1, 259, 283},
                             Dtype::f32,
                             "03d64723",
                             26918,
                             "-9999",
                             {321498, 4298018, 2}},
                         Row{"dsm/hag.tif",
                             {1, 259, 283},
                             Dtype::f32,
                             "9e7c9c4f",
                             26918,
                             "-9999",
                             {321498, 4298018, 2}},
                         Row{"terramind/S1RTC/282D_485L_3_3.tif",
                             {2, 224, 224},
                             Dtype::f64,
                             "76992941",
                             32722,
                             nullptr,
                             {}},
                         Row{"terramind/DEM/433D_629L_3_1.tif",
                             {1, 224, 224},
                             Dtype::i16,
                             "3c3629c0",
                             32718,
                             nullptr,
                             {}},
                         Row{"terramind/LULC/282D_485L_3_3.tif",
                             {1, 224, 224},
                             Dtype::u8,
                             "f0191623",
                             32722,
                             nullptr,
                             {}},
                         Row{"terramind/S2L2A/282D_485L_3_3.tif",
                             {12, 224, 224},
                             Dtype::i16,
                             "56cb659c",
                             32722,
                             nullptr,
                             {}}}) {
    GeoTiffReader r(dir + "/" + row.file);
    const AnyTensor t = r.read_all();
    CHECK_MESSAGE(scratch::crc32(t.data, t.bytes) == row.crc, row.file);
    CHECK(t.shape == row.shape);
    CHECK(t.dtype == row.dtype);
    CHECK(r.info().epsg == row.epsg);
    REQUIRE(r.info().geotransform);
    if (row.corner[2] != 0) {
      CHECK((*r.info().geotransform)[0] == row.corner[0]);
      CHECK((*r.info().geotransform)[3] == row.corner[1]);
      CHECK((*r.info().geotransform)[5] == -row.corner[2]);
    }
    if (row.nodata) {
      REQUIRE(r.info().nodata);
      CHECK(r.info().nodata->text == row.nodata);
    }
  }
  GeoTiffReader enmap(dir + "/enmap_potsdam/images/enmap_potsdam_tile_128_0.tif");
  CHECK(enmap.info().planar);
  REQUIRE(enmap.info().band_names.size() == 224);
  CHECK(enmap.info().band_names[0] == "band 1 (418.24 Nanometers)");
  // A few bands of a planar file decode only their own blocks.
  enmap.read({0, 0, 32, 32}, {0, 223});
  CHECK(enmap.blocks_decoded() == 2);
}
