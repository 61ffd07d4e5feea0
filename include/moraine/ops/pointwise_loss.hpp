#pragma once
// Losses that compare two tensors of one shape element by element: mse, smooth_l1,
// bce_with_logits, focal. Each is a scalar rule l(x, t) with its two slopes.
//
//   y = sum w l(x,t) / n,   dx = dy w l_x / n,   dt = dy w l_t / n     (mean; n = what counted)
#include <moraine/core/activation.hpp>
#include <moraine/core/device.hpp>
#include <moraine/ops/reduction.hpp>
#ifdef MORAINE_HOST
#include <moraine/ops/binary.hpp>
#endif

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
/// w and pos may be null (1), mask may be null (all count). y: one value, or n for Reduction::none;
/// total: the divisor of the mean, 1 otherwise.
template <class F, class T>
struct PointwiseLoss {
  static constexpr const char* name = F::name;
  F f;
  Index n;
  Reduction reduction;
  const T *x, *t, *w, *pos;
  const std::uint8_t* mask;
  T* y;
  acc<T>* total;
  static void cpu(const PointwiseLoss& k);
};
template <class F, class T>
struct PointwiseLossGrad {
  static constexpr const char* name = F::name;
  F f;
  Index n;
  bool each;  ///< dy has n values
  const T *x, *t, *w, *pos;
  const std::uint8_t* mask;
  const acc<T>* total;
  const T* dy;
  T *dx, *dt;  ///< may be null
  static void cpu(const PointwiseLossGrad& k);
};

// ---- the scalar rules; `pos` is the weight of a positive target where the loss has one
/// log(1 + exp(x)) for any x.
template <class A>
MORAINE_HD A softplus_value(A x) {
  using std::abs;
  using std::exp;
  using std::log1p;
  return (x > A(0) ? x : A(0)) + log1p(exp(-abs(x)));
}
namespace rules {
struct Mse {
  static constexpr const char* name = "mse";
  template <class A>
  MORAINE_HD A value(A x, A t, A) const {
    return (x - t) * (x - t);
  }
  template <class A>
  MORAINE_HD A dx(A x, A t, A) const {
    return A(2) * (x - t);
  }
  template <class A>
  MORAINE_HD A dt(A x, A t, A) const {
    return A(2) * (t - x);
  }
};
/// d^2 / 2 beta where |d| < beta, |d| - beta/2 beyond.
struct SmoothL1 {
  static constexpr const char* name = "smooth_l1";
  double beta;
  template <class A>
  MORAINE_HD A value(A x, A t, A) const {
    using std::abs;
    const A d = abs(x - t), b = static_cast<A>(beta);
    return d < b ? A(0.5) * d * d / b : d - A(0.5) * b;
  }
  template <class A>
  MORAINE_HD A dx(A x, A t, A) const {
    using std::abs;
    const A d = x - t, b = static_cast<A>(beta);
    return abs(d) < b ? d / b : d > A(0) ? A(1) : d < A(0) ? A(-1) : d;
  }
  template <class A>
  MORAINE_HD A dt(A x, A t, A pos) const {
    return -dx(x, t, pos);
  }
};
/// -(pos t log s(x) + (1-t) log s(-x)) with s the logistic function.
struct BceWithLogits {
  static constexpr const char* name = "bce_with_logits";
  template <class A>
  MORAINE_HD A value(A x, A t, A pos) const {
    return (A(1) - t) * x + (A(1) + (pos - A(1)) * t) * softplus_value(-x);
  }
  template <class A>
  MORAINE_HD A dx(A x, A t, A pos) const {
    return (A(1) - t) * sigmoid_value(x) - pos * t * sigmoid_value(-x);
  }
  template <class A>
  MORAINE_HD A dt(A x, A, A pos) const {
    return (pos - A(1)) * softplus_value(-x) - x;
  }
};
/// alpha_t m^gamma bce(x,t) with m = 1 - p_t the miss, p_t = p t + (1-p)(1-t), p = s(x). Lin et
/// al., Focal Loss for Dense Object Detection, ICCV 2017.
struct Focal {
  static constexpr const char* name = "focal";
  double alpha, gamma;
  template <class A>
  MORAINE_HD A value(A x, A t, A) const {
    return balance(t) * power(miss(x, t), gamma) * bce(x, t);
  }
  template <class A>
  MORAINE_HD A dx(A x, A t, A) const {
    const A p = sigmoid_value(x), q = sigmoid_value(-x), m = miss(x, t);
    return balance(t) * (power(m, gamma) * ((A(1) - t) * p - t * q) +
                         slope(m) * p * q * (A(1) - A(2) * t) * bce(x, t));
  }
  template <class A>
  MORAINE_HD A dt(A x, A t, A) const {
    const A p = sigmoid_value(x), q = sigmoid_value(-x), m = miss(x, t), l = bce(x, t);
    const A dalpha = alpha < 0 ? A(0) : static_cast<A>(2 * alpha - 1);
    return dalpha * power(m, gamma) * l +
           balance(t) * (slope(m) * (q - p) * l - power(m, gamma) * x);
  }

 private:
  template <class A>
  MORAINE_HD A balance(A t) const {
    const A a = static_cast<A>(alpha);
    return alpha < 0 ? A(1) : a * t + (A(1) - a) * (A(1) - t);
  }
  template <class A>
  MORAINE_HD static A miss(A x, A t) {
    return sigmoid_value(x) * (A(1) - t) + sigmoid_value(-x) * t;
  }
  template <class A>
  MORAINE_HD static A bce(A x, A t) {
    return (A(1) - t) * x + softplus_value(-x);
  }
  template <class A>
  MORAINE_HD static A power(A m, double g) {
    using std::pow;
    return g == 2 ? m * m : g == 1 ? m : g == 0 ? A(1) : pow(m, static_cast<A>(g));
  }
  /// d m^gamma / dm; 0 at m = 0, where a gamma below 1 has no slope.
  template <class A>
  MORAINE_HD A slope(A m) const {
    return gamma == 0 || m == A(0) ? A(0) : static_cast<A>(gamma) * power(m, gamma - 1);
  }
};
}  // namespace rules

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

template <class T>
struct PointwiseLossOptions {
  Tensor<T> weight =
      {};  ///< a constant factor per element; broadcasts. The mean divides by n, not by it
  Tensor<std::uint8_t> mask = {};  ///< broadcasts; where it is 0 nothing is read or counted
  Reduction reduction = Reduction::mean;
};

/// A loss made of a scalar rule; the form of every op below, and of a user's own rule. `pos` may be
/// undefined.
template <class F, class T>
Tensor<T> pointwise_loss(const F& f, const Tensor<T>& x, const Tensor<T>& t, const Tensor<T>& pos,
                         const PointwiseLossOptions<T>& o) {
  if (x.shape() != t.shape())
    fail(ErrorKind::shape, std::string(F::name) + ": prediction and target differ; prediction " +
                               str(x.shape()) + ", target " + str(t.shape()));
  check_device(F::name, x.device(), t.device());
  const auto fitted = [&](const auto& c) {
    return c.defined() ? expand_view(c.detach(), x.shape()).contiguous() : c;
  };
  const Tensor<T> cx = x.contiguous().detach(), ct = t.contiguous().detach();
  const Tensor<T> w = fitted(o.weight), p = fitted(pos);
  const Tensor<std::uint8_t> mask = fitted(o.mask);
  const bool each = o.reduction == Reduction::none;
  Tensor<T> y = Tensor<T>::empty(each ? x.shape() : Shape{}, x.device());
  auto total = Tensor<acc<T>>::empty({}, x.device());
  launch(x.device(), PointwiseLoss<F, T>{f, x.numel(), o.reduction, cx.data(), ct.data(), w.data(),
                                         p.data(), mask.data(), y.data(), total.data()});
  return record(
      F::name, y, {&x, &t},
      [f, cx, ct, w, p, mask, total, each, dx = wants(x), dt = wants(t)](const Tensor<T>& dy) {
        const Tensor<T> g = dy.contiguous();
        Grads<T> out(2);
        if (dx) out[0] = empty_like(cx);
        if (dt) out[1] = empty_like(cx);
        launch(cx.device(), PointwiseLossGrad<F, T>{f, cx.numel(), each, cx.data(), ct.data(),
                                                    w.data(), p.data(), mask.data(), total.data(),
                                                    g.data(), out[0].data(), out[1].data()});
        return out;
      });
}

/// (x - t)^2.
template <class T>
Tensor<T> mse(const Tensor<T>& x, const Tensor<T>& t, const PointwiseLossOptions<T>& o = {}) {
  return pointwise_loss(rules::Mse{}, x, t, {}, o);
}

/// Quadratic below beta, linear beyond; beta > 0.
template <class T>
Tensor<T> smooth_l1(const Tensor<T>& x, const Tensor<T>& t, double beta = 1,
                    const PointwiseLossOptions<T>& o = {}) {
  if (!(beta > 0))
    fail(ErrorKind::value, "smooth_l1: beta must be positive; beta " + std::to_string(beta));
  return pointwise_loss(rules::SmoothL1{beta}, x, t, {}, o);
}

/// Binary cross entropy of logits x against targets t in [0,1]. `pos_weight` (broadcasts)
/// multiplies the term of positive targets.
template <class T>
Tensor<T> bce_with_logits(const Tensor<T>& x, const Tensor<T>& t,
                          const PointwiseLossOptions<T>& o = {}, const Tensor<T>& pos_weight = {}) {
  return pointwise_loss(rules::BceWithLogits{}, x, t, pos_weight, o);
}

struct FocalShape {
  double alpha = 0.25;  ///< weight of positives, 1 - alpha of negatives; below 0: none
  double gamma = 2;     ///< how much the sure ones are passed over; at least 0
};
/// Focal loss of logits x against targets t in [0,1].
template <class T>
Tensor<T> focal(const Tensor<T>& x, const Tensor<T>& t, const FocalShape& f = {},
                const PointwiseLossOptions<T>& o = {}) {
  if (!(f.gamma >= 0) || !(f.alpha <= 1))
    fail(ErrorKind::value, "focal: needs alpha <= 1 and gamma >= 0; alpha " +
                               std::to_string(f.alpha) + ", gamma " + std::to_string(f.gamma));
  return pointwise_loss(rules::Focal{f.alpha, f.gamma}, x, t, {}, o);
}

// ---- CPU
template <class F, class T>
void PointwiseLoss<F, T>::cpu(const PointwiseLoss& k) {
  using A = acc<T>;
  const bool each = k.reduction == Reduction::none;
  const auto counts = [&k](Index i) { return !k.mask || k.mask[i]; };
  const auto value = [&](Index i) -> A {
    if (!counts(i)) return A(0);
    const A l = k.f.value(A(k.x[i]), A(k.t[i]), k.pos ? A(k.pos[i]) : A(1));
    return k.w ? A(k.w[i]) * l : l;
  };
  *k.total = 1;
  if (each) {
    parallel_for(k.n, 1 << 13, [&](Index b, Index e) {
      for (Index i = b; i < e; ++i) k.y[i] = static_cast<T>(value(i));
    });
    return;
  }
  // One sum per piece, then the pieces in order.
  constexpr Index piece = 1 << 13;
  const Index pieces = (k.n + piece - 1) / piece;
  std::vector<A> sum(static_cast<std::size_t>(pieces));
  parallel_for(k.n, piece, [&](Index b, Index e) {
    sum[static_cast<std::size_t>(b / piece)] = ordered_total<A>(b, e, value);
  });
  if (k.reduction == Reduction::mean) {
    Index n = k.n;
    if (k.mask) {
      n = 0;
      for (Index i = 0; i < k.n; ++i) n += counts(i);
    }
    *k.total = static_cast<A>(n);
  }
  *k.y = static_cast<T>(*k.total == A(0) ? A(0) : ordered_sum(sum.data(), pieces) / *k.total);
}
template <class F, class T>
void PointwiseLossGrad<F, T>::cpu(const PointwiseLossGrad& k) {
  using A = acc<T>;
  parallel_for(k.n, 1 << 13, [&](Index b, Index e) {
    for (Index i = b; i < e; ++i) {
      if ((k.mask && !k.mask[i]) || *k.total == A(0)) {
        if (k.dx) k.dx[i] = T(0);
        if (k.dt) k.dt[i] = T(0);
        continue;
      }
      const A x = A(k.x[i]), t = A(k.t[i]), pos = k.pos ? A(k.pos[i]) : A(1);
      const A g = A(k.dy[k.each ? i : 0]) * (k.w ? A(k.w[i]) : A(1)) / *k.total;
      if (k.dx) k.dx[i] = static_cast<T>(g * k.f.dx(x, t, pos));
      if (k.dt) k.dt[i] = static_cast<T>(g * k.f.dt(x, t, pos));
    }
  });
}
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
