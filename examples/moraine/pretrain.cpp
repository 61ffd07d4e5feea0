// Pre-trains one of the two small trunks from the scene generator. The same command again resumes.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <moraine/recipes/small_trunk_files.hpp>
#include <string>

#include "commands.hpp"
#include "long_work.hpp"

using namespace moraine;

namespace program {

int run_pretrain(const PretrainOptions& o) {
  const bool vision = o.trunk == "vision";
  const SmallTrunk kind = vision ? SmallTrunk::vision : SmallTrunk::depth;
  mkdir(o.output.c_str(), 0777);
  moraine::PretrainOptions how{.kind = kind, .steps = o.steps};
  if (o.has_seed) how.seed = o.seed;
  Pretraining<float> run(how);
  const std::string base = o.output + '/' + o.trunk, state_file = base + "_state.safetensors";
  if (access(state_file.c_str(), R_OK) == 0) {
    const SafetensorsFile s = read_safetensors(state_file);
    const auto steps = s.metadata.find("steps");
    if (steps == s.metadata.end())
      fail(ErrorKind::format, "pretrain: " + state_file + " is no state of a pre-training");
    run.restore(s.tensors, std::stoll(steps->second));
    std::printf("resumed at step %lld\n", static_cast<long long>(run.steps_done()));
  }
  std::FILE* log = std::fopen((base + "_log.tsv").c_str(), "a");
  if (!log) fail(ErrorKind::file, "pretrain: cannot write " + base + "_log.tsv");
  const double start = detail::seconds_now();
  const Index first = run.steps_done();
  double smooth = 0;
  while (run.steps_done() < o.steps) {
    const double loss = run.step();
    const Index done = run.steps_done();
    smooth = smooth == 0 ? loss : 0.97 * smooth + 0.03 * loss;
    std::fprintf(log, "%lld\t%.9g\t%.2f\n", static_cast<long long>(done), loss,
                 detail::seconds_now() - start);
    if (done % 100 && done != o.steps) continue;
    std::fflush(log);
    write_safetensors(state_file, run.snapshot(), {{"steps", std::to_string(done)}});
    const double each = (detail::seconds_now() - start) / static_cast<double>(done - first);
    std::printf("%s step %lld of %lld: loss %.4f, %.2f s a step, %.0f min to go\n", o.trunk.c_str(),
                static_cast<long long>(done), static_cast<long long>(o.steps), smooth, each,
                each * static_cast<double>(o.steps - done) / 60);
    std::fflush(stdout);
  }
  std::fclose(log);
  const double held_out = run.held_out(8);
  char text[32];
  std::snprintf(text, sizeof text, "%.4f", held_out);
  save_small_trunk(base + ".safetensors", run.trunk(), kind,
                   {{"steps", std::to_string(run.steps_done())},
                    {"seed", std::to_string(how.seed)},
                    {"batch", std::to_string(how.batch())},
                    {"held_out_loss", text}});
  std::printf("%s: held-out loss %s -> %s.safetensors\n", o.trunk.c_str(), text, base.c_str());
  return 0;
}

}  // namespace program
