// A SpectralMoE plugin as a file: what it brings along, and which base it is refused on.
#include <doctest/doctest.h>

#include <cmath>
#include <moraine/recipes/backbones/dinov2.hpp>
#include <moraine/recipes/fingerprint.hpp>
#include <moraine/recipes/plugin_file.hpp>
#include <string>

#include "fixtures.hpp"
#include "tree.hpp"

using namespace moraine;

namespace {
SpectralMoe<float> small_plugin() {
  SpectralMoeConfig c = spectral_moe_paper();
  c.layers = 3, c.dim = 24, c.tokens = 5, c.rank = 2, c.experts = 3, c.query_dim = 4, c.prefix = 1;
  c.depth_prefix = 1;
  c.balance_load = true;
  SpectralMoe<float> moe(c);
  moe.init({.seed = 3, .a_bound = 0.5, .b_std = 0.3, .prototype_std = 0.2, .scale = 0.4});
  return moe;
}
Tensor<float> run_with(ViT<float>& vit, const SpectralMoe<float>& moe) {
  NoGrad off;
  Tensor<float> x = Tensor<float>::empty({1, 3, 28, 28});
  for (Index i = 0; i < x.numel(); ++i) x.data()[i] = std::sin(0.3f * static_cast<float>(i));
  const auto places = vit.places(28, 28);
  Tensor<float> t = vit.embed(x);
  for (Index i = 0; i < vit.config.depth; ++i) {
    t = vit.block(i, t, places);
    t = moe.layer(i, t, t).out;
  }
  return t;
}
}  // namespace

TEST_CASE("plugin: one file holds tensors and card, and gives the same outputs") {
  const scratch::Tree dir;
  const Pretrained base = open_pretrained(fixtures::dir() + "/dinov2_plain");
  const std::string print = weights_fingerprint(base.weights.tensors);
  ViT<float> vit = load_dinov2<float>(base);
  SpectralMoe<float> moe = small_plugin();
  PluginCard card;
  card.vision = {"dinov2_plain", print};
  card.bands = {{"red", 660, 60}, {"green", 555, 70}, {"blue", 485, 70}};
  card.normalisation = {{0.1f, 0.2f, 0.3f}, {1, 2, 3}};
  card.licence = "cc-by-4.0";
  card.description = "three land covers";
  card.training = Json::object();
  card.training.set("steps", 40);
  write_plugin(dir / "plugin.safetensors", moe, card);
  const LoadedPlugin<float> read = read_plugin<float>(dir / "plugin.safetensors", {"here", print});
  CHECK(run_with(vit, read.moe).values() == run_with(vit, moe).values());
  CHECK(read.card.vision.name == "dinov2_plain");
  CHECK(read.card.bands.size() == 3);
  CHECK(read.card.bands[1].centre == 555);
  CHECK(read.card.normalisation.mean == card.normalisation.mean);
  CHECK(read.card.licence == "cc-by-4.0");
  CHECK(read.card.training.at("steps").as_int() == 40);
  CHECK(read.card.config.balance_load);
  CHECK(read.card.config.gate.top_k == moe.config.gate.top_k);
}

TEST_CASE("plugin: refused on another base, and where it does not fit its own card") {
  const scratch::Tree dir;
  const std::string file = dir / "plugin.safetensors";
  SpectralMoe<float> moe = small_plugin();
  PluginCard card;
  CHECK(scratch::contains(scratch::message_of([&] { write_plugin(file, moe, card); }),
                          "names no vision base"));
  card.vision = {"dinov2-large", "aaaaaaaaaaaaaaaa"};
  card.depth = {"depth-anything-large", "dddddddddddddddd"};
  write_plugin(file, moe, card);
  const auto message = [&](const PluginBase& v, const PluginBase& d = {}) {
    return scratch::message_of([&] { read_plugin<float>(file, v, d); });
  };
  CHECK(message({"mine", "bbbbbbbbbbbbbbbb"}, card.depth) ==
        "plugin: \"plugin.safetensors\" was trained on another vision base; it needs "
        "\"dinov2-large\", fingerprint aaaaaaaaaaaaaaaa, this is \"mine\", fingerprint "
        "bbbbbbbbbbbbbbbb -> load the base it needs");
  CHECK(scratch::contains(message(card.vision), "another depth base"));
  CHECK(message(card.vision, card.depth).empty());
  // A card that says something else than its tensors.
  SafetensorsFile f = read_safetensors(file, {.map = false});
  const auto with = [&](const char* from, const char* to) {
    auto m = f.metadata;
    std::string& c = m["config"];
    REQUIRE(c.find(from) != std::string::npos);
    c.replace(c.find(from), std::string(from).size(), to);
    write_safetensors(file, f.tensors, m);
    return message(card.vision, card.depth);
  };
  CHECK(scratch::contains(with("\"layers\":3", "\"layers\":4"), "experts_a.3.0"));
  CHECK(scratch::contains(with("\"layers\":3", "\"layers\":9999999"), "w_gate.3.0"));
  CHECK(scratch::contains(with("\"dim\":24", "\"dim\":16777216"), "mlp_delta_f.bias"));
  CHECK(scratch::contains(with("\"dim\":24", "\"dim\":-1"), "out of range"));
  CHECK(scratch::contains(with("\"rank\"", "\"rnak\""), "rnak"));
  write_safetensors(file, f.tensors, {{"format", "pt"}});
  CHECK(scratch::contains(message(card.vision), "is of another format"));
  TensorMap less = f.tensors;
  less.erase("scale");
  write_safetensors(file, less, f.metadata);
  CHECK(scratch::contains(message(card.vision, card.depth), "1 missing: scale"));
}

TEST_CASE("fingerprint: of the tensors, not of the file") {
  const auto of = [](const std::string& dir) {
    return weights_fingerprint(read_sharded(fixtures::dir() + dir).tensors);
  };
  const SafetensorsFile sharded = read_sharded(fixtures::dir() + "/dinov2_sharded");
  const scratch::Tree dir;
  write_safetensors(dir / "x", sharded.tensors, {{"any", "thing"}});
  const SafetensorsFile one = read_safetensors(dir / "x", {.map = false});
  CHECK(weights_fingerprint(one.tensors) == of("/dinov2_sharded"));
  CHECK(of("/dinov2_plain") != of("/dinov2_sharded"));
  // One bit, one name, one shape; two sign bits, which a plain product would cancel.
  TensorMap map{{"a", Tensor<float>({4}, {1, 2, 3, 4})}};
  const std::string before = weights_fingerprint(map);
  CHECK(weights_fingerprint({{"b", map.at("a")}}) != before);
  map["a"].shape = Shape{2, 2};
  CHECK(weights_fingerprint(map) != before);
  for (const std::vector<float>& v :
       {std::vector<float>{1, 2, 3, -4}, {1, -2, 3, -4}, {-1, 2, -3, 4}, {1, 2, 4, 3}})
    CHECK(weights_fingerprint({{"a", Tensor<float>({4}, v)}}) != before);
  CHECK(before.size() == 16);
}
