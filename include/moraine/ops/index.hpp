#pragma once
// Reading and adding by integer positions along one axis: index_select, embedding, gather,
// take_along, index_add, scatter_add, one_hot. With o, i running over the axes before and after:
//
//   index_select  y(o,j,i) = x(o, p(j), i)         dx(o, p(j), i) += dy(o,j,i)
//   gather        y(o,j,i) = x(o, p(o,j,i), i)     dx(o, p(o,j,i), i) += dy(o,j,i)
//   index_add     y = x; y(o, p(j), i) += s(o,j,i)        dx = dy, ds = index_select(dy, p)
//   scatter_add   y = x; y(o, p(o,j,i), i) += s(o,j,i)    dx = dy, ds = gather(dy, p)
//
// Positions are int64 in [0, size); anything else is an error that names the position. Where
// several contributions meet they are added in the order of j, for any thread count.
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/ops/binary.hpp>
#endif

#include <cstdint>
#include <string>
#include <type_traits>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
/// y(o,j,i) = x(o, at, i), at = p(j) (shared) or p(o,j,i). x (outer,size,inner), y
/// (outer,count,inner).
template <class T>
struct Take {
  static constexpr const char* name = "gather";
  Index outer, size, count, inner;
  bool shared;
  const std::int64_t* p;
  const T* x;
  T* y;
  static void cpu(const Take& k);
};
/// y(o, at, i) += s(o,j,i) in the order of j. y (outer,size,inner), s (outer,count,inner).
template <class T>
struct Put {
  static constexpr const char* name = "scatter_add";
  Index outer, size, count, inner;
  bool shared;
  const std::int64_t* p;
  const T* s;
  T* y;
  static void cpu(const Put& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

/// Throws unless every position lies in [0, size).
inline void check_positions(const char* op, const Tensor<std::int64_t>& p, Index size) {
  const Tensor<std::int64_t> c = p.to(Device::cpu).contiguous();
  const std::int64_t* at = c.data();
  for (Index i = 0, n = c.numel(); i < n; ++i)
    if (at[i] < 0 || at[i] >= size)
      fail(ErrorKind::value, std::string(op) + ": position " + std::to_string(at[i]) +
                                 " is outside [0," + std::to_string(size) + "); element " +
                                 std::to_string(i) + " of indices " + str(p.shape()));
}

namespace detail {
/// The shared part of all of them; `p` is contiguous and checked.
template <class T>
struct Positions {
  Split at;  // of x: outer, size, inner
  Index count;
  bool shared;
  Tensor<std::int64_t> p;

  Tensor<T> take(const Tensor<T>& x, const Shape& shape) const {
    const Tensor<T> c = x.contiguous();
    Tensor<T> y = Tensor<T>::empty(shape, c.device());
    launch(c.device(),
           Take<T>{at.outer, at.size, count, at.inner, shared, p.data(), c.data(), y.data()});
    return y;
  }
  void put(const Tensor<T>& y, const Tensor<T>& s) const {
    const Tensor<T> c = s.contiguous();
    launch(y.device(),
           Put<T>{at.outer, at.size, count, at.inner, shared, p.data(), c.data(), y.data()});
  }
};
template <class T>
Tensor<T> taken(const char* op, const Tensor<T>& x, const Positions<T>& k, const Shape& shape) {
  Tensor<T> y = k.take(x.detach(), shape);
  if constexpr (!std::is_floating_point_v<T>)
    return y;
  else
    return record(op, y, {&x}, [k, from = x.shape()](const Tensor<T>& dy) {
      Tensor<T> dx = Tensor<T>::zeros(from, dy.device());
      k.put(dx, dy);
      return Grads<T>{dx};
    });
}
template <class T>
Tensor<T> added(const char* op, const Tensor<T>& x, const Positions<T>& k, const Tensor<T>& s) {
  Tensor<T> y = x.detach().clone();
  k.put(y, s.detach());
  return record(op, y, {&x, &s}, [k, ds = wants(s), shape = s.shape()](const Tensor<T>& dy) {
    return Grads<T>{dy, ds ? k.take(dy, shape) : Tensor<T>()};
  });
}
/// Indices that have the shape of x but for their number along the axis.
inline void check_along(const char* op, const Shape& x, const Shape& p, int axis) {
  const int a = x.axis(axis);
  bool fits = x.rank == p.rank;
  for (int i = 0; fits && i < x.rank; ++i) fits = i == a || x.dim[i] == p.dim[i];
  if (!fits)
    fail(ErrorKind::shape, std::string(op) + ": indices " + str(p) + " differ from x " + str(x) +
                               " in more than axis " + std::to_string(a));
}
}  // namespace detail

/// Slices p(0), p(1), ... of one axis; p is (M), and the axis gets size M.
template <class T>
Tensor<T> index_select(const Tensor<T>& x, const Tensor<std::int64_t>& p, int axis = 0) {
  const Split at = split_at(x.shape(), axis);
  if (p.rank() != 1)
    fail(ErrorKind::shape, "index_select: indices need one axis; indices " + str(p.shape()));
  check_device("index_select", x.device(), p.device());
  check_positions("index_select", p, at.size);
  Shape shape = x.shape();
  shape[axis] = p.numel();
  return detail::taken("index_select", x, detail::Positions<T>{at, p.numel(), true, p.contiguous()},
                       shape);
}

/// Rows of a table (V,C) for indices of any shape: (...,C).
template <class T>
Tensor<T> embedding(const Tensor<T>& table, const Tensor<std::int64_t>& p) {
  if (table.rank() != 2)
    fail(ErrorKind::shape, "embedding: the table needs two axes; table " + str(table.shape()));
  check_device("embedding", table.device(), p.device());
  check_positions("embedding", p, table.size(0));
  Shape shape = p.shape();
  shape.push(table.size(1));
  return detail::taken(
      "embedding", table,
      detail::Positions<T>{split_at(table.shape(), 0), p.numel(), true, p.contiguous()}, shape);
}

/// One value for every index: y has the shape of p, which is that of x but along `axis`.
template <class T>
Tensor<T> gather(const Tensor<T>& x, int axis, const Tensor<std::int64_t>& p) {
  const Split at = split_at(x.shape(), axis);
  detail::check_along("gather", x.shape(), p.shape(), axis);
  check_device("gather", x.device(), p.device());
  check_positions("gather", p, at.size);
  return detail::taken("gather", x, detail::Positions<T>{at, p.size(axis), false, p.contiguous()},
                       p.shape());
}

/// gather with indices whose other axes may also have size 1: the indices that argsort or top_k of
/// one map give are applied to many.
template <class T>
Tensor<T> take_along(const Tensor<T>& x, const Tensor<std::int64_t>& p, int axis) {
  if (p.rank() != x.rank())
    fail(ErrorKind::shape, "take_along: indices " + str(p.shape()) + " and x " + str(x.shape()) +
                               " need the same number of axes");
  Shape shape = x.shape();
  shape[axis] = p.size(axis);
  for (int i = 0; i < shape.rank; ++i)
    if (p.shape().dim[i] != shape.dim[i] && p.shape().dim[i] != 1)
      fail(ErrorKind::shape, "take_along: indices " + str(p.shape()) + " do not broadcast to x " +
                                 str(x.shape()) + " along axis " +
                                 std::to_string(x.shape().axis(axis)));
  return gather(x, axis, expand_view(p, shape));
}

/// x with s(j) added to its slice p(j), for j in order. p is (M); s is x with M slices.
template <class T>
Tensor<T> index_add(const Tensor<T>& x, int axis, const Tensor<std::int64_t>& p,
                    const Tensor<T>& s) {
  const Split at = split_at(x.shape(), axis);
  detail::check_along("index_add", x.shape(), s.shape(), axis);
  if (p.shape() != Shape{s.size(axis)})
    fail(ErrorKind::shape, "index_add: indices " + str(p.shape()) + " for " +
                               std::to_string(s.size(axis)) + " slices; source " + str(s.shape()));
  check_device("index_add", x.device(), p.device());
  check_device("index_add", x.device(), s.device());
  check_positions("index_add", p, at.size);
  return detail::added("index_add", x, detail::Positions<T>{at, p.numel(), true, p.contiguous()},
                       s);
}

/// x with every element of s added at its own index along `axis`. p and s have the same shape.
template <class T>
Tensor<T> scatter_add(const Tensor<T>& x, int axis, const Tensor<std::int64_t>& p,
                      const Tensor<T>& s) {
  const Split at = split_at(x.shape(), axis);
  detail::check_along("scatter_add", x.shape(), p.shape(), axis);
  if (p.shape() != s.shape())
    fail(ErrorKind::shape,
         "scatter_add: indices " + str(p.shape()) + " for source " + str(s.shape()));
  check_device("scatter_add", x.device(), p.device());
  check_device("scatter_add", x.device(), s.device());
  check_positions("scatter_add", p, at.size);
  return detail::added("scatter_add", x,
                       detail::Positions<T>{at, p.size(axis), false, p.contiguous()}, s);
}

/// (...,classes): 1 at the label, 0 elsewhere.
template <class T = float>
Tensor<T> one_hot(const Tensor<std::int64_t>& labels, Index classes) {
  const Tensor<std::int64_t> c = labels.to(Device::cpu).contiguous();
  check_positions("one_hot", c, classes);
  Shape shape = labels.shape();
  shape.push(classes);
  Tensor<T> y = Tensor<T>::zeros(shape);
  for (Index i = 0, n = c.numel(); i < n; ++i) y.data()[i * classes + c.data()[i]] = T(1);
  return y.to(labels.device());
}

// ---- CPU
template <class T>
void Take<T>::cpu(const Take& k) {
  const Index grain = 1 + (1 << 14) / (k.inner + 1);
  parallel_for(k.outer * k.count, grain, [&](Index b, Index e) {
    Index o = b / k.count, j = b % k.count;
    for (Index r = b; r < e; ++r) {
      const T* x = k.x + o * k.size * k.inner;
      T* y = k.y + r * k.inner;
      if (k.shared) {
        const T* row = x + k.p[j] * k.inner;
        for (Index i = 0; i < k.inner; ++i) y[i] = row[i];
      } else {
        const std::int64_t* p = k.p + r * k.inner;
        for (Index i = 0; i < k.inner; ++i) y[i] = x[p[i] * k.inner + i];
      }
      if (++j == k.count) j = 0, ++o;
    }
  });
}
template <class T>
void Put<T>::cpu(const Put& k) {
  // Threads own columns of one o: what meets in an element is added by one of them, in order.
  constexpr Index piece = 64;
  const Index pieces = (k.inner + piece - 1) / piece;
  const Index width = k.inner < piece ? k.inner : piece;
  parallel_for(k.outer * pieces, 1 + (1 << 14) / (k.count * width + 1), [&](Index b, Index e) {
    for (Index r = b; r < e; ++r) {
      const Index o = r / pieces, first = (r % pieces) * piece;
      const Index last = first + piece < k.inner ? first + piece : k.inner;
      T* y = k.y + o * k.size * k.inner;
      for (Index j = 0; j < k.count; ++j) {
        const Index from = (o * k.count + j) * k.inner;
        if (k.shared) {
          T* row = y + k.p[j] * k.inner;
          for (Index i = first; i < last; ++i) row[i] += k.s[from + i];
        } else {
          for (Index i = first; i < last; ++i) y[k.p[from + i] * k.inner + i] += k.s[from + i];
        }
      }
    }
  });
}
MORAINE_INSTANTIATE(Take)
MORAINE_INSTANTIATE(Put)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
