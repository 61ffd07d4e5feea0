#pragma once
// The experiment of the demo: adapt on labelled tiles of one sensor, test on sensors, seasons and
// suns that no label was seen of. The recipe is the same for every method: 96 source tiles in 8
// fixed views each, batches of 8, the last step counts; nothing is chosen on a target domain.
#include <cstdint>
#include <moraine/data/crops.hpp>
#include <moraine/data/scene.hpp>
#include <moraine/recipes/segmentation_training.hpp>
#include <moraine/recipes/small_trunks.hpp>
#include <moraine/train/metrics.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

/// Labelled tiles of one domain. Layouts are numbered; training and test numbers never meet.
inline std::vector<data::Sample> domain_tiles(std::string_view domain, std::uint64_t first,
                                              Index count) {
  const data::Domain d = data::domain(domain);
  std::vector<data::Sample> tiles(static_cast<std::size_t>(count));
  parallel_for(count, 1, [&](Index b, Index e) {
    for (Index i = b; i < e; ++i) {
      const std::uint64_t seed = first + static_cast<std::uint64_t>(i);
      const data::Scene s = data::render(
          data::make_layout(seed, {.gsd = d.gsd, .height = small_tile, .width = small_tile}), d,
          seed);
      tiles[static_cast<std::size_t>(i)] = {s.reflectance, s.labels, {}};
    }
  });
  return tiles;
}

/// One row of the table.
struct ShiftMethod {
  const char* key;
  const char* title;
  const char* note;  ///< what the row is there to say
  bool main;         ///< in the table that is printed by default
  SegmenterConfig config;
};

/// The rows, simplest first.
inline std::vector<ShiftMethod> shift_methods() {
  SegmenterConfig linear, both, lora, moe;
  linear.method = Method::linear;
  both.method = Method::linear_both;
  lora.method = Method::lora;
  SegmenterConfig one = moe, random = moe, no_depth = moe, local = moe;
  one.moe.experts = 1;
  random.moe.gate.random = true;
  no_depth.use_depth = false;
  local.moe.fusion = Fusion::local;
  return {{"linear", "frozen + linear head", "the vision trunk as it is", true, linear},
          {"linear_both", "both trunks + linear head", "what depth is worth at its own place", true,
           both},
          {"lora", "LoRA, rank 8", "on qkv, fc1, fc2 of the vision trunk", true, lora},
          {"spectralmoe", "SpectralMoE, paper", "preset paper, load term in the balance loss", true,
           moe},
          {"one_expert", "  one expert", "control: without a choice", false, one},
          {"random_router", "  random router", "control: experts by a hash of the token", false,
           random},
          {"no_depth", "  without depth", "control: the visual stream twice", false, no_depth},
          {"local", "  local fusion", "an option of ours, not of the paper", true, local}};
}

struct ShiftOptions {
  Index train_tiles = 96, test_tiles = 48, batch = 8;
  SegmentationTraining training;
  std::uint64_t train_first = 1'000'000, test_first = 2'000'000;
};

/// Pixels of a batch, normalised, and its labels.
struct ShiftBatch {
  Tensor<float> pixels;
  Tensor<std::int64_t> labels;
};
inline ShiftBatch shift_batch(const std::vector<data::Sample>& tiles, std::uint64_t seed,
                              Index step, Index batch) {
  const Random r(seed, "shift batch", static_cast<std::uint64_t>(step));
  std::vector<const data::Sample*> samples;
  std::vector<data::View> views;
  for (Index b = 0; b < batch; ++b) {
    const std::uint32_t t =
        r.below(static_cast<std::uint64_t>(2 * b), static_cast<std::uint32_t>(tiles.size()));
    samples.push_back(&tiles[t]);
    views.push_back(data::fixed_view(
        0, t, static_cast<int>(r.below(static_cast<std::uint64_t>(2 * b + 1), 8)), small_tile, 4));
  }
  data::Batch b = data::make_batch(samples, views);
  data::normalise(b.images, data::demo_normalisation(4));
  return {b.images, b.labels};
}

/// Calls the model on every tile, `batch` at a time; sees(first, pixels, labels, logits).
template <class Sees>
void run_tiles(Segmenter<float>& model, const std::vector<data::Sample>& tiles, Index batch,
               Sees sees) {
  NoGrad off;
  const Index n = static_cast<Index>(tiles.size());
  for (Index first = 0; first < n; first += batch) {
    std::vector<const data::Sample*> samples;
    std::vector<data::View> views;
    for (Index i = first; i < n && i < first + batch; ++i) {
      samples.push_back(&tiles[static_cast<std::size_t>(i)]);
      data::View whole;
      whole.size = small_tile;
      views.push_back(whole);
    }
    data::Batch b = data::make_batch(samples, views);
    data::normalise(b.images, data::demo_normalisation(4));
    sees(first, b.images, b.labels, model(b.images).logits);
  }
}

/// The confusion matrix over all pixels of the tiles.
inline Confusion evaluate(Segmenter<float>& model, const std::vector<data::Sample>& tiles) {
  Confusion c(model.config.classes);
  run_tiles(model, tiles, 8,
            [&](Index, const Tensor<float>&, const Tensor<std::int64_t>& labels,
                const Tensor<float>& logits) {
              const Tensor<std::int64_t> called = argmax(logits, 1).contiguous();
              for (Index i = 0; i < called.numel(); ++i) c.add(labels.data()[i], called.data()[i]);
            });
  return c;
}

}  // namespace moraine
