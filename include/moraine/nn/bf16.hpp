#pragma once
// bfloat16 products in a whole model, and what rounding to bfloat16 means.
#include <moraine/core/parallel.hpp>
#include <moraine/nn/module.hpp>

namespace moraine MORAINE_API {

/// The nearest bfloat16 of every element, ties to even: what a product of Product::bf16 does to its
/// operands. The gradient passes through unchanged.
template <class T>
Tensor<T> round_bf16(const Tensor<T>& x) {
  const Tensor<T> c = x.contiguous().detach();
  if (c.device() != Device::cpu)
    fail(ErrorKind::device, "round_bf16: has no CUDA form yet; x " + str(x.shape()));
  Tensor<T> y = empty_like(c);
  parallel_for(c.numel(), 1 << 14, [&](Index b, Index e) {
    for (Index i = b; i < e; ++i)
      y.data()[i] = static_cast<T>(static_cast<float>(bfloat16(static_cast<float>(c.data()[i]))));
  });
  return record("round_bf16", y, {&x}, [](const Tensor<T>& dy) { return Grads<T>{dy}; });
}

/// Every dense layer and self-attention of a module multiplies bfloat16 operands from now on (or,
/// with Product::fp32, no longer), also one that an adapter wraps; the adapter's own low-rank
/// products stay float. For inference and training on the CPU; call prepare() afterwards, so that
/// frozen weights are packed in half the bytes. Parameters stay float, and what state() saves is
/// what was loaded. A module of double computes as before.
template <class T, class M>
void use_bf16(M& module, Product p = Product::bf16) {
  struct Set final : Visitor<T> {
    Product to;
    explicit Set(Product x) : to(x) {}
    void parameter(const std::string&, Tensor<T>&) override {}
    void product(Product& x) override { x = to; }
  } v(p);
  module.visit(v);
}

}  // namespace moraine
