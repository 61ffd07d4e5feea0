// The second half of the demo: one large unseen scene as a GeoTIFF, its map by windows, the routing
// of every patch, and the report.
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <moraine/inspect/report.hpp>
#include <moraine/recipes/domain_shift.hpp>
#include <moraine/recipes/model_card.hpp>
#include <moraine/recipes/raster_prediction.hpp>
#include <string>
#include <vector>

#include "demo.hpp"
#include "long_work.hpp"

using namespace moraine;

namespace program {
namespace {

/// UTM zone 33N, somewhere in Brandenburg; the scene's upper left corner.
GeoTags scene_place(double gsd) {
  const auto raw = [](int tag, int type, std::uint64_t count, const void* data, std::size_t bytes) {
    RawTag t{static_cast<std::uint16_t>(tag), static_cast<std::uint16_t>(type), count, {}};
    t.bytes.resize(bytes);
    std::memcpy(t.bytes.data(), data, bytes);
    return t;
  };
  const double scale[3] = {gsd, gsd, 0}, tie[6] = {0, 0, 0, 380000, 5810000, 0};
  // Projected, pixels are areas, EPSG 32633.
  const std::uint16_t keys[16] = {1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633};
  return {raw(33550, 12, 3, scale, sizeof scale), raw(33922, 12, 6, tie, sizeof tie),
          raw(34735, 3, 16, keys, sizeof keys)};
}

std::vector<ClassInfo> land_classes() {
  std::vector<ClassInfo> all;
  for (int c = 0; c < data::land_count; ++c) {
    const auto i = static_cast<std::size_t>(c);
    all.push_back({data::land_names[i], data::land_palette[i], static_cast<std::uint8_t>(c), {c}});
  }
  return all;
}

/// Writes reflectance * 10000 (uint16, four bands) and the labels.
void write_scene(const data::Scene& s, const data::Domain& d, const std::string& scene,
                 const std::string& truth) {
  const Index h = s.labels.size(0), w = s.labels.size(1), bands = d.bands();
  GeoTiffWriter x(scene, {.width = w,
                          .height = h,
                          .bands = static_cast<int>(bands),
                          .dtype = Dtype::u16,
                          .geo = scene_place(d.gsd),
                          .band_names = {"blue", "green", "red", "nir"}});
  GeoTiffOptions labels{.width = w, .height = h, .predictor = false, .geo = scene_place(d.gsd)};
  for (const ClassInfo& c : land_classes()) {
    labels.colour_map.push_back({static_cast<std::uint16_t>(c.colour[0] * 257),
                                 static_cast<std::uint16_t>(c.colour[1] * 257),
                                 static_cast<std::uint16_t>(c.colour[2] * 257)});
    labels.class_names.push_back(c.name);
  }
  GeoTiffWriter y(truth, labels);
  constexpr Index rows = 512;
  for (Index first = 0; first < h; first += rows) {
    const Index n = std::min(rows, h - first);
    Tensor<std::uint16_t> part = Tensor<std::uint16_t>::empty({bands, n, w});
    for (Index b = 0; b < bands; ++b)
      parallel_for(n * w, 1 << 14, [&](Index begin, Index end) {
        const float* from = s.reflectance.data() + (b * h + first) * w;
        for (Index i = begin; i < end; ++i)
          part.data()[b * n * w + i] = static_cast<std::uint16_t>(
              std::lround(std::clamp(from[i] * 10000.0f, 0.0f, 65534.0f)));
      });
    x.write_rows(part);
    y.write_rows(s.labels.view({1, n, w}, {n * w, w, 1}, first * w));
  }
  x.finish();
  y.finish();
}

/// Every k-th pixel of x (C,H,W) from (y,x), h x w of them.
template <class T>
Tensor<T> cut(const Tensor<T>& x, Index top, Index left, Index h, Index w, Index step) {
  Tensor<T> out = Tensor<T>::empty({x.size(0), h, w});
  for (Index c = 0; c < x.size(0); ++c)
    for (Index i = 0; i < h; ++i)
      for (Index j = 0; j < w; ++j)
        out.data()[(c * h + i) * w + j] =
            x.data()[(c * x.size(1) + top + i * step) * x.size(2) + left + j * step];
  return out;
}

std::vector<inspect::Colour> colours() {
  std::vector<inspect::Colour> all;
  for (const auto& c : data::land_palette) all.push_back({c[0], c[1], c[2]});
  return all;
}
std::vector<std::string> names() { return {data::land_names.begin(), data::land_names.end()}; }

/// The experts of a square of the scene, patch by patch: maps of every layer and stream.
inspect::ReportExpertMaps look_closely(Segmenter<float>& net, const Tensor<float>& square) {
  const Index side = square.size(1), tiles = side / small_tile,
              grid = small_tile / net.vision.config.patch;
  Tensor<float> batch =
      Tensor<float>::empty({tiles * tiles, square.size(0), small_tile, small_tile});
  for (Index t = 0; t < tiles * tiles; ++t) {
    const Tensor<float> one =
        cut(square, t / tiles * small_tile, t % tiles * small_tile, small_tile, small_tile, 1);
    std::memcpy(batch.data() + t * one.numel(), one.data(),
                static_cast<std::size_t>(one.numel()) * sizeof(float));
  }
  data::normalise(batch, data::demo_normalisation(4));
  inspect::RoutingCollector routing({.rows_per_tile = grid * grid});
  {
    const NoGrad off;
    const Observing listen(routing);
    net(batch);
  }
  inspect::ReportExpertMaps out{.experts = net.config.moe.experts};
  for (const inspect::RoutingPlace& p : routing.places()) {
    const Index n = tiles * grid;
    inspect::ExpertMap whole{p.layer, p.stream, Tensor<std::uint8_t>::empty({n, n}),
                             Tensor<std::uint8_t>::empty({n, n}),
                             Tensor<std::uint8_t>::empty({n, n})};
    for (Index t = 0; t < tiles * tiles; ++t) {
      const inspect::ExpertMap part = inspect::expert_map(p, grid, grid, t);
      for (auto [to, from] : {std::pair{&whole.winner, &part.winner},
                              std::pair{&whole.probability, &part.probability},
                              std::pair{&whole.entropy, &part.entropy}})
        for (Index i = 0; i < grid; ++i)
          std::memcpy(to->data() + (t / tiles * grid + i) * n + t % tiles * grid,
                      from->data() + i * grid, static_cast<std::size_t>(grid));
    }
    out.maps.push_back(whole);
  }
  out.scene = inspect::composite(square);
  return out;
}

void add_table(inspect::Report& report, const DemoResult& result) {
  inspect::ReportResults table{.title = "mIoU of 8 classes", .columns = result.domains};
  table.columns.push_back("mean of unseen");
  table.extra_columns = {"trained", "seconds"};
  for (const MethodRow& row : result.rows) {
    inspect::ReportResults::Row r{row.title, {}};
    const double n = static_cast<double>(row.runs.size());
    for (std::size_t d = 0; d <= result.domains.size(); ++d) {
      std::vector<double> v;
      for (const MethodRun& run : row.runs)
        v.push_back(d < result.domains.size() ? run.confusion[d].mean_iou() : run.target_mean());
      double mean = 0, square = 0;
      for (double x : v) mean += x / n;
      for (double x : v) square += (x - mean) * (x - mean);
      r.values.push_back(mean);
      if (row.runs.size() > 1) r.spreads.push_back(std::sqrt(square / (n - 1)));
    }
    double seconds = 0;
    for (const MethodRun& run : row.runs) seconds += run.seconds / n;
    r.extra = {std::to_string(row.runs[0].trained), std::to_string(std::lround(seconds))};
    table.rows.push_back(std::move(r));
  }
  report.add_results(table);
  inspect::ReportTable classes{
      "IoU of each class, SpectralMoE (paper), first seed", {"domain"}, {}};
  for (const std::string& name : names()) classes.columns.push_back(name);
  for (const MethodRow& row : result.rows)
    if (row.key == "spectralmoe")
      for (std::size_t d = 0; d < result.domains.size(); ++d) {
        std::vector<std::string> cells{result.domains[d]};
        for (Index c = 0; c < data::land_count; ++c) {
          char text[16];
          std::snprintf(text, sizeof text, "%.3f", row.runs[0].confusion[d].iou(c));
          cells.push_back(text);
        }
        classes.rows.push_back(std::move(cells));
      }
  report.add_table(classes);
}

}  // namespace

void draw_large_scene(const DemoOptions& o, Segmenter<float>& net, const Trunks& trunks,
                      const DemoResult& result,
                      const std::vector<std::vector<data::Sample>>& test) {
  const std::string dir = o.output + '/';
  const data::Domain domain = data::domain("mild");
  std::printf(
      "A scene of %lld x %lld pixels in the domain \"mild\" that nothing was trained on ...\n",
      o.size, o.size);
  std::fflush(stdout);
  data::Scene scene = data::render(
      data::make_layout(77, {.gsd = domain.gsd, .height = o.size, .width = o.size}), domain, 77);
  write_scene(scene, domain, dir + "scene.tif", dir + "truth.tif");

  ModelCard card;
  card.scene = small_trunk_bands();
  card.dtype = "U16";
  card.scale = 1e-4;
  card.classes = land_classes();
  card.segmenter = net.config;
  card.vision = {trunks.vision, fingerprint(trunks.vision)};
  card.depth = {trunks.depth, fingerprint(trunks.depth)};
  mkdir((dir + "model").c_str(), 0777);
  write_model(dir + "model/model.safetensors", net, card);

  Terminal progress("demo");
  PredictionOptions p;
  p.routing = dir + "routing.tif";
  p.preview = dir + "map.png";
  p.routing_preview = dir + "experts.png";
  p.name = "scene.tif";
  p.overlap = 0;
  p.memory = apply_limits(o);
  p.progress = &progress;
  GeoTiffReader reader(dir + "scene.tif");
  const PredictionReport r = predict_raster(net, card, reader, dir + "map.tif", p);
  std::printf(
      "%lld windows in %.0f s, planned %llu MiB, peak of the process %ld MiB (the scene itself is "
      "held too)\n",
      static_cast<long long>(r.windows), r.seconds,
      static_cast<unsigned long long>((r.planned_bytes + (1u << 20) - 1) >> 20), peak_rss_mib());

  // How good the map is, and thumbnails of it.
  GeoTiffReader map_file(dir + "map.tif");
  const Tensor<std::uint8_t> map = map_file.read_all().as<std::uint8_t>();  // (1,H,W)
  Confusion confusion(data::land_count);
  for (Index i = 0; i < map.numel(); ++i) confusion.add(scene.labels.data()[i], map.data()[i]);
  std::printf("mIoU of the map %.3f, overall accuracy %.3f\n", confusion.mean_iou(),
              confusion.accuracy());

  // Load and class x expert over the labelled tiles of the strongest shift.
  const std::size_t strong = 3;
  inspect::RoutingCollector routing({.classes = data::land_count, .rows_per_tile = 256});
  {
    const NoGrad off;
    const Observing listen(routing);
    for (std::size_t first = 0; first < test[strong].size(); first += 8) {
      std::vector<const data::Sample*> samples;
      std::vector<data::View> views;
      for (std::size_t i = first; i < std::min(first + 8, test[strong].size()); ++i) {
        samples.push_back(&test[strong][i]);
        views.emplace_back();
        views.back().size = small_tile;
      }
      data::Batch b = data::make_batch(samples, views);
      data::normalise(b.images, data::demo_normalisation(4));
      routing.labels(inspect::patch_labels(b.labels, 4));
      net(b.images);
    }
  }

  inspect::Report report(
      "What the experts did",
      "moraine demo: two frozen trunks, adapted on one sensor, tested on sensors, seasons and suns "
      "that nobody labelled");
  const Index step = std::max<Index>(1, o.size / 768), side = o.size / step;
  const Tensor<std::uint8_t> truth =
      scene.labels.view({1, o.size, o.size}, {o.size * o.size, o.size, 1});
  const auto small = [&](const Tensor<std::uint8_t>& t) {
    return inspect::class_picture(cut(t, 0, 0, side, side, step).reshaped({side, side}), colours());
  };
  char facts[3][32];
  std::snprintf(facts[0], 32, "%.3f", confusion.mean_iou());
  std::snprintf(facts[1], 32, "%.0f s", r.seconds);
  std::snprintf(facts[2], 32, "%llu MiB",
                static_cast<unsigned long long>((r.planned_bytes + (1u << 20) - 1) >> 20));
  report.section("The scene and its map");
  report.add_text(
      "The model saw labels of one sensor in early summer only. This scene has another sensor, a "
      "later season, "
      "a lower sun and more haze. The trunks are frozen; SpectralMoE and a linear head were "
      "trained.");
  report.add_facts({{"pixels", std::to_string(o.size) + " x " + std::to_string(o.size)},
                    {"mIoU of this map", facts[0]},
                    {"time to draw it", facts[1]},
                    {"memory planned", facts[2]}});
  report.add_images({{"Scene", inspect::composite(cut(scene.reflectance, 0, 0, side, side, step)),
                      "red, green, blue"},
                     {"Truth", small(truth), "what the generator painted"},
                     {"Map", small(map), "what the model called it"}});
  std::vector<inspect::LegendItem> legend;
  for (const ClassInfo& c : land_classes())
    legend.push_back({c.name, {c.colour[0], c.colour[1], c.colour[2]}});
  report.add_legend(legend);

  const Index close = std::min<Index>(256, o.size / small_tile * small_tile),
              corner = (o.size - close) / 2;
  report.section("Which expert handled which patch");
  report.add_text("The middle of the scene, " + std::to_string(close) +
                  " pixels a side, patch by patch (4 x 4 pixels).");
  report.add_images(
      {{"Scene", inspect::composite(cut(scene.reflectance, corner, corner, close, close, 1)), ""},
       {"Truth",
        inspect::class_picture(cut(truth, corner, corner, close, close, 1).reshaped({close, close}),
                               colours()),
        ""},
       {"Map",
        inspect::class_picture(cut(map, corner, corner, close, close, 1).reshaped({close, close}),
                               colours()),
        ""}});
  report.add_expert_maps(
      look_closely(net, cut(scene.reflectance, corner, corner, close, close, 1)));

  report.section("How the work is shared");
  report.add_text("Over the labelled test tiles of the domain \"strong\".");
  report.add_routing({.places = routing.places(), .class_names = names(), .seed = o.seed});

  report.section("What every method reached");
  add_table(report, result);
  inspect::ReportCurves curves;
  curves.chart.title = "Cross entropy on training tiles, mean of ten steps";
  curves.chart.x_label = "step";
  curves.chart.y_label = "loss";
  for (const MethodRow& row : result.rows) {
    inspect::Series line{row.title, {}, {}};
    const std::vector<double>& l = row.runs[0].loss;
    for (std::size_t i = 0; i + 10 <= l.size(); i += 10) {
      double mean = 0;
      for (std::size_t j = i; j < i + 10; ++j) mean += l[j] / 10;
      line.x.push_back(static_cast<double>(i + 10));
      line.y.push_back(mean);
    }
    if (line.x.size() > 1) curves.chart.series.push_back(std::move(line));
  }
  if (!curves.chart.series.empty()) {
    report.section("Training");
    report.add_curves(curves);
  }
  report.save(dir + "report.html");
  std::printf("map.tif, routing.tif, map.png, experts.png, report.html\n");
}

}  // namespace program
