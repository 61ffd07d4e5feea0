#pragma once
// Maxima over windows of a plane, in float: the scratch of cpu/depthwise.hpp with minus infinity
// beside the plane, so that a tap is a vector at an offset. NaN wins, and of equal values the
// first.
#include <cstdint>
#include <moraine/core/parallel.hpp>
#include <moraine/core/shape.hpp>
#include <moraine/cpu/depthwise.hpp>
#include <moraine/cpu/simd.hpp>
#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

/// y (planes,rows.outs,columns.outs) and, if not null, the place of each maximum in its plane. Both
/// axes: step = stride, at = the taps.
MORAINE_INLINE void max_pool(const TapAxis& rows, const TapAxis& columns, Index planes,
                             const float* x, float* y, std::int64_t* place);

namespace simd {

/// V vectors of outputs; with PLACE, mark[t] of the tap that won.
template <class L, int V, bool PLACE>
MORAINE_FLATTEN void max_block(const float* x, const Index* at, const int* mark, Index taps,
                               float* y, int* won) {
  using F = typename L::F;
  using I = typename L::I;
  F m[V], v;
  [[maybe_unused]] I d[V];
  if constexpr (PLACE) __builtin_memset(d, 0, sizeof d);
  MORAINE_UNROLL for (int k = 0; k < V; ++k) {
    L::load(m[k], x + at[0] + k * L::width);
    if constexpr (PLACE) d[k] += mark[0];
  }
  for (Index t = 1; t < taps; ++t) {
    const float* const p = x + at[t];
    [[maybe_unused]] const I now = I{} + mark[t];
    MORAINE_UNROLL for (int k = 0; k < V; ++k) {
      L::load(v, p + k * L::width);
      const I take = ~(I)(v <= m[k]) & (I)(m[k] == m[k]);
      m[k] = take ? v : m[k];
      if constexpr (PLACE) d[k] = take ? now : d[k];
    }
  }
  MORAINE_UNROLL for (int k = 0; k < V; ++k) {
    L::store(y + k * L::width, m[k]);
    if constexpr (PLACE) __builtin_memcpy(won + k * L::width, &d[k], sizeof(I));
  }
}
template <class L, bool PLACE>
MORAINE_FLATTEN void max_row(const float* x, const Index* at, const int* mark, Index taps,
                             Index cols, float* y, int* won) {
  constexpr Index W = L::width;
  Index c = 0;
  for (; c + 4 * W <= cols; c += 4 * W)
    max_block<L, 4, PLACE>(x + c, at, mark, taps, y + c, won + c);
  for (; c < cols; c += W) {
    if (c + W > cols) c = cols - W;
    max_block<L, 1, PLACE>(x + c, at, mark, taps, y + c, won + c);
  }
}

#if defined(MORAINE_BODIES)
#define MORAINE_POOL_KERNELS(NAME, ATTRIBUTE, LANES)                                             \
  ATTRIBUTE MORAINE_INLINE void NAME##_max_row(const float* x, const Index* at, const int* mark, \
                                               Index taps, Index cols, bool place, float* y,     \
                                               int* won) {                                       \
    if (place)                                                                                   \
      max_row<LANES, true>(x, at, mark, taps, cols, y, won);                                     \
    else                                                                                         \
      max_row<LANES, false>(x, at, mark, taps, cols, y, won);                                    \
  }
MORAINE_POOL_KERNELS(portable, __attribute__((noinline)), Lanes4)
#if defined(MORAINE_X86)
MORAINE_POOL_KERNELS(avx2, MORAINE_AVX2, Lanes8)
#endif
#undef MORAINE_POOL_KERNELS
#endif

}  // namespace simd

#if defined(MORAINE_BODIES)
MORAINE_INLINE void max_pool(const TapAxis& rows, const TapAxis& columns, Index planes,
                             const float* x, float* y, std::int64_t* place) {
  const Index plane = rows.size * columns.size, outs = rows.outs * columns.outs;
  const Index taps = static_cast<Index>(rows.at.size() * columns.at.size());
  std::vector<Index> tap_h, tap_w;
  for (Index h : rows.at)
    for (Index w : columns.at) tap_h.push_back(h), tap_w.push_back(w);
  parallel_for(planes, 1 + 65536 / (outs * (taps + 4) + plane), [&](Index begin, Index end) {
    Correlator scratch({rows, columns}, -__builtin_inff());
    const Index wide = scratch.width();
    std::vector<int> mark(static_cast<std::size_t>(taps)), won(static_cast<std::size_t>(wide));
    std::vector<float> line(static_cast<std::size_t>(wide));
    for (Index t = 0; t < taps; ++t) mark[static_cast<std::size_t>(t)] = static_cast<int>(t);
    for (Index p = begin; p < end; ++p)
      for (Index first = 0; first < rows.outs; first += scratch.band()) {
        scratch.fill(x + p * plane, first);
        const Index here = rows.outs - first < scratch.band() ? rows.outs - first : scratch.band();
        for (Index r = 0; r < here; ++r) {
          const Index at = p * outs + (first + r) * columns.outs;
          const bool direct = wide == columns.outs;
          float* const to = direct ? y + at : line.data();
          const float* const from = scratch.row(r);
          const Index* const offsets = scratch.offsets().data();
#if defined(MORAINE_X86)
          if (best_isa() != Isa::portable)
            simd::avx2_max_row(from, offsets, mark.data(), taps, wide, place != nullptr, to,
                               won.data());
          else
#endif
            simd::portable_max_row(from, offsets, mark.data(), taps, wide, place != nullptr, to,
                                   won.data());
          for (Index c = 0; c < columns.outs && !direct; ++c) y[at + c] = to[c];
          for (Index c = 0; c < columns.outs && place; ++c) {
            const auto t = static_cast<std::size_t>(won[static_cast<std::size_t>(c)]);
            Index h = (first + r) * rows.step + tap_h[t], w = c * columns.step + tap_w[t];
            // Minus infinity all over: the first place that is in the plane, not beside it.
            for (std::size_t i = 0; h < 0 || w < 0 || h >= rows.size || w >= columns.size; ++i) {
              h = (first + r) * rows.step + tap_h[i];
              w = c * columns.step + tap_w[i];
            }
            place[at + c] = h * columns.size + w;
          }
        }
      }
  });
}
#endif

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
