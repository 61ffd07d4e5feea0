#pragma once
// The image encoder of Segment Anything (Kirillov et al., 2023): a ViT without CLS whose blocks
// attend within windows of 14 x 14 tokens, four of them over the whole map, with decomposed
// relative positions, and a neck of two convolutions. Presets, the key table of the Hugging Face
// files, the model. Facts from transformers' modeling_sam.py; other image sizes than the trained
// one by the rules of its ancestors: the position table bicubic (as DINOv2's), the relative tables
// linear (MViTv2), both align_corners false.
//
// The trunk opens up like models/vit.hpp, with maps (B,h,w,D) for tokens:
//
//   auto x = sam.embed(pixels);                                   // (B,h,w,D)
//   for (Index i = 0; i < sam.config.num_hidden_layers; ++i) x = sam.block(i, x);
//   auto features = sam.finish(x);                                // (B,256,h,w)
#include <moraine/autograd/checkpoint.hpp>
#include <moraine/nn/linear.hpp>
#include <moraine/nn/load.hpp>
#include <moraine/nn/model_size.hpp>
#include <moraine/nn/norm.hpp>
#include <moraine/nn/observe.hpp>
#include <moraine/nn/patch_embed.hpp>
#include <moraine/ops/attention.hpp>
#include <moraine/ops/conv.hpp>
#include <moraine/ops/relative_position.hpp>
#include <moraine/ops/resize.hpp>

#include <string>
#include <vector>

namespace moraine MORAINE_API {

/// The fields of a Hugging Face vision config, with the defaults of SamVisionConfig.
struct SamConfig {
  Index hidden_size = 768, output_channels = 256, num_hidden_layers = 12, num_attention_heads = 12;
  Index num_channels = 3, image_size = 1024, patch_size = 16;
  Activation hidden_act = Activation::gelu;
  double layer_norm_eps = 1e-6;  ///< of the blocks; the neck's is always 1e-6
  bool qkv_bias = true, use_abs_pos = true, use_rel_pos = true;
  Index mlp_dim = 3072;
  Index window_size = 14;  ///< 0: every block attends to the whole map
  std::vector<Index> global_attn_indexes = {2, 5, 8, 11};

  Index grid() const { return image_size / patch_size; }  ///< tokens of a side, as trained
  /// Side of the windows of block i; 0: none.
  Index window(Index i) const {
    for (Index g : global_attn_indexes)
      if (g == i) return 0;
    return window_size;
  }
};

inline SamConfig sam_base() { return {}; }
inline SamConfig sam_large() {
  return {.hidden_size = 1024,
          .num_hidden_layers = 24,
          .num_attention_heads = 16,
          .mlp_dim = 4096,
          .global_attn_indexes = {5, 11, 17, 23}};
}
inline SamConfig sam_huge() {
  return {.hidden_size = 1280,
          .num_hidden_layers = 32,
          .num_attention_heads = 16,
          .mlp_dim = 5120,
          .global_attn_indexes = {7, 15, 23, 31}};
}

/// Which token of a map of h x w stands where when it is cut into windows of size x size, row by
/// row, padded at the bottom and right.
struct WindowPlaces {
  Index windows = 0;           ///< of one map
  bool padded = false;         ///< some places hold no token
  Tensor<std::int64_t> token;  ///< (windows * size^2): of each place; h*w where there is none
  Tensor<std::int64_t> place;  ///< (h*w): of each token

  WindowPlaces(Index h, Index w, Index size) {
    const Index rows = (h + size - 1) / size, columns = (w + size - 1) / size;
    windows = rows * columns;
    padded = rows * size != h || columns * size != w;
    token = Tensor<std::int64_t>::empty({windows * size * size});
    place = Tensor<std::int64_t>::empty({h * w});
    for (Index i = 0; i < token.numel(); ++i) {
      const Index window = i / (size * size), y = window / columns * size + i / size % size,
                  x = window % columns * size + i % size;
      const bool inside = y < h && x < w;
      token.data()[i] = inside ? y * w + x : h * w;
      if (inside) place.data()[y * w + x] = i;
    }
  }
};

/// A table of relative positions (n,D) for a side of `side` tokens: (2*side-1,D), by linear
/// interpolation; itself where it fits.
template <class T>
Tensor<T> relative_table(const Tensor<T>& t, Index side) {
  const Index n = t.size(0), d = t.size(1), wanted = 2 * side - 1;
  if (n == wanted) return t;
  const Tensor<T> line = reshape(transpose(t), {1, d, n, 1});                   // (1,D,n,1)
  return transpose(reshape(resize(line, {.size = {wanted, 1}}), {d, wanted}));  // (2*side-1,D)
}

/// Self-attention over a map, or within its windows. Places of a window beyond the map take part
/// with a token of zeros (whose query, key and value are the bias), as in the reference; but such a
/// token is projected once an image, and no place beyond the map is projected back.
template <class T>
struct SamAttention {
  Slot<T> qkv;                     ///< (C) -> (3C)
  Slot<T> proj;                    ///< (C) -> (C)
  Tensor<T> rel_pos_h, rel_pos_w;  ///< (2S-1,D), S the side of the window or the trained grid
  Index heads = 1, window = 0;
  Product product = Product::fp32;  ///< of scores and values; qkv and proj have their own

  SamAttention() = default;
  /// `window` 0: over the whole map, which has `grid` tokens a side as trained.
  SamAttention(Index width, Index h, Index window_, Index grid, bool qkv_bias, bool relative)
      : qkv(linear_slot<T>(width, 3 * width, qkv_bias)),
        proj(linear_slot<T>(width, width, true)),
        heads(h),
        window(window_) {
    const Index side = window ? window : grid;
    if (relative) rel_pos_h = Tensor<T>::zeros({2 * side - 1, width / heads});
    if (relative) rel_pos_w = Tensor<T>::zeros({2 * side - 1, width / heads});
  }

  /// x (B,h,w,C) -> (B,h,w,C); `o` ends the output projection (residual). The slots see tokens
  /// (B,N,C), qkv one more of zeros where windows reach beyond the map.
  Tensor<T> operator()(const Tensor<T>& x, const LinearOptions<T>& o = {}) {
    const Index b = x.size(0), h = x.size(1), w = x.size(2), c = x.size(3), s = window;
    Tensor<T> t = reshape(x, {b, h * w, c});  // (B,N,C)
    if (!s) {
      t = attend(qkv(t), {h, w});  // (B,N,C)
    } else {
      const WindowPlaces at(h, w, s);
      if (at.padded) t = concat<T>({t, Tensor<T>::zeros({b, 1, c})}, 1);      // (B,N+1,C)
      t = index_select(qkv(t), at.token, 1);                                  // (B,windows*S*S,3C)
      t = attend(reshape(t, {b * at.windows, s * s, 3 * c}), {s, s});         // (B*windows,S*S,C)
      t = index_select(reshape(t, {b, at.windows * s * s, c}), at.place, 1);  // (B,N,C)
    }
    return proj(reshape(t, x.shape()), o);  // (B,h,w,C)
  }
  void visit(Visitor<T>& v) {
    v("qkv", qkv);
    v("proj", proj);
    v("rel_pos_h", rel_pos_h);
    v("rel_pos_w", rel_pos_w);
    v.product(product);
  }

 private:
  /// Maps of tokens (B,N,3C) -> (B,N,C).
  Tensor<T> attend(const Tensor<T>& all, Size2 map) const {
    AttentionOptions<T> o{.product = product};
    if (rel_pos_h.defined()) {
      o.rel_h = relative_position(all, heads, relative_table(rel_pos_h, map.h), map, MapAxis::rows);
      o.rel_w =
          relative_position(all, heads, relative_table(rel_pos_w, map.w), map, MapAxis::columns);
    }
    if (observed("weights")) observe("weights", self_attention_weights(all, heads, o));
    return self_attention(all, heads, o);
  }
};

template <class T>
struct SamMlp {
  Slot<T> lin1, lin2;
  Activation activation = Activation::gelu;

  SamMlp() = default;
  SamMlp(Index width, Index hidden, Activation a)
      : lin1(linear_slot<T>(width, hidden, true)),
        lin2(linear_slot<T>(hidden, width, true)),
        activation(a) {}
  /// x (...,C) -> (...,C); `o` ends the last product.
  Tensor<T> operator()(const Tensor<T>& x, const LinearOptions<T>& o = {}) {
    return lin2(lin1(x, {.activation = activation}), o);
  }
  void visit(Visitor<T>& v) {
    v("lin1", lin1);
    v("lin2", lin2);
  }
};

template <class T>
struct SamBlock {
  LayerNorm<T> norm1, norm2;
  SamAttention<T> attn;
  SamMlp<T> mlp;

  SamBlock() = default;
  SamBlock(const SamConfig& c, Index i)
      : norm1(c.hidden_size, c.layer_norm_eps),
        norm2(c.hidden_size, c.layer_norm_eps),
        attn(c.hidden_size, c.num_attention_heads, c.window(i), c.grid(), c.qkv_bias,
             c.use_rel_pos),
        mlp(c.hidden_size, c.mlp_dim, c.hidden_act) {}
  /// x + attn(norm1 x): (B,h,w,C) -> (B,h,w,C).
  Tensor<T> attend(const Tensor<T>& x) {
    Scope scope("attn");
    return attn(norm1(x), {.residual = x});
  }
  /// x (B,h,w,C) -> (B,h,w,C)
  Tensor<T> operator()(const Tensor<T>& x) {
    const Tensor<T> y = attend(x);  // (B,h,w,C)
    Scope scope("mlp");
    return mlp(norm2(y), {.residual = y});  // (B,h,w,C)
  }
  void visit(Visitor<T>& v) {
    v("norm1", norm1);
    v("attn", attn);
    v("norm2", norm2);
    v("mlp", mlp);
  }
};

/// 1x1 convolution, norm over channels, 3x3 convolution, norm over channels; no biases.
template <class T>
struct SamNeck {
  Projection<T> conv1, conv2;  ///< (O,C,1,1), (O,O,3,3)
  LayerNorm<T> norm1, norm2;

  SamNeck() = default;
  SamNeck(Index width, Index out)
      : conv1{Tensor<T>::zeros({out, width, 1, 1}), {}},
        conv2{Tensor<T>::zeros({out, out, 3, 3}), {}},
        norm1(out, 1e-6),
        norm2(out, 1e-6) {}
  /// x (B,h,w,C) -> (B,O,h,w)
  Tensor<T> operator()(const Tensor<T>& x) const {
    const Shape& w = conv1.weight.shape();
    Tensor<T> y = norm1(linear(x, reshape(conv1.weight, {w[0], w[1]})));              // (B,h,w,O)
    y = conv2d(permute(y, {0, 3, 1, 2}), conv2.weight, Tensor<T>(), {.padding = 1});  // (B,O,h,w)
    return permute(norm2(permute(y, {0, 2, 3, 1})), {0, 3, 1, 2});                    // (B,O,h,w)
  }
  void visit(Visitor<T>& v) {
    v("0", conv1);
    v("1", norm1);
    v("2", conv2);
    v("3", norm2);
  }
};

template <class T>
struct SamEncoder {
  SamConfig config;
  PatchEmbed<T> patch_embed;
  Tensor<T> pos_embed;  ///< (1,grid,grid,D), or undefined
  std::vector<SamBlock<T>> blocks;
  SamNeck<T> neck;
  /// As in ViT: keeps only the input of every block for the backward.
  bool gradient_checkpointing = false;

  SamEncoder() = default;
  /// All parameters zero (norms one), to be loaded or initialised.
  explicit SamEncoder(const SamConfig& c)
      : config(c), patch_embed(c.num_channels, c.patch_size, c.hidden_size) {
    if (c.num_attention_heads < 1 || c.hidden_size % c.num_attention_heads || c.grid() < 1 ||
        c.window_size < 0)
      fail(ErrorKind::value,
           "sam: heads must divide the width, the image hold a patch; width " +
               std::to_string(c.hidden_size) + ", heads " + std::to_string(c.num_attention_heads) +
               ", image " + std::to_string(c.image_size) + ", patch " +
               std::to_string(c.patch_size) + ", window " + std::to_string(c.window_size));
    if (c.use_abs_pos) pos_embed = Tensor<T>::zeros({1, c.grid(), c.grid(), c.hidden_size});
    for (Index i = 0; i < c.num_hidden_layers; ++i) blocks.emplace_back(c, i);
    neck = SamNeck<T>(c.hidden_size, c.output_channels);
  }

  /// The position table for a map of h x w: (1,h,w,D).
  Tensor<T> positions(Index h, Index w) const {
    if (h == config.grid() && w == config.grid()) return pos_embed;
    return permute(
        resize(permute(pos_embed, {0, 3, 1, 2}), {.size = {h, w}, .mode = Interpolation::bicubic}),
        {0, 2, 3, 1});  // (1,h,w,D)
  }
  /// Pixels (B,C,H,W) -> (B,h,w,D), the input of block 0, h = H/patch; a remainder is left out.
  Tensor<T> embed(const Tensor<T>& pixels) const {
    Scope scope("embed");
    Tensor<T> x = patch_embed(pixels);  // (B,N,D)
    const Index h = pixels.size(2) / config.patch_size, w = pixels.size(3) / config.patch_size;
    x = reshape(x, {x.size(0), h, w, config.hidden_size});     // (B,h,w,D)
    return pos_embed.defined() ? add(x, positions(h, w)) : x;  // (B,h,w,D)
  }
  /// Block i, (B,h,w,D) -> (B,h,w,D).
  Tensor<T> block(Index i, const Tensor<T>& x) {
    Scope scope("blocks", i);
    SamBlock<T>& b = blocks[static_cast<std::size_t>(i)];
    if (!gradient_checkpointing) return b(x);
    return checkpoint([&b](const Tensor<T>& y) { return b(y); }, x);
  }
  /// The neck: (B,h,w,D) -> (B,output_channels,h,w).
  Tensor<T> finish(const Tensor<T>& x) const {
    Scope scope("neck");
    return neck(x);
  }
  /// Pixels (B,C,H,W) -> (B,output_channels,h,w).
  Tensor<T> operator()(const Tensor<T>& pixels) {
    Tensor<T> x = embed(pixels);  // (B,h,w,D)
    for (Index i = 0; i < config.num_hidden_layers; ++i) x = block(i, x);
    return finish(x);
  }

  void visit(Visitor<T>& v) {
    v("patch_embed", patch_embed);
    v("pos_embed", pos_embed);
    v("blocks", blocks);
    v("neck", neck);
  }
};

/// How to load or save a Hugging Face file, of the encoder alone or of a whole SAM.
inline LoadOptions sam_files() {
  return {.ignored = {"prompt_encoder.**", "mask_decoder.**", "shared_image_embedding.**"},
          .table = {{"patch_embed.proj.*", {"patch_embed.projection.*"}},
                    {"neck.0.*", {"neck.conv1.*"}},
                    {"neck.1.*", {"neck.layer_norm1.*"}},
                    {"neck.2.*", {"neck.conv2.*"}},
                    {"neck.3.*", {"neck.layer_norm2.*"}},
                    {"blocks.*.norm1.weight", {"layers.*.layer_norm1.weight"}},
                    {"blocks.*.norm1.bias", {"layers.*.layer_norm1.bias"}},
                    {"blocks.*.norm2.weight", {"layers.*.layer_norm2.weight"}},
                    {"blocks.*.norm2.bias", {"layers.*.layer_norm2.bias"}},
                    {"blocks.*", {"layers.*"}}},
          .prefix = "vision_encoder."};
}
/// The same of the authors' files, whose names are the trunk's own.
inline LoadOptions sam_original_files() {
  return {.ignored = {"prompt_encoder.**", "mask_decoder.**"}, .prefix = "image_encoder."};
}

/// An encoder from a config and the tensors of its file(s).
template <class T = float>
SamEncoder<T> sam(const SamConfig& c, const TensorMap& weights, LoadOptions files = sam_files()) {
  files.may_share = true;  // gigabytes of frozen weights stay in the mapped file
  files.what = "sam";
  // A config far larger than its file is refused before the memory is asked for.
  const auto n = [](Index i) { return static_cast<double>(i); };
  const Index side = c.window_size > c.grid() ? c.window_size : c.grid();
  const double d = n(c.hidden_size);
  const double per_block = d * (4 * d + 2 * n(c.mlp_dim)) + (c.use_rel_pos ? n(4 * side) * d : 0);
  const double need = n(c.num_hidden_layers) * per_block +
                      d * n(c.num_channels) * n(c.patch_size) * n(c.patch_size) +
                      (c.use_abs_pos ? n(c.grid()) * n(c.grid()) * d : 0) +
                      n(c.output_channels) * (d + 9 * n(c.output_channels));
  std::vector<ExpectedTensor> rows;
  const auto expect = [&](const std::string& path, const Shape& shape) {
    rows.push_back({keys_for(files, path)[0], shape});
  };
  expect("patch_embed.proj.weight", {c.hidden_size, c.num_channels, c.patch_size, c.patch_size});
  if (c.use_abs_pos) expect("pos_embed", {1, c.grid(), c.grid(), c.hidden_size});
  expect("neck.0.weight", {c.output_channels, c.hidden_size, 1, 1});
  expect("blocks.0.mlp.lin1.weight", {c.mlp_dim, c.hidden_size});
  for (Index i = 0; i < c.num_hidden_layers && i < static_cast<Index>(weights.size()); ++i) {
    const std::string block = "blocks." + std::to_string(i) + '.';
    const Index s = c.window(i) ? c.window(i) : c.grid();
    expect(block + "norm1.weight", {c.hidden_size});
    if (c.use_rel_pos)
      expect(block + "attn.rel_pos_h", {2 * s - 1, c.hidden_size / c.num_attention_heads});
  }
  check_model_size("sam", need, weights, rows);
  SamEncoder<T> encoder(c);
  load<T>(encoder, weights, files);
  return encoder;
}

}  // namespace moraine
