#pragma once
// Weights as PyTorch saves them (.pth, .pt, .ckpt, .bin), without Python: the ZIP format of
// torch >= 1.6, the format before it, and TorchScript archives, whose attributes are read and whose
// code is not. Nothing in a file is ever run: see io/pickle.hpp for the machine and
// io/torch_globals.hpp for the names it accepts.
//
// A contiguous tensor points into the mapped file; a strided one is copied out. Any byte string
// gives a value or an error. Memory beyond the mapping: at most 2^21 values of about 100 bytes for
// the pickle, and for copies what `most_bytes` allows, which bounds the sum of all tensors.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <moraine/core/any_tensor.hpp>
#include <moraine/io/pickle.hpp>
#include <moraine/io/recognise.hpp>
#include <moraine/io/torch_globals.hpp>
#include <moraine/io/torch_tensors.hpp>
#include <moraine/io/zip.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

namespace detail {

/// The ZIP format: <name>/data.pkl, <name>/data/<key>, <name>/byteorder ...
inline TorchFile parse_torch_zip(const std::byte* data, std::size_t size,
                                 std::shared_ptr<const void> owner, const std::string& name,
                                 const TorchOptions& o, const std::string& what,
                                 std::uint64_t most) {
  const ZipEntries entries = parse_zip(data, size, name);
  std::string folder;
  bool found = false, script = false;
  for (const auto& [key, e] : entries) {
    const std::size_t slash = key.find('/');
    if (slash == std::string::npos) continue;
    if (key.substr(slash) == "/data.pkl") {
      if (found) fail(ErrorKind::format, what + ": it holds two data.pkl; " + quoted(key));
      folder = key.substr(0, slash + 1);
      found = true;
    }
  }
  if (!found)
    fail(ErrorKind::format, what + ": the archive holds no data.pkl; " +
                                std::to_string(entries.size()) +
                                " entries -> is it a file of torch.save?");
  const auto get = [&](const std::string& key) -> const ZipEntry* {
    const auto at = entries.find(folder + key);
    return at == entries.end() ? nullptr : &at->second;
  };
  script = get("constants.pkl") != nullptr;
  const std::string_view text = zip_bytes(*get("data.pkl"), "data.pkl", what);
  if (text.size() > std::size_t{1} << 28)
    fail(ErrorKind::format,
         what + ": data.pkl is too large; " + std::to_string(text.size()) + " bytes");
  const std::string inner = what + ": data.pkl";
  const Pickle p = parse_pickle(text, inner, torch_pickle(o));
  TorchReader reader(p, what, o, std::move(owner), most);
  if (const ZipEntry* e = get("byteorder")) {
    const std::string_view order = zip_bytes(*e, "byteorder", what);
    if (order != "little" && order != "big")
      fail(ErrorKind::format, what + ": its byte order is " + quoted(order) + "; little or big");
    reader.big_endian = order == "big";
  }
  for (const auto& [key, e] : entries)
    if (key.starts_with(folder + "data/"))
      reader.storages.emplace(key.substr(folder.size() + 5), e);
  TorchFile file = reader.read();
  file.format = script ? "torchscript" : "zip";
  return file;
}

/// The format before torch 1.6: five pickles (a magic number, a version, the system, the object,
/// the storages' keys), then each storage as its length in elements and its bytes.
inline TorchFile parse_torch_legacy(const std::byte* data, std::size_t size,
                                    std::shared_ptr<const void> owner, const TorchOptions& o,
                                    const std::string& what, std::uint64_t most) {
  using Kind = PickleValue::Kind;
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  const auto bad = [&](const std::string& why) { fail(ErrorKind::format, what + ": " + why); };
  const auto next = [&] {
    Pickle p = parse_pickle(rest, what, torch_pickle(o));
    rest.remove_prefix(p.used);
    return p;
  };
  (void)next();  // the magic number, by which the format was recognised
  const Pickle version = next();
  if (version.top().kind != Kind::integer || version.top().integer != 1001)
    bad("the version of its format is not supported; 1001 is");
  const Pickle system = next();
  const PickleValue* little = system.find(system.top(), "little_endian");
  const Pickle object = next(), keys = next();
  if (keys.top().kind != Kind::list) bad("its list of storages is damaged");
  TorchReader reader(object, what, o, std::move(owner), most);
  reader.big_endian = little && little->kind == Kind::boolean && little->integer == 0;
  std::map<std::string, const TorchType*, std::less<void>> types;
  for (const PickleValue& v : object.values) {
    if (v.kind != Kind::storage) continue;
    const TorchReader::Storage s = reader.storage_of(v);
    const auto [at, fresh] = types.emplace(s.key, s.type);
    if (!fresh && at->second != s.type)
      bad("storage " + quoted(s.key) + " is of two element types");
  }
  for (std::uint32_t i : keys.top().items) {
    const PickleValue& key = keys.at(i);
    const auto at = key.kind == Kind::text ? types.find(key.text) : types.end();
    if (at == types.end()) bad("its list of storages names one that no tensor has");
    const std::uint64_t unit = at->second ? at->second->bytes : 1;
    std::uint64_t n = 0;
    if (rest.size() < 8) bad("its storages are cut off -> is the download complete?");
    std::memcpy(&n, rest.data(), 8);
    rest.remove_prefix(8);
    if (n > rest.size() / unit)
      bad("storage " + quoted(key.text) + " is cut off; " + std::to_string(n) + " elements, " +
          std::to_string(rest.size()) + " bytes left -> is the download complete?");
    ZipEntry e;
    e.data = reinterpret_cast<const std::byte*>(rest.data());
    e.bytes = n * unit;
    rest.remove_prefix(static_cast<std::size_t>(e.bytes));
    if (!reader.storages.emplace(std::string(key.text), e).second)
      bad("storage " + quoted(key.text) + " stands twice");
  }
  if (!rest.empty())
    bad("the file is longer than its storages; " + std::to_string(rest.size()) + " bytes more");
  TorchFile file = reader.read();
  file.format = "legacy";
  return file;
}

}  // namespace detail

/// Reads a checkpoint from memory that `owner` keeps alive (null: the caller does). `name` stands
/// for the file in messages. Throws ErrorKind::format, ErrorKind::key (`select`) or
/// ErrorKind::memory.
inline TorchFile parse_torch(const std::byte* data, std::size_t size,
                             std::shared_ptr<const void> owner, const std::string& name,
                             const TorchOptions& options = {}) {
  const std::string what = "torch: " + quoted(name);
  const std::string_view head(reinterpret_cast<const char*>(data), size);
  const std::uint64_t most = options.most_bytes
                                 ? options.most_bytes
                                 : 4 * static_cast<std::uint64_t>(size) + (std::uint64_t{1} << 26);
  if (head.starts_with("PK"))
    return detail::parse_torch_zip(data, size, std::move(owner), name, options, what, most);
  if (recognise(head.substr(0, 256), size) == FileKind::torch_legacy)
    return detail::parse_torch_legacy(data, size, std::move(owner), options, what, most);
  if (size > 262 && head.substr(257, 5) == "ustar")
    fail(ErrorKind::format, what +
                                ": a TAR archive, the format of torch before 0.1.10; it is not "
                                "read -> save it again with a newer torch");
  if (head.starts_with("\x80"))
    fail(ErrorKind::format, what +
                                ": a pickle that torch.save did not write; it is not read -> "
                                "save the state_dict with torch.save");
  fail(ErrorKind::format, what + ": it is no file of torch.save; " + std::to_string(size) +
                              " bytes -> is the download complete, and no page of a web site?");
}

/// Opens a .pth, .pt, .ckpt or .bin file. Contiguous tensors point into the mapped file and keep it
/// open.
inline TorchFile read_torch(const std::string& path, const TorchOptions& options = {}) {
  const auto mapped = MappedFile::open(path, {.map = options.map});
  TorchFile file = parse_torch(mapped->data(), mapped->size(), mapped, base_name(path), options);
  mapped->check_size();
  return file;
}

}  // namespace moraine
