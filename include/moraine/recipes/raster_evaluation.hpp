#pragma once
// Compares a map with labels on the same grid and writes metrics, all from one confusion matrix
// that is saved with them (definitions: train/metrics.hpp).
#include <cmath>
#include <cstdint>
#include <map>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/io/geotiff_reader.hpp>
#include <moraine/io/json.hpp>
#include <moraine/recipes/labelled_scenes.hpp>
#include <moraine/recipes/model_card.hpp>
#include <moraine/train/metrics.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

/// Metrics of a confusion matrix as JSON: null where a quantity is not defined.
inline Json metrics_json(const Confusion& c, const std::vector<ClassInfo>& classes) {
  const auto number = [](double v) { return std::isfinite(v) ? Json(v) : Json(); };
  Json j = Json::object();
  j.set("pixels", static_cast<long long>(c.total()));
  j.set("ignored", static_cast<long long>(c.ignored()));
  j.set("miou", number(c.mean_iou()));
  j.set("mf1", number(c.mean_f1()));
  j.set("overall_accuracy", number(c.accuracy()));
  j.set("kappa", number(c.kappa()));
  Json per = Json::array(), matrix = Json::array();
  for (Index k = 0; k < c.classes(); ++k) {
    const ClassInfo& info = classes[static_cast<std::size_t>(k)];
    Json one = Json::object();
    one.set("name", info.name);
    one.set("value", static_cast<int>(info.value));
    one.set("labelled", static_cast<long long>(c.row(k)));
    one.set("predicted", static_cast<long long>(c.column(k)));
    one.set("iou", number(c.iou(k)));
    one.set("f1", number(c.f1(k)));
    per.push(std::move(one));
    Json row = Json::array();
    for (Index p = 0; p < c.classes(); ++p) row.push(static_cast<long long>(c.at(k, p)));
    matrix.push(std::move(row));
  }
  j.set("classes", std::move(per));
  j.set("confusion", std::move(matrix));
  Json& d = j.set("definitions", Json::object());
  d.set("confusion", "rows: labels, columns: predictions, in the order of classes; pixels");
  d.set("iou", "n_cc / (row_c + column_c - n_cc); null where the class occurs in neither");
  d.set("f1", "2 n_cc / (row_c + column_c); null where the class occurs in neither");
  d.set("miou", "mean of iou over the classes where it is not null");
  d.set("mf1", "mean of f1 over the classes where it is not null");
  d.set("overall_accuracy", "sum_c n_cc / sum n");
  d.set("kappa", "(overall_accuracy - chance) / (1 - chance), chance = sum_c row_c column_c / n^2");
  return j;
}

/// "mIoU 0.412, mF1 0.550, OA 0.731, kappa 0.602 on 50176 pixels".
inline std::string metrics_line(const Json& m) {
  const auto of = [&](const char* key) {
    const Json& v = m.at(key);
    return v.is_null() ? std::string("undefined") : data::detail::number(v.as_double(), 3);
  };
  return "mIoU " + of("miou") + ", mF1 " + of("mf1") + ", OA " + of("overall_accuracy") +
         ", kappa " + of("kappa") + " on " + std::to_string(m.at("pixels").as_int()) + " pixels";
}

/// What the map's values mean and which label values belong to them.
struct EvaluationClasses {
  std::vector<ClassInfo> classes;
  std::vector<std::int64_t> ignore;
};

/// Classes as a map of predict_raster() names them in its metadata; for other maps one class for
/// each class name, or no class at all.
inline EvaluationClasses classes_of_map(const RasterInfo& info) {
  EvaluationClasses out;
  for (const MetadataItem& m : info.metadata) {
    if (m.name == "MORAINE_CLASSES") {
      const Json list = parse_json(m.text, "map: MORAINE_CLASSES");
      for (const Json& k : list.as_array("MORAINE_CLASSES")) {
        ClassInfo c;
        c.name = k.at("name").as_string("name");
        c.value = static_cast<std::uint8_t>(k.at("value").as_natural("value") & 255u);
        for (const Json& l : k.at("labels").as_array("labels"))
          c.labels.push_back(l.as_int("labels"));
        out.classes.push_back(std::move(c));
      }
    }
    if (m.name == "MORAINE_IGNORE") {
      const Json list = parse_json(m.text, "map: MORAINE_IGNORE");
      for (const Json& l : list.as_array("MORAINE_IGNORE"))
        out.ignore.push_back(l.as_int("ignore"));
    }
  }
  if (out.classes.empty())
    for (std::size_t v = 0; v < info.class_names.size() && v < map_nodata; ++v)
      if (!info.class_names[v].empty())
        out.classes.push_back({info.class_names[v],
                               {},
                               static_cast<std::uint8_t>(v),
                               {static_cast<std::int64_t>(v)}});
  return out;
}

/// Metrics of a map against labels. Label values that are neither a class nor ignored, and map
/// values that are no class, are counted and reported, not scored; nor are pixels where the map is
/// nodata. Throws ErrorKind::shape when the sizes differ.
inline Json evaluate_map(const std::string& prediction, const std::string& labels,
                         const EvaluationClasses& given = {}) {
  GeoTiffReader map(prediction);
  const RasterInfo& info = map.info();
  if (info.bands != 1)
    fail(ErrorKind::value, "eval: " + quoted(base_name(prediction)) + " has " +
                               std::to_string(info.bands) + " bands; a map has one");
  EvaluationClasses classes = classes_of_map(info);
  if (!given.classes.empty()) classes.classes = given.classes;
  classes.ignore.insert(classes.ignore.end(), given.ignore.begin(), given.ignore.end());
  if (classes.classes.empty())
    fail(ErrorKind::value, "eval: " + quoted(base_name(prediction)) +
                               " does not name its classes -> name them with --classes run.json");
  const Tensor<float> truth = read_labels(labels);
  if (truth.size(0) != info.height || truth.size(1) != info.width)
    fail(ErrorKind::shape,
         "eval: the sizes differ; map " + std::to_string(info.height) + " x " +
             std::to_string(info.width) + ", labels " + std::to_string(truth.size(0)) + " x " +
             std::to_string(truth.size(1)) + " -> labels must lie on the map's grid");
  std::map<float, std::int64_t> of_label, of_value;
  for (std::size_t c = 0; c < classes.classes.size(); ++c) {
    of_value[static_cast<float>(classes.classes[c].value)] = static_cast<std::int64_t>(c);
    for (std::int64_t l : classes.classes[c].labels)
      of_label[static_cast<float>(l)] = static_cast<std::int64_t>(c);
  }
  for (std::int64_t l : classes.ignore) of_label[static_cast<float>(l)] = -1;
  Confusion confusion(static_cast<Index>(classes.classes.size()));
  std::map<float, std::int64_t> unknown_labels, unknown_values;
  std::int64_t unpredicted = 0;
  for (Index y = 0; y < info.height; y += 256) {
    const Index h = std::min<Index>(256, info.height - y);
    const Tensor<float> part = map.read_float({0, y, info.width, h});
    for (Index i = 0; i < h * info.width; ++i) {
      const float l = truth.data()[y * info.width + i], p = part.data()[i];
      const auto label = of_label.find(l), value = of_value.find(p);
      if (std::isnan(l) || (label != of_label.end() && label->second < 0))
        confusion.add(-1, 0, -1);
      else if (label == of_label.end())
        ++unknown_labels[l];
      else if (info.nodata && info.nodata->is(static_cast<double>(p)))
        ++unpredicted;
      else if (value == of_value.end())
        ++unknown_values[p];
      else
        confusion.add(label->second, value->second, -1);
    }
  }
  Json j = metrics_json(confusion, classes.classes);
  const auto counts = [](const std::map<float, std::int64_t>& m) {
    Json o = Json::object();
    for (const auto& [v, n] : m) o.set(detail::label_text(v), static_cast<long long>(n));
    return o;
  };
  j.set("map_nodata", static_cast<long long>(unpredicted));
  j.set("unknown_labels", counts(unknown_labels));
  j.set("unknown_map_values", counts(unknown_values));
  Json& d = *j.find("definitions");
  d.set("map_nodata", "labelled pixels where the map has no class; not scored");
  d.set("unknown_labels",
        "label values that are neither a class nor ignored, and their pixels; not scored");
  Json& from = j.set("compared", Json::object());
  from.set("prediction", base_name(prediction));
  from.set("labels", base_name(labels));
  return j;
}

}  // namespace moraine
