#pragma once
// Patch embedding: a convolution with kernel = stride = patch, as one product over the patches.
#include <moraine/nn/module.hpp>
#include <moraine/ops/linear.hpp>
#include <moraine/ops/shape.hpp>

namespace moraine MORAINE_API {

/// Pixels (B,C,H,W) -> patches (B,N,C*p*p), row by row; what does not fill a patch at the right and
/// bottom is dropped, as by a strided convolution.
template <class T> Tensor<T> patches(const Tensor<T>& pixels, Index p) {
  if (pixels.rank() != 4 || pixels.size(2) < p || pixels.size(3) < p)
    fail(ErrorKind::shape, "patches: needs (B,C,H,W) with at least one patch of " + std::to_string(p) +
                               "; pixels " + str(pixels.shape()));
  const Index b = pixels.size(0), c = pixels.size(1), h = pixels.size(2) / p, w = pixels.size(3) / p;
  Tensor<T> x = pixels;
  if (h * p != x.size(2)) x = slice(x, 2, 0, h * p);
  if (w * p != x.size(3)) x = slice(x, 3, 0, w * p);
  x = reshape(x, {b, c, h, p, w, p});
  return reshape(permute(x, {0, 2, 4, 1, 3, 5}), {b, h * w, c * p * p});
}

template <class T> struct Projection {
  Tensor<T> weight;  ///< (D,C,p,p)
  Tensor<T> bias;    ///< (D), or undefined
  void visit(Visitor<T>& v) {
    v("weight", weight);
    v("bias", bias);
  }
};

template <class T> struct PatchEmbed {
  Projection<T> proj;
  PatchEmbed() = default;
  PatchEmbed(Index channels, Index patch, Index width)
      : proj{Tensor<T>::zeros({width, channels, patch, patch}), Tensor<T>::zeros({width})} {}
  /// (B,C,H,W) -> (B,N,D)
  Tensor<T> operator()(const Tensor<T>& pixels) const {
    const Index d = proj.weight.size(0), c = proj.weight.size(1), p = proj.weight.size(2);
    if (pixels.rank() != 4 || pixels.size(1) != c)
      fail(ErrorKind::shape, "patch_embed: needs (B," + std::to_string(c) + ",H,W); pixels " + str(pixels.shape()));
    return linear(patches(pixels, p), reshape(proj.weight, {d, c * p * p}), proj.bias);  // (B,N,D)
  }
  void visit(Visitor<T>& v) { v("proj", proj); }
};

}  // namespace moraine
