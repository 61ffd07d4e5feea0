#pragma once
// Elementwise functions of one tensor. Each is two scalar lines: its value f(x) and its derivative
// df(x, y) with y = f(x); front end, CPU loop, CUDA kernel and gradient follow from them.
//
//   y_i = f(x_i),   dx_i = dy_i f'(x_i)
#include <moraine/core/activation.hpp>
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/autograd/record.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/cpu/rows.hpp>
#endif
#ifdef MORAINE_DEVICE
#include <moraine/cuda/launch.cuh>
#endif

#include <cmath>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
template <class F, class T>
struct Unary {
  static constexpr const char* name = F::name;
  Index n;
  const T* x;
  T* y;
  static void cpu(const Unary& k);
};
template <class F, class T>
struct UnaryGrad {
  static constexpr const char* name = F::name;
  Index n;
  const T *x, *y, *dy;  // x or y may be null when F does not use it
  T* dx;
  static void cpu(const UnaryGrad& k);
};

/// Which of x and y the derivative reads; only that is kept for the backward.
enum class Keeps { x, y, none };

// ---- the scalar rules
// clang-format off
#define MORAINE_RULE(Name, text, keeps_, value, slope)                                       \
  struct Name {                                                                              \
    static constexpr const char* name = text;                                                \
    static constexpr Keeps keeps = Keeps::keeps_;                                            \
    template <class T> MORAINE_HD static T f(T x) { using namespace std; return value; }     \
    template <class T> MORAINE_HD static T df([[maybe_unused]] T x, [[maybe_unused]] T y) {  \
      using namespace std; return slope; }                                                   \
  };
namespace rules {
MORAINE_RULE(Neg,      "neg",       none, -x,                      T(-1))
MORAINE_RULE(Exp,      "exp",       y,    exp(x),                  y)
MORAINE_RULE(Log,      "log",       x,    log(x),                  T(1) / x)
MORAINE_RULE(Log1p,    "log1p",     x,    log1p(x),                T(1) / (T(1) + x))
MORAINE_RULE(Sqrt,     "sqrt",      y,    sqrt(x),                 T(0.5) / y)
MORAINE_RULE(Rsqrt,    "rsqrt",     y,    T(1) / sqrt(x),          T(-0.5) * y * y * y)
MORAINE_RULE(Square,   "square",    x,    x * x,                   T(2) * x)
MORAINE_RULE(Abs,      "abs",       x,    x < T(0) ? -x : x,       x > T(0) ? T(1) : x < T(0) ? T(-1) : T(0))
MORAINE_RULE(Sin,      "sin",       x,    sin(x),                  cos(x))
MORAINE_RULE(Cos,      "cos",       x,    cos(x),                  -sin(x))
MORAINE_RULE(Tanh,     "tanh",      y,    tanh(x),                 T(1) - y * y)
MORAINE_RULE(Erf,      "erf",       x,    erf(x),                  T(1.1283791670955125739) * exp(-x * x))
MORAINE_RULE(Sigmoid,  "sigmoid",   y,    sigmoid_value(x),        y * (T(1) - y))
MORAINE_RULE(Softplus, "softplus",  x,    x > T(20) ? x : log1p(exp(x)), x > T(20) ? T(1) : sigmoid_value(x))
MORAINE_RULE(NormalCdf,"normal_cdf",x,    T(0.5) * erfc(-x * T(0.70710678118654752440)),
                                          T(0.39894228040143267794) * exp(T(-0.5) * x * x))
MORAINE_RULE(Relu,     "relu",      x,    activate(Activation::relu, x),       activate_grad(Activation::relu, x))
MORAINE_RULE(Gelu,     "gelu",      x,    activate(Activation::gelu, x),       activate_grad(Activation::gelu, x))
MORAINE_RULE(GeluTanh, "gelu_tanh", x,    activate(Activation::gelu_tanh, x),  activate_grad(Activation::gelu_tanh, x))
MORAINE_RULE(QuickGelu,"quick_gelu",x,    activate(Activation::quick_gelu, x), activate_grad(Activation::quick_gelu, x))
MORAINE_RULE(Silu,     "silu",      x,    activate(Activation::silu, x),       activate_grad(Activation::silu, x))
}  // namespace rules
// clang-format on

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

/// y = F::f(x), elementwise; the form of every op below, and of a user's own rule.
template <class F, class T>
Tensor<T> unary(const Tensor<T>& x) {
  const Tensor<T> c = x.contiguous().detach();
  Tensor<T> y = empty_like(c);
  launch(c.device(), Unary<F, T>{c.numel(), c.data(), y.data()});
  Tensor<T> kept_x, kept_y;
  if (wants(x)) {
    if (F::keeps == Keeps::x) kept_x = c;
    if (F::keeps == Keeps::y) kept_y = y;
  }
  return record(F::name, y, {&x}, [kept_x, kept_y](const Tensor<T>& dy) {
    const Tensor<T> g = dy.contiguous();
    Tensor<T> dx = empty_like(g);
    launch(g.device(),
           UnaryGrad<F, T>{g.numel(), kept_x.data(), kept_y.data(), g.data(), dx.data()});
    return Grads<T>{dx};
  });
}

// clang-format off
template <class T> Tensor<T> neg(const Tensor<T>& x) { return unary<rules::Neg>(x); }
template <class T> Tensor<T> exp(const Tensor<T>& x) { return unary<rules::Exp>(x); }
template <class T> Tensor<T> log(const Tensor<T>& x) { return unary<rules::Log>(x); }
template <class T> Tensor<T> log1p(const Tensor<T>& x) { return unary<rules::Log1p>(x); }
template <class T> Tensor<T> sqrt(const Tensor<T>& x) { return unary<rules::Sqrt>(x); }
template <class T> Tensor<T> rsqrt(const Tensor<T>& x) { return unary<rules::Rsqrt>(x); }
template <class T> Tensor<T> square(const Tensor<T>& x) { return unary<rules::Square>(x); }
/// |x|; derivative 0 at 0.
template <class T> Tensor<T> abs(const Tensor<T>& x) { return unary<rules::Abs>(x); }
template <class T> Tensor<T> sin(const Tensor<T>& x) { return unary<rules::Sin>(x); }
template <class T> Tensor<T> cos(const Tensor<T>& x) { return unary<rules::Cos>(x); }
template <class T> Tensor<T> tanh(const Tensor<T>& x) { return unary<rules::Tanh>(x); }
template <class T> Tensor<T> erf(const Tensor<T>& x) { return unary<rules::Erf>(x); }
template <class T> Tensor<T> sigmoid(const Tensor<T>& x) { return unary<rules::Sigmoid>(x); }
/// log(1 + exp(x)); x itself above 20, as PyTorch.
template <class T> Tensor<T> softplus(const Tensor<T>& x) { return unary<rules::Softplus>(x); }
/// Distribution function of the standard normal.
template <class T> Tensor<T> normal_cdf(const Tensor<T>& x) { return unary<rules::NormalCdf>(x); }
/// max(x, 0); derivative 0 at 0.
template <class T> Tensor<T> relu(const Tensor<T>& x) { return unary<rules::Relu>(x); }
/// x Phi(x), the erf form.
template <class T> Tensor<T> gelu(const Tensor<T>& x) { return unary<rules::Gelu>(x); }
template <class T> Tensor<T> gelu_tanh(const Tensor<T>& x) { return unary<rules::GeluTanh>(x); }
/// x sigmoid(1.702 x), as CLIP.
template <class T> Tensor<T> quick_gelu(const Tensor<T>& x) { return unary<rules::QuickGelu>(x); }
template <class T> Tensor<T> silu(const Tensor<T>& x) { return unary<rules::Silu>(x); }
// clang-format on

namespace detail {
/// Calls f with the rule of a; there is none for Activation::none.
template <class F>
void with_rule(Activation a, F f) {
  switch (a) {
    case Activation::none:
      return;
    case Activation::gelu:
      return f(rules::Gelu{});
    case Activation::gelu_tanh:
      return f(rules::GeluTanh{});
    case Activation::quick_gelu:
      return f(rules::QuickGelu{});
    case Activation::silu:
      return f(rules::Silu{});
    case Activation::relu:
      return f(rules::Relu{});
  }
}
}  // namespace detail

/// dy act'(x), without the tape; for fused ops that keep their pre-activation.
template <class T>
Tensor<T> activation_grad(Activation a, const Tensor<T>& x, const Tensor<T>& dy) {
  if (a == Activation::none) return dy;
  Tensor<T> dx = empty_like(dy);
  detail::with_rule(a, [&](auto rule) {
    launch(dy.device(),
           UnaryGrad<decltype(rule), T>{dy.numel(), x.data(), nullptr, dy.data(), dx.data()});
  });
  return dx;
}

/// The activation as an op of its own. One front end for all of them: a file that fuses one should
/// not compile five.
template <class T>
Tensor<T> activate(Activation a, const Tensor<T>& x) {
  if (a == Activation::none) return x;
  const Tensor<T> c = x.contiguous().detach();
  Tensor<T> y = empty_like(c);
  const char* name = "";
  detail::with_rule(a, [&](auto rule) {
    using F = decltype(rule);
    launch(c.device(), Unary<F, T>{c.numel(), c.data(), y.data()});
    name = F::name;
  });
  return record(name, y, {&x}, [a, kept = wants(x) ? c : Tensor<T>()](const Tensor<T>& dy) {
    return Grads<T>{activation_grad(a, kept, dy.contiguous())};
  });
}

// ---- CPU
namespace detail {
/// The activations have vector kernels of their own (cpu/rows.hpp).
template <class F>
inline constexpr Activation activation_of = Activation::none;
template <>
inline constexpr Activation activation_of<rules::Gelu> = Activation::gelu;
template <>
inline constexpr Activation activation_of<rules::Relu> = Activation::relu;
template <>
inline constexpr Activation activation_of<rules::GeluTanh> = Activation::gelu_tanh;
template <>
inline constexpr Activation activation_of<rules::QuickGelu> = Activation::quick_gelu;
template <>
inline constexpr Activation activation_of<rules::Silu> = Activation::silu;
}  // namespace detail

template <class F, class T>
void Unary<F, T>::cpu(const Unary& k) {
  if constexpr (detail::activation_of<F> != Activation::none)
    return cpu::activation(detail::activation_of<F>, k.x, k.n, k.y);
  else
    parallel_for(k.n, 1 << 13, [&](Index b, Index e) {
      for (Index i = b; i < e; ++i) k.y[i] = F::f(k.x[i]);
    });
}
template <class F, class T>
void UnaryGrad<F, T>::cpu(const UnaryGrad& k) {
  if constexpr (detail::activation_of<F> != Activation::none)
    return cpu::activation_backward(detail::activation_of<F>, k.x, k.dy, k.n, k.dx);
  else
    parallel_for(k.n, 1 << 13, [&](Index b, Index e) {
      for (Index i = b; i < e; ++i)
        k.dx[i] = k.dy[i] * F::df(k.x ? k.x[i] : T(0), k.y ? k.y[i] : T(0));
    });
}
#endif

#ifdef MORAINE_DEVICE  // ---- CUDA: one thread per element; everything here has internal linkage
namespace {
template <class F, class T>
__global__ void unary_kernel(Unary<F, T> k) {
  for (Index i = cuda::first(); i < k.n; i += cuda::step()) k.y[i] = F::f(k.x[i]);
}
template <class F, class T>
__global__ void unary_grad_kernel(UnaryGrad<F, T> k) {
  for (Index i = cuda::first(); i < k.n; i += cuda::step())
    k.dx[i] = k.dy[i] * F::df(k.x ? k.x[i] : T(0), k.y ? k.y[i] : T(0));
}
template <class F, class T>
bool bind_unary() {
  CudaSlot<Unary<F, T>>::run = [](const Unary<F, T>& k) {
    cuda::elementwise(k.n, unary_kernel<F, T>, k);
  };
  CudaSlot<UnaryGrad<F, T>>::run = [](const UnaryGrad<F, T>& k) {
    cuda::elementwise(k.n, unary_grad_kernel<F, T>, k);
  };
  return true;
}
// The proof of the seam; the CUDA issue binds the others the same way.
[[maybe_unused]] const bool bound_unary =
    bind_unary<rules::Gelu, float>() && bind_unary<rules::Gelu, double>() &&
    bind_unary<rules::Exp, float>() && bind_unary<rules::Exp, double>();
}  // namespace
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
