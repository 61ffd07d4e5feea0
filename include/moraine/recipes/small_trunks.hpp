#pragma once
// The two small foundation models that ship with the project, and how they were pre-trained from
// the scene generator: a vision trunk by masked modelling (blue, green, red, near infrared) and a
// depth trunk by height regression (blue, green, red). Nobody's labels are used.
//
//   vision: 60 % of the patches are hidden from the encoder; a one-block decoder draws all of them
//           as a noise-free reference sensor would see the same place, season and sun.
//           loss = mean over hidden patches of the squared error + half of it over visible patches
//   depth:  log(1 + height above ground) of every pixel, smooth L1 with beta 0.3
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <moraine/autograd/backward.hpp>
#include <moraine/data/scene.hpp>
#include <moraine/models/vit.hpp>
#include <moraine/nn/init.hpp>
#include <moraine/ops/index.hpp>
#include <moraine/train/optim.hpp>
#include <moraine/train/schedule.hpp>
#include <numeric>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

/// Constants of the normalisation, for every domain and both trunks: (x - mean) / std.
inline constexpr float small_mean[4] = {0.10f, 0.125f, 0.14f, 0.28f};
inline constexpr float small_std[4] = {0.05f, 0.06f, 0.075f, 0.14f};
inline constexpr Index small_tile = 64;

/// 6 blocks, width 128, 4 heads, patch 4 on tiles of 64 x 64, fixed positions, no prefix tokens:
/// 1,198,208 parameters with 4 channels, 1,196,160 with 3 (the final norm, 256, included).
inline ViTConfig small_trunk_config(Index channels) {
  return {.channels = channels,
          .patch = 4,
          .width = 128,
          .depth = 6,
          .heads = 4,
          .hidden = 512,
          .grid_h = 16,
          .grid_w = 16,
          .class_token = false,
          .position = Position::sincos,
          .eps = 1e-6};
}

/// Linear weights truncated normal 0.04, everything else as constructed (norms one, biases zero).
template <class T, class M>
void init_small(M& module, std::uint64_t seed) {
  for (Named<T>& p : parameters<T>(module))
    if (p.tensor->rank() >= 2) init::trunc_normal(*p.tensor, 0.04, init::stream(seed, p.name));
}

/// Vision pre-training: the encoder and its decoder.
template <class T>
struct MaskedModel {
  ViT<T> trunk{small_trunk_config(4)};
  Linear<T> inp{128, 128, true};
  Tensor<T> mask = Tensor<T>::zeros({1, 128});
  Block<T> decoder{{.width = 128, .heads = 4, .hidden = 256}};
  LayerNorm<T> norm{128, 1e-6};
  Linear<T> out{128, 64, true};

  void visit(Visitor<T>& v) {
    v("trunk", trunk);
    v("inp", inp);
    v("mask", mask);
    v("decoder", decoder);
    v("norm", norm);
    v("out", out);
  }
  /// pixels and target (B,4,64,64), normalised; `order` holds for each image the patches in the
  /// order in which they are kept, the first `kept` of them visible.
  Tensor<T> loss(const Tensor<T>& pixels, const Tensor<T>& target,
                 const std::vector<std::vector<Index>>& order, Index kept) {
    const Index b = pixels.size(0), n = 256, d = 128;
    auto rows = Tensor<std::int64_t>::empty({b * kept}),
         back = Tensor<std::int64_t>::empty({b * n});
    Tensor<T> weight = Tensor<T>::empty({b, n, 1});
    const T hidden = T(1) / static_cast<T>(b * (n - kept)),
            visible = T(0.5) / static_cast<T>(b * kept);
    for (Index i = 0; i < b; ++i)
      for (Index j = 0; j < n; ++j) {
        const Index p = order[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)];
        if (j < kept) rows.data()[i * kept + j] = i * n + p;
        back.data()[i * n + p] = j < kept ? i * kept + j : b * kept;
        weight.data()[i * n + p] = (j < kept ? visible : hidden) / T(64);
      }
    Tensor<T> x =
        reshape(index_select(reshape(trunk.embed(pixels), {b * n, d}), rows), {b, kept, d});
    for (Index i = 0; i < trunk.config.depth; ++i) x = trunk.block(i, x);  // (B,M,D)
    const Tensor<T> seen = reshape(inp(trunk.finish(x)), {b * kept, d});
    const Tensor<T> all = index_select(concat<T>({seen, mask}, 0), back);  // (B*N,D)
    x = add(reshape(all, {b, n, d}), trunk.positions(16, 16, true));       // (B,N,D)
    const Tensor<T> drawn = out(norm(decoder(x)));                         // (B,N,64)
    return sum(mul(square(sub(drawn, patches(target, 4))), weight));
  }
};

/// Depth pre-training: the trunk and a linear head that draws 4 x 4 heights per patch.
template <class T>
struct HeightModel {
  ViT<T> trunk{small_trunk_config(3)};
  Linear<T> out{128, 16, true};
  void visit(Visitor<T>& v) {
    v("trunk", trunk);
    v("out", out);
  }
  /// pixels (B,3,64,64), normalised; target (B,1,64,64) = log(1 + height).
  Tensor<T> loss(const Tensor<T>& pixels, const Tensor<T>& target) {
    const Tensor<T> drawn = out(trunk(pixels));  // (B,N,16)
    // Smooth L1 with beta 0.3: c (|e| - c/2) / beta with c = min(|e|, beta).
    const Tensor<T> e = abs(sub(drawn, patches(target, 4))), beta = Tensor<T>::scalar(T(0.3));
    const Tensor<T> c = minimum(e, beta);
    return scale(mean(mul(c, sub(e, scale(c, T(0.5))))), T(1) / T(0.3));
  }
};

/// One batch of never repeated tiles under random domains, drawn from (seed, step) alone.
template <class T>
struct PretrainBatch {
  Tensor<T> pixels, target, height;  ///< (B,4,64,64) twice, (B,1,64,64)
  std::vector<std::vector<Index>> order;
};
template <class T>
PretrainBatch<T> pretrain_batch(std::uint64_t seed, Index step, Index batch) {
  constexpr Index s = small_tile, area = s * s;
  PretrainBatch<T> out{Tensor<T>::empty({batch, 4, s, s}), Tensor<T>::empty({batch, 4, s, s}),
                       Tensor<T>::empty({batch, 1, s, s}),
                       std::vector<std::vector<Index>>(static_cast<std::size_t>(batch))};
  parallel_for(batch, 1, [&](Index first, Index last) {
    for (Index i = first; i < last; ++i) {
      const Random r(seed, "pretrain tile", static_cast<std::uint64_t>(step * batch + i));
      const std::uint64_t scene = (std::uint64_t{r.bits(0)} << 32) | r.bits(1);
      const data::Domain seen = data::random_domain(scene);
      // The reference: the same place, season and sun through clear air and a noise-free sensor.
      data::Domain clean = data::domain("source");
      clean.gsd = seen.gsd, clean.season = seen.season, clean.wet = seen.wet;
      clean.sun_elevation = seen.sun_elevation, clean.sun_azimuth = seen.sun_azimuth;
      clean.haze = 0, clean.noise = 0, clean.psf = 0.4f;
      const data::Layout layout =
          data::make_layout(scene, {.gsd = seen.gsd, .height = s, .width = s});
      const data::Scene x = data::render(layout, seen, scene),
                        y = data::render(layout, clean, scene);
      const std::uint32_t turn = r.below(2, 8);
      const auto put = [&](const float* from, T* to, float mean, float std, bool log) {
        for (Index v = 0; v < s; ++v)
          for (Index u = 0; u < s; ++u) {
            Index a = v, b = u;  // an element of the dihedral group of the square
            if (turn & 1) b = s - 1 - b;
            if (turn & 2) a = s - 1 - a;
            if (turn & 4) std::swap(a, b);
            const float value = from[a * s + b];
            to[v * s + u] = static_cast<T>(log ? std::log1p(value) : (value - mean) / std);
          }
      };
      for (Index c = 0; c < 4; ++c) {
        const std::size_t k = static_cast<std::size_t>(c);
        put(x.reflectance.data() + c * area, out.pixels.data() + (i * 4 + c) * area, small_mean[k],
            small_std[k], false);
        put(y.reflectance.data() + c * area, out.target.data() + (i * 4 + c) * area, small_mean[k],
            small_std[k], false);
      }
      put(x.height.data(), out.height.data() + i * area, 0, 1, true);
      std::vector<Index>& order = out.order[static_cast<std::size_t>(i)];
      order.resize(256);
      std::iota(order.begin(), order.end(), 0);
      const Random mask(seed, "pretrain mask", static_cast<std::uint64_t>(step * batch + i));
      for (std::uint32_t j = 255; j > 0; --j) std::swap(order[j], order[mask.below(j, j + 1)]);
    }
  });
  return out;
}

enum class SmallTrunk : unsigned char { vision, depth };

struct PretrainOptions {
  SmallTrunk kind = SmallTrunk::vision;
  Index steps = 10000;
  std::uint64_t seed = 1;
  Index warmup = 80;
  Index batch() const { return kind == SmallTrunk::vision ? 32 : 16; }
  double lr() const { return kind == SmallTrunk::vision ? 1.5e-3 : 1e-3; }
};

/// A pre-training run that can be stopped and resumed at any step: model, optimizer, schedule.
template <class T>
class Pretraining {
 public:
  explicit Pretraining(const PretrainOptions& o)
      : options(o), schedule_{.decay = Decay::cosine, .steps = o.steps, .warmup = o.warmup} {
    if (vision()) {
      init_small<T>(masked, o.seed);
      require_grad<T>(masked, "**");
    } else {
      init_small<T>(heights, o.seed);
      require_grad<T>(heights, "**");
    }
    optimizer_ = std::make_unique<AdamW<T>>(
        named(), AdamWOptions{.lr = o.lr(), .beta1 = 0.9, .beta2 = 0.95, .weight_decay = 0.05});
  }
  /// Runs the next step and returns its loss.
  double step() {
    const PretrainBatch<T> b =
        pretrain_batch<T>(options.seed, optimizer_->steps(), options.batch());
    const Tensor<T> l = loss(b);
    backward(l);
    optimizer_->step(schedule_.at(optimizer_->steps()), clip_scale(grad_norm(*optimizer_), 1.0));
    optimizer_->zero_grad();
    return static_cast<double>(l.item());
  }
  /// Mean loss over batches that training never draws.
  double held_out(Index batches) {
    NoGrad off;
    double total = 0;
    for (Index i = 0; i < batches; ++i)
      total += static_cast<double>(
          loss(pretrain_batch<T>(options.seed + 1000003, i, options.batch())).item());
    return total / static_cast<double>(batches);
  }
  Index steps_done() const { return optimizer_->steps(); }
  ViT<T>& trunk() { return vision() ? masked.trunk : heights.trunk; }
  /// Model and optimizer as one map, for a checkpoint.
  TensorMap snapshot() {
    TensorMap out = optimizer_->state();
    out.merge(vision() ? state<T>(masked, "model.") : state<T>(heights, "model."));
    return out;
  }
  void restore(const TensorMap& map, Index steps) {
    const LoadOptions o{
        .ignored = {"m.**", "v.**"}, .prefix = "model.", .may_share = false, .what = "pretrain"};
    if (vision())
      load<T>(masked, map, o);
    else
      load<T>(heights, map, o);
    optimizer_->load_state(map, steps);
  }
  PretrainOptions options;
  MaskedModel<T> masked;
  HeightModel<T> heights;

 private:
  bool vision() const { return options.kind == SmallTrunk::vision; }
  std::vector<Named<T>> named() {
    return vision() ? parameters<T>(masked) : parameters<T>(heights);
  }
  Tensor<T> loss(const PretrainBatch<T>& b) {
    return vision() ? masked.loss(b.pixels, b.target, b.order, 102)
                    : heights.loss(slice(b.pixels, 1, 0, 3), b.height);
  }
  Schedule schedule_;
  std::unique_ptr<AdamW<T>> optimizer_;
};

}  // namespace moraine
