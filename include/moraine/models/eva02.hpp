#pragma once
// EVA-02 (Fang et al., 2023) as timm has it: presets, the key table, and the pooled outputs. Facts
// from timm's eva.py.
//
// Places are told twice: by a learned table and by rotary embedding (the interleaved layout). Base
// and large keep q, k, v and the two halves of the SwiGLU apart and have a norm inside the latter;
// tiny and small fuse all of these and have no such norm.
#include <moraine/models/vit_files.hpp>
#include <moraine/ops/reduce.hpp>

#include <string>
#include <vector>

namespace moraine MORAINE_API {

/// What timm's class takes, with the values of eva02_base_patch14_224.
struct Eva02Config {
  Index img_h = 224, img_w = 224, patch_size = 14, in_chans = 3;
  Index embed_dim = 768, depth = 12, num_heads = 12;
  Index ref_h = 16, ref_w = 16;  ///< the grid whose angles other grids span
  Index num_classes = 0;
  bool qkv_bias = true;      ///< of q and v; k never has one
  bool fused = false;        ///< tiny, small: one qkv, one fc1, no norm in the SwiGLU
  bool average_pool = true;  ///< global_pool "avg": fc_norm(mean of patches); else "token"
};

inline Eva02Config eva02_tiny() { return {.embed_dim = 192, .num_heads = 3, .fused = true}; }
inline Eva02Config eva02_small() { return {.embed_dim = 384, .num_heads = 6, .fused = true}; }
inline Eva02Config eva02_base() { return {}; }
inline Eva02Config eva02_large() { return {.embed_dim = 1024, .depth = 24, .num_heads = 16}; }
/// The same for images of another size (336, 448).
inline Eva02Config eva02_at(Eva02Config c, Index size) {
  c.img_h = c.img_w = size;
  return c;
}

/// The trunk that such a config describes; it has a final norm where CLS is pooled.
inline ViTConfig vit_config(const Eva02Config& c) {
  const auto grid = [&](Index size) { return c.patch_size > 0 ? size / c.patch_size : 0; };
  return {.channels = c.in_chans,
          .patch = c.patch_size,
          .width = c.embed_dim,
          .depth = c.depth,
          .heads = c.num_heads,
          .hidden = static_cast<Index>(static_cast<double>(c.embed_dim) * (4.0 * 2 / 3)),
          .grid_h = grid(c.img_h),
          .grid_w = grid(c.img_w),
          .class_token = true,
          .position_resize = PositionResize::bicubic_antialias,
          .rope = {.kind = Rope::interleaved,
                   .coordinate = RopeCoordinate::index,
                   .base = 10000,
                   .reference_h = c.ref_h,
                   .reference_w = c.ref_w},
          .ffn = Ffn::swiglu,
          .mlp_norm = !c.fused,
          .query_bias = c.qkv_bias,
          .key_bias = false,
          .value_bias = c.qkv_bias,
          .final_norm = !c.average_pool};
}

template <class T = float>
struct Eva02 {
  ViT<T> trunk;
  LayerNorm<T> fc_norm;  ///< undefined where CLS is pooled
  Slot<T> head;          ///< (D) -> (classes), or empty

  Eva02() = default;
  explicit Eva02(const Eva02Config& c) : trunk(vit_config(c)) {
    if (c.average_pool) fc_norm = LayerNorm<T>(c.embed_dim, trunk.config.eps);
    if (c.num_classes) head = linear_slot<T>(c.embed_dim, c.num_classes, true);
  }
  /// The pooled features (B,D) of finished tokens (B,1+N,D).
  Tensor<T> pooled(const Tensor<T>& x) const {
    if (!fc_norm.weight.defined())
      return reshape(slice(x, 1, 0, 1), {x.size(0), x.size(2)});     // (B,D)
    return fc_norm(mean(slice(x, 1, 1, x.size(1)), {.axes = {1}}));  // (B,D)
  }
  void visit(Visitor<T>& v) {
    trunk.visit(v);
    v("fc_norm", fc_norm);
    if (!head.empty()) v("head", head);
  }
};

/// The key table, and what else such a file may hold.
inline LoadOptions eva02_files(const Eva02Config& c) {
  const std::string at = "blocks.*.attn.", mlp = "blocks.*.mlp.";
  LoadOptions o{.ignored = {"mask_token", "lm_head.**", "**rope**"}, .what = "eva02"};
  const char* end[] = {"weight", "bias"};
  if (c.fused) {
    o.table = {{at + "qkv.bias", {at + "q_bias", "", at + "v_bias"}}};
    for (const char* e : end) o.table.push_back({mlp + "w12." + e, {mlp + "fc1." + e}});
  } else {
    o.table = {
        {at + "qkv.weight", {at + "q_proj.weight", at + "k_proj.weight", at + "v_proj.weight"}},
        {at + "qkv.bias", {at + "q_proj.bias", "", at + "v_proj.bias"}}};
    for (const char* e : end)
      o.table.push_back({mlp + "w12." + e, {mlp + "fc1_g." + e, mlp + "fc1_x." + e}});
  }
  for (const char* e : end) o.table.push_back({mlp + "w3." + e, {mlp + "fc2." + e}});
  return o;
}

/// A model from a config and the tensors of its file(s).
template <class T = float>
Eva02<T> eva02(const Eva02Config& c, const TensorMap& weights) {
  LoadOptions files = eva02_files(c);
  files.may_share = true;
  check_vit_size("eva02", vit_config(c), weights, files);
  check_model_size("eva02", static_cast<double>(c.num_classes) * static_cast<double>(c.embed_dim),
                   weights, {{"head.weight", {c.num_classes, c.embed_dim}}});
  Eva02<T> eva(c);
  load<T>(eva, weights, files);
  return eva;
}

}  // namespace moraine
