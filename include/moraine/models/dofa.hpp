#pragma once
// DOFA (Xiong et al., 2024): a ViT whose patch embedding is made from the wavelengths of the bands
// by a small transformer, so that one model takes any sensor. Presets, the model. Facts from
// torchgeo's models/dofa.py, whose keys are the paths here; images of another size than the trained
// one by the authors' helper (bicubic, align_corners).
//
//   auto x = dofa.embed(pixels, wavelengths);               // (B,1+N,D), micrometres
//   for (Index i = 0; i < dofa.config.depth; ++i) x = dofa.block(i, x);
#include <moraine/autograd/checkpoint.hpp>
#include <moraine/core/mutex.hpp>
#include <moraine/nn/block.hpp>
#include <moraine/nn/load.hpp>
#include <moraine/nn/model_size.hpp>
#include <moraine/nn/patch_embed.hpp>
#include <moraine/ops/pad.hpp>
#include <moraine/ops/reduce.hpp>
#include <moraine/ops/resize.hpp>

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace moraine MORAINE_API {

/// The arguments of torchgeo's class, with its defaults (but for num_classes, 45 there).
struct DofaConfig {
  Index img_size = 224, patch_size = 16, embed_dim = 1024, depth = 24, num_heads = 16;
  double mlp_ratio = 4;
  bool global_pool = true;  ///< the mean of the patches, then fc_norm; false: norm, then CLS
  bool fc_norm = true;      ///< with global_pool: published files have none
  Index num_classes = 0;    ///< 0: no head

  Index hidden() const { return static_cast<Index>(static_cast<double>(embed_dim) * mlp_ratio); }
  /// Patches along an axis of `pixels`. Padding of 1 shifts the grid by a pixel: the first patch
  /// begins with a row of zeros, and an image of 30 pixels holds two patches of 16.
  Index grid(Index pixels) const { return (pixels + 2 - patch_size) / patch_size + 1; }
  Index table() const { return img_size / patch_size; }  ///< positions of a side
};

inline DofaConfig dofa_small() { return {.embed_dim = 384, .depth = 12, .num_heads = 6}; }
inline DofaConfig dofa_base() { return {.embed_dim = 768, .depth = 12, .num_heads = 12}; }
inline DofaConfig dofa_large() { return {}; }
inline DofaConfig dofa_huge() {
  return {.patch_size = 14, .embed_dim = 1280, .depth = 32, .num_heads = 16};
}

/// Wavelengths (C) in micrometres -> (C,128): sines, then cosines, of the wavelength in nanometres
/// times 10000^(-j/64). The phases are rounded to float as in the reference (whose weights were
/// trained with them; a rounding moves the last block by 1e-5 of its maximum), their sines are not:
/// they reach thousands of radians.
template <class T>
Tensor<T> wavelength_embedding(const Tensor<T>& wavelengths) {
  constexpr Index half = 64;
  const Index c = wavelengths.numel();
  const Tensor<T> w = wavelengths.detach().contiguous();
  Tensor<T> y = Tensor<T>::empty({c, 2 * half});
  for (Index j = 0; j < half; ++j) {
    const float power = static_cast<float>(std::pow(10000.0, static_cast<double>(j) / half));
    const float omega = 1.0f / power;
    for (Index i = 0; i < c; ++i) {
      const float nanometres = static_cast<float>(w.data()[i]) * 1000.0f;
      const double phase = static_cast<double>(nanometres * omega);
      y.data()[i * 2 * half + j] = static_cast<T>(std::sin(phase));
      y.data()[i * 2 * half + half + j] = static_cast<T>(std::cos(phase));
    }
  }
  return y;
}

/// A dense layer without a slot: its weights serve once a sensor, so packing them would only cost.
template <class T>
struct Dense {
  Tensor<T> weight, bias;  ///< (out,in), (out)
  Dense() = default;
  Dense(Index in, Index out) : weight(Tensor<T>::zeros({out, in})), bias(Tensor<T>::zeros({out})) {}
  Tensor<T> operator()(const Tensor<T>& x, const LinearOptions<T>& o = {}) const {
    return linear(x, weight, bias, o);
  }
  void visit(Visitor<T>& v) {
    v("weight", weight);
    v("bias", bias);
  }
};

/// One post-norm encoder layer of width 128, as torch.nn.TransformerEncoderLayer has it.
template <class T>
struct DofaEncoderLayer {
  Tensor<T> in_proj_weight, in_proj_bias;  ///< (3D,D), (3D)
  Dense<T> out_proj, linear1, linear2;
  LayerNorm<T> norm1, norm2;

  DofaEncoderLayer() = default;
  DofaEncoderLayer(Index d, Index hidden)
      : in_proj_weight(Tensor<T>::zeros({3 * d, d})),
        in_proj_bias(Tensor<T>::zeros({3 * d})),
        out_proj(d, d),
        linear1(d, hidden),
        linear2(hidden, d),
        norm1(d, 1e-5),
        norm2(d, 1e-5) {}
  /// x (1,N,D) -> (1,N,D)
  Tensor<T> operator()(const Tensor<T>& x) const {
    const Tensor<T> all = linear(x, in_proj_weight, in_proj_bias);                 // (1,N,3D)
    const Tensor<T> y = norm1(out_proj(self_attention(all, 4), {.residual = x}));  // (1,N,D)
    return norm2(linear2(linear1(y, {.activation = Activation::gelu}), {.residual = y}));
  }
  void visit(Visitor<T>& v) {
    v("self_attn.in_proj_weight", in_proj_weight);
    v("self_attn.in_proj_bias", in_proj_bias);
    v("self_attn.out_proj", out_proj);
    v("linear1", linear1);
    v("linear2", linear2);
    v("norm1", norm1);
    v("norm2", norm2);
  }
};

/// The convolution of a sensor.
template <class T>
struct DofaKernels {
  Tensor<T> weight;  ///< (C*p*p, D): a row for every pixel of a patch, channel by channel
  Tensor<T> bias;    ///< (D)
};

/// From wavelengths to kernels, and from pixels to patches by them.
template <class T>
struct DofaEmbedding {
  static constexpr Index width = 128;  ///< of the generator, in every size of the model
  Index patch = 16, dim = 1024;
  Tensor<T> weight_tokens, bias_token;  ///< (128,128), (1,128)
  DofaEncoderLayer<T> layer;
  Dense<T> fc_weight, fc_bias;  ///< (p*p*D,128), (D,128)
  Dense<T> w1, w2;              ///< of the residual layer on wavelengths

 private:
  /// A parameter as it was. One whose storage is gone equals none, not even one that has taken its
  /// address.
  struct Seen {
    std::weak_ptr<Storage> storage;
    const T* data;
    bool same(const Seen& o) const {
      return data == o.data && !storage.expired() && !storage.owner_before(o.storage) &&
             !o.storage.owner_before(storage);
    }
  };
  struct Cache {
    Mutex mutex;
    std::vector<T> waves;
    std::vector<Seen> seen;  // the parameters that made the kernels; none: there are no kernels
    DofaKernels<T> kernels;

    bool fits(const std::vector<T>& w, const std::vector<Seen>& now) const {
      if (seen.empty() || seen.size() != now.size() || w.size() != waves.size() ||
          std::memcmp(w.data(), waves.data(), w.size() * sizeof(T)) != 0)
        return false;
      for (std::size_t i = 0; i < now.size(); ++i)
        if (!seen[i].same(now[i])) return false;
      return true;
    }
  };

 public:
  DofaEmbedding() = default;
  DofaEmbedding(Index patch_, Index dim_)
      : patch(patch_),
        dim(dim_),
        weight_tokens(Tensor<T>::zeros({width, width})),
        bias_token(Tensor<T>::zeros({1, width})),
        layer(width, 2048),
        fc_weight(width, patch_ * patch_ * dim_),
        fc_bias(width, dim_),
        w1(width, width),
        w2(width, width),
        cache_(std::make_unique<Cache>()) {}

  /// The kernels of a sensor, made anew.
  DofaKernels<T> make_kernels(const Tensor<T>& wavelengths) const {
    const Index c = wavelengths.numel(), n = width + c + 1;
    const Tensor<T> e = wavelength_embedding(wavelengths);  // (C,128)
    const Tensor<T> inner = w1(e, {.activation = Activation::relu});
    const Tensor<T> w = w2(inner, {.activation = Activation::relu, .residual = e});  // (C,128)
    const Tensor<T> s = layer(reshape(concat<T>({weight_tokens, w, bias_token}, 0), {1, n, width}));
    const auto rows = [&](Index from, Index to) {
      return reshape(slice(s, 1, from, to), {to - from, width});
    };
    const Tensor<T> k = pixels_of(add(rows(width, width + c), w));  // (C,p*p*D)
    return {scale(reshape(k, {c * patch * patch, dim}), T(0.01)),
            scale(reshape(fc_bias(rows(n - 1, n)), {dim}), T(0.01))};
  }
  /// fc_weight of (C,128). Frozen, a piece of its rows at a time: a product packs its weight, and
  /// this one has up to 134 MB.
  Tensor<T> pixels_of(const Tensor<T>& x) const {
    if (wants(x) || wants(fc_weight.weight) || wants(fc_weight.bias)) return fc_weight(x);
    constexpr Index piece = 1536;
    const Index n = fc_weight.weight.size(0);
    std::vector<Tensor<T>> parts;
    for (Index i = 0; i < n; i += piece) {
      const Index end = i + piece < n ? i + piece : n;
      parts.push_back(
          linear(x, slice(fc_weight.weight, 0, i, end), slice(fc_weight.bias, 0, i, end)));
    }
    return concat(parts, 1);  // (C,p*p*D)
  }
  /// The kernels of a sensor. While no parameter of the generator is trained, those of the last
  /// call are kept and serve as long as wavelengths and parameters are the same tensors; parameters
  /// that are edited in place need forget(). Any number of threads may call at once.
  DofaKernels<T> kernels(const Tensor<T>& wavelengths) {
    struct Watch final : Visitor<T> {
      std::vector<Seen> seen;
      bool trained = false;
      void parameter(const std::string&, Tensor<T>& t) override {
        seen.push_back({t.storage(), t.data()});
        trained |= t.tracked();
      }
    } watch;
    visit(watch);
    if (watch.trained || !cache_) {
      forget();
      return make_kernels(wavelengths);
    }
    const std::vector<T> waves = wavelengths.values();
    {
      const Lock lock(cache_->mutex);
      if (cache_->fits(waves, watch.seen)) return cache_->kernels;
    }
    const NoGrad off;
    const DofaKernels<T> made = make_kernels(wavelengths);
    const Lock lock(cache_->mutex);
    cache_->waves = waves;
    cache_->seen = watch.seen;
    cache_->kernels = made;
    return made;
  }
  /// Drops the kernels that are kept.
  void forget() {
    if (!cache_) return;
    const Lock lock(cache_->mutex);
    cache_->seen.clear();
    cache_->kernels = {};
  }

  /// Pixels (B,C,H,W), wavelengths (C) in micrometres -> (B,N,D), N = grid(H) * grid(W): a
  /// convolution with stride p and a padding of 1.
  Tensor<T> operator()(const Tensor<T>& pixels, const Tensor<T>& wavelengths) {
    if (pixels.rank() != 4 || wavelengths.rank() != 1 || pixels.size(1) != wavelengths.size(0) ||
        pixels.size(2) + 2 < patch || pixels.size(3) + 2 < patch)
      fail(ErrorKind::shape,
           "dofa: needs pixels (B,C,H,W) of at least a patch and a wavelength for each of C; "
           "pixels " +
               str(pixels.shape()) + ", wavelengths " + str(wavelengths.shape()) + ", patch " +
               std::to_string(patch));
    const DofaKernels<T> k = kernels(wavelengths);
    // Patches begin one pixel outside; they neither overlap nor leave gaps, so what is left of the
    // convolution is one product.
    const auto around = [this](Index n) {
      return Padding{1, ((n + 2 - patch) / patch + 1) * patch - 1 - n};
    };
    const Tensor<T> x = pad(pixels, {around(pixels.size(2)), around(pixels.size(3))});
    return add(matmul(patches(x, patch), k.weight), k.bias);  // (B,N,D)
  }
  void visit(Visitor<T>& v) {
    v("weight_generator.weight_tokens", weight_tokens);
    v("weight_generator.bias_token", bias_token);
    v("weight_generator.transformer_encoder.layers.0", layer);
    v("weight_generator.fc_weight", fc_weight);
    v("weight_generator.fc_bias", fc_bias);
    v("fclayer.w1", w1);
    v("fclayer.w2", w2);
  }

 private:
  std::unique_ptr<Cache> cache_;
};

template <class T>
struct Dofa {
  DofaConfig config;
  DofaEmbedding<T> patch_embed;
  Tensor<T> cls_token;  ///< (1,1,D)
  Tensor<T> pos_embed;  ///< (1,1+N0,D), a fixed table, the first row for CLS; never trained
  std::vector<Block<T>> blocks;
  LayerNorm<T> fc_norm, norm;  ///< undefined tensors: there is none
  Slot<T> head;                ///< (D) -> (num_classes), or empty
  /// As in ViT: keeps only the input of every block for the backward.
  bool gradient_checkpointing = false;

  Dofa() = default;
  /// All parameters zero (norms one), to be loaded or initialised.
  explicit Dofa(const DofaConfig& c) : config(c), patch_embed(c.patch_size, c.embed_dim) {
    const Index d = c.embed_dim;
    if (c.num_heads < 1 || d % c.num_heads || c.table() < 1)
      fail(ErrorKind::value, "dofa: heads must divide the width, the image hold a patch; width " +
                                 std::to_string(d) + ", heads " + std::to_string(c.num_heads) +
                                 ", image " + std::to_string(c.img_size) + ", patch " +
                                 std::to_string(c.patch_size));
    cls_token = Tensor<T>::zeros({1, 1, d});
    pos_embed = Tensor<T>::zeros({1, 1 + c.table() * c.table(), d});
    for (Index i = 0; i < c.depth; ++i)
      blocks.emplace_back(BlockConfig{.width = d, .heads = c.num_heads, .hidden = c.hidden()});
    if (!c.global_pool) norm = LayerNorm<T>(d, 1e-6);
    if (c.global_pool && c.fc_norm) fc_norm = LayerNorm<T>(d, 1e-6);
    if (c.num_classes > 0) head = linear_slot<T>(d, c.num_classes, true);
  }

  /// Positions of a grid: (1,h*w,D). The table itself where it fits.
  Tensor<T> positions(Index h, Index w) const {
    const Index g = config.table(), d = config.embed_dim;
    const Tensor<T> patches = slice(pos_embed, 1, 1, 1 + g * g);  // (1,N0,D)
    if (h == g && w == g) return patches;
    const Tensor<T> map = permute(reshape(patches, {1, g, g, d}), {0, 3, 1, 2});  // (1,D,g,g)
    const Tensor<T> sized =
        resize(map, {.size = {h, w}, .mode = Interpolation::bicubic, .align_corners = true});
    return reshape(permute(sized, {0, 2, 3, 1}), {1, h * w, d});  // (1,N,D)
  }
  /// Pixels (B,C,H,W), wavelengths (C) in micrometres -> tokens (B,1+N,D): CLS, patches row by row.
  Tensor<T> embed(const Tensor<T>& pixels, const Tensor<T>& wavelengths) {
    Scope scope("embed");
    const Tensor<T> x = patch_embed(pixels, wavelengths);  // (B,N,D)
    const Index b = x.size(0), h = config.grid(pixels.size(2)), w = config.grid(pixels.size(3));
    const Tensor<T> cls = add(cls_token, slice(pos_embed, 1, 0, 1));  // (1,1,D)
    return concat<T>({expand(cls, {b, 1, config.embed_dim}), add(x, positions(h, w))}, 1);
  }
  /// Block i, (B,1+N,D) -> (B,1+N,D).
  Tensor<T> block(Index i, const Tensor<T>& x) {
    Scope scope("blocks", i);
    Block<T>& b = blocks[static_cast<std::size_t>(i)];
    if (!gradient_checkpointing) return b(x);
    return checkpoint([&b](const Tensor<T>& y) { return b(y); }, x);
  }
  /// The last tokens as torchgeo leaves them: normed without global_pool, themselves with it.
  Tensor<T> finish(const Tensor<T>& x) const { return config.global_pool ? x : norm(x); }
  /// Finished tokens (B,1+N,D) -> (B,D): the norm of the patches' mean, or CLS; undefined with
  /// global_pool and without fc_norm, which the class would leave random.
  Tensor<T> pool(const Tensor<T>& x) const {
    const Index b = x.size(0), d = x.size(2);
    if (!config.global_pool) return reshape(slice(x, 1, 0, 1), {b, d});
    if (!config.fc_norm) return {};
    return fc_norm(mean(slice(x, 1, 1, x.size(1)), {.axes = {1}}));  // (B,D)
  }
  /// Pixels and wavelengths -> finished tokens (B,1+N,D).
  Tensor<T> operator()(const Tensor<T>& pixels, const Tensor<T>& wavelengths) {
    Tensor<T> x = embed(pixels, wavelengths);
    for (Index i = 0; i < config.depth; ++i) x = block(i, x);
    return finish(x);
  }

  void visit(Visitor<T>& v) {
    v("patch_embed", patch_embed);
    v("cls_token", cls_token);
    v.fixed("pos_embed", pos_embed);
    v("blocks", blocks);
    v("fc_norm", fc_norm);
    v("norm", norm);
    v("head", head);
  }
};

/// How to load or save torchgeo's files and the authors': the keys are the paths.
inline LoadOptions dofa_files(const DofaConfig& c) {
  LoadOptions o{.ignored = {"mask_token", "projector.**"}, .what = "dofa"};
  if (c.global_pool) o.ignored.push_back("norm.*");  // that of the masked pre-training
  return o;
}

/// A model from a config and the tensors of its file(s). With global_pool, and no head to want it,
/// fc_norm may be missing as in the published files; config.fc_norm then says so.
template <class T = float>
Dofa<T> dofa(DofaConfig c, const TensorMap& weights) {
  LoadOptions files = dofa_files(c);
  files.may_share = true;
  c.fc_norm = c.global_pool && (c.num_classes > 0 || weights.count("fc_norm.weight") ||
                                weights.count("fc_norm.bias"));
  const auto n = [](Index i) { return static_cast<double>(i); };
  const double d = n(c.embed_dim), pixels = n(c.patch_size) * n(c.patch_size);
  const double need = n(c.depth) * d * (4 * d + 2 * n(c.hidden())) + 129 * d * pixels +
                      n(c.table()) * n(c.table()) * d + d * n(c.num_classes);
  std::vector<ExpectedTensor> rows{
      {"cls_token", {1, 1, c.embed_dim}},
      {"pos_embed", {1, 1 + c.table() * c.table(), c.embed_dim}},
      {"patch_embed.weight_generator.fc_weight.bias", {c.patch_size * c.patch_size * c.embed_dim}},
      {"blocks.0.mlp.fc1.weight", {c.hidden(), c.embed_dim}}};
  if (c.num_classes > 0) rows.push_back({"head.weight", {c.num_classes, c.embed_dim}});
  for (Index i = 0; i < c.depth && i < static_cast<Index>(weights.size()); ++i)
    rows.push_back({"blocks." + std::to_string(i) + ".norm1.weight", {c.embed_dim}});
  check_model_size("dofa", need, weights, rows);
  Dofa<T> model(c);
  load<T>(model, weights, files);
  return model;
}

}  // namespace moraine
