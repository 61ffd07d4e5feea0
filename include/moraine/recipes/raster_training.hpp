#pragma once
// Adapts frozen trunks to labelled rasters: random crops, checkpoints, a model with its card, loss
// history and metrics in one folder. The same call again goes on where the last one stopped, and
// ends with the same bytes as a run that was never stopped, for any thread count.
//
//   dir/config.json         the merged configuration
//   dir/checkpoints/        train/checkpoint.hpp
//   dir/history.tsv         step, cross entropy, balance loss, gradient norm
//   dir/metrics.json        from one confusion matrix each for training and validation scenes
//   dir/model.safetensors   what was trained, and the model card; its presence ends the run
//   dir/nan_report.json     only where a NaN stopped the run
#include <cmath>
#include <cstdint>
#include <memory>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/core/random.hpp>
#include <moraine/io/file.hpp>
#include <moraine/io/json.hpp>
#include <moraine/recipes/labelled_scenes.hpp>
#include <moraine/recipes/model_card.hpp>
#include <moraine/recipes/progress.hpp>
#include <moraine/recipes/raster_evaluation.hpp>
#include <moraine/recipes/segmentation_training.hpp>
#include <moraine/recipes/training_config.hpp>
#include <moraine/train/checkpoint.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

struct TrainingReport {
  Index steps = 0, resumed_at = 0;
  bool finished = false;      ///< the model is written; false: the listener stopped it
  bool was_finished = false;  ///< by an earlier run; nothing was done
  double seconds = 0;
  Index trained_parameters = 0;
  StepLoss last;
  std::uint64_t planned_bytes = 0;  ///< of tensors, before the first step: the most a step holds
};

/// The crops of one step and where they were cut, a function of (seed, step) alone.
inline data::Batch training_batch(const LabelledScenes& scenes, const RasterRun& run, Index step,
                                  std::string* tiles) {
  double area = 0;
  std::vector<double> upto;
  for (const data::Sample& s : scenes.samples)
    upto.push_back(area += static_cast<double>(s.labels.numel()));
  const Random r(run.seed, "train.scene", static_cast<std::uint64_t>(step));
  std::vector<const data::Sample*> samples;
  std::vector<data::View> views;
  for (Index b = 0; b < run.batch; ++b) {
    const data::Sample* sample = nullptr;
    data::View view;
    std::size_t which = 0;
    for (Index attempt = 0; attempt < 8;
         ++attempt) {  // a crop with a label, if one is easy to find
      const auto draw = static_cast<std::uint64_t>(b * 8 + attempt);
      const double at = static_cast<double>(r.uniform(draw)) * area;
      which = 0;
      while (which + 1 < upto.size() && at >= upto[which]) ++which;
      sample = &scenes.samples[which];
      const Index h = sample->labels.size(0), w = sample->labels.size(1);
      view = data::random_view(run.seed, static_cast<std::uint64_t>(step), draw, h, w,
                               sample->image.size(0), run.augment);
      bool any = false;
      for (Index y = view.y; y < view.y + view.size && !any; ++y)
        for (Index x = view.x; x < view.x + view.size && !any; ++x)
          any = sample->labels.data()[y * w + x] != map_nodata;
      if (any) break;
    }
    if (tiles)
      *tiles += (b ? ", " : "") + base_name(scenes.names[which]) + " at row " +
                std::to_string(view.y) + " column " + std::to_string(view.x);
    samples.push_back(sample);
    views.push_back(std::move(view));
  }
  data::Batch batch = data::make_batch(samples, views);
  data::normalise(batch.images, run.card.normalisation);
  return batch;
}

namespace detail {

/// Fills in what only the files know: trunks' checksums, what their bands are, types of scenes.
inline std::pair<ViT<float>, ViT<float>> open_trunks(ModelCard& card) {
  const auto open = [](TrunkFile& t) {
    if (t.path.empty()) return ViT<float>();
    t.fingerprint = fingerprint(t.path);
    return read_trunk(t.path);
  };
  const bool both = card.segmenter.method == Method::linear_both ||
                    (card.segmenter.method == Method::spectralmoe && card.segmenter.use_depth);
  if (!both) card.depth = {};
  if (both && card.depth.path.empty())
    fail(ErrorKind::config, std::string("config: \"trunks.depth\" is empty; the method ") +
                                name_of(card.segmenter.method) + " reads a depth trunk");
  std::pair<ViT<float>, ViT<float>> trunks{open(card.vision), open(card.depth)};
  const Index channels = trunks.first.config.channels;
  if (channels < 1 || channels > 4)
    fail(ErrorKind::config, "config: the vision trunk reads " + std::to_string(channels) +
                                " bands; the small trunks read up to 4 (blue, green, red, nir)");
  card.bands = small_trunk_bands();
  card.bands.resize(static_cast<std::size_t>(channels));
  card.normalisation = data::demo_normalisation(channels);
  card.scene_stated = !card.scene.empty();
  if (!card.scene_stated) card.scene = card.bands;
  if (card.window % trunks.first.config.patch)
    fail(ErrorKind::config, "config: \"window\" is " + std::to_string(card.window) +
                                "; it must be a multiple of the trunk's patch " +
                                std::to_string(trunks.first.config.patch));
  return trunks;
}

inline std::string history_text(const std::vector<double>& history) {
  std::string out = "step\tcross_entropy\tbalance\tgrad_norm\n";
  for (std::size_t i = 0; i + 3 <= history.size(); i += 3)
    out += std::to_string(i / 3 + 1) + "\t" + number_text(history[i]) + "\t" +
           number_text(history[i + 1]) + "\t" + number_text(history[i + 2]) + "\n";
  return out;
}

}  // namespace detail

/// Trains, or goes on training, in folder `dir`, which is made if it is not there. Throws
/// ErrorKind::config when the folder holds another configuration, ErrorKind::value when the inputs
/// have changed since it began, ErrorKind::non_finite with step, op, layer and tiles for a NaN.
inline TrainingReport train_on_rasters(RasterRun run, const std::string& dir,
                                       Progress* progress = nullptr) {
  Progress silent;
  Progress& tell = progress ? *progress : silent;
  detail::make_folder(dir);
  CheckpointStore store(dir + "/checkpoints", static_cast<int>(run.keep));
  const std::string config_path = dir + "/config.json", model_path = dir + "/model.safetensors";
  if (is_file(config_path)) {
    const std::string d = first_difference(run.config, read_json(config_path));
    if (!d.empty())
      fail(ErrorKind::config, "train: " + quoted(dir) +
                                  " holds a run with another configuration; " + d +
                                  " -> choose another --output");
  }
  TrainingReport report;
  report.steps = run.training.steps;
  if (is_file(config_path) && is_file(model_path)) {
    report.finished = report.was_finished = true;
    return report;
  }
  auto [vision, depth] = detail::open_trunks(run.card);
  const LabelledScenes scenes = read_labelled_scenes(run.images, run.labels, run.card);
  const LabelledScenes validation =
      read_labelled_scenes(run.validation_images, run.validation_labels, run.card);
  run.card.dtype = name_of(scenes.dtype);
  run.card.config = run.config;
  tell.note(scenes.matrix);
  tell.note(class_table(run.card, scenes));
  for (const std::string& w : scenes.warnings) tell.warn(w);
  std::int64_t labelled = 0;
  for (std::size_t c = 0; c < scenes.pixels.size(); ++c) {
    labelled += scenes.pixels[c];
    if (!scenes.pixels[c])
      tell.warn("class " + quoted(run.card.classes[c].name) + " has no pixel to train on");
  }
  if (!labelled)
    fail(ErrorKind::value, "train: no pixel has a label and a measurement; " +
                               std::to_string(scenes.ignored) + " labels ignored, " +
                               std::to_string(scenes.nodata) + " pixels nodata -> look at " +
                               (scenes.nodata > scenes.ignored ? "the scenes" : "\"ignore\""));
  if (!is_file(config_path)) write_json(config_path, run.config);

  Segmenter<float> net(run.card.segmenter, std::move(vision), std::move(depth));
  SegmentationTrainer<float> trainer(net, run.training);
  report.trained_parameters = count_parameters<float>(net, true);

  // What the run's bits depend on beside the configuration.
  Json inputs = Json::object();
  inputs.set("vision", run.card.vision.fingerprint);
  inputs.set("depth", run.card.depth.fingerprint);
  inputs.set("scenes", std::to_string(scenes.fingerprint));
  std::vector<double> history;  // three numbers a step
  std::vector<std::string> warnings;
  if (const auto found = store.load(&warnings)) {
    const std::string d = first_difference(inputs, found->state.at("inputs"));
    if (!d.empty())
      fail(ErrorKind::value, "train: a file has changed since this run began; checksum of " + d +
                                 " -> restore it, or choose another --output");
    const auto past = found->tensors.find("history");
    if (past == found->tensors.end())
      fail(ErrorKind::key, "train: the checkpoint holds no loss history");
    history = past->second.as<double>().values();
    trainer.restore(found->tensors, static_cast<Index>(found->step));
    report.resumed_at = static_cast<Index>(found->step);
  }
  for (const std::string& w : warnings) tell.warn(w);
  if (report.resumed_at) tell.note("resumed at step " + std::to_string(report.resumed_at));

  const auto save = [&] {
    TensorMap map = trainer.snapshot();
    map.emplace("history", Tensor<double>({static_cast<Index>(history.size() / 3), 3}, history));
    Json state = Json::object();
    state.set("inputs", inputs);
    store.save(trainer.steps_done(), map, state);
    write_file(dir + "/history.tsv", detail::history_text(history));
  };
  const double begin = detail::seconds_now();
  while (trainer.steps_done() < run.training.steps) {
    const Index step = trainer.steps_done();
    std::string tiles;
    const data::Batch batch = training_batch(scenes, run, step, &tiles);
    if (step == report.resumed_at) {
      report.planned_bytes =
          cpu_device.live.load() + trainer.step_bytes(batch.images, batch.labels);
      tell.note("a step holds at most " +
                std::to_string((report.planned_bytes + (1u << 20) - 1) >> 20) +
                " MiB of tensors (smaller: train.batch, train.gradient_checkpointing)");
    }
    try {
      report.last = trainer.step(batch.images, batch.labels, tiles);
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::non_finite) throw;
      Json nan = Json::object();
      nan.set("step", static_cast<long long>(step));
      nan.set("message", e.what());
      nan.set("tiles", tiles);
      nan.set("last_checkpoint", store.steps().empty() ? std::string() : store.steps().back());
      write_json(dir + "/nan_report.json", nan);
      throw;
    }
    history.insert(history.end(),
                   {report.last.cross_entropy, report.last.balance, report.last.grad_norm});
    tell.at(step + 1, run.training.steps,
            "loss " + data::detail::number(report.last.cross_entropy, 4));
    const bool stop = tell.stop();
    if (stop || (step + 1) % run.checkpoint_every == 0 || step + 1 == run.training.steps) save();
    if (stop && step + 1 < run.training.steps) {
      report.seconds = detail::seconds_now() - begin;
      return report;
    }
  }
  report.seconds = detail::seconds_now() - begin;

  Json metrics = Json::object();
  metrics.set("steps", static_cast<long long>(run.training.steps));
  metrics.set("trained_parameters", static_cast<long long>(report.trained_parameters));
  for (const auto& [name, set] :
       {std::pair{"training", &scenes}, std::pair{"validation", &validation}})
    if (!set->samples.empty()) {
      const Json m = metrics_json(score_scenes(net, run.card, *set), run.card.classes);
      tell.note(std::string(name) + " scenes: " + metrics_line(m));
      metrics.set(name, m);
    }
  write_json(dir + "/metrics.json", metrics);
  write_file(dir + "/history.tsv", detail::history_text(history));
  write_model(model_path, net, run.card);
  report.finished = true;
  return report;
}

}  // namespace moraine
