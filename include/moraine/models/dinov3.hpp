#pragma once
// DINOv3 ViT (Siméoni et al., 2025): presets and the key table of the Hugging Face files. Facts
// from transformers' modeling_dinov3_vit.py.
//
// Places are told by rotary embedding alone. The keys have no bias. In the gated MLP `up_proj` is
// the value branch, in the plain one it is the first layer.
#include <moraine/models/vit_files.hpp>

#include <string>
#include <vector>

namespace moraine MORAINE_API {

/// The fields of a Hugging Face config.json, with the defaults of its class (which are not those of
/// the released models: no registers).
struct Dinov3Config {
  Index hidden_size = 384, intermediate_size = 1536;
  Index num_hidden_layers = 12, num_attention_heads = 6;
  Index patch_size = 16, num_channels = 3, num_register_tokens = 0;
  Activation hidden_act = Activation::gelu;  ///< of the gate where the MLP is gated
  double layer_norm_eps = 1e-5, rope_theta = 100;
  bool query_bias = true, key_bias = false, value_bias = true, proj_bias = true, mlp_bias = true;
  bool use_gated_mlp = false;
  /// exact: transformers and timm. bf16: what Meta's files hold and its code runs.
  RopePeriods rope_periods = RopePeriods::exact;
};

inline Dinov3Config dinov3_small() { return {.num_register_tokens = 4}; }
inline Dinov3Config dinov3_small_plus() {
  return {.num_register_tokens = 4, .hidden_act = Activation::silu, .use_gated_mlp = true};
}
inline Dinov3Config dinov3_base() {
  return {.hidden_size = 768,
          .intermediate_size = 3072,
          .num_attention_heads = 12,
          .num_register_tokens = 4};
}
inline Dinov3Config dinov3_large() {
  return {.hidden_size = 1024,
          .intermediate_size = 4096,
          .num_hidden_layers = 24,
          .num_attention_heads = 16,
          .num_register_tokens = 4};
}
inline Dinov3Config dinov3_huge_plus() {
  return {.hidden_size = 1280,
          .intermediate_size = 5120,
          .num_hidden_layers = 32,
          .num_attention_heads = 20,
          .num_register_tokens = 4,
          .hidden_act = Activation::silu,
          .use_gated_mlp = true};
}
inline Dinov3Config dinov3_7b() {
  return {.hidden_size = 4096,
          .intermediate_size = 8192,
          .num_hidden_layers = 40,
          .num_attention_heads = 32,
          .num_register_tokens = 4,
          .hidden_act = Activation::silu,
          .query_bias = false,
          .value_bias = false,
          .use_gated_mlp = true};
}

/// The trunk that such a config describes. grid: of no matter, there is no table.
inline ViTConfig vit_config(const Dinov3Config& c) {
  return {.channels = c.num_channels,
          .patch = c.patch_size,
          .width = c.hidden_size,
          .depth = c.num_hidden_layers,
          .heads = c.num_attention_heads,
          .hidden = c.intermediate_size,
          .grid_h = 0,
          .grid_w = 0,
          .class_token = true,
          .registers = c.num_register_tokens,
          .position = Position::none,
          .rope = {.kind = Rope::half, .periods = c.rope_periods, .base = c.rope_theta},
          .activation = c.hidden_act,
          .ffn = c.use_gated_mlp ? Ffn::swiglu : Ffn::mlp,
          .gate = c.hidden_act,
          .query_bias = c.query_bias,
          .key_bias = c.key_bias,
          .value_bias = c.value_bias,
          .proj_bias = c.proj_bias,
          .mlp_bias = c.mlp_bias,
          .layer_scale = true,
          .eps = c.layer_norm_eps};
}

/// The key table, and what else such a file may hold. Query, key and value are three tensors there,
/// gate and value of the gated MLP two.
inline LoadOptions dinov3_files(const Dinov3Config& c) {
  const std::string qkv = "blocks.*.attn.qkv.", at = "layer.*.attention.", mlp = "layer.*.mlp.";
  LoadOptions o{.ignored = {"embeddings.mask_token"}};
  o.table = {{"cls_token", {"embeddings.cls_token"}},
             {"reg_token", {"embeddings.register_tokens"}},
             {"patch_embed.proj.*", {"embeddings.patch_embeddings.*"}},
             {qkv + "weight", {at + "q_proj.weight", at + "k_proj.weight", at + "v_proj.weight"}},
             {qkv + "bias",
              {c.query_bias ? at + "q_proj.bias" : "", c.key_bias ? at + "k_proj.bias" : "",
               c.value_bias ? at + "v_proj.bias" : ""}},
             {"blocks.*.ls1.gamma", {"layer.*.layer_scale1.lambda1"}},
             {"blocks.*.ls2.gamma", {"layer.*.layer_scale2.lambda1"}}};
  for (const std::string end : {"weight", "bias"}) {
    o.table.push_back({"blocks.*.attn.proj." + end, {at + "o_proj." + end}});
    o.table.push_back({"blocks.*.mlp.fc1." + end, {mlp + "up_proj." + end}});
    o.table.push_back({"blocks.*.mlp.fc2." + end, {mlp + "down_proj." + end}});
    o.table.push_back(
        {"blocks.*.mlp.w12." + end, {mlp + "gate_proj." + end, mlp + "up_proj." + end}});
    o.table.push_back({"blocks.*.mlp.w3." + end, {mlp + "down_proj." + end}});
  }
  o.table.push_back({"blocks.*", {"layer.*"}});  // norm1, norm2
  return o;
}

/// A trunk from a config and the tensors of its file(s). (Meta's and timm's names:
/// recipes/convert.hpp.)
template <class T = float>
ViT<T> dinov3(const Dinov3Config& c, const TensorMap& weights) {
  LoadOptions files = dinov3_files(c);
  // Without registers the class still writes an empty table.
  const char* empty = "embeddings.register_tokens";
  const auto at = weights.find(empty);
  if (c.num_register_tokens == 0 && at != weights.end() && at->second.shape.numel() == 0)
    files.ignored.push_back(empty);
  if (c.rope_periods != RopePeriods::stored) files.ignored.push_back("rope_embed.periods");
  return load_vit<T>("dinov3", vit_config(c), weights, files);
}

}  // namespace moraine
