#pragma once
// DINOv2 from a Hugging Face directory, with and without registers: model_type dinov2 and
// dinov2_with_registers.
#include <moraine/models/dinov2.hpp>
#include <moraine/recipes/backbones/trunk.hpp>
#include <moraine/recipes/model_directory.hpp>

#include <memory>
#include <string>
#include <utility>

namespace moraine MORAINE_API {

/// The config of a DINOv2 from the fields of its config.json. `with_registers`: by the rules of
/// Dinov2WithRegistersConfig.
inline Dinov2Config read_dinov2_config(const ConfigReader& r, bool with_registers) {
  const Dinov2Config d = with_registers ? dinov2_with_registers_defaults() : Dinov2Config{};
  Dinov2Config c = d;
  c.hidden_size = r.size("hidden_size", d.hidden_size);
  c.num_hidden_layers = r.size("num_hidden_layers", d.num_hidden_layers);
  c.num_attention_heads = r.size("num_attention_heads", d.num_attention_heads);
  c.mlp_ratio = r.number("mlp_ratio", d.mlp_ratio);
  c.image_size = r.size("image_size", d.image_size);
  c.patch_size = r.size("patch_size", d.patch_size);
  c.num_channels = r.size("num_channels", d.num_channels);
  c.hidden_act = r.activation("hidden_act", d.hidden_act);
  c.layer_norm_eps = r.number_from("layer_norm_eps", d.layer_norm_eps, 0);
  c.qkv_bias = r.flag("qkv_bias", d.qkv_bias);
  c.use_swiglu_ffn = r.flag("use_swiglu_ffn", d.use_swiglu_ffn);
  if (with_registers)
    c.num_register_tokens = r.size("num_register_tokens", d.num_register_tokens, 0);
  r.check_heads("num_attention_heads", c.num_attention_heads, "hidden_size", c.hidden_size);
  if (c.image_size < c.patch_size)
    r.refuse("image_size",
             std::to_string(c.image_size) + " is below patch_size " + std::to_string(c.patch_size));
  const double hidden = static_cast<double>(c.hidden_size) * c.mlp_ratio;
  if (!(hidden >= 1 && hidden <= 1 << 28))
    r.refuse("mlp_ratio", "is out of range; " + number_text(c.mlp_ratio));
  return c;
}
/// A Hugging Face config.json of model_type dinov2 or dinov2_with_registers.
inline Dinov2Config dinov2_config(const Json& json, const std::string& file = "config.json") {
  const ConfigReader r(json, file);
  return read_dinov2_config(r, r.text("model_type", "") == "dinov2_with_registers");
}

/// The trunk, loaded and not yet packed.
template <class T = float>
ViT<T> open_dinov2(const Pretrained& p) {
  const Dinov2Config c = dinov2_config(p.config);
  check_weight_dtypes(p, dinov2_files(dinov2_prefix(c, p.weights.tensors)));
  return dinov2<T>(c, p.weights.tensors);
}
/// A DINOv2 trunk, with or without registers, from its directory; frozen and packed.
template <class T = float>
ViT<T> load_dinov2(const Pretrained& p) {
  ViT<T> vit = open_dinov2<T>(p);
  prepare_mapped<T>(vit, p.weights);
  return vit;
}

template <class T = float>
std::unique_ptr<Backbone<T>> dinov2_backbone(const Pretrained& p) {
  return std::make_unique<TrunkBackbone<T>>(open_dinov2<T>(p));
}

}  // namespace moraine
