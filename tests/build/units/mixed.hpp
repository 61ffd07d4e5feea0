#pragma once
// The same computation, compiled header-only in one file and with MORAINE_COMPILED in another.
#include <moraine/moraine.hpp>
#include <vector>

template <class T>
std::vector<T> computed() {
  using namespace moraine;
  Tensor<T> x = Tensor<T>::arange(12);
  Tensor<T> w = Tensor<T>::full({4, 4}, T(0.25));
  w.requires_grad();
  const Tensor<T> y = softmax(gelu(linear(scale(reshape(x, {3, 4}), T(0.1)), w)));
  backward(mean(square(y)));
  std::vector<T> all = y.values();
  for (T g : w.grad().values()) all.push_back(g);
  return all;
}
