#pragma once
// The pre-norm transformer block of every ViT family here:
//
//   x = x + ls1 * attn(norm1 x),   x = x + ls2 * mlp(norm2 x)
#include <moraine/nn/attention.hpp>
#include <moraine/nn/mlp.hpp>
#include <moraine/nn/norm.hpp>
#include <moraine/nn/observe.hpp>

namespace moraine MORAINE_API {

enum class Ffn : unsigned char { mlp, swiglu };

struct BlockConfig {
  Index width = 768, heads = 12, hidden = 3072;
  Activation activation = Activation::gelu;
  Ffn ffn = Ffn::mlp;
  Activation gate = Activation::silu;  ///< of Ffn::swiglu
  bool query_bias = true, key_bias = true, value_bias = true, proj_bias = true, mlp_bias = true;
  bool layer_scale = false;
  bool mlp_norm = false;  ///< a norm inside the SwiGLU
  RopeLayout rope = RopeLayout::half;
  double eps = 1e-6;
};

template <class T>
struct LayerScale {
  Tensor<T> gamma;  ///< (C), or undefined
  void visit(Visitor<T>& v) { v("gamma", gamma); }
};

template <class T>
struct Block {
  LayerNorm<T> norm1, norm2;
  SelfAttention<T> attn;
  Mlp<T> mlp;
  SwiGlu<T> swiglu;  ///< instead of mlp when Ffn::swiglu; its keys are mlp.w12, mlp.w3
  LayerScale<T> ls1, ls2;

  Block() = default;
  explicit Block(const BlockConfig& c)
      : norm1(c.width, c.eps),
        norm2(c.width, c.eps),
        attn({.width = c.width,
              .heads = c.heads,
              .query_bias = c.query_bias,
              .key_bias = c.key_bias,
              .value_bias = c.value_bias,
              .proj_bias = c.proj_bias,
              .rope = c.rope}) {
    if (c.ffn == Ffn::mlp)
      mlp = Mlp<T>(c.width, c.hidden, c.activation, c.mlp_bias);
    else
      swiglu = SwiGlu<T>({.width = c.width,
                          .hidden = c.hidden,
                          .activation = c.gate,
                          .bias = c.mlp_bias,
                          .norm = c.mlp_norm,
                          .eps = c.eps});
    if (c.layer_scale) ls1.gamma = Tensor<T>::ones({c.width});
    if (c.layer_scale) ls2.gamma = Tensor<T>::ones({c.width});
  }
  /// x (B,N,C) -> (B,N,C); `places` (P,2,D) where queries and keys are turned (nn/rope.hpp).
  Tensor<T> operator()(const Tensor<T>& x, const Tensor<T>& places = {}) {
    Tensor<T> y;
    {
      Scope scope("attn");
      y = attn(norm1(x), {.residual = x, .scale = ls1.gamma}, places);  // (B,N,C)
    }
    Scope scope("mlp");
    const LinearOptions<T> end{.residual = y, .scale = ls2.gamma};
    return mlp.fc1.empty() ? swiglu(norm2(y), end) : mlp(norm2(y), end);  // (B,N,C)
  }
  void visit(Visitor<T>& v) {
    v("norm1", norm1);
    v("attn", attn);
    v("ls1", ls1);
    v("norm2", norm2);
    if (mlp.fc1.empty())
      v("mlp", swiglu);
    else
      v("mlp", mlp);
    v("ls2", ls2);
  }
};

}  // namespace moraine
