#pragma once
// LoRA in the layout of the peft package (adapter_model.safetensors and adapter_config.json), both
// ways. Keys there are base_model.model.<module>.lora_A.weight (r,in) and .lora_B.weight (out,r);
// the update is alpha/r B A x, or alpha/sqrt(r) with use_rslora.
//
// Where another library has three layers (query, key, value) our trunk has one with their rows one
// after the other. Adapters of some of the three become one of the fused layer: their A's above
// each other, each B in the rows of its own layer and the columns of its own A, zeros elsewhere.
// That is the same update, exactly. The way back gives each layer its rows and the columns that are
// not zero there, so a file that was read is written as it was; an adapter trained on the fused
// layer becomes three that share an A.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <moraine/io/json.hpp>
#include <moraine/io/safetensors.hpp>
#include <moraine/nn/slot.hpp>
#include <moraine/peft/lora.hpp>
#include <moraine/recipes/lora_names.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

/// One adapted layer of a file: out = ... + scale B A x.
struct LoraPair {
  AnyTensor a, b;  ///< (r,in), (out,r)
  double scale = 1;
};
/// An adapter in peft's terms: module -> pair; modules as they stand in the file, without
/// "base_model.model.".
struct LoraAdapter {
  std::map<std::string, LoraPair> modules;
  std::string base;  ///< base_model_name_or_path; "" is not stated
  std::string
      fingerprint;  ///< of the base it was trained on (weights_fingerprint); "" is not stated
};

namespace detail {

inline std::string with_number(std::string pattern, const std::string& number) {
  for (std::size_t at; (at = pattern.find("{i}")) != std::string::npos;)
    pattern.replace(at, 3, number);
  return pattern;
}
/// Whether `path` is `end` or ends with "." + end.
inline bool path_ends(const std::string& path, const std::string& end) {
  return path == end || (path.size() > end.size() && path.ends_with(end) &&
                         path[path.size() - end.size() - 1] == '.');
}
/// The number of the block in a path that ends as the pattern says; "" when it does not.
inline std::string block_number(const std::string& pattern, const std::string& path) {
  const std::size_t brace = pattern.find("{i}");
  const std::string head = pattern.substr(0, brace), tail = pattern.substr(brace + 3);
  if (!path.ends_with(tail)) return "";
  std::size_t end = path.size() - tail.size(), from = end;
  while (from > 0 && path[from - 1] >= '0' && path[from - 1] <= '9') --from;
  if (from == end) return "";
  const std::string number = path.substr(from, end - from);
  return path_ends(path, with_number(pattern, number)) ? number : "";
}
inline std::vector<std::string> split_bar(const std::string& s) {
  std::vector<std::string> out;
  for (std::size_t from = 0;;) {
    const std::size_t bar = s.find('|', from);
    out.push_back(s.substr(from, bar - from));
    if (bar == std::string::npos) return out;
    from = bar + 1;
  }
}
template <class T>
std::vector<std::pair<std::string, Slot<T>*>> slots_of(const auto& visit) {
  struct Find final : Visitor<T> {
    std::vector<std::pair<std::string, Slot<T>*>> found;
    void parameter(const std::string&, Tensor<T>&) override {}
    void slot(const std::string& path, Slot<T>& s) override {
      if (!s.empty()) found.push_back({path, &s});
    }
  } v;
  visit(v);
  return std::move(v.found);
}

}  // namespace detail

/// Opens an adapter's folder. Throws ErrorKind::config for what is not plain LoRA (DoRA, trained
/// biases, saved modules, ...), and ErrorKind::key for keys that are no pair of A and B.
inline LoraAdapter read_lora(const std::string& directory) {
  const std::string file = directory + "/adapter_config.json", name = "adapter_config.json";
  const Json c = read_json(file);
  const auto refuse = [&](const std::string& field, const std::string& why) {
    fail(ErrorKind::config, name + ": " + field + " " + why);
  };
  if (!c.is_object()) refuse("the top level", "must be an object");
  const auto set = [&](const char* field) {
    const Json* j = c.find(field);
    return j && !j->is_null() && !(j->is_bool() && !j->as_bool()) &&
           !(j->is_array() && j->as_array().empty()) && !(j->is_object() && j->as_object().empty());
  };
  const Json* type = c.find("peft_type");
  if (!type || !type->is_string() || type->as_string() != "LORA")
    refuse("peft_type", "must be \"LORA\"; other adapters are not read");
  for (const char* field : {"use_dora", "fan_in_fan_out", "modules_to_save", "lora_bias",
                            "layer_replication", "use_qalora", "use_bdlora", "target_parameters",
                            "trainable_token_indices", "megatron_config"})
    if (set(field)) refuse(field, "is set; only plain LoRA of linear layers is read");
  if (const Json* bias = c.find("bias"); bias && bias->is_string() && bias->as_string() != "none")
    refuse("bias", "\"" + bias->as_string() + "\" is not supported; only \"none\" is");
  const auto number = [&](const char* field) {
    const Json* j = c.find(field);
    if (!j || !j->is_number()) refuse(field, "must be a number");
    const double v = j->as_double(field);
    if (!(v > 0 && v < 1e9)) refuse(field, "is out of range; " + number_text(v));
    return v;
  };
  const double alpha = number("lora_alpha");
  (void)number("r");
  const Json* rs = c.find("use_rslora");
  const bool root = rs && rs->is_bool() && rs->as_bool();
  // peft takes the keys for regular expressions that end a module's path.
  const Json* patterns = c.find("alpha_pattern");
  if (patterns && patterns->is_object())
    for (const JsonMember& m : patterns->as_object()) {
      if (m.key.find_first_of("*+?[](){}|\\^$") != std::string::npos)
        refuse("alpha_pattern", quoted(m.key) +
                                    " is a regular expression; only plain names are "
                                    "read");
      if (!m.value.is_number()) refuse("alpha_pattern", quoted(m.key) + " must be a number");
    }

  LoraAdapter out;
  if (const Json* base = c.find("base_model_name_or_path"); base && base->is_string())
    out.base = base->as_string();
  const SafetensorsFile weights = read_safetensors(directory + "/adapter_model.safetensors");
  const std::string what = "adapter_model.safetensors";
  if (const auto at = weights.metadata.find("moraine.base"); at != weights.metadata.end())
    out.fingerprint = at->second;
  for (const auto& [key, t] : weights.tensors) {
    std::string module = key;
    if (module.starts_with("base_model.model.")) module.erase(0, 17);
    const bool a = module.ends_with(".lora_A.weight"), b = module.ends_with(".lora_B.weight");
    if (!a && !b)
      fail(ErrorKind::key, what + ": " + key +
                               " is no lora_A.weight or lora_B.weight; only plain "
                               "LoRA of linear layers is read");
    if (t.shape.rank != 2 || !is_float(t.dtype))
      fail(ErrorKind::key, what + ": " + key + " must be a matrix of floating numbers; " +
                               str(t.shape) + " of " + name_of(t.dtype));
    module.resize(module.size() - 14);
    (a ? out.modules[module].a : out.modules[module].b) = t;
  }
  if (out.modules.empty()) fail(ErrorKind::key, what + ": it holds no adapter; 0 tensors");
  for (auto& [module, p] : out.modules) {
    if (!p.a.owner || !p.b.owner)
      fail(ErrorKind::key,
           what + ": " + module + (p.a.owner ? ".lora_B" : ".lora_A") + ".weight is missing");
    const Index r = p.a.shape.dim[0];
    if (p.b.shape.dim[1] != r || r < 1)
      fail(ErrorKind::key, what + ": " + module + ": the ranks of lora_A " + str(p.a.shape) +
                               " and lora_B " + str(p.b.shape) + " differ");
    double scaled = alpha;
    if (patterns && patterns->is_object())
      for (const JsonMember& m : patterns->as_object())
        if (detail::path_ends(module, m.key)) scaled = m.value.as_double("alpha_pattern");
    p.scale = scaled / (root ? std::sqrt(static_cast<double>(r)) : static_cast<double>(r));
  }
  return out;
}

struct LoraReport {
  std::vector<std::string> slots;    ///< that have an adapter now
  std::vector<std::string> modules;  ///< of the file, all of them
  std::vector<std::string> fused;    ///< slots that hold several of the file's modules
};

/// Puts an adapter into a model's slots; A and B are trained further unless frozen. `fingerprint`:
/// of the model's base, compared where both are known. Throws ErrorKind::key when a module of the
/// adapter is no layer of the model, or of another size, and ErrorKind::value for another base; the
/// model is changed only if everything fits.
template <class T, class M>
LoraReport apply_lora(M& model, const LoraAdapter& adapter, const std::string& fingerprint = "") {
  if (!fingerprint.empty() && !adapter.fingerprint.empty() && fingerprint != adapter.fingerprint)
    fail(ErrorKind::value, "lora: the adapter was trained on another base; its fingerprint is " +
                               adapter.fingerprint + ", this base's is " + fingerprint +
                               (adapter.base.empty() ? "" : " -> load " + quoted(adapter.base)));
  struct Piece {
    const LoraPair* pair;
    std::size_t at, of;
    const std::string* module;
  };
  const auto slots = detail::slots_of<T>([&](Visitor<T>& v) { model.visit(v); });
  std::vector<std::vector<Piece>> todo(slots.size());
  LoraReport report;
  std::string example;
  for (const auto& [module, pair] : adapter.modules) {
    bool found = false;
    for (std::size_t s = 0; s < slots.size() && !found; ++s)
      for (const LoraName& row : lora_names) {
        const std::string n = detail::block_number(row.slot, slots[s].first);
        if (n.empty()) continue;
        const std::vector<std::string> parts =
            detail::split_bar(detail::with_number(row.modules, n));
        for (std::size_t i = 0; i < parts.size() && !found; ++i)
          if (detail::path_ends(module, parts[i])) {
            todo[s].push_back({&pair, i, parts.size(), &module});
            found = true;
          }
        if (found) break;
      }
    if (!found)
      fail(ErrorKind::key, "lora: the model has no layer for " + module + "; it has " +
                               std::to_string(slots.size()) + " layers" +
                               (slots.empty() ? "" : " such as " + slots[0].first) +
                               " -> is the adapter of another family?");
    report.modules.push_back(module);
  }
  struct Made {
    std::size_t slot;
    Tensor<T> a, b;
    double factor;
  };
  std::vector<Made> made;
  for (std::size_t s = 0; s < slots.size(); ++s) {
    if (todo[s].empty()) continue;
    Layer<T>& layer = slots[s].second->layer();
    const Index in = layer.in_features(), out = layer.out_features();
    // Pieces with the same A share its rows.
    std::vector<const LoraPair*> blocks;
    std::vector<std::size_t> block_of(todo[s].size());
    Index rank = 0;
    std::vector<Index> first;
    for (std::size_t k = 0; k < todo[s].size(); ++k) {
      const Piece& p = todo[s][k];
      for (std::size_t j = 0; j < k; ++j)
        if (todo[s][j].at == p.at || todo[s][j].of != p.of)
          fail(ErrorKind::key,
               "lora: " + *todo[s][j].module + " and " + *p.module + " are both " + slots[s].first);
      const Index rows = out / static_cast<Index>(p.of);
      if (p.pair->a.shape.dim[1] != in || p.pair->b.shape.dim[0] != rows)
        fail(ErrorKind::key, "lora: " + *p.module + " is of another size; lora_A " +
                                 str(p.pair->a.shape) + ", lora_B " + str(p.pair->b.shape) +
                                 ", the layer takes " + std::to_string(in) + " and gives " +
                                 std::to_string(rows));
      std::size_t b = 0;
      for (; b < blocks.size(); ++b)
        if (blocks[b]->a.shape == p.pair->a.shape && blocks[b]->a.dtype == p.pair->a.dtype &&
            std::memcmp(blocks[b]->a.data, p.pair->a.data, p.pair->a.bytes) == 0)
          break;
      if (b == blocks.size()) {
        blocks.push_back(p.pair);
        first.push_back(rank);
        rank += p.pair->a.shape.dim[0];
      }
      block_of[k] = b;
    }
    Made m{s, Tensor<T>::empty({rank, in}), Tensor<T>::zeros({out, rank}), todo[s][0].pair->scale};
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      const Tensor<T> a = blocks[b]->a.template as<T>();
      std::memcpy(m.a.data() + first[b] * in, a.data(),
                  static_cast<std::size_t>(a.numel()) * sizeof(T));
    }
    for (std::size_t k = 0; k < todo[s].size(); ++k) {
      const Piece& p = todo[s][k];
      const Tensor<T> b = p.pair->b.template as<T>();
      const Index rows = b.size(0), r = b.size(1);
      const T more = static_cast<T>(p.pair->scale / m.factor);
      for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < r; ++j)
          m.b.data()[(static_cast<Index>(p.at) * rows + i) * rank + first[block_of[k]] + j] =
              b.data()[i * r + j] * more;
    }
    if (dynamic_cast<const Lora<T>*>(&layer))
      fail(ErrorKind::value, "lora: the layer at \"" + slots[s].first + "\" has one already");
    if (todo[s].size() > 1) report.fused.push_back(slots[s].first);
    report.slots.push_back(slots[s].first);
    made.push_back(std::move(m));
  }
  for (Made& m : made)
    slots[m.slot].second->wrap([&](std::unique_ptr<Layer<T>> old) -> std::unique_ptr<Layer<T>> {
      const Index rank = m.a.size(0);
      auto l = std::make_unique<Lora<T>>(
          std::move(old), LoraOptions{.rank = rank, .alpha = m.factor * static_cast<double>(rank)},
          slots[m.slot].first);
      l->a = m.a, l->b = m.b;
      l->factor = static_cast<T>(m.factor);
      l->a.requires_grad();
      l->b.requires_grad();
      return l;
    });
  return report;
}

/// The adapters of a model under the module names of `names`: "dinov2", "dinov3", "clip", "sam",
/// "eva02", "dinov2_transformers4", or "trunk" for our own paths. `prefix` goes in front of each
/// module ("model." for DINOv3 in transformers 5).
template <class T, class M>
LoraAdapter collect_lora(M& model, const std::string& names, const std::string& prefix = "") {
  LoraAdapter out;
  for (const auto& [path, slot] : detail::slots_of<T>([&](Visitor<T>& v) { model.visit(v); })) {
    const auto* l = dynamic_cast<const Lora<T>*>(&slot->layer());
    if (!l) continue;
    const LoraName* row = nullptr;
    std::string n;
    for (const LoraName& r : lora_names)
      if (r.names == names && !row)
        if (n = detail::block_number(r.slot, path); !n.empty()) row = &r;
    if (!row)
      fail(ErrorKind::key, "lora: " + path + " has no name among those of \"" + names +
                               "\" -> write it under \"trunk\"");
    const std::vector<std::string> parts = detail::split_bar(detail::with_number(row->modules, n));
    const Tensor<T> a = l->a.detach().contiguous(), b = l->b.detach().contiguous();
    const Index rank = a.size(0), in = a.size(1),
                rows = b.size(0) / static_cast<Index>(parts.size());
    const auto zero = [&](Index from, Index to, Index column) {
      for (Index i = from; i < to; ++i)
        if (b.data()[i * rank + column] != T(0)) return false;
      return true;
    };
    bool untrained = true;
    for (Index j = 0; j < rank; ++j) untrained &= zero(0, b.size(0), j);
    for (std::size_t p = 0; p < parts.size(); ++p) {
      const Index from = static_cast<Index>(p) * rows;
      std::vector<Index> keep;  // of a fused layer: the columns that this part uses
      for (Index j = 0; j < rank; ++j)
        if (untrained || !zero(from, from + rows, j) || zero(0, b.size(0), j)) keep.push_back(j);
      bool used = untrained;
      for (Index j : keep) used |= !zero(from, from + rows, j);
      if (!used) continue;  // this part has no adapter
      const auto r = static_cast<Index>(keep.size());
      Tensor<T> pa = Tensor<T>::empty({r, in}), pb = Tensor<T>::empty({rows, r});
      for (Index j = 0; j < r; ++j) {
        const Index from_row = keep[static_cast<std::size_t>(j)];
        std::memcpy(pa.data() + j * in, a.data() + from_row * in,
                    static_cast<std::size_t>(in) * sizeof(T));
        for (Index i = 0; i < rows; ++i)
          pb.data()[i * r + j] = b.data()[(from + i) * rank + from_row];
      }
      out.modules[prefix + parts[p]] = {AnyTensor(pa), AnyTensor(pb),
                                        static_cast<double>(l->factor)};
    }
  }
  if (out.modules.empty())
    fail(ErrorKind::value, "lora: the model has no adapter -> inject one, or apply_lora");
  return out;
}

/// Writes an adapter as peft does; the folder must exist. Ranks and scales that differ between
/// modules go into rank_pattern and alpha_pattern.
inline void write_lora(const std::string& directory, const LoraAdapter& adapter) {
  TensorMap map;
  std::map<Index, int> ranks;
  for (const auto& [module, p] : adapter.modules) {
    map.emplace("base_model.model." + module + ".lora_A.weight", p.a);
    map.emplace("base_model.model." + module + ".lora_B.weight", p.b);
    ++ranks[p.a.shape.dim[0]];
  }
  if (ranks.empty()) fail(ErrorKind::value, "lora: the adapter is empty; 0 modules");
  const Index r = std::max_element(ranks.begin(), ranks.end(), [](const auto& a, const auto& b) {
                    return a.second < b.second;
                  })->first;
  const auto alpha_of = [](const LoraPair& p) {
    return p.scale * static_cast<double>(p.a.shape.dim[0]);
  };
  double alpha = 0;
  for (const auto& [module, p] : adapter.modules)
    if (alpha == 0 && p.a.shape.dim[0] == r) alpha = alpha_of(p);
  const auto number = [](double v) {
    return v == std::floor(v) ? Json(static_cast<long long>(v)) : Json(v);
  };
  Json c = Json::object(), targets = Json::array(), rank_pattern = Json::object(),
       alpha_pattern = Json::object();
  for (const auto& [module, p] : adapter.modules) {
    targets.push(module);
    if (p.a.shape.dim[0] != r) rank_pattern.set(module, static_cast<long long>(p.a.shape.dim[0]));
    if (alpha_of(p) != alpha) alpha_pattern.set(module, number(alpha_of(p)));
  }
  c.set("peft_type", "LORA");
  c.set("base_model_name_or_path", adapter.base.empty() ? Json() : Json(adapter.base));
  c.set("r", static_cast<long long>(r));
  c.set("lora_alpha", number(alpha));
  c.set("target_modules", std::move(targets));
  c.set("rank_pattern", std::move(rank_pattern));
  c.set("alpha_pattern", std::move(alpha_pattern));
  c.set("lora_dropout", 0.0);
  c.set("bias", "none");
  c.set("use_rslora", false);
  c.set("fan_in_fan_out", false);
  c.set("inference_mode", true);
  c.set("task_type", Json());
  std::map<std::string, std::string> metadata{{"format", "pt"}};
  if (!adapter.fingerprint.empty()) metadata["moraine.base"] = adapter.fingerprint;
  AtomicFile config(directory + "/adapter_config.json");
  config.write(json_text(c) + "\n");
  write_safetensors(directory + "/adapter_model.safetensors", map, metadata);
  config.commit();
}

}  // namespace moraine
