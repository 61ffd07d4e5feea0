#pragma once
// What lets a program use Product::bf16 in linear, attention and the layers made of them: including
// this puts the kernels into the slots that those look into. A program that does not include it
// does not compile them, and is told so when it asks for bf16.
#include <moraine/autograd/record.hpp>
#include <moraine/core/parallel.hpp>
#ifdef MORAINE_HOST
#include <moraine/cpu/attention_bf16.hpp>
#include <moraine/cpu/bf16_kernels.hpp>
#endif

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

#ifdef MORAINE_HOST
namespace cpu {
inline bool link_bf16() {
  bf16_slot = &bf16_kernels;
  bf16_attend_slot = &detail::attend_pairs;
  return true;
}
inline const bool bf16_linked = link_bf16();
}  // namespace cpu

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
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
