#pragma once
// Labelled scenes in memory: the model's bands as reflectance, labels as class numbers, 255 where
// nothing counts. For training and for scoring a model in place.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/data/crops.hpp>
#include <moraine/data/windows.hpp>
#include <moraine/io/geotiff_reader.hpp>
#include <moraine/io/image.hpp>
#include <moraine/io/recognise.hpp>
#include <moraine/recipes/model_card.hpp>
#include <moraine/recipes/raster_prediction.hpp>
#include <moraine/recipes/scene_input.hpp>
#include <moraine/train/metrics.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

struct LabelledScenes {
  std::vector<data::Sample> samples;     ///< at least a window large
  std::vector<std::string> names;        ///< paths of the images
  std::vector<std::int64_t> pixels;      ///< per class
  std::int64_t ignored = 0, nodata = 0;  ///< label says so; no measurement
  std::string matrix;                    ///< how the first scene's bands become the model's
  Dtype dtype = Dtype::u8;               ///< of the first scene
  std::vector<data::Band> bands;         ///< of the first scene
  std::uint64_t fingerprint = 0;         ///< of all pixels and labels
  std::vector<std::string> warnings;     ///< what is odd about them
};

namespace detail {

/// A label value for people: "3", not "3.0".
inline std::string label_text(float v) {
  return v == std::trunc(v) && std::abs(v) < 1e9f ? std::to_string(static_cast<long long>(v))
                                                  : number_text(static_cast<double>(v));
}
/// A picture as a raster: (c,h,w) of its numbers and what is known about it.
inline std::pair<RasterInfo, Tensor<float>> read_picture(const std::string& path) {
  const Image picture = read_image(path);
  RasterInfo info;
  info.height = picture.pixels.shape[0], info.width = picture.pixels.shape[1];
  info.bands = static_cast<int>(picture.pixels.shape[2]);
  info.dtype = picture.pixels.dtype;
  const Tensor<float> hwc = picture.pixels.as<float>();
  Tensor<float> out = Tensor<float>::empty({info.bands, info.height, info.width});
  const Index n = info.height * info.width;
  for (Index i = 0; i < n; ++i)
    for (Index c = 0; c < info.bands; ++c) out.data()[c * n + i] = hwc.data()[i * info.bands + c];
  return {info, out};
}
inline bool is_picture(const std::string& path) {
  const FileKind k = recognise(path);
  return k == FileKind::png || k == FileKind::jpeg;
}

/// Bands `which` of a TIFF or a picture, as stored: (U,h,w).
inline SceneRows read_whole_scene(const std::string& path, const ModelCard& card,
                                  LabelledScenes& out) {
  const std::string name = base_name(path);
  const auto note = [&](const RasterInfo& info, const SceneInput& in) {
    if (!out.samples.empty()) {
      if (number_family(info.dtype) != number_family(out.dtype))
        fail(ErrorKind::value, "scenes: all images of a run hold the same kind of numbers; " +
                                   quoted(name) + " holds " + name_of(info.dtype) + ", the first " +
                                   name_of(out.dtype));
      return;
    }
    out.matrix = data::text(in.matrix);
    if (card.scene_stated)
      for (std::size_t b = 0; b < info.band_names.size() && b < card.scene.size(); ++b)
        if (!info.band_names[b].empty() &&
            !data::detail::same_name({info.band_names[b], 0, 0}, card.scene[b])) {
          out.warnings.push_back("band " + std::to_string(b + 1) + " of " + quoted(name) +
                                 " calls itself " + quoted(info.band_names[b]) +
                                 ", the configuration says " + data::detail::label(card.scene[b]) +
                                 ", which is believed");
          break;
        }
    out.dtype = info.dtype;
    out.bands = in.matrix.scene;
  };
  // While a run begins the card does not say yet what type its scenes have.
  const SceneOptions as_card{.bands = card.scene_stated ? card.scene : std::vector<data::Band>{},
                             .scale = card.scale};
  if (is_picture(path)) {
    const auto [info, all] = read_picture(path);
    const SceneInput in = match_scene(info, name, card, as_card);
    note(info, in);
    Tensor<float> used =
        Tensor<float>::empty({static_cast<Index>(in.used.size()), info.height, info.width});
    const Index n = info.height * info.width;
    for (std::size_t u = 0; u < in.used.size(); ++u)
      std::copy_n(all.data() + in.used[u] * n, n, used.data() + static_cast<Index>(u) * n);
    return to_reflectance(in, used);
  }
  GeoTiffReader scene(path);
  const RasterInfo& info = scene.info();
  const SceneInput in = match_scene(info, name, card, as_card);
  note(info, in);
  const Index c = static_cast<Index>(card.bands.size()), n = info.height * info.width;
  SceneRows rows{Tensor<float>::empty({c, info.height, info.width}),
                 Tensor<std::uint8_t>::empty({info.height, info.width})};
  for (Index y = 0; y < info.height; y += 256) {  // so that only few rows of all bands are held
    const Index h = std::min<Index>(256, info.height - y);
    const SceneRows part = read_scene_rows(scene, in, y, h);
    for (Index b = 0; b < c; ++b)
      std::copy_n(part.reflectance.data() + b * h * info.width, h * info.width,
                  rows.reflectance.data() + b * n + y * info.width);
    std::copy_n(part.valid.data(), h * info.width, rows.valid.data() + y * info.width);
  }
  return rows;
}

}  // namespace detail

/// Label values of a raster (h,w) as they are stored, from a TIFF or a PNG; NaN for its nodata.
inline Tensor<float> read_labels(const std::string& path) {
  Tensor<float> x;
  std::optional<Nodata> nodata;
  int bands = 1;
  if (detail::is_picture(path)) {
    auto [info, all] = detail::read_picture(path);
    x = all, bands = info.bands;
  } else {
    GeoTiffReader file(path);
    bands = file.info().bands;
    if (bands == 1) x = file.read_float({0, 0, file.info().width, file.info().height});
    nodata = file.info().nodata;
  }
  if (bands != 1)
    fail(ErrorKind::value, "labels: " + quoted(base_name(path)) + " has " + std::to_string(bands) +
                               " bands; one band of class numbers is needed");
  if (nodata)
    for (Index i = 0; i < x.numel(); ++i)
      if (nodata->is(static_cast<double>(x.data()[i])))
        x.data()[i] = std::numeric_limits<float>::quiet_NaN();
  return x.reshaped({x.size(1), x.size(2)});
}

namespace detail {

/// Class numbers of label values; throws with the counts when a value is neither a class nor
/// ignored.
inline Tensor<std::uint8_t> classes_of_labels(const Tensor<float>& values, const ModelCard& card,
                                              const std::string& name, LabelledScenes& out) {
  std::map<float, int> meaning;  // class, or -1
  for (std::size_t c = 0; c < card.classes.size(); ++c)
    for (std::int64_t l : card.classes[c].labels)
      meaning[static_cast<float>(l)] = static_cast<int>(c);
  for (std::int64_t l : card.ignore) meaning[static_cast<float>(l)] = -1;
  Tensor<std::uint8_t> labels = Tensor<std::uint8_t>::full(values.shape(), map_nodata);
  std::map<float, std::int64_t> unknown;
  for (Index i = 0; i < values.numel(); ++i) {
    const float v = values.data()[i];
    const auto at = meaning.find(v);
    if (std::isnan(v) || (at != meaning.end() && at->second < 0))
      ++out.ignored;
    else if (at == meaning.end())
      ++unknown[v];
    else
      labels.data()[i] = static_cast<std::uint8_t>(at->second);
  }
  if (!unknown.empty()) {
    std::string list;
    std::size_t shown = 0;
    for (const auto& [v, n] : unknown)
      if (++shown <= 6)
        list += (list.empty() ? "" : ", ") + label_text(v) + " (" + std::to_string(n) + " pixels)";
    fail(ErrorKind::value, "labels: " + quoted(name) + " holds values that no class has: " + list +
                               (shown > 6 ? " and more" : "") +
                               " -> add them to \"classes\" or to \"ignore\"");
  }
  return labels;
}

}  // namespace detail

/// Reads scenes with their labels. Throws when a size, a band or a label value does not fit.
inline LabelledScenes read_labelled_scenes(const std::vector<std::string>& images,
                                           const std::vector<std::string>& labels,
                                           const ModelCard& card) {
  LabelledScenes out;
  out.pixels.resize(card.classes.size());
  Checksum sum;
  for (std::size_t i = 0; i < images.size(); ++i) {
    const SceneRows rows = detail::read_whole_scene(images[i], card, out);
    const Tensor<float> values = read_labels(labels[i]);
    const Index h = rows.valid.size(0), w = rows.valid.size(1), c = rows.reflectance.size(0);
    if (values.shape() != rows.valid.shape())
      fail(ErrorKind::shape, "labels: " + quoted(base_name(labels[i])) + " is " +
                                 std::to_string(values.size(0)) + " x " +
                                 std::to_string(values.size(1)) + " pixels, its image " +
                                 quoted(base_name(images[i])) + " " + std::to_string(h) + " x " +
                                 std::to_string(w) + " -> labels must lie on the image's grid");
    const Tensor<std::uint8_t> classes =
        detail::classes_of_labels(values, card, base_name(labels[i]), out);
    double bright = 0;
    Index measured = 0;
    for (Index p = 0; p < h * w; ++p) {
      if (!rows.valid.data()[p]) {
        ++out.nodata;
        classes.data()[p] = map_nodata;
        continue;
      }
      bright += static_cast<double>(rows.reflectance.data()[p]);
      ++measured;
      if (classes.data()[p] != map_nodata) ++out.pixels[classes.data()[p]];
    }
    bright /= static_cast<double>(std::max<Index>(1, measured));
    if (bright > 2)
      out.warnings.push_back("the mean reflectance of " + quoted(base_name(images[i])) + " is " +
                             data::detail::number(bright, 0) + ", where 0 to 1 is expected -> is " +
                             "\"scale\" " + number_text(card.scale) + " right?");
    if (card.window > std::max(h, w))
      out.warnings.push_back(
          "\"window\" is " + std::to_string(card.window) + ", " + quoted(base_name(images[i])) +
          " has only " + std::to_string(h) + " x " + std::to_string(w) +
          " pixels: it is mirrored up to a window, " + "which costs time and teaches nothing");
    data::Sample s{rows.reflectance, classes, {}};
    const Index th = std::max(h, card.window), tw = std::max(w, card.window);
    if (th != h || tw != w) {  // mirrored up to a window; what is mirrored does not count
      s.image = Tensor<float>::empty({c, th, tw});
      s.labels = Tensor<std::uint8_t>::full({th, tw}, map_nodata);
      for (Index b = 0; b < c; ++b)
        for (Index y = 0; y < th; ++y)
          for (Index x = 0; x < tw; ++x)
            s.image.data()[(b * th + y) * tw + x] =
                rows.reflectance.data()[(b * h + data::detail::mirrored(y, h)) * w +
                                        data::detail::mirrored(x, w)];
      for (Index y = 0; y < h; ++y)
        std::copy_n(classes.data() + y * w, w, s.labels.data() + y * tw);
    }
    sum.add(s.image.data(), static_cast<std::size_t>(s.image.numel()) * sizeof(float));
    sum.add(s.labels.data(), static_cast<std::size_t>(s.labels.numel()));
    out.samples.push_back(std::move(s));
    out.names.push_back(images[i]);
  }
  out.fingerprint = sum.value();
  return out;
}

/// The classes with their labels and pixels, as a table for a user.
inline std::string class_table(const ModelCard& card, const LabelledScenes& scenes) {
  std::int64_t all = 0;
  std::size_t widest = 5;
  for (std::int64_t n : scenes.pixels) all += n;
  for (const ClassInfo& c : card.classes) widest = std::max(widest, c.name.size());
  const auto cell = [](std::string s, std::size_t w) {
    return std::string(w > s.size() ? w - s.size() : 0, ' ') + s;
  };
  std::string out = "class" + std::string(widest - 3, ' ') + cell("labels", 10) +
                    cell("pixels", 12) + cell("share", 9) + "\n";
  for (std::size_t c = 0; c < card.classes.size(); ++c) {
    std::string labels;
    for (std::int64_t l : card.classes[c].labels)
      labels += (labels.empty() ? "" : ",") + std::to_string(l);
    out += card.classes[c].name + std::string(widest + 2 - card.classes[c].name.size(), ' ') +
           cell(labels, 10) + cell(std::to_string(scenes.pixels[c]), 12) +
           cell(all ? data::detail::number(
                          100.0 * static_cast<double>(scenes.pixels[c]) / static_cast<double>(all),
                          2) +
                          "%"
                    : "-",
                9) +
           "\n";
  }
  return out + "not counted: " + std::to_string(scenes.ignored) + " ignored labels, " +
         std::to_string(scenes.nodata) + " pixels without measurement\n";
}

/// Scores a model on scenes in memory, by blended windows as predict_raster() does.
inline Confusion score_scenes(Segmenter<float>& net, const ModelCard& card,
                              const LabelledScenes& scenes) {
  const NoGrad off;
  const Index k = static_cast<Index>(card.classes.size()),
              c = static_cast<Index>(card.bands.size());
  Confusion confusion(k);
  for (const data::Sample& s : scenes.samples) {
    const data::WindowPlan plan = data::plan_windows({.height = s.image.size(1),
                                                      .width = s.image.size(2),
                                                      .bands = c,
                                                      .classes = k,
                                                      .size = card.window,
                                                      .overlap = card.window / 4});
    Tensor<float> image = s.image.clone();
    data::normalise(image, card.normalisation);
    data::ScoreBlender blender(plan);
    const auto emit = [&](Index first, const Tensor<float>& scores) {
      const Tensor<std::uint8_t> best = data::best_class(scores, {});
      for (Index i = 0; i < best.numel(); ++i)
        confusion.add(s.labels.data()[first * s.image.size(2) + i], best.data()[i], map_nodata);
    };
    for (Index i = 0; i < plan.count(); ++i) {
      Tensor<float> x = Tensor<float>::empty({1, c, card.window, card.window});
      data::copy_window(plan, i, image, 0, x.data());
      blender.add(i, detail::pixel_softmax(net(x).logits, 0), emit);
    }
  }
  return confusion;
}

}  // namespace moraine
