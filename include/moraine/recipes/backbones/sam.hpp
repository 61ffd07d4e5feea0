#pragma once
// SAM's image encoder from a Hugging Face directory: model_type sam_vision_model, and sam, of which
// the vision encoder alone is taken.
#include <moraine/models/sam.hpp>
#include <moraine/recipes/backbone.hpp>
#include <moraine/recipes/model_directory.hpp>

#include <memory>
#include <string>
#include <utility>

namespace moraine MORAINE_API {

/// The config of an encoder from the fields of SamVisionConfig.
inline SamConfig read_sam_config(const ConfigReader& r) {
  const SamConfig d;
  SamConfig c;
  c.hidden_size = r.size("hidden_size", d.hidden_size);
  c.output_channels = r.size("output_channels", d.output_channels);
  c.num_hidden_layers = r.size("num_hidden_layers", d.num_hidden_layers);
  c.num_attention_heads = r.size("num_attention_heads", d.num_attention_heads);
  c.num_channels = r.size("num_channels", d.num_channels);
  c.image_size = r.size("image_size", d.image_size);
  c.patch_size = r.size("patch_size", d.patch_size);
  c.hidden_act = r.activation("hidden_act", d.hidden_act);
  c.layer_norm_eps = r.number_from("layer_norm_eps", d.layer_norm_eps, 0);
  c.qkv_bias = r.flag("qkv_bias", d.qkv_bias);
  c.use_abs_pos = r.flag("use_abs_pos", d.use_abs_pos);
  c.use_rel_pos = r.flag("use_rel_pos", d.use_rel_pos);
  c.window_size = r.size("window_size", d.window_size, 0);
  c.global_attn_indexes = r.sizes("global_attn_indexes", d.global_attn_indexes);
  const double ratio = r.number("mlp_ratio", 4),
               hidden = static_cast<double>(c.hidden_size) * ratio;
  if (!r.has("mlp_dim") && !(hidden >= 1 && hidden <= 1 << 24))
    r.refuse("mlp_ratio", "is out of range; " + number_text(ratio));
  c.mlp_dim = r.size("mlp_dim", static_cast<Index>(hidden >= 1 && hidden <= 1 << 24 ? hidden : 0));
  r.check_heads("num_attention_heads", c.num_attention_heads, "hidden_size", c.hidden_size);
  if (c.image_size < c.patch_size)
    r.refuse("image_size",
             std::to_string(c.image_size) + " is below patch_size " + std::to_string(c.patch_size));
  // A window is padded to its full size: a thousand tokens a side are a million to attend to.
  if (c.window_size > 1024)
    r.refuse("window_size",
             "is out of range; " + std::to_string(c.window_size) + " of 1024 tokens");
  return c;
}
/// A Hugging Face config.json of model_type sam_vision_model or sam.
inline SamConfig sam_config(const ConfigReader& r) {
  return read_sam_config(r.text("model_type", "") == "sam" ? r.object("vision_config") : r);
}

/// The encoder, loaded and not yet packed.
template <class T = float>
SamEncoder<T> open_sam(const Pretrained& p) {
  const SamConfig c = sam_config(p.reader());
  check_weight_dtypes(p, sam_files());
  return sam<T>(c, p.weights.tensors);
}
/// A SAM image encoder from its directory; frozen and packed.
template <class T = float>
SamEncoder<T> load_sam(const Pretrained& p) {
  SamEncoder<T> encoder = open_sam<T>(p);
  prepare_mapped<T>(encoder, p.weights);
  return encoder;
}

/// Images of exactly the trained size, as the reference class takes them. (SamEncoder itself takes
/// others.)
template <class T>
struct SamBackbone final : Backbone<T> {
  SamEncoder<T> sam;
  explicit SamBackbone(SamEncoder<T> s) : sam(std::move(s)) {}
  void check(const BackboneInput<T>& in) const override {
    const SamConfig& c = sam.config;
    check_pixels(in.pixels,
                 {.channels = c.num_channels, .patch = c.patch_size, .exactly = c.image_size});
  }
  BackboneOutput<T> forward(const BackboneInput<T>& in) override {
    check(in);
    BackboneOutput<T> out;
    out.hidden_states.push_back(sam.embed(in.pixels));  // (B,h,w,D)
    for (Index i = 0; i < sam.config.num_hidden_layers; ++i)
      out.hidden_states.push_back(sam.block(i, out.hidden_states.back()));
    out.last_hidden_state = sam.finish(out.hidden_states.back());  // (B,C,h,w)
    return out;
  }
  void visit(Visitor<T>& v) override { sam.visit(v); }
};

template <class T = float>
std::unique_ptr<Backbone<T>> sam_backbone(const Pretrained& p) {
  return std::make_unique<SamBackbone<T>>(open_sam<T>(p));
}

}  // namespace moraine
