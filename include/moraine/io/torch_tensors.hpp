#pragma once
// The tensors of an unpickled checkpoint: which dictionary holds them, what they are called, and
// each as row-major bytes. For io/torch_file.hpp, which knows where the storages are.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <moraine/core/any_tensor.hpp>
#include <moraine/io/pickle.hpp>
#include <moraine/io/torch_globals.hpp>
#include <moraine/io/zip.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

struct TorchFile {
  TensorMap tensors;
  std::map<std::string, std::string> other_dtypes;  ///< tensors of Dtype::other -> type's name
  std::string format;                               ///< "zip", "legacy" or "torchscript"
  std::string selected;             ///< the dictionary that was read; "" is the top level
  std::vector<std::string> others;  ///< further dictionaries of the checkpoint that hold tensors
  std::vector<std::string> no_tensors;  ///< entries of what was read that are no tensors
};

/// Where checkpoints keep their weights, in the order in which they are tried.
inline constexpr const char* torch_state_keys[] = {"state_dict",
                                                   "model",
                                                   "module",
                                                   "model_state_dict",
                                                   "state_dict_ema",
                                                   "model_ema",
                                                   "ema_model",
                                                   "teacher",
                                                   "ema",
                                                   "net",
                                                   "network",
                                                   "backbone",
                                                   "student",
                                                   "model_state",
                                                   "weights"};

namespace detail {

/// Finds the tensors in an unpickled checkpoint.
class TorchReader {
 public:
  using Kind = PickleValue::Kind;
  TorchReader(const Pickle& p, const std::string& what, const TorchOptions& o,
              std::shared_ptr<const void> owner, std::uint64_t most)
      : p_(p), what_(what), o_(o), owner_(std::move(owner)), most_(most) {}

  ZipEntries storages;      ///< by key
  bool big_endian = false;  ///< of the storages
  /// The old format names a part of a storage as a storage of its own: key -> (of, offset).
  struct Part {
    std::string of;
    std::uint64_t offset;
  };

  /// What a storage's persistent id says.
  struct Storage {
    std::string key;
    const TorchType* type = nullptr;         ///< null: untyped
    std::uint64_t elements = 0, offset = 0;  ///< offset: of a view within its storage, elements
  };
  Storage storage_of(const PickleValue& v) const {
    if (v.kind != Kind::storage) bad("a tensor stands on what is no storage");
    const PickleValue& id = p_.at(v.args);
    if (id.kind != Kind::tuple || id.items.size() < 5) bad("a storage has a damaged id");
    const PickleValue &word = p_.at(id.items[0]), &type = p_.at(id.items[1]),
                      &key = p_.at(id.items[2]), &n = p_.at(id.items[4]);
    if (word.kind != Kind::text || word.text != "storage" || type.kind != Kind::global ||
        key.kind != Kind::text || n.kind != Kind::integer || n.integer < 0)
      bad("a storage has a damaged id");
    Storage s;
    s.key = std::string(key.text);
    s.type = torch_type(type.text, type.name);
    if (!s.type && type.name != "UntypedStorage")
      bad("storage " + quoted(s.key) + " is of the type " + quoted(type.name) +
          "; it is not supported");
    s.elements = static_cast<std::uint64_t>(n.integer);
    if (id.items.size() > 5) {
      const PickleValue& view = p_.at(id.items[5]);
      if (view.kind == Kind::tuple && view.items.size() == 3) {
        const PickleValue &offset = p_.at(view.items[1]), &size = p_.at(view.items[2]);
        if (offset.kind != Kind::integer || offset.integer < 0 || size.kind != Kind::integer ||
            size.integer < 0)
          bad("storage " + quoted(s.key) + " has a damaged view");
        s.offset = static_cast<std::uint64_t>(offset.integer);
        const auto part = static_cast<std::uint64_t>(size.integer);
        if (s.offset > s.elements || part > s.elements - s.offset)
          bad("storage " + quoted(s.key) + " has a view past its end");
      } else if (view.kind != Kind::none) {
        bad("storage " + quoted(s.key) + " has a damaged view");
      }
    }
    return s;
  }

  /// The tensors of a checkpoint, selected and named.
  TorchFile read() {
    TorchFile file;
    find_dictionaries(p_.top(), "", 0);
    const PickleValue* from = &p_.top();
    if (!o_.select.empty() && o_.select != "*") {
      from = select(o_.select);
      file.selected = o_.select;
    } else if (o_.select.empty() && global_of(p_.top()) != TorchGlobal::script_object) {
      for (const char* key : torch_state_keys) {
        if (const PickleValue* v = member(p_.top(), key); v && tensors_below(*v, 0)) {
          from = v;
          file.selected = key;
          break;
        }
      }
      const bool here = holds_tensor(p_.top());
      if (file.selected.empty() && !here && dictionaries_.size() == 1) {
        from = select(dictionaries_[0]);
        file.selected = dictionaries_[0];
      } else if (file.selected.empty() && !here && dictionaries_.size() > 1) {
        bad("it is not clear which of its parts is meant; " + some() + " -> select one of them");
      }
    }
    for (const std::string& d : dictionaries_)
      if (d != file.selected && !(d + ".").starts_with(file.selected + ".") &&
          !(file.selected.empty()))
        file.others.push_back(d);
    steps_ = 0;
    flatten(*from, "", 0, file);
    if (file.tensors.empty())
      bad("it holds no tensors" + (dictionaries_.empty() ? "" : "; " + some()));
    return file;
  }

 private:
  const Pickle& p_;
  const std::string& what_;
  const TorchOptions& o_;
  std::shared_ptr<const void> owner_;
  std::uint64_t most_, total_ = 0;
  std::size_t steps_ = 0, name_bytes_ = 0;
  std::vector<std::string> dictionaries_;  ///< paths of those that hold tensors directly

  [[noreturn]] void bad(const std::string& why) const {
    fail(ErrorKind::format, what_ + ": " + why);
  }
  std::string some() const {
    std::string out;
    for (std::size_t i = 0; i < dictionaries_.size() && i < 6; ++i)
      out += (i ? ", " : "") + quoted(dictionaries_[i]);
    return out + (dictionaries_.size() > 6 ? " ..." : "");
  }
  TorchGlobal global_of(const PickleValue& v) const {
    if (v.kind != Kind::object) return TorchGlobal::unknown;
    const PickleValue& g = p_.at(v.callable);
    return torch_global(g.text, g.name, o_);
  }
  bool is_tensor(const PickleValue& v) const {
    const TorchGlobal g = global_of(v);
    return g == TorchGlobal::tensor_v1 || g == TorchGlobal::tensor_v2 ||
           g == TorchGlobal::tensor_v3 || g == TorchGlobal::parameter ||
           g == TorchGlobal::from_type;
  }
  /// What holds named values: a dict, an object that is one, a script object's attributes.
  const PickleValue* names_of(const PickleValue& v) const {
    if (v.kind == Kind::dict) return &v;
    const TorchGlobal g = global_of(v);
    if (g == TorchGlobal::dictionary) return &v;
    if (g == TorchGlobal::script_object && p_.at(v.state).kind == Kind::dict)
      return &p_.at(v.state);
    return nullptr;
  }
  const PickleValue* member(const PickleValue& v, std::string_view key) const {
    const PickleValue* d = names_of(v);
    return d ? p_.find(*d, key) : nullptr;
  }
  bool holds_tensor(const PickleValue& v) const {
    const PickleValue* d = names_of(v);
    for (std::size_t i = 1; d && i < d->items.size(); i += 2)
      if (is_tensor(p_.at(d->items[i]))) return true;
    return false;
  }
  void count_step(int depth) {
    if (depth > max_depth) bad("it is nested too deep; more than 64 levels");
    if (++steps_ > p_.values.size() * 4 + 1024)
      bad("its values hold each other too often; more than " + std::to_string(steps_ - 1) +
          " steps");
  }
  bool tensors_below(const PickleValue& v, int depth) {
    count_step(depth);
    if (holds_tensor(v)) return true;
    if (const PickleValue* d = names_of(v))
      for (std::size_t i = 1; i < d->items.size(); i += 2)
        if (tensors_below(p_.at(d->items[i]), depth + 1)) return true;
    return false;
  }
  void find_dictionaries(const PickleValue& v, const std::string& path, int depth) {
    count_step(depth);
    const PickleValue* d = names_of(v);
    if (!d) return;
    if (holds_tensor(v)) {
      if (dictionaries_.size() < 64) dictionaries_.push_back(path);
      return;
    }
    for (std::size_t i = 0; i + 1 < d->items.size(); i += 2)
      if (const PickleValue& k = p_.at(d->items[i]); k.kind == Kind::text && k.text.size() < 200)
        find_dictionaries(p_.at(d->items[i + 1]),
                          (path.empty() ? "" : path + ".") + std::string(k.text), depth + 1);
  }
  const PickleValue* select(std::string_view path) const {
    const PickleValue* v = &p_.top();
    std::string_view rest = path;
    for (int depth = 0; v && depth < max_depth; ++depth) {
      if (rest.empty()) return v;
      // A key may hold dots itself: the whole rest first.
      if (const PickleValue* all = member(*v, rest)) return all;
      const std::size_t dot = rest.find('.');
      if (dot == std::string_view::npos) break;
      v = member(*v, rest.substr(0, dot));
      rest.remove_prefix(dot + 1);
    }
    fail(ErrorKind::key, what_ + ": it has no " + quoted(path) + "; tensors stand in " +
                             (dictionaries_.empty() ? std::string("no part of it") : some()));
  }

  void flatten(const PickleValue& v, const std::string& path, int depth, TorchFile& file) {
    count_step(depth);
    if (is_tensor(v)) {
      name_bytes_ += path.size();
      if (name_bytes_ > std::size_t{1} << 26) bad("its names are too long; more than 64 MiB");
      const TorchType* type = nullptr;
      AnyTensor t = tensor_of(v, path, type, 0);
      if (t.dtype == Dtype::other) file.other_dtypes.emplace(path, type->name);
      if (!file.tensors.emplace(path, std::move(t)).second)
        bad("two tensors have the name " + quoted(path));
      return;
    }
    const bool script = global_of(v) == TorchGlobal::script_object;
    const PickleValue* d = names_of(v);
    if (!d) {
      if (file.no_tensors.size() < 1000 && path.size() < 200) file.no_tensors.push_back(path);
      return;
    }
    for (std::size_t i = 0; i + 1 < d->items.size(); i += 2) {
      const PickleValue& k = p_.at(d->items[i]);
      std::string name;
      if (k.kind == Kind::text)
        name = std::string(k.text);
      else if (k.kind == Kind::integer)
        name = std::to_string(k.integer);
      else
        bad("a key below " + quoted(path) + " is no text");
      if (name.find('\0') != std::string::npos) bad("NUL in the name " + quoted(name));
      const PickleValue& x = p_.at(d->items[i + 1]);
      if (script && !names_of(x) && !is_tensor(x)) continue;  // flags of a module
      flatten(x, path.empty() ? name : path + "." + name, depth + 1, file);
    }
  }

  Shape sizes_of(const PickleValue& v, const std::string& name, const char* which) const {
    const PickleValue* list = &v;
    if (const TorchGlobal g = global_of(v); g == TorchGlobal::list || g == TorchGlobal::inert)
      if (!p_.at(v.args).items.empty()) list = &p_.at(p_.at(v.args).items[0]);
    if (list->kind != Kind::tuple && list->kind != Kind::list)
      bad("tensor " + quoted(name) + ": its " + which + " is no tuple");
    if (list->items.size() > Shape::max_rank)
      bad("tensor " + quoted(name) + ": more than 8 axes; " + std::to_string(list->items.size()));
    Shape s;
    for (std::uint32_t i : list->items) {
      const PickleValue& n = p_.at(i);
      if (n.kind != Kind::integer || n.integer < 0)
        bad("tensor " + quoted(name) + ": its " + which + " holds what is no whole number from 0");
      s.push(n.integer);
    }
    return s;
  }

  AnyTensor tensor_of(const PickleValue& v, const std::string& name, const TorchType*& type,
                      int depth) {
    if (depth > 4) bad("tensor " + quoted(name) + ": it is wrapped too often");
    const auto wrong = [&](const std::string& why) { bad("tensor " + quoted(name) + ": " + why); };
    TorchGlobal g = global_of(v);
    const PickleValue* args = &p_.at(v.args);
    if (g == TorchGlobal::from_type) {
      if (args->items.size() < 3 || p_.at(args->items[0]).kind != Kind::global ||
          p_.at(args->items[2]).kind != Kind::tuple)
        wrong("it is damaged");
      const PickleValue& f = p_.at(args->items[0]);
      g = torch_global(f.text, f.name, o_);
      args = &p_.at(args->items[2]);
    }
    if (g == TorchGlobal::parameter) {
      if (args->items.empty() || !is_tensor(p_.at(args->items[0]))) wrong("it is damaged");
      return tensor_of(p_.at(args->items[0]), name, type, depth + 1);
    }
    const std::size_t least = g == TorchGlobal::tensor_v1   ? 4
                              : g == TorchGlobal::tensor_v2 ? 4
                              : g == TorchGlobal::tensor_v3 ? 7
                                                            : 0;
    if (!least || args->items.size() < least) wrong("it is damaged");
    const Storage s = storage_of(p_.at(args->items[0]));
    type = s.type;
    if (g == TorchGlobal::tensor_v3) {
      const PickleValue& dtype = p_.at(args->items[6]);
      type = dtype.kind == Kind::global ? torch_type(dtype.text, dtype.name) : nullptr;
      if (!type) wrong("its element type is not supported");
    }
    if (!type) wrong("its element type is missing");
    const PickleValue& first = p_.at(args->items[1]);
    if (first.kind != Kind::integer || first.integer < 0) wrong("its offset is damaged");
    return view(s, *type, static_cast<std::uint64_t>(first.integer),
                sizes_of(p_.at(args->items[2]), name, "shape"),
                sizes_of(p_.at(args->items[3]), name, "stride"), name);
  }

  /// A part of a storage as a row-major tensor.
  AnyTensor view(const Storage& s, const TorchType& type, std::uint64_t first, const Shape& shape,
                 const Shape& stride, const std::string& name) {
    const auto wrong = [&](const std::string& why) { bad("tensor " + quoted(name) + ": " + why); };
    if (stride.rank != shape.rank) wrong("its shape and stride differ in length");
    const auto at = storages.find(s.key);
    if (at == storages.end()) wrong("its storage " + quoted(s.key) + " is not in the file");
    const std::string_view bytes = zip_bytes(at->second, s.key, what_);
    const std::uint64_t unit = s.type ? s.type->bytes : 1;
    if (s.elements > bytes.size() / unit || bytes.size() != s.elements * unit)
      wrong("its storage " + quoted(s.key) + " has " + std::to_string(bytes.size()) +
            " bytes; it says " + std::to_string(s.elements) + " elements of " +
            std::to_string(unit) + " bytes -> is the download complete?");
    const std::uint64_t room = bytes.size() / type.bytes;
    // Elements, and the last one touched, without overflow.
    Index count = 1, last = 0;
    bool fits = true;
    Index product = 1;
    for (Index d : shape)
      if (d > 0) fits &= !__builtin_mul_overflow(product, d, &product);
    for (Index d : shape) count = d == 0 ? 0 : count;
    if (!fits) wrong("its shape overflows; " + str(shape));
    if (count) count = product;
    for (int i = 0; count && i < shape.rank; ++i) {
      Index reach = 0;
      if (__builtin_mul_overflow(shape.dim[i] - 1, stride.dim[i], &reach) ||
          __builtin_add_overflow(last, reach, &last))
        wrong("its strides overflow; shape " + str(shape) + ", stride " + str(stride));
    }
    std::uint64_t begin = 0, end = 0;
    if (__builtin_add_overflow(first, s.offset, &begin) ||
        __builtin_add_overflow(begin, static_cast<std::uint64_t>(last), &end) ||
        (count && end >= room))
      wrong("it reaches past its storage; shape " + str(shape) + ", stride " + str(stride) +
            ", offset " + std::to_string(first) + " of " + std::to_string(room) + " elements");
    std::uint64_t need = 0;
    if (__builtin_mul_overflow(static_cast<std::uint64_t>(count), std::uint64_t{type.bytes},
                               &need) ||
        __builtin_add_overflow(total_, need, &total_) || total_ > most_)
      fail(ErrorKind::memory,
           what_ + ": tensor " + quoted(name) +
               ": the tensors are far larger together than the file; more than " +
               std::to_string(most_) + " bytes -> they share their memory");
    AnyTensor t;
    t.dtype = type.is;
    t.shape = shape;
    t.bytes = static_cast<std::size_t>(need);
    t.owner = owner_;
    const std::byte* from = reinterpret_cast<const std::byte*>(bytes.data());
    const Shape plain = row_major(shape);
    bool contiguous = !big_endian || type.bytes == 1;
    for (int i = 0; i < shape.rank; ++i)
      contiguous &= shape.dim[i] == 1 || stride.dim[i] == plain.dim[i];
    if (count == 0) return t;
    if (contiguous) {
      t.data = from + begin * type.bytes;
      return t;
    }
    auto copy = std::make_shared<std::vector<std::byte>>(t.bytes);
    gather(from + begin * type.bytes, copy->data(), shape, stride, type);
    t.data = copy->data();
    t.owner = copy;
    return t;
  }

  void gather(const std::byte* from, std::byte* to, const Shape& shape, const Shape& stride,
              const TorchType& type) const {
    Shape at;
    at.rank = shape.rank;
    const std::size_t unit = type.bytes, half = type.dtype[0] == 'c' ? unit / 2 : unit;
    const Index n = shape.numel();
    Index offset = 0;
    for (Index i = 0; i < n; ++i) {
      const std::byte* x = from + static_cast<std::size_t>(offset) * unit;
      if (!big_endian) {
        std::memcpy(to, x, unit);
      } else {  // of a complex number, each half
        for (std::size_t b = 0; b < unit; ++b) to[b] = x[b / half * half + half - 1 - b % half];
      }
      to += unit;
      for (int a = shape.rank - 1; a >= 0; --a) {
        offset += stride.dim[a];
        if (++at.dim[a] < shape.dim[a]) break;
        offset -= at.dim[a] * stride.dim[a];
        at.dim[a] = 0;
      }
    }
  }
  static constexpr int max_depth = 64;
};

}  // namespace detail

}  // namespace moraine
