#pragma once
// Group normalisation: every group of channels of every sample is brought to mean 0 and variance 1.
//
// In memory (B,C,...) is (B*G, C/G*...): a layer norm of long rows, then a factor and an offset per
// channel. Y. Wu and K. He, Group Normalization, ECCV 2018.
#include <moraine/ops/norm.hpp>
#include <moraine/ops/shape.hpp>
#include <string>

namespace moraine MORAINE_API {

/// x (B,C,...), weight and bias (C) or undefined. C must be a multiple of groups.
template <class T>
Tensor<T> group_norm(const Tensor<T>& x, Index groups, const Tensor<T>& weight = {},
                     const Tensor<T>& bias = {}, double eps = 1e-5) {
  if (x.rank() < 2 || groups < 1 || x.size(1) % groups != 0)
    fail(ErrorKind::shape, "group_norm: needs (B,C,...) with C a multiple of the groups; x " +
                               str(x.shape()) + ", groups " + std::to_string(groups));
  for (const Tensor<T>* p : {&weight, &bias})
    if (p->defined() && p->shape() != Shape{x.size(1)})
      fail(ErrorKind::shape,
           "group_norm: weight or bias " + str(p->shape()) + " for x " + str(x.shape()));
  const Index rows = x.size(0) * groups;
  Tensor<T> y = reshape(x, {rows, rows ? x.numel() / rows : 0});
  y = reshape(layer_norm(y, Tensor<T>(), Tensor<T>(), eps), x.shape());
  Shape channel = x.shape();
  for (int i = 0; i < channel.rank; ++i) channel.dim[i] = i == 1 ? x.size(1) : 1;
  if (weight.defined()) y = mul(y, reshape(weight, channel));
  return bias.defined() ? add(y, reshape(bias, channel)) : y;
}

}  // namespace moraine
