#pragma once
// DINOv3 ViT from a Hugging Face directory: model_type dinov3_vit.
#include <moraine/models/dinov3.hpp>
#include <moraine/recipes/backbones/trunk.hpp>
#include <moraine/recipes/model_directory.hpp>

#include <memory>
#include <string>

namespace moraine MORAINE_API {

inline Dinov3Config dinov3_config(const ConfigReader& r) {
  Dinov3Config c;
  c.hidden_size = r.size("hidden_size", c.hidden_size);
  c.intermediate_size = r.size("intermediate_size", c.intermediate_size);
  c.num_hidden_layers = r.size("num_hidden_layers", c.num_hidden_layers);
  c.num_attention_heads = r.size("num_attention_heads", c.num_attention_heads);
  c.patch_size = r.size("patch_size", c.patch_size);
  c.num_channels = r.size("num_channels", c.num_channels);
  c.num_register_tokens = r.size("num_register_tokens", c.num_register_tokens, 0);
  c.hidden_act = r.activation("hidden_act", c.hidden_act);
  c.layer_norm_eps = r.number_from("layer_norm_eps", c.layer_norm_eps, 0);
  c.rope_theta = r.number("rope_theta", c.rope_theta);
  if (!(c.rope_theta > 0)) r.refuse("rope_theta", "is out of range; " + number_text(c.rope_theta));
  c.query_bias = r.flag("query_bias", c.query_bias);
  c.key_bias = r.flag("key_bias", c.key_bias);
  c.value_bias = r.flag("value_bias", c.value_bias);
  c.proj_bias = r.flag("proj_bias", c.proj_bias);
  c.mlp_bias = r.flag("mlp_bias", c.mlp_bias);
  c.use_gated_mlp = r.flag("use_gated_mlp", c.use_gated_mlp);
  r.check_heads("num_attention_heads", c.num_attention_heads, "hidden_size", c.hidden_size);
  const Index head = c.hidden_size / c.num_attention_heads;
  if (head % 4)
    r.refuse("num_attention_heads", std::to_string(c.num_attention_heads) + " gives heads of " +
                                        std::to_string(head) +
                                        " channels; the head size must be a multiple of 4");
  return c;
}

/// The trunk, loaded and not yet packed.
template <class T = float>
ViT<T> open_dinov3(const Pretrained& p) {
  const Dinov3Config c = dinov3_config(p.reader());
  check_weight_dtypes(p, dinov3_files(c));
  return dinov3<T>(c, p.weights.tensors);
}
/// A DINOv3 trunk from its directory; frozen and packed.
template <class T = float>
ViT<T> load_dinov3(const Pretrained& p) {
  ViT<T> vit = open_dinov3<T>(p);
  prepare_mapped<T>(vit, p.weights);
  return vit;
}
template <class T = float>
std::unique_ptr<Backbone<T>> dinov3_backbone(const Pretrained& p) {
  return std::make_unique<TrunkBackbone<T>>(open_dinov3<T>(p));
}

}  // namespace moraine
