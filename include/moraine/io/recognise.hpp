#pragma once
// Tells what a file is by its first bytes, never by its name.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <moraine/core/config.hpp>
#include <moraine/io/file.hpp>
#include <string>
#include <string_view>

namespace moraine MORAINE_API {

enum class FileKind {
  unknown,
  empty,
  safetensors,
  tiff,
  big_tiff,
  png,
  jpeg,
  json,
  npy,
  npz_or_zip,
  torch_legacy,
  mat5,
  hdf5
};

inline const char* name_of(FileKind k) {
  switch (k) {
    case FileKind::unknown:
      return "unknown";
    case FileKind::empty:
      return "empty";
    case FileKind::safetensors:
      return "safetensors";
    case FileKind::tiff:
      return "TIFF";
    case FileKind::big_tiff:
      return "BigTIFF";
    case FileKind::png:
      return "PNG";
    case FileKind::jpeg:
      return "JPEG";
    case FileKind::json:
      return "JSON";
    case FileKind::npy:
      return "NumPy array";
    case FileKind::npz_or_zip:
      return "ZIP archive (.npz, .pth)";
    case FileKind::torch_legacy:
      return "PyTorch before 1.6";
    case FileKind::mat5:
      return "MATLAB 5";
    case FileKind::hdf5:
      return "HDF5 (MATLAB 7.3)";
  }
  return "unknown";
}

/// `head`: the first bytes, 256 are enough; `size`: of the whole file. A safetensors file is told
/// by a header length that fits the file and the brace after it; JSON by its first character.
inline FileKind recognise(std::string_view head, std::uint64_t size) {
  const auto starts = [&](std::string_view s) { return head.starts_with(s); };
  if (size == 0 || head.empty()) return FileKind::empty;
  if (starts({"II\x2a\0", 4}) || starts({"MM\0\x2a", 4})) return FileKind::tiff;
  if (starts({"II\x2b\0", 4}) || starts({"MM\0\x2b", 4})) return FileKind::big_tiff;
  if (starts("\x89PNG\r\n\x1a\n")) return FileKind::png;
  if (starts("\xff\xd8\xff")) return FileKind::jpeg;
  if (starts("\x93NUMPY")) return FileKind::npy;
  if (starts("PK\x03\x04") || starts("PK\x05\x06")) return FileKind::npz_or_zip;
  if (starts("\x89HDF\r\n\x1a\n")) return FileKind::hdf5;
  // The pickled magic number of torch.save, after the frame of protocols 4 and 5.
  constexpr std::string_view magic("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 13);
  if (head.size() >= 24 && head[0] == '\x80' &&
      head.substr(head[2] == '\x95' ? 11 : 2, 13) == magic)
    return FileKind::torch_legacy;
  if (head.size() >= 128) {
    const std::string_view mark = head.substr(124, 4);  // version and byte order
    if (mark == std::string_view("\0\1IM", 4) || mark == std::string_view("\1\0MI", 4))
      return FileKind::mat5;
    if (mark == std::string_view("\0\2IM", 4) || mark == std::string_view("\2\0MI", 4))
      return FileKind::hdf5;
  }
  const auto brace = [&](std::size_t from, const char* which) {
    const std::size_t at = head.find_first_not_of(" \t\r\n", from);
    return at != std::string_view::npos && std::strchr(which, head[at]) && head[at] != '\0';
  };
  if (head.size() >= 10) {
    std::uint64_t n = 0;
    std::memcpy(&n, head.data(), 8);
    if (n >= 2 && n <= 100'000'000 && n <= size - 8 && brace(8, "{")) return FileKind::safetensors;
  }
  if (brace(0, "{[")) return FileKind::json;
  return FileKind::unknown;
}

/// The same of a file. Throws ErrorKind::file when it cannot be read.
inline FileKind recognise(const std::string& path) {
  std::size_t size = 0;
  const detail::Fd f = detail::open_to_read(path, size);
  char head[256];
  const std::size_t n = size < sizeof head ? size : sizeof head;
  if (!detail::read_at(f.fd, head, n, 0, path)) return FileKind::empty;
  return recognise({head, n}, size);
}

}  // namespace moraine
