#pragma once
// A SpectralMoE plugin as one safetensors file: its tensors, and in the metadata its card, namely
// the configuration, the bands and statistics of the images it was trained on, the licence, and the
// fingerprints of the bases it was trained on. On another base it is refused.
#include <cmath>
#include <limits>
#include <map>
#include <moraine/data/bands.hpp>
#include <moraine/data/crops.hpp>
#include <moraine/io/json.hpp>
#include <moraine/io/safetensors.hpp>
#include <moraine/nn/load.hpp>
#include <moraine/nn/model_size.hpp>
#include <moraine/peft/spectral_moe.hpp>
#include <moraine/recipes/fingerprint.hpp>
#include <moraine/recipes/model_card.hpp>
#include <moraine/recipes/run_config.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

/// A frozen base: what it is called, and weights_fingerprint() of its file's tensors.
struct PluginBase {
  std::string name, fingerprint;
};

struct PluginCard {
  SpectralMoeConfig config;
  PluginBase vision, depth;                ///< depth without a fingerprint: the plugin reads none
  std::vector<data::Band> bands = {};      ///< what the vision base reads, in order
  data::Normalisation normalisation = {};  ///< of these bands; empty: as the base's processor
  std::string licence = "";                ///< of the plugin; the bases have their own
  std::string description = "";
  Json training = {};  ///< whatever the one who trained it wants to keep
};

namespace detail {
inline constexpr const char* plugin_format = "moraine.spectralmoe.1";

inline Json plugin_config_json(const SpectralMoeConfig& c) {
  SegmenterConfig s;
  s.moe = c;
  Json j = segmenter_json(s).at("moe");
  Json& sizes = j.set("sizes", Json::object());
  sizes.set("layers", static_cast<long long>(c.layers));
  sizes.set("dim", static_cast<long long>(c.dim));
  sizes.set("query_dim", static_cast<long long>(c.query_dim));
  sizes.set("prefix", static_cast<long long>(c.prefix));
  sizes.set("depth_prefix", static_cast<long long>(c.depth_prefix));
  return j;
}
inline SpectralMoeConfig plugin_config(const Json& given) {
  Json known = segmenter_json({});
  Json& moe = *known.find("moe");
  Json& sizes = moe.set("sizes", Json::object());
  for (const char* key : {"layers", "dim", "query_dim", "prefix", "depth_prefix"})
    sizes.set(key, 0);
  merge_config(moe, given, "config");
  const Json read = *known.find("moe")->find("sizes");
  SpectralMoeConfig c = segmenter_from_json(known, 1, 0).moe;
  const auto size = [&](const char* key, Index least) {
    const Index v = read.at(key).as_int(key);
    if (v < least || v > (Index{1} << 24))
      fail(ErrorKind::config,
           std::string("config: \"sizes.") + key + "\" is out of range; " + std::to_string(v));
    return v;
  };
  c.layers = size("layers", 1), c.dim = size("dim", 1), c.query_dim = size("query_dim", 1);
  c.prefix = size("prefix", 0), c.depth_prefix = size("depth_prefix", 0);
  for (Index v : {c.tokens, c.rank, c.experts})
    if (v < 1 || v > (Index{1} << 24))
      fail(ErrorKind::config,
           "config: tokens, rank and experts must be positive; " + std::to_string(v));
  return c;
}
}  // namespace detail

/// Writes a plugin, atomically.
template <class T>
void write_plugin(const std::string& path, SpectralMoe<T>& moe, const PluginCard& card) {
  if (card.vision.fingerprint.empty())
    fail(ErrorKind::value,
         "plugin: the card names no vision base; its fingerprint is empty -> "
         "weights_fingerprint() of the base's tensors");
  std::map<std::string, std::string> m;
  const auto put = [&](const char* key, const Json& j) { m[key] = json_text(j, {.indent = -1}); };
  m["format"] = detail::plugin_format;
  put("config", detail::plugin_config_json(moe.config));
  Json bases = Json::object();
  for (const auto& [name, b] :
       {std::pair{"vision", &card.vision}, std::pair{"depth", &card.depth}}) {
    Json& j = bases.set(name, Json::object());
    j.set("name", b->name);
    j.set("fingerprint", b->fingerprint);
  }
  put("bases", bases);
  put("bands", detail::bands_json(card.bands));
  put("mean", detail::numbers_json(card.normalisation.mean));
  put("std", detail::numbers_json(card.normalisation.std));
  if (!card.licence.empty()) m["license"] = card.licence;
  if (!card.description.empty()) m["description"] = card.description;
  if (!card.training.is_null()) put("training", card.training);
  write_safetensors(path, state<T>(moe), m);
}

/// The card alone, to see what a plugin is for.
inline PluginCard plugin_card(const std::map<std::string, std::string>& metadata,
                              const std::string& name) {
  const std::string what = "plugin: " + quoted(name);
  const auto text = [&](const char* key) -> const std::string& {
    const auto at = metadata.find(key);
    if (at == metadata.end())
      fail(ErrorKind::format, what + " has no " + quoted(key) +
                                  " in its metadata -> name a file that write_plugin made");
    return at->second;
  };
  if (text("format") != detail::plugin_format)
    fail(ErrorKind::format, what + " is of another format, " + quoted(text("format")) +
                                "; expected " + quoted(detail::plugin_format));
  const auto json = [&](const char* key) { return parse_json(text(key), what + ": " + key); };
  PluginCard c;
  c.config = detail::plugin_config(json("config"));
  const Json bases = json("bases");
  for (const auto& [key, b] : {std::pair{"vision", &c.vision}, std::pair{"depth", &c.depth}}) {
    b->name = bases.at(key).at("name").as_string("base name");
    b->fingerprint = bases.at(key).at("fingerprint").as_string("base fingerprint");
  }
  c.bands = detail::bands_from_json(json("bands"));
  const Json mean = json("mean"), std = json("std");
  for (const Json& v : mean.as_array("mean"))
    c.normalisation.mean.push_back(static_cast<float>(v.as_double("mean")));
  for (const Json& v : std.as_array("std"))
    c.normalisation.std.push_back(static_cast<float>(v.as_double("std")));
  if (c.normalisation.mean.size() != c.normalisation.std.size() ||
      (!c.normalisation.mean.empty() && !c.bands.empty() &&
       c.normalisation.mean.size() != c.bands.size()))
    fail(ErrorKind::format, what + " does not fit itself; " + std::to_string(c.bands.size()) +
                                " bands, " + std::to_string(c.normalisation.mean.size()) +
                                " means, " + std::to_string(c.normalisation.std.size()) + " stds");
  if (metadata.count("license")) c.licence = metadata.at("license");
  if (metadata.count("description")) c.description = metadata.at("description");
  if (metadata.count("training")) c.training = json("training");
  return c;
}

template <class T>
struct LoadedPlugin {
  PluginCard card;
  SpectralMoe<T> moe;
};

/// Opens a plugin for these bases. Throws ErrorKind::value when it was trained on others, naming
/// both fingerprints, and ErrorKind::key when its tensors do not fit its configuration.
template <class T = float>
LoadedPlugin<T> read_plugin(const std::string& path, const PluginBase& vision,
                            const PluginBase& depth = {}) {
  const SafetensorsFile file = read_safetensors(path, {.refuse_non_finite = true});
  const std::string name = base_name(path), what = "plugin: " + quoted(name);
  LoadedPlugin<T> out;
  out.card = plugin_card(file.metadata, name);
  const auto compare = [&](const char* which, const PluginBase& meant, const PluginBase& here) {
    if (meant.fingerprint == here.fingerprint || meant.fingerprint.empty()) return;
    fail(ErrorKind::value, what + " was trained on another " + which + " base; it needs " +
                               (meant.name.empty() ? "" : quoted(meant.name) + ", ") +
                               "fingerprint " + meant.fingerprint + ", this is " +
                               (here.name.empty() ? "" : quoted(here.name) + ", ") +
                               (here.fingerprint.empty() ? std::string("without one")
                                                         : "fingerprint " + here.fingerprint) +
                               " -> load the base it needs");
  };
  compare("vision", out.card.vision, vision);
  compare("depth", out.card.depth, depth);
  const SpectralMoeConfig& c = out.card.config;
  const auto d = [](Index v) { return static_cast<double>(v); };
  const double need =
      d(c.layers) * d(c.experts) * (d(c.tokens) * d(c.rank) + d(c.rank) * d(c.dim)) +
      4 * d(c.layers) * d(c.dim) * d(c.experts) + 2 * d(c.dim) * d(c.dim) +
      d(c.query_dim) * (d(c.dim) + 3 * d(c.query_dim));
  std::vector<ExpectedTensor> rows{{"mlp_delta_f.bias", {c.dim}},
                                   {"experts_a.0.0", {c.tokens, c.rank}},
                                   {"transform.bias", {c.query_dim}}};
  for (Index l = 0; l < c.layers && l <= static_cast<Index>(file.tensors.size()); ++l)
    rows.push_back({"w_gate." + std::to_string(l) + ".0", {c.dim, c.experts}});
  check_model_size(what.c_str(), need, file.tensors, rows);
  out.moe = SpectralMoe<T>(c);
  load<T>(out.moe, file.tensors, {.what = what.c_str()});
  return out;
}

}  // namespace moraine
