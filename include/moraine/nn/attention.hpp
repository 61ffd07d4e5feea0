#pragma once
// Multi-head self-attention with one fused qkv projection (rows q, k, v; inside each, head by
// head).
#include <moraine/nn/linear.hpp>
#include <moraine/ops/attention.hpp>

namespace moraine MORAINE_API {

template <class T>
struct SelfAttention {
  Slot<T> qkv;   ///< (C) -> (3C)
  Slot<T> proj;  ///< (C) -> (C)
  Index heads = 1;
  Product product = Product::fp32;  ///< of scores and values; qkv and proj have their own

  SelfAttention() = default;
  SelfAttention(Index width, Index h, bool qkv_bias)
      : qkv(linear_slot<T>(width, 3 * width, qkv_bias)),
        proj(linear_slot<T>(width, width, true)),
        heads(h) {}

  /// x (B,N,C) -> (B,N,C); `o` ends the output projection (residual, layer scale).
  Tensor<T> operator()(const Tensor<T>& x, const LinearOptions<T>& o = {}) {
    const Tensor<T> all = qkv(x);                                      // (B,N,3C)
    return proj(self_attention(all, heads, {.product = product}), o);  // (B,N,C)
  }
  void visit(Visitor<T>& v) {
    v("qkv", qkv);
    v("proj", proj);
    v.product(product);
  }
};

}  // namespace moraine
