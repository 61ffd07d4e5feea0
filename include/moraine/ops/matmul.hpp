#pragma once
// C = A B for matrices and batches of them; views and transposes cost no copy.
//
//   dA = dC B^T,   dB = A^T dC   (summed over broadcast batches)
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/cpu/gemm.hpp>
#include <moraine/ops/binary.hpp>
#include <moraine/ops/shape.hpp>
#endif
#ifdef MORAINE_DEVICE
#include <moraine/cuda/blas.cuh>
#endif

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
/// c[i] = alpha a[i] b[i] for i < batch. Element (r,s) of a lies at r*a_row + s*a_col; c is
/// row-major and contiguous.
template <class T>
struct MatMul {
  static constexpr const char* name = "matmul";
  Index m, n, k, batch;
  const T *a, *b;
  T* c;
  Index a_row, a_col, b_row, b_col, step_a, step_b;
  T alpha;
  static void cpu(const MatMul& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

/// A (...,m,k) times B (...,k,n) without the tape; leading axes broadcast.
template <class T>
Tensor<T> matmul_values(const Tensor<T>& a, const Tensor<T>& b, T alpha = T(1)) {
  check_device("matmul", a.device(), b.device());
  if (a.rank() < 2 || b.rank() < 2 || a.size(-1) != b.size(-2))
    fail(ErrorKind::shape,
         "matmul: inner sizes differ; a " + str(a.shape()) + ", b " + str(b.shape()));
  const Index m = a.size(-2), k = a.size(-1), n = b.size(-1);
  Shape ba = a.shape(), bb = b.shape();
  ba.rank -= 2, bb.rank -= 2;
  const Shape batch = broadcast("matmul", ba, bb);
  Shape sa = batch, sb = batch, out = batch;
  sa.push(m), sa.push(k), sb.push(k), sb.push(n), out.push(m), out.push(n);
  const Tensor<T> ea = expand_view(a, sa), eb = expand_view(b, sb);
  Tensor<T> c = Tensor<T>::empty(out, a.device());
  // The innermost batch axes that both operands walk evenly are one batch; the others are a loop.
  int first = batch.rank;
  Index inner = 1, step_a = 0, step_b = 0;
  for (; first > 0; --first) {
    const int i = first - 1;
    if (batch.dim[i] == 1) continue;
    if (inner == 1) {
      step_a = ea.strides().dim[i], step_b = eb.strides().dim[i];
    } else if (ea.strides().dim[i] != step_a * inner || eb.strides().dim[i] != step_b * inner) {
      break;
    }
    inner *= batch.dim[i];
  }
  Index loops = 1;
  for (int i = 0; i < first; ++i) loops *= batch.dim[i];
  const int r = batch.rank;
  for (Index l = 0; l < loops; ++l) {
    Index oa = 0, ob = 0, rest = l;
    for (int i = first; i-- > 0;) {
      const Index at = rest % batch.dim[i];
      rest /= batch.dim[i];
      oa += at * ea.strides().dim[i], ob += at * eb.strides().dim[i];
    }
    launch(a.device(),
           MatMul<T>{m, n, k, inner, ea.data() + oa, eb.data() + ob, c.data() + l * inner * m * n,
                     ea.strides().dim[r], ea.strides().dim[r + 1], eb.strides().dim[r],
                     eb.strides().dim[r + 1], step_a, step_b, alpha});
  }
  return c;
}

/// The last two axes swapped; a view.
template <class T>
Tensor<T> flipped(const Tensor<T>& x) {
  Shape n = x.shape(), s = x.strides();
  std::swap(n.dim[n.rank - 2], n.dim[n.rank - 1]);
  std::swap(s.dim[n.rank - 2], s.dim[n.rank - 1]);
  return x.view(n, s);
}

/// alpha A B with A (...,m,k), B (...,k,n) -> (...,m,n); leading axes broadcast.
template <class T>
Tensor<T> matmul(const Tensor<T>& a, const Tensor<T>& b, T alpha = T(1)) {
  Tensor<T> c = matmul_values(a, b, alpha);
  const Tensor<T> ka = wants(b) ? a.detach() : Tensor<T>(),
                  kb = wants(a) ? b.detach() : Tensor<T>();
  return record("matmul", c, {&a, &b},
                [ka, kb, alpha, sa = a.shape(), sb = b.shape()](const Tensor<T>& dc) {
                  Grads<T> g(2);
                  if (kb.defined())
                    g[0] = sum_to(matmul_values(dc, flipped(kb), alpha), sa);  // (...,m,k)
                  if (ka.defined())
                    g[1] = sum_to(matmul_values(flipped(ka), dc, alpha), sb);  // (...,k,n)
                  return g;
                });
}

// ---- CPU
template <class T>
void MatMul<T>::cpu(const MatMul& g) {
  cpu::gemm<T>({.m = g.m,
                .n = g.n,
                .k = g.k,
                .a = {g.a, g.a_row, g.a_col},
                .b = {g.b, g.b_row, g.b_col},
                .c = {g.c, g.n, 1},
                .batch = g.batch,
                .step_a = g.step_a,
                .step_b = g.step_b,
                .step_c = g.m * g.n,
                .alpha = g.alpha});
}
MORAINE_INSTANTIATE(MatMul)
#endif

#ifdef MORAINE_DEVICE  // ---- CUDA: cuBLAS; everything here has internal linkage
namespace {
template <class T>
void matmul_cuda(const MatMul<T>& g) {
  cuda::gemm_strided(g.m, g.n, g.k, g.alpha, g.a, g.a_row, g.a_col, g.step_a, g.b, g.b_row, g.b_col,
                     g.step_b, g.c, g.m * g.n, g.batch);
}
}  // namespace
MORAINE_CUDA_KERNEL(MatMul, float, matmul_cuda)
MORAINE_CUDA_KERNEL(MatMul, double, matmul_cuda)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
