#pragma once
// The configuration of `moraine train`: every key with its default, and the merged object as typed
// options. docs/06-real-rasters.md explains the keys.
#include <cstdint>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/data/crops.hpp>
#include <moraine/io/json.hpp>
#include <moraine/recipes/model_card.hpp>
#include <moraine/recipes/preview.hpp>
#include <moraine/recipes/run_config.hpp>
#include <moraine/recipes/segmentation_training.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

/// A run as it is asked for.
struct RasterRun {
  Json config;                              ///< merged: every key is there
  std::vector<std::string> images, labels;  ///< one label raster per image
  std::vector<std::string> validation_images, validation_labels;
  ModelCard card;  ///< without checksums, dtype and config yet
  SegmentationTraining training;
  Index batch = 8, checkpoint_every = 50, keep = 2;
  data::AugmentOptions augment;
  std::uint64_t seed = 0;
};

/// Every key, with its default.
inline Json default_run() {
  const SegmentationTraining t;
  const data::AugmentOptions a;
  Json j = Json::object();
  j.set("images", Json::array());
  j.set("labels", Json::array());
  Json& validation = j.set("validation", Json::object());
  validation.set("images", Json::array());
  validation.set("labels", Json::array());
  j.set("bands", Json::array());
  j.set("wavelengths", Json::array());
  j.set("widths", Json::array());
  j.set("scale", 1);
  j.set("offset", 0);
  j.set("nodata", Json());
  j.set("classes", Json::array());
  j.set("ignore", Json::array());
  Json& trunks = j.set("trunks", Json::object());
  trunks.set("vision", "");
  trunks.set("depth", "");
  j.set("model", segmenter_json({}));
  j.set("window", static_cast<long long>(small_tile));
  Json& train = j.set("train", Json::object());
  train.set("steps", static_cast<long long>(t.steps));
  train.set("warmup", static_cast<long long>(t.warmup));
  train.set("batch", 8);
  train.set("lr", t.lr);
  train.set("head_lr", t.head_lr);
  train.set("weight_decay", t.weight_decay);
  train.set("clip", t.clip);
  train.set("balance", t.balance);
  train.set("decay", enum_text(decay_names, t.decay));
  train.set("gradient_checkpointing", t.gradient_checkpointing);
  train.set("checkpoint_every", 50);
  train.set("keep", 2);
  Json& augment = j.set("augment", Json::object());
  augment.set("turn", a.turn);
  augment.set("gain", static_cast<double>(0.05));
  augment.set("offset", static_cast<double>(0.005));
  j.set("seed", 0);
  return j;
}

namespace detail {

inline std::vector<std::string> texts_of(const Json& j, const std::string& path) {
  std::vector<std::string> out;
  for (const Json& s : j.as_array(path)) out.push_back(s.as_string(path));
  return out;
}
/// [r, g, b] or "#rrggbb".
inline Rgb colour_of(const Json& j, const std::string& path) {
  Rgb c{};
  if (j.is_array() && j.as_array().size() == 3) {
    for (std::size_t i = 0; i < 3; ++i) {
      const std::uint64_t v = j.as_array()[i].as_natural(path);
      if (v > 255)
        fail(ErrorKind::config,
             "config: " + quoted(path) + " holds " + std::to_string(v) + "; at most 255");
      c[i] = static_cast<std::uint8_t>(v);
    }
    return c;
  }
  if (j.is_string() && j.as_string().size() == 7 && j.as_string()[0] == '#') {
    bool good = true;
    for (std::size_t i = 0; i < 3; ++i) {
      const char* from = j.as_string().data() + 1 + 2 * i;
      const auto r = std::from_chars(from, from + 2, c[i], 16);
      good = good && r.ec == std::errc() && r.ptr == from + 2;
    }
    if (good) return c;
  }
  fail(ErrorKind::config,
       "config: " + quoted(path) + " is no colour -> write [34, 139, 34] or \"#228b22\"");
}

inline std::vector<ClassInfo> classes_of(const Json& j) {
  std::vector<ClassInfo> out;
  std::map<std::int64_t, std::string> seen;
  for (const Json& given : j.as_array("classes")) {
    const std::string path = "classes." + std::to_string(out.size());
    Json k = Json::object();
    k.set("name", "");
    k.set("labels", Json::array());
    k.set("colour", Json());
    merge_config(k, given, path);
    ClassInfo c;
    c.name = k.at("name").as_string(path + ".name");
    if (c.name.empty()) fail(ErrorKind::config, "config: " + quoted(path) + " has no name");
    for (const Json& l : k.at("labels").as_array(path + ".labels")) {
      const std::int64_t v = l.as_int(path + ".labels");
      if (const auto [at, is_new] = seen.emplace(v, c.name); !is_new)
        fail(ErrorKind::config, "config: label " + std::to_string(v) + " stands for two classes; " +
                                    quoted(at->second) + " and " + quoted(c.name));
      c.labels.push_back(v);
    }
    if (c.labels.empty())
      fail(ErrorKind::config, "config: " + quoted(path) + " has no labels -> \"labels\": [3]");
    c.colour = k.at("colour").is_null() ? expert_colour(static_cast<Index>(out.size()))
                                        : colour_of(k.at("colour"), path + ".colour");
    out.push_back(std::move(c));
  }
  if (out.size() < 2 || out.size() > 254)
    fail(ErrorKind::config,
         "config: \"classes\" needs 2 to 254 classes; " + std::to_string(out.size()));
  // In a map a class has the first of its label values, so that map and labels compare directly;
  // where these do not fit a byte, its number.
  bool fit = true;
  for (const ClassInfo& c : out) fit = fit && c.labels[0] >= 0 && c.labels[0] < map_nodata;
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i].value = static_cast<std::uint8_t>(fit ? out[i].labels[0] : static_cast<std::int64_t>(i));
  return out;
}

}  // namespace detail

/// Names and wavelengths side by side; either may be empty, widths too.
inline std::vector<data::Band> make_bands(const std::vector<std::string>& names,
                                          const std::vector<double>& wavelengths,
                                          const std::vector<double>& widths) {
  const std::size_t n = std::max(names.size(), wavelengths.size());
  if ((!names.empty() && names.size() != n) || (!wavelengths.empty() && wavelengths.size() != n) ||
      (!widths.empty() && widths.size() != n))
    fail(ErrorKind::config, "bands: names, wavelengths and widths need one entry per band; " +
                                std::to_string(names.size()) + ", " +
                                std::to_string(wavelengths.size()) + " and " +
                                std::to_string(widths.size()));
  std::vector<data::Band> out(n);
  for (std::size_t i = 0; i < n; ++i) {
    if (!names.empty()) out[i].name = names[i];
    if (!wavelengths.empty()) out[i].centre = wavelengths[i];
    if (!widths.empty()) out[i].width = widths[i];
    if (names.empty()) out[i].name = "band " + std::to_string(i + 1);
  }
  return out;
}

/// The typed options of a merged configuration. Throws ErrorKind::config, naming the key.
inline RasterRun parse_run(const Json& j) {
  RasterRun r;
  r.config = j;
  r.images = detail::texts_of(j.at("images"), "images");
  r.labels = detail::texts_of(j.at("labels"), "labels");
  r.validation_images = detail::texts_of(j.at("validation").at("images"), "validation.images");
  r.validation_labels = detail::texts_of(j.at("validation").at("labels"), "validation.labels");
  if (r.images.empty())
    fail(ErrorKind::config, "config: \"images\" is empty; name at least one scene");
  if (r.images.size() != r.labels.size() ||
      r.validation_images.size() != r.validation_labels.size())
    fail(ErrorKind::config, "config: every image needs its labels; " +
                                std::to_string(r.images.size()) + " images, " +
                                std::to_string(r.labels.size()) + " labels, validation " +
                                std::to_string(r.validation_images.size()) + " and " +
                                std::to_string(r.validation_labels.size()));
  ModelCard& card = r.card;
  const auto numbers = [&](const char* key) {
    std::vector<double> v;
    for (const Json& x : j.at(key).as_array(key)) v.push_back(x.as_double(key));
    return v;
  };
  card.scene = make_bands(detail::texts_of(j.at("bands"), "bands"), numbers("wavelengths"),
                          numbers("widths"));
  card.scale = j.at("scale").as_double("scale");
  card.offset = j.at("offset").as_double("offset");
  if (const Json& n = j.at("nodata"); n.is_string() && n.as_string() == "nan")
    card.nodata = std::numeric_limits<double>::quiet_NaN();
  else if (!n.is_null())
    card.nodata = n.as_double("nodata");
  card.classes = detail::classes_of(j.at("classes"));
  for (const Json& l : j.at("ignore").as_array("ignore")) {
    card.ignore.push_back(l.as_int("ignore"));
    for (const ClassInfo& c : card.classes)
      if (std::count(c.labels.begin(), c.labels.end(), card.ignore.back()))
        fail(ErrorKind::config, "config: label " + std::to_string(card.ignore.back()) +
                                    " is ignored and also of class " + quoted(c.name));
  }
  card.vision.path = j.at("trunks").at("vision").as_string("trunks.vision");
  card.depth.path = j.at("trunks").at("depth").as_string("trunks.depth");
  if (card.vision.path.empty())
    fail(ErrorKind::config,
         "config: \"trunks.vision\" is empty; name the file of the vision trunk");
  const auto natural = [](const Json& at, const std::string& path, std::int64_t least,
                          std::int64_t most) {
    const std::int64_t v = at.as_int(path);
    if (v < least || v > most)
      fail(ErrorKind::config, "config: " + quoted(path) + " is " + std::to_string(v) +
                                  "; it takes " + std::to_string(least) + " to " +
                                  std::to_string(most));
    return v;
  };
  const auto real = [](const Json& at, const std::string& path, double least, double most) {
    const double v = at.as_double(path);
    if (!(v >= least && v <= most))
      fail(ErrorKind::config, "config: " + quoted(path) + " is " + number_text(v) + "; it takes " +
                                  number_text(least) + " to " + number_text(most));
    return v;
  };
  r.seed = j.at("seed").as_natural("seed");
  card.segmenter =
      segmenter_from_json(j.at("model"), static_cast<Index>(card.classes.size()), r.seed);
  card.window = natural(j.at("window"), "window", 4, 4096);
  const Json& t = j.at("train");
  r.training.steps = natural(t.at("steps"), "train.steps", 1, 100'000'000);
  r.training.warmup = natural(t.at("warmup"), "train.warmup", 0, r.training.steps);
  r.training.lr = real(t.at("lr"), "train.lr", 1e-12, 1e38);
  r.training.head_lr = real(t.at("head_lr"), "train.head_lr", 0, 1e38);
  r.training.weight_decay = real(t.at("weight_decay"), "train.weight_decay", 0, 1e6);
  r.training.clip = real(t.at("clip"), "train.clip", 1e-12, 1e12);
  r.training.balance = real(t.at("balance"), "train.balance", 0, 1e6);
  r.training.decay = enum_value(decay_names, t.at("decay"), "train.decay");
  r.training.gradient_checkpointing =
      t.at("gradient_checkpointing").as_bool("train.gradient_checkpointing");
  r.training.ignore_label = map_nodata;
  r.batch = natural(t.at("batch"), "train.batch", 1, 4096);
  r.checkpoint_every = natural(t.at("checkpoint_every"), "train.checkpoint_every", 1, 100'000'000);
  r.keep = natural(t.at("keep"), "train.keep", 1, 1000);
  r.augment.size = card.window;
  r.augment.turn = j.at("augment").at("turn").as_bool("augment.turn");
  r.augment.gain_sigma =
      static_cast<float>(real(j.at("augment").at("gain"), "augment.gain", 0, 10));
  r.augment.offset_sigma =
      static_cast<float>(real(j.at("augment").at("offset"), "augment.offset", 0, 10));
  return r;
}

}  // namespace moraine
