#pragma once
// Decomposed relative positions of attention over a map (Li et al., MViTv2, 2022; SAM): what
// rel_h and rel_w of ops/attention.hpp are, from the queries and two learned tables.
//
//   y(b,h,n,k) = q(b,h,n) . table(p(n) - k + S - 1),   p(n): the row, or the column, of token n
//
// S is the number of rows (columns), table (2S-1,D). All tokens of row p meet the same S rows of
// the table; with the table upside down these follow each other, from row S-1-p on. So for an image
// and a head y is a batch of S products, each with a window of the table one row further up, and
// nothing is copied. With G(p,k) = sum over the tokens of row p of dy(.,k) q:
//   dq = dy times the same windows,   dtable(p - k + S - 1) += G(p,k)
#include <moraine/core/device.hpp>
#include <moraine/ops/window.hpp>
#ifdef MORAINE_HOST
#include <moraine/cpu/gemm.hpp>
#include <moraine/ops/index.hpp>
#include <moraine/ops/matmul.hpp>
#include <moraine/ops/roll.hpp>
#endif
#include <string>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

#ifdef MORAINE_HOST

enum class MapAxis : unsigned char { rows, columns };

/// The definition: every pair of places takes its row of the table.
template <class T>
Tensor<T> relative_position_composed(const Tensor<T>& qkv, Index heads, const Tensor<T>& table,
                                     Size2 map, MapAxis axis) {
  const Index b = qkv.size(0), c = qkv.size(2) / 3, d = c / heads;
  const Index s = axis == MapAxis::rows ? map.h : map.w;
  auto at = Tensor<std::int64_t>::empty({s, s});
  for (Index p = 0; p < s; ++p)
    for (Index k = 0; k < s; ++k) at.data()[p * s + k] = p - k + s - 1;
  const Tensor<T> pairs = transpose(embedding(table, at));  // (S,D,S)
  Tensor<T> q = reshape(slice(qkv, 2, 0, c), {b, map.h, map.w, heads, d});
  if (axis == MapAxis::rows) {
    q = permute(q, {0, 3, 1, 2, 4});                                 // (B,H,rows,columns,D)
    return reshape(matmul(q, pairs), {b, heads, map.h * map.w, s});  // (B,H,N,S)
  }
  q = permute(q, {0, 3, 2, 1, 4});  // (B,H,columns,rows,D)
  return reshape(permute(matmul(q, pairs), {0, 1, 3, 2, 4}), {b, heads, map.h * map.w, s});
}

namespace detail {
/// The products of one image and head. A token of row (column) p is token m of it.
template <class T>
struct RelativeWindows {
  bool rows;
  Size2 map;
  Index s, batch, heads, d;

  Index token() const { return 3 * heads * d; }                       ///< from a query to the next
  Index along() const { return rows ? 1 : map.w; }                    ///< tokens from m to m + 1
  Index across() const { return rows ? map.w : 1; }                   ///< tokens from p to p + 1
  Index count() const { return rows ? map.w : map.h; }                ///< tokens of a row (column)
  const T* first(const T* down) const { return down + (s - 1) * d; }  ///< the window of p = 0

  /// Calls f(where the queries begin, where the scores begin) for every image and head.
  template <class F>
  void each(F f) const {
    const Index n = map.h * map.w;
    for (Index i = 0; i < batch * heads; ++i) f(i / heads * n * token() + i % heads * d, i * n * s);
  }
  void scores(const T* q, const T* down, T* y) const {
    cpu::gemm<T>({.m = count(),
                  .n = s,
                  .k = d,
                  .a = {q, along() * token(), 1},
                  .b = {first(down), 1, d},
                  .c = {y, along() * s, 1},
                  .batch = s,
                  .step_a = across() * token(),
                  .step_b = -d,
                  .step_c = across() * s});
  }
  void queries(const T* dy, const T* down, T* dq) const {
    cpu::gemm<T>({.m = count(),
                  .n = d,
                  .k = s,
                  .a = {dy, along() * s, 1},
                  .b = {first(down), d, 1},
                  .c = {dq, along() * token(), 1},
                  .batch = s,
                  .step_a = across() * s,
                  .step_b = -d,
                  .step_c = across() * token()});
  }
  void pairs(const T* dy, const T* q, T* g) const {
    cpu::gemm<T>({.m = s,
                  .n = d,
                  .k = count(),
                  .a = {dy, 1, along() * s},
                  .b = {q, along() * token(), 1},
                  .c = {g, d, 1},
                  .batch = s,
                  .step_a = across() * s,
                  .step_b = across() * token(),
                  .step_c = s * d,
                  .accumulate = true});
  }
};
}  // namespace detail

/// qkv (B, rows*columns, 3C), the first third queries, each head by head; table (2S-1, C/heads),
/// S the map's rows or columns -> (B,H,N,S).
template <class T>
Tensor<T> relative_position(const Tensor<T>& qkv, Index heads, const Tensor<T>& table, Size2 map,
                            MapAxis axis) {
  const Index s = axis == MapAxis::rows ? map.h : map.w;
  if (qkv.rank() != 3 || heads < 1 || map.h < 1 || map.w < 1 || qkv.size(1) != map.h * map.w ||
      qkv.size(2) % (3 * heads) != 0 ||
      table.shape() != Shape{2 * s - 1, qkv.size(2) / (3 * heads)})
    fail(ErrorKind::shape,
         "relative_position: needs qkv (B,rows*columns,3C) and a table (2S-1,C/heads), S the " +
             std::string(axis == MapAxis::rows ? "rows" : "columns") + "; qkv " + str(qkv.shape()) +
             ", heads " + std::to_string(heads) + ", map " + str(map) + ", table " +
             str(table.shape()));
  if (qkv.device() != Device::cpu)
    fail(ErrorKind::device,
         "relative_position: has no CUDA kernel yet -> relative_position_composed, or "
         ".to(Device::cpu)");
  const Index b = qkv.size(0), n = map.h * map.w, c = qkv.size(2) / 3, d = c / heads;
  const Tensor<T> x = qkv.contiguous().detach(), down = flip(table.detach(), {0});  // (2S-1,D)
  const detail::RelativeWindows<T> g{axis == MapAxis::rows, map, s, b, heads, d};
  const Tensor<T> y = Tensor<T>::empty({b, heads, n, s});
  g.each([&](Index q, Index at) { g.scores(x.data() + q, down.data(), y.data() + at); });
  const bool dx = wants(qkv), dt = wants(table);
  return record(
      "relative_position", y, {&qkv, &table}, [=, kx = dt ? x : Tensor<T>()](const Tensor<T>& dy) {
        const Tensor<T> dyc = dy.contiguous();
        Grads<T> out(2);
        if (dx) {
          out[0] = Tensor<T>::zeros({b, n, 3 * c});
          g.each([&](Index q, Index at) {
            g.queries(dyc.data() + at, down.data(), out[0].data() + q);
          });
        }
        if (dt) {
          const Tensor<T> pairs = Tensor<T>::zeros({s, s, d});  // G
          g.each([&](Index q, Index at) { g.pairs(dyc.data() + at, kx.data() + q, pairs.data()); });
          out[1] = Tensor<T>::zeros({2 * s - 1, d});
          for (Index p = 0; p < s; ++p)
            for (Index k = 0; k < s; ++k) {
              const T* from = pairs.data() + (p * s + k) * d;
              T* to = out[1].data() + (p - k + s - 1) * d;
              for (Index i = 0; i < d; ++i) to[i] += from[i];
            }
        }
        return out;
      });
}
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
