#pragma once
// Comparisons, and choices by their result. A mask is a Tensor<std::uint8_t> of zeros and ones; any
// byte but 0 counts as true.
//
//   m = a < b,   y = m ? a : b:   da = m ? dy : 0, db = m ? 0 : dy   (summed where broadcast)
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/ops/binary.hpp>
#endif

#include <cstdint>
#include <type_traits>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

using Mask = Tensor<std::uint8_t>;

// ---- kernels: what every backend must compute
/// y = F(a, b), all of one shape and contiguous.
template <class F, class T>
struct Compare {
  static constexpr const char* name = F::name;
  Index n;
  const T *a, *b;
  std::uint8_t* y;
  static void cpu(const Compare& k);
};
/// y = m ? a : b; a or b may be null (0).
template <class T>
struct Where {
  static constexpr const char* name = "where";
  Index n;
  const std::uint8_t* m;
  const T *a, *b;
  T* y;
  static void cpu(const Where& k);
};

// ---- the scalar rules
// clang-format off
#define MORAINE_COMPARISON(Name, text, value)                                  \
  struct Name {                                                                \
    static constexpr const char* name = text;                                  \
    template <class T> MORAINE_HD static bool f(T a, T b) { return value; }    \
  };
namespace rules {
MORAINE_COMPARISON(Equal,        "equal",         a == b)
MORAINE_COMPARISON(NotEqual,     "not_equal",     a != b)
MORAINE_COMPARISON(Less,         "less",          a < b)
MORAINE_COMPARISON(LessEqual,    "less_equal",    a <= b)
MORAINE_COMPARISON(Greater,      "greater",       a > b)
MORAINE_COMPARISON(GreaterEqual, "greater_equal", a >= b)
}  // namespace rules
// clang-format on

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

/// F(a,b), broadcast. A comparison with NaN is false, but for not_equal.
template <class F, class T>
Mask compare(const Tensor<T>& a, const Tensor<T>& b) {
  check_device(F::name, a.device(), b.device());
  const Shape shape = broadcast(F::name, a.shape(), b.shape());
  const Tensor<T> ca = expand_view(a.detach(), shape).contiguous();
  const Tensor<T> cb = expand_view(b.detach(), shape).contiguous();
  Mask y = Mask::empty(shape, a.device());
  launch(a.device(), Compare<F, T>{shape.numel(), ca.data(), cb.data(), y.data()});
  return y;
}
/// The same against one number.
template <class F, class T>
Mask compare(const Tensor<T>& a, T b) {
  return compare<F>(a, Tensor<T>::full({}, b, a.device()));
}
// clang-format off
#define MORAINE_COMPARE(function, Rule)                                                            \
  template <class T> Mask function(const Tensor<T>& a, const Tensor<T>& b) { return compare<rules::Rule>(a, b); } \
  template <class T> Mask function(const Tensor<T>& a, std::type_identity_t<T> b) { return compare<rules::Rule>(a, b); }
MORAINE_COMPARE(equal, Equal)
MORAINE_COMPARE(not_equal, NotEqual)
MORAINE_COMPARE(less, Less)
MORAINE_COMPARE(less_equal, LessEqual)
MORAINE_COMPARE(greater, Greater)
MORAINE_COMPARE(greater_equal, GreaterEqual)
#undef MORAINE_COMPARE
// clang-format on

/// a where the mask is set, b elsewhere; all three broadcast.
template <class T>
Tensor<T> where(const Mask& mask, const Tensor<T>& a, const Tensor<T>& b) {
  check_device("where", a.device(), b.device());
  check_device("where", a.device(), mask.device());
  const Shape shape = broadcast("where", broadcast("where", a.shape(), b.shape()), mask.shape());
  const Mask m = expand_view(mask, shape).contiguous();
  const Tensor<T> ca = expand_view(a.detach(), shape).contiguous();
  const Tensor<T> cb = expand_view(b.detach(), shape).contiguous();
  Tensor<T> y = Tensor<T>::empty(shape, a.device());
  launch(a.device(), Where<T>{shape.numel(), m.data(), ca.data(), cb.data(), y.data()});
  if constexpr (!std::is_floating_point_v<T>)
    return y;
  else
    return record(
        "where", y, {&a, &b},
        [m, da = wants(a), db = wants(b), sa = a.shape(), sb = b.shape()](const Tensor<T>& dy) {
          const Tensor<T> g = dy.contiguous();
          Grads<T> out(2);
          const auto part = [&](const T* yes, const T* no, const Shape& to) {
            Tensor<T> d = empty_like(g);
            launch(g.device(), Where<T>{g.numel(), m.data(), yes, no, d.data()});
            return sum_to(d, to);
          };
          if (da) out[0] = part(g.data(), nullptr, sa);
          if (db) out[1] = part(nullptr, g.data(), sb);
          return out;
        });
}
/// x, with `value` where the mask (broadcast to x) is set.
template <class T>
Tensor<T> masked_fill(const Tensor<T>& x, const Mask& mask, std::type_identity_t<T> value) {
  expand_view(mask, x.shape());  // the mask may not widen x
  return where(mask, Tensor<T>::full({}, value, x.device()), x);
}
/// The values of an integer tensor or mask as numbers of T.
template <class T, class S>
Tensor<T> cast(const Tensor<S>& x) {
  static_assert(std::is_integral_v<S>, "cast: reads integers and masks");
  const Tensor<S> c = x.to(Device::cpu).contiguous();
  Tensor<T> y = Tensor<T>::empty(x.shape());
  for (Index i = 0, n = c.numel(); i < n; ++i) y.data()[i] = static_cast<T>(c.data()[i]);
  return y.to(x.device());
}

// ---- CPU
template <class F, class T>
void Compare<F, T>::cpu(const Compare& k) {
  parallel_for(k.n, 1 << 15, [&](Index b, Index e) {
    for (Index i = b; i < e; ++i) k.y[i] = F::f(k.a[i], k.b[i]);
  });
}
template <class T>
void Where<T>::cpu(const Where& k) {
  parallel_for(k.n, 1 << 15, [&](Index b, Index e) {
    for (Index i = b; i < e; ++i) {
      const T* from = k.m[i] ? k.a : k.b;
      k.y[i] = from ? from[i] : T(0);
    }
  });
}
MORAINE_INSTANTIATE(Where)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
