#pragma once
// Order along one axis: top_k, argsort, sort. For routers, matchers and rankings.
//
//   y(j) = x(p(j)),   dx(p(j)) = dy(j)
//
// Ties keep the order of their positions, whether the order goes up or down: the lower index comes
// first. NaN counts as larger than every number, so that it cannot hide behind a routing decision.
#include <algorithm>
#include <moraine/ops/index.hpp>
#include <moraine/ops/shape.hpp>
#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
/// For every row the positions of its first `count` elements in sorted order. x (rows,cols),
/// p (rows,count).
template <class T>
struct Order {
  static constexpr const char* name = "argsort";
  Index rows, cols, count;
  bool descending;
  const T* x;
  std::int64_t* p;
  static void cpu(const Order& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

struct SortOptions {
  int axis = -1;
  bool descending = false;
};
struct TopKOptions {
  int axis = -1;
  bool largest = true;  ///< false: the smallest, in ascending order
};
template <class T>
struct Sorted {
  Tensor<T> values;
  Tensor<std::int64_t> indices;  ///< positions along the axis
};

/// Positions of the first `count` elements in sorted order along `axis`; not recorded.
template <class T>
Tensor<std::int64_t> order_of(const char* op, const Tensor<T>& x, int axis, Index count,
                              bool descending) {
  const int a = x.shape().axis(axis);
  const Index cols = x.shape().dim[a];
  if (count < 0 || count > cols)
    fail(ErrorKind::value, std::string(op) + ": wants " + std::to_string(count) + " of " +
                               std::to_string(cols) + " elements; x " + str(x.shape()) + " axis " +
                               std::to_string(a));
  std::vector<int> axes, back(static_cast<std::size_t>(x.rank()));
  for (int i = 0; i < x.rank(); ++i)
    if (i != a) axes.push_back(i);
  axes.push_back(a);
  for (std::size_t i = 0; i < axes.size(); ++i)
    back[static_cast<std::size_t>(axes[i])] = static_cast<int>(i);
  const Tensor<T> c = permute_view(x.detach(), axes).contiguous();  // the axis last
  Shape shape = c.shape();
  shape[-1] = count;
  auto p = Tensor<std::int64_t>::empty(shape, x.device());
  const Index rows = cols ? c.numel() / cols : 0;
  launch(x.device(), Order<T>{rows, cols, count, descending, c.data(), p.data()});
  return permute_view(p, back).contiguous();
}

/// The k largest (or smallest) values along an axis, best first, and where they were. Ties: the
/// lower index.
template <class T>
Sorted<T> top_k(const Tensor<T>& x, Index k, const TopKOptions& o = {}) {
  const auto p = order_of("top_k", x, o.axis, k, o.largest);
  return {gather(x, o.axis, p), p};
}
/// The positions that sort an axis; stable in both directions.
template <class T>
Tensor<std::int64_t> argsort(const Tensor<T>& x, const SortOptions& o = {}) {
  return order_of("argsort", x, o.axis, x.size(o.axis), o.descending);
}
/// The values in order, and where they were; stable in both directions.
template <class T>
Sorted<T> sort(const Tensor<T>& x, const SortOptions& o = {}) {
  const auto p = order_of("sort", x, o.axis, x.size(o.axis), o.descending);
  return {gather(x, o.axis, p), p};
}

// ---- CPU
template <class T>
void Order<T>::cpu(const Order& k) {
  parallel_for(k.rows, 1 + 4096 / (k.cols + 1), [&](Index b, Index e) {
    std::vector<std::int64_t> at(static_cast<std::size_t>(k.cols));
    for (Index r = b; r < e; ++r) {
      const T* x = k.x + r * k.cols;
      // A total order: by value with NaN on top, then by position.
      const auto before = [&](std::int64_t i, std::int64_t j) {
        const T u = x[i], v = x[j];
        const bool nu = u != u, nv = v != v;
        if (nu != nv) return k.descending ? nu : nv;
        if (u < v || v < u) return k.descending ? v < u : u < v;
        return i < j;
      };
      std::int64_t* p = k.p + r * k.count;
      if (k.count <= 8) {
        // Few of a row: insert into a short sorted list.
        Index have = 0;
        for (Index i = 0; i < k.cols && k.count > 0; ++i) {
          if (have == k.count && !before(i, p[have - 1])) continue;
          Index at_slot = have < k.count ? have++ : have - 1;
          for (; at_slot > 0 && before(i, p[at_slot - 1]); --at_slot) p[at_slot] = p[at_slot - 1];
          p[at_slot] = i;
        }
        continue;
      }
      for (Index i = 0; i < k.cols; ++i) at[static_cast<std::size_t>(i)] = i;
      std::partial_sort(at.begin(), at.begin() + k.count, at.end(), before);
      for (Index i = 0; i < k.count; ++i) p[i] = at[static_cast<std::size_t>(i)];
    }
  });
}
MORAINE_INSTANTIATE(Order)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
