// train: adapts frozen trunks to labelled rasters. The same command again goes on where the last
// one stopped.
#include <moraine/recipes/raster_training.hpp>

#include "commands.hpp"
#include "long_work.hpp"

using namespace moraine;

namespace program {

int run_train(const TrainOptions& o) {
  apply_limits(o);
  Json config = default_run();
  merge_config(config, read_json(o.config));
  for (const std::string& s : o.set) set_config(config, s);
  if (o.has_seed) config.set("seed", static_cast<unsigned long>(o.seed));
  RasterRun run = parse_run(config);
  Terminal terminal("train");
  const TrainingReport r = train_on_rasters(run, o.output, &terminal);
  if (r.was_finished) {
    std::printf("%s is finished: %lld steps; nothing to do\n", o.output.c_str(),
                static_cast<long long>(r.steps));
    return 0;
  }
  if (!r.finished) {
    std::printf("stopped; the same command again goes on\n");
    return 130;
  }
  std::printf("%lld parameters trained, %lld steps in %.0f s, peak %ld MiB\n%s/model.safetensors\n",
              static_cast<long long>(r.trained_parameters),
              static_cast<long long>(r.steps - r.resumed_at), r.seconds, peak_rss_mib(),
              o.output.c_str());
  return 0;
}

}  // namespace program
