#pragma once
// Sums, means, extrema over axes.
//
//   sum:  y = sum_r x_r,          dx_r = dy
//   amax: y = max_r x_r,          dx_r = dy for the first r that attains it, else 0
//
// Every reduction adds in an order that depends on the sizes alone: pieces of fixed length, then
// the pieces, by halves, so that the error of a long sum grows with the logarithm of its length.
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/autograd/record.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/ops/reduction.hpp>
#endif

#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
/// y(o,i) = sum over r of x(o,r,i), row-major.
template <class T>
struct Sum {
  static constexpr const char* name = "sum";
  Index outer, reduce, inner;
  const T* x;
  T* y;
  static void cpu(const Sum& k);
};
/// y(o,i) = max (or min) over r, index(o,i) = the first r that attains it; NaN wins.
template <class T>
struct Extremum {
  static constexpr const char* name = "amax";
  Index outer, reduce, inner;
  bool smallest;
  const T* x;
  T* y;
  std::int64_t* index;
  static void cpu(const Extremum& k);
};

/// y = f x.
template <class T>
struct Scaled {
  static constexpr const char* name = "scaled";
  Index n;
  T f;
  const T* x;
  T* y;
  static void cpu(const Scaled& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

/// The axes to reduce, sorted; all of them when `axes` is empty.
inline std::vector<int> reduction_axes(const Shape& s, const std::vector<int>& axes) {
  bool on[Shape::max_rank] = {};
  for (int a : axes) on[s.axis(a)] = true;
  std::vector<int> out;
  for (int i = 0; i < s.rank; ++i)
    if (axes.empty() || on[i]) out.push_back(i);
  return out;
}

/// Sizes before, in and after axis a.
struct Split {
  Index outer = 1, size = 1, inner = 1;
};
inline Split split_at(const Shape& s, int axis) {
  Split p;
  const int a = s.axis(axis);
  for (int i = 0; i < a; ++i) p.outer *= s.dim[i];
  p.size = s.dim[a];
  for (int i = a + 1; i < s.rank; ++i) p.inner *= s.dim[i];
  return p;
}

struct ReduceOptions {
  std::vector<int> axes = {};  ///< empty: all
  bool keep = false;           ///< keep reduced axes with size 1
};

/// The plain sum, without the tape; kept axes have size 1.
template <class T>
Tensor<T> sum_values(const Tensor<T>& x, const std::vector<int>& axes) {
  Tensor<T> y = x.contiguous().detach();
  Shape s = y.shape();
  // Runs of neighbouring axes are reduced together, the last run first.
  for (std::size_t end = axes.size(); end > 0;) {
    std::size_t first = end - 1;
    while (first > 0 && axes[first - 1] == axes[first] - 1) --first;
    Sum<T> k{1, 1, 1, y.data(), nullptr};
    for (int i = 0; i < axes[first]; ++i) k.outer *= s.dim[i];
    for (std::size_t i = first; i < end; ++i) k.reduce *= s.dim[axes[i]], s.dim[axes[i]] = 1;
    for (int i = axes[end - 1] + 1; i < s.rank; ++i) k.inner *= s.dim[i];
    Tensor<T> r = Tensor<T>::empty(s, y.device());
    k.y = r.data();
    launch(y.device(), k);
    y = r;
    end = first;
  }
  return y;
}

/// A view of x in which axes of size 1 are repeated to reach `shape`.
template <class T>
Tensor<T> expand_view(const Tensor<T>& x, const Shape& shape) {
  Shape strides = shape;
  for (int i = 0; i < shape.rank; ++i) {
    const int j = i - (shape.rank - x.rank());
    if (j >= 0 && x.shape().dim[j] != shape.dim[i] && x.shape().dim[j] != 1)
      fail(ErrorKind::shape, "expand: " + str(x.shape()) + " does not fit " + str(shape));
    strides.dim[i] = j < 0 || x.shape().dim[j] == 1 ? 0 : x.strides().dim[j];
  }
  if (x.rank() > shape.rank)
    fail(ErrorKind::shape, "expand: " + str(x.shape()) + " does not fit " + str(shape));
  return x.view(shape, strides);
}

/// Sums the axes along which `shape` was broadcast to g; the gradient of a broadcast.
template <class T>
Tensor<T> sum_to(const Tensor<T>& g, const Shape& shape) {
  if (g.shape() == shape) return g;
  std::vector<int> axes;
  const int lead = g.rank() - shape.rank;
  for (int i = 0; i < g.rank(); ++i)
    if (i < lead || (shape.dim[i - lead] == 1 && g.shape().dim[i] != 1)) axes.push_back(i);
  return sum_values(g, axes).reshaped(shape);
}

inline Shape without_axes(Shape s, const std::vector<int>& axes) {
  for (std::size_t i = axes.size(); i-- > 0;) s.erase(axes[i]);
  return s;
}

/// Sum over `axes` (all when empty).
template <class T>
Tensor<T> sum(const Tensor<T>& x, const ReduceOptions& o = {}) {
  const std::vector<int> axes = reduction_axes(x.shape(), o.axes);
  const Tensor<T> kept = sum_values(x, axes);
  const Shape ones = kept.shape(), from = x.shape();
  Tensor<T> y = o.keep ? kept : kept.reshaped(without_axes(ones, axes));
  return record("sum", y, {&x}, [ones, from](const Tensor<T>& dy) {
    return Grads<T>{expand_view(dy.reshaped(ones), from)};
  });
}

/// c * x without the tape.
template <class T>
Tensor<T> scaled(const Tensor<T>& x, T c) {
  const Tensor<T> in = x.contiguous();
  Tensor<T> y = empty_like(in);
  launch(in.device(), Scaled<T>{in.numel(), c, in.data(), y.data()});
  return y;
}

/// Mean over `axes` (all when empty). The mean of nothing is NaN.
template <class T>
Tensor<T> mean(const Tensor<T>& x, const ReduceOptions& o = {}) {
  const std::vector<int> axes = reduction_axes(x.shape(), o.axes);
  Tensor<T> kept = sum_values(x, axes);
  const Shape ones = kept.shape(), from = x.shape();
  Index count = 1;
  for (int a : axes) count *= from.dim[a];
  const T f = T(1) / static_cast<T>(count);
  kept = scaled(kept, count ? f : T(0) / T(0));
  Tensor<T> y = o.keep ? kept : kept.reshaped(without_axes(ones, axes));
  return record("mean", y, {&x}, [ones, from, f](const Tensor<T>& dy) {
    return Grads<T>{expand_view(scaled(dy, f).reshaped(ones), from)};
  });
}

template <class T>
struct ExtremumResult {
  Tensor<T> values;
  Tensor<std::int64_t> indices;  ///< along the reduced axis; ties: the first
};

/// Largest (or smallest) value along one axis. Throws on an empty axis.
template <class T>
ExtremumResult<T> extremum(const Tensor<T>& x, int axis, bool smallest, bool keep = false) {
  const Split p = split_at(x.shape(), axis);
  if (p.size == 0 && p.outer * p.inner > 0)
    fail(ErrorKind::shape, "amax: axis " + std::to_string(axis) + " is empty; x " + str(x.shape()));
  const Tensor<T> c = x.contiguous().detach();
  Shape s = x.shape();
  s[axis] = 1;
  Tensor<T> y = Tensor<T>::empty(s, x.device());
  auto index = Tensor<std::int64_t>::empty(s, x.device());
  launch(x.device(),
         Extremum<T>{p.outer, p.size, p.inner, smallest, c.data(), y.data(), index.data()});
  if (!keep) {
    Shape t = s;
    t.erase(x.shape().axis(axis));
    y = y.reshaped(t);
    index = index.reshaped(t);
  }
  const Shape from = x.shape();
  Tensor<T> tracked = record("amax", y, {&x}, [index, from, p](const Tensor<T>& dy) {
    Tensor<T> dx = Tensor<T>::zeros(from);
    const Tensor<T> g = dy.contiguous();
    for (Index o = 0; o < p.outer; ++o)
      for (Index i = 0; i < p.inner; ++i) {
        const Index at = o * p.inner + i;
        dx.data()[(o * p.size + index.data()[at]) * p.inner + i] = g.data()[at];
      }
    return Grads<T>{dx};
  });
  return {tracked, index};
}
template <class T>
ExtremumResult<T> max(const Tensor<T>& x, int axis) {
  return extremum(x, axis, false);
}
template <class T>
ExtremumResult<T> min(const Tensor<T>& x, int axis) {
  return extremum(x, axis, true);
}
template <class T>
Tensor<std::int64_t> argmax(const Tensor<T>& x, int axis) {
  return extremum(x.detach(), axis, false).indices;
}

// ---- CPU
template <class T>
void Sum<T>::cpu(const Sum& k) {
  using A = acc<T>;
  if (k.inner == 1) {
    // Pieces of 8192 elements, each by ordered_total, then the pieces of a row the same way.
    constexpr Index piece = 8192;
    const Index pieces = k.reduce ? (k.reduce + piece - 1) / piece : 1;
    std::vector<A> part(static_cast<std::size_t>(pieces > 1 ? k.outer * pieces : 0));
    parallel_for(k.outer * pieces, 1 + 32768 / (k.reduce + 1), [&](Index b, Index e) {
      for (Index j = b; j < e; ++j) {
        const T* x = k.x + (j / pieces) * k.reduce;
        const Index first = (j % pieces) * piece;
        const Index last = first + piece < k.reduce ? first + piece : k.reduce;
        const A s = ordered_total<A>(first, last, [x](Index i) { return A(x[i]); });
        if (pieces > 1)
          part[static_cast<std::size_t>(j)] = s;
        else
          k.y[j] = static_cast<T>(s);
      }
    });
    for (Index o = 0; o < k.outer && pieces > 1; ++o)
      k.y[o] = static_cast<T>(ordered_sum(part.data() + o * pieces, pieces));
    return;
  }
  // Rows are added into row vectors: pieces of 256 rows, then the pieces by ordered_total.
  constexpr Index piece = 256;
  const Index pieces = k.reduce ? (k.reduce + piece - 1) / piece : 1;
  std::vector<A> part(static_cast<std::size_t>(k.outer * pieces * k.inner));
  parallel_for(k.outer * pieces, 1 + 32768 / (piece * k.inner + 1), [&](Index b, Index e) {
    for (Index j = b; j < e; ++j) {
      const Index o = j / pieces, first = (j % pieces) * piece;
      const Index last = first + piece < k.reduce ? first + piece : k.reduce;
      A* s = part.data() + j * k.inner;
      for (Index r = first; r < last; ++r) {
        const T* x = k.x + (o * k.reduce + r) * k.inner;
        for (Index i = 0; i < k.inner; ++i) s[i] += A(x[i]);
      }
    }
  });
  for (Index o = 0; o < k.outer; ++o)
    for (Index i = 0; i < k.inner; ++i) {
      const A* p = part.data() + o * pieces * k.inner + i;
      k.y[o * k.inner + i] =
          static_cast<T>(ordered_total<A>(0, pieces, [&](Index j) { return p[j * k.inner]; }));
    }
}
template <class T>
void Extremum<T>::cpu(const Extremum& k) {
  parallel_for(k.outer * k.inner, 1 + 32768 / (k.reduce + 1), [&](Index b, Index e) {
    for (Index j = b; j < e; ++j) {
      const T* x = k.x + (j / k.inner) * k.reduce * k.inner + j % k.inner;
      Index best = 0;
      for (Index r = 1; r < k.reduce; ++r) {
        const T v = x[r * k.inner], m = x[best * k.inner];
        if (m != m) break;
        if (v != v || (k.smallest ? v < m : v > m)) best = r;
      }
      k.y[j] = x[best * k.inner];
      k.index[j] = best;
    }
  });
}
template <class T>
void Scaled<T>::cpu(const Scaled& k) {
  parallel_for(k.n, 1 << 15, [&](Index b, Index e) {
    for (Index i = b; i < e; ++i) k.y[i] = k.f * k.x[i];
  });
}
MORAINE_INSTANTIATE(Sum)
MORAINE_INSTANTIATE(Scaled)
MORAINE_INSTANTIATE(Extremum)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
