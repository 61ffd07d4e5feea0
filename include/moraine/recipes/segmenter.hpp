#pragma once
// Segmentation with frozen trunks: what is put between or beside them is the question that the demo
// asks. One struct holds every method of its table:
//
//   linear        a linear head on the vision trunk
//   linear_both   a linear head on both trunks
//   lora          LoRA on qkv, fc1, fc2 of the vision trunk
//   spectralmoe   the SpectralMoE plugin after every block, guided by the depth trunk
#include <cstdint>
#include <moraine/decoders/linear_head.hpp>
#include <moraine/models/vit.hpp>
#include <moraine/ops/index.hpp>
#include <moraine/peft/inject.hpp>
#include <moraine/peft/lora.hpp>
#include <moraine/peft/spectral_moe.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

enum class Method : unsigned char { linear, linear_both, lora, spectralmoe };

inline const char* name_of(Method m) {
  switch (m) {
    case Method::linear:
      return "linear";
    case Method::linear_both:
      return "linear_both";
    case Method::lora:
      return "lora";
    case Method::spectralmoe:
      return "spectralmoe";
  }
  return "?";
}

struct SegmenterConfig {
  Method method = Method::spectralmoe;
  Index classes = 8;
  std::vector<Index> taps = {1, 3, 5};  ///< blocks (0-based) whose output the head reads
  std::vector<std::int64_t> depth_bands = {0, 1,
                                           2};  ///< bands of the vision input that depth reads
  LoraOptions lora = {.rank = 8};
  SpectralMoeConfig moe = demo_moe();  ///< layers, dim and prefixes follow the trunks
  SpectralMoe<float>::InitOptions moe_init = {
      .a_bound = 0, .b_std = 0.3, .prototype_std = 0.05, .scale = 0.1};
  bool use_depth = true;   ///< false, a control: the visual stream stands in for the depth stream
  std::uint64_t seed = 0;  ///< of everything that is initialised and of the gates' noise

  /// The paper preset with the load term: with top_k 1, importance alone gives the gate no
  /// gradient.
  static SpectralMoeConfig demo_moe() {
    SpectralMoeConfig c = spectral_moe_paper();
    c.tokens = 32, c.rank = 8, c.experts = 6;
    c.balance_load = true;
    return c;
  }
};

template <class T>
struct Segmentation {
  Tensor<T> logits;    ///< (B,K,H,W), H and W rounded down to whole patches
  Tensor<T> aux_loss;  ///< (), mean balance loss over the layers; undefined without experts
};

template <class T>
struct Segmenter {
  SegmenterConfig config;
  ViT<T> vision, depth;
  SpectralMoe<T> moe;
  LinearHead<T> head;

  Segmenter() = default;
  /// Takes two trunks and freezes them; the depth trunk may be empty where the method reads none.
  Segmenter(const SegmenterConfig& c, ViT<T> vision_trunk, ViT<T> depth_trunk)
      : config(c), vision(std::move(vision_trunk)), depth(std::move(depth_trunk)) {
    freeze<T>(vision);
    freeze<T>(depth);
    const ViTConfig& v = vision.config;
    for (Index t : c.taps)
      if (t < 0 || t >= v.depth)
        fail(ErrorKind::config, "segmenter: tap " + std::to_string(t) + " of a trunk with " +
                                    std::to_string(v.depth) + " blocks");
    if (reads_depth() && (depth.config.patch != v.patch || depth.config.width != v.width ||
                          (c.method == Method::spectralmoe && depth.config.depth < v.depth)))
      fail(ErrorKind::config,
           "segmenter: the trunks must share patch size and width, and depth must be as deep; "
           "patch " +
               std::to_string(v.patch) + " and " + std::to_string(depth.config.patch) + ", width " +
               std::to_string(v.width) + " and " + std::to_string(depth.config.width));
    if (c.method == Method::lora)
      for (const char* slot : {"blocks.*.attn.qkv", "blocks.*.mlp.fc1", "blocks.*.mlp.fc2"}) {
        LoraOptions o = c.lora;
        o.seed = c.seed;
        inject<T>(vision, slot, moraine::lora(o));
      }
    prepare<T>(vision);
    prepare<T>(depth);
    if (c.method == Method::spectralmoe) {
      SpectralMoeConfig& m = config.moe;
      m.layers = v.depth, m.dim = v.width, m.prefix = v.prefix();
      m.depth_prefix = c.use_depth ? depth.config.prefix() : v.prefix();
      moe = SpectralMoe<T>(m);
      moe.init({.seed = c.seed,
                .a_bound = c.moe_init.a_bound > 0 ? c.moe_init.a_bound
                                                  : 4 / std::sqrt(static_cast<double>(m.rank)),
                .b_std = c.moe_init.b_std,
                .prototype_std = c.moe_init.prototype_std,
                .scale = c.moe_init.scale});
    }
    const Index taps =
        static_cast<Index>(c.taps.size()) * (c.method == Method::linear_both ? 2 : 1);
    head = LinearHead<T>(v.width * taps, c.classes, v.patch, c.seed);
    require_grad<T>(head, "**");
    if (c.method == Method::spectralmoe)
      for (const char* part : {"experts_*.**", "w_gate.**", "w_noise.**", "scale", "mlp_*.**"})
        require_grad<T>(moe,
                        part);  // transform and merge serve a mask decoder's queries, not this head
  }

  bool reads_depth() const {
    return config.method == Method::linear_both ||
           (config.method == Method::spectralmoe && config.use_depth);
  }

  /// pixels (B,C,H,W), normalised. `step` >= 0: training, the gates are noisy, a function of
  /// (seed, step); -1: evaluation.
  Segmentation<T> operator()(const Tensor<T>& pixels, Index step = -1) {
    const ViTConfig& v = vision.config;
    const Size2 grid{pixels.size(2) / v.patch, pixels.size(3) / v.patch};
    Segmentation<T> out;
    std::vector<Tensor<T>> taps, depth_taps;
    Tensor<T> x = vision.embed(pixels), z;  // (B,P+N,D)
    if (reads_depth()) {
      const auto bands =
          Tensor<std::int64_t>({static_cast<Index>(config.depth_bands.size())}, config.depth_bands);
      z = depth.embed(index_select(pixels, bands, 1));
    }
    const Index rows = pixels.size(0) * grid.h * grid.w;
    for (Index i = 0; i < v.depth; ++i) {
      x = vision.block(i, x);
      if (z.defined()) {
        NoGrad off;
        Scope scope("depth");
        z = depth.block(i, z);
      }
      if (config.method == Method::spectralmoe) {
        const auto layer = moe.layer(i, x, config.use_depth ? z : x, noise(step, i, rows));
        x = layer.out;
        out.aux_loss = out.aux_loss.defined() ? add(out.aux_loss, layer.aux_loss) : layer.aux_loss;
      }
      for (Index t : config.taps) {
        if (t != i) continue;
        taps.push_back(without_prefix(x, v.prefix()));  // (B,N,D)
        if (config.method == Method::linear_both)
          depth_taps.push_back(without_prefix(z, depth.config.prefix()));
      }
    }
    if (out.aux_loss.defined()) out.aux_loss = scale(out.aux_loss, T(1) / static_cast<T>(v.depth));
    taps.insert(taps.end(), depth_taps.begin(), depth_taps.end());
    out.logits = head(taps, grid);
    return out;
  }

  /// Everything, trunks under "vision." and "depth.".
  void visit(Visitor<T>& v) {
    v("vision", vision);
    v("depth", depth);
    if (config.method == Method::spectralmoe) v("moe", moe);
    v("head", head);
  }

 private:
  static Tensor<T> without_prefix(const Tensor<T>& x, Index p) {
    return p ? slice(x, 1, p, x.size(1)) : x;
  }

  GateNoise<T> noise(Index step, Index layer, Index rows) const {
    GateNoise<T> n;
    const Index e = config.moe.experts;
    if (step < 0 || e < 2) return n;
    for (Tensor<T>* t : {&n.visual, &n.depth}) {
      const Random r(config.seed, t == &n.visual ? "gate noise visual" : "gate noise depth",
                     static_cast<std::uint64_t>(step * 64 + layer));
      *t = Tensor<T>::empty({rows, e});
      T* to = t->data();
      parallel_for(rows * e, 4096, [&](Index b, Index end) {
        for (Index i = b; i < end; ++i)
          to[i] = static_cast<T>(r.normal(static_cast<std::uint64_t>(i)));
      });
    }
    return n;
  }
};

}  // namespace moraine
