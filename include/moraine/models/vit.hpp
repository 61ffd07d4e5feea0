#pragma once
// The vision transformer trunk of every family here. A family (models/dinov2.hpp) is a preset of
// ViTConfig, a key table and its pre-processing; what really differs between families is a named
// field of the config.
//
// The trunk opens up, so that a recipe can run its own loop between the blocks:
//
//   const auto places = vit.places(pixels.size(2), pixels.size(3));
//   auto x = vit.embed(pixels);                                  // (B,P+N,D)
//   for (Index i = 0; i < vit.config.depth; ++i) x = vit.block(i, x, places);
//   x = vit.finish(x);
//
// A trunk without rotary embedding has no places: vit.block(i, x) is the same there.
#include <moraine/autograd/checkpoint.hpp>
#include <moraine/nn/block.hpp>
#include <moraine/nn/load.hpp>
#include <moraine/nn/patch_embed.hpp>
#include <moraine/nn/rope.hpp>
#include <moraine/ops/resize.hpp>

#include <cmath>
#include <vector>

namespace moraine MORAINE_API {

/// What is added to patch tokens to tell where they are.
enum class Position : unsigned char {
  learned,  ///< a table, resized when the grid differs from the trained one
  none,     ///< nothing: places are told by rotary embedding alone (DINOv3)
  sincos    ///< fixed 2-D sine/cosine, base 100: sin x, cos x, sin y, cos y, a quarter of D each
};
/// How a learned table is resized (always to size=, in T).
enum class PositionResize : unsigned char { bicubic, bicubic_antialias };

struct ViTConfig {
  Index channels = 3, patch = 14, width = 768, depth = 12, heads = 12, hidden = 3072;
  Index grid_h = 37, grid_w = 37;  ///< the patch grid it was trained with
  bool class_token = true;
  bool patch_bias = true;  ///< of the patch convolution; CLIP has none
  Index registers = 0;     ///< tokens between CLS and patches, without a position
  Position position = Position::learned;
  PositionResize position_resize = PositionResize::bicubic;
  RopeConfig rope = {};   ///< in every block, of queries and keys of patch tokens alone
  bool pre_norm = false;  ///< a norm on all tokens before the first block (CLIP)
  Activation activation = Activation::gelu;
  Ffn ffn = Ffn::mlp;
  Activation gate = Activation::silu;  ///< of Ffn::swiglu
  bool mlp_norm = false;               ///< a norm inside the SwiGLU (EVA-02)
  bool query_bias = true, key_bias = true, value_bias = true, proj_bias = true, mlp_bias = true;
  bool layer_scale = false;
  bool final_norm = true;
  double eps = 1e-6;

  /// Tokens in front of the patches.
  Index prefix() const { return (class_token ? 1 : 0) + registers; }
};

/// The fixed table of Position::sincos for a grid of h x w: (h*w, D), D a multiple of 4.
template <class T>
Tensor<T> sincos_table(Index h, Index w, Index width) {
  if (width % 4)
    fail(ErrorKind::value, "sincos: the width must be a multiple of 4; " + std::to_string(width));
  Tensor<T> t = Tensor<T>::empty({h * w, width});
  const Index q = width / 4;
  for (Index y = 0; y < h; ++y)
    for (Index x = 0; x < w; ++x)
      for (Index i = 0; i < q; ++i) {
        const double f = std::pow(100.0, -static_cast<double>(i) / static_cast<double>(q));
        T* row = t.data() + (y * w + x) * width;
        row[i] = static_cast<T>(std::sin(static_cast<double>(x) * f));
        row[q + i] = static_cast<T>(std::cos(static_cast<double>(x) * f));
        row[2 * q + i] = static_cast<T>(std::sin(static_cast<double>(y) * f));
        row[3 * q + i] = static_cast<T>(std::cos(static_cast<double>(y) * f));
      }
  return t;
}

template <class T>
struct ViT {
  ViTConfig config;
  PatchEmbed<T> patch_embed;
  Tensor<T> cls_token;  ///< (1,1,D)
  Tensor<T> reg_token;  ///< (1,R,D)
  Tensor<T> pos_embed;  ///< (1,1+N0,D), the first row for CLS if there is one
  std::vector<Block<T>> blocks;
  LayerNorm<T> norm_pre;   ///< undefined without ViTConfig::pre_norm
  LayerNorm<T> norm;       ///< undefined without ViTConfig::final_norm
  Tensor<T> rope_periods;  ///< (D/H/4), or undefined; in the file with RopePeriods::stored alone
  /// Keeps only the input of every block for the backward, which then runs the block once more: 1.3
  /// to 1.4 times the time, half the tensors (docs/performance.md). Gradients differ by rounding
  /// where a block's input is read elsewhere too. The ViT must not move between forward and
  /// backward.
  bool gradient_checkpointing = false;

  ViT() = default;
  /// All parameters zero (norms one), to be loaded or initialised.
  explicit ViT(const ViTConfig& c)
      : config(c), patch_embed(c.channels, c.patch, c.width, c.patch_bias) {
    if (c.width < 1 || c.heads < 1 || c.width % c.heads || c.depth < 0 || c.patch < 1)
      fail(ErrorKind::value, "vit: heads must divide the width and sizes be positive; width " +
                                 std::to_string(c.width) + ", heads " + std::to_string(c.heads) +
                                 ", depth " + std::to_string(c.depth) + ", patch " +
                                 std::to_string(c.patch));
    if (c.class_token) cls_token = Tensor<T>::zeros({1, 1, c.width});
    if (c.registers) reg_token = Tensor<T>::zeros({1, c.registers, c.width});
    if (c.position == Position::learned)
      pos_embed = Tensor<T>::zeros({1, (c.class_token ? 1 : 0) + c.grid_h * c.grid_w, c.width});
    if (c.pre_norm) norm_pre = LayerNorm<T>(c.width, c.eps);
    if (c.final_norm) norm = LayerNorm<T>(c.width, c.eps);
    if (c.rope.kind != Rope::none)
      rope_periods = moraine::rope_periods<T>(c.rope, c.width / c.heads);
    const BlockConfig b{
        .width = c.width,
        .heads = c.heads,
        .hidden = c.hidden,
        .activation = c.activation,
        .ffn = c.ffn,
        .gate = c.gate,
        .query_bias = c.query_bias,
        .key_bias = c.key_bias,
        .value_bias = c.value_bias,
        .proj_bias = c.proj_bias,
        .mlp_bias = c.mlp_bias,
        .layer_scale = c.layer_scale,
        .mlp_norm = c.mlp_norm,
        .rope = c.rope.kind == Rope::interleaved ? RopeLayout::interleaved : RopeLayout::half,
        .eps = c.eps};
    for (Index i = 0; i < c.depth; ++i) blocks.emplace_back(b);
  }

  /// Positions of an h x w grid, (1,N,D); `square`: the image, not only the grid, was square.
  Tensor<T> positions(Index h, Index w, bool square) const {
    if (config.position == Position::sincos)
      return reshape(sincos_table<T>(h, w, config.width), {1, h * w, config.width});
    const Index gh = config.grid_h, gw = config.grid_w, first = config.class_token ? 1 : 0;
    const Tensor<T> table = slice(pos_embed, 1, first, first + gh * gw);  // (1,N0,D)
    if (h * w == gh * gw && square) return table;
    const Tensor<T> map =
        permute(reshape(table, {1, gh, gw, config.width}), {0, 3, 1, 2});  // (1,D,gh,gw)
    const Tensor<T> sized =
        resize(map, {.size = {h, w},
                     .mode = Interpolation::bicubic,
                     .antialias = config.position_resize == PositionResize::bicubic_antialias});
    return reshape(permute(sized, {0, 2, 3, 1}), {1, h * w, config.width});  // (1,N,D)
  }

  /// Pixels (B,C,H,W) -> tokens (B,P+N,D): CLS, registers, patches row by row; the input of block
  /// 0.
  Tensor<T> embed(const Tensor<T>& pixels) const {
    Scope scope("embed");
    const Tensor<T> x = patch_embed(pixels);  // (B,N,D)
    const Index b = x.size(0), h = pixels.size(2) / config.patch, w = pixels.size(3) / config.patch;
    std::vector<Tensor<T>> parts;
    if (config.class_token) {
      Tensor<T> cls = cls_token;
      if (config.position == Position::learned) cls = add(cls, slice(pos_embed, 1, 0, 1));
      parts.push_back(expand(cls, {b, 1, config.width}));
    }
    if (config.registers) parts.push_back(expand(reg_token, {b, config.registers, config.width}));
    parts.push_back(config.position == Position::none
                        ? x
                        : add(x, positions(h, w, pixels.size(2) == pixels.size(3))));
    const Tensor<T> all = parts.size() == 1 ? parts[0] : concat(parts, 1);  // (B,P+N,D)
    return config.pre_norm ? norm_pre(all) : all;
  }
  /// What the blocks need to know of where the patches of an image of that size stand, (N,2,D/H);
  /// undefined in a trunk without rotary embedding. Made once for all blocks.
  Tensor<T> places(Index height, Index width) const {
    if (config.rope.kind == Rope::none) return {};
    return rope_table(config.rope, rope_periods, height / config.patch, width / config.patch);
  }
  /// Block i, (B,P+N,D) -> (B,P+N,D).
  Tensor<T> block(Index i, const Tensor<T>& x, const Tensor<T>& places = {}) {
    if (config.rope.kind != Rope::none && !places.defined())
      fail(ErrorKind::value,
           "vit: this trunk turns queries and keys by where their patches stand; "
           "block " +
               std::to_string(i) + " was told none -> block(i, x, vit.places(height, width))");
    Scope scope("blocks", i);
    Block<T>& b = blocks[static_cast<std::size_t>(i)];
    if (!gradient_checkpointing) return b(x, places);
    return checkpoint([&b, places](const Tensor<T>& y) { return b(y, places); }, x);
  }
  /// The final norm; x itself without ViTConfig::final_norm.
  Tensor<T> finish(const Tensor<T>& x) const {
    Scope scope("norm");
    return config.final_norm ? norm(x) : x;
  }
  /// Pixels -> normed tokens.
  Tensor<T> operator()(const Tensor<T>& pixels) {
    Tensor<T> x = embed(pixels);
    const Tensor<T> at = places(pixels.size(2), pixels.size(3));
    for (Index i = 0; i < config.depth; ++i) x = block(i, x, at);
    return finish(x);
  }

  void visit(Visitor<T>& v) {
    v("cls_token", cls_token);
    v("reg_token", reg_token);
    v("pos_embed", pos_embed);
    v("patch_embed", patch_embed);
    if (config.rope.periods == RopePeriods::stored) v.fixed("rope_embed.periods", rope_periods);
    v("norm_pre", norm_pre);
    v("blocks", blocks);
    v("norm", norm);
  }
};

}  // namespace moraine
