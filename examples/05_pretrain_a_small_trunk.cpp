// Pre-train a small trunk on scenes that are drawn as they are needed: a few steps of what made the
// two trunks that ship with the project (they took 10,000), stopped and resumed on the way.
#include <cstdio>
#include <moraine/recipes/small_trunks.hpp>

using namespace moraine;

int main() {
  set_threads(1);
  const PretrainOptions options{.kind = SmallTrunk::depth, .steps = 4, .seed = 1, .warmup = 2};
  Pretraining<float> run(options);
  std::printf("the depth trunk: %lld parameters, %lld tiles a step, never the same twice\n",
              static_cast<long long>(count_parameters<float>(run.trunk())),
              static_cast<long long>(options.batch()));
  for (int i = 0; i < 2; ++i) std::printf("step %d   loss %.3f\n", i, run.step());

  // A checkpoint is the map of model and optimizer and the number of steps, nothing else: scenes,
  // masks and noise are functions of (seed, step).
  TensorMap saved;
  for (const auto& [name, value] : run.snapshot()) saved.emplace(name, value.as<float>().clone());
  Pretraining<float> resumed(options);
  resumed.restore(saved, run.steps_done());
  for (int i = 2; i < 4; ++i) {
    const double a = run.step(), b = resumed.step();
    std::printf("step %d   loss %.3f   resumed: %s\n", i, a, a == b ? "the same bits" : "differs");
  }
  std::printf("held-out loss after 4 steps %.3f\n", run.held_out(1));
}
