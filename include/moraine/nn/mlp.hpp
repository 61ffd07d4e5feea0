#pragma once
// The two feed-forward networks of the ViT families: fc2(act(fc1 x)), and SwiGLU.
#include <moraine/nn/linear.hpp>
#include <moraine/ops/binary.hpp>
#include <moraine/ops/shape.hpp>

namespace moraine MORAINE_API {

template <class T>
struct Mlp {
  Slot<T> fc1, fc2;
  Activation activation = Activation::gelu;

  Mlp() = default;
  Mlp(Index width, Index hidden, Activation a)
      : fc1(linear_slot<T>(width, hidden, true)),
        fc2(linear_slot<T>(hidden, width, true)),
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

/// w3(silu(a) b) with (a, b) = w12 x; a is the first half of the rows of w12.
template <class T>
struct SwiGlu {
  Slot<T> w12, w3;

  SwiGlu() = default;
  SwiGlu(Index width, Index hidden)
      : w12(linear_slot<T>(width, 2 * hidden, true)), w3(linear_slot<T>(hidden, width, true)) {}
  Tensor<T> operator()(const Tensor<T>& x, const LinearOptions<T>& o = {}) {
    const Tensor<T> ab = w12(x);  // (...,2F)
    const Index f = ab.size(-1) / 2;
    return w3(mul(silu(slice(ab, -1, 0, f)), slice(ab, -1, f, 2 * f)), o);  // (...,C)
  }
  void visit(Visitor<T>& v) {
    if (w12.empty()) return;
    v("w12", w12);
    v("w3", w3);
  }
};

}  // namespace moraine
