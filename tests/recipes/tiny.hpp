#pragma once
// A run that takes a second: two trunks of two blocks, a striped scene with four bands, labels.
#include <moraine/io/geotiff.hpp>
#include <moraine/io/json.hpp>
#include <moraine/recipes/model_card.hpp>
#include <string>
#include <vector>

#include "tree.hpp"

namespace tiny {

using namespace moraine;

inline void write_trunk(const std::string& path, Index channels, std::uint64_t seed) {
  ViTConfig c = small_trunk_config(channels);
  c.width = 16, c.depth = 2, c.heads = 2, c.hidden = 32;
  ViT<float> vit(c);
  init_small<float>(vit, seed);
  write_safetensors(path, state<float>(vit), {{"heads", "2"}});
}

/// Georeferencing as an EPSG:32633 grid of 10 m has it.
inline GeoTags geo() {
  const auto tag = [](std::uint16_t number, std::uint16_t type, const auto& values) {
    RawTag t{number, type, values.size(), {}};
    t.bytes.resize(values.size() * sizeof(values[0]));
    std::memcpy(t.bytes.data(), values.data(), t.bytes.size());
    return t;
  };
  return {
      tag(33550, 12, std::vector<double>{10, 10, 0}),
      tag(33922, 12, std::vector<double>{0, 0, 0, 500000, 5800000, 0}),
      tag(34735, 3,
          std::vector<std::uint16_t>{1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633})};
}

struct SceneShape {
  Index height = 40, width = 56;
  bool nodata_corner = false;  ///< 12 x 12 pixels of -9999 at the upper left
  bool empty = false;          ///< nothing but nodata
  std::vector<std::string> band_names{};
  std::uint64_t seed = 1;
};

/// Bands of 16-bit numbers, reflectance times 10000: three classes in diagonal stripes.
inline void write_scene(const std::string& image, const std::string& labels,
                        const SceneShape& s = {}) {
  const Index n = s.height * s.width;
  Tensor<std::int16_t> x = Tensor<std::int16_t>::empty({4, s.height, s.width});
  Tensor<std::uint8_t> y = Tensor<std::uint8_t>::empty({1, s.height, s.width});
  const Random r(s.seed, "tiny", 0);
  constexpr int level[3][4] = {
      {700, 600, 400, 200}, {400, 700, 500, 3500}, {1200, 1500, 1900, 2400}};
  for (Index v = 0; v < s.height; ++v)
    for (Index u = 0; u < s.width; ++u) {
      const Index p = v * s.width + u, k = (u + v) / 9 % 3;
      y.data()[p] = static_cast<std::uint8_t>(k + 1);
      if (v % 13 == 5) y.data()[p] = 0;  // ignored
      for (Index b = 0; b < 4; ++b) {
        const bool gone = s.empty || (s.nodata_corner && v < 12 && u < 12);
        x.data()[b * n + p] = static_cast<std::int16_t>(
            gone ? -9999
                 : level[k][b] +
                       static_cast<int>(100 * r.normal(static_cast<std::uint64_t>(4 * p + b))));
      }
    }
  GeoTiffWriter a(image, {.width = s.width,
                          .height = s.height,
                          .bands = 4,
                          .dtype = Dtype::i16,
                          .tile = 16,
                          .nodata = make_nodata(-9999),
                          .geo = geo(),
                          .band_names = s.band_names});
  a.write_rows(x);
  a.finish();
  if (labels.empty()) return;
  GeoTiffWriter b(labels, {.width = s.width, .height = s.height, .tile = 16, .geo = geo()});
  b.write_rows(y);
  b.finish();
}

/// Trunks, one scene, labels and the configuration of a run in `dir`.
inline Json write_run(const scratch::Tree& dir, Index steps = 12) {
  write_trunk(dir / "vision.safetensors", 4, 1);
  write_trunk(dir / "depth.safetensors", 3, 2);
  write_scene(dir / "scene.tif", dir / "labels.tif");
  Json j = parse_json(R"({
    "wavelengths": [490, 560, 665, 833], "widths": [65, 35, 30, 115], "scale": 0.0001,
    "classes": [{"name": "water", "labels": [1], "colour": "#0000ff"},
                {"name": "trees", "labels": [2], "colour": [0, 90, 0]},
                {"name": "soil", "labels": [3]}],
    "ignore": [0], "window": 16,
    "model": {"taps": [0, 1], "moe": {"tokens": 4, "rank": 2, "experts": 3}},
    "train": {"batch": 2, "warmup": 2, "checkpoint_every": 3}})");
  j.set("images", Json::array({dir / "scene.tif"}));
  j.set("labels", Json::array({dir / "labels.tif"}));
  Json& trunks = j.set("trunks", Json::object());
  trunks.set("vision", dir / "vision.safetensors");
  trunks.set("depth", dir / "depth.safetensors");
  j.find("train")->set("steps", static_cast<long long>(steps));
  write_json(dir / "run.json", j);
  return j;
}

}  // namespace tiny
