#pragma once
// The two feed-forward networks of the ViT families: fc2(act(fc1 x)), and SwiGLU.
#include <moraine/nn/linear.hpp>
#include <moraine/nn/norm.hpp>
#include <moraine/ops/gated.hpp>

namespace moraine MORAINE_API {

template <class T>
struct Mlp {
  Slot<T> fc1, fc2;
  Activation activation = Activation::gelu;

  Mlp() = default;
  Mlp(Index width, Index hidden, Activation a, bool bias = true)
      : fc1(linear_slot<T>(width, hidden, bias)),
        fc2(linear_slot<T>(hidden, width, bias)),
        activation(a) {}
  /// x (...,C) -> (...,C); `o` ends the last product.
  Tensor<T> operator()(const Tensor<T>& x, const LinearOptions<T>& o = {}) {
    return fc2(fc1(x, {.activation = activation}), o);
  }
  void visit(Visitor<T>& v) {
    v("fc1", fc1);
    v("fc2", fc2);
  }
};

struct SwiGluConfig {
  Index width = 768, hidden = 2048;
  Activation activation = Activation::silu;  ///< of the gate
  bool bias = true;
  bool norm = false;  ///< a LayerNorm over the hidden width, before w3 (the "sub-LN" of EVA-02)
  double eps = 1e-6;  ///< of that norm
};

/// w3(norm(act(a) b)) with (a, b) = w12 x; a, the gate, is the first half of the rows of w12. Files
/// that hold the two halves apart join them by their key table.
template <class T>
struct SwiGlu {
  Slot<T> w12, w3;
  LayerNorm<T> norm;  ///< undefined without
  Activation activation = Activation::silu;

  SwiGlu() = default;
  explicit SwiGlu(const SwiGluConfig& c)
      : w12(linear_slot<T>(c.width, 2 * c.hidden, c.bias)),
        w3(linear_slot<T>(c.hidden, c.width, c.bias)),
        activation(c.activation) {
    if (c.norm) norm = LayerNorm<T>(c.hidden, c.eps);
  }
  Tensor<T> operator()(const Tensor<T>& x, const LinearOptions<T>& o = {}) {
    Tensor<T> u = gated(w12(x), activation);  // (...,F)
    if (norm.weight.defined()) u = norm(u);   // (...,F)
    return w3(u, o);                          // (...,C)
  }
  void visit(Visitor<T>& v) {
    if (w12.empty()) return;
    v("w12", w12);
    v("norm", norm);
    v("w3", w3);
  }
};

}  // namespace moraine
