#pragma once
// Writes a tiled, compressed GeoTIFF from the top to the bottom, in bands of rows: maps and rasters
// larger than memory, with the grid, names and colours that a GIS shows.
//
//   GeoTiffWriter map("map.tif", {.width = w, .height = h, .nodata = make_nodata(255), .geo =
//   scene.info().geo,
//                                 .colour_map = colours, .class_names = names});
//   map.write_rows(labels);  // (bands,rows,width), again and again
//   map.finish();            // only now does map.tif exist
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <moraine/core/any_tensor.hpp>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/io/file.hpp>
#include <moraine/io/raster.hpp>
#include <moraine/io/tiff_handle.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

enum class TiffCompression { none, lzw, deflate, zstd };

struct GeoTiffOptions {
  Index width = 0, height = 0;
  int bands = 1;
  Dtype dtype = Dtype::u8;  ///< u8, u16, i16, u32, i32, f32 or f64
  Index tile = 512;         ///< pixels, a multiple of 16
  TiffCompression compression = TiffCompression::deflate;
  bool predictor = true;  ///< store differences; smaller for everything but labels
  bool rgb = false;       ///< the first three bands are a picture
  std::optional<Nodata> nodata{};
  GeoTags geo{};                          ///< written byte for byte
  std::vector<Colour> colour_map{};       ///< one band of u8 or u16 only; missing entries are black
  std::vector<std::string> band_names{};  ///< one a band
  std::vector<std::string> class_names{};
  std::vector<MetadataItem> metadata{};  ///< further items
  /// BigTIFF when the pixels, uncompressed, take more bytes than this.
  std::uint64_t big_tiff_above = 4'000'000'000;
};

class GeoTiffWriter {
 public:
  /// Begins beside `path`. Throws when the options do not fit each other or the file cannot be
  /// made.
  GeoTiffWriter(const std::string& path, GeoTiffOptions options) : o_(std::move(options)) {
    check(path);
    handle_ = std::make_unique<detail::TiffHandle>();
    handle_->name = base_name(path);
    handle_->out = std::make_unique<AtomicFile>(path);
    const std::uint64_t pixels =
        static_cast<std::uint64_t>(o_.width) * static_cast<std::uint64_t>(o_.height);
    const std::uint64_t bytes =
        pixels * static_cast<std::uint64_t>(o_.bands) * static_cast<unsigned>(size_of(o_.dtype));
    handle_->open(bytes > o_.big_tiff_above ? "w8m" : "wm", 0);
    describe();
    strip_.resize(static_cast<std::size_t>(o_.tile * tiles_across() * o_.tile * o_.bands *
                                           size_of(o_.dtype)));
  }

  /// Appends the next rows, (bands,rows,width) of the file's type.
  void write_rows(const AnyTensor& rows);
  /// Rows still missing.
  Index rows_left() const { return o_.height - y_; }
  /// Closes the file and puts it in its place. Without it nothing is left behind.
  void finish();

 private:
  void check(const std::string& path) const;
  void describe();
  void flush_tiles();
  Index tiles_across() const { return (o_.width + o_.tile - 1) / o_.tile; }
  [[noreturn]] void bad(const std::string& what) {
    handle_->close();
    handle_->out->discard();
    handle_->bad(what);
  }

  GeoTiffOptions o_;
  std::unique_ptr<detail::TiffHandle> handle_;
  Index y_ = 0;                   ///< rows taken
  std::vector<std::byte> strip_;  ///< one row of tiles: tile by tile, pixel-interleaved
};

inline void GeoTiffWriter::check(const std::string& path) const {
  const auto bad = [&](const std::string& what) {
    fail(ErrorKind::value, "geotiff: cannot write " + quoted(base_name(path)) + ": " + what);
  };
  if (o_.width < 1 || o_.height < 1 || o_.width > INT32_MAX || o_.height > INT32_MAX)
    bad("its size is not one; " + std::to_string(o_.width) + " x " + std::to_string(o_.height));
  if (o_.bands < 1 || o_.bands > 65535) bad(std::to_string(o_.bands) + " bands");
  if (o_.tile < 16 || o_.tile % 16 || o_.tile > 8192)
    bad("tiles of " + std::to_string(o_.tile) + " pixels -> a multiple of 16 up to 8192");
  if (static_cast<std::uint64_t>(o_.tile * o_.tile) * static_cast<std::uint64_t>(o_.bands) *
          static_cast<unsigned>(size_of(o_.dtype)) >
      (std::uint64_t{1} << 30))
    bad("tiles of more than 1 GiB; " + std::to_string(o_.bands) + " bands -> smaller tiles");
  switch (o_.dtype) {
    case Dtype::u8:
    case Dtype::u16:
    case Dtype::i16:
    case Dtype::u32:
    case Dtype::i32:
    case Dtype::f32:
    case Dtype::f64:
      break;
    default:
      bad(std::string("type ") + name_of(o_.dtype) + " -> U8, U16, I16, U32, I32, F32 or F64");
  }
  const std::size_t colours = o_.dtype == Dtype::u8 ? 256 : 65536;
  if (!o_.colour_map.empty() &&
      (o_.bands != 1 || (o_.dtype != Dtype::u8 && o_.dtype != Dtype::u16)))
    bad("a colour map needs one band of U8 or U16; " + std::to_string(o_.bands) + " of " +
        name_of(o_.dtype));
  if (o_.colour_map.size() > colours)
    bad(std::to_string(o_.colour_map.size()) + " colours, at most " + std::to_string(colours));
  if (!o_.band_names.empty() && o_.band_names.size() != static_cast<std::size_t>(o_.bands))
    bad(std::to_string(o_.band_names.size()) + " names for " + std::to_string(o_.bands) + " bands");
  if (o_.rgb && (o_.bands < 3 || o_.dtype == Dtype::f32 || o_.dtype == Dtype::f64))
    bad("a picture needs three bands of whole numbers");
}

inline void GeoTiffWriter::describe() {
  detail::TiffHandle& h = *handle_;
  TIFF* t = h.tif;
  bool ok = true;
  const auto set = [&](std::uint32_t tag, auto value) { ok = ok && TIFFSetField(t, tag, value); };
  set(TIFFTAG_IMAGEWIDTH, static_cast<std::uint32_t>(o_.width));
  set(TIFFTAG_IMAGELENGTH, static_cast<std::uint32_t>(o_.height));
  set(TIFFTAG_SAMPLESPERPIXEL, o_.bands);
  set(TIFFTAG_BITSPERSAMPLE, 8 * size_of(o_.dtype));
  const bool real = is_float(o_.dtype),
             is_signed = o_.dtype == Dtype::i16 || o_.dtype == Dtype::i32;
  set(TIFFTAG_SAMPLEFORMAT, real        ? SAMPLEFORMAT_IEEEFP
                            : is_signed ? SAMPLEFORMAT_INT
                                        : SAMPLEFORMAT_UINT);
  set(TIFFTAG_PLANARCONFIG, PLANARCONFIG_CONTIG);
  set(TIFFTAG_PHOTOMETRIC, !o_.colour_map.empty() ? PHOTOMETRIC_PALETTE
                           : o_.rgb               ? PHOTOMETRIC_RGB
                                                  : PHOTOMETRIC_MINISBLACK);
  const int extra = o_.bands - (o_.rgb ? 3 : 1);
  if (extra > 0) {
    const std::vector<std::uint16_t> kinds(static_cast<std::size_t>(extra),
                                           EXTRASAMPLE_UNSPECIFIED);
    ok = ok && TIFFSetField(t, TIFFTAG_EXTRASAMPLES, extra, kinds.data());
  }
  constexpr int codecs[] = {COMPRESSION_NONE, COMPRESSION_LZW, COMPRESSION_ADOBE_DEFLATE,
                            COMPRESSION_ZSTD};
  const int codec = codecs[static_cast<int>(o_.compression)];
  if (!TIFFIsCODECConfigured(static_cast<std::uint16_t>(codec)))
    bad("libtiff here lacks this compression");
  set(TIFFTAG_COMPRESSION, codec);
  if (o_.compression != TiffCompression::none && o_.predictor)
    set(TIFFTAG_PREDICTOR, real ? PREDICTOR_FLOATINGPOINT : PREDICTOR_HORIZONTAL);
  set(TIFFTAG_TILEWIDTH, static_cast<std::uint32_t>(o_.tile));
  set(TIFFTAG_TILELENGTH, static_cast<std::uint32_t>(o_.tile));
  if (!o_.colour_map.empty()) {
    std::vector<std::uint16_t> c[3];
    for (int k = 0; k < 3; ++k) {
      c[k].resize(o_.dtype == Dtype::u8 ? 256 : 65536);
      for (std::size_t i = 0; i < o_.colour_map.size(); ++i)
        c[k][i] = o_.colour_map[i][static_cast<std::size_t>(k)];
    }
    ok = ok && TIFFSetField(t, TIFFTAG_COLORMAP, c[0].data(), c[1].data(), c[2].data());
  }
  // Tags that libtiff does not know are declared on this handle only, in the type they came with.
  const auto raw = [&](std::uint16_t tag, std::uint16_t type, std::uint64_t count,
                       const void* data) {
    static const char name[] = "GeoTag";
    const TIFFFieldInfo field = {tag,
                                 TIFF_VARIABLE2,
                                 TIFF_VARIABLE2,
                                 static_cast<TIFFDataType>(type),
                                 FIELD_CUSTOM,
                                 1,
                                 1,
                                 const_cast<char*>(name)};
    if (count == 0) return;
    if (!TIFFFindField(t, tag, TIFF_ANY)) ok = ok && TIFFMergeFieldInfo(t, &field, 1) == 0;
    ok = ok && TIFFSetField(t, tag, static_cast<std::uint32_t>(count), data);
  };
  for (const RawTag& tag : o_.geo) {
    if (tag.type < 1 || tag.type > 12 || tag.count > UINT32_MAX ||
        tag.bytes.size() != tag.count * static_cast<std::uint64_t>(
                                            TIFFDataWidth(static_cast<TIFFDataType>(tag.type))))
      bad("geo tag " + std::to_string(tag.tag) + " has a length that does not fit its type");
    raw(tag.tag, tag.type, tag.count, tag.bytes.data());
  }
  std::vector<MetadataItem> items = o_.metadata;
  for (std::size_t b = 0; b < o_.band_names.size(); ++b)
    items.push_back({"DESCRIPTION", o_.band_names[b], static_cast<int>(b), "description"});
  for (std::size_t c = 0; c < o_.class_names.size(); ++c)
    items.push_back({"CLASS_" + std::to_string(c), o_.class_names[c]});
  const std::string xml = gdal_metadata_text(items);
  if (!xml.empty()) raw(42112, TIFF_ASCII, xml.size() + 1, xml.c_str());
  if (o_.nodata) raw(42113, TIFF_ASCII, o_.nodata->text.size() + 1, o_.nodata->text.c_str());
  if (!ok || h.thrown) bad("libtiff refuses its description");
}

inline void GeoTiffWriter::write_rows(const AnyTensor& rows) {
  if (!handle_ || !handle_->tif) fail(ErrorKind::file, "geotiff: rows written after the end");
  const Index n = rows.shape.rank == 3 ? rows.shape[1] : 0;
  if (rows.dtype != o_.dtype || rows.shape.rank != 3 || rows.shape[0] != o_.bands ||
      rows.shape[2] != o_.width || n > rows_left())
    fail(ErrorKind::shape, "geotiff: rows do not fit " + quoted(handle_->name) + "; " +
                               str(rows.shape) + " of " + name_of(rows.dtype) + ", expected (" +
                               std::to_string(o_.bands) + ",at most " +
                               std::to_string(rows_left()) + "," + std::to_string(o_.width) +
                               ") of " + name_of(o_.dtype));
  const auto s = static_cast<std::size_t>(size_of(o_.dtype));
  const auto bands = static_cast<std::size_t>(o_.bands);
  for (Index y = 0; y < n; ++y) {
    const Index in_tile = y_ % o_.tile;
    for (std::size_t b = 0; b < bands; ++b) {
      const std::byte* from =
          rows.data + (b * static_cast<std::size_t>(n) + static_cast<std::size_t>(y)) *
                          static_cast<std::size_t>(o_.width) * s;
      for (Index x0 = 0; x0 < o_.width; x0 += o_.tile) {
        const Index count = std::min(o_.tile, o_.width - x0);
        std::byte* to =
            strip_.data() +
            (static_cast<std::size_t>((x0 / o_.tile * o_.tile + in_tile) * o_.tile) * bands + b) *
                s;
        if (bands == 1) {
          std::memcpy(to, from + static_cast<std::size_t>(x0) * s,
                      static_cast<std::size_t>(count) * s);
          continue;
        }
        for (Index x = 0; x < count; ++x)
          std::memcpy(to + static_cast<std::size_t>(x) * bands * s,
                      from + static_cast<std::size_t>(x0 + x) * s, s);
      }
    }
    ++y_;
    if (y_ % o_.tile == 0 || y_ == o_.height) flush_tiles();
  }
}

inline void GeoTiffWriter::flush_tiles() {
  detail::TiffHandle& h = *handle_;
  h.forget();
  const std::size_t bytes = strip_.size() / static_cast<std::size_t>(tiles_across());
  const Index row = (y_ - 1) / o_.tile;
  for (Index i = 0; i < tiles_across(); ++i) {
    std::byte* tile = strip_.data() + static_cast<std::size_t>(i) * bytes;
    const auto n = static_cast<tmsize_t>(bytes);
    if (TIFFWriteEncodedTile(h.tif, static_cast<std::uint32_t>(row * tiles_across() + i), tile,
                             n) != n ||
        h.thrown)
      bad("a tile cannot be written");
  }
  std::memset(strip_.data(), 0, strip_.size());  // what lies beyond the edge is zero
}

inline void GeoTiffWriter::finish() {
  if (!handle_ || !handle_->tif) fail(ErrorKind::file, "geotiff: finished twice");
  if (rows_left() > 0)
    fail(ErrorKind::shape, "geotiff: " + quoted(handle_->name) + " lacks rows; " +
                               std::to_string(rows_left()) + " of " + std::to_string(o_.height));
  handle_->forget();
  const bool ok = TIFFFlush(handle_->tif) != 0;
  handle_->close();
  if (!ok || handle_->thrown || !handle_->error.empty()) bad("the end cannot be written");
  handle_->out->commit();
}

}  // namespace moraine
