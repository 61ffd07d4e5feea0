#pragma once
// AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), and clipping of the gradient's
// norm.
//
//   p -= lr wd p;   m = b1 m + (1-b1) g;   v = b2 v + (1-b2) g^2
//   p -= lr (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps)
#include <cmath>
#include <moraine/nn/module.hpp>
#include <moraine/ops/optimizer.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

struct AdamWOptions {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01;
};

/// Which parameters decay: matrices and convolutions do, vectors and scalars do not.
template <class T>
bool decays_by_rank(const Named<T>& p) {
  return p.tensor->rank() >= 2;
}

template <class T>
class AdamW {
 public:
  struct Slot_ {
    Named<T> param;
    Tensor<T> m, v;
    double lr_factor = 1, decay_factor = 1;
  };

  /// Takes every tracked parameter of the list. The modules that own them must outlive this object
  /// and not move.
  AdamW(const std::vector<Named<T>>& params, const AdamWOptions& o) : options(o) {
    for (const Named<T>& p : params)
      if (p.tensor->tracked())
        slots_.push_back({p, Tensor<T>::zeros(p.tensor->shape()),
                          Tensor<T>::zeros(p.tensor->shape()), 1, decays_by_rank(p) ? 1.0 : 0.0});
    if (slots_.empty()) fail(ErrorKind::value, "adamw: no parameter has requires_grad()");
  }
  AdamWOptions options;

  /// Multiplies the learning rate (or the decay) of the parameters whose path matches.
  void set_lr_factor(const char* pattern, double f) {
    for (Slot_& s : slots_)
      if (matches(pattern, s.param.name.c_str())) s.lr_factor = f;
  }
  void set_decay_factor(const char* pattern, double f) {
    for (Slot_& s : slots_)
      if (matches(pattern, s.param.name.c_str())) s.decay_factor = f;
  }

  /// One step with the learning rate times `factor` and every gradient times `grad_scale`
  /// (clip_scale gives it): the gradients themselves stay. A parameter without one is left alone.
  void step(double factor = 1, double grad_scale = 1) {
    ++steps_;
    for (Slot_& s : slots_) {
      const Tensor<T> g = s.param.tensor->grad();
      if (!g.defined()) continue;
      const Tensor<T> cg = g.contiguous();
      launch(cg.device(),
             AdamWStep<T>{options.lr * factor * s.lr_factor, options.beta1, options.beta2,
                          options.eps, options.weight_decay * s.decay_factor, steps_, cg.numel(),
                          s.param.tensor->data(), cg.data(), s.m.data(), s.v.data(), grad_scale});
    }
  }
  void zero_grad() {
    for (Slot_& s : slots_) s.param.tensor->zero_grad();
  }
  const std::vector<Slot_>& slots() const { return slots_; }
  Index steps() const { return steps_; }

  /// The moments under "m.<path>" and "v.<path>"; steps() is to be saved beside them.
  TensorMap state() const {
    TensorMap out;
    for (const Slot_& s : slots_)
      out.emplace("m." + s.param.name, s.m), out.emplace("v." + s.param.name, s.v);
    return out;
  }
  void load_state(const TensorMap& map, Index steps) {
    for (Slot_& s : slots_)
      for (auto [prefix, t] : {std::pair{"m.", &s.m}, std::pair{"v.", &s.v}}) {
        const auto it = map.find(prefix + s.param.name);
        if (it == map.end() || it->second.shape != t->shape())
          fail(ErrorKind::key, "adamw: the saved state does not fit; " + (prefix + s.param.name));
        *t = it->second.template as<T>().clone();
      }
    steps_ = steps;
  }

 private:
  std::vector<Slot_> slots_;
  Index steps_ = 0;
};

/// Norm of all gradients together. Sums in double, parameter by parameter.
template <class T>
double grad_norm(const AdamW<T>& optimizer) {
  double total = 0;
  for (const auto& s : optimizer.slots()) {
    const Tensor<T> g = s.param.tensor->grad();
    if (!g.defined()) continue;
    const Tensor<T> c = g.contiguous();
    double squares = 0;
    launch(c.device(), SumOfSquares<T>{c.numel(), c.data(), &squares});
    total += squares;
  }
  return std::sqrt(total);
}

/// What clipping to `max` multiplies gradients of this norm by: min(1, max / (norm + 1e-6)), 1 for
/// a norm that is not a number.
inline double clip_scale(double norm, double max) {
  const double f = max / (norm + 1e-6);
  return f < 1 ? f : 1;
}

/// Scales all gradients by clip_scale(norm, max); returns the norm before. A loop that does not
/// look at the clipped gradients saves a copy of them: step(factor, clip_scale(grad_norm(o), max)).
template <class T>
double clip_grad_norm(AdamW<T>& optimizer, double max) {
  const double norm = grad_norm(optimizer), f = clip_scale(norm, max);
  if (f == 1) return norm;
  for (const auto& s : optimizer.slots()) {
    if (!s.param.tensor->grad().defined()) continue;
    NodeOf<T>& node = *static_cast<NodeOf<T>*>(s.param.tensor->node().get());
    const Tensor<T> g = node.grad.contiguous(), scaled_grad = empty_like(g);
    launch(g.device(), Scaled<T>{g.numel(), static_cast<T>(f), g.data(), scaled_grad.data()});
    node.grad = scaled_grad;
    node.own_grad = true;
  }
  return norm;
}

}  // namespace moraine
