#pragma once
// Rows taken apart and put together: every s-th element of a row into a row of its own, and back.
// What windows with a stride read, and what a transposed convolution writes. Strides 2 and 4 go by
// shuffles of four lanes, which the baseline of every machine has.
#include <cstring>
#include <moraine/core/shape.hpp>
#include <moraine/cpu/simd.hpp>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

/// y[i] = x[i * step], i < n. Reads nothing beyond x[(n-1) * step].
template <class T>
inline void every(const T* x, Index step, Index n, T* y) {
  for (Index i = 0; i < n; ++i) y[i] = x[i * step];
}

#if defined(MORAINE_BODIES)
namespace simd {
MORAINE_INLINE void every_second(const float* x, Index n, float* y) {
  using L = Lanes4;
  Index i = 0;
  for (; i + 5 <= n; i += 4) {
    L::F a, b;
    L::load(a, x + 2 * i);
    L::load(b, x + 2 * i + 4);
    L::store(y + i, __builtin_shufflevector(a, b, 0, 2, 4, 6));
  }
  for (; i < n; ++i) y[i] = x[2 * i];
}
/// y[2i] = a[i], y[2i+1] = b[i], each with its offset.
MORAINE_INLINE void zip2(const float* a, const float* b, float offset, Index n, float* y) {
  using L = Lanes4;
  Index i = 0;
  for (; i + 4 <= n; i += 4) {
    L::F u, v;
    L::load(u, a + i);
    L::load(v, b + i);
    u += offset;
    v += offset;
    L::store(y + 2 * i, __builtin_shufflevector(u, v, 0, 4, 1, 5));
    L::store(y + 2 * i + 4, __builtin_shufflevector(u, v, 2, 6, 3, 7));
  }
  for (; i < n; ++i) y[2 * i] = a[i] + offset, y[2 * i + 1] = b[i] + offset;
}
/// y[4i+j] = x[j * ld + i] + offset.
MORAINE_INLINE void zip4(const float* x, Index ld, float offset, Index n, float* y) {
  using L = Lanes4;
  Index i = 0;
  for (; i + 4 <= n; i += 4) {
    L::F a, b, c, d;
    L::load(a, x + i);
    L::load(b, x + ld + i);
    L::load(c, x + 2 * ld + i);
    L::load(d, x + 3 * ld + i);
    const L::F ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + offset,
               cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + offset,
               AB = __builtin_shufflevector(a, b, 2, 6, 3, 7) + offset,
               CD = __builtin_shufflevector(c, d, 2, 6, 3, 7) + offset;
    L::store(y + 4 * i, __builtin_shufflevector(ab, cd, 0, 1, 4, 5));
    L::store(y + 4 * i + 4, __builtin_shufflevector(ab, cd, 2, 3, 6, 7));
    L::store(y + 4 * i + 8, __builtin_shufflevector(AB, CD, 0, 1, 4, 5));
    L::store(y + 4 * i + 12, __builtin_shufflevector(AB, CD, 2, 3, 6, 7));
  }
  for (; i < n; ++i)
    for (Index j = 0; j < 4; ++j) y[4 * i + j] = x[j * ld + i] + offset;
}
}  // namespace simd
#endif

MORAINE_INLINE void every(const float* x, Index step, Index n, float* y);
/// y[i * step + j] = x[j * ld + i] + offset, j < step, i < n.
MORAINE_INLINE void zip(const float* x, Index ld, Index step, float offset, Index n, float* y);

#if defined(MORAINE_BODIES)
MORAINE_INLINE void every(const float* x, Index step, Index n, float* y) {
  if (step == 2) return simd::every_second(x, n, y);
  if (step == 1 && n >= 4 && n <= 64) {  // shorter than a call
    using L = simd::Lanes4;
    L::F v;
    for (Index i = 0; i + 4 <= n; i += 4) L::load(v, x + i), L::store(y + i, v);
    L::load(v, x + n - 4), L::store(y + n - 4, v);
    return;
  }
  if (step == 1) {
    std::memcpy(y, x, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  for (Index i = 0; i < n; ++i) y[i] = x[i * step];
}
MORAINE_INLINE void zip(const float* x, Index ld, Index step, float offset, Index n, float* y) {
  if (step == 2) return simd::zip2(x, x + ld, offset, n, y);
  if (step == 4) return simd::zip4(x, ld, offset, n, y);
  for (Index j = 0; j < step; ++j)
    for (Index i = 0; i < n; ++i) y[i * step + j] = x[j * ld + i] + offset;
}
#endif
inline void zip(const double* x, Index ld, Index step, double offset, Index n, double* y) {
  for (Index j = 0; j < step; ++j)
    for (Index i = 0; i < n; ++i) y[i * step + j] = x[j * ld + i] + offset;
}

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
