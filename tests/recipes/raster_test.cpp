// Prediction on rasters: what is written is what the model computed, in the memory that was
// planned.
#include <doctest/doctest.h>

#include <functional>
#include <moraine/recipes/raster_training.hpp>

#include "fixtures.hpp"
#include "message.hpp"
#include "recipes/tiny.hpp"

using namespace moraine;

namespace {

/// A model that was never trained, with its card.
struct Untrained {
  ModelCard card;
  Segmenter<float> net;
  explicit Untrained(const scratch::Tree& dir, Method method = Method::spectralmoe) {
    Json config = default_run();
    merge_config(config, tiny::write_run(dir));
    RasterRun run = parse_run(config);
    run.card.segmenter.method = method;
    auto [vision, depth] = detail::open_trunks(run.card);
    run.card.dtype = "I16";
    card = run.card;
    net = Segmenter<float>(card.segmenter, std::move(vision), std::move(depth));
    // The head starts near zero; these scores are not.
    init::normal(net.head.linear.weight, 1, init::stream(5, "head"));
  }
};

struct Listener final : Progress {
  std::string notes;
  Index stop_at = 0, seen = 0;
  void note(const std::string& text) override { notes += text + "\n"; }
  void at(Index done, Index, const std::string&) override { seen = done; }
  bool stop() override { return stop_at && seen >= stop_at; }
};

std::string message(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}
}  // namespace

TEST_CASE("raster: the routing written is the softmax of the gate's logits of that window") {
  const scratch::Tree dir;
  Untrained m(dir);
  tiny::write_scene(dir / "s.tif", "", {.height = 16, .width = 16});
  GeoTiffReader scene(dir / "s.tif");
  predict_raster(m.net, m.card, scene, dir / "map.tif", {.routing = dir / "routing.tif"});

  const NoGrad off;
  const SceneInput in = match_scene(scene.info(), "s", m.card);
  SceneRows rows = read_scene_rows(scene, in, 0, 16);
  data::normalise(rows.reflectance, m.card.normalisation);
  detail::GateRecorder gates(2);
  Tensor<float> logits;
  {
    const Observing listen(gates);
    logits = m.net(reshape(rows.reflectance, {1, 4, 16, 16})).logits;
  }
  GeoTiffReader routing(dir / "routing.tif"), map(dir / "map.tif");
  const Tensor<float> r = routing.read_float({0, 0, 16, 16}),
                      drawn = map.read_float({0, 0, 16, 16});
  for (Index y = 0; y < 16; ++y)
    for (Index x = 0; x < 16; ++x) {
      Index best = 0;
      for (Index k = 1; k < 3; ++k)
        if (logits.at({0, k, y, x}) > logits.at({0, best, y, x})) best = k;
      CHECK(drawn.at({0, y, x}) == static_cast<float>(best + 1));  // the class's label value
      for (Index l = 0; l < 2; ++l) {
        const Tensor<float> h = gates.layers[static_cast<std::size_t>(l)].as<float>();  // (16,3)
        const Index p = y / 4 * 4 + x / 4;
        double q[3], total = 0, entropy = 0;
        Index winner = 0;
        for (Index e = 0; e < 3; ++e) total += q[e] = std::exp(static_cast<double>(h.at({p, e})));
        for (Index e = 0; e < 3; ++e) {
          q[e] /= total, entropy -= q[e] * std::log(q[e]);
          if (q[e] > q[winner]) winner = e;
        }
        CHECK(r.at({3 * l, y, x}) == static_cast<float>(winner));
        CHECK(std::abs(r.at({3 * l + 1, y, x}) - 254 * q[winner]) <= 0.501);
        CHECK(std::abs(r.at({3 * l + 2, y, x}) - 254 * entropy / std::log(3.0)) <= 0.501);
      }
    }
}

TEST_CASE("raster: routing of neighbours meets in the middle of their overlap") {
  const std::vector<Index> starts{0, 12, 20};
  CHECK(detail::own_end(starts, 0, 16, 36) == 14);
  CHECK(detail::own_end(starts, 1, 16, 36) == 24);
  CHECK(detail::own_end(starts, 2, 16, 36) == 36);
  CHECK(detail::own_end({0}, 0, 16, 7) == 7);
}

TEST_CASE("raster: the plan bounds the memory, which does not grow with the scene's height") {
  const scratch::Tree dir;
  Untrained m(dir);
  std::size_t peaks[2];
  for (int i = 0; i < 2; ++i) {
    tiny::write_scene(dir / "s.tif", "", {.height = i ? 512 : 64, .width = 150});
    GeoTiffReader scene(dir / "s.tif");
    Listener listener;
    cpu_device.reset_peak();
    const PredictionReport r = predict_raster(m.net, m.card, scene, dir / "map.tif",
                                              {.routing = dir / "r.tif", .progress = &listener});
    peaks[i] = cpu_device.peak.load();
    CHECK(peaks[i] <= r.planned_bytes);
    CHECK(has(listener.notes, "windows of 16, overlap 4, at most"));
    CHECK(has(listener.notes, "thread"));
  }
  CHECK(peaks[1] <= peaks[0] + 4096);
}

TEST_CASE("raster: a memory limit halves the batch before it refuses; the map stays the same") {
  const scratch::Tree dir;
  Untrained m(dir);
  tiny::write_scene(dir / "s.tif", "", {.height = 50, .width = 70, .nodata_corner = true});
  GeoTiffReader scene(dir / "s.tif");
  const PredictionReport full = predict_raster(m.net, m.card, scene, dir / "a.tif", {.batch = 64});
  const PredictionReport less = predict_raster(m.net, m.card, scene, dir / "b.tif",
                                               {.batch = 64, .memory = full.planned_bytes - 1});
  CHECK(less.batch < 64);
  CHECK(less.planned_bytes < full.planned_bytes);
  CHECK(read_file(dir / "a.tif") == read_file(dir / "b.tif"));
  const std::string e =
      message([&] { predict_raster(m.net, m.card, scene, dir / "c.tif", {.memory = 2u << 20}); });
  CHECK(has(e, "allowed 2 MiB"));
  CHECK(!is_file(dir / "c.tif"));
}

TEST_CASE("raster: a method without experts has no routing to write") {
  const scratch::Tree dir;
  Untrained m(dir, Method::lora);
  GeoTiffReader scene(dir / "scene.tif");
  CHECK(has(message([&] {
              predict_raster(m.net, m.card, scene, dir / "m.tif", {.routing = dir / "r.tif"});
            }),
            "no routing to write; the model's method is lora"));
  predict_raster(m.net, m.card, scene, dir / "m.tif", {.preview = dir / "m.png"});
  CHECK(is_file(dir / "m.png"));
}

TEST_CASE("raster: a scene is compared with the card before anything is read") {
  const scratch::Tree dir;
  Untrained m(dir);
  const auto refused = [&](RasterInfo info, SceneOptions o = {}) {
    return message([&] { match_scene(info, "scene.tif", m.card, o); });
  };
  RasterInfo info = GeoTiffReader(dir / "scene.tif").info();
  CHECK(refused(info).empty());
  info.dtype = Dtype::u8;
  CHECK(has(refused(info), "holds U8 numbers, the model was trained on I16 times"));
  CHECK(refused(info, {.scale = 1.0 / 255}).empty());
  info.dtype = Dtype::u16;
  CHECK(refused(info).empty());
  info.bands = 3;
  CHECK(has(refused(info), "\"scene.tif\" has 3 bands -> say what its bands are: --bands"));
  info.bands = 5;
  CHECK(refused(info, {.bands = make_bands({"nir", "red", "green", "blue", "thermal"}, {}, {})})
            .empty());
  CHECK(has(refused(info, {.bands = make_bands({"a", "b"}, {}, {})}),
            "2 bands given for a scene with 5"));
  // Names in the file are used where the card knows them.
  info.band_names = {"nir", "RED", "green", "blue", "other"};
  const SceneInput in = match_scene(info, "scene.tif", m.card);
  CHECK(in.matrix.at(0, 3) == 1);
  CHECK(in.matrix.at(3, 0) == 1);
  CHECK(in.used == std::vector<int>{0, 1, 2, 3});
  CHECK(has(refused(info, {.scale = 0}), "scale not 0"));
}

TEST_CASE("raster: nodata and NaN do not reach the model, offset and scale do") {
  SceneInput in;
  in.reduced = data::match_bands({{"a", 0, 0}}, {{"a", 0, 0}});
  in.scale = 0.5, in.offset = -10, in.nodata = make_nodata(-9999), in.fill = {0.25f};
  const SceneRows r = to_reflectance(
      in, Tensor<float>({1, 1, 4}, {30, -9999, std::numeric_limits<float>::quiet_NaN(), 10}));
  CHECK(r.valid.values() == std::vector<std::uint8_t>{1, 0, 0, 1});
  CHECK(r.reflectance.values() == std::vector<float>{10, 0.25f, 0.25f, 0});
}

TEST_CASE("raster: a card survives its metadata") {
  const scratch::Tree dir;
  Untrained m(dir);
  m.card.nodata = -32768;
  const auto meta = card_metadata(m.card);
  CHECK(card_metadata(card_from_metadata(meta, "x")) == meta);
  for (const auto& [key, value] : meta) {
    auto bad = meta;
    bad.erase(key);
    if (key != "config") CHECK(has(message([&] { card_from_metadata(bad, "x"); }), key.c_str()));
    bad[key] = "?";
    if (key != "scene_dtype") CHECK(!message([&] { card_from_metadata(bad, "x"); }).empty());
  }
}

TEST_CASE("raster: training holds what it said it would, and less with checkpointing") {
  const scratch::Tree dir;
  Json config = default_run();
  merge_config(config, tiny::write_run(dir, 3));
  std::size_t kept[2];
  for (bool less : {false, true}) {
    Json train = Json::object(), model = Json::object(), change = Json::object();
    train.set("gradient_checkpointing", less);
    model.set("method", "lora");
    change.set("train", train);
    change.set("model", model);
    merge_config(config, change);
    const std::string out = dir / (less ? "less" : "more");
    Listener listener;
    cpu_device.reset_peak();
    const std::size_t held = cpu_device.live.load();
    const TrainingReport r = train_on_rasters(parse_run(config), out, &listener);
    CHECK(has(listener.notes, "a step holds at most"));
    const auto peak = static_cast<double>(cpu_device.peak.load());
    const auto planned = static_cast<double>(r.planned_bytes);
    CHECK(peak <= planned * 1.05);
    CHECK(peak >= planned * 0.8);
    kept[less] = cpu_device.peak.load() - held;
  }
  CHECK(kept[1] < kept[0]);  // these blocks are tiny; tests/models/vit_test.cpp has larger ones
  // The gradient of a block's input is summed in another order, so not the same bits.
  TensorMap maps[2];
  for (bool less : {false, true})
    maps[less] = read_safetensors((dir / (less ? "less" : "more")) + "/model.safetensors").tensors;
  REQUIRE(maps[0].size() == maps[1].size());
  for (const auto& [name, t] : maps[0])
    CHECK_MESSAGE(fixtures::distance(t, maps[1].at(name)) < 1e-4, name);
}

TEST_CASE("raster: a run that is stopped politely goes on with the same bits") {
  const scratch::Tree dir;
  Json config = default_run();
  merge_config(config, tiny::write_run(dir, 9));
  train_on_rasters(parse_run(config), dir / "whole");
  Listener stopper;
  stopper.stop_at = 4;
  TrainingReport r = train_on_rasters(parse_run(config), dir / "parts", &stopper);
  CHECK(!r.finished);
  r = train_on_rasters(parse_run(config), dir / "parts");
  CHECK(r.resumed_at == 4);
  CHECK(r.finished);
  CHECK(read_file(dir / "parts/model.safetensors") == read_file(dir / "whole/model.safetensors"));
  CHECK(train_on_rasters(parse_run(config), dir / "parts").was_finished);

  // The file holds what was trained and nothing of the trunks.
  const SafetensorsFile file = read_safetensors(dir / "whole/model.safetensors");
  CHECK(file.tensors.count("moe.w_gate.0.0") == 1);
  for (const auto& [name, t] : file.tensors) CHECK_MESSAGE(name.rfind("vision.", 0) != 0, name);

  // Scores in memory are those of the map on disk.
  LoadedModel m = read_model(dir / "whole");
  GeoTiffReader scene(dir / "scene.tif");
  predict_raster(m.net, m.card, scene, dir / "map.tif");
  const Json on_disk = evaluate_map(dir / "map.tif", dir / "labels.tif");
  CHECK(on_disk.at("confusion") ==
        read_json(dir / "whole/metrics.json").at("training").at("confusion"));
}

TEST_CASE("raster: labels that a map does not know are counted, not scored") {
  const scratch::Tree dir;
  Untrained m(dir);
  GeoTiffReader scene(dir / "scene.tif");
  predict_raster(m.net, m.card, scene, dir / "map.tif");
  Tensor<float> labels = GeoTiffReader(dir / "labels.tif").read_float({0, 0, 56, 40});
  for (Index i = 0; i < 10; ++i) labels.data()[i] = 77;
  labels.data()[10] = 2.5f;
  GeoTiffWriter w(dir / "other.tif", {.width = 56, .height = 40, .dtype = Dtype::f32});
  w.write_rows(labels);
  w.finish();
  const Json j = evaluate_map(dir / "map.tif", dir / "other.tif");
  CHECK(j.at("unknown_labels").at("77").as_int() == 10);
  CHECK(j.at("unknown_labels").at("2.5").as_int() == 1);
  CHECK(j.at("pixels").as_int() + j.at("ignored").as_int() + 11 == 56 * 40);
  // A map without class names needs to be told.
  CHECK(has(message([&] { evaluate_map(dir / "labels.tif", dir / "labels.tif"); }), "--classes"));
}

TEST_CASE("raster: a legend is drawn beside the map") {
  Thumbnail t(600, 300, 100);
  CHECK(t.height() == 100);
  CHECK(t.width() == 50);
  const std::vector<std::uint8_t> row(300, 4);
  for (Index y = 0; y < 600; ++y) t.rows(y, 1, row.data());
  CHECK(int{t.at(99, 49)} == 4);
  const Tensor<std::uint8_t> p = draw_maps({&t}, {"map"}, {{4, {1, 2, 3}, "trees"}});
  Index coloured = 0;
  for (Index i = 0; i < p.numel(); i += 3)
    coloured += p.data()[i] == 1 && p.data()[i + 1] == 2 && p.data()[i + 2] == 3;
  CHECK(coloured == 100 * 50 * 4 + 16 * 16);  // drawn twice as large, and the legend's square
}

TEST_CASE("raster: a thumbnail of the middle holds every k-th pixel from an aligned corner on") {
  Thumbnail t = Thumbnail::middle(50, 30, 24, 2, 4);
  CHECK(t.height() == 12);
  CHECK(t.width() == 12);
  // Rows come in threes; the last ones are fewer. The cut begins at row 12 (of 13), column 0 (of
  // 3).
  for (Index y = 0; y < 50; y += 3) {
    const Index n = std::min<Index>(3, 50 - y);
    std::vector<std::uint8_t> rows(static_cast<std::size_t>(n * 30));
    for (Index i = 0; i < n * 30; ++i)
      rows[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>((y + i / 30) * 5 + i % 30);
    t.rows(y, n, rows.data());
  }
  for (Index y = 0; y < 12; ++y)
    for (Index x = 0; x < 12; ++x) CHECK(int{t.at(y, x)} == ((12 + 2 * y) * 5 + 2 * x) % 256);
  // A scene that is smaller is shown whole.
  CHECK(Thumbnail::middle(10, 7, 24, 1, 4).height() == 10);
  CHECK(Thumbnail::middle(10, 7, 24, 1, 4).width() == 7);
}

TEST_CASE("raster: what the configuration says of the bands holds against the names in a file") {
  const scratch::Tree dir;
  const Untrained m(dir);
  tiny::write_scene(dir / "named.tif", dir / "named-labels.tif",
                    {.band_names = {"blue", "green", "red", "nir"}});
  const auto read = [&](const ModelCard& card) {
    return read_labelled_scenes({dir / "named.tif"}, {dir / "named-labels.tif"}, card);
  };
  ModelCard card = m.card;
  card.scene_stated = false, card.scene = card.bands;
  const LabelledScenes by_name = read(card);
  CHECK(by_name.warnings.empty());
  card.scene_stated = true;
  std::swap(card.scene[0], card.scene[2]);  // red, green, blue, nir
  const LabelledScenes stated = read(card);
  REQUIRE(stated.warnings.size() == 1);
  CHECK(has(stated.warnings[0], "band 1 of \"named.tif\" calls itself \"blue\""));
  const Index n = by_name.samples[0].image.numel() / 4;
  const float *a = by_name.samples[0].image.data(), *b = stated.samples[0].image.data();
  CHECK(std::equal(a, a + n, b + 2 * n));
  CHECK(std::equal(a + 2 * n, a + 3 * n, b));
  CHECK(std::equal(a + n, a + 2 * n, b + n));
}

TEST_CASE("raster: numbers that are no reflectance, and windows beyond the scene, are warned of") {
  const scratch::Tree dir;
  const Untrained m(dir);
  tiny::write_scene(dir / "s.tif", dir / "l.tif");
  ModelCard card = m.card;
  CHECK(read_labelled_scenes({dir / "s.tif"}, {dir / "l.tif"}, card).warnings.empty());
  card.scale = 1;
  card.window = 64;
  const auto w = read_labelled_scenes({dir / "s.tif"}, {dir / "l.tif"}, card).warnings;
  REQUIRE(w.size() == 2);
  CHECK(has(w[0], "mean reflectance"));
  CHECK(has(w[1], "\"window\" is 64"));
}
