#pragma once
// Reads PNG (libpng) and JPEG (libjpeg-turbo) pictures from strangers: pixels as stored, no gamma,
// no colour management, no rotation by EXIF. Previews are written by io/png.hpp.
//
//   Image picture = read_image("tile.png");
//   Tensor<float> x = picture.pixels.as<float>();  // (h,w,c), 0..255 or 0..65535
//
// Memory: the pixels, at most ImageOptions::max_bytes; a progressive JPEG its coefficients besides,
// under the same limit. Why these libraries: docs/design/0003-image-libraries.md.

#include <array>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <moraine/core/any_tensor.hpp>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/core/tensor.hpp>
#include <moraine/io/file.hpp>
#include <string>
#include <vector>

// jpeglib.h names size_t and FILE without including what declares them: it comes last.
// clang-format off
#include <png.h>
#include <jpeglib.h>
// clang-format on

namespace moraine MORAINE_API {

struct ImageOptions {
  bool expand_palette =
      false;  ///< colours instead of the stored index; alpha where the file has it
  std::uint64_t max_bytes = std::uint64_t{1} << 30;  ///< of decoded pixels
  int max_scans = 100;  ///< of a progressive JPEG: each scan costs a pass over the whole picture
};

struct Image {
  AnyTensor pixels;  ///< (height,width,channels); u8, or u16 for a PNG with 16 bits
  std::vector<std::array<std::uint8_t, 3>> palette;  ///< of a PNG with stored indices
  int bits = 8;  ///< of a stored sample; samples of less than 8 bits keep their value
};

namespace detail {

/// Both libraries report an error by a long jump. Between setjmp and the jump there are only plain
/// data: whatever owns memory lives outside, and the functions that set the mark hold nothing.
struct ImageSource {
  const std::byte* data = nullptr;
  std::size_t size = 0, at = 0;
  char error[JMSG_LENGTH_MAX + 40] = "";
};

struct PngState : ImageSource {
  png_structp png = nullptr;
  png_infop info = nullptr;
  ~PngState() {
    if (png) png_destroy_read_struct(&png, &info, nullptr);
  }
  static void on_error(png_structp p, png_const_charp text) {
    auto* s = static_cast<PngState*>(png_get_error_ptr(p));
    std::snprintf(s->error, sizeof s->error, "%s", text);
    std::longjmp(png_jmpbuf(p), 1);
  }
  static void on_warning(png_structp, png_const_charp) {}
  static void on_read(png_structp p, png_bytep to, std::size_t n) {
    auto* s = static_cast<PngState*>(png_get_io_ptr(p));
    if (n > s->size - s->at) png_error(p, "the file ends too early");
    std::memcpy(to, s->data + s->at, n);
    s->at += n;
  }
  bool open() {
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, &on_error, &on_warning);
    info = png ? png_create_info_struct(png) : nullptr;
    if (!info) return false;
    if (setjmp(png_jmpbuf(png))) return false;
    png_set_user_limits(png, 1u << 20, 1u << 20);
    png_set_chunk_malloc_max(png, 8u << 20);
    png_set_chunk_cache_max(png, 64);
    png_set_read_fn(png, this, &on_read);
    png_read_info(png, info);
    return true;
  }
  bool transform(bool expand) {
    if (setjmp(png_jmpbuf(png))) return false;
    const bool palette = png_get_color_type(png, info) == PNG_COLOR_TYPE_PALETTE;
    if (palette && expand) {
      png_set_palette_to_rgb(png);
      if (png_get_valid(png, info, PNG_INFO_tRNS)) png_set_tRNS_to_alpha(png);
    } else {
      png_set_packing(png);
    }
    png_set_swap(png);  // 16 bits in this machine's order
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    return true;
  }
  /// Rows lie one after the other from `first`.
  bool rows(std::byte* first, std::size_t stride, std::uint32_t height) {
    if (setjmp(png_jmpbuf(png))) return false;
    const int passes = png_get_interlace_type(png, info) == PNG_INTERLACE_NONE ? 1 : 7;
    for (int pass = 0; pass < passes; ++pass)
      for (std::uint32_t y = 0; y < height; ++y)
        png_read_row(png, reinterpret_cast<png_bytep>(first + y * stride), nullptr);
    png_read_end(png, nullptr);
    return true;
  }
};

struct JpegState : ImageSource {
  jpeg_decompress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  std::jmp_buf mark{};
  int max_scans = 100;
  bool made = false;
  ~JpegState() {
    if (made) jpeg_destroy_decompress(&jpeg);
  }
  [[noreturn]] static void on_error(j_common_ptr c) {
    auto* s = static_cast<JpegState*>(c->client_data);
    if (!s->error[0]) c->err->format_message(c, s->error);
    std::longjmp(s->mark, 1);
  }
  /// Damaged data is only a warning to libjpeg, which then makes pixels up.
  static void on_message(j_common_ptr c, int level) {
    auto* s = static_cast<JpegState*>(c->client_data);
    if (level >= 0) return;
    if (c->err->msg_code == harmless()) return;
    c->err->format_message(c, s->error);
    on_error(c);
  }
  /// JWRN_EXTRANEOUS_DATA: filling bytes before a marker, seen in the files of many cameras. The
  /// number is not in a public header, so it is found by its text.
  static int harmless() {
    static const int code = [] {
      jpeg_error_mgr e{};
      jpeg_std_error(&e);
      for (int i = 0; i <= e.last_jpeg_message; ++i)
        if (std::strstr(e.jpeg_message_table[i], "extraneous bytes before marker")) return i;
      return -1;
    }();
    return code;
  }
  static void on_progress(j_common_ptr c) {
    auto* s = static_cast<JpegState*>(c->client_data);
    if (s->jpeg.input_scan_number <= s->max_scans) return;
    std::snprintf(s->error, sizeof s->error, "more than %d scans", s->max_scans);
    on_error(c);
  }
  static void nothing(j_common_ptr) {}

  bool open(std::uint64_t max_bytes) {
    jpeg.err = jpeg_std_error(&errors);
    errors.error_exit = &on_error;
    errors.emit_message = &on_message;
    errors.output_message = &nothing;
    jpeg.client_data = this;
    harmless();
    if (setjmp(mark)) return false;
    jpeg_create_decompress(&jpeg);
    made = true;
    jpeg.client_data = this;
    jpeg.mem->max_memory_to_use = static_cast<long>(max_bytes);
    progress.progress_monitor = &on_progress;
    jpeg.progress = &progress;
    jpeg_mem_src(&jpeg, reinterpret_cast<const unsigned char*>(data), size);
    jpeg_read_header(&jpeg, TRUE);
    return true;
  }
  bool start() {
    if (setjmp(mark)) return false;
    jpeg.out_color_space = jpeg.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_start_decompress(&jpeg);
    return true;
  }
  bool rows(std::byte* first, std::size_t stride) {
    if (setjmp(mark)) return false;
    while (jpeg.output_scanline < jpeg.output_height) {
      JSAMPROW row = reinterpret_cast<JSAMPROW>(first + jpeg.output_scanline * stride);
      jpeg_read_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_decompress(&jpeg);
    return true;
  }
};

/// Refuses sizes beyond the limit; returns an uninitialised (h,w,c).
inline AnyTensor image_memory(const std::string& what, std::uint64_t h, std::uint64_t w,
                              std::uint64_t c, Dtype dtype, const ImageOptions& options) {
  const std::uint64_t bytes = h * w * c * static_cast<unsigned>(size_of(dtype));
  if (bytes > options.max_bytes)
    fail(ErrorKind::memory, what + ": the picture is too large; " + std::to_string(w) + " x " +
                                std::to_string(h) + " x " + std::to_string(c) + ", " +
                                std::to_string(bytes) + " of at most " +
                                std::to_string(options.max_bytes) + " bytes");
  const Shape shape{static_cast<Index>(h), static_cast<Index>(w), static_cast<Index>(c)};
  if (dtype == Dtype::u16) return Tensor<std::uint16_t>::empty(shape);
  return Tensor<std::uint8_t>::empty(shape);
}
inline std::byte* writable(const AnyTensor& fresh) { return const_cast<std::byte*>(fresh.data); }

}  // namespace detail

/// A PNG file in memory; `name` stands for it in messages.
inline Image parse_png(const std::byte* data, std::size_t size, const std::string& name,
                       const ImageOptions& options = {}) {
  const std::string what = "png: " + quoted(name);
  detail::PngState s;
  s.data = data;
  s.size = size;
  const auto bad = [&](const char* doing) {
    fail(ErrorKind::format, what + ": " + doing + "; " + (s.error[0] ? s.error : "no memory") +
                                " -> is the file complete?");
  };
  if (!s.open()) bad("the header cannot be read");
  Image image;
  image.bits = png_get_bit_depth(s.png, s.info);
  const std::uint32_t w = png_get_image_width(s.png, s.info);
  const std::uint32_t h = png_get_image_height(s.png, s.info);
  // Deflate expands at most 1032 times (zlib's technical notes): a tiny file holds no huge picture.
  const std::uint64_t stored =
      (std::uint64_t{w} * static_cast<unsigned>(image.bits) * png_get_channels(s.png, s.info) + 7) /
      8 * h;
  if (stored / 1040 > size)
    fail(ErrorKind::format, what + ": the file is too short for its picture; " +
                                std::to_string(size) + " bytes for " + std::to_string(w) + " x " +
                                std::to_string(h));
  png_colorp colours = nullptr;
  int count = 0;
  if (!options.expand_palette && png_get_PLTE(s.png, s.info, &colours, &count) && colours &&
      png_get_color_type(s.png, s.info) == PNG_COLOR_TYPE_PALETTE)
    for (int i = 0; i < count; ++i)
      image.palette.push_back({colours[i].red, colours[i].green, colours[i].blue});
  if (!s.transform(options.expand_palette)) bad("the header cannot be read");
  const std::uint64_t channels = png_get_channels(s.png, s.info);
  const Dtype dtype = png_get_bit_depth(s.png, s.info) == 16 ? Dtype::u16 : Dtype::u8;
  image.pixels = detail::image_memory(what, h, w, channels, dtype, options);
  const std::size_t stride =
      w * static_cast<std::size_t>(channels) * static_cast<unsigned>(size_of(dtype));
  if (png_get_rowbytes(s.png, s.info) != stride) bad("its rows have an unexpected length");
  if (!s.rows(detail::writable(image.pixels), stride, h)) bad("the pixels cannot be read");
  return image;
}

/// A JPEG file in memory: gray as one channel, colours as RGB. CMYK is refused.
inline Image parse_jpeg(const std::byte* data, std::size_t size, const std::string& name,
                        const ImageOptions& options = {}) {
  const std::string what = "jpeg: " + quoted(name);
  detail::JpegState s;
  s.data = data;
  s.size = size;
  s.max_scans = options.max_scans;
  const auto bad = [&](const char* doing) {
    fail(ErrorKind::format, what + ": " + doing + "; " + s.error + " -> is the file complete?");
  };
  if (size == 0) fail(ErrorKind::format, what + ": the file is empty");
  if (!s.open(options.max_bytes)) bad("the header cannot be read");
  if (s.jpeg.num_components != 1 && s.jpeg.num_components != 3)
    fail(ErrorKind::format, what + ": only gray and RGB are read; " +
                                std::to_string(s.jpeg.num_components) + " components (CMYK?)");
  Image image;
  const std::uint64_t channels = s.jpeg.num_components == 1 ? 1 : 3;
  image.pixels = detail::image_memory(what, s.jpeg.image_height, s.jpeg.image_width, channels,
                                      Dtype::u8, options);
  if (!s.start()) bad("the picture cannot be read");
  if (!s.rows(detail::writable(image.pixels),
              s.jpeg.image_width * static_cast<std::size_t>(channels)))
    bad("the pixels cannot be read");
  return image;
}

/// Reads a PNG or JPEG file, told apart by content.
inline Image read_image(const std::string& path, const ImageOptions& options = {}) {
  const auto file = MappedFile::open(path, {.map = false});
  if (file->size() >= 3 && std::memcmp(file->data(), "\xff\xd8\xff", 3) == 0)
    return parse_jpeg(file->data(), file->size(), base_name(path), options);
  if (file->size() >= 4 && std::memcmp(file->data(), "\x89PNG", 4) == 0)
    return parse_png(file->data(), file->size(), base_name(path), options);
  fail(ErrorKind::format, "image: " + quoted(base_name(path)) + " is neither PNG nor JPEG; " +
                              std::to_string(file->size()) + " bytes -> convert it");
}

}  // namespace moraine
