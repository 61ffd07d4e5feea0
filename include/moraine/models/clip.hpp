#pragma once
// The vision tower of CLIP (Radford et al., 2021): presets and the key table of the Hugging
// Face files. Facts
// from transformers' modeling_clip.py.
//
// A norm on all tokens before the blocks ("pre_layrnorm" in the files), no bias in the patch
// convolution, QuickGELU; the last norm is for the CLS token alone, whose projection, where the
// file has one, is the image's embedding.
#include <moraine/models/vit_files.hpp>

#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

/// The fields of a Hugging Face config.json, with the defaults of its class.
struct ClipVisionConfig {
  Index hidden_size = 768, intermediate_size = 3072;
  Index num_hidden_layers = 12, num_attention_heads = 12;
  Index num_channels = 3, image_size = 224, patch_size = 32;
  Activation hidden_act = Activation::quick_gelu;
  double layer_norm_eps = 1e-5;
};

inline ClipVisionConfig clip_vit_b32() { return {}; }
inline ClipVisionConfig clip_vit_b16() { return {.patch_size = 16}; }
inline ClipVisionConfig clip_vit_l14() {
  return {.hidden_size = 1024,
          .intermediate_size = 4096,
          .num_hidden_layers = 24,
          .num_attention_heads = 16,
          .patch_size = 14};
}
inline ClipVisionConfig clip_vit_l14_336() {
  ClipVisionConfig c = clip_vit_l14();
  c.image_size = 336;
  return c;
}

/// The trunk that such a config describes.
inline ViTConfig vit_config(const ClipVisionConfig& c) {
  const Index grid = c.patch_size > 0 ? c.image_size / c.patch_size : 0;
  return {.channels = c.num_channels,
          .patch = c.patch_size,
          .width = c.hidden_size,
          .depth = c.num_hidden_layers,
          .heads = c.num_attention_heads,
          .hidden = c.intermediate_size,
          .grid_h = grid,
          .grid_w = grid,
          .class_token = true,
          .patch_bias = false,
          .pre_norm = true,
          .activation = c.hidden_act,
          .eps = c.layer_norm_eps};
}

/// The trunk, whose `norm` is for CLS alone, and the projection of that.
template <class T = float>
struct ClipVision {
  ViT<T> trunk;
  Slot<T> visual_projection;  ///< (D) -> (P), or empty

  /// The CLS token of the last block's output x (B,N,D), normed: (B,D), `pooler_output`.
  Tensor<T> pooled(const Tensor<T>& x) const {
    return trunk.finish(reshape(slice(x, 1, 0, 1), {x.size(0), x.size(2)}));  // (B,D)
  }
  void visit(Visitor<T>& v) {
    trunk.visit(v);
    if (!visual_projection.empty()) v("visual_projection", visual_projection);
  }
};

/// Hugging Face names; `tower`: "vision_model." or "" in front of the trunk's.
inline LoadOptions clip_files(const std::string& tower) {
  const std::string layer = tower + "encoder.layers.*.", at = layer + "self_attn.";
  LoadOptions o{
      .ignored = {"**position_ids", "text_model.**", "text_projection.weight", "logit_scale"}};
  o.table = {{"cls_token", {tower + "embeddings.class_embedding"}, 2},
             {"pos_embed", {tower + "embeddings.position_embedding.weight"}, 1},
             {"patch_embed.proj.weight", {tower + "embeddings.patch_embedding.weight"}},
             {"norm_pre.*", {tower + "pre_layrnorm.*"}},
             {"norm.*", {tower + "post_layernorm.*"}}};
  for (const std::string end : {"weight", "bias"}) {
    const std::string block = "blocks.*.";
    o.table.push_back({block + "attn.qkv." + end,
                       {at + "q_proj." + end, at + "k_proj." + end, at + "v_proj." + end}});
    o.table.push_back({block + "attn.proj." + end, {at + "out_proj." + end}});
    o.table.push_back({block + "norm1." + end, {layer + "layer_norm1." + end}});
    o.table.push_back({block + "norm2." + end, {layer + "layer_norm2." + end}});
  }
  o.table.push_back({"blocks.*", {tower + "encoder.layers.*"}});  // mlp.fc1, mlp.fc2
  return o;
}

/// In front of the trunk's keys: "vision_model.", or "" as transformers 5 saves a vision model
/// alone.
inline std::string clip_prefix(const TensorMap& weights) {
  for (const auto& [key, t] : weights)
    if (key.rfind("vision_model.", 0) == 0) return "vision_model.";
  return "";
}

/// The tower from a config and the tensors of its file(s): a vision model with or without prefix,
/// or a full CLIP, whose text tower is not looked at. The projection is as wide as that of the
/// file. (OpenAI's and timm's names: recipes/convert.hpp.)
template <class T = float>
ClipVision<T> clip_vision(const ClipVisionConfig& c, const TensorMap& weights) {
  LoadOptions files = clip_files(clip_prefix(weights));
  files.what = "clip";
  files.may_share = true;
  check_vit_size("clip", vit_config(c), weights, files);
  ClipVision<T> clip{ViT<T>(vit_config(c)), {}};
  const auto at = weights.find("visual_projection.weight");
  if (at != weights.end()) {
    const Index wide = at->second.shape.rank > 0 ? at->second.shape[0] : 1;
    clip.visual_projection = linear_slot<T>(c.hidden_size, wide, false);
  }
  load<T>(clip, weights, files);
  return clip;
}

}  // namespace moraine
