// PNG and JPEG made by Pillow (scripts/make_io_fixtures.py), our own previews, and damaged files.
#include <moraine/io/image.hpp>
#include <moraine/io/png.hpp>

#include "scratch.hpp"

using namespace moraine;
using scratch::contains;
using scratch::message_of;

namespace {

std::string fixture(const std::string& name) {
  return std::string(MORAINE_SOURCE_DIR) + "/tests/io/fixtures/" + name;
}
Image png(const std::string& f, const ImageOptions& o = {}) {
  return parse_png(reinterpret_cast<const std::byte*>(f.data()), f.size(), "p.png", o);
}
Image jpeg(const std::string& f, const ImageOptions& o = {}) {
  return parse_jpeg(reinterpret_cast<const std::byte*>(f.data()), f.size(), "p.jpg", o);
}
constexpr Index h = 19, w = 23;

/// Whether every pixel is what f(y, x, channel) says.
template <class T, class F>
bool all(const Image& image, Index channels, F f) {
  if (image.pixels.dtype != dtype_of<T> || image.pixels.shape != Shape{h, w, channels})
    return false;
  const Tensor<T> t = image.pixels.as<T>();
  for (Index y = 0; y < h; ++y)
    for (Index x = 0; x < w; ++x)
      for (Index c = 0; c < channels; ++c)
        if (t.at({y, x, c}) != static_cast<T>(f(y, x, c))) return false;
  return true;
}
Index rgb(Index y, Index x, Index c) {
  return c == 0 ? x * 11 % 256 : c == 1 ? y * 13 % 256 : (x + y) * 7 % 256;
}

}  // namespace

TEST_CASE("png: every kind of pixel comes as stored") {
  CHECK(all<std::uint8_t>(read_image(fixture("rgb.png")), 3, rgb));
  CHECK(all<std::uint8_t>(read_image(fixture("rgba.png")), 4, [](Index y, Index x, Index c) {
    return c < 3 ? rgb(y, x, c) : x * y % 256;
  }));
  CHECK(all<std::uint8_t>(read_image(fixture("gray.png")), 1,
                          [](Index, Index x, Index) { return x * 11 % 256; }));
  CHECK(all<std::uint16_t>(read_image(fixture("gray16.png")), 1,
                           [](Index y, Index x, Index) { return x * 2749 + y * 31; }));
  CHECK(all<std::uint16_t>(read_image(fixture("interlaced16.png")), 3,
                           [](Index y, Index x, Index c) { return rgb(y, x, c) * 257 + 1; }));
  const Image bits = read_image(fixture("bits.png"));
  CHECK(bits.bits == 1);
  CHECK(all<std::uint8_t>(bits, 1, [](Index y, Index x, Index) { return (x + y) % 2 == 0; }));
}

TEST_CASE("png: a palette as index, or as colours when asked for") {
  const auto index = [](Index y, Index x) { return (x + 3 * y) % 5; };
  const Image stored = read_image(fixture("palette.png"));
  CHECK(all<std::uint8_t>(stored, 1, [&](Index y, Index x, Index) { return index(y, x); }));
  REQUIRE(stored.palette.size() >= 5);
  CHECK(stored.palette[4] == std::array<std::uint8_t, 3>{130, 140, 150});
  CHECK(
      all<std::uint8_t>(read_image(fixture("palette.png"), {.expand_palette = true}), 3,
                        [&](Index y, Index x, Index c) { return index(y, x) * 30 + 10 + c * 10; }));
}

TEST_CASE("jpeg: the pixels that libjpeg-turbo gives others") {
  for (const char* name : {"rgb", "progressive", "gray"}) {
    const Image image = read_image(fixture(std::string(name) + ".jpg"));
    const std::string raw = read_file(fixture(std::string(name) + ".jpg.raw"));
    const Index channels = name == std::string("gray") ? 1 : 3;
    CHECK(image.pixels.shape == Shape{h, w, channels});
    REQUIRE(image.pixels.bytes == raw.size());
    int worst = 0;  // decoders may differ by one step of rounding
    for (std::size_t i = 0; i < raw.size(); ++i)
      worst = std::max(worst, std::abs(static_cast<int>(image.pixels.data[i]) -
                                       static_cast<int>(static_cast<unsigned char>(raw[i]))));
    CHECK_MESSAGE(worst <= 1, name);
  }
  CHECK(contains(message_of([] { read_image(fixture("cmyk.jpg")); }), "4 components (CMYK?)"));
}

TEST_CASE("image: cut off at any length it is an error that names the file") {
  const std::string p = read_file(fixture("rgb.png")), q = read_file(fixture("interlaced16.png"));
  const std::string j = read_file(fixture("rgb.jpg")), k = read_file(fixture("progressive.jpg"));
  for (std::size_t n = 0; n < p.size(); ++n)
    CHECK(contains(message_of([&] { png(p.substr(0, n)); }), "png: \"p.png\""));
  for (std::size_t n = 0; n < q.size(); n += 31)
    CHECK(contains(message_of([&] { png(q.substr(0, n)); }), "png: \"p.png\""));
  for (std::size_t n = 0; n + 2 < j.size(); n += 7)
    CHECK_MESSAGE(contains(message_of([&] { jpeg(j.substr(0, n)); }), "jpeg: \"p.jpg\""), n);
  for (std::size_t n = 0; n + 2 < k.size(); n += 7)
    CHECK_MESSAGE(contains(message_of([&] { jpeg(k.substr(0, n)); }), "jpeg: \"p.jpg\""), n);
}

TEST_CASE("image: damaged bytes, great claims and other formats are refused") {
  const long before = scratch::peak_mib();
  std::string p = read_file(fixture("rgb.png"));
  std::string damaged = p;
  damaged[p.size() - 30] ^= 0x20;  // inside the pixels: the checksum no longer fits
  CHECK(message_of([&] { png(damaged); }) != "");
  CHECK(contains(message_of([&] { png(p, {.max_bytes = h * w * 3 - 1}); }),
                 "1311 of at most 1310 bytes"));
  CHECK_NOTHROW(png(p, {.max_bytes = h * w * 3}));
  // A header of 100000 x 100000 with its right checksum.
  std::string big = p.substr(0, 16) + std::string("\0\1\x86\xa0\0\1\x86\xa0", 8) + p.substr(24);
  const std::string sum = scratch::crc32(big.data() + 12, 17);
  for (std::size_t i = 0; i < 4; ++i)
    big[29 + i] = static_cast<char>(std::stoi(sum.substr(2 * i, 2), nullptr, 16));
  CHECK(contains(message_of([&] { png(big); }), "too short for its picture"));
  const std::string j = read_file(fixture("rgb.jpg"));
  CHECK(contains(message_of([&] { jpeg(j, {.max_bytes = 1000}); }), "1311 of at most 1000 bytes"));
  CHECK(contains(message_of([&] { jpeg(read_file(fixture("progressive.jpg")), {.max_scans = 2}); }),
                 "more than 2 scans"));
  std::string wide = j;  // the frame header claims 65500 x 65500
  const std::size_t at = wide.find("\xff\xc0");
  REQUIRE(at != std::string::npos);
  wide.replace(at + 5, 4, "\xff\xdc\xff\xdc");
  CHECK(contains(message_of([&] { jpeg(wide); }), "the picture is too large; 65500 x 65500"));
  std::string bits = j;
  for (std::size_t i = j.size() / 2; i < j.size() - 4; i += 3)
    bits[i] = static_cast<char>(bits[i] ^ 0x55);
  CHECK(message_of([&] { jpeg(bits); }) != "");
  CHECK(scratch::peak_mib() - before < 64);
  scratch::Dir dir;
  write_file(dir / "x.png", "GIF89a");
  CHECK(contains(message_of([&] { read_image(dir / "x.png"); }), "neither PNG nor JPEG"));
  write_file(dir / "e.png", "");
  CHECK(contains(message_of([&] { read_image(dir / "e.png"); }), "neither PNG nor JPEG; 0 bytes"));
  CHECK(contains(message_of([&] { read_image(dir / "none.png"); }), "cannot open"));
  CHECK(contains(message_of([&] { read_image(dir.path); }), "is a directory"));
}

TEST_CASE("png: a preview reads back, the same bytes each time") {
  scratch::Dir dir;
  for (Index c = 1; c <= 4; ++c) {
    Tensor<std::uint8_t> t = Tensor<std::uint8_t>::empty({h, w, c});
    for (Index i = 0; i < t.numel(); ++i) t.data()[i] = static_cast<std::uint8_t>(i * 37 % 251);
    write_png(dir / "a.png", t);
    const Image back = read_image(dir / "a.png");
    CHECK(back.pixels.shape == t.shape());
    CHECK(back.pixels.as<std::uint8_t>().values() == t.values());
    CHECK(png_bytes(t) == read_file(dir / "a.png"));
  }
  CHECK_THROWS_AS(png_bytes(Tensor<float>::zeros({2, 2, 1})), Error);
  CHECK_THROWS_AS(png_bytes(Tensor<std::uint8_t>::zeros({2, 2})), Error);
  CHECK_THROWS_AS(png_bytes(Tensor<std::uint8_t>::zeros({2, 2, 5})), Error);
  CHECK_THROWS_AS(png_bytes(Tensor<std::uint8_t>::zeros({0, 2, 1})), Error);
  const std::string before = read_file(dir / "a.png");
  std::string message;
  {
    scratch::FullDisk full(100);
    message = message_of([&] {
      write_png(dir / "a.png", Tensor<std::uint8_t>::zeros({300, 300, 3}));
    });
  }
  CHECK(contains(message, "cannot write"));
  CHECK(read_file(dir / "a.png") == before);
}

TEST_CASE("image: real tiles") {
  const std::string dir = scratch::data_dir();
  if (dir.empty()) return;
  int read = 0;
  for (const char* place : {"loveda", "potsdam"})
    for (const std::string& name : scratch::list(dir + "/rgb/" + place)) {
      if (!name.ends_with(".png")) continue;
      const Image image = read_image(dir + "/rgb/" + place + "/" + name);
      const Index side = place == std::string("loveda") ? 1024 : 512;
      CHECK(image.pixels.shape[0] == side);
      CHECK(image.pixels.shape[1] == side);
      ++read;
    }
  CHECK(read == 4);
}
