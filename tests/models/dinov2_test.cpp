// DINOv2 against transformers: every folder tests/parity/fixtures/dinov2_*, all hidden states.
#include <doctest/doctest.h>

#include <cstdio>
#include <moraine/recipes/pretrained.hpp>

#include "fixtures.hpp"

using namespace moraine;

namespace {
TensorMap all_states(ViT<float>& vit, const Tensor<float>& pixels) {
  TensorMap out;
  Tensor<float> x = vit.embed(pixels);
  out.emplace("hidden_states.0", x);
  for (Index i = 0; i < vit.config.depth; ++i) {
    x = vit.block(i, x);
    out.emplace("hidden_states." + std::to_string(i + 1), x);
  }
  const Tensor<float> last = vit.finish(x);
  out.emplace("last_hidden_state", last);
  out.emplace("pooler_output", reshape(slice(last, 1, 0, 1), {last.size(0), last.size(2)}));
  return out;
}
}  // namespace

TEST_CASE("dinov2: every hidden state of every fixture") {
  const auto folders = fixtures::folders("dinov2_");
  REQUIRE(folders.size() >= 14);
  for (const std::string& dir : folders) {
    ViT<float> vit = load_dinov2<float>(open_pretrained(dir));
    double worst = -1;
    int images = 0;
    std::string where;
    for (const std::string& file : scratch::list(dir)) {
      if (file.rfind("in", 0) != 0 || !file.ends_with(".safetensors")) continue;
      const auto in = read_safetensors(dir + "/" + file);
      const auto ref = read_safetensors(dir + "/ref" + file.substr(2));
      std::string at;
      const double d = fixtures::distance(
          all_states(vit, in.tensors.at("pixel_values").as<float>()), ref.tensors, &at);
      if (d > worst) worst = d, where = file + " " + at;
      ++images;
    }
    std::printf("  %-32s %d images, worst %.1e (%s)\n", base_name(dir).c_str(), images, worst,
                where.c_str());
    CHECK_MESSAGE(worst <= 1e-4, dir);
    CHECK(images >= 1);
  }
}

TEST_CASE("dinov2: the key table is its own inverse") {
  const auto p = open_pretrained(fixtures::dir() + "/dinov2_registers");
  ViT<float> vit = load_dinov2<float>(p);
  const TensorMap back = save<float>(vit, dinov2_files());
  for (const auto& [key, t] : p.weights.tensors) {
    if (key == "embeddings.mask_token") continue;
    INFO(key);
    REQUIRE(back.count(key) == 1);
    CHECK(fixtures::distance(back.at(key), t) == 0);
  }
  CHECK(back.size() + 1 == p.weights.tensors.size());
}
