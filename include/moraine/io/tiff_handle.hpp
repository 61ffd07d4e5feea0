#pragma once
// libtiff, tamed: one handle with our own bytes under it, an allocation limit, and errors that come
// back as text of this handle instead of prints. One handle per thread.
#include <tiffio.h>

#include <algorithm>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/io/file.hpp>
#include <moraine/io/raster.hpp>
#include <moraine/io/recognise.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {
namespace detail {

class TiffHandle {
 public:
  std::string name;  ///< for messages
  TIFF* tif = nullptr;
  std::string error;          ///< libtiff's first complaint since forget()
  std::exception_ptr thrown;  ///< what our own bytes threw: must not cross C frames

  /// Where the bytes are: a file, memory, or a file to be.
  Fd fd;
  const std::byte* memory = nullptr;
  std::shared_ptr<const void> owner;
  std::unique_ptr<AtomicFile> out;
  std::uint64_t bytes = 0, at = 0;

  TiffHandle() = default;
  TiffHandle(const TiffHandle&) = delete;
  TiffHandle& operator=(const TiffHandle&) = delete;
  ~TiffHandle() { close(); }
  void close() {
    if (tif) TIFFClose(std::exchange(tif, nullptr));
  }

  void open(const char* mode, std::size_t max_alloc) {
    TIFFOpenOptions* options = TIFFOpenOptionsAlloc();
    if (!options) fail(ErrorKind::memory, "geotiff: no memory to open " + quoted(name));
    TIFFOpenOptionsSetMaxSingleMemAlloc(options, static_cast<tmsize_t>(max_alloc));
    TIFFOpenOptionsSetErrorHandlerExtR(options, &TiffHandle::on_error, this);
    TIFFOpenOptionsSetWarningHandlerExtR(options, &TiffHandle::on_warning, this);
    tif = TIFFClientOpenExt("", mode, this, &TiffHandle::on_read, &TiffHandle::on_write,
                            &TiffHandle::on_seek, &TiffHandle::on_close, &TiffHandle::on_size,
                            nullptr, nullptr, options);
    TIFFOpenOptionsFree(options);
    if (!tif) cannot_open();
  }
  /// Says what the file is instead of a TIFF file, where its first bytes tell.
  [[noreturn]] void cannot_open() {
    if (out) bad("cannot be made");
    char head[256];
    at = 0;
    const tmsize_t n = on_read(this, head, sizeof head);
    if (thrown) std::rethrow_exception(thrown);
    const FileKind kind =
        n > 0 ? recognise({head, static_cast<std::size_t>(n)}, bytes) : FileKind::empty;
    switch (kind) {
      case FileKind::tiff:
      case FileKind::big_tiff:
        bad("cannot be opened", " -> is the file cut off?");
      case FileKind::png:
      case FileKind::jpeg:
        refuse(std::string("cannot be opened; it is a ") + name_of(kind) +
               " file -> convert it with gdal_translate");
      case FileKind::unknown:
        bad("cannot be opened", " -> is it a TIFF file?");
      default:
        refuse(std::string("cannot be opened; it is no TIFF file but ") + name_of(kind));
    }
  }
  void forget() { error.clear(); }
  /// Throws with libtiff's words.
  [[noreturn]] void bad(const std::string& what, const std::string& hint = {}) const {
    if (thrown) std::rethrow_exception(thrown);
    fail(ErrorKind::format,
         "geotiff: " + quoted(name) + ": " + what + (error.empty() ? "" : "; " + error) + hint);
  }
  /// Throws without them.
  [[noreturn]] void refuse(const std::string& what) const {
    fail(ErrorKind::format, "geotiff: " + quoted(name) + ": " + what);
  }

  /// A tag's single value, or `otherwise`.
  template <class T>
  T get(std::uint32_t tag, T otherwise) const {
    T v = otherwise;
    return TIFFGetField(tif, tag, &v) ? v : otherwise;
  }
  template <class T>
  T get_default(std::uint32_t tag, T otherwise) const {
    T v = otherwise;
    return TIFFGetFieldDefaulted(tif, tag, &v) ? v : otherwise;
  }

  /// A tag that libtiff keeps as a list, with its type; empty count when it is not there. At most
  /// 16 MiB.
  RawTag raw(std::uint16_t tag) const {
    RawTag r;
    const TIFFField* f = TIFFFindField(tif, tag, TIFF_ANY);
    if (!f || !TIFFFieldPassCount(f)) {
      // Known to libtiff as text without a count (some programs register it so).
      const char* text = nullptr;
      if (f && TIFFFieldDataType(f) == TIFF_ASCII && TIFFGetField(tif, tag, &text) && text)
        return {tag, TIFF_ASCII, std::strlen(text) + 1, to_bytes(text, std::strlen(text) + 1)};
      return r;
    }
    const void* data = nullptr;
    std::uint64_t count = 0;
    if (TIFFFieldReadCount(f) == TIFF_VARIABLE2) {
      std::uint32_t n = 0;
      if (!TIFFGetField(tif, tag, &n, &data)) return r;
      count = n;
    } else {
      std::uint16_t n = 0;
      if (!TIFFGetField(tif, tag, &n, &data)) return r;
      count = n;
    }
    const TIFFDataType type = TIFFFieldDataType(f);
    // libtiff holds fractions as floats, half as wide as their type says.
    if (type == TIFF_RATIONAL || type == TIFF_SRATIONAL)
      refuse("tag " + std::to_string(tag) + " holds fractions, which it never does");
    const std::uint64_t size = count * static_cast<std::uint64_t>(TIFFDataWidth(type));
    if (!data || count == 0) return r;
    if (size > (1u << 24))
      refuse("tag " + std::to_string(tag) + " is too long; " + std::to_string(size) + " bytes");
    r.tag = tag;
    r.type = static_cast<std::uint16_t>(type);
    r.count = count;
    r.bytes = to_bytes(data, static_cast<std::size_t>(size));
    return r;
  }

 private:
  static std::vector<std::byte> to_bytes(const void* p, std::size_t n) {
    const auto* b = static_cast<const std::byte*>(p);
    return {b, b + n};
  }
  static TiffHandle& self(thandle_t h) { return *static_cast<TiffHandle*>(h); }
  static int on_error(TIFF*, void* user, const char*, const char* format, std::va_list args) {
    auto& h = *static_cast<TiffHandle*>(user);
    char text[300];
    std::vsnprintf(text, sizeof text, format, args);
    if (h.error.empty()) {
      // libtiff begins with the name that it was given, and that is empty.
      h.error = text + std::strspn(text, ": ");
      for (char& c : h.error)
        if (static_cast<unsigned char>(c) < 0x20) c = ' ';
      while (!h.error.empty() && (h.error.back() == '.' || h.error.back() == ' '))
        h.error.pop_back();
    }
    return 1;
  }
  static int on_warning(TIFF*, void*, const char*, const char*, std::va_list) { return 1; }

  static tmsize_t on_read(thandle_t handle, void* to, tmsize_t n) {
    TiffHandle& h = self(handle);
    if (n <= 0) return 0;
    try {
      auto want = static_cast<std::size_t>(n);
      if (h.out) {
        want = h.out->read_back(h.at, to, want);
      } else {
        if (h.at >= h.bytes) return 0;
        want = static_cast<std::size_t>(std::min<std::uint64_t>(want, h.bytes - h.at));
        if (h.memory)
          std::memcpy(to, h.memory + h.at, want);
        else if (!read_at(h.fd.fd, to, want, h.at, h.name))
          return 0;
      }
      h.at += want;
      return static_cast<tmsize_t>(want);
    } catch (...) {
      if (!h.thrown) h.thrown = std::current_exception();
      return -1;
    }
  }
  static tmsize_t on_write(thandle_t handle, void* from, tmsize_t n) {
    TiffHandle& h = self(handle);
    if (!h.out || n < 0 || h.thrown) return -1;
    try {
      h.out->write_at(h.at, from, static_cast<std::size_t>(n));
      h.at += static_cast<std::uint64_t>(n);
      return n;
    } catch (...) {
      h.thrown = std::current_exception();
      return -1;
    }
  }
  static toff_t on_seek(thandle_t handle, toff_t offset, int whence) {
    TiffHandle& h = self(handle);
    if (whence == SEEK_CUR) offset += h.at;
    if (whence == SEEK_END) offset += on_size(handle);
    return h.at = offset;
  }
  static toff_t on_size(thandle_t handle) {
    const TiffHandle& h = self(handle);
    return h.out ? h.out->size() : h.bytes;
  }
  static int on_close(thandle_t) { return 0; }
};

}  // namespace detail
}  // namespace moraine
