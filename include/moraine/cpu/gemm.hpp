#pragma once
// The one door to dense products on the CPU.
//
//   C = residual + scale * act(alpha op(A) op(B) + bias)
//
// Every operand is a strided matrix, so transposes and views cost no copy of their own.
#include <moraine/core/activation.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/core/shape.hpp>

#include <Eigen/Core>

#include <memory>

namespace moraine::cpu {

/// Element (i,j) lies at data[i * row + j * col].
template <class T> struct Matrix {
  T* data = nullptr;
  Index row = 0, col = 1;
};

/// A weight, packed once for the kernel; null while nobody packed it.
template <class T> struct PackedWeight;

template <class T> struct Gemm {
  Index m = 0, n = 0, k = 0;
  Matrix<const T> a;  ///< (m,k)
  Matrix<const T> b;  ///< (k,n); a linear layer's weight (out,in) is b with row 1, col in
  Matrix<T> c;        ///< (m,n), col must be 1
  Index batch = 1;    ///< independent products; a stride of 0 shares an operand
  Index step_a = 0, step_b = 0, step_c = 0;
  T alpha = T(1);
  bool accumulate = false;               ///< C += instead of C =; no activation or residual then
  const T* bias = nullptr;               ///< (n)
  Activation act = Activation::none;
  T* pre = nullptr;                      ///< if set, alpha AB + bias is stored here, laid out as C
  const T* residual = nullptr;           ///< (m,n) laid out as C, may be C itself
  const T* scale = nullptr;              ///< (n), with residual: layer scale
  const PackedWeight<T>* packed = nullptr;  ///< b, packed before: b.data is then not read
};

template <class T> void gemm(const Gemm<T>& g) {
  using M = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using S = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
  for (Index i = 0; i < g.batch; ++i) {
    const M a = Eigen::Map<const M, 0, S>(g.a.data + i * g.step_a, g.m, g.k, S(g.a.row, g.a.col));
    const M b = Eigen::Map<const M, 0, S>(g.b.data + i * g.step_b, g.k, g.n, S(g.b.row, g.b.col));
    M c = a * b;
    T* out = g.c.data + i * g.step_c;
    for (Index r = 0; r < g.m; ++r)
      for (Index j = 0; j < g.n; ++j) {
        const Index at = r * g.c.row + j;
        T x = g.alpha * c(r, j) + (g.bias ? g.bias[j] : T(0));
        if (g.pre) g.pre[at] = x;
        x = activate(g.act, x);
        if (g.scale) x *= g.scale[j];
        if (g.residual) x += g.residual[at];
        out[at] = g.accumulate ? out[at] + x : x;
      }
  }
}

}  // namespace moraine::cpu
