#pragma once
// A user's own kernel, x^2 + 1, in the form of the library's: seen by plain C++ and by nvcc.
#include <moraine/core/device.hpp>
#include <moraine/core/shape.hpp>

template <class T>
struct SquarePlusOne {
  static constexpr const char* name = "square_plus_one";
  moraine::Index n;
  const T* x;
  T* y;
  static void cpu(const SquarePlusOne& k) {
    for (moraine::Index i = 0; i < k.n; ++i) k.y[i] = k.x[i] * k.x[i] + T(1);
  }
};
