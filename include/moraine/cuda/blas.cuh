#pragma once
// The one door to cuBLAS. Row-major C = A B is column-major C^T = B^T A^T, so operands swap places.
#include <moraine/cuda/launch.cuh>

#include <cublas_v2.h>

namespace moraine::cuda {
namespace {

inline void check(cublasStatus_t s, const char* what) {
  if (s != CUBLAS_STATUS_SUCCESS)
    fail(ErrorKind::device, std::string("cuda: ") + what + " failed; " + cublasGetStatusString(s));
}

/// One handle per thread; strict float32 (no TF32), so that the CPU's tolerance holds.
inline cublasHandle_t blas() {
  struct Handle {
    cublasHandle_t h = nullptr;
    Handle() {
      check(cublasCreate(&h), "cublasCreate");
      check(cublasSetMathMode(h, CUBLAS_PEDANTIC_MATH), "cublasSetMathMode");
    }
    ~Handle() { cublasDestroy(h); }
  };
  thread_local Handle handle;
  return handle.h;
}
inline cublasStatus_t call(cublasHandle_t h, cublasOperation_t p, cublasOperation_t q, int m, int n,
                           int k, const float* f, const float* a, int la, Index sa, const float* b,
                           int lb, Index sb, const float* z, float* c, int lc, Index sc,
                           int count) {
  return cublasSgemmStridedBatched(h, p, q, m, n, k, f, a, la, sa, b, lb, sb, z, c, lc, sc, count);
}
inline cublasStatus_t call(cublasHandle_t h, cublasOperation_t p, cublasOperation_t q, int m, int n,
                           int k, const double* f, const double* a, int la, Index sa,
                           const double* b, int lb, Index sb, const double* z, double* c, int lc,
                           Index sc, int count) {
  return cublasDgemmStridedBatched(h, p, q, m, n, k, f, a, la, sa, b, lb, sb, z, c, lc, sc, count);
}

/// c[i] (m,n) = alpha a[i] (m,k) b[i] (k,n). Each operand needs one unit stride.
template <class T>
void gemm_strided(Index m, Index n, Index k, T alpha, const T* a, Index a_row, Index a_col,
                  Index step_a, const T* b, Index b_row, Index b_col, Index step_b, T* c,
                  Index step_c, Index batch) {
  if (m == 0 || n == 0 || batch == 0) return;
  if (k == 0) return check(cudaMemset(c, 0, sizeof(T) * m * n * batch), "cudaMemset");
  if ((a_row != 1 && a_col != 1) || (b_row != 1 && b_col != 1) || m > 0x7fffffff ||
      n > 0x7fffffff || k > 0x7fffffff || batch > 0x7fffffff)
    fail(ErrorKind::device, "matmul: this layout has no CUDA form; sizes " + std::to_string(m) +
                                " x " + std::to_string(n) + " x " + std::to_string(k) +
                                " -> make the operands contiguous");
  const auto leading = [](Index row, Index col, Index rows, Index cols, cublasOperation_t& op) {
    op = col == 1 ? CUBLAS_OP_N : CUBLAS_OP_T;  // row-major is column-major transposed
    const Index l = col == 1 ? row : col, least = col == 1 ? cols : rows;
    return static_cast<int>(l < least ? least : l);
  };
  cublasOperation_t op_a, op_b;
  const int la = leading(a_row, a_col, m, k, op_a), lb = leading(b_row, b_col, k, n, op_b);
  const T zero = 0;
  check(call(blas(), op_b, op_a, static_cast<int>(n), static_cast<int>(m), static_cast<int>(k),
             &alpha, b, lb, step_b, a, la, step_a, &zero, c, static_cast<int>(n), step_c,
             static_cast<int>(batch)),
        "matmul");
}

}  // namespace
}  // namespace moraine::cuda
