#pragma once
// Weights from one naming into another: renames, takes fused rows apart or puts them together,
// transposes, and accounts for every tensor. What `moraine convert` does between reading and
// writing.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <map>
#include <memory>
#include <moraine/core/any_tensor.hpp>
#include <moraine/io/file.hpp>
#include <moraine/recipes/recognise_weights.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

struct ConvertOptions {
  bool rename = false;  ///< false: names stay, and nothing needs to be recognised
  Naming to = Naming::hf;
  std::string prefix = "";             ///< only names that begin so, without it
  std::vector<std::string> drop = {};  ///< globs of names that are left out
  bool convert = false;                ///< floating tensors become `dtype`
  Dtype dtype = Dtype::f32;
};

/// What became of every tensor of the file.
struct ConvertReport {
  RecognisedWeights from;
  std::vector<std::string> kept;                             ///< under the same name
  std::vector<std::pair<std::string, std::string>> renamed;  ///< old (or olds), new (or news)
  std::vector<std::pair<std::string, std::string>> dropped;  ///< name, why
  std::vector<std::string> converted;                        ///< to another element type
  std::vector<std::string> notes;
};
struct Converted {
  TensorMap tensors;
  ConvertReport report;
};

namespace detail {

inline AnyTensor owned_bytes(Dtype dtype, const Shape& shape, std::byte*& to) {
  AnyTensor t;
  t.dtype = dtype;
  t.shape = shape;
  t.bytes = static_cast<std::size_t>(shape.numel()) * static_cast<std::size_t>(size_of(dtype));
  auto bytes = std::make_shared<std::vector<std::byte>>(t.bytes);
  to = bytes->data();
  t.data = to;
  t.owner = std::move(bytes);
  return t;
}
inline AnyTensor transposed(const AnyTensor& t, const std::string& key) {
  if (t.shape.rank != 2)
    fail(ErrorKind::key, "convert: " + key + " must be a matrix; its shape is " + str(t.shape));
  std::byte* to = nullptr;
  const Index r = t.shape.dim[0], c = t.shape.dim[1];
  AnyTensor out = owned_bytes(t.dtype, {c, r}, to);
  const auto unit = static_cast<std::size_t>(size_of(t.dtype));
  for (Index i = 0; i < c; ++i)
    for (Index j = 0; j < r; ++j, to += unit)
      std::memcpy(to, t.data + static_cast<std::size_t>(j * c + i) * unit, unit);
  return out;
}
/// The same bytes with ones in front, or without them.
inline AnyTensor with_rank(AnyTensor t, int rank, const std::string& key) {
  while (t.shape.rank > rank && t.shape.dim[0] == 1) t.shape.erase(0);
  while (t.shape.rank < rank) t.shape.insert(0, 1);
  if (t.shape.rank != rank)
    fail(ErrorKind::key, "convert: " + key + " cannot have " + std::to_string(rank) +
                             " axes; its shape is " + str(t.shape));
  return t;
}
inline std::string joined(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& n : names) out += (out.empty() ? "" : " + ") + n;
  return out;
}

/// Tensors of a file by piece of a row; no tensor and no name where a piece is not stored.
struct FoundPieces {
  std::vector<const AnyTensor*> have;
  std::vector<std::string> names;  ///< as the file has them, without the prefix
  const std::string& any_name() const {
    std::size_t i = 0;
    while (i + 1 < names.size() && names[i].empty()) ++i;
    return names[i];
  }
};

/// Pieces of one naming -> pieces of another, rows following each other.
inline void convert_row(const std::vector<NamePiece>& from, const std::vector<NamePiece>& to,
                        const NameMatch& m, const FoundPieces& found, Converted& out) {
  std::vector<std::string> olds, news;
  std::vector<AnyTensor> rows;
  for (std::size_t i = 0; i < from.size(); ++i) {
    if (from[i].zeros) {
      rows.emplace_back();  // filled below, when a neighbour's shape is known
      continue;
    }
    AnyTensor t = *found.have[i];
    if (from[i].transposed) t = transposed(t, found.names[i]);
    rows.push_back(std::move(t));
    olds.push_back(found.names[i]);
  }
  const AnyTensor* sample = nullptr;
  for (std::size_t i = 0; i < from.size(); ++i)
    if (!from[i].zeros) sample = &rows[i];
  for (std::size_t i = 0; i < from.size(); ++i) {
    if (from[i].zeros) {
      std::byte* at = nullptr;
      AnyTensor t = owned_bytes(sample->dtype, sample->shape, at);
      rows[i] = std::move(t);
    } else if (rows[i].dtype != sample->dtype || rows[i].shape != sample->shape) {
      fail(ErrorKind::key, "convert: " + joined(olds) + " are parts of one tensor and differ; " +
                               str(rows[i].shape) + " and " + str(sample->shape));
    }
  }
  // One piece into several, several into one; as many as before stay what they are.
  std::vector<AnyTensor> result;
  if (rows.size() == to.size()) {
    result = rows;
  } else {
    AnyTensor whole = rows[0];
    if (rows.size() > 1) {
      Shape shape = whole.shape;
      if (shape.rank == 0) fail(ErrorKind::key, "convert: " + joined(olds) + " have no rows");
      shape.dim[0] *= static_cast<Index>(rows.size());
      std::byte* at = nullptr;
      whole = owned_bytes(rows[0].dtype, shape, at);
      for (const AnyTensor& r : rows) {
        if (r.bytes) std::memcpy(at, r.data, r.bytes);
        at += r.bytes;
      }
    }
    const auto n = static_cast<Index>(to.size());
    if (n > 1 && (whole.shape.rank == 0 || whole.shape.dim[0] % n))
      fail(ErrorKind::key, "convert: " + joined(olds) + " does not have " + std::to_string(n) +
                               " equal parts; its shape is " + str(whole.shape));
    AnyTensor part = whole;
    if (n > 1) part.shape.dim[0] /= n;
    part.bytes /= to.size();
    for (std::size_t i = 0; i < to.size(); ++i) {
      part.data = whole.data + i * part.bytes;
      result.push_back(part);
    }
  }
  for (std::size_t i = 0; i < to.size(); ++i) {
    if (to[i].zeros) continue;  // stored nowhere: the effective value is zero
    const std::string key = fill_name(to[i].name, m);
    AnyTensor t = std::move(result[i]);
    if (to[i].transposed) t = transposed(t, key);
    if (to[i].rank) t = with_rank(std::move(t), to[i].rank, key);
    news.push_back(key);
    if (!out.tensors.emplace(key, std::move(t)).second)
      fail(ErrorKind::key, "convert: two tensors become " + key + "; one is " + joined(olds));
  }
  if (olds == news)
    out.report.kept.insert(out.report.kept.end(), olds.begin(), olds.end());
  else
    out.report.renamed.emplace_back(joined(olds), joined(news));
}

inline bool all_zero(const AnyTensor& t) {
  if (!is_float(t.dtype)) return false;
  const std::vector<float> v = t.as<float>().values();
  return std::all_of(v.begin(), v.end(), [](float x) { return x == 0; });
}

/// timm's DINOv2 with registers has the position of CLS inside cls_token, and none in the table.
inline void fold_timm_registers(Converted& out, bool to_timm) {
  const char* table = to_timm ? "pos_embed" : nullptr;
  for (const char* k : {"embeddings.position_embeddings", "pos_embed"})
    if (!table && out.tensors.count(k)) table = k;
  const char* token = out.tensors.count("cls_token") ? "cls_token" : "embeddings.cls_token";
  if (!table || !out.tensors.count(token)) return;
  AnyTensor &pos = out.tensors[table], &cls = out.tensors[token];
  if (pos.shape.rank != 3 || cls.shape.numel() != pos.shape.dim[2] || !is_float(pos.dtype)) return;
  const Tensor<float> p = pos.as<float>(), c = cls.as<float>();
  const Index n = p.size(1), d = p.size(2);
  Tensor<float> q = Tensor<float>::zeros({1, to_timm ? n - 1 : n + 1, d}), e = c.clone();
  if (to_timm) {
    for (Index i = 0; i < d; ++i) e.data()[i] += p.data()[i];
    std::memcpy(q.data(), p.data() + d, static_cast<std::size_t>((n - 1) * d) * sizeof(float));
  } else {
    std::memcpy(q.data() + d, p.data(), static_cast<std::size_t>(n * d) * sizeof(float));
  }
  pos = AnyTensor(q), cls = AnyTensor(e);
  out.report.notes.push_back(
      to_timm ? "the position of CLS was added to cls_token, as timm has it with registers"
              : "timm has the position of CLS inside cls_token: its row of the table is zero");
}

inline void rename_all(const TensorMap& map, const ConvertOptions& o, Converted& out) {
  const RecognisedWeights& r = out.report.from;
  const NameFamily& f = *r.family;
  const int from = static_cast<int>(r.naming), to = static_cast<int>(o.to);
  const NameTable table(f, r.naming, r.bare);
  std::map<std::pair<std::size_t, NameMatch>, FoundPieces> found;
  std::vector<std::string> strangers;
  for (const auto& [key, t] : map) {
    if (!key.starts_with(r.prefix)) {
      out.report.dropped.emplace_back(key, "not below " + r.prefix);
      continue;
    }
    const std::string name = name_in_file(key.substr(r.prefix.size()));
    std::size_t row = 0, piece = 0;
    NameMatch m;
    if (table.find(name, r.naming, row, piece, m)) {
      FoundPieces& x = found[{row, m}];
      x.have.resize(table.rows[row].pieces[from].size());
      x.names.resize(x.have.size());
      if (x.have[piece])
        fail(ErrorKind::key, "convert: two tensors are " + name + "; one is " + key);
      x.have[piece] = &t;
      x.names[piece] = key.substr(r.prefix.size());
    } else if (table.ignores(name)) {
      out.report.dropped.emplace_back(key, "no part of the backbone");
      if (name == "head.bias" && std::string(f.name) == "clip" && !all_zero(t))
        out.report.notes.push_back(key +
                                   " is not zero: the head is a classifier's, and becomes "
                                   "visual_projection without its bias");
    } else {
      strangers.push_back(key);
    }
  }
  if (!strangers.empty())
    fail(ErrorKind::key,
         "convert: " + std::to_string(strangers.size()) + " names are not of " + r.what() + "; " +
             joined({strangers.begin(),
                     strangers.begin() +
                         static_cast<std::ptrdiff_t>(std::min<std::size_t>(4, strangers.size()))}) +
             (strangers.size() > 4 ? " ..." : "") +
             " -> leave them out with --drop, or keep all names without --to");
  for (const auto& [at, x] : found) {
    const NameTable::Row& row = table.rows[at.first];
    for (std::size_t i = 0; i < x.have.size(); ++i)
      if (!x.have[i] && !row.pieces[from][i].zeros)
        fail(ErrorKind::key, "convert: " + r.prefix +
                                 fill_name(row.pieces[from][i].name, at.second) +
                                 " is missing beside " + r.prefix + x.any_name());
    if (row.pieces[to].empty()) {
      for (const std::string& name : x.names)
        if (!name.empty())
          out.report.dropped.emplace_back(r.prefix + name,
                                          std::string(name_of(o.to)) + " has no such tensor");
      continue;
    }
    convert_row(row.pieces[from], row.pieces[to], at.second, x, out);
  }
  if (r.naming == Naming::meta && o.to != Naming::meta && std::string(f.name).starts_with("dinov3"))
    out.report.notes.push_back("the bias of keys, masked to zero in the file, is left out");
  // A table of positions that lacks the row of CLS, beside registers, is timm's.
  if (std::string(f.name).starts_with("dinov2") && r.naming != o.to) {
    const bool registers = out.tensors.count("reg_token") ||
                           out.tensors.count("embeddings.register_tokens") ||
                           out.tensors.count("register_tokens");
    if (registers && r.naming == Naming::timm) fold_timm_registers(out, false);
    if (registers && o.to == Naming::timm) fold_timm_registers(out, true);
  }
  if (o.to == Naming::timm && std::string(f.name).starts_with("dinov3")) {
    std::vector<std::string> biases;
    bool zero = true;
    for (const auto& [key, t] : out.tensors)
      if (key.ends_with(".attn.q_bias") || key.ends_with(".attn.v_bias")) {
        biases.push_back(key);
        zero &= all_zero(t);
      }
    if (!biases.empty() && zero) {
      for (const std::string& b : biases) out.tensors.erase(b);
      out.report.notes.push_back(std::to_string(biases.size()) +
                                 " biases of queries and values are all zero and left out: the "
                                 "timm model without _qkvb");
    }
  }
}

}  // namespace detail

/// Converts the tensors of a file. Throws ErrorKind::key when `rename` is asked for and the family
/// is not recognised, has no such naming, or holds a name that is not in its table.
inline Converted convert_weights(const TensorMap& tensors, const ConvertOptions& o = {}) {
  Converted out;
  TensorMap map;
  for (const auto& [key, t] : tensors) {
    if (!key.starts_with(o.prefix)) {
      out.report.dropped.emplace_back(key, "not below " + o.prefix);
      continue;
    }
    const std::string name = key.substr(o.prefix.size());
    bool dropped = false;
    for (const std::string& g : o.drop) dropped |= matches(g.c_str(), name.c_str());
    if (dropped)
      out.report.dropped.emplace_back(key, "asked for");
    else
      map.emplace(name, t);
  }
  if (map.empty())
    fail(ErrorKind::key, "convert: nothing is left; " + std::to_string(tensors.size()) +
                             " tensors, none below " + quoted(o.prefix));
  out.report.from = recognise_weights(map);
  if (o.rename) {
    const RecognisedWeights& r = out.report.from;
    if (!r.family) {
      std::string families;
      for (const NameFamily& f : name_families)
        families += (families.empty() ? "" : ", ") + std::string(f.name);
      fail(ErrorKind::key,
           "convert: the family of the weights is not recognised; the first name is " +
               quoted(map.begin()->first) + ", known are " + families +
               " -> keep all names without --to, or name a --prefix");
    }
    if (!r.family->sign[static_cast<int>(o.to)])
      fail(ErrorKind::key, std::string("convert: ") + r.family->name + " has no names of " +
                               name_of(o.to) + "; it is in those of " + name_of(r.naming));
    detail::rename_all(map, o, out);
  } else {
    for (const auto& [key, t] : map) {
      if (o.prefix.empty())
        out.report.kept.push_back(key);
      else
        out.report.renamed.emplace_back(o.prefix + key, key);
    }
    out.tensors = std::move(map);
  }
  if (o.convert)
    for (auto& entry : out.tensors) {  // no binding: clang 14 lets no lambda capture one
      const std::string& key = entry.first;
      AnyTensor& t = entry.second;
      if (!is_float(t.dtype) || t.dtype == o.dtype) continue;
      std::size_t lost = 0;
      const AnyTensor before = t;
      visit(o.dtype, [&](auto zero) {
        using S = decltype(zero);
        if constexpr (dtype_of<S> == Dtype::f16 || dtype_of<S> == Dtype::bf16 ||
                      dtype_of<S> == Dtype::f32) {
          const Tensor<S> as = before.as<S>();
          const Tensor<double> exact = before.as<double>();
          for (Index i = 0; i < as.numel(); ++i)
            lost +=
                std::isfinite(exact.data()[i]) && !std::isfinite(static_cast<float>(as.data()[i]));
          t = AnyTensor(as);
        } else {
          fail(ErrorKind::dtype, "convert: weights become F32, F16 or BF16");
        }
      });
      out.report.converted.push_back(key);
      if (lost)
        out.report.notes.push_back(std::to_string(lost) + " values of " + key +
                                   " are too large for " + name_of(o.dtype) +
                                   " and became infinite");
    }
  return out;
}

}  // namespace moraine
