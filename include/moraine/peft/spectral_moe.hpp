#pragma once
// The SpectralMoE plugin (Chen et al., CVPR 2026): a dual-gated mixture of low-rank token experts
// between the blocks of a frozen vision trunk, guided by a frozen depth trunk. At layer l, with the
// patch rows V of the visual and Z of the depth stream:
//
//   Ov = experts(V, gate_v(V)),  Od = experts(Z, gate_d(Z)),  Delta = fuse(Ov, Od)
//   out = V + alpha (W2 (Delta + V) + b2)
//
// Experts are shared by both streams; gates are per stream. W1, W2 and alpha are shared by all
// layers. Parameter names are those of the published checkpoint.
#include <moraine/nn/init.hpp>
#include <moraine/nn/module.hpp>
#include <moraine/peft/fusion.hpp>
#include <moraine/peft/gate.hpp>
#include <moraine/peft/token_experts.hpp>

#include <string>
#include <vector>

namespace moraine MORAINE_API {

struct SpectralMoeConfig {
  Index layers = 24, dim = 1024, tokens = 100, rank = 16, experts = 6, query_dim = 256;
  Index prefix = 0;        ///< leading visual tokens that bypass the plugin
  Index depth_prefix = 0;  ///< leading depth tokens that are dropped
  GateOptions gate;
  TokenExpertOptions expert;
  Fusion fusion = Fusion::eq;
  bool balance_importance = true, balance_load = false;  ///< which cv^2 make the balance loss
  bool balance_sum = false;  ///< sum over the two streams instead of their mean
  double balance_coef = 1;
};

/// As the paper writes it. With top_k 1 the importance is a count and gives the gate no gradient:
/// to train, set balance_load.
inline SpectralMoeConfig spectral_moe_paper() { return {}; }
/// As the published code computes it (commit 6c6a5e7).
inline SpectralMoeConfig spectral_moe_official() {
  SpectralMoeConfig c;
  c.gate = {.logits = GateLogits::l2, .noise_floor = 0.01};
  c.expert = {.logits = ExpertLogits::sumprod, .drop_first = true, .combine = Combine::logsumexp};
  c.fusion = Fusion::diag;
  c.balance_load = c.balance_sum = true;
  c.balance_coef = 1000;
  return c;
}

/// Standard normal draws for the two gates, (B*N,E) each; undefined: no noise (evaluation).
template <class T>
struct GateNoise {
  Tensor<T> visual, depth;
};

template <class T>
struct SpectralMoeOutput {
  Tensor<T> out;       ///< (B,P+N,D)
  Tensor<T> aux_loss;  ///< (), the balance loss of this layer
  Gates<T> visual, depth;
  Tensor<T> moe_visual, moe_depth;  ///< (B,N,D), combined experts
  Tensor<T> delta;                  ///< (B,N,D), before W2
};

template <class T>
struct SpectralMoe {
  SpectralMoeConfig config;
  std::vector<std::vector<Tensor<T>>> experts_a, experts_b;  ///< [layer][expert]: (T,r), (r,D)
  std::vector<std::vector<Tensor<T>>> w_gate, w_noise;       ///< [layer][0 visual, 1 depth]: (D,E)
  Tensor<T> scale;                                           ///< (), alpha
  Tensor<T> token2feat_w, token2feat_b;                      ///< W1 (D,D), b1 (D)
  Tensor<T> delta_w, delta_b;                                ///< W2 (D,D), b2 (D)
  Tensor<T> transform_w, transform_b;                        ///< (Q,D), (Q)
  Tensor<T> merge_w, merge_b;                                ///< (Q,3Q), (Q)

  SpectralMoe() = default;
  /// All zero, to be loaded or initialised with init().
  explicit SpectralMoe(const SpectralMoeConfig& c) : config(c) {
    if (c.layers < 1 || c.dim < 1 || c.tokens < 1 || c.rank < 1 || c.experts < 1 ||
        c.query_dim < 1 || c.prefix < 0 || c.depth_prefix < 0 || c.gate.top_k < 1 ||
        c.gate.top_k > c.experts)
      fail(ErrorKind::value,
           "spectralmoe: sizes must be positive and top_k at most the experts; layers " +
               std::to_string(c.layers) + ", dim " + std::to_string(c.dim) + ", experts " +
               std::to_string(c.experts) + ", top_k " + std::to_string(c.gate.top_k));
    const auto zeros = [](Shape s) { return Tensor<T>::zeros(s); };
    for (Index l = 0; l < c.layers; ++l) {
      experts_a.emplace_back(), experts_b.emplace_back();
      for (Index e = 0; e < c.experts; ++e) {
        experts_a.back().push_back(zeros({c.tokens, c.rank}));
        experts_b.back().push_back(zeros({c.rank, c.dim}));
      }
      w_gate.push_back({zeros({c.dim, c.experts}), zeros({c.dim, c.experts})});
      w_noise.push_back({zeros({c.dim, c.experts}), zeros({c.dim, c.experts})});
    }
    scale = zeros({});
    token2feat_w = zeros({c.dim, c.dim}), token2feat_b = zeros({c.dim});
    delta_w = zeros({c.dim, c.dim}), delta_b = zeros({c.dim});
    transform_w = zeros({c.query_dim, c.dim}), transform_b = zeros({c.query_dim});
    merge_w = zeros({c.query_dim, 3 * c.query_dim}), merge_b = zeros({c.query_dim});
  }

  /// One layer: visual (B,P+N,D), depth (B,Pd+N,D).
  SpectralMoeOutput<T> layer(Index l, const Tensor<T>& visual, const Tensor<T>& depth,
                             const GateNoise<T>& noise = {}) const {
    const SpectralMoeConfig& c = config;
    if (visual.rank() != 3 || depth.rank() != 3 || visual.size(2) != c.dim ||
        depth.size(2) != c.dim || visual.size(0) != depth.size(0) || visual.size(1) < c.prefix ||
        depth.size(1) < c.depth_prefix ||
        visual.size(1) - c.prefix != depth.size(1) - c.depth_prefix)
      fail(ErrorKind::shape,
           "spectralmoe: visual (B,P+N,D) and depth (B,Pd+N,D) do not match; visual " +
               str(visual.shape()) + ", depth " + str(depth.shape()) + ", P " +
               std::to_string(c.prefix) + ", Pd " + std::to_string(c.depth_prefix) + ", D " +
               std::to_string(c.dim));
    if (l < 0 || l >= c.layers)
      fail(ErrorKind::value,
           "spectralmoe: layer " + std::to_string(l) + " of " + std::to_string(c.layers));
    Scope scope("moe", l);
    const Index b = visual.size(0), n = visual.size(1) - c.prefix, d = c.dim;
    const Tensor<T> v = c.prefix ? slice(visual, 1, c.prefix, c.prefix + n) : visual;  // (B,N,D)
    const Tensor<T> z =
        c.depth_prefix ? slice(depth, 1, c.depth_prefix, c.depth_prefix + n) : depth;
    SpectralMoeOutput<T> o;
    const TokenExperts<T> experts =
        gather_experts(experts_a[static_cast<std::size_t>(l)],
                       experts_b[static_cast<std::size_t>(l)], token2feat_w, token2feat_b);
    const auto stream = [&](const char* name, const Tensor<T>& rows, int j, const Tensor<T>& eps,
                            Gates<T>& g) {
      Scope inner(name);
      const std::size_t at = static_cast<std::size_t>(l), jj = static_cast<std::size_t>(j);
      const Tensor<T> f = reshape(rows, {b * n, d});  // (n,D)
      g = gate(f, w_gate[at][jj], w_noise[at][jj], eps, c.gate);
      return reshape(token_experts(f, experts, g.gates, g.chosen, c.expert), {b, n, d});
    };
    o.moe_visual = stream("visual", v, 0, noise.visual, o.visual);  // (B,N,D)
    o.moe_depth = stream("depth", z, 1, noise.depth, o.depth);      // (B,N,D)
    o.delta = fuse(o.moe_visual, o.moe_depth, c.fusion);            // (B,N,D)
    const Tensor<T> patches = linear(add(o.delta, v), delta_w, delta_b,
                                     {.residual = v, .scale = expand(scale, {d})});  // (B,N,D)
    o.out =
        c.prefix ? concat<T>({slice(visual, 1, 0, c.prefix), patches}, 1) : patches;  // (B,P+N,D)
    o.aux_loss = balance(o.visual, o.depth);
    return o;
  }

  /// The balance loss of one layer, coef * reduce over streams of the sum of the chosen cv^2.
  Tensor<T> balance(const Gates<T>& visual, const Gates<T>& depth) const {
    Tensor<T> total = Tensor<T>::scalar(T(0));
    for (const Gates<T>* g : {&visual, &depth}) {
      if (config.balance_importance) total = add(total, cv_squared(g->importance));
      if (config.balance_load) total = add(total, cv_squared(g->load));
    }
    return moraine::scale(total,
                          static_cast<T>(config.balance_coef * (config.balance_sum ? 1.0 : 0.5)));
  }

  /// Query positions for a mask decoder, (T,Q): expert tokens averaged over the experts, summarised
  /// over the layers by maximum, mean and last, then merged.
  Tensor<T> queries() const {
    std::vector<Tensor<T>> per_layer;
    for (std::size_t l = 0; l < experts_a.size(); ++l) {
      Tensor<T> t;
      for (std::size_t e = 0; e < experts_a[l].size(); ++e) {
        const Tensor<T> tokens = expert_tokens(experts_a[l][e], experts_b[l][e]);  // (T,D)
        t = e ? add(t, tokens) : tokens;
      }
      t = moraine::scale(t, T(1) / static_cast<T>(config.experts));
      per_layer.push_back(linear(t, transform_w, transform_b));  // (T,Q)
    }
    const Tensor<T> all = stack(per_layer);  // (L,T,Q)
    const Tensor<T> three =
        stack<T>({max(all, 0).values, mean(all, {.axes = {0}}), per_layer.back()}, 2);  // (T,Q,3)
    return linear(reshape(three, {config.tokens, 3 * config.query_dim}), merge_w,
                  merge_b);  // (T,Q)
  }

  void visit(Visitor<T>& v) {
    const auto grid = [&](const char* name, std::vector<std::vector<Tensor<T>>>& g) {
      for (std::size_t i = 0; i < g.size(); ++i)
        for (std::size_t j = 0; j < g[i].size(); ++j)
          v((std::string(name) + '.' + std::to_string(i) + '.' + std::to_string(j)).c_str(),
            g[i][j]);
    };
    grid("experts_a", experts_a);
    grid("experts_b", experts_b);
    grid("w_gate", w_gate);
    grid("w_noise", w_noise);
    v("scale", scale);
    v("mlp_token2feat.weight", token2feat_w), v("mlp_token2feat.bias", token2feat_b);
    v("mlp_delta_f.weight", delta_w), v("mlp_delta_f.bias", delta_b);
    v("transform.weight", transform_w), v("transform.bias", transform_b);
    v("merge.weight", merge_w), v("merge.bias", merge_b);
  }

  /// How the free parameters start.
  struct InitOptions {
    std::uint64_t seed = 0;
    double a_bound = 0;        ///< 0: 1/sqrt(r), as published
    double b_std = 0;          ///< published: 0
    double prototype_std = 0;  ///< published: 0, where all experts tie
    double scale = 0.001;      ///< alpha, as published
  };
  void init(const InitOptions& o) {
    for (Named<T>& p : parameters<T>(*this)) {
      const Random r = moraine::init::stream(o.seed, p.name);
      const std::string& s = p.name;
      const auto starts = [&](const char* with) { return s.rfind(with, 0) == 0; };
      if (starts("experts_a"))
        moraine::init::uniform(
            *p.tensor,
            o.a_bound > 0 ? o.a_bound : 1.0 / std::sqrt(static_cast<double>(config.rank)), r);
      else if (starts("experts_b"))
        moraine::init::normal(*p.tensor, o.b_std, r);
      else if (starts("w_gate"))
        moraine::init::normal(*p.tensor, o.prototype_std, r);
      else if (s == "scale")
        p.tensor->data()[0] = static_cast<T>(o.scale);
      else if (starts("merge"))
        moraine::init::linear_default(*p.tensor, 3 * config.query_dim, r);
      else if (!starts("w_noise"))
        moraine::init::linear_default(*p.tensor, config.dim, r);
    }
  }
};

}  // namespace moraine
