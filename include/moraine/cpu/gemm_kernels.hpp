#pragma once
// The inner loops of the float product: one tile of C in registers, and the epilogue of a tile.
// Two shapes per instruction set, written once: wide (6 rows; 12 or 24 vector accumulators) and
// narrow (12 rows of one vector, for the few columns that would leave a wide tile mostly empty).
#include <cstring>
#include <moraine/core/activation.hpp>
#include <moraine/core/shape.hpp>
#include <moraine/cpu/simd.hpp>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

/// out = init + A B for one tile. Row i of A starts at rows[i] and its elements lie `step` apart;
/// row k of B lies at b + k ldb. A row stride ldi of 0 repeats one row of init (a bias).
using TileFunction = void(const float* const* rows, Index step, const float* b, Index ldb, Index k,
                          const float* init, Index ldi, float* out, Index ldo);

/// y = act(x), n elements, by the kernels of isa; y may be x.
template <class T>
using ActivationFunction = void(Isa isa, Activation act, const T* x, Index n, T* y);

/// What happens to finished tiles t (rows x cols, row stride ldt, columns padded to whole vectors;
/// t is overwritten): x = alpha t + bias; pre = x; x = act(x) * scale + residual; c = x or c += x.
/// Pointers stand at the tile's corner; pre, residual and c have row stride ldc.
struct TileEpilogue {
  float alpha = 1;
  const float* bias = nullptr;
  Activation act = Activation::none;
  ActivationFunction<float>* apply = nullptr;  ///< null: no activation
  float* pre = nullptr;
  const float* residual = nullptr;
  const float* scale = nullptr;
  bool accumulate = false;
  float* c = nullptr;
  Index ldc = 0;
  const Index* rows = nullptr;  ///< if set, row i of c is row rows[i] (of c alone)
};
using FinishFunction = void(const TileEpilogue& e, float* t, Index ldt, Index rows, Index cols);

/// One panel of B: element (i,j) of the source (k rows, cols <= w columns) lies at src[i * row + j
/// * col]; it goes to dst[i * w + j]. Columns from cols on are zero.
using PackFunction = void(const float* src, Index row, Index col, Index k, Index cols, Index w,
                          float* dst);

/// What turns floats into pairs. Rounds to nearest, ties to even; NaN stays NaN.
struct PairKernels {
  /// n floats to (n+1)/2 pairs.
  void (*round)(const float* x, Index n, float* pairs);
  /// One panel: element (i,j) of the source (k rows, cols <= w columns) lies at src[i * row + j *
  /// col]; its pair goes to dst[i/2 * w + j]. Columns from cols on are zero.
  PackFunction* pack;
  /// Six columns a panel, the next panel `next` words on: element (i,j), i < k, j < cols <= 96, at
  /// src[i * row + j] goes to dst[j/6 * next + i/2 * 6 + j%6]. What pack does, a row at a time.
  void (*strips)(const float* src, Index row, Index k, Index cols, float* dst, Index next);
};

struct GemmKernels {
  Isa isa;
  int lanes;      ///< floats in a vector, and columns of the narrow tile
  int wide_cols;  ///< columns of the wide tile
  TileFunction *wide, *narrow;
  FinishFunction* finish;
  int wide_rows = 6, narrow_rows = 12;  ///< at most 6 and 12, divisors of 96
  /// Null: a step of k is a float. Else a pair of bfloat16 (cpu/bf16_kernels.hpp).
  const PairKernels* pairs = nullptr;
};

/// The kernels of one instruction set; null if this machine lacks it.
const GemmKernels* gemm_kernels(Isa isa);
/// The best kernels for this machine.
const GemmKernels& gemm_kernels();

/// Keeps the compiler from turning base[index], for several bases, into a pointer each that is
/// counted up on its own: as many instructions more as there are rows.
#define MORAINE_ONE_INDEX(index) __asm__("" : "+r"(index))

namespace simd {

template <class L, int R, int V>
MORAINE_FLATTEN void tile(const float* const* rows, Index step, const float* b, Index ldb, Index k,
                          const float* init, Index ldi, float* out, Index ldo) {
  using F = typename L::F;
  constexpr int W = L::width;
  const float* a[R];
  F s[R][V];
  MORAINE_UNROLL for (int i = 0; i < R; ++i) {
    a[i] = rows[i];
    MORAINE_UNROLL for (int j = 0; j < V; ++j) L::load(s[i][j], init + i * ldi + j * W);
    // Ownership of the lines that will be stored to takes as long as much of the loop below.
    MORAINE_UNROLL for (int j = 0; j < V * W; j += 16) __builtin_prefetch(out + i * ldo + j, 1);
  }
  Index at = 0;
  for (Index kk = 0; kk < k; ++kk) {
    F w[V];
    MORAINE_UNROLL for (int j = 0; j < V; ++j) L::load(w[j], b + j * W);
    MORAINE_UNROLL for (int i = 0; i < R; ++i) {
      const F x = a[i][at] - F{};
      MORAINE_UNROLL for (int j = 0; j < V; ++j) s[i][j] += x * w[j];
    }
    at += step;
    b += ldb;
    MORAINE_ONE_INDEX(at);
  }
  MORAINE_UNROLL for (int i = 0; i < R; ++i) {
    MORAINE_UNROLL for (int j = 0; j < V; ++j) L::store(out + i * ldo + j * W, s[i][j]);
  }
}

/// Columns that the matrix lacks in the last vector are computed on padding: nothing beside the
/// matrix is read or written, and the numbers do not depend on where a row ends.
template <class L>
MORAINE_FLATTEN void finish(Isa isa, const TileEpilogue& e, float* t, Index ldt, Index rows,
                            Index cols) {
  using F = typename L::F;
  constexpr int W = L::width;
  F x, y;
  if (e.alpha != 1.0f || e.bias || e.pre)
    for (Index i = 0; i < rows; ++i)
      for (Index j = 0; j < cols; j += W) {
        L::load(x, t + i * ldt + j);
        x *= e.alpha;
        if (e.bias) load<L>(y, e.bias + j, cols - j), x += y;
        L::store(t + i * ldt + j, x);
        if (e.pre) store<L>(e.pre + i * e.ldc + j, x, cols - j);
      }
  if (e.apply) e.apply(isa, e.act, t, (rows - 1) * ldt + cols, t);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; j += W) {
      const Index at = (e.rows ? e.rows[i] : i) * e.ldc + j;
      L::load(x, t + i * ldt + j);
      if (e.scale) load<L>(y, e.scale + j, cols - j), x *= y;
      if (e.residual) load<L>(y, e.residual + at, cols - j), x += y;
      if (e.accumulate) load<L>(y, e.c + at, cols - j), x += y;
      store<L>(e.c + at, x, cols - j);
    }
}

#if defined(MORAINE_BODIES)
#define MORAINE_GEMM_KERNELS(NAME, ATTRIBUTE, LANES, VECTORS)                                      \
  ATTRIBUTE MORAINE_INLINE void NAME##_wide(const float* const* rows, Index step, const float* b,  \
                                            Index ldb, Index k, const float* init, Index ldi,      \
                                            float* out, Index ldo) {                               \
    tile<LANES, 6, VECTORS>(rows, step, b, ldb, k, init, ldi, out, ldo);                           \
  }                                                                                                \
  ATTRIBUTE MORAINE_INLINE void NAME##_narrow(                                                     \
      const float* const* rows, Index step, const float* b, Index ldb, Index k, const float* init, \
      Index ldi, float* out, Index ldo) {                                                          \
    tile<LANES, 12, 1>(rows, step, b, ldb, k, init, ldi, out, ldo);                                \
  }                                                                                                \
  ATTRIBUTE MORAINE_INLINE void NAME##_finish(const TileEpilogue& e, float* t, Index ldt,          \
                                              Index rows, Index cols) {                            \
    finish<LANES>(Isa::NAME, e, t, ldt, rows, cols);                                               \
  }
MORAINE_GEMM_KERNELS(portable, __attribute__((noinline)), Lanes4, 2)
#if defined(MORAINE_X86)
MORAINE_GEMM_KERNELS(avx2, MORAINE_AVX2, Lanes8, 2)
MORAINE_GEMM_KERNELS(avx512, MORAINE_AVX512, Lanes16, 4)
#endif
#undef MORAINE_GEMM_KERNELS
#endif

}  // namespace simd

#if defined(MORAINE_BODIES)
MORAINE_INLINE const GemmKernels* gemm_kernels(Isa isa) {
  using namespace simd;
  if (!supports(isa)) return nullptr;
#if defined(MORAINE_X86)
  static constexpr GemmKernels a2{Isa::avx2, 8, 16, avx2_wide, avx2_narrow, avx2_finish};
  static constexpr GemmKernels a5{Isa::avx512, 16, 64, avx512_wide, avx512_narrow, avx512_finish};
  if (isa == Isa::avx2) return &a2;
  if (isa == Isa::avx512) return &a5;
#endif
  static constexpr GemmKernels p{Isa::portable,  4, 8, portable_wide, portable_narrow,
                                 portable_finish};
  return &p;
}
MORAINE_INLINE const GemmKernels& gemm_kernels() {
  static const GemmKernels& best = *gemm_kernels(best_isa());
  return best;
}
#endif

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
