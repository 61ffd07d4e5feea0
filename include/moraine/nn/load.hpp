#pragma once
// load(module, map): fills a module from named tensors and tells everything that does not fit, in
// one message. Nothing is skipped silently.
#include <moraine/nn/load_report.hpp>
#include <moraine/nn/module.hpp>

#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

/// One line of a key table: a parameter's path and the keys of the file whose rows follow each
/// other in it. What stands for the '*' of `path` (one at most) is put in place of those of `keys`.
/// The key "" stands for rows of zeros that no file holds. Later lines are for what the earlier
/// leave.
///
///   {"blocks.*.norm1.weight", {"layer.*.norm1.weight"}}
///   {"blocks.*.attn.qkv.bias", {"layer.*.q_proj.bias", "", "layer.*.v_proj.bias"}}
struct KeyRow {
  std::string path;
  std::vector<std::string> keys;
  int dropped = 0;  ///< leading axes of size 1 that the file's tensor does not have
};

struct LoadOptions {
  /// Globs of keys in the map that may be left over.
  std::vector<std::string> ignored = {};
  /// The key as it stands in the file, or the keys whose rows follow each other in the parameter
  /// (query, key, value); null: the path itself. Used by load() and save() alike.
  std::vector<std::string> (*keys_of)(const std::string& path) = nullptr;
  /// The same as data; read when keys_of is null.
  std::vector<KeyRow> table = {};
  std::string prefix = "";    ///< in front of every key of the file
  bool may_share = false;     ///< frozen parameters may point into the map's memory (a mapped file)
  const char* what = "load";  ///< first word of messages
};

namespace detail {
/// The line of a table for a path, its stars filled in; the path itself where no line fits.
inline KeyRow look_up(const std::vector<KeyRow>& table, const std::string& path) {
  for (const KeyRow& row : table) {
    const std::size_t star = row.path.find('*');
    const std::string head = row.path.substr(0, star);
    const std::string tail = star == std::string::npos ? "" : row.path.substr(star + 1);
    if (star == std::string::npos ? path != head
                                  : path.size() < head.size() + tail.size() ||
                                        path.rfind(head, 0) != 0 || !path.ends_with(tail))
      continue;
    const std::string middle =
        star == std::string::npos
            ? ""
            : path.substr(head.size(), path.size() - head.size() - tail.size());
    KeyRow found{path, row.keys, row.dropped};
    for (std::string& k : found.keys) {
      const std::size_t at = k.find('*');
      if (at != std::string::npos) k.replace(at, 1, middle);
    }
    return found;
  }
  return {path, {path}};
}
}  // namespace detail

/// Where the file holds the parameter at `path`: keys with their prefix ("": rows of zeros).
inline KeyRow row_for(const LoadOptions& o, const std::string& path) {
  KeyRow row = o.keys_of ? KeyRow{path, o.keys_of(path)} : detail::look_up(o.table, path);
  for (std::string& k : row.keys)
    if (!k.empty()) k = o.prefix + k;
  return row;
}
inline std::vector<std::string> keys_for(const LoadOptions& o, const std::string& path) {
  return row_for(o, path).keys;
}
/// The shape in the file of each piece of a parameter.
inline Shape piece_shape(const KeyRow& row, Shape whole) {
  if (row.keys.size() > 1) whole.dim[0] /= static_cast<Index>(row.keys.size());
  for (int i = 0; i < row.dropped; ++i) whole.erase(0);
  return whole;
}

namespace detail {
/// Adds one parameter to the account: the keys it came from, null for zeros.
inline void account(LoadReport& report, const KeyRow& from,
                    const std::vector<const AnyTensor*>& rows, Dtype to, const Shape& shape) {
  std::string all;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::string& key = from.keys[i];
    all += (i ? " + " : "") + (rows[i] ? key : std::string("zeros"));
    if (!rows[i]) continue;
    ++report.tensors;
    report.used.push_back(key);
    if (rows[i]->dtype != to) {
      ++report.converted;
      report.conversions.push_back(key + ": " + name_of(rows[i]->dtype) + " -> " + name_of(to));
    }
    if (from.dropped)
      report.reshaped.push_back(key + ": " + str(rows[i]->shape) + " -> " + str(shape));
  }
  if (rows.size() > 1) report.joined.push_back(from.path + ": " + all);
}
}  // namespace detail

/// Reads every parameter and buffer of the module from the map; F32, F64, F16 and BF16 are
/// converted to T exactly or by rounding. Throws ErrorKind::key when one is missing, has another
/// shape or no floating type, or when a key is left over that no glob in `ignored` names; the
/// message lists the first few of each kind, with the nearest name where one is near. The module is
/// changed only if everything fits. The account is also added to the LoadAccount that is open.
template <class T, class M>
LoadReport load(M& module, const TensorMap& map, const LoadOptions& o = {}) {
  struct Fill final : Visitor<T> {
    const TensorMap& map;
    const LoadOptions& o;
    struct Piece {
      Tensor<T>* tensor;
      std::vector<const AnyTensor*> rows;  // null: zeros
      KeyRow from;
    };
    std::vector<Piece> todo;
    std::set<std::string> used;
    std::vector<std::string> missing, shapes, dtypes;
    Fill(const TensorMap& m, const LoadOptions& opt) : map(m), o(opt) {}
    void parameter(const std::string& path, Tensor<T>& t) override {
      const KeyRow row = row_for(o, path);
      const Shape expected = piece_shape(row, t.shape());
      Piece piece{&t, {}, row};
      for (const std::string& key : row.keys) {
        if (key.empty()) {
          piece.rows.push_back(nullptr);
          continue;
        }
        const auto it = map.find(key);
        if (it == map.end()) {
          missing.push_back(key);
          continue;
        }
        used.insert(key);
        if (it->second.shape != expected)
          shapes.push_back(key + " (expected " + str(expected) + ", found " +
                           str(it->second.shape) + ")");
        else if (!is_float(it->second.dtype))
          dtypes.push_back(key + " (" + name_of(it->second.dtype) + ")");
        else
          piece.rows.push_back(&it->second);
      }
      todo.push_back(std::move(piece));
    }
    void buffer(const std::string& path, Tensor<T>& t) override { parameter(path, t); }
  } v(map, o);
  module.visit(v);

  LoadReport report;
  std::vector<std::string> unexpected;
  for (const auto& [key, value] : map) {
    if (v.used.count(key)) continue;
    bool known = false;
    for (const std::string& glob : o.ignored) known |= matches(glob.c_str(), key.c_str());
    (known ? report.ignored : unexpected).push_back(key);
  }
  const std::string wrong = detail::misfit(v.missing, v.shapes, v.dtypes, unexpected);
  if (!wrong.empty())
    fail(ErrorKind::key, std::string(o.what) + ": the weights do not fit the model; " + wrong);

  for (auto& [tensor, rows, from] : v.todo) {
    const bool tracked = tensor->tracked();
    Tensor<T> t;
    if (rows.size() == 1 && rows[0]) t = rows[0]->template as<T>().reshaped(tensor->shape());
    if (!t.defined()) {
      t = Tensor<T>::zeros(tensor->shape());
      T* to = t.data();
      for (const AnyTensor* r : rows) {
        if (!r) {
          to += t.numel() / static_cast<Index>(rows.size());
          continue;
        }
        const Tensor<T> part = r->template as<T>();
        if (part.numel())
          std::memcpy(to, part.data(), static_cast<std::size_t>(part.numel()) * sizeof(T));
        to += part.numel();
      }
    } else if (t.storage()->borrowed() && (tracked || !o.may_share)) {
      t = t.clone();
    }
    report.shared += t.storage()->borrowed();
    detail::account(report, from, rows, dtype_of<T>, tensor->shape());
    if (tracked) t.requires_grad();
    *tensor = t;
  }
  if (LoadReport* listener = load_listener()) detail::add_report(*listener, report);
  return report;
}

/// The inverse of load(): the module's tensors under the names of the file, fused rows taken apart.
template <class T, class M>
TensorMap save(M& module, const LoadOptions& o = {}) {
  TensorMap out;
  for (const auto& [path, value] : state<T>(module)) {
    const KeyRow row = row_for(o, path);
    AnyTensor piece = value;
    piece.shape = piece_shape(row, value.shape);
    piece.bytes = value.bytes / row.keys.size();
    for (std::size_t i = 0; i < row.keys.size(); ++i) {
      piece.data = value.data + i * piece.bytes;
      if (!row.keys[i].empty()) out.emplace(row.keys[i], piece);
    }
  }
  return out;
}

}  // namespace moraine
