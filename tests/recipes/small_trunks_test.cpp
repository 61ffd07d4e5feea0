// Replays the first 20 steps of the two pre-trainings whose results ship with the project, against
// the losses that were logged then. They depend on the generator, the model, autodiff, the
// optimizer and the schedule; a change of any of them shows here. The bound leaves room for
// rounding on another instruction set, which 20 steps amplify.
#include <doctest/doctest.h>

#include <moraine/recipes/small_trunks.hpp>
#include <vector>

using namespace moraine;

namespace {
const std::vector<float> vision_log = {1.934128f, 1.833537f, 1.992461f, 1.992667f, 1.972330f, 1.546999f, 1.868364f, 1.709647f, 1.707409f, 1.576064f, 1.452417f, 1.454322f, 1.763612f, 1.666058f, 1.690136f, 1.624472f, 1.834213f, 1.503828f, 1.275381f, 1.263453f};
const std::vector<float> depth_log = {0.700962f, 0.610844f, 0.658365f, 0.534617f, 0.571431f, 0.571950f, 0.547171f, 0.491887f, 0.407145f, 0.447905f, 0.432068f, 0.412550f, 0.493621f, 0.501765f, 0.467222f, 0.433021f, 0.422227f, 0.403448f, 0.388426f, 0.418563f};

void replay(SmallTrunk kind, Index steps, const std::vector<float>& log) {
  Pretraining<float> run({.kind = kind, .steps = steps});
  for (std::size_t i = 0; i < log.size(); ++i) {
    CAPTURE(i);
    CHECK(run.step() == doctest::Approx(log[i]).epsilon(2e-3));
  }
}
}  // namespace

TEST_CASE("the first 20 steps of the vision trunk") {
  replay(SmallTrunk::vision, 4000, vision_log);
}
TEST_CASE("the first 20 steps of the depth trunk") { replay(SmallTrunk::depth, 4000, depth_log); }

TEST_CASE("a pre-training resumes from its snapshot with the same bits") {
  Pretraining<float> a({.kind = SmallTrunk::depth, .steps = 100});
  a.step();
  TensorMap saved;
  for (const auto& [name, value] : a.snapshot()) saved.emplace(name, value.as<float>().clone());
  const double next = a.step();
  Pretraining<float> b({.kind = SmallTrunk::depth, .steps = 100});
  b.restore(saved, 1);
  CHECK(b.step() == next);
}
