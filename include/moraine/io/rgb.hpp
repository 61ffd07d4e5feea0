#pragma once
// A photograph as RGB bytes, whatever it is stored as: PNG, JPEG, or TIFF of one or three bands.
// As Pillow opens it and transformers converts it: gray is repeated, a palette looked up, and
// transparency laid over white. Not turned by its EXIF orientation, as Image.open does not.
#include <moraine/io/geotiff_reader.hpp>
#include <moraine/io/image.hpp>
#include <moraine/io/recognise.hpp>

#include <cstdint>
#include <string>

namespace moraine MORAINE_API {

namespace detail {

/// One colour over white by alpha a: Pillow's alpha_composite on an opaque background, whose
/// fixed-point arithmetic has 7 bits more than a byte (AlphaComposite.c).
inline std::uint8_t over_white(std::uint32_t colour, std::uint32_t a) {
  const std::uint32_t all = a * 255 + 255 * (255 - a);  // the sum of both opacities, times 255
  const std::uint32_t part = a * 255 * 255 * 128 / all, rest = 255 * 128 - part;
  const std::uint32_t sum = colour * part + 255 * rest + (128u << 7);
  return static_cast<std::uint8_t>((((sum >> 8) + sum) >> 8) >> 7);
}

/// Interleaved samples (H,W,C), C 1 to 4 (2 and 4: the last is alpha) -> (H,W,3). `bits` below 8:
/// stretched to bytes.
inline Tensor<std::uint8_t> as_rgb(const Tensor<std::uint8_t>& x, int bits) {
  const Index n = x.size(0) * x.size(1), c = x.size(2);
  const std::uint32_t most = bits < 8 ? (1u << bits) - 1 : 255;
  Tensor<std::uint8_t> y = Tensor<std::uint8_t>::empty({x.size(0), x.size(1), 3});
  const std::uint8_t* from = x.data();
  std::uint8_t* to = y.data();
  for (Index i = 0; i < n; ++i, from += c, to += 3)
    for (Index k = 0; k < 3; ++k) {
      const std::uint32_t v = from[c < 3 ? 0 : k] * 255u / most;
      to[k] = c == 3 || c == 1   ? static_cast<std::uint8_t>(v)
              : from[c - 1] == 0 ? std::uint8_t{255}
                                 : over_white(v, from[c - 1]);
    }
  return y;
}

}  // namespace detail

/// Reads a photograph as (H,W,3). Throws ErrorKind::file, ::format, and for what is no photograph:
/// samples of other than 8 bits, or two, four and more bands of a TIFF.
inline Tensor<std::uint8_t> read_rgb(const std::string& path, const ImageOptions& options = {}) {
  const std::string name = quoted(base_name(path));
  const auto other = [&](const std::string& what) {
    fail(ErrorKind::format, "image: " + name + " " + what +
                                " -> a photograph has 8 bits, gray or RGB; convert it first");
  };
  const FileKind kind = recognise(path);
  if (kind != FileKind::tiff && kind != FileKind::big_tiff) {
    ImageOptions o = options;
    o.expand_palette = true;
    const Image image = read_image(path, o);
    if (image.pixels.dtype != Dtype::u8)
      other("has samples of " + std::to_string(image.bits) + " bits");
    return detail::as_rgb(image.pixels.as<std::uint8_t>(),
                          image.pixels.shape[2] == 1 ? image.bits : 8);
  }
  GeoTiffReader file(path);
  const RasterInfo& info = file.info();
  if (info.dtype != Dtype::u8 || info.bits != 8)
    other("has samples of " + std::to_string(info.bits) + " bits, " + name_of(info.dtype));
  if (info.bands != 1 && info.bands != 3) other("has " + std::to_string(info.bands) + " bands");
  const bool white = info.photometric == "min-is-white";
  const bool colours =
      info.photometric == "rgb" || (info.photometric == "ycbcr" && info.compression == "jpeg");
  if (!colours && info.photometric != "min-is-black" && !(white && info.bands == 1))
    other("is stored as " + info.photometric);
  if (static_cast<std::uint64_t>(info.width) * static_cast<std::uint64_t>(info.height) * 4 >
      options.max_bytes)
    fail(ErrorKind::memory, "image: " + name + " is too large; " + std::to_string(info.width) +
                                " x " + std::to_string(info.height));
  const Tensor<std::uint8_t> planes = file.read_all().as<std::uint8_t>();
  Tensor<std::uint8_t> mixed = Tensor<std::uint8_t>::empty({info.height, info.width, info.bands});
  for (Index i = 0; i < info.height * info.width; ++i)
    for (Index b = 0; b < info.bands; ++b)
      mixed.data()[i * info.bands + b] = static_cast<std::uint8_t>(
          planes.data()[b * info.height * info.width + i] ^ (white ? 0xff : 0));
  return detail::as_rgb(mixed, 8);
}

}  // namespace moraine
