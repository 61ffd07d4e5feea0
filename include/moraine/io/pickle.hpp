#pragma once
// Python's pickle, read as data: a restricted machine that builds a tree and runs nothing.
//
// A pickle is a program for a stack machine that may call any function of any module. Here a call
// is only noted: the tree holds the name of the function and its arguments, and whoever reads it
// decides what they mean. A name that the caller's whitelist does not hold is refused as soon as it
// is met. Opcodes are those of protocols 2 to 5 that write plain data; all others are refused by
// name.
//
// Any byte string gives a value or an error. Memory: at most `max_values` values of about 100
// bytes; strings point into the input. A memo costs 4 bytes an entry. Values may be shared and, in
// a hostile file, hold themselves: whoever walks the tree bounds its steps.
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/io/file.hpp>
#include <moraine/io/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

struct PickleValue {
  enum class Kind : unsigned char {
    none,
    boolean,
    integer,  ///< that fits 64 bits
    big,      ///< one that does not: its bytes, little endian, in `text`
    real,
    text,   ///< UTF-8
    bytes,  ///< in `text`
    list,
    tuple,
    set,
    dict,    ///< items are key, value, key, value ...
    global,  ///< "module name" in `text` and `name`
    object,  ///< callable(args), with items as of a list or a dict, and a state
    storage  ///< a persistent id: what stands outside the pickle
  };
  Kind kind = Kind::none;
  std::int64_t integer = 0;
  double real = 0;
  std::string_view text, name;
  std::vector<std::uint32_t> items;
  std::uint32_t callable = 0, args = 0, state = 0;  ///< of an object; a storage's id is in args
};

struct PickleOptions {
  /// Which names may stand in it; null: none.
  bool (*allowed)(std::string_view module, std::string_view name, const void* context) = nullptr;
  const void* context = nullptr;
  const char* hint = "";  ///< ends the message that refuses a name
  std::size_t max_values = std::size_t{1} << 21;
};

/// The values of a pickle; value 0 is None.
struct Pickle {
  std::vector<PickleValue> values;
  std::uint32_t root = 0;
  std::size_t used = 0;  ///< bytes of the input, up to and with STOP

  const PickleValue& at(std::uint32_t i) const { return values[i]; }
  const PickleValue& top() const { return values[root]; }
  /// The value of a text key in a dict (or an object that is one); null when it is not there.
  const PickleValue* find(const PickleValue& dict, std::string_view key) const {
    for (std::size_t i = 0; i + 1 < dict.items.size(); i += 2) {
      const PickleValue& k = values[dict.items[i]];
      if (k.kind == PickleValue::Kind::text && k.text == key) return &values[dict.items[i + 1]];
    }
    return nullptr;
  }
};

namespace detail {

class Unpickler {
 public:
  using Kind = PickleValue::Kind;
  Unpickler(std::string_view in, const std::string& what, const PickleOptions& o)
      : in_(in), what_(what), o_(o) {
    out_.values.emplace_back();
  }

  Pickle run() {
    for (;;) {
      const unsigned char op = byte();
      if (op == '.') break;
      step(op);
    }
    if (stack_.size() != 1 || !marks_.empty())
      bad("it ends with " + std::to_string(stack_.size()) + " values; one is due");
    out_.root = stack_[0];
    out_.used = at_;
    return std::move(out_);
  }

 private:
  std::string_view in_;
  const std::string& what_;
  const PickleOptions& o_;
  std::size_t at_ = 0;
  Pickle out_;
  std::vector<std::uint32_t> stack_, memo_;
  std::vector<std::size_t> marks_;
  static constexpr std::uint32_t unset = ~0u;

  [[noreturn]] void bad(const std::string& why) const {
    fail(ErrorKind::format, what_ + ": " + why + "; near byte " + std::to_string(at_));
  }
  std::string_view take(std::uint64_t n) {
    if (n > in_.size() - at_) bad("the pickle is cut off");
    const std::string_view s = in_.substr(at_, static_cast<std::size_t>(n));
    at_ += static_cast<std::size_t>(n);
    return s;
  }
  unsigned char byte() { return static_cast<unsigned char>(take(1)[0]); }
  template <class U>
  U number() {
    U v;
    std::memcpy(&v, take(sizeof(U)).data(), sizeof v);
    return v;
  }
  std::string_view line() {
    const std::size_t end = in_.find('\n', at_);
    if (end == std::string_view::npos) bad("the pickle is cut off");
    const std::string_view s = in_.substr(at_, end - at_);
    at_ = end + 1;
    return s;
  }

  std::uint32_t add(PickleValue v) {
    if (out_.values.size() >= o_.max_values)
      bad("too many values; more than " + std::to_string(o_.max_values));
    out_.values.push_back(std::move(v));
    return static_cast<std::uint32_t>(out_.values.size() - 1);
  }
  void push(PickleValue v) { stack_.push_back(add(std::move(v))); }
  void push(Kind k) {
    PickleValue v;
    v.kind = k;
    push(std::move(v));
  }
  void push_text(Kind k, std::string_view s) {
    if (k == Kind::text && find_bad_utf8(s) != std::string_view::npos) bad("a text is not UTF-8");
    PickleValue v;
    v.kind = k;
    v.text = s;
    push(std::move(v));
  }
  void push_integer(std::int64_t i, Kind k = Kind::integer) {
    PickleValue v;
    v.kind = k;
    v.integer = i;
    push(std::move(v));
  }
  void push_long(std::string_view bytes) {
    if (bytes.size() > 8) return push_text(Kind::big, bytes);
    std::uint64_t v = !bytes.empty() && (bytes.back() & 0x80) ? ~std::uint64_t{0} : 0;
    for (std::size_t i = bytes.size(); i-- > 0;) v = v << 8 | static_cast<unsigned char>(bytes[i]);
    push_integer(static_cast<std::int64_t>(v));
  }
  /// The stack above the last mark is this frame's.
  std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  std::uint32_t pop() {
    if (stack_.size() <= floor()) bad("it takes a value that is not there");
    const std::uint32_t v = stack_.back();
    stack_.pop_back();
    return v;
  }
  std::uint32_t top() const {
    if (stack_.size() <= floor()) bad("it takes a value that is not there");
    return stack_.back();
  }
  std::vector<std::uint32_t> pop_mark() {
    if (marks_.empty()) bad("it takes a mark that is not there");
    std::vector<std::uint32_t> v(stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back()),
                                 stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return v;
  }
  void push_items(Kind k, std::vector<std::uint32_t> items) {
    PickleValue v;
    v.kind = k;
    v.items = std::move(items);
    push(std::move(v));
  }
  void push_last(std::size_t n) {
    std::vector<std::uint32_t> items(n);
    for (std::size_t i = n; i-- > 0;) items[i] = pop();
    push_items(Kind::tuple, std::move(items));
  }
  void append(std::uint32_t to, const std::vector<std::uint32_t>& items, bool pairs) {
    PickleValue& v = out_.values[to];
    const bool fits = v.kind == Kind::object || v.kind == (pairs ? Kind::dict : Kind::list) ||
                      (!pairs && v.kind == Kind::set);
    if (!fits) bad(std::string("it puts ") + (pairs ? "a key" : "an item") + " into no container");
    if (pairs && items.size() % 2) bad("a key has no value");
    v.items.insert(v.items.end(), items.begin(), items.end());
  }
  void remember(std::uint64_t i) {
    if (i >= o_.max_values) bad("a memo number is too large; " + std::to_string(i));
    if (i >= memo_.size()) memo_.resize(static_cast<std::size_t>(i) + 1, unset);
    memo_[static_cast<std::size_t>(i)] = top();
  }
  void recall(std::uint64_t i) {
    if (i >= memo_.size() || memo_[static_cast<std::size_t>(i)] == unset)
      bad("it recalls what it never stored; memo " + std::to_string(i));
    stack_.push_back(memo_[static_cast<std::size_t>(i)]);
    if (stack_.size() > o_.max_values) bad("its stack is too deep");
  }
  void push_global(std::string_view module, std::string_view name) {
    if (!o_.allowed || !o_.allowed(module, name, o_.context))
      fail(ErrorKind::format, what_ + ": it holds a Python object that is not on the list; " +
                                  quoted(std::string(module) + "." + std::string(name)) + o_.hint);
    PickleValue v;
    v.kind = Kind::global;
    v.text = module;
    v.name = name;
    push(std::move(v));
  }
  void call() {
    PickleValue v;
    v.kind = Kind::object;
    v.args = pop();
    v.callable = pop();
    if (out_.values[v.callable].kind != Kind::global) bad("it calls what is no function");
    if (out_.values[v.args].kind != Kind::tuple) bad("it calls a function without a tuple");
    push(std::move(v));
  }

  void step(unsigned char op) {
    switch (op) {
      case 0x80:  // PROTO
        if (const int p = byte(); p < 2 || p > 5)
          bad("pickle protocol " + std::to_string(p) + " is not supported -> 2 to 5 are");
        return;
      case 0x95:  // FRAME
        (void)number<std::uint64_t>();
        return;
      case '(':
        marks_.push_back(stack_.size());
        if (marks_.size() > o_.max_values) bad("its stack is too deep");
        return;
      case '0':
        (void)pop();
        return;
      case '1':
        (void)pop_mark();
        return;
      case 'N':
        stack_.push_back(0);
        if (stack_.size() > o_.max_values) bad("its stack is too deep");
        return;
      case 0x88:
      case 0x89:
        return push_integer(op == 0x88, Kind::boolean);
      case 'J':
        return push_integer(number<std::int32_t>());
      case 'K':
        return push_integer(byte());
      case 'M':
        return push_integer(number<std::uint16_t>());
      case 0x8a:  // LONG1
        return push_long(take(byte()));
      case 0x8b: {  // LONG4
        const auto n = number<std::int32_t>();
        if (n < 0) bad("a number has a negative length");
        return push_long(take(static_cast<std::uint64_t>(n)));
      }
      case 'G': {  // BINFLOAT, big endian
        PickleValue v;
        v.kind = Kind::real;
        v.real = std::bit_cast<double>(__builtin_bswap64(number<std::uint64_t>()));
        return push(std::move(v));
      }
      case 'X':
        return push_text(Kind::text, take(number<std::uint32_t>()));
      case 0x8c:
        return push_text(Kind::text, take(byte()));
      case 0x8d:
        return push_text(Kind::text, take(number<std::uint64_t>()));
      case 'U':  // SHORT_BINSTRING of Python 2: bytes or ASCII text
      case 'T': {
        const auto n = op == 'U' ? std::int32_t{byte()} : number<std::int32_t>();
        if (n < 0) bad("a text has a negative length");
        const std::string_view s = take(static_cast<std::uint64_t>(n));
        return push_text(find_bad_utf8(s) == std::string_view::npos ? Kind::text : Kind::bytes, s);
      }
      case 'C':
        return push_text(Kind::bytes, take(byte()));
      case 'B':
        return push_text(Kind::bytes, take(number<std::uint32_t>()));
      case 0x8e:
      case 0x96:  // BINBYTES8, BYTEARRAY8
        return push_text(Kind::bytes, take(number<std::uint64_t>()));
      case ')':
        return push(Kind::tuple);
      case ']':
        return push(Kind::list);
      case '}':
        return push(Kind::dict);
      case 0x8f:
        return push(Kind::set);
      case 0x85:
      case 0x86:
      case 0x87:
        return push_last(op - 0x84u);
      case 't':
        return push_items(Kind::tuple, pop_mark());
      case 'l':
        return push_items(Kind::list, pop_mark());
      case 'd': {
        std::vector<std::uint32_t> items = pop_mark();
        if (items.size() % 2) bad("a key has no value");
        return push_items(Kind::dict, std::move(items));
      }
      case 0x91:  // FROZENSET
        return push_items(Kind::set, pop_mark());
      case 'a': {
        const std::uint32_t v = pop();
        return append(top(), {v}, false);
      }
      case 's': {
        const std::uint32_t v = pop(), k = pop();
        return append(top(), {k, v}, true);
      }
      case 'e':
      case 0x90: {  // APPENDS, ADDITEMS
        const std::vector<std::uint32_t> items = pop_mark();
        return append(top(), items, false);
      }
      case 'u': {
        const std::vector<std::uint32_t> items = pop_mark();
        return append(top(), items, true);
      }
      case 'q':
        return remember(byte());
      case 'r':
        return remember(number<std::uint32_t>());
      case 0x94:
        return remember(memo_.size());
      case 'h':
        return recall(byte());
      case 'j':
        return recall(number<std::uint32_t>());
      case 'c': {
        const std::string_view module = line();
        return push_global(module, line());
      }
      case 0x93: {  // STACK_GLOBAL
        const std::uint32_t n = pop(), m = pop();
        const PickleValue &name = out_.values[n], &module = out_.values[m];
        if (name.kind != Kind::text || module.kind != Kind::text) bad("a name is no text");
        return push_global(module.text, name.text);
      }
      case 'R':
      case 0x81:  // REDUCE, NEWOBJ
        return call();
      case 'b': {
        const std::uint32_t state = pop();
        PickleValue& v = out_.values[top()];
        if (v.kind != Kind::object) bad("it gives a state to what is no object");
        v.state = state;
        return;
      }
      case 'Q': {
        PickleValue v;
        v.kind = Kind::storage;
        v.args = pop();
        return push(std::move(v));
      }
      default:
        refuse(op);
    }
  }
  [[noreturn]] void refuse(unsigned char op) const {
    struct Row {
      unsigned char op;
      const char* name;
    };
    static constexpr Row rows[] = {{'i', "INST"},
                                   {'o', "OBJ"},
                                   {0x92, "NEWOBJ_EX"},
                                   {0x82, "EXT1"},
                                   {0x83, "EXT2"},
                                   {0x84, "EXT4"},
                                   {'P', "PERSID"},
                                   {'I', "INT"},
                                   {'L', "LONG"},
                                   {'F', "FLOAT"},
                                   {'S', "STRING"},
                                   {'V', "UNICODE"},
                                   {'g', "GET"},
                                   {'p', "PUT"},
                                   {'2', "DUP"},
                                   {0x97, "NEXT_BUFFER"},
                                   {0x98, "READONLY_BUFFER"}};
    for (const Row& r : rows)
      if (r.op == op) bad(std::string("the pickle opcode ") + r.name + " is not supported");
    bad("byte " + std::to_string(op) + " is no pickle opcode -> is it a pickle?");
  }
};

}  // namespace detail

/// Reads the pickle at the beginning of `bytes`, which the values point into. `what` begins every
/// message. Throws ErrorKind::format.
inline Pickle parse_pickle(std::string_view bytes, const std::string& what,
                           const PickleOptions& options = {}) {
  return detail::Unpickler(bytes, what, options).run();
}

}  // namespace moraine
