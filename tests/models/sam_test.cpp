// SAM's image encoder against transformers: every folder tests/parity/fixtures/sam_*.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <moraine/autograd/backward.hpp>
#include <moraine/ops/reduce.hpp>
#include <moraine/peft/inject.hpp>
#include <moraine/peft/lora.hpp>
#include <moraine/recipes/backbones/sam.hpp>

#include "fixtures.hpp"

using namespace moraine;

namespace {
SamEncoder<float> sam_fixture(const std::string& name) {
  return load_sam<float>(open_pretrained(fixtures::dir() + "/sam_" + name));
}
TensorMap sam_states(SamEncoder<float>& sam, const Tensor<float>& pixels) {
  TensorMap out;
  Tensor<float> x = sam.embed(pixels);
  out.emplace("hidden_states.0", x);
  for (Index i = 0; i < sam.config.num_hidden_layers; ++i) {
    x = sam.block(i, x);
    out.emplace("hidden_states." + std::to_string(i + 1), x);
  }
  out.emplace("last_hidden_state", sam.finish(x));
  return out;
}
}  // namespace

TEST_CASE("sam: every hidden state of every fixture") {
  const auto folders = fixtures::folders("sam_");
  REQUIRE(folders.size() >= 11);
  for (const std::string& dir : folders) {
    const auto model = sam_backbone<float>(open_pretrained(dir));
    const auto in = read_safetensors(dir + "/in.safetensors");
    const auto ref = read_safetensors(dir + "/ref.safetensors");
    std::string at;
    const auto out = model->forward({.pixels = in.tensors.at("pixel_values").as<float>()});
    const double d = fixtures::distance(out.named(), ref.tensors, &at);
    std::printf("  %-32s worst %.1e (%s)\n", base_name(dir).c_str(), d, at.c_str());
    CHECK_MESSAGE(d <= 1e-5, dir);
  }
}

TEST_CASE("sam: other image sizes, tables resized, by the formulas of the script") {
  int images = 0;
  for (const std::string& dir : fixtures::folders("sam_"))
    for (const std::string& file : scratch::list(dir)) {
      if (file.rfind("size_", 0) != 0) continue;
      SamEncoder<float> sam = load_sam<float>(open_pretrained(dir));
      TensorMap ref = read_safetensors(dir + "/" + file).tensors;
      const Tensor<float> pixels = ref.at("pixel_values").as<float>();
      ref.erase("pixel_values");
      std::string at;
      const double d = fixtures::distance(sam_states(sam, pixels), ref, &at);
      std::printf("  %s %-24s worst %.1e (%s)\n", base_name(dir).c_str(), file.c_str(), d,
                  at.c_str());
      CHECK_MESSAGE(d <= 1e-5, dir << " " << file);
      // encode's contract takes the trained size alone.
      CHECK_THROWS_AS(sam_backbone<float>(open_pretrained(dir))->forward({.pixels = pixels}),
                      Error);
      ++images;
    }
  CHECK(images >= 7);
}

TEST_CASE("sam: the tables of 64 x 64 tokens at 16 x 16, by the numbers of MFNet") {
  // 64 -> 16: every position is four of the table along each axis, times -3/32, 19/32, 19/32,
  // -3/32.
  SamEncoder<double> sam(
      {.hidden_size = 1, .num_hidden_layers = 0, .num_attention_heads = 1, .mlp_dim = 1});
  for (Index i = 0; i < 64 * 64; ++i) sam.pos_embed.data()[i] = std::sin(0.7 * double(i));
  const Tensor<double> small = sam.positions(16, 16);
  CHECK(small.shape() == Shape{1, 16, 16, 1});
  const double f[] = {-3.0 / 32, 19.0 / 32, 19.0 / 32, -3.0 / 32};
  double worst = 0;
  for (Index y = 0; y < 16; ++y)
    for (Index x = 0; x < 16; ++x) {
      double sum = 0;
      for (Index i = 0; i < 4; ++i)
        for (Index j = 0; j < 4; ++j)
          sum += f[i] * f[j] * sam.pos_embed.at({0, 4 * y + i, 4 * x + j, 0});
      worst = std::max(worst, std::abs(sum - small.at({0, y, x, 0})));
    }
  CHECK(worst < 1e-14);
  // 127 -> 31 rows.
  const Tensor<double> t = relative_table(reshape(Tensor<double>::arange(127), {127, 1}), 16);
  CHECK(t.shape() == Shape{31, 1});
  CHECK(t.at({0, 0}) == doctest::Approx(0.451613 * 1 + 0.548387 * 2).epsilon(1e-6));
  CHECK(t.at({15, 0}) == doctest::Approx(63).epsilon(1e-12));
  CHECK(t.at({30, 0}) == doctest::Approx(0.548387 * 124 + 0.451613 * 125).epsilon(1e-6));
}

TEST_CASE("sam: gradients of the pixels and of early weights, blocks kept or run again") {
  const auto map = read_safetensors(fixtures::dir() + "/sam_plain/grad.safetensors").tensors;
  for (bool again : {false, true}) {
    SamEncoder<float> sam = sam_fixture("plain");
    sam.gradient_checkpointing = again;
    require_grad<float>(sam, "**");
    Tensor<float> pixels = map.at("pixel_values").as<float>();
    pixels.requires_grad();
    backward(sum(mul(sam(pixels), map.at("cotangent").as<float>())));
    TensorMap got{{"d.pixel_values", pixels.grad()}}, ref;
    for (const Named<float>& p : parameters<float>(sam)) {
      REQUIRE_MESSAGE(p.tensor->grad().defined(), p.name);
      const std::string key = "d." + keys_for(sam_files(), p.name)[0];
      if (map.count(key)) got.emplace(key, p.tensor->grad());
    }
    for (const auto& [key, t] : map)
      if (key.rfind("d.", 0) == 0) ref.emplace(key, t);
    REQUIRE(ref.size() == 7);
    std::string at;
    const double d = fixtures::distance(got, ref, &at);
    std::printf("  gradients: worst %.1e (%s)\n", d, at.c_str());
    CHECK(d <= 1e-5);
  }
}

TEST_CASE("sam: the key table is its own inverse, and the authors' names are the trunk's own") {
  const auto p = open_pretrained(fixtures::dir() + "/sam_plain");
  SamEncoder<float> sam = load_sam<float>(p);
  const TensorMap back = save<float>(sam, sam_files());
  for (const auto& [key, t] : p.weights.tensors) {
    INFO(key);
    REQUIRE(back.count(key) == 1);
    CHECK(fixtures::distance(back.at(key), t) == 0);
  }
  CHECK(back.size() == p.weights.tensors.size());

  const TensorMap original = save<float>(sam, sam_original_files());
  for (const char* key :
       {"image_encoder.pos_embed", "image_encoder.patch_embed.proj.bias",
        "image_encoder.blocks.2.norm1.weight", "image_encoder.blocks.1.attn.rel_pos_h",
        "image_encoder.blocks.0.mlp.lin1.bias", "image_encoder.neck.0.weight",
        "image_encoder.neck.1.bias", "image_encoder.neck.2.weight", "image_encoder.neck.3.bias"})
    CHECK_MESSAGE(original.count(key) == 1, key);
  SamEncoder<float> same = moraine::sam<float>(sam.config, original, sam_original_files());
  const Tensor<float> x = Tensor<float>::ones({1, 3, 20, 20});
  CHECK(same(x).values() == sam(x).values());
}

TEST_CASE("sam: LoRA by path, in windows that reach beyond the map too, is a change of weights") {
  SamEncoder<float> sam = sam_fixture("plain"), merged = sam_fixture("plain");
  const Tensor<float> x = read_safetensors(fixtures::dir() + "/sam_plain/in.safetensors")
                              .tensors.at("pixel_values")
                              .as<float>();
  const Tensor<float> before = sam(x);
  CHECK(inject<float>(sam, "blocks.*.attn.qkv", lora({.rank = 2})).size() == 3);
  CHECK(inject<float>(sam, "blocks.*.attn.proj", lora({.rank = 2})).size() == 3);
  CHECK(inject<float>(sam, "blocks.*.mlp.lin*", lora({.rank = 2})).size() == 6);
  CHECK(fixtures::distance(sam(x), before) == 0);  // B starts at zero

  for (Named<float>& p : parameters<float>(sam))
    if (matches("**.lora_B", p.name.c_str())) init::normal(*p.tensor, 0.1, init::stream(1, p.name));
  std::map<std::string, Tensor<float>> all;
  for (Named<float>& p : parameters<float>(sam)) all[p.name] = p.tensor->detach();
  for (Named<float>& p : parameters<float>(merged)) {
    const std::string layer = p.name.substr(0, p.name.rfind('.'));
    if (!p.name.ends_with(".weight") || !all.count(layer + ".lora_A")) continue;
    *p.tensor =
        add(p.tensor->detach(), matmul(all.at(layer + ".lora_B"), all.at(layer + ".lora_A"), 2.0f));
  }
  const Tensor<float> after = sam(x);
  CHECK(fixtures::distance(after, merged(x)) <= 1e-5);
  CHECK(fixtures::distance(after, before) > 1e-2);
  backward(sum(mul(after, after)));
  for (Named<float>& p : parameters<float>(sam)) {
    CHECK(p.tensor->tracked() == matches("**.lora_*", p.name.c_str()));
    if (p.tensor->tracked()) CHECK_MESSAGE(p.tensor->grad().defined(), p.name);
  }
}

TEST_CASE("sam: the published sizes") {
  CHECK(count_parameters<float>(*std::make_unique<SamEncoder<float>>(sam_base())) == 89670912);
  CHECK(count_parameters<float>(*std::make_unique<SamEncoder<float>>(sam_large())) == 308278272);
  CHECK(count_parameters<float>(*std::make_unique<SamEncoder<float>>(sam_huge())) == 637026048);
}
