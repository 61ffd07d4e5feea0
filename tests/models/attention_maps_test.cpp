// Attention maps of every family, for who asks for them by name, without a change to a model.
#include <cmath>
#include <moraine/inspect/recorder.hpp>
#include <moraine/nn/bf16.hpp>

#include "../generated.hpp"
#include "parity.hpp"

using namespace moraine;

namespace {
BackboneInput<float> read_backbone_input(const std::string& dir, const char* file) {
  const TensorMap in = read_safetensors(dir + "/" + file).tensors;
  BackboneInput<float> out;
  out.pixels = in.at("pixel_values").as<float>();
  if (in.count("wavelengths")) out.wavelengths = in.at("wavelengths").as<float>();
  if (in.count("prompt_depth")) out.prompt_depth = in.at("prompt_depth").as<float>();
  return out;
}
}  // namespace

TEST_CASE("attention maps: those of transformers, rotary embedding and registers included") {
  const std::string dir = fixtures::dir() + "/dinov3_plain";
  const auto model = load_pretrained<float>(dir);
  const BackboneInput<float> in = read_backbone_input(dir, "in_wide.safetensors");
  inspect::Recorder seen({.patterns = {"blocks.*.attn.weights"}});
  const Tensor<float> quiet = model->forward(in).last_hidden_state;
  {
    const Observing listen(seen);
    CHECK(model->forward(in).last_hidden_state.values() == quiet.values());
  }
  TensorMap maps;
  for (const std::string& name : seen.names()) maps.emplace(name, seen.last(name));
  std::string at;
  const double d =
      fixtures::distance(maps, read_safetensors(dir + "/attentions.safetensors").tensors, &at);
  std::printf("  attention maps: worst %.1e (%s)\n", d, at.c_str());
  CHECK(d <= 1e-6);
}

TEST_CASE("attention maps: every family shows one a block, whose rows add up to one") {
  for (const std::string& family : fixtures::families) {
    const std::string dir = fixtures::folders(family).front();
    INFO(dir);
    const fixtures::ModelFolder folder(dir);
    const auto model = load_pretrained<float>(folder.path);
    const BackboneInput<float> in = read_backbone_input(dir, "in.safetensors");
    inspect::Recorder seen({.patterns = {"**.attn.weights"}}), all;
    std::size_t blocks = 0;
    {
      const Observing listen(seen);
      blocks = model->forward(in).hidden_states.size() - 1;
    }
    {
      const Observing listen(all);
      model->forward(in);
    }
    for (const std::string& name : seen.names()) {
      const Tensor<float> map = seen.last(name).as<float>();
      REQUIRE(map.rank() == 4);
      CHECK(map.size(2) == map.size(3));
      double worst = 0;
      const std::vector<float> p = map.values();
      for (std::size_t i = 0; i < p.size();) {
        double total = 0;
        for (Index j = 0; j < map.size(3); ++j, ++i) {
          total += static_cast<double>(p[i]);
          worst = std::max(worst, p[i] < 0 ? 1.0 : 0.0);
        }
        worst = std::max(worst, std::abs(total - 1));
      }
      CHECK_MESSAGE(worst < 1e-5, name);
    }
    CHECK(seen.names().size() == blocks);
    for (const std::string& name : all.names())
      CHECK_MESSAGE(!name.ends_with("attn.weights"), name);  // not made for who wants it all
  }
}

TEST_CASE("attention maps: in bfloat16 too, and of what an adapter changed") {
  const std::string dir = fixtures::dir() + "/clip_plain";
  const auto model = load_pretrained<float>(dir);
  const BackboneInput<float> in = read_backbone_input(dir, "in.safetensors");
  const auto map = [&] {
    inspect::Recorder seen({.patterns = {"blocks.1.attn.weights"}});
    const Observing listen(seen);
    model->forward(in);
    return seen.last("blocks.1.attn.weights");
  };
  const AnyTensor before = map();
  inject<float>(*model, "blocks.1.attn.qkv", lora({.rank = 2}));
  for (const Named<float>& p : parameters<float>(*model))
    if (p.name.find(".lora_") != std::string::npos)
      for (Index i = 0; i < p.tensor->numel(); ++i)
        p.tensor->data()[i] += 0.2f * static_cast<float>(i % 3 - 1);
  CHECK(fixtures::distance(map(), before) > 1e-3);

  const auto rounded = load_pretrained<float>(dir, {.packed = false});
  use_bf16<float>(*rounded);
  inspect::Recorder seen({.patterns = {"blocks.1.attn.weights"}});
  const Observing listen(seen);
  rounded->forward(in);
  const double d = fixtures::distance(seen.last("blocks.1.attn.weights"), before);
  CHECK(d > 1e-6);
  CHECK(d < 2e-2);
}
