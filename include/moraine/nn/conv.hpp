#pragma once
// A convolution, or its transpose, with its weights, in PyTorch's layout. For necks and decoders.
#include <moraine/nn/module.hpp>
#include <moraine/ops/conv.hpp>
#include <moraine/ops/conv_transpose.hpp>

namespace moraine MORAINE_API {

template <class T>
struct ConvLayer {
  Tensor<T> weight;  ///< (O,C/groups,kh,kw)
  Tensor<T> bias;    ///< (O), or undefined
  ConvOptions options;

  ConvLayer() = default;
  /// Zeros, to be loaded or initialised.
  ConvLayer(Index in, Index out, Size2 kernel, bool with_bias, const ConvOptions& o = {})
      : weight(Tensor<T>::zeros({out, in / o.groups, kernel.h, kernel.w})),
        bias(with_bias ? Tensor<T>::zeros({out}) : Tensor<T>()),
        options(o) {}
  /// (B,C,H,W) -> (B,O,H',W')
  Tensor<T> operator()(const Tensor<T>& x) const { return conv2d(x, weight, bias, options); }
  void visit(Visitor<T>& v) {
    v("weight", weight);
    v("bias", bias);
  }
};

template <class T>
struct ConvTransposeLayer {
  Tensor<T> weight;  ///< (C,O,k,k): the input's channels stand first
  Tensor<T> bias;    ///< (O), or undefined
  Index stride = 1;

  ConvTransposeLayer() = default;
  /// Windows of k x k that neither overlap nor leave gaps: k times the size.
  ConvTransposeLayer(Index in, Index out, Index k)
      : weight(Tensor<T>::zeros({in, out, k, k})), bias(Tensor<T>::zeros({out})), stride(k) {}
  /// (B,C,H,W) -> (B,O,kH,kW)
  Tensor<T> operator()(const Tensor<T>& x) const {
    return conv_transpose2d(x, weight, bias, {.stride = stride});
  }
  void visit(Visitor<T>& v) {
    v("weight", weight);
    v("bias", bias);
  }
};

}  // namespace moraine
