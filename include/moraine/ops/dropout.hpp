#pragma once
// Random omission while training: dropout (elements) and drop_path (whole samples of a residual
// branch). What stays is divided by the chance to stay, so that the mean is kept.
//
//   y_i = u_(i / inner) >= p ? x_i / (1 - p) : 0,   dx_i likewise from dy_i
//
// u comes from a counter (core/random.hpp): the same for any thread count, and nothing is kept for
// the backward. G. Huang et al., Deep Networks with Stochastic Depth, ECCV 2016, for drop_path.
#include <moraine/core/device.hpp>
#include <moraine/core/random.hpp>
#ifdef MORAINE_HOST
#include <moraine/autograd/record.hpp>
#include <moraine/core/parallel.hpp>
#endif

#include <string>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
/// Runs of `inner` elements share one number.
template <class T>
struct Drop {
  static constexpr const char* name = "dropout";
  Index n, inner;
  float p;
  Random random;
  const T* x;
  T* y;
  static void cpu(const Drop& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

struct DropOptions {
  double p = 0;             ///< the chance to be dropped, in [0,1]
  bool training = false;    ///< false: y is x
  Random random{0, 0u, 0};  ///< Random(seed, "what for", step): another purpose for every layer
};

namespace detail {
template <class T>
Tensor<T> dropped(const char* op, const Tensor<T>& x, Index inner, const DropOptions& o) {
  if (!(o.p >= 0 && o.p <= 1))
    fail(ErrorKind::value, std::string(op) + ": p must lie in [0,1]; p " + std::to_string(o.p));
  if (!o.training || o.p == 0) return x;
  const Tensor<T> c = x.contiguous().detach();
  Tensor<T> y = empty_like(c);
  const float p = static_cast<float>(o.p);
  launch(c.device(), Drop<T>{c.numel(), inner, p, o.random, c.data(), y.data()});
  return record(op, y, {&x}, [inner, p, random = o.random](const Tensor<T>& dy) {
    const Tensor<T> g = dy.contiguous();
    Tensor<T> dx = empty_like(g);
    launch(g.device(), Drop<T>{g.numel(), inner, p, random, g.data(), dx.data()});
    return Grads<T>{dx};
  });
}
}  // namespace detail

/// Drops single elements.
template <class T>
Tensor<T> dropout(const Tensor<T>& x, const DropOptions& o) {
  return detail::dropped("dropout", x, 1, o);
}
/// Drops whole samples of x (B,...).
template <class T>
Tensor<T> drop_path(const Tensor<T>& x, const DropOptions& o) {
  if (x.rank() < 1) fail(ErrorKind::shape, "drop_path: needs (B,...); x " + str(x.shape()));
  return detail::dropped("drop_path", x, x.size(0) ? x.numel() / x.size(0) : 0, o);
}

// ---- CPU
template <class T>
void Drop<T>::cpu(const Drop& k) {
  if (k.n == 0) return;
  using A = acc<T>;
  const A scale = k.p < 1 ? A(1) / (A(1) - A(k.p)) : A(0);
  parallel_for(k.n / k.inner, 1 + 4096 / k.inner, [&](Index b, Index e) {
    for (Index r = b; r < e; ++r) {
      const bool stays = k.random.uniform(static_cast<std::uint64_t>(r)) >= k.p;
      for (Index i = r * k.inner; i < (r + 1) * k.inner; ++i)
        k.y[i] = stays ? static_cast<T>(scale * A(k.x[i])) : T(0);
    }
  });
}
MORAINE_INSTANTIATE(Drop)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
