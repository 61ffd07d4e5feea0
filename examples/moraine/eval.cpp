// eval: a map against labels.
#include <moraine/recipes/raster_evaluation.hpp>
#include <moraine/recipes/training_config.hpp>

#include "commands.hpp"
#include "long_work.hpp"

using namespace moraine;

namespace program {

int run_eval(const EvalOptions& o) {
  apply_limits(o);
  EvaluationClasses given;
  if (!o.classes.empty()) {
    const Json config = read_json(o.classes);
    given.classes = detail::classes_of(config.at("classes"));
    if (const Json* ignore = config.find("ignore"))
      for (const Json& l : ignore->as_array("ignore")) given.ignore.push_back(l.as_int("ignore"));
  }
  for (double v : numbers_of(o.ignore, "--ignore"))
    given.ignore.push_back(static_cast<std::int64_t>(v));
  const Json m = evaluate_map(o.prediction, o.labels, given);
  if (!o.output.empty()) write_json(o.output, m);
  std::printf("%-20s %10s %10s %7s %7s\n", "class", "labelled", "predicted", "IoU", "F1");
  const auto text = [](const Json& v) {
    return v.is_null() ? std::string("-") : data::detail::number(v.as_double(), 3);
  };
  for (const Json& c : m.at("classes").as_array())
    std::printf("%-20s %10lld %10lld %7s %7s\n", c.at("name").as_string().c_str(),
                static_cast<long long>(c.at("labelled").as_int()),
                static_cast<long long>(c.at("predicted").as_int()), text(c.at("iou")).c_str(),
                text(c.at("f1")).c_str());
  std::printf("%s\n", metrics_line(m).c_str());
  long long strange = 0;
  for (const char* key : {"unknown_labels", "unknown_map_values"})
    for (const JsonMember& u : m.at(key).as_object())
      strange += static_cast<long long>(u.value.as_int());
  std::printf(
      "not scored: %lld ignored, %lld where the map is nodata, %lld of values that are no class\n",
      static_cast<long long>(m.at("ignored").as_int()),
      static_cast<long long>(m.at("map_nodata").as_int()), strange);
  for (const auto& [key, what] :
       {std::pair{"unknown_labels", "labels"}, std::pair{"unknown_map_values", "map"}})
    for (const JsonMember& u : m.at(key).as_object())
      std::printf(
          "warning: the %s %s no class: value %s, %lld pixels are left out of all figures\n", what,
          what[0] == 'l' ? "hold values of" : "holds values of", u.key.c_str(),
          static_cast<long long>(u.value.as_int()));
  return 0;
}

}  // namespace program
