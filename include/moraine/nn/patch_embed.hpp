#pragma once
// Patch embedding: a convolution with kernel = stride = patch, as one product over the patches.
#include <moraine/nn/module.hpp>
#include <moraine/ops/linear.hpp>
#include <moraine/ops/pixel_shuffle.hpp>

namespace moraine MORAINE_API {

template <class T>
struct Projection {
  Tensor<T> weight;  ///< (D,C,p,p)
  Tensor<T> bias;    ///< (D), or undefined
  void visit(Visitor<T>& v) {
    v("weight", weight);
    v("bias", bias);
  }
};

template <class T>
struct PatchEmbed {
  Projection<T> proj;
  PatchEmbed() = default;
  PatchEmbed(Index channels, Index patch, Index width, bool bias = true)
      : proj{Tensor<T>::zeros({width, channels, patch, patch}),
             bias ? Tensor<T>::zeros({width}) : Tensor<T>()} {}
  /// (B,C,H,W) -> (B,N,D)
  Tensor<T> operator()(const Tensor<T>& pixels) const {
    const Index d = proj.weight.size(0), c = proj.weight.size(1), p = proj.weight.size(2);
    if (pixels.rank() != 4 || pixels.size(1) != c)
      fail(ErrorKind::shape,
           "patch_embed: needs (B," + std::to_string(c) + ",H,W); pixels " + str(pixels.shape()));
    return linear(patches(pixels, p), reshape(proj.weight, {d, c * p * p}), proj.bias);  // (B,N,D)
  }
  void visit(Visitor<T>& v) { v("proj", proj); }
};

}  // namespace moraine
