#pragma once
// The product as Eigen computes it: the reference that cpu/gemm.hpp is compared with.
#include <Eigen/Core>
#include <moraine/cpu/gemm.hpp>

namespace moraine::cpu {

/// Same meaning as gemm(g); one thread, operands are copied, g.packed is not looked at.
template <class T>
void gemm_reference(const Gemm<T>& g) {
  using M = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using S = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
  for (Index i = 0; i < g.batch; ++i) {
    const M a = Eigen::Map<const M, 0, S>(g.a.data + i * g.step_a, g.m, g.k, S(g.a.row, g.a.col));
    const M b = Eigen::Map<const M, 0, S>(g.b.data + i * g.step_b, g.k, g.n, S(g.b.row, g.b.col));
    const M c = a * b;
    T* const out = g.c.data + i * g.step_c;
    for (Index r = 0; r < g.m; ++r)
      for (Index j = 0; j < g.n; ++j) {
        const Index at = r * g.c.row + j;
        T x = g.alpha * c(r, j) + (g.bias ? g.bias[j] : T(0));
        if (g.pre) g.pre[i * g.step_c + at] = x;
        x = activate(g.act.act, x);
        if (g.scale) x *= g.scale[j];
        if (g.residual) x += g.residual[i * g.step_c + at];
        out[at] = g.accumulate ? out[at] + x : x;
      }
  }
}

}  // namespace moraine::cpu
