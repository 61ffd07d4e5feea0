#pragma once
// Elementwise functions of two tensors, broadcast as in NumPy: shapes are aligned at the last axis,
// and a size of 1 is repeated.
//
//   y = f(a, b),   da = sum over the repeated axes of dy df/da,   db likewise
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/ops/reduce.hpp>
#endif

#include <cmath>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
/// y row-major with `shape`; a and b with strides, 0 on repeated axes.
template <class F, class T>
struct Binary {
  static constexpr const char* name = F::name;
  Shape shape, sa, sb;
  const T *a, *b;
  T* y;
  static void cpu(const Binary& k);
};

// ---- the scalar rules
// clang-format off
#define MORAINE_RULE2(Name, text, needs_, value, slope_a, slope_b)                                 \
  struct Name {                                                                                    \
    static constexpr const char* name = text;                                                      \
    static constexpr bool needs_operands = needs_;                                                 \
    template <class T> MORAINE_HD static T f(T a, T b) { using namespace std; return value; }      \
    template <class T> MORAINE_HD static T da([[maybe_unused]] T a, [[maybe_unused]] T b) {        \
      using namespace std; return slope_a; }                                                       \
    template <class T> MORAINE_HD static T db([[maybe_unused]] T a, [[maybe_unused]] T b) {        \
      using namespace std; return slope_b; }                                                       \
  };
namespace rules {
MORAINE_RULE2(Add, "add", false, a + b, T(1),     T(1))
MORAINE_RULE2(Sub, "sub", false, a - b, T(1),     T(-1))
MORAINE_RULE2(Mul, "mul", true,  a * b, b,        a)
MORAINE_RULE2(Div, "div", true,  a / b, T(1) / b, -a / (b * b))
MORAINE_RULE2(Pow, "pow", true,  pow(a, b), b * pow(a, b - T(1)), a > T(0) ? pow(a, b) * log(a) : T(0))
MORAINE_RULE2(Maximum, "maximum", true, a != a || a > b ? a : b, a >= b ? T(1) : T(0), a >= b ? T(0) : T(1))
MORAINE_RULE2(Minimum, "minimum", true, a != a || a < b ? a : b, a <= b ? T(1) : T(0), a <= b ? T(0) : T(1))
/// Products with a slope, for the gradients of the others.
template <class F> struct SlopeA { static constexpr const char* name = F::name;
  template <class T> MORAINE_HD static T f(T a, T b) { return F::da(a, b); } };
template <class F> struct SlopeB { static constexpr const char* name = F::name;
  template <class T> MORAINE_HD static T f(T a, T b) { return F::db(a, b); } };
}  // namespace rules
// clang-format on

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

/// The common shape of two operands; throws `op: shapes do not broadcast`.
inline Shape broadcast(const char* op, const Shape& a, const Shape& b) {
  Shape out = a.rank >= b.rank ? a : b;
  const Shape& small = a.rank >= b.rank ? b : a;
  for (int i = 0; i < small.rank; ++i) {
    Index& x = out.dim[out.rank - 1 - i];
    const Index y = small.dim[small.rank - 1 - i];
    if (x == 1)
      x = y;
    else if (y != 1 && y != x)
      fail(ErrorKind::shape,
           std::string(op) + ": shapes do not broadcast; a " + str(a) + ", b " + str(b));
  }
  return out;
}
inline void check_device(const char* op, Device a, Device b) {
  if (a != b)
    fail(ErrorKind::device, std::string(op) + ": operands on " + name_of(a) + " and " + name_of(b) +
                                " -> move one with .to(device)");
}

/// f(a,b) without the tape.
template <class F, class T>
Tensor<T> binary_values(const Tensor<T>& a, const Tensor<T>& b) {
  check_device(F::name, a.device(), b.device());
  const Shape shape = broadcast(F::name, a.shape(), b.shape());
  const Tensor<T> ea = expand_view(a, shape), eb = expand_view(b, shape);
  Tensor<T> y = Tensor<T>::empty(shape, a.device());
  launch(a.device(),
         Binary<F, T>{shape, ea.strides(), eb.strides(), ea.data(), eb.data(), y.data()});
  return y;
}

/// y = F::f(a,b) with its gradients; the form of every op below, and of a user's own rule.
template <class F, class T>
Tensor<T> binary(const Tensor<T>& a, const Tensor<T>& b) {
  Tensor<T> y = binary_values<F>(a, b);
  const bool da = wants(a), db = wants(b);
  Tensor<T> ka, kb;
  if (F::needs_operands && (da || db)) ka = a.detach(), kb = b.detach();
  return record(
      F::name, y, {&a, &b}, [ka, kb, da, db, sa = a.shape(), sb = b.shape()](const Tensor<T>& dy) {
        Grads<T> g(2);
        if constexpr (F::needs_operands) {
          if (da)
            g[0] =
                sum_to(binary_values<rules::Mul>(dy, binary_values<rules::SlopeA<F>>(ka, kb)), sa);
          if (db)
            g[1] =
                sum_to(binary_values<rules::Mul>(dy, binary_values<rules::SlopeB<F>>(ka, kb)), sb);
        } else {
          if (da) g[0] = sum_to(dy, sa);
          if (db) g[1] = sum_to(F::template db<T>(T(0), T(0)) == T(1) ? dy : scaled(dy, T(-1)), sb);
        }
        return g;
      });
}

// clang-format off
template <class T> Tensor<T> add(const Tensor<T>& a, const Tensor<T>& b) { return binary<rules::Add>(a, b); }
template <class T> Tensor<T> sub(const Tensor<T>& a, const Tensor<T>& b) { return binary<rules::Sub>(a, b); }
template <class T> Tensor<T> div(const Tensor<T>& a, const Tensor<T>& b) { return binary<rules::Div>(a, b); }
/// a^b. The gradient with respect to b is 0 where a <= 0.
template <class T> Tensor<T> pow(const Tensor<T>& a, const Tensor<T>& b) { return binary<rules::Pow>(a, b); }
/// On a tie the gradient goes to a.
template <class T> Tensor<T> maximum(const Tensor<T>& a, const Tensor<T>& b) { return binary<rules::Maximum>(a, b); }
template <class T> Tensor<T> minimum(const Tensor<T>& a, const Tensor<T>& b) { return binary<rules::Minimum>(a, b); }
// clang-format on
/// a * b; keeps only the operand whose partner wants a gradient.
template <class T>
Tensor<T> mul(const Tensor<T>& a, const Tensor<T>& b) {
  Tensor<T> y = binary_values<rules::Mul>(a, b);
  const Tensor<T> ka = wants(b) ? a.detach() : Tensor<T>(),
                  kb = wants(a) ? b.detach() : Tensor<T>();
  return record("mul", y, {&a, &b}, [ka, kb, sa = a.shape(), sb = b.shape()](const Tensor<T>& dy) {
    return Grads<T>{kb.defined() ? sum_to(binary_values<rules::Mul>(dy, kb), sa) : Tensor<T>(),
                    ka.defined() ? sum_to(binary_values<rules::Mul>(dy, ka), sb) : Tensor<T>()};
  });
}
/// c * x.
template <class T>
Tensor<T> scale(const Tensor<T>& x, T c) {
  return record("scale", scaled(x, c), {&x},
                [c](const Tensor<T>& dy) { return Grads<T>{scaled(dy, c)}; });
}
template <class T>
Tensor<T> operator+(const Tensor<T>& a, const Tensor<T>& b) {
  return add(a, b);
}
template <class T>
Tensor<T> operator-(const Tensor<T>& a, const Tensor<T>& b) {
  return sub(a, b);
}
template <class T>
Tensor<T> operator*(const Tensor<T>& a, const Tensor<T>& b) {
  return mul(a, b);
}
template <class T>
Tensor<T> operator/(const Tensor<T>& a, const Tensor<T>& b) {
  return div(a, b);
}
template <class T>
Tensor<T> operator*(const Tensor<T>& a, std::type_identity_t<T> c) {
  return scale(a, c);
}
template <class T>
Tensor<T> operator*(std::type_identity_t<T> c, const Tensor<T>& a) {
  return scale(a, c);
}
template <class T>
Tensor<T> operator+(const Tensor<T>& a, std::type_identity_t<T> c) {
  return add(a, Tensor<T>::full({}, c, a.device()));
}
template <class T>
Tensor<T> operator-(const Tensor<T>& a) {
  return scale(a, T(-1));
}

// ---- CPU
template <class F, class T>
void Binary<F, T>::cpu(const Binary& k) {
  // Neighbouring axes that both operands walk evenly are one axis.
  Shape n = k.shape, sa = k.sa, sb = k.sb;
  for (int i = n.rank - 1; i > 0; --i)
    if (sa.dim[i - 1] == sa.dim[i] * n.dim[i] && sb.dim[i - 1] == sb.dim[i] * n.dim[i]) {
      n.dim[i - 1] *= n.dim[i];
      sa.dim[i - 1] = sa.dim[i];
      sb.dim[i - 1] = sb.dim[i];
      n.erase(i), sa.erase(i), sb.erase(i);
    }
  if (n.rank == 0) n.push(1), sa.push(0), sb.push(0);
  const int last = n.rank - 1;
  const Index m = n.dim[last], pa = sa.dim[last], pb = sb.dim[last];
  const Index rows = m ? n.numel() / m : 0;
  const auto run = [&](Index row, Index begin, Index end) {
    Index oa = 0, ob = 0, rest = row;
    for (int i = last; i-- > 0;) {
      const Index c = rest % n.dim[i];
      rest /= n.dim[i];
      oa += c * sa.dim[i];
      ob += c * sb.dim[i];
    }
    const T *a = k.a + oa, *b = k.b + ob;
    T* y = k.y + row * m;
    if (pa == 1 && pb == 1)
      for (Index i = begin; i < end; ++i) y[i] = F::f(a[i], b[i]);
    else if (pa == 1 && pb == 0)
      for (Index i = begin; i < end; ++i) y[i] = F::f(a[i], *b);
    else if (pa == 0 && pb == 1)
      for (Index i = begin; i < end; ++i) y[i] = F::f(*a, b[i]);
    else
      for (Index i = begin; i < end; ++i) y[i] = F::f(a[i * pa], b[i * pb]);
  };
  if (rows == 1)
    parallel_for(m, 1 << 15, [&](Index b, Index e) { run(0, b, e); });
  else
    parallel_for(rows, 1 + (1 << 15) / (m + 1), [&](Index b, Index e) {
      for (Index r = b; r < e; ++r) run(r, 0, m);
    });
}
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
