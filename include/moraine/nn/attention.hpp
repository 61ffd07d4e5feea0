#pragma once
// Multi-head self-attention with one fused qkv projection (rows q, k, v; inside each, head by
// head), and rotary positions where the family has them.
#include <moraine/nn/linear.hpp>
#include <moraine/nn/observe.hpp>
#include <moraine/ops/attention.hpp>
#include <moraine/ops/rope.hpp>

namespace moraine MORAINE_API {

struct SelfAttentionConfig {
  Index width = 768, heads = 12;
  /// Which of the three have a bias. Where some have and others not, the rows of the fused bias
  /// that nobody has are zero and stay so: they receive no gradient.
  bool query_bias = true, key_bias = true, value_bias = true;
  bool proj_bias = true;
  RopeLayout rope = RopeLayout::half;  ///< matters where places are given
};

/// (3C): one where a bias is, zero where none is; undefined when all three are there or missing.
template <class T>
Tensor<T> qkv_bias_mask(const SelfAttentionConfig& c) {
  if (c.query_bias == c.key_bias && c.key_bias == c.value_bias) return {};
  Tensor<T> mask = Tensor<T>::zeros({3 * c.width});
  const bool has[] = {c.query_bias, c.key_bias, c.value_bias};
  for (Index i = 0; i < 3 * c.width; ++i) mask.data()[i] = has[i / c.width] ? T(1) : T(0);
  return mask;
}

template <class T>
struct SelfAttention {
  Slot<T> qkv;   ///< (C) -> (3C)
  Slot<T> proj;  ///< (C) -> (C)
  Index heads = 1;
  RopeLayout layout = RopeLayout::half;
  Product product = Product::fp32;  ///< of scores and values; qkv and proj have their own

  SelfAttention() = default;
  explicit SelfAttention(const SelfAttentionConfig& c)
      : proj(linear_slot<T>(c.width, c.width, c.proj_bias)), heads(c.heads), layout(c.rope) {
    auto fused = std::make_unique<Linear<T>>(c.width, 3 * c.width,
                                             c.query_bias || c.key_bias || c.value_bias);
    fused->bias_mask = qkv_bias_mask<T>(c);
    qkv = Slot<T>(std::move(fused));
  }

  /// x (B,N,C) -> (B,N,C); `o` ends the output projection (residual, layer scale). `places`
  /// (P,2,D): the queries and keys of the last P tokens are turned by it (ops/rope.hpp).
  Tensor<T> operator()(const Tensor<T>& x, const LinearOptions<T>& o = {},
                       const Tensor<T>& places = {}) {
    Tensor<T> all = qkv(x);  // (B,N,3C)
    if (places.defined()) all = rope(std::move(all), places, {.heads = heads, .layout = layout});
    const AttentionOptions<T> with{.product = product};
    if (observed("weights")) observe("weights", self_attention_weights(all, heads, with));
    return proj(self_attention(all, heads, with), o);  // (B,N,C)
  }
  void visit(Visitor<T>& v) {
    v("qkv", qkv);
    v("proj", proj);
    v.product(product);
  }
};

}  // namespace moraine
