#pragma once
// Draws the map of a scene with a trained Segmenter: window by window, blended, row band by row
// band, so that memory is bounded by the scene's width and not by its size. Beside the map, the
// routing of every patch, and previews.
//
//   LoadedModel m = read_model("run");
//   GeoTiffReader scene("scene.tif");
//   predict_raster(m.net, m.card, scene, "map.tif", {.routing = "routing.tif"});
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <moraine/core/config.hpp>
#include <moraine/core/device.hpp>
#include <moraine/core/error.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/data/windows.hpp>
#include <moraine/io/geotiff.hpp>
#include <moraine/io/png.hpp>
#include <moraine/nn/observe.hpp>
#include <moraine/recipes/model_card.hpp>
#include <moraine/recipes/preview.hpp>
#include <moraine/recipes/progress.hpp>
#include <moraine/recipes/scene_input.hpp>
#include <moraine/recipes/segmenter.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

struct PredictionOptions {
  std::string routing{};          ///< GeoTIFF of the experts' choices; empty: none
  std::string preview{};          ///< PNG of the map with its legend; empty: none
  std::string routing_preview{};  ///< PNG of the winning expert, layer by layer; empty: none
  std::string name = "scene";     ///< of the scene, in messages
  SceneOptions scene{};
  Index window = 0;    ///< pixels; 0: the card's
  Index overlap = -1;  ///< pixels of neighbours; -1: a quarter of the window
  Index batch = 8;     ///< windows in one call of the model; halved to fit `memory`
  data::Blend blend = data::Blend::cosine;
  std::uint64_t memory = 0;  ///< bytes that the whole process may need; 0: no limit
  Progress* progress = nullptr;
};

struct PredictionReport {
  Index windows = 0, skipped = 0;  ///< skipped: nodata throughout
  Index batch = 0;
  std::uint64_t planned_bytes = 0;  ///< what the plan line said: the whole process, resident
  double seconds = 0;
  std::vector<std::int64_t> pixels;  ///< per class
  std::int64_t nodata_pixels = 0;
};

namespace detail {

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
/// "2 min 05 s", "14 s".
inline std::string duration_text(double s) {
  const long t = std::lround(std::ceil(s));
  if (t < 60) return std::to_string(t) + " s";
  const std::string rest = std::to_string(t % 60);
  return std::to_string(t / 60) + " min " + (rest.size() < 2 ? "0" : "") + rest + " s";
}

/// Bytes of this process that are in memory now, its program, libraries and mapped files included;
/// 0 where the system does not tell.
inline std::uint64_t resident_bytes() {
  unsigned long all = 0, resident = 0;
  if (std::FILE* f = std::fopen("/proc/self/statm", "re")) {
    if (std::fscanf(f, "%lu %lu", &all, &resident) != 2) resident = 0;
    std::fclose(f);
  }
  return std::uint64_t{resident} * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

/// While it lives, freed tensors keep at most `bytes` for reuse.
struct CacheLimit {
  std::size_t before = cpu_device.cache_limit.load();
  void most(std::size_t bytes) { cpu_device.cache_limit = std::min(before, bytes); }
  ~CacheLimit() { cpu_device.cache_limit = before; }
};

/// Catches the logits of the visual gates of one forward: moe.<layer>.visual.logits, (B*N,E).
struct GateRecorder final : Observer {
  std::vector<AnyTensor> layers;
  explicit GateRecorder(Index n) : layers(static_cast<std::size_t>(n)) {}
  void observed(const std::string& name, const AnyTensor& value) override {
    for (std::size_t l = 0; l < layers.size(); ++l)
      if (name == "moe." + std::to_string(l) + ".visual.logits") layers[l] = value;
  }
};

/// Class probabilities (K,s,s) of image b of logits (B,K,s,s).
inline Tensor<float> pixel_softmax(const Tensor<float>& logits, Index b) {
  const Index k = logits.size(1), n = logits.size(2) * logits.size(3);
  Tensor<float> p = Tensor<float>::empty({k, logits.size(2), logits.size(3)});
  const float* x = logits.data() + b * k * n;
  parallel_for(n, 1 << 11, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      float most = x[i], total = 0;
      for (Index c = 1; c < k; ++c) most = std::max(most, x[c * n + i]);
      for (Index c = 0; c < k; ++c) total += p.data()[c * n + i] = std::exp(x[c * n + i] - most);
      for (Index c = 0; c < k; ++c) p.data()[c * n + i] /= total;
    }
  });
  return p;
}

/// Where the routing of one window ends and the next begins: the middle of their overlap. Routing
/// is not blended; a pixel shows what happened in the window in whose middle part it lies.
inline Index own_end(const std::vector<Index>& starts, Index i, Index size, Index length) {
  const auto at = static_cast<std::size_t>(i);
  return at + 1 == starts.size() ? length : (starts[at + 1] + starts[at] + size) / 2;
}

/// Three bands of each layer: winning expert, its probability, entropy.
class RoutingWriter {
 public:
  RoutingWriter(const std::string& path, const RasterInfo& scene, Index layers, Index experts)
      : layers_(layers), width_(scene.width) {
    GeoTiffOptions o{.width = scene.width,
                     .height = scene.height,
                     .bands = static_cast<int>(3 * layers),
                     .tile = 256,
                     .predictor = false,
                     .nodata = make_nodata(map_nodata),
                     .geo = scene.geo};
    for (Index l = 0; l < layers; ++l) {
      const std::string name = "layer " + std::to_string(l) + " ";
      for (const char* what : {"winning expert", "probability x 254", "entropy x 254"})
        o.band_names.push_back(name + what);
    }
    o.metadata = {{"EXPERTS", std::to_string(experts)},
                  {"PROBABILITY", "of the winner, softmax over all experts' logits, times 254"},
                  {"ENTROPY", "of that softmax over log(experts), times 254"}};
    file_ = std::make_unique<GeoTiffWriter>(path, std::move(o));
  }
  /// Begins rows first..last of the scene, nodata to start with.
  void begin(Index first, Index last) {
    first_ = first;
    rows_ = Tensor<std::uint8_t>::full({3 * layers_, last - first, width_}, map_nodata);
  }
  /// The part of window w that is its own: columns x0..x1 of the rows begun. `image`: which of the
  /// batch; grid: patches a side.
  void add(const GateRecorder& gates, Index image, const Window& w, Index x0, Index x1, Index grid,
           Index patch) {
    const Index n = rows_.size(1);
    for (Index l = 0; l < layers_; ++l) {
      const Tensor<float> logits = gates.layers[static_cast<std::size_t>(l)].as<float>();
      const Index e = logits.size(1);
      std::vector<std::uint8_t> values(static_cast<std::size_t>(3 * grid * grid));
      for (Index p = 0; p < grid * grid; ++p)
        measure(logits.data() + (image * grid * grid + p) * e, e,
                values.data() + static_cast<std::size_t>(3 * p));
      for (Index y = 0; y < n; ++y)
        for (Index x = x0; x < x1; ++x) {
          const Index p = (first_ + y - w.y) / patch * grid + (x - w.x) / patch;
          for (Index k = 0; k < 3; ++k)
            rows_.data()[((3 * l + k) * n + y) * width_ + x] =
                values[static_cast<std::size_t>(3 * p + k)];
        }
    }
  }
  /// Writes the rows begun; pixels without a measurement become nodata.
  void end(const std::uint8_t* valid, std::vector<Thumbnail>* thumbnails) {
    const Index n = rows_.size(1) * width_;
    for (Index b = 0; b < 3 * layers_; ++b) {
      std::uint8_t* plane = rows_.data() + b * n;
      for (Index i = 0; i < n; ++i)
        if (!valid[i]) plane[i] = map_nodata;
      if (thumbnails && b % 3 == 0)
        (*thumbnails)[static_cast<std::size_t>(b / 3)].rows(first_, rows_.size(1), plane);
    }
    if (file_) file_->write_rows(rows_);
  }
  void finish() { file_->finish(); }

 private:
  static void measure(const float* h, Index e, std::uint8_t* out) {
    Index best = 0;
    for (Index j = 1; j < e; ++j)
      if (h[j] > h[best]) best = j;
    double total = 0, mean = 0;
    for (Index j = 0; j < e; ++j) {
      const double d = static_cast<double>(h[j]) - static_cast<double>(h[best]), p = std::exp(d);
      total += p, mean += p * d;
    }
    const double entropy =
        e > 1 ? (std::log(total) - mean / total) / std::log(static_cast<double>(e)) : 0;
    out[0] = static_cast<std::uint8_t>(best);
    out[1] = static_cast<std::uint8_t>(std::lround(254 / total));
    out[2] = static_cast<std::uint8_t>(std::lround(254 * std::clamp(entropy, 0.0, 1.0)));
  }
  Index layers_, width_, first_ = 0;
  Tensor<std::uint8_t> rows_;  // (3L,n,W)
  std::unique_ptr<GeoTiffWriter> file_;
};

}  // namespace detail

/// Writes the map of `scene` to `output`: uint8, the classes' values, 255 where nothing was
/// measured, with colours, class names and the scene's georeferencing. Files appear only when they
/// are whole. Throws before any pixel is read when the scene does not fit the card or the plan does
/// not fit `memory`, and when no pixel of the scene is valid.
inline PredictionReport predict_raster(Segmenter<float>& net, const ModelCard& card,
                                       GeoTiffReader& scene, const std::string& output,
                                       const PredictionOptions& o = {}) {
  const NoGrad off;
  const RasterInfo& info = scene.info();
  const SceneInput input = match_scene(info, o.name, card, o.scene);
  const Index size = o.window ? o.window : card.window, patch = net.vision.config.patch,
              k = static_cast<Index>(card.classes.size()),
              channels = static_cast<Index>(card.bands.size());
  const Index overlap = o.overlap >= 0 ? o.overlap : size / 4;
  if (size < patch || size % patch || o.batch < 1)
    fail(ErrorKind::value, "predict: the window must be a multiple of the patch; window " +
                               std::to_string(size) + ", patch " + std::to_string(patch) +
                               ", batch " + std::to_string(o.batch));
  if (net.config.classes != k || net.vision.config.channels != channels)
    fail(ErrorKind::value, "predict: the card is not of this model; " + std::to_string(k) +
                               " classes and " + std::to_string(channels) +
                               " bands, the model has " + std::to_string(net.config.classes) +
                               " and " + std::to_string(net.vision.config.channels));
  const bool routed = net.config.method == Method::spectralmoe;
  const bool want_routing = !o.routing.empty() || !o.routing_preview.empty();
  if (want_routing && !routed)
    fail(ErrorKind::value, std::string("predict: no routing to write; the model's method is ") +
                               name_of(net.config.method) + " -> leave --routing out");
  const Index layers = routed ? net.config.moe.layers : 0, experts = net.config.moe.experts;
  if (want_routing && experts > 255)
    fail(ErrorKind::value,
         "predict: routing holds at most 255 experts; " + std::to_string(experts));

  // The plan: what the process holds once the model is warm, and what one call of the model needs
  // beside it, are measured, on a batch of mean pixels. A call needs what its tensors held at most,
  // or what stayed resident after it where that is more (blocks kept for the next call).
  std::uint64_t process = 0;
  const auto probe = [&](Index batch, double& seconds) {
    const Tensor<float> x = Tensor<float>::zeros({batch, channels, size, size});
    const std::size_t before = cpu_device.live.load(), peak = cpu_device.peak.load();
    (void)net(x);
    cpu_device.trim();
    const std::uint64_t resident = detail::resident_bytes();
    process = std::max<std::uint64_t>(resident, before);
    cpu_device.reset_peak();
    const double begin = detail::seconds_now();
    (void)net(x);
    seconds = detail::seconds_now() - begin;
    const std::uint64_t after = detail::resident_bytes();
    const std::uint64_t bytes = std::max<std::uint64_t>(cpu_device.peak.load() - before,
                                                        after > resident ? after - resident : 0);
    std::size_t now = cpu_device.peak.load();
    while (peak > now && !cpu_device.peak.compare_exchange_weak(now, peak)) {
    }
    return bytes;
  };
  const auto u = [](Index v) { return static_cast<std::uint64_t>(v); };
  const std::uint64_t scene_bytes =
      u(info.width) * u(info.height) * u(info.bands) * u(size_of(info.dtype));
  detail::CacheLimit cache;
  double batch_seconds = 0;
  // `model`: what one call for a batch needs. With memory: throws when the plan passes it.
  const auto plan_for = [&](Index batch, std::uint64_t model, std::uint64_t memory) {
    // Beside the model: the process, blocks kept for reuse, the reader's blocks, the writers' row
    // of tiles, and pictures (values, canvas, and the PNG while it is compressed).
    std::uint64_t fixed = std::min<std::uint64_t>(std::uint64_t{128} << 20, scene_bytes) +
                          u(info.width + 512) * 512 + process +
                          std::min<std::uint64_t>(cache.before, model);
    const auto picture = [&](Index most, Index n) {
      return u(std::min(info.width, most)) * u(std::min(info.height, most)) * u(n) * 16 + (4 << 20);
    };
    if (!o.preview.empty()) fixed += picture(1024, 1);
    if (!o.routing_preview.empty()) fixed += picture(384, layers);
    if (!o.routing.empty()) fixed += u(info.width + 256) * 256 * 3 * u(layers);
    return data::plan_windows({.height = info.height,
                               .width = info.width,
                               .bands = channels + static_cast<Index>(input.used.size()),
                               .classes = k,
                               .size = size,
                               .overlap = overlap,
                               .blend = o.blend,
                               .batch = batch,
                               .model_bytes = model + fixed,
                               .row_bytes = u(info.width) * (want_routing ? 3 * u(layers) : 0)},
                              memory);
  };
  // With little memory the smallest batch is tried first: a larger one might pass the bound while
  // it is being measured.
  const std::uint64_t one = o.memory ? probe(1, batch_seconds) : 0;
  data::WindowPlan plan;
  Index batch = o.batch;
  for (;; batch /= 2) {
    const bool last = batch == 1;
    if (one && !last && plan_for(batch, one * u(batch), 0).bytes > o.memory) continue;
    const std::uint64_t model = last && one ? one : probe(batch, batch_seconds);
    plan = plan_for(batch, model, last ? o.memory : 0);
    cache.most(static_cast<std::size_t>(model));
    if (last || !o.memory || plan.bytes <= o.memory) break;
    cache.most(cache.before);
  }
  cpu_device.trim();
  const double estimate =
      batch_seconds * static_cast<double>(plan.count()) / static_cast<double>(batch);
  PredictionReport report;
  report.windows = plan.count(), report.batch = batch, report.planned_bytes = plan.bytes;
  report.pixels.resize(card.classes.size());
  if (o.progress) {
    o.progress->note(data::text(input.matrix));
    o.progress->note(plan.text() +
                     (o.memory ? " of " + std::to_string(o.memory >> 20) + " allowed" : "") +
                     ", about " + detail::duration_text(estimate) + " on " +
                     std::to_string(threads()) + (threads() == 1 ? " thread" : " threads"));
    if (info.width < size || info.height < size)
      o.progress->note("the scene is smaller than a window of " + std::to_string(size) +
                       " and is mirrored at its borders; " + std::to_string(info.height) + " x " +
                       std::to_string(info.width) + " pixels");
    if (!info.geotransform)
      o.progress->warn("the scene has no georeferencing; the map has none either");
  }

  GeoTiffOptions map_options{.width = info.width,
                             .height = info.height,
                             .predictor = false,
                             .nodata = make_nodata(map_nodata),
                             .geo = info.geo};
  std::vector<LegendEntry> legend;
  Json meaning = Json::array();
  for (const ClassInfo& c : card.classes) {
    const auto v = static_cast<std::size_t>(c.value);
    if (map_options.colour_map.size() <= v) {
      map_options.colour_map.resize(v + 1);
      map_options.class_names.resize(v + 1);
    }
    for (std::size_t b = 0; b < 3; ++b)
      map_options.colour_map[v][b] = static_cast<std::uint16_t>(c.colour[b] * 257);
    map_options.class_names[v] = c.name;
    Json j = Json::object();
    j.set("name", c.name);
    j.set("value", static_cast<int>(c.value));
    j.set("labels", detail::numbers_json(c.labels));
    meaning.push(std::move(j));
  }
  // What moraine eval compares label rasters by.
  map_options.metadata = {
      {"MORAINE_CLASSES", json_text(meaning, {.indent = -1})},
      {"MORAINE_IGNORE", json_text(detail::numbers_json(card.ignore), {.indent = -1})}};
  GeoTiffWriter map(output, std::move(map_options));
  std::unique_ptr<detail::RoutingWriter> routing;
  std::vector<Thumbnail> expert_thumbnails;
  if (!o.routing.empty())
    routing = std::make_unique<detail::RoutingWriter>(o.routing, info, layers, experts);
  if (!o.routing_preview.empty() && !routing)
    fail(ErrorKind::value, "predict: the preview of the routing needs --routing as well");
  // Of a large scene the middle: 96 patches a side are as many as one can tell apart.
  const Index shown = 96 * patch;
  if (!o.routing_preview.empty())
    expert_thumbnails.assign(
        static_cast<std::size_t>(layers),
        Thumbnail::middle(info.height, info.width, shown, (patch + 3) / 4, patch));
  Thumbnail thumbnail(info.height, info.width, 1024);

  const double begin = detail::seconds_now();
  data::ScoreBlender blender(plan);
  std::vector<std::uint8_t> mask;  // rows mask_first.. of the scene, dropped once they are written
  Index mask_first = 0, written = 0;
  const auto emit = [&](Index first, const Tensor<float>& scores) {
    const Index n = scores.size(1);
    const Tensor<std::uint8_t> valid = Tensor<std::uint8_t>::borrow(
        mask.data() + (first - mask_first) * info.width, {n, info.width});
    const Tensor<std::uint8_t> best = data::best_class(scores, valid, map_nodata);
    for (Index i = 0; i < best.numel(); ++i) {
      std::uint8_t& v = best.data()[i];
      if (v == map_nodata) {
        ++report.nodata_pixels;
        continue;
      }
      ++report.pixels[v];
      v = card.classes[v].value;
    }
    thumbnail.rows(first, n, best.data());
    map.write_rows(best.reshaped({1, n, info.width}));
    written = first + n;
  };

  Tensor<float> rows;  // (C,h,W), normalised
  Index have_first = 0, have_last = 0;
  for (Index r = 0; r < plan.rows(); ++r) {
    const Index top = plan.top[static_cast<std::size_t>(r)],
                last = std::min(top + size, info.height);
    // Rows shared with the windows above are kept, not read again.
    const Index kept = std::max<Index>(0, have_last - top);
    SceneRows fresh = read_scene_rows(scene, input, top + kept, last - top - kept);
    data::normalise(fresh.reflectance, card.normalisation);
    Tensor<float> all = Tensor<float>::empty({channels, last - top, info.width});
    for (Index c = 0; c < channels; ++c) {
      float* to = all.data() + c * all.size(1) * info.width;
      if (kept)
        std::copy_n(rows.data() + (c * rows.size(1) + top - have_first) * info.width,
                    kept * info.width, to);
      std::copy_n(fresh.reflectance.data() + c * fresh.reflectance.size(1) * info.width,
                  fresh.reflectance.size(1) * info.width, to + kept * info.width);
    }
    rows = all, have_first = top, have_last = last;
    mask.erase(mask.begin(),
               mask.begin() + static_cast<std::ptrdiff_t>((written - mask_first) * info.width));
    mask_first = written;
    mask.insert(mask.end(), fresh.valid.data(), fresh.valid.data() + fresh.valid.numel());

    const Index own_first = r == 0 ? 0 : detail::own_end(plan.top, r - 1, size, info.height);
    const Index own_last = detail::own_end(plan.top, r, size, info.height);
    if (routing) routing->begin(own_first, own_last);

    // Windows in order; those with a valid pixel wait until a batch is full.
    struct Waiting {
      Index window;
      Index image;  // in the batch; -1: nodata throughout
    };
    std::vector<Waiting> waiting;
    Tensor<float> images = Tensor<float>::empty({batch, channels, size, size});
    Index filled = 0;
    const auto run = [&] {
      Tensor<float> logits;
      detail::GateRecorder gates(layers);
      if (filled) {
        const Observing listen(gates);
        const Tensor<float> x = filled == batch
                                    ? images
                                    : images.view({filled, channels, size, size}, images.strides());
        logits = net(x).logits;
      }
      for (const Waiting& one : waiting) {
        if (one.image < 0) {
          blender.skip(one.window, emit);
          ++report.skipped;
          continue;
        }
        if (routing) {
          const Index column = one.window % plan.columns();
          routing->add(gates, one.image, plan.window(one.window),
                       column == 0 ? 0 : detail::own_end(plan.left, column - 1, size, info.width),
                       detail::own_end(plan.left, column, size, info.width), size / patch, patch);
        }
        blender.add(one.window, detail::pixel_softmax(logits, one.image), emit);
      }
      if (o.progress && !waiting.empty())
        o.progress->at(waiting.back().window + 1, plan.count(), "");
      waiting.clear();
      filled = 0;
    };
    for (Index c = 0; c < plan.columns(); ++c) {
      const Index i = r * plan.columns() + c;
      const Window w = plan.window(i);
      bool any = false;
      for (Index y = w.y; y < w.y + w.height && !any; ++y) {
        const std::uint8_t* m = mask.data() + (y - mask_first) * info.width + w.x;
        any = std::any_of(m, m + w.width, [](std::uint8_t v) { return v != 0; });
      }
      waiting.push_back({i, any ? filled : -1});
      if (any)
        data::copy_window(plan, i, rows, top, images.data() + filled++ * channels * size * size);
      if (filled == batch || c + 1 == plan.columns()) run();
    }
    if (routing)
      routing->end(mask.data() + (own_first - mask_first) * info.width,
                   expert_thumbnails.empty() ? nullptr : &expert_thumbnails);
  }
  if (report.nodata_pixels == info.width * info.height)
    fail(ErrorKind::value, "predict: " + quoted(o.name) +
                               " holds nothing but nodata in the bands that are read; " +
                               std::to_string(report.nodata_pixels) + " pixels" +
                               (input.nodata ? ", nodata " + input.nodata->text : "") +
                               " -> look at the scene, or give another --nodata");
  map.finish();
  if (routing) routing->finish();
  report.seconds = detail::seconds_now() - begin;

  const auto share = [&](std::int64_t n) {
    const std::int64_t all = info.width * info.height - report.nodata_pixels;
    return " " +
           data::detail::number(100.0 * static_cast<double>(n) / static_cast<double>(all), 1) + "%";
  };
  for (std::size_t c = 0; c < card.classes.size(); ++c)
    legend.push_back({card.classes[c].value, card.classes[c].colour,
                      card.classes[c].name + share(report.pixels[c])});
  if (!o.preview.empty())
    write_png(o.preview, draw_maps({&thumbnail}, {"map of " + o.name}, legend));
  if (!o.routing_preview.empty()) {
    std::vector<const Thumbnail*> maps;
    std::vector<std::string> titles;
    for (Index l = 0; l < layers; ++l) {
      maps.push_back(&expert_thumbnails[static_cast<std::size_t>(l)]);
      titles.push_back("visual, layer " + std::to_string(l));
    }
    if (std::max(info.height, info.width) > shown)
      titles[0] += ", middle " + std::to_string(shown) + " pixels";
    std::vector<LegendEntry> entries;
    for (Index e = 0; e < experts; ++e)
      entries.push_back(
          {static_cast<std::uint8_t>(e), expert_colour(e), "expert " + std::to_string(e)});
    write_png(o.routing_preview, draw_maps(maps, titles, entries));
  }
  return report;
}

}  // namespace moraine
