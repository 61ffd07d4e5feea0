#pragma once
// EVA-02 from a timm directory: `architecture` eva02_{tiny,small}_patch14_{224,336} or
// eva02_{base,large}_patch14_{224,448}, as timm.create_model(..., dynamic_img_size=True) makes it.
#include <moraine/models/eva02.hpp>
#include <moraine/recipes/backbone.hpp>
#include <moraine/recipes/model_directory.hpp>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

/// The preset that an architecture names.
inline Eva02Config eva02_preset(const std::string& architecture) {
  struct Row {
    const char* name;
    Eva02Config config;
  };
  for (const Row& r : {Row{"eva02_tiny_patch14_224", eva02_tiny()},
                       Row{"eva02_tiny_patch14_336", eva02_at(eva02_tiny(), 336)},
                       Row{"eva02_small_patch14_224", eva02_small()},
                       Row{"eva02_small_patch14_336", eva02_at(eva02_small(), 336)},
                       Row{"eva02_base_patch14_224", eva02_base()},
                       Row{"eva02_base_patch14_448", eva02_at(eva02_base(), 448)},
                       Row{"eva02_large_patch14_224", eva02_large()},
                       Row{"eva02_large_patch14_448", eva02_at(eva02_large(), 448)}})
    if (architecture == r.name) return r.config;
  fail(ErrorKind::config,
       "config.json: architecture " + quoted(architecture) +
           " is not supported; of EVA-02 eva02_{tiny,small}_patch14_{224,336} and "
           "eva02_{base,large}_patch14_{224,448} are");
}

/// timm's hub config: the architecture's values, what `model_args` overrides, and the top-level
/// num_classes (default 0).
inline Eva02Config eva02_config(const Pretrained& p) {
  Eva02Config c = eva02_preset(p.architecture);
  const ConfigReader top = p.reader(), r = top.object("model_args");
  for (const std::string& field : r.fields()) {
    bool known = false;
    for (const char* k : {"img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads",
                          "qkv_bias", "global_pool", "ref_feat_shape"})
      known |= field == k;
    if (!known)
      r.refuse(field.c_str(),
               "is not supported; img_size, patch_size, in_chans, embed_dim, depth, num_heads, "
               "qkv_bias, global_pool and ref_feat_shape are");
  }
  // One number for both axes, or [height, width].
  const auto pair = [&](const char* field, Index& h, Index& w) {
    const std::vector<Index> v = r.size_or_sizes(field, {h, w});
    if (v.size() != 1 && v.size() != 2)
      r.refuse(field, "must be one number or two; it has " + std::to_string(v.size()));
    h = v.front(), w = v.back();
  };
  pair("img_size", c.img_h, c.img_w);
  pair("ref_feat_shape", c.ref_h, c.ref_w);
  c.patch_size = r.size("patch_size", c.patch_size);
  c.in_chans = r.size("in_chans", c.in_chans);
  c.embed_dim = r.size("embed_dim", c.embed_dim);
  c.depth = r.size("depth", c.depth);
  c.num_heads = r.size("num_heads", c.num_heads);
  c.qkv_bias = r.flag("qkv_bias", c.qkv_bias);
  const std::string pool = r.text("global_pool", "avg");
  if (pool != "avg" && pool != "token")
    r.refuse("global_pool", quoted(pool) + " is not supported; avg and token are");
  c.average_pool = pool == "avg";
  c.num_classes = top.size("num_classes", 0, 0);
  r.check_heads("num_heads", c.num_heads, "embed_dim", c.embed_dim);
  if (c.embed_dim / c.num_heads % 4)
    r.refuse("num_heads", std::to_string(c.num_heads) + " gives heads of " +
                              std::to_string(c.embed_dim / c.num_heads) +
                              " channels; the head size must be a multiple of 4");
  if (c.img_h < c.patch_size || c.img_w < c.patch_size)
    r.refuse("img_size", std::to_string(c.img_h < c.img_w ? c.img_h : c.img_w) +
                             " is below patch_size " + std::to_string(c.patch_size));
  return c;
}

/// The model, loaded and not yet packed.
template <class T = float>
Eva02<T> open_eva02(const Pretrained& p) {
  const Eva02Config c = eva02_config(p);
  check_weight_dtypes(p, eva02_files(c));
  return eva02<T>(c, p.weights.tensors);
}
/// An EVA-02 from its directory; frozen and packed.
template <class T = float>
Eva02<T> load_eva02(const Pretrained& p) {
  Eva02<T> eva = open_eva02<T>(p);
  prepare_mapped<T>(eva, p.weights);
  return eva;
}

template <class T>
struct Eva02Backbone final : Backbone<T> {
  Eva02<T> eva;
  explicit Eva02Backbone(Eva02<T> e) : eva(std::move(e)) {}
  void check(const BackboneInput<T>& in) const override {
    check_pixels(
        in.pixels,
        {.channels = eva.trunk.config.channels, .patch = eva.trunk.config.patch, .multiple = true});
  }
  BackboneOutput<T> forward(const BackboneInput<T>& in) override {
    check(in);
    BackboneOutput<T> out;
    out.hidden_states = hidden_states<T>(eva.trunk, in.pixels);
    out.last_hidden_state = eva.trunk.finish(out.hidden_states.back());  // (B,1+N,D)
    out.pooler_output = eva.pooled(out.last_hidden_state);               // (B,D)
    if (!eva.head.empty()) out.logits = eva.head(out.pooler_output);     // (B,classes)
    return out;
  }
  void visit(Visitor<T>& v) override { eva.visit(v); }
};

template <class T = float>
std::unique_ptr<Backbone<T>> eva02_backbone(const Pretrained& p) {
  return std::make_unique<Eva02Backbone<T>>(open_eva02<T>(p));
}

}  // namespace moraine
