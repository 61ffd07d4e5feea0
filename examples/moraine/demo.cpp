// The whole story on scenes made here: adapt on one sensor, test on sensors, seasons and suns that
// nobody labelled, print the table, then draw the map of one large unseen scene and show which
// expert handled which patch.
#include "demo.hpp"
#include "long_work.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <moraine/recipes/domain_shift.hpp>
#include <moraine/recipes/model_card.hpp>
#include <moraine/recipes/raster_prediction.hpp>
#include <string>
#include <system_error>
#include <vector>

#include "commands.hpp"

using namespace moraine;

namespace program {
namespace {

std::string fixed(double v, int digits) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", digits, v);
  return text;
}

/// Mean and sample standard deviation of what was measured.
void spread(const std::vector<double>& v, double& mean, double& deviation) {
  mean = deviation = 0;
  for (double x : v) mean += x / static_cast<double>(v.size());
  if (v.size() > 1) {
    for (double x : v) deviation += (x - mean) * (x - mean) / static_cast<double>(v.size() - 1);
    deviation = std::sqrt(deviation);
  }
}

}  // namespace

/// Where the trunks are: beside the program's source, or where --models says.
std::string models_folder(const DemoOptions& o) {
  if (!o.models.empty()) return o.models;
  for (const char* guess : {"examples/moraine/models", MORAINE_MODELS})
    if (access((std::string(guess) + "/vision.safetensors").c_str(), R_OK) == 0) return guess;
  return "examples/moraine/models";
}

Trunks load_trunks(const std::string& folder) {
  return {folder + "/vision.safetensors", folder + "/depth.safetensors"};
}

std::unique_ptr<Segmenter<float>> train_method(const ShiftMethod& method, const Trunks& trunks,
                                               std::uint64_t seed,
                                               const std::vector<data::Sample>& tiles,
                                               const ShiftOptions& o, MethodRun& run) {
  Terminal line("demo");
  SegmenterConfig config = method.config;
  config.seed = seed;
  auto net = std::make_unique<Segmenter<float>>(config, read_trunk(trunks.vision),
                                                read_trunk(trunks.depth));
  SegmentationTrainer<float> trainer(*net, o.training);
  run.trained = count_parameters<float>(*net, true);
  const double start = detail::seconds_now();
  for (Index i = 0; i < o.training.steps; ++i) {
    const ShiftBatch b = shift_batch(tiles, seed, i, o.batch);
    const StepLoss l =
        trainer.step(b.pixels, b.labels, "source tiles of step " + std::to_string(i));
    run.loss.push_back(l.cross_entropy);
    run.balance.push_back(l.balance);
    line.at(i + 1, o.training.steps,
            std::string(method.title) + ", seed " + std::to_string(seed) + ", loss " +
                fixed(l.cross_entropy, 3));
    if (line.stop()) fail(ErrorKind::value, "demo: stopped; nothing of this run is kept");
  }
  run.seconds = detail::seconds_now() - start;
  return net;
}

/// Makes the folder of the results and writes a file in it that does not stay: what is wrong with
/// the folder is known before hours of training.
void prepare_output(const std::string& dir) {
  for (std::size_t at = dir.find('/', 1); at != std::string::npos; at = dir.find('/', at + 1))
    mkdir(dir.substr(0, at).c_str(), 0777);
  const int why = mkdir(dir.c_str(), 0777) == 0 ? 0 : errno;
  if (is_file(dir))
    fail(ErrorKind::file,
         "demo: the output " + quoted(dir) + " is a file; a folder is needed -> choose another");
  if (!is_directory(dir))
    fail(ErrorKind::file, "demo: cannot make the folder " + quoted(dir) + "; " +
                              std::generic_category().message(why));
  AtomicFile probe(dir + "/table.tsv");
  probe.write("\n", 1);
}

int run_demo(const DemoOptions& o) {
  const double began = detail::seconds_now();
  const Trunks trunks = load_trunks(models_folder(o));
  prepare_output(o.output);
  ShiftOptions shift;
  if (o.steps > 0) shift.training.steps = o.steps;

  std::printf("moraine demo: frozen trunks %s and %s, %d thread%s\n", trunks.vision.c_str(),
              trunks.depth.c_str(), threads(), threads() == 1 ? "" : "s");
  std::printf(
      "Adapted on %lld labelled tiles of the source sensor for %lld steps; tested on %lld tiles of "
      "each domain.\n",
      static_cast<long long>(shift.train_tiles), static_cast<long long>(shift.training.steps),
      static_cast<long long>(shift.test_tiles));
  const std::vector<data::Sample> train =
      domain_tiles("source", shift.train_first, shift.train_tiles);
  std::vector<std::vector<data::Sample>> test;
  for (std::string_view d : data::domain_names)
    test.push_back(domain_tiles(d, shift.test_first, shift.test_tiles));

  DemoResult result;
  for (std::string_view d : data::domain_names) result.domains.emplace_back(d);
  std::printf("\nmIoU of 8 classes            trained");
  for (const std::string& d : result.domains) std::printf(" %7s", d.c_str());
  const int wide = o.seeds > 1 ? 14 : 7;  // of "0.402 +-0.011"
  std::printf("  %-*s  training, s\n", wide, "targets");
  std::unique_ptr<Segmenter<float>> shown;  // SpectralMoE of the first seed: draws the map
  for (const ShiftMethod& method : shift_methods()) {
    if (!method.main && !o.full) continue;
    MethodRow row{method.key, method.title, method.note, {}};
    for (int s = 0; s < o.seeds; ++s) {
      MethodRun run;
      auto net =
          train_method(method, trunks, o.seed + static_cast<std::uint64_t>(s), train, shift, run);
      for (const auto& tiles : test) run.confusion.push_back(evaluate(*net, tiles));
      row.runs.push_back(std::move(run));
      if (std::string(method.key) == "spectralmoe" && s == 0) shown = std::move(net);
    }
    std::printf("%-28s %7lld", method.title, static_cast<long long>(row.runs[0].trained));
    std::vector<double> targets, took;
    for (std::size_t d = 0; d < test.size(); ++d) {
      std::vector<double> v;
      for (const MethodRun& r : row.runs) v.push_back(r.confusion[d].mean_iou());
      double mean, deviation;
      spread(v, mean, deviation);
      std::printf(" %7s", fixed(mean, 3).c_str());
    }
    for (const MethodRun& r : row.runs)
      targets.push_back(r.target_mean()), took.push_back(r.seconds);
    double mean, deviation, time, unused;
    spread(targets, mean, deviation);
    spread(took, time, unused);
    std::printf("  %-*s  %11.1f\n", wide,
                (fixed(mean, 3) + (o.seeds > 1 ? " +-" + fixed(deviation, 3) : "")).c_str(), time);
    std::fflush(stdout);
    result.rows.push_back(std::move(row));
  }
  std::printf("targets: mean of the six domains that no label was seen of%s.\n\n",
              o.seeds > 1 ? ", +- sample standard deviation over seeds" : "");
  write_result_table(o.output + "/table.tsv", result);
  if (shown) draw_large_scene(o, *shown, trunks, result, test);
  std::printf("%.0f s in all. Results in %s\n", detail::seconds_now() - began, o.output.c_str());
  return 0;
}

void write_result_table(const std::string& path, const DemoResult& result) {
  std::string text = "method\tseed\ttrained\tseconds";
  for (const std::string& d : result.domains) text += "\t" + d;
  text += "\ttargets\n";
  for (const MethodRow& row : result.rows)
    for (std::size_t s = 0; s < row.runs.size(); ++s) {
      const MethodRun& r = row.runs[s];
      text += row.key + '\t' + std::to_string(s) + '\t' + std::to_string(r.trained) + '\t' +
              fixed(r.seconds, 1);
      for (const Confusion& c : r.confusion) text += '\t' + fixed(c.mean_iou(), 4);
      text += '\t' + fixed(r.target_mean(), 4) + '\n';
    }
  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

}  // namespace program
