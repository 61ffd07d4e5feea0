#pragma once
// Which family a file of weights is of, in whose names, and under which prefix: told by the names
// of its tensors alone (recipes/name_maps.hpp).
#include <algorithm>
#include <cstddef>
#include <map>
#include <moraine/core/any_tensor.hpp>
#include <moraine/nn/module.hpp>
#include <moraine/recipes/name_maps.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

/// What was recognised. `family` is null when nothing was.
struct RecognisedWeights {
  const NameFamily* family = nullptr;
  Naming naming = Naming::hf;
  std::string prefix;  ///< in front of every name, to be taken off: "module.", "teacher.backbone."
  bool bare = false;   ///< the first part's own prefix is not there: a tower saved alone
  std::size_t known = 0;  ///< names that a row of the table has
  std::string what() const {
    return family ? std::string(family->name) + " in the names of " + name_of(naming) : "unknown";
  }
};

namespace detail {

/// Words of a text separated by blanks.
inline std::vector<std::string> words_of(const char* text) {
  std::vector<std::string> out;
  std::string word;
  for (const char* p = text;; ++p) {
    if (*p && *p != ' ') {
      word += *p;
      continue;
    }
    if (!word.empty()) out.push_back(std::move(word));
    word.clear();
    if (!*p) return out;
  }
}

/// One piece of a cell.
struct NamePiece {
  std::string name;         ///< pattern, with the part's prefix
  int rank = 0;             ///< ~2
  bool transposed = false;  ///< ~T
  bool zeros = false;       ///< 0
};
inline std::vector<NamePiece> pieces_of(const char* cell, const char* prefix) {
  std::vector<NamePiece> out;
  std::string text = cell;
  while (!text.empty()) {
    const std::size_t bar = text.find('|');
    std::string piece = text.substr(0, bar);
    text = bar == std::string::npos ? "" : text.substr(bar + 1);
    NamePiece p;
    if (piece == "0") {
      p.zeros = true;
    } else {
      if (const std::size_t at = piece.find('~'); at != std::string::npos) {
        if (piece[at + 1] == 'T')
          p.transposed = true;
        else
          p.rank = piece[at + 1] - '0';
        piece.resize(at);
      }
      p.name = prefix + piece;
    }
    out.push_back(std::move(p));
  }
  return out;
}

/// What {i} and * stand for.
struct NameMatch {
  std::string number, end;
  bool operator<(const NameMatch& o) const {
    return number != o.number ? number < o.number : end < o.end;
  }
};
/// Whether a name has the form of a pattern; * is "weight" or "bias" only.
inline bool match_name(std::string_view pattern, std::string_view name, NameMatch& m) {
  m = {};
  std::size_t p = 0, n = 0;
  while (p < pattern.size()) {
    if (pattern.substr(p).starts_with("{i}")) {
      const std::size_t from = n;
      while (n < name.size() && name[n] >= '0' && name[n] <= '9') ++n;
      if (n == from || n - from > 4) return false;
      m.number = std::string(name.substr(from, n - from));
      p += 3;
    } else if (pattern[p] == '*') {
      m.end = std::string(name.substr(n));
      return m.end == "weight" || m.end == "bias";
    } else {
      if (n == name.size() || name[n++] != pattern[p++]) return false;
    }
  }
  return n == name.size();
}
inline std::string fill_name(const std::string& pattern, const NameMatch& m) {
  std::string out = pattern;
  if (const std::size_t at = out.find("{i}"); at != std::string::npos) out.replace(at, 3, m.number);
  if (!out.empty() && out.back() == '*') out.replace(out.size() - 1, 1, m.end);
  return out;
}

/// The rows of a family in one naming, ready to match.
struct NameTable {
  struct Row {
    std::vector<NamePiece> pieces[namings];
  };
  std::vector<Row> rows;
  std::vector<std::string> ignored;

  NameTable(const NameFamily& f, Naming from, bool bare) {
    for (int i = 0; i < f.count; ++i) {
      const NamePart& part = f.parts[i];
      for (int r = 0; r < part.count; ++r) {
        Row row;
        for (int n = 0; n < namings; ++n)
          row.pieces[n] =
              pieces_of(part.rows[r].cell[n],
                        bare && i == 0 && n == static_cast<int>(from) ? "" : part.prefix[n]);
        rows.push_back(std::move(row));
      }
    }
    ignored = words_of(f.ignored);
  }
  bool ignores(const std::string& name) const {
    for (const std::string& g : ignored)
      if (matches(g.c_str(), name.c_str())) return true;
    return false;
  }
  /// The row and piece that a name is; false: none.
  bool find(const std::string& name, Naming from, std::size_t& row, std::size_t& piece,
            NameMatch& m) const {
    for (row = 0; row < rows.size(); ++row) {
      const std::vector<NamePiece>& all = rows[row].pieces[static_cast<int>(from)];
      for (piece = 0; piece < all.size(); ++piece)
        if (!all[piece].zeros && match_name(all[piece].name, name, m)) return true;
    }
    return false;
  }
};

/// Whether a file has what a family's sign asks for.
inline bool has_sign(const char* sign, const std::string& prefix, const TensorMap& map) {
  for (std::string word : words_of(sign)) {
    const bool no = word[0] == '!';
    if (no) word.erase(0, 1);
    const std::size_t percent = word.find('%');
    const auto a = map.find(prefix + word.substr(0, percent));
    bool is = a != map.end();
    if (is && percent != std::string::npos) {
      const auto b = map.find(prefix + word.substr(percent + 1));
      is = b != map.end() && a->second.shape.rank == 2 && b->second.shape.rank == 2 &&
           a->second.shape.dim[0] == 2 * b->second.shape.dim[1];
    }
    if (is == no) return false;
  }
  return true;
}

/// Names that a model has while it is trained, as its files have them: DINOv2's blocks in chunks,
/// "blocks.1.7." as "blocks.7."; and the projections of transformers 5, whose save_pretrained
/// writes attention.attention.query where state_dict() says attention.q_proj.
inline std::string name_in_file(const std::string& name) {
  std::size_t at = name.find("blocks."), p = at + 7;
  const auto digits = [&] {
    const std::size_t from = p;
    while (p < name.size() && name[p] >= '0' && name[p] <= '9') ++p;
    return p > from;
  };
  if (at != std::string::npos && digits() && p + 1 < name.size() && name[p] == '.' &&
      name[p + 1] >= '0' && name[p + 1] <= '9')
    return name.substr(0, at + 7) + name.substr(p + 1);
  at = name.find("encoder.layer.");
  p = at + 14;
  if (at == std::string::npos || !digits()) return name;
  struct Pair {
    const char *there, *here;
  };
  for (const Pair& r : {Pair{".attention.q_proj.", ".attention.attention.query."},
                        Pair{".attention.k_proj.", ".attention.attention.key."},
                        Pair{".attention.v_proj.", ".attention.attention.value."},
                        Pair{".attention.o_proj.", ".attention.output.dense."}}) {
    const std::string there = r.there;
    if (name.compare(p, there.size(), there) == 0)
      return name.substr(0, p) + r.here + name.substr(p + there.size());
  }
  return name;
}

}  // namespace detail

/// Tells a file by its names. Of several families that fit, the one that knows most names.
inline RecognisedWeights recognise_weights(const TensorMap& tensors) {
  TensorMap map;
  for (const auto& [key, t] : tensors) map.emplace(detail::name_in_file(key), t);
  static constexpr const char* prefixes[] = {"",
                                             "module.",
                                             "model.",
                                             "backbone.",
                                             "encoder.",
                                             "student.",
                                             "teacher.",
                                             "teacher.backbone.",
                                             "student.backbone.",
                                             "model.backbone.",
                                             "module.backbone.",
                                             "model.encoder.",
                                             "pipeline.",
                                             "dinov2.",
                                             "dinov2_with_registers.",
                                             "dinov3_vit.",
                                             "model.visual.",
                                             "timm_model.",
                                             "visual.trunk."};
  RecognisedWeights best;
  for (const NameFamily& f : name_families)
    for (int n = 0; n < namings; ++n) {
      if (!f.sign[n]) continue;
      const std::string own = f.parts[0].prefix[n];
      for (const char* prefix : prefixes)
        for (bool bare : {false, true}) {
          if (bare && own.empty()) continue;
          if (!detail::has_sign(f.sign[n], prefix + (bare ? "" : own), map)) continue;
          const detail::NameTable table(f, static_cast<Naming>(n), bare);
          RecognisedWeights r{&f, static_cast<Naming>(n), prefix, bare};
          detail::NameMatch m;
          std::size_t row = 0, piece = 0;
          for (const auto& [key, t] : map)
            if (key.starts_with(r.prefix))
              r.known += table.find(key.substr(r.prefix.size()), r.naming, row, piece, m);
          if (r.known > best.known) best = r;
        }
    }
  return best;
}

}  // namespace moraine
