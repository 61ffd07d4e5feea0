#pragma once
// Weighted sums of rows that lie anywhere, their dot products with one row, and the addition of one
// row to them: what sampling at computed places is made of. In float on vectors (AVX2 where the
// processor has it: the places, not the arithmetic, take the time), in double plain loops.
#include <moraine/core/shape.hpp>
#include <moraine/cpu/simd.hpp>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

/// y[d] = sum over i < n of w[i] x[at[i] + d], d < size.
MORAINE_INLINE void gather_rows(const float* x, const Index* at, const float* w, Index n,
                                Index size, float* y);
/// dots[i] = sum over d of g[d] x[at[i] + d].
MORAINE_INLINE void dot_rows(const float* x, const Index* at, Index n, Index size, const float* g,
                             float* dots);
/// x[at[i] + d] += w[i] g[d], in the order of i.
MORAINE_INLINE void scatter_rows(float* x, const Index* at, const float* w, Index n, Index size,
                                 const float* g);

inline void gather_rows(const double* x, const Index* at, const double* w, Index n, Index size,
                        double* y) {
  for (Index d = 0; d < size; ++d) {
    double s = 0;
    for (Index i = 0; i < n; ++i) s += w[i] * x[at[i] + d];
    y[d] = s;
  }
}
inline void dot_rows(const double* x, const Index* at, Index n, Index size, const double* g,
                     double* dots) {
  for (Index i = 0; i < n; ++i) {
    double s = 0;
    for (Index d = 0; d < size; ++d) s += g[d] * x[at[i] + d];
    dots[i] = s;
  }
}
inline void scatter_rows(double* x, const Index* at, const double* w, Index n, Index size,
                         const double* g) {
  for (Index i = 0; i < n; ++i)
    for (Index d = 0; d < size; ++d) x[at[i] + d] += w[i] * g[d];
}

namespace simd {

template <class L, int V>
MORAINE_FLATTEN void gather_block(const float* x, const Index* at, const float* w, Index n,
                                  float* y) {
  using F = typename L::F;
  F s[V], v;
  MORAINE_UNROLL for (int k = 0; k < V; ++k) s[k] = F{};
  for (Index i = 0; i < n; ++i) {
    const F f = w[i] - F{};
    const float* const p = x + at[i];
    MORAINE_UNROLL for (int k = 0; k < V; ++k) {
      L::load(v, p + k * L::width);
      s[k] += f * v;
    }
  }
  MORAINE_UNROLL for (int k = 0; k < V; ++k) L::store(y + k * L::width, s[k]);
}
template <class L>
MORAINE_FLATTEN void gather_rows(const float* x, const Index* at, const float* w, Index n,
                                 Index size, float* y) {
  constexpr int W = L::width;
  Index d = 0;
  for (; d + 4 * W <= size; d += 4 * W) gather_block<L, 4>(x + d, at, w, n, y + d);
  for (; d + W <= size; d += W) gather_block<L, 1>(x + d, at, w, n, y + d);
  for (; d < size; ++d) {
    float s = 0;
    for (Index i = 0; i < n; ++i) s += w[i] * x[at[i] + d];
    y[d] = s;
  }
}
template <class L>
MORAINE_FLATTEN void dot_rows(const float* x, const Index* at, Index n, Index size, const float* g,
                              float* dots) {
  using F = typename L::F;
  constexpr int W = L::width;
  for (Index i = 0; i < n; ++i) {
    const float* const p = x + at[i];
    F s = F{}, u, v;
    Index d = 0;
    for (; d + W <= size; d += W) {
      L::load(u, p + d);
      L::load(v, g + d);
      s += u * v;
    }
    float total = sum<L>(s);
    for (; d < size; ++d) total += p[d] * g[d];
    dots[i] = total;
  }
}
template <class L>
MORAINE_FLATTEN void scatter_rows(float* x, const Index* at, const float* w, Index n, Index size,
                                  const float* g) {
  using F = typename L::F;
  constexpr int W = L::width;
  for (Index i = 0; i < n; ++i) {
    float* const p = x + at[i];
    const F f = w[i] - F{};
    F u, v;
    Index d = 0;
    for (; d + W <= size; d += W) {
      L::load(u, p + d);
      L::load(v, g + d);
      u += f * v;
      L::store(p + d, u);
    }
    for (; d < size; ++d) p[d] += w[i] * g[d];
  }
}

#if defined(MORAINE_BODIES)
#define MORAINE_GATHER_KERNELS(NAME, ATTRIBUTE, LANES)                                             \
  ATTRIBUTE MORAINE_INLINE void NAME##_gather(const float* x, const Index* at, const float* w,     \
                                              Index n, Index size, float* y) {                     \
    gather_rows<LANES>(x, at, w, n, size, y);                                                      \
  }                                                                                                \
  ATTRIBUTE MORAINE_INLINE void NAME##_dots(const float* x, const Index* at, Index n, Index size,  \
                                            const float* g, float* dots) {                         \
    dot_rows<LANES>(x, at, n, size, g, dots);                                                      \
  }                                                                                                \
  ATTRIBUTE MORAINE_INLINE void NAME##_scatter(float* x, const Index* at, const float* w, Index n, \
                                               Index size, const float* g) {                       \
    scatter_rows<LANES>(x, at, w, n, size, g);                                                     \
  }
MORAINE_GATHER_KERNELS(portable, __attribute__((noinline)), Lanes4)
#if defined(MORAINE_X86)
MORAINE_GATHER_KERNELS(avx2, MORAINE_AVX2, Lanes8)
#endif
#undef MORAINE_GATHER_KERNELS
#endif

}  // namespace simd

#if defined(MORAINE_BODIES)
#if defined(MORAINE_X86)
#define MORAINE_GATHER_CALL(NAME, ...)                                    \
  if (best_isa() != Isa::portable) return simd::avx2_##NAME(__VA_ARGS__); \
  simd::portable_##NAME(__VA_ARGS__)
#else
#define MORAINE_GATHER_CALL(NAME, ...) simd::portable_##NAME(__VA_ARGS__)
#endif
MORAINE_INLINE void gather_rows(const float* x, const Index* at, const float* w, Index n,
                                Index size, float* y) {
  MORAINE_GATHER_CALL(gather, x, at, w, n, size, y);
}
MORAINE_INLINE void dot_rows(const float* x, const Index* at, Index n, Index size, const float* g,
                             float* dots) {
  MORAINE_GATHER_CALL(dots, x, at, n, size, g, dots);
}
MORAINE_INLINE void scatter_rows(float* x, const Index* at, const float* w, Index n, Index size,
                                 const float* g) {
  MORAINE_GATHER_CALL(scatter, x, at, w, n, size, g);
}
#undef MORAINE_GATHER_CALL
#endif

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
