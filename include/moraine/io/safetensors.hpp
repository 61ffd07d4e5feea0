#pragma once
// safetensors: named tensors in one file, or in shards with an index.
//
//   u64 N (little endian) | N bytes of JSON header | data
//
// The header maps a name to {"dtype", "shape", "data_offsets": [begin, end]}, offsets counted from
// the first data byte. What is accepted follows the reference implementation (huggingface/
// safetensors, checks listed in docs), and is stricter in four points: a key that stands twice, an
// entry in array form, NUL in a name, and sizes beyond what a Shape holds (8 axes, 2^63-1).
// Memory while reading: the header's text stays mapped; the tables take at most about nine times
// its length. Tensors point into the file.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <moraine/core/any_tensor.hpp>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/io/file.hpp>
#include <moraine/io/json.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

static_assert(std::endian::native == std::endian::little, "files are read as they lie in memory");

struct SafetensorsOptions {
  bool map = true;                 ///< false: copy the file into memory instead of mapping it
  bool refuse_non_finite = false;  ///< throw when a float tensor holds NaN or infinity
};

struct SafetensorsFile {
  TensorMap tensors;                            ///< on the file's bytes: no copies, maybe unaligned
  std::map<std::string, std::string> metadata;  ///< `__metadata__`
  std::map<std::string, std::string> other_dtypes;       ///< tensors of Dtype::other -> type's name
  std::vector<std::shared_ptr<const MappedFile>> files;  ///< what the tensors point into

  /// MappedFile::forget() for all of them: after weights were packed, their plain form need not
  /// stay in memory.
  void forget_pages() const {
    for (const auto& f : files) f->forget();
  }
};

namespace detail {

/// The element types of the format in the order of the reference's enumeration, which its writer
/// sorts by.
struct SafetensorsType {
  const char* name;
  unsigned bits;
  Dtype dtype;
};
inline constexpr SafetensorsType safetensors_types[] = {{"BOOL", 8, Dtype::boolean},
                                                        {"F4", 4, Dtype::other},
                                                        {"F6_E2M3", 6, Dtype::other},
                                                        {"F6_E3M2", 6, Dtype::other},
                                                        {"U8", 8, Dtype::u8},
                                                        {"I8", 8, Dtype::i8},
                                                        {"F8_E5M2", 8, Dtype::other},
                                                        {"F8_E4M3", 8, Dtype::other},
                                                        {"F8_E8M0", 8, Dtype::other},
                                                        {"F8_E4M3FNUZ", 8, Dtype::other},
                                                        {"F8_E5M2FNUZ", 8, Dtype::other},
                                                        {"I16", 16, Dtype::i16},
                                                        {"U16", 16, Dtype::u16},
                                                        {"F16", 16, Dtype::f16},
                                                        {"BF16", 16, Dtype::bf16},
                                                        {"I32", 32, Dtype::i32},
                                                        {"U32", 32, Dtype::u32},
                                                        {"F32", 32, Dtype::f32},
                                                        {"C64", 64, Dtype::other},
                                                        {"F64", 64, Dtype::f64},
                                                        {"I64", 64, Dtype::i64},
                                                        {"U64", 64, Dtype::u64}};
inline constexpr std::uint64_t safetensors_max_header = 100'000'000;

/// Takes the header's events and fills a list of entries.
struct SafetensorsHeader {
  struct Entry {
    std::string name;
    int type = -1;
    Shape shape;
    std::uint64_t begin = 0, end = 0;
    std::uint64_t elements = 1;
    int offsets = -1;  ///< how many of the two have come; -1: no such key yet
    bool has_shape = false;
  };
  const std::string& what;  ///< begins every message
  std::vector<Entry> entries{};
  std::map<std::string, std::string> metadata{};
  bool has_metadata = false;

  enum class At {
    start,
    root,
    value,
    meta_value,
    metadata,
    entry,
    dtype,
    shape,
    offsets,
    skip,
    end
  };
  At at = At::start;
  int skip_depth = 0;
  std::string meta_key{};

  [[noreturn]] void bad(const std::string& why) const {
    fail(ErrorKind::format, what + ": " + why);
  }
  [[noreturn]] void bad_entry(const std::string& why) const {
    bad("tensor " + quoted(entries.back().name) + ": " + why);
  }
  /// An event that nothing here expects.
  [[noreturn]] void odd(const char* got) const {
    switch (at) {
      case At::start:
        bad(std::string("the header is ") + got + "; expected an object");
      case At::value:
        bad_entry(std::string("its entry is ") + got + "; expected an object");
      case At::meta_value:
      case At::metadata:
        bad(std::string("__metadata__ holds ") + got + "; expected strings only");
      case At::dtype:
        bad_entry(std::string("dtype is ") + got + "; expected a string");
      case At::shape:
        bad_entry(std::string("shape holds ") + got + "; expected whole numbers from 0");
      case At::offsets:
        bad_entry(std::string("data_offsets holds ") + got + "; expected two whole numbers from 0");
      default:
        bad(std::string("the header has ") + got + " where a key is due");
    }
  }
  void skipped() {
    if (skip_depth == 0) at = At::entry;
  }

  void null() {
    if (at == At::skip) return skipped();
    if (at != At::meta_value) odd("null");
    at = At::root;
  }
  void boolean(bool) {
    if (at == At::skip) return skipped();
    odd("a truth value");
  }
  void number(const JsonNumber& n) {
    if (at == At::skip) return skipped();
    if (n.kind != JsonNumber::Kind::natural) odd("a negative or fractional or too large number");
    const std::uint64_t v = n.natural;
    if (in_list && at == At::shape) {
      Entry& e = entries.back();
      // Left to right, as the reference folds it: [huge, huge, 0] overflows, [0, huge] does not.
      if (__builtin_mul_overflow(e.elements, v, &e.elements))
        bad_entry("its shape overflows; more than 2^64 elements");
      if (v > INT64_MAX) bad_entry("a size is too large; " + std::to_string(v));
      if (e.shape.rank == Shape::max_rank) bad_entry("more than 8 axes -> store it with fewer");
      e.shape.push(static_cast<Index>(v));
      return;
    }
    if (in_list && at == At::offsets) {
      Entry& e = entries.back();
      if (e.offsets == 2) bad_entry("data_offsets has more than two numbers");
      (e.offsets++ == 0 ? e.begin : e.end) = v;
      return;
    }
    odd("a number");
  }
  void string(std::string&& s) {
    if (at == At::skip) return skipped();
    if (at == At::metadata) {
      if (!metadata.emplace(std::move(meta_key), std::move(s)).second)
        bad("__metadata__ holds a key twice");
      return;
    }
    if (at != At::dtype) odd("a string");
    Entry& e = entries.back();
    for (std::size_t i = 0; i < std::size(safetensors_types); ++i)
      if (s == safetensors_types[i].name) e.type = static_cast<int>(i);
    if (e.type < 0)
      bad_entry("unknown dtype " + quoted(s) + " -> known are F32, F16, BF16, I64 ...");
    at = At::entry;
  }
  void key(std::string&& s) {
    if (at == At::skip) return;
    if (at == At::metadata) {
      if (metadata.count(s)) bad("__metadata__ has the key " + quoted(s) + " twice");
      meta_key = std::move(s);
    } else if (at == At::root) {
      if (s == "__metadata__") {
        if (has_metadata) bad("__metadata__ stands twice");
        has_metadata = true;
        at = At::meta_value;
        return;
      }
      if (s.find('\0') != std::string::npos) bad("NUL in the name of tensor " + quoted(s));
      entries.emplace_back();
      entries.back().name = std::move(s);
      at = At::value;
    } else {
      Entry& e = entries.back();
      if (s == "dtype") {
        if (e.type >= 0) bad_entry("dtype stands twice");
        at = At::dtype;
      } else if (s == "shape") {
        if (e.has_shape) bad_entry("shape stands twice");
        e.has_shape = true;
        at = At::shape;
      } else if (s == "data_offsets") {
        if (e.offsets >= 0) bad_entry("data_offsets stands twice");
        e.offsets = 0;
        at = At::offsets;
      } else {
        at = At::skip;  // fields of a later version, as the reference does
        skip_depth = 0;
      }
    }
  }
  bool in_list = false;  ///< inside the brackets of shape or data_offsets
  void begin_object() {
    if (at == At::skip) {
      ++skip_depth;
      return;
    }
    if (at == At::start)
      at = At::root;
    else if (at == At::meta_value)
      at = At::metadata;
    else if (at == At::value)
      at = At::entry;
    else
      odd("an object");
  }
  void end_object() {
    if (at == At::skip) {
      --skip_depth;
      return skipped();
    }
    if (at == At::root) {
      at = At::end;
    } else if (at == At::metadata) {
      at = At::root;
    } else {
      const Entry& e = entries.back();
      if (e.type < 0) bad_entry("dtype is missing");
      if (!e.has_shape) bad_entry("shape is missing");
      if (e.offsets != 2)
        bad_entry(e.offsets < 0 ? "data_offsets is missing" : "data_offsets needs two numbers");
      at = At::root;
    }
  }
  void begin_array() {
    if (at == At::skip) {
      ++skip_depth;
      return;
    }
    if ((at != At::shape && at != At::offsets) || in_list) odd("an array");
    in_list = true;
  }
  void end_array() {
    if (at == At::skip) {
      --skip_depth;
      return skipped();
    }
    in_list = false;
    at = At::entry;
  }
};

/// Bytes of one tensor; checks overflow and that sub-byte types fill their last byte.
inline std::uint64_t safetensors_bytes(const SafetensorsHeader& h, SafetensorsHeader::Entry& e) {
  const SafetensorsType& type = safetensors_types[e.type];
  std::uint64_t bits = 0;
  const auto bad = [&](const std::string& why) {
    fail(ErrorKind::format, h.what + ": tensor " + quoted(e.name) + ": " + why);
  };
  if (__builtin_mul_overflow(e.elements, std::uint64_t{type.bits}, &bits))
    bad("its size overflows; shape " + str(e.shape));
  if (bits % 8)
    bad("its elements do not fill whole bytes; shape " + str(e.shape) + " of " + type.name);
  // An empty tensor may claim other sizes whose product no stride can hold.
  Index step = 1;
  for (Index d : e.shape)
    if (d > 0 && __builtin_mul_overflow(step, d, &step))
      bad("its shape overflows; shape " + str(e.shape));
  return bits / 8;
}

inline bool holds_non_finite(const AnyTensor& t) {
  if (!is_float(t.dtype)) return false;
  return visit(t.dtype, [&](auto zero) {
    using S = decltype(zero);
    for (std::size_t at = 0; at + sizeof(S) <= t.bytes; at += sizeof(S)) {
      S s;
      std::memcpy(&s, t.data + at, sizeof s);
      if constexpr (sizeof(S) == 2 || std::is_floating_point_v<S>)
        if (!std::isfinite(static_cast<double>(s))) return true;
    }
    return false;
  });
}

}  // namespace detail

/// Reads safetensors from memory that `owner` keeps alive (null: the caller does). `name` stands
/// for the file in messages. Throws ErrorKind::format for whatever the format forbids.
inline SafetensorsFile parse_safetensors(const std::byte* data, std::size_t size,
                                         std::shared_ptr<const void> owner, const std::string& name,
                                         const SafetensorsOptions& options = {}) {
  const std::string what = "safetensors: " + quoted(name);
  const auto bad = [&](const std::string& why) { fail(ErrorKind::format, what + ": " + why); };
  if (size < 8)
    bad("too short for a header; " + std::to_string(size) + " bytes -> is the download complete?");
  std::uint64_t n = 0;
  std::memcpy(&n, data, 8);
  if (n > detail::safetensors_max_header)
    bad("the header is too large; " + std::to_string(n) +
        " bytes, at most 100000000 -> is it safetensors?");
  if (n > size - 8)
    bad("the header is longer than the file; " + std::to_string(n) + " + 8 of " +
        std::to_string(size) + " bytes -> is the download complete?");
  detail::SafetensorsHeader h{what};
  detail::parse_json_events({reinterpret_cast<const char*>(data) + 8, static_cast<std::size_t>(n)},
                            h, 127, what);

  using Entry = detail::SafetensorsHeader::Entry;
  std::sort(h.entries.begin(), h.entries.end(), [](const Entry& a, const Entry& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  const std::uint64_t room = size - 8 - n;
  std::uint64_t before = 0;
  for (Entry& e : h.entries) {
    const std::string tensor = "tensor " + quoted(e.name) + ": ";
    if (e.begin != before || e.end < e.begin)
      bad(tensor + "its data do not follow the tensor before; offsets [" + std::to_string(e.begin) +
          ", " + std::to_string(e.end) + "], expected to begin at " + std::to_string(before));
    before = e.end;
    const std::uint64_t bytes = detail::safetensors_bytes(h, e);
    if (e.end - e.begin != bytes)
      bad(tensor + "its size does not fit its shape; " + std::to_string(e.end - e.begin) +
          " bytes, shape " + str(e.shape) + " of " + detail::safetensors_types[e.type].name +
          " needs " + std::to_string(bytes));
  }
  if (before != room)
    bad(std::string("the data are ") + (before > room ? "cut off" : "longer than the tensors") +
        "; " + std::to_string(room) + " bytes, the header describes " + std::to_string(before) +
        (before > room ? " -> is the download complete?" : ""));

  SafetensorsFile file;
  file.metadata = std::move(h.metadata);
  const std::byte* first = data + 8 + n;
  for (Entry& e : h.entries) {
    const detail::SafetensorsType& type = detail::safetensors_types[e.type];
    AnyTensor t;
    t.dtype = type.dtype;
    t.shape = e.shape;
    t.owner = owner;
    t.data = first + e.begin;
    t.bytes = static_cast<std::size_t>(e.end - e.begin);
    if (options.refuse_non_finite && detail::holds_non_finite(t))
      fail(ErrorKind::non_finite,
           what + ": tensor " + quoted(e.name) + ": holds NaN or infinity; shape " + str(e.shape));
    if (file.tensors.count(e.name)) bad("two tensors have the name " + quoted(e.name));
    if (t.dtype == Dtype::other) file.other_dtypes.emplace(e.name, type.name);
    file.tensors.emplace(std::move(e.name), std::move(t));
  }
  return file;
}

/// Opens one safetensors file. Its tensors point into the mapped file and keep it open.
inline SafetensorsFile read_safetensors(const std::string& path,
                                        const SafetensorsOptions& options = {}) {
  const auto mapped = MappedFile::open(path, {.map = options.map});
  SafetensorsFile file =
      parse_safetensors(mapped->data(), mapped->size(), mapped, base_name(path), options);
  mapped->check_size();
  file.files.push_back(mapped);
  return file;
}

/// The header (length, JSON, padding to 8) and the order in which the tensors' bytes follow: the
/// same bytes as the reference writer makes. Metadata come sorted by key, and not at all when
/// empty.
inline std::string safetensors_header(const TensorMap& tensors,
                                      const std::map<std::string, std::string>& metadata,
                                      std::vector<const AnyTensor*>& order) {
  struct Item {
    int type;
    const std::string* name;
    const AnyTensor* tensor;
  };
  std::vector<Item> items;
  const auto bad = [](const std::string& why) { fail(ErrorKind::value, "safetensors: " + why); };
  const auto text_of = [&](const std::string& s) {
    if (find_bad_utf8(s) != std::string_view::npos) bad("text " + quoted(s) + " is not UTF-8");
    std::string out;
    append_json_string(out, s);
    return out;
  };
  for (const auto& [name, t] : tensors) {
    if (name == "__metadata__" || name.find('\0') != std::string::npos)
      bad("tensor " + quoted(name) + ": the format does not allow this name");
    int type = -1;
    for (std::size_t i = 0; i < std::size(detail::safetensors_types); ++i)
      if (detail::safetensors_types[i].dtype == t.dtype && t.dtype != Dtype::other)
        type = static_cast<int>(i);
    if (type < 0)
      fail(ErrorKind::dtype, "safetensors: tensor " + quoted(name) +
                                 ": this element type is read but not written -> convert it first");
    if (t.bytes !=
        static_cast<std::size_t>(t.shape.numel()) * static_cast<std::size_t>(size_of(t.dtype)))
      bad("tensor " + quoted(name) + ": " + std::to_string(t.bytes) + " bytes do not fit shape " +
          str(t.shape));
    items.push_back({type, &name, &t});
  }
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.type > b.type; });
  std::string json = "{";
  if (!metadata.empty()) {
    json += "\"__metadata__\":{";
    bool comma = false;
    for (const auto& [key, value] : metadata) {
      json += (comma ? "," : "") + text_of(key) + ":" + text_of(value);
      comma = true;
    }
    json += '}';
  }
  std::uint64_t begin = 0;
  for (const Item& i : items) {
    if (json.size() > 1) json += ',';
    json += text_of(*i.name) + ":{\"dtype\":\"" + detail::safetensors_types[i.type].name +
            "\",\"shape\":[";
    for (int a = 0; a < i.tensor->shape.rank; ++a)
      json += (a ? "," : "") + std::to_string(i.tensor->shape.dim[a]);
    json += "],\"data_offsets\":[" + std::to_string(begin) + ",";
    begin += i.tensor->bytes;
    json += std::to_string(begin) + "]}";
    order.push_back(i.tensor);
  }
  json += '}';
  json.append((8 - json.size() % 8) % 8, ' ');
  if (json.size() > detail::safetensors_max_header)
    bad("the header is too large; " + std::to_string(json.size()) + " of at most 100000000 bytes");
  const std::uint64_t n = json.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &n, 8);
  return out + json;
}

/// Writes one safetensors file, atomically: a file that somebody has mapped stays whole.
inline void write_safetensors(const std::string& path, const TensorMap& tensors,
                              const std::map<std::string, std::string>& metadata = {}) {
  std::vector<const AnyTensor*> order;
  const std::string header = safetensors_header(tensors, metadata, order);
  AtomicFile file(path);
  file.write(header);
  for (const AnyTensor* t : order) file.write(t->data, t->bytes);
  file.commit();
}

/// `model.safetensors.index.json`: which shard holds which tensor.
using SafetensorsIndex = std::map<std::string, std::string>;

/// Reads an index. Its `metadata` (total_size and others) is informational and often wrong:
/// ignored.
inline SafetensorsIndex parse_safetensors_index(std::string_view text, const std::string& name) {
  const std::string what = "safetensors: " + quoted(name);
  const Json root = parse_json(text, what);
  const Json* map = root.find("weight_map");
  if (!map || !map->is_object())
    fail(ErrorKind::format, what + ": no object \"weight_map\" -> is it a safetensors index?");
  SafetensorsIndex index;
  for (const JsonMember& m : map->as_object()) {
    if (!m.value.is_string())
      fail(ErrorKind::format, what + ": tensor " + quoted(m.key) + ": its shard is " +
                                  name_of(m.value.kind()) + "; expected a file name");
    const std::string& shard = m.value.as_string();
    if (shard.empty() || shard == "." || shard == ".." ||
        shard.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos)
      fail(ErrorKind::format, what + ": tensor " + quoted(m.key) + ": shard " + quoted(shard) +
                                  " is no plain file name -> shards lie beside the index");
    index.emplace(m.key, shard);
  }
  return index;
}

/// The tensors of a model directory: `model.safetensors`, or the shards that
/// `model.safetensors.index.json` names; the single file wins where both are. `path` may also be a
/// safetensors file or an index itself. Every mapped tensor must be in its shard, no tensor in two,
/// none unmapped.
inline SafetensorsFile read_sharded(const std::string& path,
                                    const SafetensorsOptions& options = {}) {
  std::string index_path = path;
  if (is_directory(path)) {
    if (is_file(path + "/model.safetensors"))
      return read_safetensors(path + "/model.safetensors", options);
    index_path = path + "/model.safetensors.index.json";
    if (!is_file(index_path))
      fail(ErrorKind::file, "safetensors: " + quoted(path) +
                                " holds neither model.safetensors nor "
                                "model.safetensors.index.json -> name the model's directory");
  } else if (!path.ends_with(".json")) {
    return read_safetensors(path, options);
  }
  const std::string what = "safetensors: " + quoted(base_name(index_path));
  const SafetensorsIndex index =
      parse_safetensors_index(read_file(index_path), base_name(index_path));
  std::map<std::string, std::vector<const std::string*>> shards;
  for (const auto& [tensor, shard] : index) shards[shard].push_back(&tensor);
  SafetensorsFile all;
  const std::string dir = dir_name(index_path) + "/";
  for (const auto& [shard, names] : shards) {
    if (!is_file(dir + shard))
      fail(ErrorKind::file, what + ": shard " + quoted(shard) + " is missing; it holds " +
                                std::to_string(names.size()) + " tensors -> download all shards");
    SafetensorsFile part = read_safetensors(dir + shard, options);
    for (const std::string* name : names)
      if (!part.tensors.count(*name))
        fail(ErrorKind::key,
             what + ": tensor " + quoted(*name) + " is not in its shard " + quoted(shard));
    for (auto& [name, tensor] : part.tensors) {
      const auto at = index.find(name);
      if (at == index.end())
        fail(ErrorKind::key, what + ": tensor " + quoted(name) + " of shard " + quoted(shard) +
                                 " is not in the index");
      if (at->second != shard)
        fail(ErrorKind::key, what + ": tensor " + quoted(name) + " is in two shards; " +
                                 quoted(at->second) + " and " + quoted(shard));
      all.tensors.emplace(name, std::move(tensor));
    }
    all.metadata.merge(part.metadata);
    all.other_dtypes.merge(part.other_dtypes);
    all.files.insert(all.files.end(), part.files.begin(), part.files.end());
  }
  return all;
}

}  // namespace moraine
