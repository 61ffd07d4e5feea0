#pragma once
// Strict JSON for configuration, index files, model cards and the safetensors header.
//
// The grammar is RapidJSON's, read iteratively; what it leaves open is closed here: the text is
// UTF-8 as a whole, no NUL, no lone surrogates, no key twice in one object, bounded depth and
// count, and numbers keep their kind (whole numbers stay exact up to 64 bits). No locale is asked.
#include <rapidjson/error/en.h>
#include <rapidjson/memorystream.h>
#include <rapidjson/reader.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/io/file.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

namespace moraine::detail {
struct JsonStack {};  ///< stands for "our own stack" where RapidJSON asks for an allocator
}  // namespace moraine::detail

// RapidJSON's own stack begins with null pointers and adds offsets to them, which is undefined, and
// writes through null when memory ends. The reader needs these five functions only.
RAPIDJSON_NAMESPACE_BEGIN
namespace internal {
template <>
class Stack<moraine::detail::JsonStack> {
 public:
  Stack(moraine::detail::JsonStack*, std::size_t) : bytes_(1024) {}
  void Clear() { top_ = 0; }
  template <class T>
  T* Push(std::size_t n = 1) {
    const std::size_t from = top_;
    top_ += n * sizeof(T);
    if (top_ > bytes_.size()) bytes_.resize(top_ * 2);
    return reinterpret_cast<T*>(bytes_.data() + from);
  }
  template <class T>
  T* Pop(std::size_t n) {
    top_ -= n * sizeof(T);
    return reinterpret_cast<T*>(bytes_.data() + top_);
  }
  template <class T>
  T* Top() {
    return reinterpret_cast<T*>(bytes_.data() + top_ - sizeof(T));
  }

 private:
  std::vector<char> bytes_;
  std::size_t top_ = 0;
};
}  // namespace internal
RAPIDJSON_NAMESPACE_END

namespace moraine MORAINE_API {

/// Position of the first byte that is not UTF-8 (overlong forms, surrogates and values above
/// U+10FFFF included); npos when all is well.
inline std::size_t find_bad_utf8(std::string_view s) {
  const auto* p = reinterpret_cast<const unsigned char*>(s.data());
  const std::size_t n = s.size();
  for (std::size_t i = 0; i < n;) {
    const unsigned c = p[i];
    if (c < 0x80) {
      ++i;
      continue;
    }
    const std::size_t more = c >= 0xc2 && c < 0xe0 ? 1 : c >= 0xe0 && c < 0xf0 ? 2 : 3;
    if (c < 0xc2 || c > 0xf4 || n - i <= more) return i;
    for (std::size_t k = 1; k <= more; ++k)
      if ((p[i + k] & 0xc0u) != 0x80u) return i;
    const unsigned d = p[i + 1];
    if ((c == 0xe0 && d < 0xa0) || (c == 0xed && d > 0x9f) || (c == 0xf0 && d < 0x90) ||
        (c == 0xf4 && d > 0x8f))
      return i;
    i += more + 1;
  }
  return std::string_view::npos;
}

/// A number as its text in JSON means it: an unsigned or a negative whole number that fits 64 bits,
/// else a double.
struct JsonNumber {
  enum class Kind { natural, negative, real } kind = Kind::natural;
  std::uint64_t natural = 0;
  std::int64_t negative = 0;
  double real = 0;
};

/// `text` must already have the grammar of a JSON number. False: too large for a double. "-0" is a
/// real number, since no whole number keeps its sign.
inline bool parse_number(std::string_view text, JsonNumber& out) {
  const char *b = text.data(), *e = b + text.size();
  if (text.find_first_of(".eE") == std::string_view::npos && text != "-0") {
    const bool minus = !text.empty() && text[0] == '-';
    out.kind = minus ? JsonNumber::Kind::negative : JsonNumber::Kind::natural;
    const auto r = minus ? std::from_chars(b, e, out.negative) : std::from_chars(b, e, out.natural);
    if (r.ec == std::errc{} && r.ptr == e) return true;
  }
  out.kind = JsonNumber::Kind::real;
  const auto r = std::from_chars(b, e, out.real);
  if (r.ec == std::errc::result_out_of_range) {
    // from_chars says so for too small as well; those are zero. Where is the leading digit?
    const std::size_t mark = std::min(text.find_first_of("eE"), text.size());
    const std::string_view digits = text.substr(0, mark);
    const std::size_t lead = digits.find_first_of("123456789"),
                      dot = std::min(digits.find('.'), mark);
    long power = 0;
    if (mark < text.size()) {
      const char* x = text.data() + mark + (text[mark + 1] == '+' ? 2 : 1);
      if (std::from_chars(x, e, power).ec != std::errc{})
        power = *x == '-' ? -(1L << 60) : 1L << 60;
    }
    if (power > static_cast<long>(lead) - static_cast<long>(dot)) return false;
    out.real = 0;
    return true;
  }
  return r.ec == std::errc{} && r.ptr == e;
}

/// A double as the shortest text that reads back to the same bits, always with '.' or 'e'.
inline std::string number_text(double v) {
  char buffer[32];
  const auto r = std::to_chars(buffer, buffer + sizeof buffer, v);
  std::string s(buffer, r.ptr);
  if (s.find_first_of(".en") == std::string::npos) s += ".0";
  return s;
}

/// `s` as a JSON string with its quotes, escaped as little as the grammar allows.
inline void append_json_string(std::string& out, std::string_view s) {
  out += '"';
  for (char c : s) {
    const auto u = static_cast<unsigned char>(c);
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (u < 0x20) {
          out += "\\u00";
          out += "0123456789abcdef"[u >> 4];
          out += "0123456789abcdef"[u & 15];
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

namespace detail {

/// Drives RapidJSON over `text`. `Handler` has null(), boolean(bool), number(JsonNumber),
/// string(std::string&&), key(std::string&&), begin_object(), end_object(), begin_array() and
/// end_array(); each throws what it does not like. `what` names the text in messages.
template <class Handler>
struct JsonEvents {
  Handler& h;
  const std::string& what;
  int depth = 0, max_depth;
  const rapidjson::MemoryStream* in = nullptr;

  [[noreturn]] void bad(const std::string& why) const {
    fail(ErrorKind::format,
         what + ": " + why + "; near byte " + std::to_string(in ? in->Tell() : 0));
  }
  std::string own(const char* s, rapidjson::SizeType n) const {
    // The text is UTF-8, so what is wrong in a decoded string came from a \u escape.
    if (find_bad_utf8({s, n}) != std::string_view::npos) bad("half of a surrogate pair");
    return {s, n};
  }
  bool Null() { return h.null(), true; }
  bool Bool(bool b) { return h.boolean(b), true; }
  bool Int(int) { return false; }  // numbers come as text
  bool Uint(unsigned) { return false; }
  bool Int64(std::int64_t) { return false; }
  bool Uint64(std::uint64_t) { return false; }
  bool Double(double) { return false; }
  bool RawNumber(const char* s, rapidjson::SizeType n, bool) {
    JsonNumber v;
    if (!parse_number({s, n}, v)) bad("a number does not fit a double");
    h.number(v);
    return true;
  }
  bool String(const char* s, rapidjson::SizeType n, bool) { return h.string(own(s, n)), true; }
  bool Key(const char* s, rapidjson::SizeType n, bool) { return h.key(own(s, n)), true; }
  void enter() {
    if (++depth > max_depth)
      bad("nested too deep; more than " + std::to_string(max_depth) + " levels");
  }
  bool StartObject() { return enter(), h.begin_object(), true; }
  bool EndObject(rapidjson::SizeType) { return --depth, h.end_object(), true; }
  bool StartArray() { return enter(), h.begin_array(), true; }
  bool EndArray(rapidjson::SizeType) { return --depth, h.end_array(), true; }
};

template <class Handler>
void parse_json_events(std::string_view text, Handler& h, int max_depth, const std::string& what) {
  if (const std::size_t at = find_bad_utf8(text); at != std::string_view::npos)
    fail(ErrorKind::format, what + ": not UTF-8; byte " + std::to_string(at));
  // RapidJSON takes a NUL for the end of its input.
  if (const std::size_t at = text.find('\0'); at != std::string_view::npos)
    fail(ErrorKind::format, what + ": a NUL byte; byte " + std::to_string(at));
  rapidjson::MemoryStream in(text.data(), text.size());
  JsonEvents<Handler> events{h, what, 0, max_depth, &in};
  rapidjson::GenericReader<rapidjson::UTF8<>, rapidjson::UTF8<>, JsonStack> reader;
  constexpr unsigned flags = rapidjson::kParseIterativeFlag | rapidjson::kParseNumbersAsStringsFlag;
  const rapidjson::ParseResult r = reader.Parse<flags>(in, events);
  if (r.IsError())
    fail(ErrorKind::format, what + ": " + rapidjson::GetParseError_En(r.Code()) + "; byte " +
                                std::to_string(r.Offset()) + " of " + std::to_string(text.size()));
}

}  // namespace detail

class Json;
/// A key and its value. A template only so that Json may hold a vector of it before it is complete.
template <class J>
struct JsonMemberOf {
  std::string key;
  J value;
  bool operator==(const JsonMemberOf& o) const { return key == o.key && value == o.value; }
};
using JsonMember = JsonMemberOf<Json>;

/// A JSON value. Objects keep the order of their keys; reading an absent key or another kind than
/// there is throws ErrorKind::config with the key's path.
class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<JsonMember>;
  enum class Kind { null, boolean, natural, negative, real, string, array, object };

  Json() = default;
  Json(bool v) : v_(v) {}
  Json(int v) : Json(static_cast<std::int64_t>(v)) {}
  Json(long v) : Json(static_cast<long long>(v)) {}
  Json(long long v) {
    if (v < 0)
      v_ = static_cast<std::int64_t>(v);
    else
      v_ = static_cast<std::uint64_t>(v);
  }
  Json(unsigned v) : v_(static_cast<std::uint64_t>(v)) {}
  Json(unsigned long v) : v_(static_cast<std::uint64_t>(v)) {}
  Json(double v) : v_(v) {}
  Json(const char* v) : v_(std::string(v)) {}
  Json(std::string v) : v_(std::move(v)) {}
  Json(std::string_view v) : v_(std::string(v)) {}
  static Json array(Array items = {});
  static Json object();

  Kind kind() const { return static_cast<Kind>(v_.index()); }
  bool is_null() const { return kind() == Kind::null; }
  bool is_bool() const { return kind() == Kind::boolean; }
  bool is_string() const { return kind() == Kind::string; }
  bool is_array() const { return kind() == Kind::array; }
  bool is_object() const { return kind() == Kind::object; }
  bool is_number() const { return kind() >= Kind::natural && kind() <= Kind::real; }
  bool is_integer() const { return kind() == Kind::natural || kind() == Kind::negative; }

  // `where` names the value in the error.
  bool as_bool(std::string_view where = "value") const;
  double as_double(std::string_view where = "value") const;
  /// Whole numbers only: 3 is one, 3.0 is not.
  std::int64_t as_int(std::string_view where = "value") const;
  std::uint64_t as_natural(std::string_view where = "value") const;
  const std::string& as_string(std::string_view where = "value") const;
  const Array& as_array(std::string_view where = "value") const;
  const Object& as_object(std::string_view where = "value") const;

  /// The value of a key, or null when it is absent (or this is no object).
  const Json* find(std::string_view key) const;
  Json* find(std::string_view key);
  const Json& at(std::string_view key) const;
  /// Adds a key at the end, or replaces its value. Makes an object of null.
  Json& set(std::string_view key, Json value);
  /// Adds to an array. Makes an array of null.
  Json& push(Json value);
  bool operator==(const Json& o) const;

 private:
  [[noreturn]] void wrong(std::string_view where, const char* wanted) const;
  std::variant<std::monostate, bool, std::uint64_t, std::int64_t, double, std::string, Array,
               Object>
      v_;
  friend struct JsonBuilder;
};

inline const char* name_of(Json::Kind k) {
  constexpr const char* names[] = {
      "null",          "a truth value", "a number", "a negative number",
      "a real number", "a string",      "an array", "an object"};
  return names[static_cast<int>(k)];
}

inline Json Json::array(Array items) {
  Json j;
  j.v_ = std::move(items);
  return j;
}
inline Json Json::object() {
  Json j;
  j.v_ = Object{};
  return j;
}
inline void Json::wrong(std::string_view where, const char* wanted) const {
  fail(ErrorKind::config,
       "json: " + quoted(where) + " is " + name_of(kind()) + "; expected " + wanted);
}
inline bool Json::as_bool(std::string_view where) const {
  if (const auto* p = std::get_if<bool>(&v_)) return *p;
  wrong(where, "true or false");
}
inline double Json::as_double(std::string_view where) const {
  if (const auto* p = std::get_if<double>(&v_)) return *p;
  if (const auto* p = std::get_if<std::uint64_t>(&v_)) return static_cast<double>(*p);
  if (const auto* p = std::get_if<std::int64_t>(&v_)) return static_cast<double>(*p);
  wrong(where, "a number");
}
inline std::int64_t Json::as_int(std::string_view where) const {
  if (const auto* p = std::get_if<std::int64_t>(&v_)) return *p;
  if (const auto* p = std::get_if<std::uint64_t>(&v_); p && *p <= INT64_MAX)
    return static_cast<std::int64_t>(*p);
  wrong(where, "a whole number");
}
inline std::uint64_t Json::as_natural(std::string_view where) const {
  if (const auto* p = std::get_if<std::uint64_t>(&v_)) return *p;
  wrong(where, "a whole number from 0 on");
}
inline const std::string& Json::as_string(std::string_view where) const {
  if (const auto* p = std::get_if<std::string>(&v_)) return *p;
  wrong(where, "a string");
}
inline const Json::Array& Json::as_array(std::string_view where) const {
  if (const auto* p = std::get_if<Array>(&v_)) return *p;
  wrong(where, "an array");
}
inline const Json::Object& Json::as_object(std::string_view where) const {
  if (const auto* p = std::get_if<Object>(&v_)) return *p;
  wrong(where, "an object");
}
inline const Json* Json::find(std::string_view key) const {
  if (const auto* p = std::get_if<Object>(&v_))
    for (const JsonMember& m : *p)
      if (m.key == key) return &m.value;
  return nullptr;
}
inline Json* Json::find(std::string_view key) {
  return const_cast<Json*>(static_cast<const Json*>(this)->find(key));
}
inline const Json& Json::at(std::string_view key) const {
  if (!is_object()) wrong(key, "an object that holds this key");
  if (const Json* j = find(key)) return *j;
  fail(ErrorKind::config, "json: no key " + quoted(key) + " -> add it");
}
[[gnu::noinline]] inline Json& Json::set(std::string_view key, Json value) {
  if (is_null()) v_ = Object{};
  if (!is_object()) wrong(key, "an object to set it in");
  if (Json* j = find(key)) return *j = std::move(value);
  auto& members = std::get<Object>(v_);
  members.push_back({std::string(key), std::move(value)});
  return members.back().value;
}
// Not inlined: g++ 12 warns of members of a variant that are not the one it holds.
[[gnu::noinline]] inline Json& Json::push(Json value) {
  if (is_null()) v_ = Array{};
  if (!is_array()) wrong("value", "an array to add to");
  auto& items = std::get<Array>(v_);
  items.push_back(std::move(value));
  return items.back();
}
inline bool Json::operator==(const Json& o) const { return v_ == o.v_; }

struct JsonLimits {
  std::size_t max_bytes = std::size_t{1} << 26;   ///< of text
  std::size_t max_values = std::size_t{1} << 21;  ///< values in all; memory: about 100 bytes each
  int max_depth = 64;
};

/// Makes a Json from events.
struct JsonBuilder {
  const std::string& what;
  std::size_t left;
  Json root{};
  struct Level {
    Json value;
    std::string key;
  };
  std::vector<Level> open{};

  void put(Json v) {
    if (left-- == 0) fail(ErrorKind::memory, what + ": too many values -> is it the right file?");
    if (open.empty())
      root = std::move(v);
    else if (auto* members = std::get_if<Json::Object>(&open.back().value.v_))
      members->push_back({std::move(open.back().key), std::move(v)});
    else
      std::get<Json::Array>(open.back().value.v_).push_back(std::move(v));
  }
  void null() { put({}); }
  void boolean(bool b) { put(b); }
  void number(const JsonNumber& n) {
    if (n.kind == JsonNumber::Kind::natural)
      put(static_cast<unsigned long>(n.natural));
    else if (n.kind == JsonNumber::Kind::negative)
      put(static_cast<long>(n.negative));
    else
      put(n.real);
  }
  void string(std::string&& s) { put(std::move(s)); }
  void key(std::string&& s) { open.back().key = std::move(s); }
  void begin_object() { open.push_back({Json::object(), {}}); }
  void begin_array() { open.push_back({Json::array(), {}}); }
  void end_array() { close(); }
  void end_object() {
    const auto& members = std::get<Json::Object>(open.back().value.v_);
    std::vector<const std::string*> keys;
    keys.reserve(members.size());
    for (const JsonMember& m : members) keys.push_back(&m.key);
    std::sort(keys.begin(), keys.end(), [](auto* a, auto* b) { return *a < *b; });
    for (std::size_t i = 1; i < keys.size(); ++i)
      if (*keys[i] == *keys[i - 1])
        fail(ErrorKind::format, what + ": key " + quoted(*keys[i]) + " stands twice in one object");
    close();
  }
  void close() {
    Json v = std::move(open.back().value);
    open.pop_back();
    put(std::move(v));
  }
};

/// Reads one JSON text. Throws ErrorKind::format with the byte where it is wrong; `what` names the
/// text in the message.
inline Json parse_json(std::string_view text, const std::string& what = "json",
                       JsonLimits limits = {}) {
  if (text.size() > limits.max_bytes)
    fail(ErrorKind::memory, what + ": too long; " + std::to_string(text.size()) + " of at most " +
                                std::to_string(limits.max_bytes) + " bytes");
  JsonBuilder builder{what, limits.max_values};
  detail::parse_json_events(text, builder, limits.max_depth, what);
  return std::move(builder.root);
}

inline Json read_json(const std::string& path, JsonLimits limits = {}) {
  return parse_json(read_file(path, limits.max_bytes), "json: " + quoted(base_name(path)), limits);
}

struct JsonStyle {
  int indent = 2;  ///< spaces a level; -1: all on one line without spaces
};

namespace detail {

inline void append_json(std::string& out, const Json& j, int indent, int level) {
  const auto line = [&](int l) {
    if (indent < 0) return;
    out += '\n';
    out.append(static_cast<std::size_t>(indent * l), ' ');
  };
  switch (j.kind()) {
    case Json::Kind::null:
      out += "null";
      break;
    case Json::Kind::boolean:
      out += j.as_bool() ? "true" : "false";
      break;
    case Json::Kind::natural:
      out += std::to_string(j.as_natural());
      break;
    case Json::Kind::negative:
      out += std::to_string(j.as_int());
      break;
    case Json::Kind::real:
      if (!std::isfinite(j.as_double()))
        fail(ErrorKind::non_finite, "json: NaN and infinity have no JSON form -> write null");
      out += number_text(j.as_double());
      break;
    case Json::Kind::string:
      if (find_bad_utf8(j.as_string()) != std::string_view::npos)
        fail(ErrorKind::value, "json: string " + quoted(j.as_string()) + " is not UTF-8");
      append_json_string(out, j.as_string());
      break;
    case Json::Kind::array: {
      // A row of plain numbers stays on one line: that is how people read a bounding box.
      const auto& a = j.as_array();
      bool plain = true;
      for (const Json& v : a) plain = plain && !v.is_array() && !v.is_object() && !v.is_string();
      out += '[';
      for (std::size_t i = 0; i < a.size(); ++i) {
        if (i) out += indent >= 0 && plain ? ", " : ",";
        if (!plain) line(level + 1);
        append_json(out, a[i], indent, level + 1);
      }
      if (!a.empty() && !plain) line(level);
      out += ']';
      break;
    }
    case Json::Kind::object: {
      const auto& o = j.as_object();
      out += '{';
      for (std::size_t i = 0; i < o.size(); ++i) {
        if (i) out += ',';
        line(level + 1);
        if (find_bad_utf8(o[i].key) != std::string_view::npos)
          fail(ErrorKind::value, "json: key " + quoted(o[i].key) + " is not UTF-8");
        append_json_string(out, o[i].key);
        out += indent < 0 ? ":" : ": ";
        append_json(out, o[i].value, indent, level + 1);
      }
      if (!o.empty()) line(level);
      out += '}';
      break;
    }
  }
}

}  // namespace detail

/// The text of a value, without a newline at the end.
inline std::string json_text(const Json& j, JsonStyle style = {}) {
  std::string out;
  detail::append_json(out, j, style.indent, 0);
  return out;
}

/// Writes a value and a newline, atomically.
inline void write_json(const std::string& path, const Json& j, JsonStyle style = {}) {
  write_file(path, json_text(j, style) + "\n");
}

}  // namespace moraine
