#pragma once
// DINOv2 (Oquab et al., 2023), with and without registers: presets, the key table of the Hugging
// Face files, and what they leave out. Facts from transformers' modeling_dinov2.py and
// modeling_dinov2_with_registers.py.
#include <moraine/models/vit_files.hpp>

#include <string>
#include <vector>

namespace moraine MORAINE_API {

/// The fields of a Hugging Face config.json, with the defaults of its class.
struct Dinov2Config {
  bool with_registers = false;
  Index hidden_size = 768, num_hidden_layers = 12, num_attention_heads = 12;
  Index image_size = 224, patch_size = 14, num_channels = 3;
  double mlp_ratio = 4;
  Activation hidden_act = Activation::gelu;
  double layer_norm_eps = 1e-6;
  bool qkv_bias = true, use_swiglu_ffn = false;
  Index num_register_tokens = 4;
};

/// The defaults of Dinov2WithRegistersConfig: patch size 16, not 14.
inline Dinov2Config dinov2_with_registers_defaults() {
  return {.with_registers = true, .patch_size = 16};
}
inline Dinov2Config dinov2_small() {
  return {.hidden_size = 384, .num_attention_heads = 6, .image_size = 518};
}
inline Dinov2Config dinov2_base() { return {.image_size = 518}; }
inline Dinov2Config dinov2_large() {
  return {
      .hidden_size = 1024, .num_hidden_layers = 24, .num_attention_heads = 16, .image_size = 518};
}
inline Dinov2Config dinov2_giant() {
  return {.hidden_size = 1536,
          .num_hidden_layers = 40,
          .num_attention_heads = 24,
          .image_size = 518,
          .use_swiglu_ffn = true};
}

/// The trunk that such a config describes.
inline ViTConfig vit_config(const Dinov2Config& c) {
  Index hidden = static_cast<Index>(static_cast<double>(c.hidden_size) * c.mlp_ratio);
  if (c.use_swiglu_ffn) hidden = (hidden * 2 / 3 + 7) / 8 * 8;
  const Index grid = c.patch_size > 0 ? c.image_size / c.patch_size : 0;
  return {.channels = c.num_channels,
          .patch = c.patch_size,
          .width = c.hidden_size,
          .depth = c.num_hidden_layers,
          .heads = c.num_attention_heads,
          .hidden = hidden,
          .grid_h = grid,
          .grid_w = grid,
          .class_token = true,
          .registers = c.with_registers ? c.num_register_tokens : 0,
          .position_resize =
              c.with_registers ? PositionResize::bicubic_antialias : PositionResize::bicubic,
          .activation = c.hidden_act,
          .ffn = c.use_swiglu_ffn ? Ffn::swiglu : Ffn::mlp,
          .query_bias = c.qkv_bias,
          .key_bias = c.qkv_bias,
          .value_bias = c.qkv_bias,
          .layer_scale = true,
          .eps = c.layer_norm_eps};
}

/// The key table: where the trunk's parameters stand in a Hugging Face file. Query, key and value
/// are three tensors there, one here.
inline std::vector<std::string> dinov2_keys(const std::string& path) {
  const auto tail = [&](const std::string& head) { return path.substr(head.size()); };
  const auto starts = [&](const char* head) { return path.rfind(head, 0) == 0; };
  if (path == "cls_token") return {"embeddings.cls_token"};
  if (path == "reg_token") return {"embeddings.register_tokens"};
  if (path == "pos_embed") return {"embeddings.position_embeddings"};
  if (starts("patch_embed.proj."))
    return {"embeddings.patch_embeddings.projection." + tail("patch_embed.proj.")};
  if (starts("norm.")) return {"layernorm." + tail("norm.")};
  if (starts("blocks.")) {
    const std::size_t dot = path.find('.', 7);
    const std::string layer = "encoder.layer." + path.substr(7, dot - 7) + '.',
                      rest = path.substr(dot + 1);
    struct Row {
      const char *here, *there;
    };
    for (const Row& r :
         {Row{"attn.proj.", "attention.output.dense."}, Row{"ls1.gamma", "layer_scale1.lambda1"},
          Row{"ls2.gamma", "layer_scale2.lambda1"}, Row{"mlp.w12.", "mlp.weights_in."},
          Row{"mlp.w3.", "mlp.weights_out."}})
      if (rest.rfind(r.here, 0) == 0)
        return {layer + r.there + rest.substr(std::string(r.here).size())};
    if (rest.rfind("attn.qkv.", 0) == 0) {
      const std::string at = layer + "attention.attention.", what = rest.substr(9);
      return {at + "query." + what, at + "key." + what, at + "value." + what};
    }
    return {layer + rest};  // norm1, norm2, mlp.fc1, mlp.fc2
  }
  return {path};
}

/// How to load or save such a file; `prefix` as in a classification checkpoint ("dinov2.").
inline LoadOptions dinov2_files(const std::string& prefix = "") {
  LoadOptions o{
      .ignored = {prefix + "embeddings.mask_token"}, .keys_of = dinov2_keys, .prefix = prefix};
  if (!prefix.empty()) o.ignored.push_back("classifier.*");
  return o;
}

/// Refuses a config whose model would be many times larger than its file.
inline void check_dinov2_size(const Dinov2Config& c, const TensorMap& weights,
                              const std::string& prefix) {
  check_vit_size("dinov2", vit_config(c), weights, dinov2_files(prefix));
}

/// What of a file's keys belongs to the trunk: "" or the prefix of a classification checkpoint.
inline std::string dinov2_prefix(const Dinov2Config& c, const TensorMap& weights) {
  const std::string prefix = c.with_registers ? "dinov2_with_registers." : "dinov2.";
  bool any = false;
  for (const auto& [key, value] : weights) {
    if (key.rfind("classifier.", 0) == 0) continue;
    if (key.rfind(prefix, 0) != 0) return "";
    any = true;
  }
  return any ? prefix : "";
}

/// A trunk from a config and the tensors of its file(s). If every key but classifier.* starts with
/// "dinov2." ("dinov2_with_registers."), as in a classification checkpoint, that prefix is removed
/// and classifier.* ignored.
template <class T = float>
ViT<T> dinov2(const Dinov2Config& c, const TensorMap& weights) {
  const std::string prefix = dinov2_prefix(c, weights);
  LoadOptions files = dinov2_files(prefix);
  // Without registers the class still writes an empty table.
  const std::string empty = prefix + "embeddings.register_tokens";
  const auto at = weights.find(empty);
  if (c.with_registers && c.num_register_tokens == 0 && at != weights.end() &&
      at->second.shape.numel() == 0)
    files.ignored.push_back(empty);
  return load_vit<T>("dinov2", vit_config(c), weights, files);
}

}  // namespace moraine
