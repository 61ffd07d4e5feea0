#pragma once
// Decomposed relative positions of attention over a map (Li et al., MViTv2, 2022; SAM): what
// rel_h and rel_w of ops/attention.hpp are, from the queries and two learned tables.
//
//   y(b,h,n,k) = q(b,h,n) . table(p(n) - k + S - 1),   p(n): the row, or the column, of token n
//
// S is the number of rows (columns), table (2S-1,D). With the table upside down, y is a part of the
// product P = q table^T that starts one place further left from one p to the next: one product for
// all offsets, and a copy by a view. With dP = dy in its places, zero elsewhere:
//   dq = dP table,   dtable = dP^T q
#include <moraine/core/device.hpp>
#include <moraine/ops/window.hpp>
#ifdef MORAINE_HOST
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

/// qkv (B, rows*columns, 3C), the first third queries, each head by head; table (2S-1, C/heads),
/// S the map's rows or columns -> (B,H,N,S).
template <class T>
Tensor<T> relative_position(const Tensor<T>& qkv, Index heads, const Tensor<T>& table, Size2 map,
                            MapAxis axis) {
  const Index s = axis == MapAxis::rows ? map.h : map.w, j = 2 * s - 1;
  if (qkv.rank() != 3 || heads < 1 || map.h < 1 || map.w < 1 || qkv.size(1) != map.h * map.w ||
      qkv.size(2) % (3 * heads) != 0 || table.shape() != Shape{j, qkv.size(2) / (3 * heads)})
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
  const auto queries = [=](const Tensor<T>& x) {  // (H,B*N,D)
    return x.view({heads, b * n, d}, {d, 3 * c, 1});
  };
  const auto places = [=](const Tensor<T>& p) {  // of P (H,B*N,2S-1)
    const Index row = map.w * j, left = 1;
    return p.view({b, heads, map.h, map.w, s},
                  {n * j, b * n * j, axis == MapAxis::rows ? row - left : row,
                   axis == MapAxis::rows ? j : j - left, 1},
                  s - 1);
  };
  const Tensor<T> x = qkv.contiguous().detach(), down = flip(table.detach(), {0});  // (2S-1,D)
  Tensor<T> y = Tensor<T>::empty({b, heads, map.h, map.w, s});
  copy_into(y, places(matmul_values(queries(x), transpose(down))));
  const bool dx = wants(qkv), dt = wants(table);
  return record("relative_position", y.reshaped({b, heads, n, s}), {&qkv, &table},
                [=, kx = dt ? x : Tensor<T>()](const Tensor<T>& dy) {
                  Tensor<T> dp = Tensor<T>::zeros({heads, b * n, j});
                  copy_into(places(dp), dy.reshaped({b, heads, map.h, map.w, s}));
                  Grads<T> g(2);
                  if (dx) {
                    g[0] = Tensor<T>::zeros({b, n, 3 * c});
                    copy_into(queries(g[0]), matmul_values(dp, down));
                  }
                  if (dt) {
                    const Tensor<T> each = matmul_values(transpose(dp), queries(kx));  // (H,2S-1,D)
                    g[1] = flip(sum_to(each, {j, d}), {0});
                  }
                  return g;
                });
}
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
