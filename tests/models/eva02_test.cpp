// EVA-02 against timm: every folder tests/parity/fixtures/eva02_*.
#include <moraine/models/eva02.hpp>

#include "parity.hpp"

using namespace moraine;

namespace {
std::string eva02_folder(const char* name) { return fixtures::dir() + "/eva02_" + name; }
}  // namespace

TEST_CASE("eva02: every hidden state of every fixture") {
  model_parity::check_states("eva02_", 12);
}

TEST_CASE("eva02: gradients of the pixels and of early weights") {
  const Eva02Config c = eva02_config(open_pretrained(eva02_folder("plain")));
  model_parity::check_gradients("eva02_plain", eva02_files(c), 8,
                                [](const BackboneOutput<float>& o) { return o.pooler_output; });
}

TEST_CASE("eva02: LoRA by path") {
  model_parity::check_lora("eva02_plain", "blocks.*.attn.qkv", 3);
  model_parity::check_lora("eva02_fused", "blocks.*.mlp.w3", 3);
}

TEST_CASE("eva02: the key table is its own inverse, fused or not, with and without classes") {
  for (const char* name : {"plain", "fused", "token_classes", "classes", "no_qkv_bias"}) {
    const Pretrained p = open_pretrained(eva02_folder(name));
    Eva02<float> eva = load_eva02<float>(p);
    model_parity::check_keys(std::string("eva02_") + name, eva, eva02_files(eva02_config(p)), 0);
  }
}

TEST_CASE("eva02: presets have the parameters of the published files") {
  const auto count = [](const Eva02Config& c) {
    Eva02<float> eva(c);
    // Not in the files: the rows of zeros of the keys' bias.
    return count_parameters<float>(eva) - c.depth * c.embed_dim;
  };
  CHECK(count(eva02_base()) == 85758720);
  CHECK(count(eva02_large()) == 303268800);
  CHECK(vit_config(eva02_large()).hidden == 2730);
  CHECK(vit_config(eva02_base()).hidden == 2048);
  CHECK(vit_config(eva02_at(eva02_small(), 336)).grid_w == 24);
}

TEST_CASE("eva02: what an older file still holds is ignored") {
  Pretrained p = open_pretrained(eva02_folder("plain"));
  for (const char* key : {"mask_token", "lm_head.weight", "rope.freqs_cos",
                          "blocks.0.attn.rope.freqs_sin", "lm_head.a.b"})
    p.weights.tensors[key] = Tensor<std::int64_t>::ones({3});
  CHECK_NOTHROW(load_eva02<float>(p));
  p.weights.tensors["head.weight"] = Tensor<float>::ones({3, 24});
  CHECK(model_parity::refusal([&] { load_eva02<float>(p); }) ==
        "eva02: the weights do not fit the model; 1 unexpected: head.weight");
}

TEST_CASE("eva02: configs and images that are wrong") {
  Pretrained p = open_pretrained(eva02_folder("plain"));
  const auto refused = [&](const char* field, Json value) {
    Json j = Json::object();
    j.set(field, std::move(value));
    p.config.set("model_args", std::move(j));
    return model_parity::refusal([&] { eva02_config(p); });
  };
  CHECK(refused("use_rot_pos_emb", true) ==
        "config.json: model_args: use_rot_pos_emb is not supported; img_size, patch_size, "
        "in_chans, embed_dim, depth, num_heads, qkv_bias, global_pool and ref_feat_shape are");
  CHECK(refused("global_pool", "map") ==
        "config.json: model_args: global_pool \"map\" is not supported; avg and token are");
  CHECK(refused("num_heads", 5) ==
        "config.json: model_args: num_heads 5 does not divide embed_dim 768");
  CHECK(refused("embed_dim", 12 * 6) ==
        "config.json: model_args: num_heads 12 gives heads of 6 channels; the head size must be a "
        "multiple of 4");
  CHECK(refused("img_size", 13) == "config.json: model_args: img_size 13 is below patch_size 14");
  CHECK(refused("img_size", "224") ==
        "config.json: model_args: img_size must be a whole number; it is a string");
  CHECK(refused("ref_feat_shape", [] {
          Json three = Json::array();
          for (int i = 0; i < 3; ++i) three.push(16);
          return three;
        }()) == "config.json: model_args: ref_feat_shape must be one number or two; it has 3");
  p.architecture = "eva02_base_patch16_clip_224";
  CHECK(model_parity::refusal([&] {
          eva02_config(p);
        }).find("\"eva02_base_patch16_clip_224\" is not supported") != std::string::npos);
  const auto model = load_pretrained<float>(eva02_folder("plain"));
  BackboneInput<float> in;
  in.pixels = Tensor<float>::ones({1, 3, 28, 30});
  CHECK(model_parity::refusal([&] { model->check(in); }) ==
        "pixel_values: (1,3,28,30) is no multiple of the patch; the model's patch is 7");
}
