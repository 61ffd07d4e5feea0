#pragma once
// The pointwise activations that a fused product may end with, as one value and one derivative
// each. ops/unary.hpp makes them ops of their own; cpu/gemm.hpp and the CUDA door fuse them.
#include <moraine/core/config.hpp>

#include <cmath>

namespace moraine MORAINE_API {

enum class Activation : unsigned char { none, gelu, gelu_tanh, quick_gelu, silu, relu };

inline const char* name_of(Activation a) {
  switch (a) {
    case Activation::none:
      return "none";
    case Activation::gelu:
      return "gelu";
    case Activation::gelu_tanh:
      return "gelu_pytorch_tanh";
    case Activation::quick_gelu:
      return "quick_gelu";
    case Activation::silu:
      return "silu";
    case Activation::relu:
      return "relu";
  }
  return "?";
}

/// 1/(1+exp(-x)).
template <class T>
MORAINE_HD T sigmoid_value(T x) {
  using std::exp;
  return T(1) / (T(1) + exp(-x));
}

/// act(x). gelu is the erf form x Phi(x); gelu_tanh the tanh form of Hendrycks and Gimpel;
/// quick_gelu is x sigmoid(1.702 x); silu is x sigmoid(x).
template <class T>
MORAINE_HD T activate(Activation a, T x) {
  using std::erf;
  using std::tanh;
  switch (a) {
    case Activation::none:
      return x;
    case Activation::gelu:
      return T(0.5) * x * (T(1) + erf(x * T(0.70710678118654752440)));
    case Activation::gelu_tanh:
      return T(0.5) * x * (T(1) + tanh(T(0.79788456080286535588) * (x + T(0.044715) * x * x * x)));
    case Activation::quick_gelu:
      return x * sigmoid_value(T(1.702) * x);
    case Activation::silu:
      return x * sigmoid_value(x);
    case Activation::relu:
      return x > T(0) ? x : x < T(0) ? T(0) : x;  // keeps NaN and zero
  }
  return x;
}

/// d act(x) / dx. The derivative of relu at 0 is 0.
template <class T>
MORAINE_HD T activate_grad(Activation a, T x) {
  using std::erf;
  using std::exp;
  using std::tanh;
  switch (a) {
    case Activation::none:
      return T(1);
    case Activation::gelu:
      return T(0.5) * (T(1) + erf(x * T(0.70710678118654752440))) +
             x * T(0.39894228040143267794) * exp(T(-0.5) * x * x);
    case Activation::gelu_tanh: {
      const T t = tanh(T(0.79788456080286535588) * (x + T(0.044715) * x * x * x));
      return T(0.5) * (T(1) + t) + T(0.5) * x * (T(1) - t * t) * T(0.79788456080286535588) *
                                       (T(1) + T(3 * 0.044715) * x * x);
    }
    case Activation::quick_gelu: {
      const T s = sigmoid_value(T(1.702) * x);
      return s + T(1.702) * x * s * (T(1) - s);
    }
    case Activation::silu: {
      const T s = sigmoid_value(x);
      return s + x * s * (T(1) - s);
    }
    case Activation::relu:
      return x > T(0) ? T(1) : T(0);
  }
  return T(1);
}

}  // namespace moraine
