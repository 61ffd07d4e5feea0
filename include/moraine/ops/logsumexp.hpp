#pragma once
// y = log sum_r exp(x_r) along one axis, without overflow.
//
//   y = m + log sum_r exp(x_r - m), m = max x;   dx_r = dy exp(x_r - y)
//
// A row of minus infinity gives minus infinity with gradient 0.
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/autograd/record.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/ops/reduce.hpp>
#endif

#include <cmath>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
/// x (outer,size,inner), y (outer,inner).
template <class T>
struct LogSumExp {
  static constexpr const char* name = "logsumexp";
  Index outer, size, inner;
  const T* x;
  T* y;
  static void cpu(const LogSumExp& k);
};
template <class T>
struct LogSumExpGrad {
  static constexpr const char* name = "logsumexp";
  Index outer, size, inner;
  const T *x, *y, *dy;
  T* dx;
  static void cpu(const LogSumExpGrad& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

struct LogSumExpOptions {
  int axis = -1;
  bool keep = false;  ///< keep the axis with size 1
};

template <class T>
Tensor<T> logsumexp(const Tensor<T>& x, const LogSumExpOptions& o = {}) {
  const Split at = split_at(x.shape(), o.axis);
  Shape shape = x.shape();
  if (o.keep)
    shape[o.axis] = 1;
  else
    shape.erase(shape.axis(o.axis));
  const Tensor<T> c = x.contiguous().detach();
  Tensor<T> y = Tensor<T>::empty(shape, x.device());
  launch(c.device(), LogSumExp<T>{at.outer, at.size, at.inner, c.data(), y.data()});
  return record("logsumexp", y, {&x}, [at, c, y = y.detach()](const Tensor<T>& dy) {
    const Tensor<T> g = dy.contiguous();
    Tensor<T> dx = empty_like(c);
    launch(c.device(),
           LogSumExpGrad<T>{at.outer, at.size, at.inner, c.data(), y.data(), g.data(), dx.data()});
    return Grads<T>{dx};
  });
}

// ---- CPU
template <class T>
void LogSumExp<T>::cpu(const LogSumExp& k) {
  using A = acc<T>;
  parallel_for(k.outer * k.inner, 1 + 4096 / (k.size + 1), [&](Index b, Index e) {
    for (Index r = b; r < e; ++r) {
      const T* x = k.x + (r / k.inner) * k.size * k.inner + r % k.inner;
      A m = -INFINITY, s = 0;
      for (Index j = 0; j < k.size; ++j) {
        const A v = A(x[j * k.inner]);
        m = v > m || v != v ? v : m;  // a NaN stays: nothing compares above it
      }
      // exp(x - m) of infinities would be NaN: they are their own answer.
      if (m - m != A(0)) {
        k.y[r] = static_cast<T>(m);
        continue;
      }
      for (Index j = 0; j < k.size; ++j) s += std::exp(A(x[j * k.inner]) - m);
      k.y[r] = static_cast<T>(m + std::log(s));
    }
  });
}
template <class T>
void LogSumExpGrad<T>::cpu(const LogSumExpGrad& k) {
  using A = acc<T>;
  parallel_for(k.outer * k.inner, 1 + 4096 / (k.size + 1), [&](Index b, Index e) {
    for (Index r = b; r < e; ++r) {
      const Index first = (r / k.inner) * k.size * k.inner + r % k.inner;
      const A y = A(k.y[r]), dy = A(k.dy[r]);
      for (Index j = 0; j < k.size; ++j) {
        const Index at = first + j * k.inner;
        k.dx[at] = y == -INFINITY ? T(0) : static_cast<T>(dy * std::exp(A(k.x[at]) - y));
      }
    }
  });
}
MORAINE_INSTANTIATE(LogSumExp)
MORAINE_INSTANTIATE(LogSumExpGrad)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
