#pragma once
// Reads windows of the first page of a TIFF file, samples as stored: no colour conversion, no
// scaling, no palette look-up. For scenes larger than memory and files from strangers.
//
//   GeoTiffReader scene("scene.tif");
//   Tensor<float> x = scene.read_float({.x = 0, .y = 512, .width = 1024, .height = 256});  //
//   (bands,256,1024)
//
// Memory: the window, the block cache (ReadLimits::cache_bytes), and one block; libtiff may
// allocate no single piece larger than a block. One reader per thread.
#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <list>
#include <memory>
#include <moraine/core/any_tensor.hpp>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/core/tensor.hpp>
#include <moraine/io/file.hpp>
#include <moraine/io/raster.hpp>
#include <moraine/io/tiff_handle.hpp>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

struct ReadLimits {
  std::size_t max_block_bytes = std::size_t{256} << 20;  ///< of one decoded tile or strip
  /// Decoded blocks kept. Bands of rows are decoded once only when a row of blocks fits
  /// (RasterInfo::block_row_bytes).
  std::size_t cache_bytes = std::size_t{128} << 20;
};

class GeoTiffReader {
 public:
  /// Throws ErrorKind::file or ErrorKind::format; reads no pixels.
  explicit GeoTiffReader(const std::string& path, ReadLimits limits = {}) : limits_(limits) {
    handle_ = std::make_unique<detail::TiffHandle>();
    handle_->name = base_name(path);
    std::size_t size = 0;
    handle_->fd = detail::open_to_read(path, size);
    handle_->bytes = size;
    open();
  }
  /// The same from memory that `owner` keeps alive (null: the caller does).
  GeoTiffReader(const std::byte* data, std::size_t size, std::shared_ptr<const void> owner,
                const std::string& name, ReadLimits limits = {})
      : limits_(limits) {
    handle_ = std::make_unique<detail::TiffHandle>();
    handle_->name = name;
    handle_->memory = data;
    handle_->bytes = data ? size : 0;
    handle_->owner = std::move(owner);
    open();
  }

  const RasterInfo& info() const { return info_; }

  /// Pixels of a window in the file's own type, (bands,height,width). `bands` picks and orders
  /// them, from 0; empty: all. Throws ErrorKind::value when the window does not lie within the
  /// raster.
  AnyTensor read(const Window& w, const std::vector<int>& bands = {}) {
    const std::vector<int> which = check(w, bands);
    return visit(info_.dtype, [&](auto zero) {
      using S = decltype(zero);
      Tensor<S> out = Tensor<S>::empty({static_cast<Index>(which.size()), w.height, w.width});
      fill<S, S>(out.data(), w, which);
      AnyTensor any = out;
      any.dtype = info_.dtype;
      return any;
    });
  }
  /// The same as float.
  Tensor<float> read_float(const Window& w, const std::vector<int>& bands = {}) {
    const std::vector<int> which = check(w, bands);
    Tensor<float> out = Tensor<float>::empty({static_cast<Index>(which.size()), w.height, w.width});
    visit(info_.dtype, [&](auto zero) { fill<decltype(zero), float>(out.data(), w, which); });
    return out;
  }
  /// The whole raster, (bands,height,width).
  AnyTensor read_all() { return read({0, 0, info_.width, info_.height}); }

  /// How many blocks were decoded so far.
  std::uint64_t blocks_decoded() const { return decoded_; }

 private:
  using Block = std::vector<std::byte>;

  void open();
  void read_names();
  std::vector<int> check(const Window& w, const std::vector<int>& bands) const {
    const auto inside = [](Index at, Index n, Index size) {
      return at >= 0 && n > 0 && n <= size && at <= size - n;
    };
    if (!inside(w.x, w.width, info_.width) || !inside(w.y, w.height, info_.height))
      fail(ErrorKind::value,
           "geotiff: " + quoted(handle_->name) + ": the window is not inside the raster; x " +
               std::to_string(w.x) + ", y " + std::to_string(w.y) + ", " + std::to_string(w.width) +
               " x " + std::to_string(w.height) + " of " + std::to_string(info_.width) + " x " +
               std::to_string(info_.height));
    std::vector<int> which = bands;
    if (which.empty())
      for (int b = 0; b < info_.bands; ++b) which.push_back(b);
    for (int b : which)
      if (b < 0 || b >= info_.bands)
        fail(ErrorKind::value, "geotiff: " + quoted(handle_->name) + ": no band " +
                                   std::to_string(b) + "; it has " + std::to_string(info_.bands) +
                                   " -> bands count from 0");
    return which;
  }

  const Block& block(std::uint32_t index, Index rows);
  void decode(std::uint32_t index, Block& to);

  /// One sample of a row of a decoded block; whole bytes are in this machine's order, other widths
  /// are packed from the most significant bit on.
  template <class S>
  S sample(const std::byte* row, std::size_t i) const {
    if (info_.bits == 8 * static_cast<int>(sizeof(S))) {
      S v;
      std::memcpy(&v, row + i * sizeof(S), sizeof(S));
      return v;
    }
    if constexpr (std::is_integral_v<S>) {
      const auto* p = reinterpret_cast<const unsigned char*>(row);
      const auto bits = static_cast<unsigned>(info_.bits);
      std::uint64_t v = 0;
      if (bits == 24 && swapped_) {  // libtiff has turned these round, and only these
        p += i * 3;
        v = p[0] | static_cast<unsigned>(p[1]) << 8 | static_cast<std::uint64_t>(p[2]) << 16;
      } else {
        const std::size_t from = i * bits, to = from + bits;
        for (std::size_t byte = from / 8; byte <= (to - 1) / 8; ++byte) v = v << 8 | p[byte];
        v >>= (8 - to % 8) % 8;
        v &= (std::uint64_t{1} << bits) - 1;
      }
      if (std::is_signed_v<S> && (v >> (bits - 1) & 1)) v |= ~std::uint64_t{0} << bits;
      return static_cast<S>(v);
    }
    return S{};
  }

  template <class S, class T>
  void fill(T* out, const Window& w, const std::vector<int>& which) {
    const RasterInfo& f = info_;
    const Index across = (f.width + f.block_width - 1) / f.block_width;
    const Index down = (f.height + f.block_height - 1) / f.block_height;
    const bool whole = f.bits == 8 * static_cast<int>(sizeof(S));
    for (Index by = w.y / f.block_height; by * f.block_height < w.y + w.height; ++by)
      for (Index bx = w.x / f.block_width; bx * f.block_width < w.x + w.width; ++bx) {
        const Index x0 = std::max(w.x, bx * f.block_width);
        const Index x1 = std::min(w.x + w.width, (bx + 1) * f.block_width);
        const Index y0 = std::max(w.y, by * f.block_height);
        const Index y1 = std::min(w.y + w.height, (by + 1) * f.block_height);
        const Index rows =
            f.tiled ? f.block_height : std::min(f.block_height, f.height - by * f.block_height);
        const Block* b = nullptr;
        for (std::size_t k = 0; k < which.size(); ++k) {
          const int band = which[k];
          if (f.planar || !b) {
            const Index plane = f.planar ? band : 0;
            b = &block(static_cast<std::uint32_t>((plane * down + by) * across + bx), rows);
          }
          const auto step = static_cast<std::size_t>(f.planar ? 1 : f.bands);
          for (Index y = y0; y < y1; ++y) {
            const std::byte* row =
                b->data() + static_cast<std::size_t>(y - by * f.block_height) * row_bytes_;
            T* to = out + ((static_cast<Index>(k) * w.height + y - w.y) * w.width + x0 - w.x);
            std::size_t i = static_cast<std::size_t>(x0 - bx * f.block_width) * step +
                            static_cast<std::size_t>(f.planar ? 0 : band);
            if (whole && step == 1 && std::is_same_v<S, T>) {
              std::memcpy(static_cast<void*>(to), row + i * sizeof(S),
                          static_cast<std::size_t>(x1 - x0) * sizeof(S));
            } else if (whole) {
              for (Index x = x0; x < x1; ++x, i += step) {
                S v;
                std::memcpy(&v, row + i * sizeof(S), sizeof(S));
                *to++ = static_cast<T>(v);
              }
            } else {
              for (Index x = x0; x < x1; ++x, i += step) *to++ = static_cast<T>(sample<S>(row, i));
            }
          }
        }
      }
  }

  ReadLimits limits_;
  std::unique_ptr<detail::TiffHandle> handle_;
  RasterInfo info_;
  std::size_t row_bytes_ = 0;  ///< of one row of a decoded block
  std::uint16_t codec_ = 1;
  bool swapped_ = false;
  std::uint64_t decoded_ = 0;

  // Least recently used last.
  std::list<std::pair<std::uint32_t, Block>> recent_;
  std::unordered_map<std::uint32_t, std::list<std::pair<std::uint32_t, Block>>::iterator> by_index_;
  std::size_t cached_ = 0;
};

namespace detail {

struct TiffCodec {
  std::uint16_t number;
  const char* name;
  std::uint64_t most;  ///< the largest possible ratio of expansion; 0: without bound
};
/// The compressions that are read; all others are refused by name.
inline constexpr TiffCodec tiff_codecs[] = {
    {COMPRESSION_NONE, "none", 1},
    {COMPRESSION_CCITTRLE, "ccitt-rle", 0},
    {COMPRESSION_CCITTFAX3, "ccitt-t4", 0},
    {COMPRESSION_CCITTFAX4, "ccitt-t6", 0},
    {COMPRESSION_LZW, "lzw", 4096},  // 12 bits can stand for at most 4096 bytes
    {COMPRESSION_JPEG, "jpeg", 0},
    {COMPRESSION_ADOBE_DEFLATE, "deflate", 1040},  // zlib's technical notes: 1032
    {COMPRESSION_DEFLATE, "deflate", 1040},
    {COMPRESSION_PACKBITS, "packbits", 64},
    {COMPRESSION_ZSTD, "zstd", 1 << 16},  // a block of 128 KiB takes at least 3 bytes
    {COMPRESSION_WEBP, "webp", 0},
};

inline const char* tiff_codec_name(unsigned number) {
  for (const TiffCodec& c : tiff_codecs)
    if (c.number == number) return c.name;
  switch (number) {
    case COMPRESSION_OJPEG:
      return "old-style jpeg";
    case COMPRESSION_LZMA:
      return "lzma";
    case COMPRESSION_LERC:
      return "lerc";
    case COMPRESSION_JXL:
      return "jpeg xl";
    case COMPRESSION_JP2000:
      return "jpeg 2000";
    case COMPRESSION_JBIG:
      return "jbig";
    case COMPRESSION_NEXT:
      return "next";
    case COMPRESSION_CCITTRLEW:
      return "ccitt-rlew";
    case COMPRESSION_THUNDERSCAN:
      return "thunderscan";
    case COMPRESSION_PIXARFILM:
    case COMPRESSION_PIXARLOG:
      return "pixar";
    case COMPRESSION_SGILOG:
    case COMPRESSION_SGILOG24:
      return "sgilog";
    default:
      return "an unknown compression";
  }
}
inline const char* tiff_photometric_name(unsigned number) {
  switch (number) {
    case PHOTOMETRIC_MINISWHITE:
      return "min-is-white";
    case PHOTOMETRIC_MINISBLACK:
      return "min-is-black";
    case PHOTOMETRIC_RGB:
      return "rgb";
    case PHOTOMETRIC_PALETTE:
      return "palette";
    case PHOTOMETRIC_MASK:
      return "mask";
    case PHOTOMETRIC_SEPARATED:
      return "separated";
    case PHOTOMETRIC_YCBCR:
      return "ycbcr";
    case PHOTOMETRIC_CIELAB:
    case PHOTOMETRIC_ICCLAB:
    case PHOTOMETRIC_ITULAB:
      return "lab";
    case PHOTOMETRIC_LOGL:
    case PHOTOMETRIC_LOGLUV:
      return "log-luv";
    case PHOTOMETRIC_CFA:
      return "colour-filter-array";
    default:
      return "unknown";
  }
}

/// The smallest type that holds a sample; Dtype::other when there is none.
inline Dtype tiff_dtype(unsigned format, unsigned bits) {
  if (format == SAMPLEFORMAT_IEEEFP)
    return bits == 16   ? Dtype::f16
           : bits == 32 ? Dtype::f32
           : bits == 64 ? Dtype::f64
                        : Dtype::other;
  if (bits < 1 || (bits > 32 && bits != 64)) return Dtype::other;
  if (format == SAMPLEFORMAT_INT)
    return bits <= 8 ? Dtype::i8 : bits <= 16 ? Dtype::i16 : bits <= 32 ? Dtype::i32 : Dtype::i64;
  if (format == SAMPLEFORMAT_UINT || format == SAMPLEFORMAT_VOID)
    return bits <= 8 ? Dtype::u8 : bits <= 16 ? Dtype::u16 : bits <= 32 ? Dtype::u32 : Dtype::u64;
  return Dtype::other;
}

}  // namespace detail

inline void GeoTiffReader::open() {
  detail::TiffHandle& h = *handle_;
  // The largest single piece that libtiff needs is a block, or the raw bytes of one.
  h.open("rm", std::max<std::size_t>(limits_.max_block_bytes, std::size_t{1} << 20) + (1u << 16));
  RasterInfo& f = info_;
  const auto width = h.get<std::uint32_t>(TIFFTAG_IMAGEWIDTH, 0);
  const auto height = h.get<std::uint32_t>(TIFFTAG_IMAGELENGTH, 0);
  if (width == 0 || height == 0 || width > INT32_MAX || height > INT32_MAX)
    h.refuse("its size is not one; " + std::to_string(width) + " x " + std::to_string(height));
  f.width = width;
  f.height = height;
  f.bands = h.get_default<std::uint16_t>(TIFFTAG_SAMPLESPERPIXEL, 1);
  f.bits = h.get_default<std::uint16_t>(TIFFTAG_BITSPERSAMPLE, 1);
  if (f.bands == 0) h.refuse("it has no bands");
  codec_ = h.get_default<std::uint16_t>(TIFFTAG_COMPRESSION, COMPRESSION_NONE);
  const auto photometric = h.get<std::uint16_t>(TIFFTAG_PHOTOMETRIC, PHOTOMETRIC_MINISBLACK);
  f.compression = detail::tiff_codec_name(codec_);
  f.photometric = detail::tiff_photometric_name(photometric);
  bool known = false;
  for (const auto& c : detail::tiff_codecs) known = known || c.number == codec_;
  if (!known || !TIFFIsCODECConfigured(codec_))
    h.refuse("its compression is not read; " + f.compression + " (" + std::to_string(codec_) +
             ") -> gdal_translate -co COMPRESS=DEFLATE");
  const auto format = h.get_default<std::uint16_t>(TIFFTAG_SAMPLEFORMAT, SAMPLEFORMAT_UINT);
  f.dtype = detail::tiff_dtype(format, static_cast<unsigned>(f.bits));
  if (f.dtype == Dtype::other)
    h.refuse("its samples are of a type that is not read; format " + std::to_string(format) + ", " +
             std::to_string(f.bits) + " bits -> gdal_translate -ot Float32");
  if (photometric == PHOTOMETRIC_SEPARATED && f.bits < 8)
    h.refuse("separated inks with " + std::to_string(f.bits) + " bits are not read");
  if (photometric == PHOTOMETRIC_LOGL || photometric == PHOTOMETRIC_LOGLUV)
    h.refuse("log-luv colours are not read");
  if (h.get_default<std::uint32_t>(TIFFTAG_IMAGEDEPTH, 1) > 1 ||
      h.get_default<std::uint32_t>(TIFFTAG_TILEDEPTH, 1) > 1)
    h.refuse("it is a volume; only one layer is read");
  // Let libjpeg undo its own subsampling; without JPEG the sizes below do not agree and refuse it.
  if (codec_ == COMPRESSION_JPEG && photometric == PHOTOMETRIC_YCBCR)
    TIFFSetField(h.tif, TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
  f.planar = f.bands > 1 && h.get_default<std::uint16_t>(
                                TIFFTAG_PLANARCONFIG, PLANARCONFIG_CONTIG) == PLANARCONFIG_SEPARATE;
  f.predictor = codec_ == COMPRESSION_LZW || codec_ == COMPRESSION_DEFLATE ||
                        codec_ == COMPRESSION_ADOBE_DEFLATE || codec_ == COMPRESSION_ZSTD
                    ? h.get_default<std::uint16_t>(TIFFTAG_PREDICTOR, 1)
                    : 1;
  unsigned char head[4] = {};
  TIFFSeekProc seek = TIFFGetSeekProc(h.tif);
  seek(&h, 0, SEEK_SET);
  TIFFGetReadProc(h.tif)(&h, head, 4);
  f.big_tiff = head[2] == 43 || head[3] == 43;

  swapped_ = TIFFIsByteSwapped(h.tif) != 0;
  f.tiled = TIFFIsTiled(h.tif) != 0;
  std::uint32_t bw = width, bh = height;
  if (f.tiled) {
    bw = h.get<std::uint32_t>(TIFFTAG_TILEWIDTH, 0);
    bh = h.get<std::uint32_t>(TIFFTAG_TILELENGTH, 0);
  } else {
    bh = std::min(h.get_default<std::uint32_t>(TIFFTAG_ROWSPERSTRIP, height), height);
  }
  if (bw == 0 || bh == 0 || bw > INT32_MAX || bh > INT32_MAX)
    h.refuse("its block size is not one; " + std::to_string(bw) + " x " + std::to_string(bh));
  f.block_width = bw;
  f.block_height = bh;

  // Our own sums, in 64 bits: (2^31 pixels) x (2^16 bands) x (2^6 bits) fits.
  const std::uint64_t row_bits = std::uint64_t{bw} * static_cast<unsigned>(f.planar ? 1 : f.bands) *
                                 static_cast<unsigned>(f.bits);
  const std::uint64_t row = (row_bits + 7) / 8;
  if (row > limits_.max_block_bytes || row * bh > limits_.max_block_bytes)
    fail(ErrorKind::memory,
         "geotiff: " + quoted(h.name) + ": its blocks are too large; " + std::to_string(bw) +
             " x " + std::to_string(bh) + " pixels of " + std::to_string(f.planar ? 1 : f.bands) +
             " bands with " + std::to_string(f.bits) + " bits, at most " +
             std::to_string(limits_.max_block_bytes) + " bytes -> gdal_translate -co TILED=YES");
  row_bytes_ = static_cast<std::size_t>(row);
  h.forget();
  const tmsize_t theirs = f.tiled ? TIFFTileRowSize(h.tif) : TIFFScanlineSize(h.tif);
  if (theirs < 0 || static_cast<std::uint64_t>(theirs) != row)
    h.bad("its rows have an unexpected length; " + std::to_string(theirs) + " bytes, expected " +
          std::to_string(row) + (photometric == PHOTOMETRIC_YCBCR ? " (subsampled colours)" : ""));
  const std::uint64_t across = (std::uint64_t{width} + bw - 1) / bw;
  const std::uint64_t down = (std::uint64_t{height} + bh - 1) / bh;
  const std::uint64_t blocks = across * down * static_cast<unsigned>(f.planar ? f.bands : 1);
  const std::uint64_t have = f.tiled ? TIFFNumberOfTiles(h.tif) : TIFFNumberOfStrips(h.tif);
  if (blocks != have || blocks > UINT32_MAX)
    h.refuse("its number of blocks does not fit its size; " + std::to_string(have) + ", expected " +
             std::to_string(blocks));
  read_names();
}

inline void GeoTiffReader::read_names() {
  detail::TiffHandle& h = *handle_;
  RasterInfo& f = info_;
  for (std::uint16_t tag : geo_tag_numbers) {
    RawTag raw = h.raw(tag);
    if (raw.count) f.geo.push_back(std::move(raw));
  }
  f.geotransform = geotransform_of(f.geo);
  f.epsg = epsg_of(f.geo);
  const auto text = [&](std::uint16_t tag) {
    const RawTag raw = h.raw(tag);
    if (raw.type != TIFF_ASCII) return std::string();
    std::string s(reinterpret_cast<const char*>(raw.bytes.data()), raw.bytes.size());
    return s.substr(0, s.find('\0'));
  };
  if (const std::string s = text(42113); !s.empty()) f.nodata = parse_nodata(s);
  f.metadata = parse_gdal_metadata(text(42112));
  for (const MetadataItem& item : f.metadata) {
    if (item.role == "description" && item.sample >= 0 && item.sample < f.bands) {
      f.band_names.resize(static_cast<std::size_t>(f.bands));
      f.band_names[static_cast<std::size_t>(item.sample)] = item.text;
    } else if (item.name.starts_with("CLASS_")) {
      unsigned n = 0;
      const char* e = item.name.data() + item.name.size();
      const auto r = std::from_chars(item.name.data() + 6, e, n);
      if (r.ec != std::errc{} || r.ptr != e || n > 65535) continue;
      if (n >= f.class_names.size()) f.class_names.resize(n + 1);
      f.class_names[n] = item.text;
    }
  }
  std::uint16_t *red = nullptr, *green = nullptr, *blue = nullptr;
  if (f.bits <= 16 && TIFFGetField(h.tif, TIFFTAG_COLORMAP, &red, &green, &blue) && red && green &&
      blue)
    for (std::size_t i = 0; i < std::size_t{1} << f.bits; ++i)
      f.colour_map.push_back({red[i], green[i], blue[i]});
}

inline const GeoTiffReader::Block& GeoTiffReader::block(std::uint32_t index, Index rows) {
  if (const auto at = by_index_.find(index); at != by_index_.end()) {
    recent_.splice(recent_.begin(), recent_, at->second);
    return recent_.front().second;
  }
  const std::size_t bytes = row_bytes_ * static_cast<std::size_t>(rows);
  while (!recent_.empty() && cached_ + bytes > limits_.cache_bytes) {
    cached_ -= recent_.back().second.size();
    by_index_.erase(recent_.back().first);
    recent_.pop_back();
  }
  Block fresh;
  detail::TiffHandle& h = *handle_;
  const std::uint64_t offset = TIFFGetStrileOffset(h.tif, index);
  const std::uint64_t stored = TIFFGetStrileByteCount(h.tif, index);
  const bool sparse = offset == 0 && stored == 0;
  if (!sparse) {
    const auto bad = [&](const std::string& what, const char* hint = "") {
      h.refuse("block " + std::to_string(index) + " " + what + "; " + std::to_string(stored) +
               " bytes at " + std::to_string(offset) + " of " + std::to_string(h.bytes) + hint);
    };
    if (offset >= h.bytes || stored > h.bytes - offset)
      bad("lies outside the file", " -> is the file cut off?");
    for (const auto& c : detail::tiff_codecs)
      if (c.number == codec_ && c.most && bytes / c.most > stored)
        bad("is too short for " + std::to_string(bytes) + " bytes of pixels");
  }
  fresh.resize(bytes);
  if (sparse) {  // never written: GDAL reads such blocks as nodata, and so do we
    if (info_.nodata && info_.bits == 8 * size_of(info_.dtype))
      visit(info_.dtype, [&](auto zero) {
        using S = decltype(zero);
        const S v =
            std::is_integral_v<S> &&
                    !(info_.nodata->value >=
                          static_cast<double>(std::numeric_limits<S>::lowest()) &&
                      info_.nodata->value <= static_cast<double>(std::numeric_limits<S>::max()))
                ? S{}
                : static_cast<S>(info_.nodata->value);
        for (std::size_t i = 0; i + sizeof(S) <= bytes; i += sizeof(S))
          std::memcpy(fresh.data() + i, &v, sizeof(S));
      });
  } else {
    decode(index, fresh);
  }
  ++decoded_;
  cached_ += bytes;
  recent_.emplace_front(index, std::move(fresh));
  by_index_[index] = recent_.begin();
  return recent_.front().second;
}

inline void GeoTiffReader::decode(std::uint32_t index, Block& to) {
  detail::TiffHandle& h = *handle_;
  h.forget();
  const auto n = static_cast<tmsize_t>(to.size());
  const tmsize_t got = info_.tiled ? TIFFReadEncodedTile(h.tif, index, to.data(), n)
                                   : TIFFReadEncodedStrip(h.tif, index, to.data(), n);
  if (h.thrown || got != n)
    h.bad("block " + std::to_string(index) + " cannot be decoded; " +
              std::to_string(got < 0 ? 0 : got) + " of " + std::to_string(n) + " bytes",
          " -> is the file complete?");
}

}  // namespace moraine
