#pragma once
// Products for mixtures of low-rank experts in which every row visits only the experts it was sent
// to. An entry i is one visit: row n_i of x at expert e_i; entries are sorted by expert, then by
// row, so that an expert's work is one product on gathered rows.
//
//   routed_down   y_i = w_{e_i} x_{n_i}                    x (n,D), w (E,r,D) -> (m,r)
//   routed_up     y_n = sum over its entries w_{e_i}^T u_i   u (m,r), w (E,r,D) -> (n,D)
//
// Each is the other's gradient, and both share the gradient of w:
//
//   dw_e = sum_i a_i b_{n_i}^T over the entries of e       (a,b) = (dy,x) or (u,dy)
//
// Rows are gathered by the pointers that the product's tile takes anyway; nothing is sorted in
// memory. So E experts with one chosen cost what one expert costs, and the packing of w.
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/cpu/rows.hpp>
#include <moraine/ops/matmul.hpp>
#endif

#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

#ifdef MORAINE_HOST
/// Which rows visit which experts.
struct Routing {
  Index rows = 0, experts = 0;
  std::shared_ptr<const std::vector<Index>> row;    ///< (m), the row of each entry
  std::shared_ptr<const std::vector<Index>> begin;  ///< (E+1), where each expert's entries begin
  Index entries() const { return row ? static_cast<Index>(row->size()) : 0; }
};

/// From the chosen experts of every row, (n,k), no expert twice in a row.
inline Routing make_routing(const Tensor<std::int64_t>& chosen, Index experts) {
  if (chosen.rank() != 2 || chosen.device() != Device::cpu)
    fail(ErrorKind::shape,
         "routing: needs the chosen experts (n,k) on the CPU; " + str(chosen.shape()));
  const Tensor<std::int64_t> c = chosen.contiguous();
  const Index n = c.size(0), k = c.size(1);
  std::vector<Index> begin(static_cast<std::size_t>(experts) + 1);
  for (Index i = 0; i < n * k; ++i) {
    const std::int64_t e = c.data()[i];
    if (e < 0 || e >= experts)
      fail(ErrorKind::value, "routing: expert " + std::to_string(e) + " of " +
                                 std::to_string(experts) + " in row " + std::to_string(i / k));
    for (Index j = i / k * k; j < i; ++j)
      if (c.data()[j] == e)
        fail(ErrorKind::value, "routing: row " + std::to_string(i / k) + " chooses expert " +
                                   std::to_string(e) + " twice");
    ++begin[static_cast<std::size_t>(e) + 1];
  }
  for (std::size_t e = 1; e < begin.size(); ++e) begin[e] += begin[e - 1];
  std::vector<Index> row(static_cast<std::size_t>(n * k)), next(begin);
  for (Index i = 0; i < n * k; ++i)
    row[static_cast<std::size_t>(next[static_cast<std::size_t>(c.data()[i])]++)] = i / k;
  return {n, experts, std::make_shared<const std::vector<Index>>(std::move(row)),
          std::make_shared<const std::vector<Index>>(std::move(begin))};
}

/// Where the gate of each entry lies in gates (n,E), flat.
inline Tensor<std::int64_t> gate_places(const Routing& to) {
  Tensor<std::int64_t> p = Tensor<std::int64_t>::empty({to.entries()});
  for (Index e = 0; e < to.experts; ++e)
    for (Index i = (*to.begin)[static_cast<std::size_t>(e)];
         i < (*to.begin)[static_cast<std::size_t>(e) + 1]; ++i)
      p.data()[i] = (*to.row)[static_cast<std::size_t>(i)] * to.experts + e;
  return p;
}
#endif

// ---- kernels: what every backend must compute
template <class T>
struct RoutedDown {
  static constexpr const char* name = "routed_down";
  Index experts, d, r;
  const Index *begin, *row;
  const T *x, *w;  // (n,D), (E,r,D)
  T* y;            // (m,r)
  static void cpu(const RoutedDown& k);
};
template <class T>
struct RoutedUp {
  static constexpr const char* name = "routed_up";
  Index n, experts, d, r;
  const Index *begin, *row;
  const T *u, *w;  // (m,r), (E,r,D)
  T* y;            // (n,D)
  static void cpu(const RoutedUp& k);
};
template <class T>
struct RoutedWeight {
  static constexpr const char* name = "routed_weight";
  Index experts, d, r;
  const Index *begin, *row;
  const T *a, *b;  // (m,r), (n,D)
  T* dw;           // (E,r,D)
  static void cpu(const RoutedWeight& k);
};

#ifdef MORAINE_HOST  // ---- the ops: shape rule, forward, gradient
namespace detail {
template <class T>
Tensor<T> routed_down_values(const Tensor<T>& x, const Tensor<T>& w, const Routing& to) {
  Tensor<T> y = Tensor<T>::empty({to.entries(), w.size(1)});
  launch(x.device(), RoutedDown<T>{to.experts, w.size(2), w.size(1), to.begin->data(),
                                   to.row->data(), x.data(), w.data(), y.data()});
  return y;
}
template <class T>
Tensor<T> routed_up_values(const Tensor<T>& u, const Tensor<T>& w, const Routing& to) {
  Tensor<T> y = Tensor<T>::empty({to.rows, w.size(2)});
  launch(u.device(), RoutedUp<T>{to.rows, to.experts, w.size(2), w.size(1), to.begin->data(),
                                 to.row->data(), u.data(), w.data(), y.data()});
  return y;
}
template <class T>
Tensor<T> routed_weight_values(const Tensor<T>& a, const Tensor<T>& b, const Routing& to) {
  Tensor<T> dw = Tensor<T>::empty({to.experts, a.size(1), b.size(1)});
  launch(a.device(), RoutedWeight<T>{to.experts, b.size(1), a.size(1), to.begin->data(),
                                     to.row->data(), a.data(), b.data(), dw.data()});
  return dw;
}
inline void check_routed(const char* op, const Shape& rows, Index most, const Shape& w, int in,
                         const Routing& to) {
  if (rows.rank != 2 || w.rank != 3 || rows[0] != most || w[0] != to.experts || rows[1] != w[in])
    fail(ErrorKind::shape, std::string(op) + ": does not fit a routing of " +
                               std::to_string(to.entries()) + " visits of " +
                               std::to_string(to.rows) + " rows to " + std::to_string(to.experts) +
                               " experts; rows " + str(rows) + ", weight (E,r,D) " + str(w));
}
}  // namespace detail

/// y_i = w_{e_i} x_{n_i}: x (n,D), w (E,r,D) -> (m,r), entries in the order of the routing.
template <class T>
Tensor<T> routed_down(const Tensor<T>& x, const Tensor<T>& w, const Routing& to) {
  detail::check_routed("routed_down", x.shape(), to.rows, w.shape(), 2, to);
  check_device("routed_down", x.device(), w.device());
  const Tensor<T> cx = x.contiguous().detach(), cw = w.contiguous().detach();
  const bool dx = wants(x), dw = wants(w);
  return record(
      "routed_down", detail::routed_down_values(cx, cw, to), {&x, &w},
      [to, dx, dw, kx = dw ? cx : Tensor<T>(), kw = dx ? cw : Tensor<T>()](const Tensor<T>& dy) {
        const Tensor<T> g = dy.contiguous();
        return Grads<T>{dx ? detail::routed_up_values(g, kw, to) : Tensor<T>(),
                        dw ? detail::routed_weight_values(g, kx, to) : Tensor<T>()};
      });
}

/// y_n = sum over its entries w_{e_i}^T u_i: u (m,r), w (E,r,D) -> (n,D). A row without an entry is
/// zero.
template <class T>
Tensor<T> routed_up(const Tensor<T>& u, const Tensor<T>& w, const Routing& to) {
  detail::check_routed("routed_up", u.shape(), to.entries(), w.shape(), 1, to);
  check_device("routed_up", u.device(), w.device());
  const Tensor<T> cu = u.contiguous().detach(), cw = w.contiguous().detach();
  const bool du = wants(u), dw = wants(w);
  return record(
      "routed_up", detail::routed_up_values(cu, cw, to), {&u, &w},
      [to, du, dw, ku = dw ? cu : Tensor<T>(), kw = du ? cw : Tensor<T>()](const Tensor<T>& dy) {
        const Tensor<T> g = dy.contiguous();
        return Grads<T>{du ? detail::routed_down_values(g, kw, to) : Tensor<T>(),
                        dw ? detail::routed_weight_values(ku, g, to) : Tensor<T>()};
      });
}

// ---- CPU
namespace detail {
/// Pieces of at most `piece` entries of one expert each: calls f(expert, first entry, count).
template <class F>
void for_visits(Index experts, const Index* begin, Index piece, F f) {
  std::vector<Index> first(static_cast<std::size_t>(experts) + 1);  // piece -> expert, by search
  for (Index e = 0; e < experts; ++e)
    first[static_cast<std::size_t>(e) + 1] =
        first[static_cast<std::size_t>(e)] + (begin[e + 1] - begin[e] + piece - 1) / piece;
  parallel_for(first.back(), 1, [&](Index b, Index end) {
    Index e = 0;
    for (Index x = b; x < end; ++x) {
      while (first[static_cast<std::size_t>(e) + 1] <= x) ++e;
      const Index at = begin[e] + (x - first[static_cast<std::size_t>(e)]) * piece;
      f(e, at, begin[e + 1] - at < piece ? begin[e + 1] - at : piece);
    }
  });
}
/// The first of the entries [first,last), sorted by row, whose row is not below n.
inline Index first_from(const Index* row, Index first, Index last, Index n) {
  while (first < last) {
    const Index middle = first + (last - first) / 2;
    if (row[middle] < n)
      first = middle + 1;
    else
      last = middle;
  }
  return first;
}
template <class T>
void copy_row(const T* x, Index n, T* y) {
  if (n > 0) std::memcpy(y, x, static_cast<std::size_t>(n) * sizeof(T));
}
}  // namespace detail

template <class T>
void RoutedDown<T>::cpu(const RoutedDown& k) {
  std::vector<std::shared_ptr<const cpu::PackedWeight<T>>> packed(
      static_cast<std::size_t>(k.experts));
  if constexpr (std::is_same_v<T, float>)
    parallel_for(k.experts, 1 + 16384 / (k.r * k.d + 1), [&](Index b, Index end) {
      for (Index e = b; e < end; ++e)
        if (k.begin[e] < k.begin[e + 1])
          packed[static_cast<std::size_t>(e)] =
              cpu::pack_matrix(k.w + e * k.r * k.d, 1, k.d, k.d, k.r);
    });
  detail::for_visits(k.experts, k.begin, 96, [&](Index e, Index at, Index count) {
    cpu::gemm<T>({.m = count,
                  .n = k.r,
                  .k = k.d,
                  .a = {k.x, k.d, 1},
                  .b = {k.w + e * k.r * k.d, 1, k.d},
                  .c = {k.y + at * k.r, k.r, 1},
                  .packed = packed[static_cast<std::size_t>(e)].get(),
                  .a_rows = k.row + at});
  });
}

template <class T>
void RoutedUp<T>::cpu(const RoutedUp& k) {
  // A task owns a range of rows and adds expert after expert, so that no two write to one row.
  // Products of few rows read w where it lies.
  constexpr Index range = 512, some = 24;
  parallel_for((k.n + range - 1) / range, 1, [&](Index b, Index end) {
    for (Index x = b; x < end; ++x) {
      const Index n0 = x * range, n1 = n0 + range < k.n ? n0 + range : k.n;
      // With one visit each, the products write; else they add to zero.
      bool seen[range] = {}, once = true;
      for (Index e = 0; e < k.experts; ++e) {
        const Index first = detail::first_from(k.row, k.begin[e], k.begin[e + 1], n0);
        for (Index i = first; i < k.begin[e + 1] && k.row[i] < n1; ++i) {
          once = once && !seen[k.row[i] - n0];
          seen[k.row[i] - n0] = true;
        }
      }
      for (Index n = n0; n < n1; ++n)
        if (k.d > 0 && (!once || !seen[n - n0]))
          std::memset(k.y + n * k.d, 0, sizeof(T) * static_cast<std::size_t>(k.d));
      for (Index e = 0; e < k.experts; ++e) {
        Index i = detail::first_from(k.row, k.begin[e], k.begin[e + 1], n0);
        const Index last = detail::first_from(k.row, i, k.begin[e + 1], n1);
        for (; i < last; i += some)
          cpu::gemm<T>({.m = last - i < some ? last - i : some,
                        .n = k.d,
                        .k = k.r,
                        .a = {k.u + i * k.r, k.r, 1},
                        .b = {k.w + e * k.r * k.d, k.d, 1},
                        .c = {k.y, k.d, 1},
                        .accumulate = !once,
                        .c_rows = k.row + i});
      }
    }
  });
}

template <class T>
void RoutedWeight<T>::cpu(const RoutedWeight& k) {
  // A task owns some columns of one expert. Visited rows are copied side by side, few enough to
  // stay in the cache, since a product's k must be evenly spaced.
  constexpr Index columns = 512, some = 96;
  const Index blocks = (k.d + columns - 1) / columns;
  parallel_for(k.experts * blocks, 1, [&](Index b, Index end) {
    const std::unique_ptr<T[]> part(new T[static_cast<std::size_t>(some * columns)]);
    for (Index x = b; x < end; ++x) {
      const Index e = x / blocks, c0 = x % blocks * columns;
      const Index cols = k.d - c0 < columns ? k.d - c0 : columns;
      T* const dw = k.dw + e * k.r * k.d + c0;
      Index i = k.begin[e];
      do {  // once for an expert without a visit: a product of no steps is zero
        const Index count = k.begin[e + 1] - i < some ? k.begin[e + 1] - i : some;
        for (Index j = 0; j < count; ++j)
          detail::copy_row(k.b + k.row[i + j] * k.d + c0, cols, part.get() + j * cols);
        cpu::gemm<T>({.m = k.r,
                      .n = cols,
                      .k = count,
                      .a = {k.a + i * k.r, 1, k.r},
                      .b = {part.get(), cols, 1},
                      .c = {dw, k.d, 1},
                      .accumulate = i > k.begin[e]});
        i += some;
      } while (i < k.begin[e + 1]);
    }
  });
}
MORAINE_INSTANTIATE(RoutedDown)
MORAINE_INSTANTIATE(RoutedUp)
MORAINE_INSTANTIATE(RoutedWeight)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
