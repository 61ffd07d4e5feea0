#pragma once
// Layer normalisation with its two vectors.
#include <moraine/nn/module.hpp>
#include <moraine/ops/norm.hpp>

namespace moraine MORAINE_API {

template <class T>
struct LayerNorm {
  Tensor<T> weight, bias;  ///< (C)
  double eps = 1e-6;

  LayerNorm() = default;
  LayerNorm(Index width, double e)
      : weight(Tensor<T>::ones({width})), bias(Tensor<T>::zeros({width})), eps(e) {}
  Tensor<T> operator()(const Tensor<T>& x) const { return layer_norm(x, weight, bias, eps); }
  void visit(Visitor<T>& v) {
    v("weight", weight);
    v("bias", bias);
  }
};

}  // namespace moraine
