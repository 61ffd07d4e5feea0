#pragma once
// ZIP archives as far as PyTorch writes them (.pth, .pt, .ckpt, .npz): a list of named byte ranges
// of a mapped file. Only stored entries have bytes here; a compressed one is listed and refused by
// name when it is asked for, so that no small file unpacks to a large one.
//
// Any byte string gives a value or an error. Memory while reading: the table of entries, at most
// about three times the central directory's length. Sums of the entries are not verified: PyTorch
// may be told not to compute them.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/io/file.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

struct ZipEntry {
  const std::byte* data = nullptr;  ///< of a stored entry
  std::uint64_t bytes = 0;          ///< as it lies in the archive
  int method = 0;                   ///< 0: stored, 8: deflate
};

/// Name -> bytes. The archive's memory must outlive it.
using ZipEntries = std::map<std::string, ZipEntry, std::less<void>>;

namespace detail {

/// Little-endian numbers at checked places.
struct ZipBytes {
  const std::byte* data;
  std::uint64_t size;
  const std::string& what;

  [[noreturn]] void bad(const std::string& why) const {
    fail(ErrorKind::format, what + ": " + why);
  }
  void need(std::uint64_t at, std::uint64_t n) const {
    if (at > size || n > size - at)
      bad("the archive is cut off; " + std::to_string(size) +
          " bytes -> is the download complete?");
  }
  template <class U>
  U get(std::uint64_t at) const {
    need(at, sizeof(U));
    U v;
    std::memcpy(&v, data + at, sizeof v);
    return v;
  }
  std::string_view text(std::uint64_t at, std::uint64_t n) const {
    need(at, n);
    return {reinterpret_cast<const char*>(data) + at, static_cast<std::size_t>(n)};
  }
};

/// Where the central directory is, of an archive with or without the 64-bit records.
struct ZipDirectory {
  std::uint64_t count = 0, bytes = 0, offset = 0;
};
inline ZipDirectory find_zip_directory(const ZipBytes& z) {
  // The end record is the last 22 bytes plus a comment of at most 65535.
  if (z.size < 22) z.bad("too short for a ZIP archive; " + std::to_string(z.size) + " bytes");
  const std::uint64_t last = z.size - 22, first = last > 65535 ? last - 65535 : 0;
  std::uint64_t at = last + 1;
  while (at-- > first)
    if (z.get<std::uint32_t>(at) == 0x06054b50u &&
        at + 22 + z.get<std::uint16_t>(at + 20) == z.size)
      break;
  if (at + 1 == first || at > last)
    z.bad("no end record; " + std::to_string(z.size) + " bytes -> is the download complete?");
  ZipDirectory d{z.get<std::uint16_t>(at + 10), z.get<std::uint32_t>(at + 12),
                 z.get<std::uint32_t>(at + 16)};
  if (z.get<std::uint16_t>(at + 4) != 0 || z.get<std::uint16_t>(at + 6) != 0)
    z.bad("an archive in several parts is not supported; part " +
          std::to_string(z.get<std::uint16_t>(at + 4)));
  if (at >= 20 && z.get<std::uint32_t>(at - 20) == 0x07064b50u) {
    const auto wide = z.get<std::uint64_t>(at - 20 + 8);
    if (z.get<std::uint32_t>(wide) != 0x06064b50u) z.bad("its 64-bit end record is damaged");
    d = {z.get<std::uint64_t>(wide + 32), z.get<std::uint64_t>(wide + 40),
         z.get<std::uint64_t>(wide + 48)};
  }
  z.need(d.offset, d.bytes);
  if (d.count > d.bytes / 46)
    z.bad("the directory is too short for its entries; " + std::to_string(d.count) +
          " entries in " + std::to_string(d.bytes) + " bytes");
  return d;
}

}  // namespace detail

/// Lists an archive in memory. Throws ErrorKind::format for damage, encryption, a name that stands
/// twice and entries that share bytes. `name` stands for the file in messages.
inline ZipEntries parse_zip(const std::byte* data, std::size_t size, const std::string& name) {
  const std::string what = "zip: " + quoted(name);
  const detail::ZipBytes z{data, size, what};
  const detail::ZipDirectory dir = detail::find_zip_directory(z);
  ZipEntries out;
  std::map<std::uint64_t, std::uint64_t> ranges;  // begin -> end, of headers with their data
  std::uint64_t at = dir.offset;
  const std::uint64_t end = dir.offset + dir.bytes;
  for (std::uint64_t i = 0; i < dir.count; ++i) {
    if (at + 46 > end || z.get<std::uint32_t>(at) != 0x02014b50u)
      z.bad("entry " + std::to_string(i) + " of its directory is damaged");
    const auto flags = z.get<std::uint16_t>(at + 8);
    const auto name_bytes = z.get<std::uint16_t>(at + 28), extra = z.get<std::uint16_t>(at + 30),
               comment = z.get<std::uint16_t>(at + 32);
    ZipEntry e;
    e.method = z.get<std::uint16_t>(at + 10);
    std::uint64_t packed = z.get<std::uint32_t>(at + 20), plain = z.get<std::uint32_t>(at + 24),
                  header = z.get<std::uint32_t>(at + 42);
    const std::uint64_t next = at + 46 + name_bytes + extra + comment;
    if (next > end) z.bad("entry " + std::to_string(i) + " of its directory is damaged");
    std::string key(z.text(at + 46, name_bytes));
    const auto bad = [&](const std::string& why) { z.bad("entry " + quoted(key) + ": " + why); };
    // 64-bit sizes stand in an extra field, only those that are all ones here, in this order.
    for (std::uint64_t x = at + 46 + name_bytes, stop = x + extra; x + 4 <= stop;) {
      const auto id = z.get<std::uint16_t>(x), bytes = z.get<std::uint16_t>(x + 2);
      if (x + 4 + bytes > stop) bad("its extra field is damaged");
      if (id == 1) {
        std::uint64_t v = x + 4;
        for (std::uint64_t* field : {&plain, &packed, &header})
          if (*field == 0xffffffffu) {
            if (v + 8 > x + 4 + bytes) bad("its 64-bit sizes are missing");
            *field = z.get<std::uint64_t>(v);
            v += 8;
          }
      }
      x += 4 + std::uint64_t{bytes};
    }
    if (flags & 1u) bad("it is encrypted -> decrypt the archive first");
    if (e.method == 0 && packed != plain)
      bad("its sizes differ; " + std::to_string(packed) + " and " + std::to_string(plain));
    if (header > size || z.get<std::uint32_t>(header) != 0x04034b50u)
      bad("its header is not where the directory says; byte " + std::to_string(header));
    const std::uint64_t body =
        header + 30 + z.get<std::uint16_t>(header + 26) + z.get<std::uint16_t>(header + 28);
    z.need(body, packed);
    if (z.text(header + 30, z.get<std::uint16_t>(header + 26)) != key)
      bad("it has another name in its own header");
    e.data = data + body;
    e.bytes = packed;
    if (!ranges.emplace(header, body + packed).second) bad("it shares its bytes with another");
    if (!out.emplace(std::move(key), e).second)
      z.bad("entry " + std::to_string(i) + " has the name of another; " +
            quoted(z.text(at + 46, name_bytes)));
    at = next;
  }
  std::uint64_t before = 0;
  for (const auto& [begin, stop] : ranges) {
    if (begin < before)
      z.bad("two entries share bytes; byte " + std::to_string(begin) + " of " +
            std::to_string(size));
    before = stop;
  }
  if (before > dir.offset)
    z.bad("an entry lies over the directory; byte " + std::to_string(before));
  return out;
}

/// The bytes of an entry. Throws ErrorKind::format when it is compressed.
inline std::string_view zip_bytes(const ZipEntry& e, std::string_view name,
                                  const std::string& what) {
  if (e.method != 0)
    fail(ErrorKind::format, what + ": entry " + quoted(name) + " is compressed, method " +
                                std::to_string(e.method) +
                                "; only stored ones are read -> PyTorch stores them");
  return {reinterpret_cast<const char*>(e.data), static_cast<std::size_t>(e.bytes)};
}

}  // namespace moraine
