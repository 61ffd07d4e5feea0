#pragma once
// The plainest segmentation head: features of a few blocks, each normed without weights, side by
// side, and one linear layer that draws every pixel of its patch.
#include <moraine/nn/init.hpp>
#include <moraine/nn/linear.hpp>
#include <moraine/nn/observe.hpp>
#include <moraine/ops/norm.hpp>
#include <moraine/ops/pixel_shuffle.hpp>
#include <moraine/ops/shape.hpp>
#include <vector>

namespace moraine MORAINE_API {

template <class T>
struct LinearHead {
  Linear<T> linear;  ///< (width * taps) -> (classes * patch^2)
  Index classes = 0, patch = 1;

  LinearHead() = default;
  /// Weight truncated normal 0.01, bias 0.
  LinearHead(Index width, Index k, Index p, std::uint64_t seed)
      : linear(width, k * p * p, true), classes(k), patch(p) {
    init::trunc_normal(linear.weight, 0.01, init::stream(seed, "head.linear.weight"));
  }
  /// taps (B,N,C) each, N = grid.h * grid.w -> logits (B,K,grid.h*p,grid.w*p).
  Tensor<T> operator()(const std::vector<Tensor<T>>& taps, Size2 grid) {
    Scope scope("head");
    std::vector<Tensor<T>> normed;
    for (const Tensor<T>& t : taps) normed.push_back(layer_norm<T>(t, {}, {}, 1e-5));
    return unpatch(linear(normed.size() == 1 ? normed[0] : concat(normed, 2)), grid, Size2(patch));
  }
  void visit(Visitor<T>& v) { v("linear", linear); }
};

}  // namespace moraine
