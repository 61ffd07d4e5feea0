#pragma once
// What normalisation by channels needs of a run of pixels: sums for its statistics and gradients,
// and the two maps. Batch norm and group norm are made of these. In float on vectors (AVX2 where
// the processor has it: they wait for memory), in double plain loops. Runs are summed in blocks of
// 4096 floats, the blocks in double, in an order that depends on the length alone.
#include <moraine/core/shape.hpp>
#include <moraine/cpu/row_kernels.hpp>
#include <moraine/cpu/simd.hpp>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

/// Sum of (x - shift)^power over n elements, power 1 or 2.
MORAINE_INLINE double deviations(const float* x, Index n, float shift, int power);
/// a += sum of g, b += sum of g (x - mean).
MORAINE_INLINE void gradient_sums(const float* g, const float* x, Index n, float mean, double& a,
                                  double& b);
/// y = (x - mean) factor + offset.
MORAINE_INLINE void scale_shift(const float* x, Index n, float mean, float factor, float offset,
                                float* y);
/// dx = factor g - slope (x - mean) - shift.
MORAINE_INLINE void norm_gradient(const float* g, const float* x, Index n, float mean, float factor,
                                  float slope, float shift, float* dx);

inline double deviations(const double* x, Index n, double shift, int power) {
  double s = 0;
  for (Index i = 0; i < n; ++i) s += power == 1 ? x[i] - shift : (x[i] - shift) * (x[i] - shift);
  return s;
}
inline void gradient_sums(const double* g, const double* x, Index n, double mean, double& a,
                          double& b) {
  for (Index i = 0; i < n; ++i) a += g[i], b += g[i] * (x[i] - mean);
}
inline void scale_shift(const double* x, Index n, double mean, double factor, double offset,
                        double* y) {
  for (Index i = 0; i < n; ++i) y[i] = (x[i] - mean) * factor + offset;
}
inline void norm_gradient(const double* g, const double* x, Index n, double mean, double factor,
                          double slope, double shift, double* dx) {
  for (Index i = 0; i < n; ++i) dx[i] = factor * g[i] - slope * (x[i] - mean) - shift;
}

namespace simd {

template <class L>
MORAINE_FLATTEN float deviations(const float* x, Index n, float shift, int power) {
  using F = typename L::F;
  if (power == 1)
    return sum_row<L>(n, [&](Index j, Index left, F& v) {
      load<L>(v, x + j, left, shift);
      v -= shift;
    });
  return sum_row<L>(n, [&](Index j, Index left, F& v) {
    load<L>(v, x + j, left, shift);
    v -= shift;
    v *= v;
  });
}
template <class L>
MORAINE_FLATTEN float products(const float* g, const float* x, Index n, float mean) {
  using F = typename L::F;
  return sum_row<L>(n, [&](Index j, Index left, F& v) {
    F u;
    load<L>(u, x + j, left, mean);
    load<L>(v, g + j, left);
    v *= u - mean;
  });
}
template <class L>
MORAINE_FLATTEN void scale_shift(const float* x, Index n, float mean, float factor, float offset,
                                 float* y) {
  each_vector<L>(n, [&](Index j, Index left) {
    typename L::F v;
    load<L>(v, x + j, left);
    v = (v - mean) * factor + offset;
    store<L>(y + j, v, left);
  });
}
template <class L>
MORAINE_FLATTEN void norm_gradient(const float* g, const float* x, Index n, float mean,
                                   float factor, float slope, float shift, float* dx) {
  each_vector<L>(n, [&](Index j, Index left) {
    typename L::F u, v;
    load<L>(u, x + j, left);
    load<L>(v, g + j, left);
    v = v * factor - (u - mean) * slope - shift;
    store<L>(dx + j, v, left);
  });
}

#if defined(MORAINE_BODIES)
#define MORAINE_CHANNEL_KERNELS(NAME, ATTRIBUTE, LANES)                                       \
  ATTRIBUTE MORAINE_INLINE float NAME##_deviations(const float* x, Index n, float shift,      \
                                                   int power) {                               \
    return deviations<LANES>(x, n, shift, power);                                             \
  }                                                                                           \
  ATTRIBUTE MORAINE_INLINE float NAME##_products(const float* g, const float* x, Index n,     \
                                                 float mean) {                                \
    return products<LANES>(g, x, n, mean);                                                    \
  }                                                                                           \
  ATTRIBUTE MORAINE_INLINE void NAME##_scale_shift(const float* x, Index n, float mean,       \
                                                   float factor, float offset, float* y) {    \
    scale_shift<LANES>(x, n, mean, factor, offset, y);                                        \
  }                                                                                           \
  ATTRIBUTE MORAINE_INLINE void NAME##_norm_gradient(const float* g, const float* x, Index n, \
                                                     float mean, float factor, float slope,   \
                                                     float shift, float* dx) {                \
    norm_gradient<LANES>(g, x, n, mean, factor, slope, shift, dx);                            \
  }
MORAINE_CHANNEL_KERNELS(portable, __attribute__((noinline)), Lanes4)
#if defined(MORAINE_X86)
MORAINE_CHANNEL_KERNELS(avx2, MORAINE_AVX2, Lanes8)
#endif
#undef MORAINE_CHANNEL_KERNELS
#endif

}  // namespace simd

#if defined(MORAINE_BODIES)
#if defined(MORAINE_X86)
#define MORAINE_CHANNEL_CALL(NAME, ...)                             \
  (best_isa() == Isa::portable ? simd::portable_##NAME(__VA_ARGS__) \
                               : simd::avx2_##NAME(__VA_ARGS__))
#else
#define MORAINE_CHANNEL_CALL(NAME, ...) simd::portable_##NAME(__VA_ARGS__)
#endif
MORAINE_INLINE double deviations(const float* x, Index n, float shift, int power) {
  double s = 0;
  for (Index i = 0; i < n; i += 4096)
    s += MORAINE_CHANNEL_CALL(deviations, x + i, n - i < 4096 ? n - i : 4096, shift, power);
  return s;
}
MORAINE_INLINE void gradient_sums(const float* g, const float* x, Index n, float mean, double& a,
                                  double& b) {
  for (Index i = 0; i < n; i += 4096) {  // a block is read twice while it is in the first cache
    const Index m = n - i < 4096 ? n - i : 4096;
    a += MORAINE_CHANNEL_CALL(deviations, g + i, m, 0.0f, 1);
    b += MORAINE_CHANNEL_CALL(products, g + i, x + i, m, mean);
  }
}
MORAINE_INLINE void scale_shift(const float* x, Index n, float mean, float factor, float offset,
                                float* y) {
  MORAINE_CHANNEL_CALL(scale_shift, x, n, mean, factor, offset, y);
}
MORAINE_INLINE void norm_gradient(const float* g, const float* x, Index n, float mean, float factor,
                                  float slope, float shift, float* dx) {
  MORAINE_CHANNEL_CALL(norm_gradient, g, x, n, mean, factor, slope, shift, dx);
}
#undef MORAINE_CHANNEL_CALL
#endif

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
