// CLIP's vision tower against transformers: every folder tests/parity/fixtures/clip_*.
#include <moraine/models/clip.hpp>

#include "parity.hpp"

using namespace moraine;

TEST_CASE("clip: every hidden state of every fixture") { model_parity::check_states("clip_", 9); }

TEST_CASE("clip: gradients of the pixels and of early weights") {
  model_parity::check_gradients("clip_projection", clip_files("vision_model."), 8,
                                [](const BackboneOutput<float>& o) { return o.image_embeds; });
}

TEST_CASE("clip: LoRA by path") {
  model_parity::check_lora("clip_plain", "blocks.*.attn.qkv", 3);
  model_parity::check_lora("clip_full", "blocks.*.mlp.fc2", 2);
}

TEST_CASE("clip: the key table is its own inverse, with and without prefix") {
  const auto check = [](const std::string& name, const char* prefix, std::size_t ignored) {
    ClipVision<float> clip = load_clip_vision<float>(open_pretrained(fixtures::dir() + "/" + name));
    model_parity::check_keys(name, clip, clip_files(prefix), ignored);
  };
  check("clip_plain", "", 0);
  check("clip_prefix", "vision_model.", 1);  // position_ids
  check("clip_projection", "vision_model.", 0);
}

TEST_CASE("clip: the text tower is not looked at, whatever it holds") {
  Pretrained p = open_pretrained(fixtures::dir() + "/clip_full");
  const std::size_t before = p.weights.tensors.size();
  for (auto it = p.weights.tensors.begin(); it != p.weights.tensors.end();)
    it = it->first.rfind("text_", 0) == 0 || it->first == "logit_scale"
             ? p.weights.tensors.erase(it)
             : std::next(it);
  CHECK(p.weights.tensors.size() < before);
  CHECK_NOTHROW(load_clip_vision<float>(p));
  p.weights.tensors["text_model.a.b"] = Tensor<std::int64_t>::ones({2});
  CHECK_NOTHROW(load_clip_vision<float>(p));
  p.weights.tensors["audio_model.a"] = Tensor<float>::ones({2});
  CHECK(model_parity::refusal([&] { load_clip_vision<float>(p); }) ==
        "clip: the weights do not fit the model; 1 unexpected: audio_model.a");
}

TEST_CASE("clip: presets have the parameters of the published files") {
  // The visual projection (512 x 768, 768 x 1024) is made by what the file holds.
  const auto count = [](const ClipVisionConfig& c, Index projection) {
    ViT<float> vit(vit_config(c));
    return count_parameters<float>(vit) + c.hidden_size * projection;
  };
  CHECK(count(clip_vit_b16(), 512) == 86192640);
  CHECK(count(clip_vit_l14(), 768) == 303966208);
  CHECK(vit_config(clip_vit_b32()).grid_h == 7);
  CHECK(vit_config(clip_vit_l14_336()).grid_h == 24);
}

TEST_CASE("clip: a projection that does not fit, and configs that are wrong") {
  Pretrained p = open_pretrained(fixtures::dir() + "/clip_projection");
  p.weights.tensors["visual_projection.weight"] = Tensor<float>::ones({10, 23});
  CHECK(model_parity::refusal([&] { load_clip_vision<float>(p); }) ==
        "clip: the weights do not fit the model; 1 of another shape: visual_projection.weight "
        "(expected (10,24), found (10,23))");
  p.weights.tensors["visual_projection.weight"] = Tensor<float>::ones({});
  CHECK(model_parity::refusal([&] { load_clip_vision<float>(p); }).find("(expected (1,24)") !=
        std::string::npos);
  p = open_pretrained(fixtures::dir() + "/clip_full");
  p.config.set("vision_config", 3);
  CHECK(model_parity::refusal([&] { load_clip_vision<float>(p); }) ==
        "config.json: vision_config must be an object; it is a number");
  Json j = Json::object();
  j.set("image_size", 31);
  CHECK(model_parity::refusal([&] { clip_vision_config(ConfigReader(j, "config.json")); }) ==
        "config.json: image_size 31 is below patch_size 32");
}
