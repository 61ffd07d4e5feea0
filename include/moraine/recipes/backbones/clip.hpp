#pragma once
// CLIP's vision tower from a Hugging Face directory: model_type clip_vision_model, or clip, whose
// text tower is not looked at.
#include <moraine/models/clip.hpp>
#include <moraine/recipes/backbone.hpp>
#include <moraine/recipes/model_directory.hpp>

#include <memory>
#include <string>
#include <utility>

namespace moraine MORAINE_API {

inline ClipVisionConfig clip_vision_config(const ConfigReader& r) {
  ClipVisionConfig c;
  c.hidden_size = r.size("hidden_size", c.hidden_size);
  c.intermediate_size = r.size("intermediate_size", c.intermediate_size);
  c.num_hidden_layers = r.size("num_hidden_layers", c.num_hidden_layers);
  c.num_attention_heads = r.size("num_attention_heads", c.num_attention_heads);
  c.num_channels = r.size("num_channels", c.num_channels);
  c.image_size = r.size("image_size", c.image_size);
  c.patch_size = r.size("patch_size", c.patch_size);
  c.hidden_act = r.activation("hidden_act", c.hidden_act);
  c.layer_norm_eps = r.number_from("layer_norm_eps", c.layer_norm_eps, 0);
  r.check_heads("num_attention_heads", c.num_attention_heads, "hidden_size", c.hidden_size);
  if (c.image_size < c.patch_size)
    r.refuse("image_size",
             std::to_string(c.image_size) + " is below patch_size " + std::to_string(c.patch_size));
  return c;
}

/// The tower, loaded and not yet packed.
template <class T = float>
ClipVision<T> open_clip_vision(const Pretrained& p) {
  const ConfigReader r = p.reader();
  const ClipVisionConfig c =
      clip_vision_config(p.model_type == "clip" ? r.object("vision_config") : r);
  check_weight_dtypes(p, clip_files(clip_prefix(p.weights.tensors)));
  return clip_vision<T>(c, p.weights.tensors);
}
/// CLIP's vision tower from its directory; frozen and packed.
template <class T = float>
ClipVision<T> load_clip_vision(const Pretrained& p) {
  ClipVision<T> clip = open_clip_vision<T>(p);
  prepare_mapped<T>(clip, p.weights);
  return clip;
}

template <class T>
struct ClipBackbone final : Backbone<T> {
  ClipVision<T> clip;
  explicit ClipBackbone(ClipVision<T> c) : clip(std::move(c)) {}
  void check(const BackboneInput<T>& in) const override {
    check_pixels(in.pixels,
                 {.channels = clip.trunk.config.channels, .patch = clip.trunk.config.patch});
  }
  BackboneOutput<T> forward(const BackboneInput<T>& in) override {
    check(in);
    BackboneOutput<T> out;
    out.hidden_states = hidden_states<T>(clip.trunk, in.pixels);
    out.last_hidden_state = out.hidden_states.back();        // (B,1+N,D), not normed
    out.pooler_output = clip.pooled(out.last_hidden_state);  // (B,D)
    if (!clip.visual_projection.empty())
      out.image_embeds = clip.visual_projection(out.pooler_output);  // (B,P)
    return out;
  }
  void visit(Visitor<T>& v) override { clip.visit(v); }
};

template <class T = float>
std::unique_ptr<Backbone<T>> clip_backbone(const Pretrained& p) {
  return std::make_unique<ClipBackbone<T>>(open_clip_vision<T>(p));
}

}  // namespace moraine
