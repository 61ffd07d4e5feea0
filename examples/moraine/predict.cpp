// predict: the map of a scene, its routing, and previews.
#include <moraine/io/recognise.hpp>
#include <moraine/recipes/raster_prediction.hpp>
#include <moraine/recipes/training_config.hpp>

#include "commands.hpp"
#include "long_work.hpp"

using namespace moraine;

namespace program {
namespace {

/// Ctrl-C leaves nothing half-written: the exception removes what was begun.
struct Stoppable final : Progress {
  Terminal terminal{"predict"};
  void note(const std::string& text) override { terminal.note(text); }
  void warn(const std::string& line) override { terminal.warn(line); }
  void at(Index done, Index total, const std::string& text) override {
    if (terminal.stop())
      fail(ErrorKind::value, "predict: stopped at window " + std::to_string(done) + " of " +
                                 std::to_string(total) + "; nothing was written");
    terminal.at(done, total, text);
  }
};

/// "map.tif" -> "map-experts.png".
std::string beside(const std::string& path, const char* ending) {
  const std::size_t dot = path.find_last_of('.');
  const bool has = dot != std::string::npos && path.find('/', dot) == std::string::npos;
  return (has ? path.substr(0, dot) : path) + ending;
}

}  // namespace

int run_predict(const PredictOptions& o) {
  PredictionOptions p;
  p.memory = apply_limits(o);
  p.routing = o.routing;
  p.preview = o.preview;
  if (!o.preview.empty() && !o.routing.empty())
    p.routing_preview = beside(o.preview, "-experts.png");
  p.name = base_name(o.input);
  p.scene.bands = make_bands(parts_of(o.bands), numbers_of(o.wavelengths, "--wavelengths"),
                             numbers_of(o.widths, "--widths"));
  if (!o.offset.empty()) p.scene.offset = number_of(o.offset, "--offset");
  if (!o.scale.empty()) p.scene.scale = number_of(o.scale, "--scale");
  if (!o.nodata.empty()) p.scene.nodata = number_of(o.nodata, "--nodata");
  p.overlap = o.overlap;
  for (const std::string* out : {&o.output, &o.routing, &o.preview})
    if (!out->empty() && *out == o.input)
      fail(ErrorKind::value, "predict: an output is the scene itself; " + quoted(o.input) +
                                 " -> choose another name");
  if (const FileKind kind = recognise(o.input); kind == FileKind::png || kind == FileKind::jpeg)
    fail(ErrorKind::format, "predict: " + quoted(o.input) + " is a " + name_of(kind) +
                                "; predict takes GeoTIFF -> convert it with gdal_translate");
  GeoTiffReader scene(o.input);
  LoadedModel model = read_model(o.model, o.trunks);
  Stoppable progress;
  p.progress = &progress;
  const PredictionReport r = predict_raster(model.net, model.card, scene, o.output, p);
  std::printf(
      "%lld windows in %.1f s (%lld without data left out), peak %ld MiB, planned %llu MiB\n%s\n",
      static_cast<long long>(r.windows), r.seconds, static_cast<long long>(r.skipped),
      peak_rss_mib(),
      // rounded up, as in the plan line
      static_cast<unsigned long long>((r.planned_bytes + (1u << 20) - 1) >> 20), o.output.c_str());
  for (const std::string* out : {&p.routing, &p.preview, &p.routing_preview})
    if (!out->empty()) std::printf("%s\n", out->c_str());
  return 0;
}

}  // namespace program
