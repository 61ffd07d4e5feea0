#pragma once
// checkpoint(fn, x): trades a second forward for the memory of the first.
#include <moraine/autograd/backward.hpp>

#include <utility>

namespace moraine MORAINE_API {

/// Same value and gradients as fn(x), but the tape keeps only x: fn runs again during backward.
/// fn may use parameters (leaves); it must not capture a tracked tensor that is no leaf. Random
/// numbers are the same in both runs, since they depend on (seed, purpose, step, index) alone.
template <class T, class F>
Tensor<T> checkpoint(F fn, const Tensor<T>& x) {
  if (!tape().recording) return fn(x);
  Tensor<T> y;
  {
    NoGrad off;
    y = fn(x.detach());
  }
  // A parameter inside fn may need a gradient although x does not: record whenever ops are
  // recorded.
  Tensor<T> anchor = x;
  if (!anchor.tracked()) anchor.requires_grad();
  return record("checkpoint", y.detach(), {&anchor},
                [fn = std::move(fn), x = x.detach()](const Tensor<T>& dy) {
                  Tensor<T> leaf = x;
                  leaf.requires_grad();
                  const bool before = tape().recording;
                  tape().recording = true;
                  Tensor<T> again = fn(leaf);
                  tape().recording = before;
                  if (again.tracked()) backward(again, dy);
                  return Grads<T>{leaf.grad()};
                });
}

}  // namespace moraine
