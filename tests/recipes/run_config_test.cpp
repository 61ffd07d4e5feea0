// Configurations: merged over defaults, misspelled keys named, single fields set.
#include <doctest/doctest.h>

#include <moraine/recipes/training_config.hpp>

#include "message.hpp"
#include "tree.hpp"

using namespace moraine;

namespace {

std::string message(const char* given) {
  Json j = default_run();
  try {
    merge_config(j, parse_json(given));
    (void)parse_run(j);
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::config);
    return e.what();
  }
  return "";
}
std::string set_message(const char* assignment) {
  Json j = default_run();
  try {
    set_config(j, assignment);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}
constexpr const char* good =
    R"({"images": ["a.tif"], "labels": ["b.tif"], "trunks": {"vision": "v"},
  "classes": [{"name": "a", "labels": [3]}, {"name": "b", "labels": [7, 8], "colour": "#102030"}]})";

}  // namespace

TEST_CASE("config: a misspelled key is an error that names the nearest known one") {
  const std::string m = message(R"({"train": {"stesp": 10}})");
  CHECK(has(m, "\"train.stesp\""));
  CHECK(has(m, "did you mean \"train.steps\"?"));
  CHECK(has(message(R"({"imgaes": []})"), "did you mean \"images\"?"));
  CHECK(
      has(message(R"({"model": {"moe": {"expert": 3}}})"), "did you mean \"model.moe.experts\"?"));
  CHECK(!has(message(R"({"zzzzzzzzzzzz": 1})"), "did you mean"));
  CHECK(has(message(R"({"images": ["a"], "labels": ["b"], "classes": [{"nmae": "x"}]})"),
            "\"classes.0.nmae\""));
}

TEST_CASE("config: a value of the wrong kind or out of range names its key") {
  CHECK(
      has(message(R"({"train": {"lr": "fast"}})"), "\"train.lr\" is a string; expected a number"));
  CHECK(has(message(R"({"train": 3})"), "\"train\""));
  CHECK(has(message(R"([])"), "configuration"));
  Json j = default_run();
  merge_config(j, parse_json(good));
  (void)parse_run(j);
  for (const char* bad :
       {"train.steps=0", "train.batch=-1", "train.lr=-1", "train.decay=linear", "window=3",
        "model.method=magic", "train.steps=2.5", "model.moe.fusion=7"}) {
    CAPTURE(bad);
    Json k = j;
    std::string m;
    try {
      set_config(k, bad);
      (void)parse_run(k);
    } catch (const Error& e) {
      m = e.what();
    }
    CHECK(has(m, std::string(bad).substr(0, std::string(bad).find('=')).c_str()));
  }
}

TEST_CASE("config: classes and labels must fit each other") {
  const auto with = [](const char* more) {
    return message(
        (std::string(R"({"images": ["a"], "labels": ["b"], "trunks": {"vision": "v"}, )") + more +
         "}")
            .c_str());
  };
  CHECK(has(with(R"("classes": [{"name": "a", "labels": [1]}])"), "2 to 254"));
  CHECK(has(with(R"("classes": [{"name": "a", "labels": [1]}, {"name": "b", "labels": [1]}])"),
            "two classes"));
  CHECK(has(with(R"("classes": [{"name": "a", "labels": [1]}, {"name": "b", "labels": []}])"),
            "no labels"));
  CHECK(has(
      with(
          R"("ignore": [1], "classes": [{"name": "a", "labels": [1]}, {"name": "b", "labels": [2]}])"),
      "ignored"));
  CHECK(has(
      with(
          R"("classes": [{"name": "a", "labels": [1], "colour": "green"}, {"name": "b", "labels": [2]}])"),
      "no colour"));
  Json j = default_run();
  merge_config(j, parse_json(good));
  const RasterRun r = parse_run(j);
  CHECK(int{r.card.classes[1].value} == 7);  // a map has the first label value
  CHECK(r.card.classes[1].colour == Rgb{16, 32, 48});
}

TEST_CASE("config: --set reads JSON or plain text, and knows the same keys") {
  Json j = default_run();
  set_config(j, "train.lr=1e-3");
  set_config(j, "model.method=lora");
  set_config(j, "images=[\"a.tif\"]");
  set_config(j, "model.lora={\"rank\": 4}");
  CHECK(j.at("train").at("lr").as_double() == 1e-3);
  CHECK(j.at("model").at("method").as_string() == "lora");
  CHECK(j.at("model").at("lora").at("rank").as_int() == 4);
  CHECK(j.at("model").at("lora").at("alpha").as_double() == 0);
  CHECK(has(set_message("train.ir=1"), "did you mean \"train.lr\"?"));
  CHECK(has(set_message("train.lr"), "has no value"));
  CHECK(has(set_message("seed.x=1"), "no fields"));
  CHECK(has(set_message("train.lr=fast"), "expected a number"));
}

TEST_CASE("config: a warmup that is not given follows the steps") {
  const auto warmup = [](const char* given, std::vector<const char*> sets = {}) {
    Json j = default_run();
    merge_config(j, parse_json(given));
    for (const char* s : sets) set_config(j, s);
    // What was saved reads back the same.
    Json again = default_run();
    merge_config(again, parse_json(json_text(j)));
    CHECK(first_difference(again, j).empty());
    return j.at("train").at("warmup").as_int();
  };
  CHECK(default_run().at("train").at("steps").as_int() == 200);
  CHECK(warmup("{}") == 20);
  CHECK(warmup(R"({"train": {"steps": 6}})") == 0);
  CHECK(warmup(R"({"train": {"steps": 50}})") == 5);
  CHECK(warmup(R"({"train": {"steps": 200}})") == 20);
  CHECK(warmup(R"({"train": {"steps": 100000}})") == 20);
  CHECK(warmup(R"({"train": {"steps": 50, "warmup": 20}})") == 20);
  CHECK(warmup(R"({"train": {"warmup": 3}})") == 3);
  CHECK(warmup("{}", {"train.steps=60"}) == 6);
  CHECK(warmup("{}", {"train={\"steps\": 60}"}) == 6);
  CHECK(warmup("{}", {"train.steps=6", "train.steps=90"}) == 9);
  CHECK(warmup("{}", {"train.steps=60", "train.warmup=20"}) == 20);
  CHECK(warmup(R"({"train": {"steps": 100, "warmup": 3}})", {"train.steps=60"}) == 3);
  CHECK(has(message(R"({"images": ["a"], "labels": ["b"], "trunks": {"vision": "v"},
      "classes": [{"name": "a", "labels": [1]}, {"name": "b", "labels": [2]}],
      "train": {"steps": 6, "warmup": 7}})"),
            "\"train.warmup\" is 7; it takes 0 to 6"));
}

TEST_CASE("config: the first difference of two runs is named with both values") {
  Json a = default_run(), b = default_run();
  CHECK(first_difference(a, b).empty());
  set_config(b, "train.lr=0.5");
  CHECK(first_difference(b, a) == "train.lr (0.5, before 0.006)");
  // A round trip through a file is no difference.
  CHECK(first_difference(parse_json(json_text(b)), b).empty());
}

TEST_CASE("config: a segmenter survives its JSON") {
  SegmenterConfig c;
  c.method = Method::lora, c.taps = {0, 4}, c.lora.rank = 3, c.lora.alpha = 5;
  c.moe.gate.logits = GateLogits::dot, c.moe.gate.top_k = 2, c.moe.fusion = Fusion::local;
  c.moe.expert.combine = Combine::logsumexp, c.use_depth = false, c.moe_init.scale = 0.25;
  const Json j = segmenter_json(c);
  CHECK(segmenter_json(segmenter_from_json(j, 8, 0)) == j);
  CHECK(!(segmenter_json({}) == j));
}

TEST_CASE("config: distances between words") {
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(edit_distance("lr", "lr") == 0);
}
