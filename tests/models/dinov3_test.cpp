// DINOv3 against transformers: every folder tests/parity/fixtures/dinov3_*.
#include <moraine/models/dinov3.hpp>

#include "parity.hpp"

using namespace moraine;

TEST_CASE("dinov3: every hidden state of every fixture") {
  model_parity::check_states("dinov3_", 14);
}

TEST_CASE("dinov3: gradients of the pixels and of early weights") {
  const Dinov3Config c = dinov3_config(open_pretrained(fixtures::dir() + "/dinov3_plain").reader());
  model_parity::check_gradients("dinov3_plain", dinov3_files(c), 7,
                                [](const BackboneOutput<float>& o) { return o.last_hidden_state; });
}

TEST_CASE("dinov3: LoRA by path") {
  model_parity::check_lora("dinov3_plain", "blocks.*.attn.qkv", 3);
  model_parity::check_lora("dinov3_gated", "blocks.*.mlp.w12", 2);
}

TEST_CASE("dinov3: the key table is its own inverse, whichever biases there are") {
  for (const char* name :
       {"plain", "gated", "no_bias", "all_bias", "key_bias_alone", "value_bias_alone"}) {
    const std::string folder = std::string("dinov3_") + name;
    const Pretrained p = open_pretrained(fixtures::dir() + "/" + folder);
    ViT<float> vit = load_dinov3<float>(p);
    model_parity::check_keys(folder, vit, dinov3_files(dinov3_config(p.reader())), 1);
  }
}

TEST_CASE(
    "dinov3: presets have the parameters of the published files, and a row of zeros a block") {
  const auto count = [](Dinov3Config c) {
    // Counted on two depths: the largest would take 27 GB.
    const Index depth = c.num_hidden_layers;
    c.num_hidden_layers = 0;
    ViT<float> none(vit_config(c));
    c.num_hidden_layers = 1;
    ViT<float> one(vit_config(c));
    const Index fixed = count_parameters<float>(none), block = count_parameters<float>(one) - fixed;
    const Index zeros = c.query_bias || c.value_bias ? c.hidden_size : 0;
    // mask_token is in the files and not in the trunk.
    return fixed + depth * (block - zeros) + c.hidden_size;
  };
  CHECK(count(dinov3_small()) == 21596544);
  CHECK(count(dinov3_small_plus()) == 28692864);
  CHECK(count(dinov3_base()) == 85660416);
  CHECK(count(dinov3_large()) == 303129600);
  CHECK(count(dinov3_huge_plus()) == 840592640);
  CHECK(count(dinov3_7b()) == 6716035072);
}

TEST_CASE("dinov3: periods rounded to bfloat16, and those of a file, give other numbers") {
  // Five periods a head; with heads of 8 they are 1 and 10, which bfloat16 holds exactly.
  const Pretrained p = open_pretrained(fixtures::dir() + "/dinov3_head20");
  const Tensor<float> x = read_safetensors(fixtures::dir() + "/dinov3_head20/in_wide.safetensors")
                              .tensors.at("pixel_values")
                              .as<float>();
  Dinov3Config c = dinov3_config(p.reader());
  ViT<float> exact = dinov3<float>(c, p.weights.tensors);
  c.rope_periods = RopePeriods::bf16;
  ViT<float> rounded = dinov3<float>(c, p.weights.tensors);
  const double apart = fixtures::distance(rounded(x), exact(x));
  CHECK(apart > 1e-6);
  CHECK(apart < 1e-2);
  // A file that holds them: read with RopePeriods::stored, left over otherwise.
  TensorMap with = p.weights.tensors;
  with["rope_embed.periods"] = rounded.rope_periods;
  c.rope_periods = RopePeriods::stored;
  ViT<float> stored = dinov3<float>(c, with);
  CHECK(stored(x).values() == rounded(x).values());
  c.rope_periods = RopePeriods::exact;
  CHECK(dinov3<float>(c, with)(x).values() == exact(x).values());
  c.rope_periods = RopePeriods::stored;
  CHECK(model_parity::refusal([&] { dinov3<float>(c, p.weights.tensors); }) ==
        "dinov3: the weights do not fit the model; 1 missing: rope_embed.periods");
}

TEST_CASE("dinov3: blocks that are not told where their patches stand refuse") {
  ViT<float> vit = load_dinov3<float>(open_pretrained(fixtures::dir() + "/dinov3_plain"));
  const Tensor<float> x = vit.embed(Tensor<float>::ones({1, 3, 28, 28}));
  CHECK(model_parity::refusal([&] { vit.block(1, x); }) ==
        "vit: this trunk turns queries and keys by where their patches stand; block 1 was told "
        "none -> block(i, x, vit.places(height, width))");
}

TEST_CASE("dinov3: gradient checkpointing gives the same gradients") {
  Tensor<float> grads[2];
  for (bool again : {false, true}) {
    ViT<float> vit = load_dinov3<float>(open_pretrained(fixtures::dir() + "/dinov3_plain"));
    vit.gradient_checkpointing = again;
    Tensor<float> x = Tensor<float>::ones({1, 3, 21, 28});
    for (Index i = 0; i < x.numel(); ++i) x.data()[i] = std::sin(0.3f * static_cast<float>(i));
    x.requires_grad();
    const Tensor<float> y = vit(x);
    backward(sum(mul(y, y)));
    grads[again] = x.grad();
  }
  CHECK(fixtures::distance(grads[1], grads[0]) < 1e-5);
}

TEST_CASE("dinov3: configs that are wrong name the field") {
  const auto refused = [](const char* field, Json value) {
    Json j = Json::object();
    j.set(field, std::move(value));
    return model_parity::refusal([&] { dinov3_config(ConfigReader(j, "config.json")); });
  };
  CHECK(refused("num_attention_heads", 5) ==
        "config.json: num_attention_heads 5 does not divide hidden_size 384");
  CHECK(refused("hidden_size", 36) ==
        "config.json: num_attention_heads 6 gives heads of 6 channels; the head size must be a "
        "multiple of 4");
  CHECK(refused("rope_theta", 0) == "config.json: rope_theta is out of range; 0.0");
  CHECK(refused("rope_theta", "100") == "config.json: rope_theta must be a number; it is a string");
  CHECK(refused("layer_norm_eps", -1) == "config.json: layer_norm_eps is out of range; -1.0");
  CHECK(refused("hidden_act", "mish") ==
        "config.json: hidden_act \"mish\" is not supported -> gelu, quick_gelu, "
        "gelu_pytorch_tanh, silu, relu");
  CHECK(refused("use_gated_mlp", 1) ==
        "config.json: use_gated_mlp must be true or false; it is a number");
  CHECK(refused("num_register_tokens", -1) ==
        "config.json: num_register_tokens is out of range; -1");
}
