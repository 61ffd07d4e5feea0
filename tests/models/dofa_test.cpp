// DOFA against torchgeo: every folder tests/parity/fixtures/dofa_*.
#include <doctest/doctest.h>

#include <atomic>
#include <cstdio>
#include <moraine/autograd/backward.hpp>
#include <moraine/peft/inject.hpp>
#include <moraine/peft/lora.hpp>
#include <moraine/recipes/backbones/dofa.hpp>
#include <thread>

#include "generated.hpp"

using namespace moraine;

namespace {
Dofa<float> dofa_fixture(const std::string& name) {
  return load_dofa<float>(
      open_pretrained(fixtures::ModelFolder(fixtures::dir() + "/dofa_" + name).path));
}
BackboneInput<float> dofa_input(const TensorMap& map) {
  return {.pixels = map.at("pixel_values").as<float>(),
          .wavelengths = map.at("wavelengths").as<float>()};
}
BackboneInput<float> dofa_input(const std::string& file) {
  return dofa_input(read_safetensors(fixtures::dir() + "/dofa_" + file).tensors);
}
}  // namespace

TEST_CASE("dofa: every output of every fixture") {
  const auto folders = fixtures::folders("dofa_");
  REQUIRE(folders.size() >= 7);
  for (const std::string& dir : folders) {
    const fixtures::ModelFolder folder(dir);
    const auto model = dofa_backbone<float>(open_pretrained(folder.path));
    double worst = -1;
    int images = 0;
    std::string where;
    for (const std::string& file : scratch::list(dir)) {
      if (file.rfind("in", 0) != 0) continue;
      const auto in = read_safetensors(dir + "/" + file);
      const auto ref = read_safetensors(dir + "/ref" + file.substr(2));
      std::string at;
      const double d =
          fixtures::distance(model->forward(dofa_input(in.tensors)).named(), ref.tensors, &at);
      if (d > worst) worst = d, where = file + " " + at;
      ++images;
    }
    std::printf("  %-32s %d images, worst %.1e (%s)\n", base_name(dir).c_str(), images, worst,
                where.c_str());
    CHECK_MESSAGE(worst <= 2e-5, dir);
    CHECK(images >= 1);
  }
}

TEST_CASE("dofa: other image sizes, the position table resized by the formula of the script") {
  const std::string dir = fixtures::dir() + "/dofa_plain";
  Dofa<float> dofa = dofa_fixture("plain");
  int images = 0;
  for (const std::string& file : scratch::list(dir)) {
    if (file.rfind("size_", 0) != 0) continue;
    const TensorMap map = read_safetensors(dir + "/" + file).tensors;
    const auto in = dofa_input(map);
    std::string at;
    TensorMap got, ref;
    Tensor<float> x = dofa.embed(in.pixels, in.wavelengths);
    got.emplace("hidden_states.0", x);
    for (Index i = 0; i < dofa.config.depth; ++i)
      x = dofa.block(i, x), got.emplace("hidden_states." + std::to_string(i + 1), x);
    got.emplace("last_hidden_state", dofa.finish(x));
    got.emplace("pooler_output", dofa.pool(x));
    for (const auto& [name, t] : map)
      if (got.count(name)) ref.emplace(name, t);
    REQUIRE(ref.size() == got.size());
    const double d = fixtures::distance(got, ref, &at);
    std::printf("  %-24s worst %.1e (%s)\n", file.c_str(), d, at.c_str());
    CHECK(d <= 2e-5);
    ++images;
  }
  CHECK(images >= 2);
}

TEST_CASE("dofa: gradients of the pixels and of the generator, blocks kept or run again") {
  const auto map = read_safetensors(fixtures::dir() + "/dofa_plain/grad.safetensors").tensors;
  for (bool again : {false, true}) {
    Dofa<float> dofa = dofa_fixture("plain");
    dofa.gradient_checkpointing = again;
    require_grad<float>(dofa, "**");
    CHECK(!dofa.pos_embed.tracked());  // a fixed table
    Tensor<float> pixels = map.at("pixel_values").as<float>();
    pixels.requires_grad();
    const Tensor<float> y = dofa(pixels, map.at("wavelengths").as<float>());
    backward(sum(mul(y, map.at("cotangent").as<float>())));
    TensorMap got{{"d.pixel_values", pixels.grad()}}, ref;
    for (const Named<float>& p : parameters<float>(dofa))
      if (map.count("d." + p.name)) got.emplace("d." + p.name, p.tensor->grad());
    for (const auto& [key, t] : map)
      if (key.rfind("d.", 0) == 0) ref.emplace(key, t);
    REQUIRE(ref.size() == 8);
    std::string at;
    const double d = fixtures::distance(got, ref, &at);
    std::printf("  gradients: worst %.1e (%s)\n", d, at.c_str());
    CHECK(d <= 2e-5);
  }
}

TEST_CASE("dofa: channels and their wavelengths may stand in any order") {
  Dofa<float> dofa = dofa_fixture("plain");
  const auto in = dofa_input("plain/in_nine.safetensors");
  const Tensor<float> y = dofa(in.pixels, in.wavelengths);
  const Tensor<std::int64_t> order({9}, {4, 0, 8, 2, 6, 1, 7, 3, 5});
  CHECK(fixtures::distance(
            dofa(index_select(in.pixels, order, 1), index_select(in.wavelengths, order, 0)), y) <=
        1e-5);
  CHECK(fixtures::distance(dofa(index_select(in.pixels, order, 1), in.wavelengths), y) > 1e-2);
}

TEST_CASE("dofa: phases of thousands of radians keep their sines") {
  const Tensor<float> e = wavelength_embedding(Tensor<float>({1}, {5.405f}));
  CHECK(e.shape() == Shape{1, 128});
  // 5.405f * 1000 rounded to float is 5405 exactly.
  CHECK(e.at({0, 0}) == doctest::Approx(std::sin(5405.0)).epsilon(1e-6));
  CHECK(e.at({0, 64}) == doctest::Approx(std::cos(5405.0)).epsilon(1e-6));
  CHECK(e.at({0, 32}) == doctest::Approx(std::sin(54.05)).epsilon(1e-5));
}

TEST_CASE("dofa: kernels are kept for a sensor until it, or a weight, changes") {
  Dofa<float> dofa = dofa_fixture("no_fc_norm");
  auto& embedding = dofa.patch_embed;
  const Tensor<float> rgb({3}, {0.665f, 0.56f, 0.49f}), other({3}, {0.665f, 0.56f, 0.5f});
  const auto weight = [&](const Tensor<float>& w) { return embedding.kernels(w).weight; };
  const Tensor<float> first = weight(rgb);
  CHECK(weight(rgb).data() == first.data());
  CHECK(weight(rgb.clone()).data() == first.data());
  CHECK(fixtures::distance(weight(other), embedding.make_kernels(other).weight) == 0);
  CHECK(fixtures::distance(weight(other), first) > 1e-5);
  CHECK(fixtures::distance(weight(rgb), first) == 0);

  // Another tensor in place of a weight, such as load() puts there.
  embedding.w1.weight = scale(embedding.w1.weight, 2.0f);
  CHECK(fixtures::distance(weight(rgb), embedding.make_kernels(rgb).weight) == 0);
  CHECK(fixtures::distance(weight(rgb), first) > 1e-5);
  // One step of training, in place, and frozen again.
  require_grad<float>(dofa, "patch_embed.**");
  CHECK(weight(rgb).tracked());
  for (Named<float>& p : parameters<float>(embedding))
    for (Index i = 0; i < p.tensor->numel(); ++i) p.tensor->data()[i] *= 1.1f;
  freeze<float>(dofa);
  CHECK(fixtures::distance(weight(rgb), embedding.make_kernels(rgb).weight) == 0);
  // An edit in place is told.
  for (Index i = 0; i < 128; ++i) embedding.bias_token.data()[i] = 0;
  embedding.forget();
  CHECK(fixtures::distance(weight(rgb), embedding.make_kernels(rgb).weight) == 0);
}

TEST_CASE("dofa: threads with different sensors share one model") {
  Dofa<float> dofa = dofa_fixture("no_fc_norm");
  const auto in = dofa_input("no_fc_norm/in.safetensors");
  std::vector<Tensor<float>> waves, expected;
  for (float shift : {0.0f, 0.1f, 0.2f}) {
    waves.push_back(in.wavelengths + shift);
    const NoGrad off;
    expected.push_back(dofa(in.pixels, waves.back()));
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      const NoGrad off;
      for (std::size_t i = 0; i < 6; ++i) {
        const std::size_t k = (t + i) % 3;
        wrong += dofa(in.pixels, waves[k]).values() != expected[k].values();
      }
    });
  for (std::thread& t : threads) t.join();
  CHECK(wrong == 0);
}

TEST_CASE("dofa: LoRA by path leaves the output as it was, and is all that is trained") {
  Dofa<float> dofa = dofa_fixture("token_classes");
  const auto in = dofa_input("token_classes/in.safetensors");
  const Tensor<float> before = dofa(in.pixels, in.wavelengths);
  CHECK(inject<float>(dofa, "blocks.*.attn.qkv", lora({.rank = 2})).size() == 1);
  CHECK(inject<float>(dofa, "head", lora({.rank = 2})).size() == 1);
  const Tensor<float> y = dofa(in.pixels, in.wavelengths);
  CHECK(fixtures::distance(y, before) == 0);
  backward(sum(mul(dofa.head(dofa.pool(y)), dofa.head(dofa.pool(y)))));
  for (Named<float>& p : parameters<float>(dofa)) {
    CHECK(p.tensor->tracked() == matches("**.lora_*", p.name.c_str()));
    if (p.tensor->tracked()) CHECK_MESSAGE(p.tensor->grad().defined(), p.name);
  }
}

TEST_CASE("dofa: the published sizes, encoder and fc_norm") {
  const auto count = [](const DofaConfig& c) {
    Dofa<float> d(c);
    return count_parameters<float>(d) + d.pos_embed.numel();
  };
  CHECK(count(dofa_base()) == 111312128);
  CHECK(count(dofa_large()) == 337105408);
}
