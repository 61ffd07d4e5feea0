// Depth Anything and Prompt Depth Anything against transformers: every hidden state and depth of
// the folders tests/parity/fixtures/*depth_anything_*, gradients, what is refused.
#include <doctest/doctest.h>

#include <cstdio>
#include <moraine/autograd/backward.hpp>
#include <moraine/peft/inject.hpp>
#include <moraine/peft/lora.hpp>
#include <moraine/recipes/backbones/depth_anything.hpp>

#include "fixtures.hpp"
#include "message.hpp"

using namespace moraine;

namespace {

using DepthModel = DepthAnything<float>;

std::vector<std::string> depth_folders() {
  std::vector<std::string> all = fixtures::folders("depth_anything_");
  for (const std::string& f : fixtures::folders("prompt_depth_anything_")) all.push_back(f);
  return all;
}
Tensor<float> tensor_of(const TensorMap& map, const std::string& name) {
  const auto at = map.find(name);
  return at == map.end() ? Tensor<float>() : at->second.as<float>();
}
BackboneInput<float> depth_input(const TensorMap& map) {
  BackboneInput<float> in;
  in.pixels = tensor_of(map, "pixel_values");
  in.prompt_depth = tensor_of(map, "prompt_depth");
  return in;
}
/// The message for a config with some fields changed; "" when it is taken.
std::string config_error(const std::string& text, bool prompt = false) {
  const Json json = parse_json(text, "config.json");
  return message_of([&] { read_depth_anything_config({json, "config.json"}, prompt); });
}

}  // namespace

TEST_CASE("depth_anything: every hidden state and depth of every fixture") {
  const auto folders = depth_folders();
  REQUIRE(folders.size() == 7);
  for (const std::string& dir : folders) {
    const auto model = depth_anything_backbone<float>(open_pretrained(dir));
    prepare<float>(*model);
    const NoGrad off;
    double worst = -1;
    int images = 0;
    std::string where;
    for (const std::string& file : scratch::list(dir)) {
      if (file.rfind("in", 0) != 0 || !file.ends_with(".safetensors")) continue;
      const auto in = read_safetensors(dir + "/" + file);
      const auto ref = read_safetensors(dir + "/ref" + file.substr(2));
      std::string at;
      const TensorMap out = model->forward(depth_input(in.tensors)).named();
      const double d = fixtures::distance(out, ref.tensors, &at);
      if (d > worst) worst = d, where = file + " " + at;
      ++images;
    }
    std::printf("  %-34s %d inputs, worst %.1e (%s)\n", base_name(dir).c_str(), images, worst,
                where.c_str());
    CHECK_MESSAGE(worst <= 1e-5, dir);
    CHECK(images >= 2);
  }
}

TEST_CASE("depth_anything: the call that keeps only the stages gives the same depth") {
  for (const std::string& dir : depth_folders()) {
    DepthModel model = load_depth_anything<float>(open_pretrained(dir));
    const auto in = read_safetensors(dir + "/in.safetensors");
    const BackboneInput<float> x = depth_input(in.tensors);
    const Tensor<float> depth = model(x.pixels, x.prompt_depth);
    const AnyTensor ref = read_safetensors(dir + "/ref.safetensors").tensors.at("predicted_depth");
    CHECK_MESSAGE(fixtures::distance(depth, ref) <= 1e-5, dir);
  }
}

TEST_CASE("depth_anything: gradients of the input, a prompt and early weights") {
  for (const char* name : {"depth_anything_relative", "prompt_depth_anything_metric"}) {
    const std::string dir = fixtures::dir() + "/" + name;
    const TensorMap grad = read_safetensors(dir + "/grad.safetensors").tensors;
    DepthModel model = load_depth_anything<float>(open_pretrained(dir));
    BackboneInput<float> x = depth_input(grad);
    x.pixels = x.pixels.clone();
    x.pixels.requires_grad();
    const bool prompt = x.prompt_depth.defined();
    REQUIRE(prompt == model.config.head.prompt);
    if (prompt) x.prompt_depth = x.prompt_depth.clone(), x.prompt_depth.requires_grad();
    require_grad<float>(model, "backbone.patch_embed.proj.weight");
    require_grad<float>(model, "neck.**");
    const Tensor<float> depth = model(x.pixels, x.prompt_depth);
    CHECK(fixtures::distance(depth, grad.at("predicted_depth")) <= 1e-5);
    backward(sum(mul(depth, tensor_of(grad, "loss"))));
    int checked = 0;
    const auto check = [&](const std::string& key, const Tensor<float>& d) {
      INFO(name << " " << key);
      REQUIRE(grad.count("d." + key) == 1);
      CHECK(fixtures::distance(d, grad.at("d." + key)) <= 1e-5);
      ++checked;
    };
    check("pixel_values", x.pixels.grad());
    if (prompt) check("prompt_depth", x.prompt_depth.grad());
    for (const Named<float>& p : parameters<float>(model)) {
      const std::string key = depth_anything_keys(p.name)[0];
      if (p.tensor->tracked() && grad.count("d." + key)) check(key, p.tensor->grad());
    }
    CHECK(checked == (prompt ? 5 : 4));
  }
}

TEST_CASE("depth_anything: LoRA in the trunk, under a frozen head") {
  const std::string dir = fixtures::dir() + "/depth_anything_relative";
  DepthModel model = load_depth_anything<float>(open_pretrained(dir));
  const Tensor<float> pixels =
      read_safetensors(dir + "/in_wide.safetensors").tensors.at("pixel_values").as<float>();
  const Tensor<float> before = model(pixels);
  const auto paths = inject<float>(model, "backbone.blocks.*.attn.qkv", lora({.rank = 2}));
  CHECK(paths.size() == 4);
  CHECK(fixtures::distance(model(pixels), before) == 0);  // B is zero
  const Index trained = count_parameters<float>(model, true);
  CHECK(trained == 4 * 2 * (15 + 45));
  const auto loss_now = [&] {
    const Tensor<float> depth = model(pixels);
    return mean(mul(depth, depth));
  };
  const Tensor<float> loss = loss_now();
  backward(loss);
  for (Named<float>& p : parameters<float>(model)) {
    if (!p.tensor->tracked() || !p.name.ends_with("lora_B")) continue;
    const Tensor<float> d = p.tensor->grad();
    double largest = 0;
    for (Index i = 0; i < d.numel(); ++i) {
      largest = std::max(largest, static_cast<double>(std::abs(d.data()[i])));
      p.tensor->data()[i] -= 0.01f * d.data()[i];
    }
    CHECK_MESSAGE(largest > 0, p.name);
  }
  const NoGrad off;
  CHECK(loss_now().item() < loss.item());
}

TEST_CASE("depth_anything: the key table is its own inverse") {
  const auto p = open_pretrained(fixtures::dir() + "/prompt_depth_anything_metric");
  DepthModel model = open_depth_anything<float>(p);
  const TensorMap back = save<float>(model, depth_anything_files());
  for (const auto& entry : p.weights.tensors) {
    const std::string& key = entry.first;
    if (key == "backbone.embeddings.mask_token") continue;
    INFO(key);
    REQUIRE(back.count(key) == 1);
    CHECK(fixtures::distance(back.at(key), entry.second) == 0);
  }
  CHECK(back.size() + 1 == p.weights.tensors.size());
}

TEST_CASE("depth_anything: parameters of the published sizes") {
  const auto head = [](const DepthAnythingConfig& c) {
    check_depth_anything(c);
    Dpt<float> dpt(c.head);
    return count_parameters<float>(dpt);
  };
  // Counted in the published files.
  CHECK(head(depth_anything_v2_small()) == 2728513);
  CHECK(head(depth_anything_v2_base()) == 10890305);
  CHECK(head(depth_anything_v2_large(80)) == 30947009);
  CHECK(head(prompt_depth_anything_small()) > 2728513);
  CHECK(head(prompt_depth_anything_large()) == 340046529 - 304368640);
  check_depth_anything(depth_anything_v2_giant());
  DepthModel small(depth_anything_v2_small());
  CHECK(count_parameters<float>(small) + 384 == 24785089);  // the file has a mask token
}

TEST_CASE("depth_anything: what it refuses") {
  const std::string dir = fixtures::dir();
  const auto plain =
      depth_anything_backbone<float>(open_pretrained(dir + "/depth_anything_metric"));
  const auto prompt =
      depth_anything_backbone<float>(open_pretrained(dir + "/prompt_depth_anything_metric"));
  const auto say = [](const Backbone<float>& m, Shape pixels, Shape depth) {
    return message_of([&] {
      BackboneInput<float> in;
      in.pixels = Tensor<float>::zeros(pixels);
      if (depth.rank) in.prompt_depth = Tensor<float>::zeros(depth);
      m.check(in);
    });
  };
  CHECK(say(*plain, {1, 3, 7, 7}, {}).empty());
  CHECK(say(*prompt, {2, 3, 7, 7}, {2, 1, 1, 9}).empty());
  CHECK(has(say(*plain, {1, 3, 6, 70}, {}), "pixel_values: (1,3,6,70) is smaller than one patch"));
  CHECK(has(say(*plain, {1, 4, 7, 7}, {}), "4 channels"));
  CHECK(has(say(*plain, {1, 3, 7, 7}, {1, 1, 2, 2}), "prompt_depth: (1,1,2,2) is given"));
  CHECK(has(say(*prompt, {2, 3, 7, 7}, {1, 1, 2, 2}), "prompt_depth: (1,1,2,2) is for another"));
  CHECK(has(say(*prompt, {1, 3, 7, 7}, {1, 2, 2, 2}), "2 channels"));
  CHECK(has(say(*prompt, {1, 3, 7, 7}, {1, 2, 2}), "four axes"));
  CHECK(has(say(*prompt, {1, 3, 7, 7}, {1, 1, 0, 2}), "no pixel"));

  const std::string begin =
      "{\"backbone_config\": {\"hidden_size\": 384, "
      "\"num_attention_heads\": 6, \"out_indices\": [1, 2, 3, 4]";
  const auto trunk = [&](const std::string& more) { return config_error(begin + more + "}}"); };
  const auto head = [&](const std::string& more) { return config_error(begin + "}" + more + "}"); };
  CHECK(config_error("{}").empty());
  CHECK(trunk("").empty());
  CHECK(has(trunk(", \"out_features\": [\"stage1\"]"), "out_features names other stages"));
  CHECK(has(trunk(", \"model_type\": \"vit\""), "backbone_config: model_type \"vit\""));
  CHECK(has(trunk(", \"model_type\": \"dinov2_with_registers\", \"patch_size\": 14"),
            "num_register_tokens 4"));
  CHECK(has(trunk(", \"num_hidden_layers\": 3"), "out_indices is out of range; 4"));
  CHECK(has(trunk(", \"patch_size\": 7"), "patch_size 14 differs"));
  CHECK(has(head(", \"reassemble_hidden_size\": 24"), "reassemble_hidden_size 24 differs"));
  CHECK(has(config_error("{\"backbone_config\": {}}"), "reassemble_hidden_size"));
  CHECK(has(config_error("{\"backbone_config\": {\"out_indices\": [1, 3, 2, 4]}}"), "ascend"));
  CHECK(has(config_error("{\"backbone_config\": {\"out_indices\": [1e300]}}"), "out_indices"));
  CHECK(has(config_error("{\"backbone_config\": {\"out_features\": [\"stage13\"]}}"), "stage13"));
  CHECK(has(config_error("{\"backbone_config\": 3}"), "backbone_config must be an object"));
  CHECK(has(head(", \"depth_estimation_type\": \"disparity\""), "depth_estimation_type"));
  CHECK(has(head(", \"head_in_index\": 4"), "head_in_index 4"));
  CHECK(has(head(", \"head_in_index\": 1e300"), "head_in_index"));
  CHECK(has(head(", \"neck_hidden_sizes\": [4, 4]"), "neck_hidden_sizes holds 2"));
  CHECK(has(head(", \"reassemble_factors\": [2]"), "reassemble_factors holds 1"));
  CHECK(has(head(", \"reassemble_factors\": [2.5, 1, 1, 1]"), "reassemble_factors is out"));
  CHECK(has(head(", \"reassemble_factors\": [0, 1, 1, 1]"), "reassemble_factors is out"));
  CHECK(has(head(", \"fusion_hidden_size\": 1"), "fusion_hidden_size"));
  // Far larger than its file: refused without the memory.
  const auto p = open_pretrained(dir + "/depth_anything_relative");
  DepthAnythingConfig c = read_depth_anything_config(p.reader(), false);
  c.head.fusion = 1 << 22;
  CHECK(has(message_of([&] { depth_anything<float>(c, p.weights.tensors); }), "far fewer values"));
  // The other class' file: its layers for a prompt are left over.
  c = read_depth_anything_config(p.reader(), true);
  CHECK(has(message_of([&] { depth_anything<float>(c, p.weights.tensors); }),
            "neck.fusion_stage.layers.0.prompt_depth_layer.convolution1.weight"));
}

TEST_CASE("dpt: what it refuses") {
  const DptConfig small{
      .width = 6, .patch = 2, .factors = {2}, .channels = {4}, .fusion = 4, .head = 3};
  const Dpt<float> dpt(small);
  const auto tokens = [](Shape s) { return Tensor<float>::zeros(s); };
  CHECK(dpt({tokens({2, 6, 6})}, {2, 3}).shape() == Shape{2, 4, 6});
  CHECK(has(message_of([&] { dpt({}, {2, 3}); }), "1 stages; 0"));
  CHECK(has(message_of([&] { dpt({tokens({2, 7, 6})}, {2, 3}); }), "(2,7,6)"));
  CHECK(has(message_of([&] {
              dpt({tokens({2, 6, 6})}, {2, 3}, tokens({2, 1, 1, 2}));
            }),
            "no layers for a prompt"));
  const auto build = [&](auto change) {
    DptConfig c = small;
    change(c);
    return message_of([&] { Dpt<float> d(c); });
  };
  CHECK(has(build([](DptConfig& c) { c.factors = {}; }), "0 factors, 1 channels"));
  CHECK(has(build([](DptConfig& c) { c.factors = {1.5}; }), "factors must be whole"));
  CHECK(has(build([](DptConfig& c) { c.head_in = 1; }), "head_in names no map; 1 of 1"));
  CHECK(has(build([](DptConfig& c) { c.fusion = 1; }), "dpt: width"));
}
