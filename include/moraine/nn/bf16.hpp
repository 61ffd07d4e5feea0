#pragma once
// bfloat16 products in a whole model.
#include <moraine/nn/module.hpp>
#include <moraine/ops/bf16.hpp>

namespace moraine MORAINE_API {

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
