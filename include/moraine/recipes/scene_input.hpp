#pragma once
// From a scene as it is stored to what a model reads: which bands the scene has, whether they fit
// the model card, and the model's bands as reflectance with a mask of valid pixels. Shared by
// training and prediction, so that both see the same numbers.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/core/tensor.hpp>
#include <moraine/data/bands.hpp>
#include <moraine/data/windows.hpp>
#include <moraine/io/geotiff_reader.hpp>
#include <moraine/recipes/model_card.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

/// What a user says about a scene; what is left out is taken from the file and the model card.
struct SceneOptions {
  std::vector<data::Band> bands{};  ///< names, wavelengths, or both, one per band
  std::optional<double> scale{};    ///< reflectance = (stored value + offset) * scale
  std::optional<double> offset{};   ///< in stored units, such as -1000 for Sentinel-2 from 2022 on
  std::optional<double> nodata{};
};

/// How a scene becomes the model's bands.
struct SceneInput {
  data::BandMatrix matrix;   ///< model x scene
  std::vector<int> used;     ///< scene bands with a weight, which are the only ones read
  data::BandMatrix reduced;  ///< model x used
  double scale = 1, offset = 0;
  std::optional<Nodata> nodata;
  std::vector<float> fill;  ///< reflectance where nothing was measured: the model's means
};

/// The model's bands of some rows.
struct SceneRows {
  Tensor<float> reflectance;   ///< (C,n,W)
  Tensor<std::uint8_t> valid;  ///< (n,W), 0 where a band that is read is nodata or not finite
};

namespace detail {

inline std::string band_list(const std::vector<data::Band>& bands) {
  std::string s;
  for (std::size_t i = 0; i < bands.size() && i < 4; ++i)
    s += (i ? ", " : "") + data::detail::label(bands[i]);
  if (bands.size() > 4) s += " and " + std::to_string(bands.size() - 4) + " more";
  return s;
}
inline std::string plural(std::size_t n, const char* thing) {
  return std::to_string(n) + " " + thing + (n == 1 ? "" : "s");
}
/// Types whose stored numbers can mean the same: bytes, wider whole numbers, real numbers.
inline int number_family(Dtype t) { return is_float(t) ? 2 : size_of(t) == 1 ? 0 : 1; }
inline int number_family(const std::string& name) {
  for (Dtype t : {Dtype::f16, Dtype::bf16, Dtype::f32, Dtype::f64})
    if (name == name_of(t)) return 2;
  return name == name_of(Dtype::u8) || name == name_of(Dtype::i8) ? 0 : 1;
}

}  // namespace detail

/// The bands of a scene: as the user says, as the file names them where the card knows these names,
/// or as many as the card's scenes had, in their order. Throws ErrorKind::value, saying what to
/// give, when none of these fits.
inline std::vector<data::Band> bands_of_scene(const RasterInfo& info, const std::string& name,
                                              const ModelCard& card, const SceneOptions& o) {
  const auto count = static_cast<std::size_t>(info.bands);
  const auto refuse = [&](const std::string& what) {
    fail(ErrorKind::value, "scene: " + what + "; the model reads " + detail::band_list(card.bands) +
                               " and was trained on " + detail::plural(card.scene.size(), "band") +
                               " (" + detail::band_list(card.scene) + "), " + quoted(name) +
                               " has " + detail::plural(count, "band") +
                               " -> say what its bands are: --bands blue,green,red,nir or "
                               "--wavelengths 490,560,665,833");
  };
  std::vector<data::Band> known = card.scene;
  known.insert(known.end(), card.bands.begin(), card.bands.end());
  const auto complete = [&](data::Band b) {
    for (const data::Band& k : known)
      if (b.centre == 0 && data::detail::same_name(b, k)) return k;
    return b;
  };
  if (!o.bands.empty()) {
    if (o.bands.size() != count)
      refuse(detail::plural(o.bands.size(), "band") + " given for a scene with " +
             std::to_string(count));
    std::vector<data::Band> bands;
    for (const data::Band& b : o.bands) bands.push_back(complete(b));
    return bands;
  }
  if (!info.band_names.empty()) {
    std::vector<data::Band> bands;
    std::size_t found = 0;
    for (const std::string& n : info.band_names) {
      bands.push_back(complete({n, 0, 0}));
      found += bands.back().centre > 0;
    }
    if (found == count || (found > 0 && count != card.scene.size())) return bands;
  }
  if (count != card.scene.size()) refuse("the number of bands differs");
  return card.scene;
}

/// Compares a scene with the card and says how it is to be read. Throws ErrorKind::value with the
/// numbers and what to do; nothing of the scene's pixels has been read then.
inline SceneInput match_scene(const RasterInfo& info, const std::string& name,
                              const ModelCard& card, const SceneOptions& o = {}) {
  SceneInput in;
  in.matrix = data::match_bands(card.bands, bands_of_scene(info, name, card, o));
  if (!o.scale && detail::number_family(info.dtype) != detail::number_family(card.dtype))
    fail(ErrorKind::value, "scene: " + quoted(name) + " holds " + name_of(info.dtype) +
                               " numbers, the model was trained on " + card.dtype + " times " +
                               number_text(card.scale) +
                               " -> say what its numbers mean: --scale and --offset");
  in.scale = o.scale.value_or(card.scale);
  in.offset = o.offset.value_or(card.offset);
  if (!std::isfinite(in.scale) || in.scale == 0 || !std::isfinite(in.offset))
    fail(ErrorKind::value, "scene: scale and offset must be finite, scale not 0; scale " +
                               std::to_string(in.scale) + ", offset " + std::to_string(in.offset));
  if (o.nodata)
    in.nodata = make_nodata(*o.nodata);
  else if (info.nodata)
    in.nodata = info.nodata;
  else if (card.nodata)
    in.nodata = make_nodata(*card.nodata);
  const std::size_t m = card.bands.size();
  for (std::size_t s = 0; s < in.matrix.scene.size(); ++s) {
    bool any = false;
    for (std::size_t k = 0; k < m; ++k) any |= in.matrix.at(k, s) != 0;
    if (!any) continue;
    in.used.push_back(static_cast<int>(s));
    in.reduced.scene.push_back(in.matrix.scene[s]);
  }
  in.reduced.model = in.matrix.model;
  in.reduced.how = in.matrix.how;
  for (std::size_t k = 0; k < m; ++k)
    for (int s : in.used) in.reduced.weight.push_back(in.matrix.at(k, static_cast<std::size_t>(s)));
  in.fill = card.normalisation.mean;
  return in;
}

/// Stored values of the bands `in.used`, (U,n,W), as the model's bands.
inline SceneRows to_reflectance(const SceneInput& in, const Tensor<float>& stored) {
  const Index bands = stored.size(0), n = stored.size(1) * stored.size(2);
  SceneRows rows;
  rows.valid = Tensor<std::uint8_t>::empty({stored.size(1), stored.size(2)});
  parallel_for(n, 1 << 14, [&](Index b, Index e) {
    for (Index i = b; i < e; ++i) {
      bool good = true;
      for (Index c = 0; c < bands; ++c) {
        const float v = stored.data()[c * n + i];
        good = good && std::isfinite(v) && !(in.nodata && in.nodata->is(static_cast<double>(v)));
      }
      rows.valid.data()[i] = good;
    }
  });
  rows.reflectance = data::apply(in.reduced, stored);  // (C,n,W); every row of weights sums to 1
  const float scale = static_cast<float>(in.scale), offset = static_cast<float>(in.offset);
  float* x = rows.reflectance.data();
  parallel_for(rows.reflectance.numel(), 1 << 15, [&](Index b, Index e) {
    for (Index i = b; i < e; ++i) x[i] = (x[i] + offset) * scale;
  });
  data::fill_nodata(x, rows.reflectance.size(0), n, rows.valid.data(), in.fill);
  return rows;
}

/// Reads whole rows of a scene.
inline SceneRows read_scene_rows(GeoTiffReader& scene, const SceneInput& in, Index first, Index n) {
  return to_reflectance(in, scene.read_float({0, first, scene.info().width, n}, in.used));
}

}  // namespace moraine
