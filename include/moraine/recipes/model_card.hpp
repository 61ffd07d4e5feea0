#pragma once
// The model card: what a trained Segmenter expects of a scene, and what its map means. It stands in
// the metadata of model.safetensors, one JSON text per key, and is compared with a scene before
// anything is computed. Trunks are files of their own, named with their checksum.
#include <array>
#include <cstdint>
#include <map>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/data/bands.hpp>
#include <moraine/data/crops.hpp>
#include <moraine/io/json.hpp>
#include <moraine/io/safetensors.hpp>
#include <moraine/recipes/run_config.hpp>
#include <moraine/recipes/segmenter.hpp>
#include <moraine/recipes/small_trunks.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

/// A class: how it is called, drawn and written.
struct ClassInfo {
  std::string name;
  std::array<std::uint8_t, 3> colour{};  ///< red, green, blue
  std::uint8_t value = 0;                ///< of its pixels in a map, 0..254
  std::vector<std::int64_t> labels{};    ///< values in label rasters that mean it
};

/// What pixels without a class have in a map.
inline constexpr std::uint8_t map_nodata = 255;

/// A trunk's file: where it was, and the checksum of its bytes.
struct TrunkFile {
  std::string path, fingerprint;
};

/// The bands of the small trunks (data/domain.hpp): the first three serve depth.
inline std::vector<data::Band> small_trunk_bands() {
  return {{"blue", 485, 70}, {"green", 555, 70}, {"red", 660, 60}, {"nir", 830, 120}};
}

struct ModelCard {
  std::vector<data::Band> bands = small_trunk_bands();  ///< what the vision trunk reads, in order
  data::Normalisation normalisation = data::demo_normalisation(4);  ///< of these bands
  std::vector<data::Band> scene = bands;  ///< the bands of the scenes it was trained on
  bool scene_stated =
      false;  ///< `scene` is what a configuration says, whatever files say; not saved
  std::string dtype = "F32";     ///< of these scenes
  double scale = 1, offset = 0;  ///< reflectance = (stored value + offset) * scale
  std::optional<double> nodata;  ///< where the file names none
  std::vector<ClassInfo> classes;
  std::vector<std::int64_t> ignore;  ///< label values that do not count
  Index window = small_tile;         ///< pixels, of a training crop
  SegmenterConfig segmenter;
  TrunkFile vision, depth;  ///< empty for a model that never was a file
  Json config;              ///< of the run that made it
};

namespace detail {

inline Json bands_json(const std::vector<data::Band>& bands) {
  Json all = Json::array();
  for (const data::Band& b : bands) {
    Json j = Json::object();
    j.set("name", b.name);
    j.set("wavelength", b.centre);
    j.set("width", b.width);
    all.push(std::move(j));
  }
  return all;
}
inline std::vector<data::Band> bands_from_json(const Json& j) {
  std::vector<data::Band> bands;
  for (const Json& b : j.as_array("bands"))
    bands.push_back({b.at("name").as_string("band name"),
                     b.at("wavelength").as_double("wavelength"), b.at("width").as_double("width")});
  return bands;
}
template <class T>
Json numbers_json(const std::vector<T>& v) {
  Json a = Json::array();
  for (T x : v) {
    if constexpr (std::is_floating_point_v<T>)
      a.push(static_cast<double>(x));
    else
      a.push(static_cast<long long>(x));
  }
  return a;
}

}  // namespace detail

/// The card as metadata of a safetensors file.
inline std::map<std::string, std::string> card_metadata(const ModelCard& c) {
  std::map<std::string, std::string> out;
  const auto put = [&](const char* key, const Json& j) { out[key] = json_text(j, {.indent = -1}); };
  out["format"] = "moraine.segmenter.1";
  put("bands", detail::bands_json(c.bands));
  put("mean", detail::numbers_json(c.normalisation.mean));
  put("std", detail::numbers_json(c.normalisation.std));
  put("scene_bands", detail::bands_json(c.scene));
  out["scene_dtype"] = c.dtype;
  put("scale", c.scale);
  put("offset", c.offset);
  put("nodata", c.nodata && !(*c.nodata != *c.nodata) ? Json(*c.nodata)
                : c.nodata                            ? Json("nan")
                                                      : Json());
  Json classes = Json::array(), palette = Json::array();
  for (const ClassInfo& k : c.classes) {
    Json j = Json::object();
    j.set("name", k.name);
    j.set("value", static_cast<int>(k.value));
    j.set("labels", detail::numbers_json(k.labels));
    classes.push(std::move(j));
    palette.push(Json::array({int{k.colour[0]}, int{k.colour[1]}, int{k.colour[2]}}));
  }
  put("classes", classes);
  put("palette", palette);
  put("ignore", detail::numbers_json(c.ignore));
  put("window", static_cast<long long>(c.window));
  put("model", segmenter_json(c.segmenter));
  put("seed", static_cast<unsigned long>(c.segmenter.seed));
  Json trunks = Json::object();
  for (const auto& [name, t] : {std::pair{"vision", &c.vision}, std::pair{"depth", &c.depth}}) {
    Json& j = trunks.set(name, Json::object());
    j.set("path", t->path);
    j.set("fingerprint", t->fingerprint);
  }
  put("trunks", trunks);
  if (!c.config.is_null()) put("config", c.config);
  return out;
}

/// The inverse. Throws ErrorKind::format when the metadata are not a card.
inline ModelCard card_from_metadata(const std::map<std::string, std::string>& metadata,
                                    const std::string& name) {
  const auto text = [&](const char* key) -> const std::string& {
    const auto at = metadata.find(key);
    if (at == metadata.end())
      fail(ErrorKind::format, "model card: " + quoted(name) + " has no " + quoted(key) +
                                  " in its metadata -> name a folder that moraine train made");
    return at->second;
  };
  const auto json = [&](const char* key) {
    return parse_json(text(key), "model card: " + quoted(name) + ": " + key);
  };
  if (text("format") != "moraine.segmenter.1")
    fail(ErrorKind::format, "model card: " + quoted(name) + " is of another format, " +
                                quoted(text("format")) + "; expected \"moraine.segmenter.1\"");
  ModelCard c;
  c.bands = detail::bands_from_json(json("bands"));
  c.normalisation = {};
  const Json mean = json("mean"), std = json("std");
  for (const Json& v : mean.as_array("mean"))
    c.normalisation.mean.push_back(static_cast<float>(v.as_double("mean")));
  for (const Json& v : std.as_array("std"))
    c.normalisation.std.push_back(static_cast<float>(v.as_double("std")));
  c.scene = detail::bands_from_json(json("scene_bands"));
  c.dtype = text("scene_dtype");
  c.scale = json("scale").as_double("scale");
  c.offset = json("offset").as_double("offset");
  const Json nodata = json("nodata");
  if (nodata.is_number()) c.nodata = nodata.as_double();
  if (nodata.is_string()) c.nodata = std::numeric_limits<double>::quiet_NaN();
  const Json classes = json("classes"), palette = json("palette");
  std::set<std::int64_t> values;
  for (std::size_t i = 0; i < classes.as_array("classes").size(); ++i) {
    const Json& k = classes.as_array()[i];
    if (i >= palette.as_array("palette").size() ||
        palette.as_array()[i].as_array("palette").size() != 3)
      fail(ErrorKind::format,
           "model card: " + quoted(name) + " has no colour for class " + std::to_string(i));
    ClassInfo info;
    info.name = k.at("name").as_string("class name");
    const std::int64_t value = k.at("value").as_int("class value");
    if (value < 0 || value > 254 || !values.insert(value).second)
      fail(ErrorKind::format, "model card: " + quoted(name) +
                                  ": class values are 0..254, each once; " + std::to_string(value));
    info.value = static_cast<std::uint8_t>(value);
    for (int b = 0; b < 3; ++b)
      info.colour[static_cast<std::size_t>(b)] = static_cast<std::uint8_t>(
          palette.as_array()[i].as_array()[static_cast<std::size_t>(b)].as_natural("palette") &
          255u);
    for (const Json& l : k.at("labels").as_array("labels"))
      info.labels.push_back(l.as_int("label"));
    c.classes.push_back(std::move(info));
  }
  const Json ignore = json("ignore");
  for (const Json& l : ignore.as_array("ignore")) c.ignore.push_back(l.as_int("ignore"));
  c.window = json("window").as_int("window");
  Json model = segmenter_json({});
  merge_config(model, json("model"), "model");
  c.segmenter = segmenter_from_json(model, static_cast<Index>(c.classes.size()),
                                    json("seed").as_natural("seed"));
  const Json trunks = json("trunks");
  for (const auto& [key, t] : {std::pair{"vision", &c.vision}, std::pair{"depth", &c.depth}}) {
    t->path = trunks.at(key).at("path").as_string("trunk path");
    t->fingerprint = trunks.at(key).at("fingerprint").as_string("trunk fingerprint");
  }
  if (metadata.count("config")) c.config = json("config");
  if (c.bands.empty() || c.normalisation.mean.size() != c.bands.size() ||
      c.normalisation.std.size() != c.bands.size() || c.classes.empty())
    fail(ErrorKind::format, "model card: " + quoted(name) + " does not fit itself; " +
                                std::to_string(c.bands.size()) + " bands, " +
                                std::to_string(c.normalisation.mean.size()) + " means, " +
                                std::to_string(c.classes.size()) + " classes");
  return c;
}

/// The trained tensors of a model (trunks excluded) and its card, written atomically.
inline void write_model(const std::string& path, Segmenter<float>& net, const ModelCard& card) {
  TensorMap trained;
  for (const Named<float>& p : parameters<float>(net))
    if (p.tensor->tracked()) trained.emplace(p.name, p.tensor->detach());
  write_safetensors(path, trained, card_metadata(card));
}

/// A trunk of the form that small_trunk_config() has, or a narrower or shallower one: sizes are
/// read off the tensors, heads from the metadata ("heads") or one for 32 channels. Keys may begin
/// with "trunk." or "model.trunk."; what does not is then ignored.
inline ViT<float> read_trunk(const std::string& path) {
  const SafetensorsFile file = read_safetensors(path);
  TensorMap map;
  for (const char* prefix : {"model.trunk.", "trunk.", ""}) {
    const std::string p = prefix;
    for (const auto& [name, t] : file.tensors)
      if (name.rfind(p, 0) == 0) map.emplace(name.substr(p.size()), t);
    if (!map.empty()) break;
  }
  const std::string what = "trunk: " + quoted(base_name(path));
  const auto shape = [&](const std::string& key, int rank) {
    const auto at = map.find(key);
    if (at == map.end() || at->second.shape.rank != rank)
      fail(ErrorKind::key, what + " holds no " + quoted(key) + " of " + std::to_string(rank) +
                               " axes; " + std::to_string(map.size()) +
                               " tensors -> name the file of a small trunk");
    return at->second.shape;
  };
  const Shape patch = shape("patch_embed.proj.weight", 4);
  ViTConfig c = small_trunk_config(patch[1]);
  c.patch = patch[2], c.width = patch[0], c.depth = 0;
  while (map.count("blocks." + std::to_string(c.depth) + ".norm1.weight")) ++c.depth;
  c.hidden = shape("blocks.0.mlp.fc1.weight", 2)[0];
  c.heads = std::max<Index>(1, c.width / 32);
  if (const auto at = file.metadata.find("heads"); at != file.metadata.end())
    c.heads = parse_json(at->second, what).as_int("heads");
  ViT<float> vit(c);
  load<float>(vit, map, {.may_share = false, .what = "trunk"});
  return vit;
}

/// Checksum of a file's bytes, 16 hexadecimal digits.
inline std::string fingerprint(const std::string& path) {
  const auto file = MappedFile::open(path);
  Checksum c;
  c.add(file->data(), file->size());
  return c.hex();
}

/// A segmenter with its card. Not movable once made: prediction holds references.
struct LoadedModel {
  ModelCard card;
  Segmenter<float> net;
};

/// Opens DIR/model.safetensors (or the file itself) and the trunks that it names: at their path, or
/// under their name in the model's folder or in `trunks`. A trunk whose checksum is another than
/// the one it was trained on is an error.
inline LoadedModel read_model(const std::string& where, const std::string& trunks = "") {
  const std::string path = is_directory(where) ? where + "/model.safetensors" : where;
  if (is_directory(where) && !is_file(path))
    fail(ErrorKind::file,
         "model: " + quoted(where) + " holds no model.safetensors" +
             (is_directory(where + "/checkpoints")
                  ? "; its training has not ended -> run the same train command again"
                  : " -> name the folder of a run"));
  const SafetensorsFile file = read_safetensors(path, {.map = true, .refuse_non_finite = true});
  LoadedModel m;
  m.card = card_from_metadata(file.metadata, base_name(path));
  const auto trunk = [&](const TrunkFile& t) {
    if (t.path.empty()) return ViT<float>();
    std::vector<std::string> places = {t.path, dir_name(path) + "/" + base_name(t.path)};
    if (!trunks.empty()) places = {trunks + "/" + base_name(t.path)};
    for (const std::string& p : places) {
      if (!is_file(p)) continue;
      const std::string found = fingerprint(p);
      if (found != t.fingerprint)
        fail(ErrorKind::value, "model: the trunk " + quoted(p) +
                                   " is not the one it was trained with; checksum " + found +
                                   ", expected " + t.fingerprint + " -> restore that file");
      return read_trunk(p);
    }
    fail(ErrorKind::file,
         "model: the trunk " + quoted(t.path) +
             " is missing -> put it beside the model, or name its folder with --trunks");
  };
  m.net = Segmenter<float>(m.card.segmenter, trunk(m.card.vision), trunk(m.card.depth));
  // Only what was trained is in the file; everything else is there already.
  std::vector<std::string> missing;
  std::set<std::string> used;
  for (const Named<float>& p : parameters<float>(m.net)) {
    if (!p.tensor->tracked()) continue;
    const auto at = file.tensors.find(p.name);
    if (at == file.tensors.end() || at->second.shape != p.tensor->shape()) {
      missing.push_back(p.name);
      continue;
    }
    used.insert(p.name);
    Tensor<float> t = at->second.as<float>().clone();
    t.requires_grad();
    *p.tensor = t;
  }
  if (!missing.empty() || used.size() != file.tensors.size())
    fail(ErrorKind::key, "model: " + quoted(base_name(path)) + " does not fit its own card; " +
                             std::to_string(missing.size()) +
                             " tensors missing or of another shape" +
                             (missing.empty() ? "" : " (" + detail::some_of(missing) + ")") + ", " +
                             std::to_string(file.tensors.size() - used.size()) + " unexpected");
  return m;
}

}  // namespace moraine
