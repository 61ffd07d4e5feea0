#pragma once
// The columns of a convolution, in the order in which the product's tile reads them: panels of
// neighbouring output pixels, each (channels * kernel) rows of one tile's width. What is multiplied
// is written once and lies in the cache; there is no other copy.
#include <cstring>
#include <moraine/core/shape.hpp>
#include <moraine/cpu/gemm.hpp>
#include <moraine/cpu/interleave.hpp>
#include <moraine/cpu/pack.hpp>

namespace moraine MORAINE_API {
namespace cpu {

/// Windows of a plane: pixel (h,w) of the output reads, at tap (i,j), the input's row h step_h -
/// pad_h + i apart_h, and so on; zeros beside the plane.
struct Windows {
  Index channels = 0, height = 0, width = 0;  ///< of the input
  Index out_h = 0, out_w = 0, kernel_h = 1, kernel_w = 1, step_h = 1, step_w = 1;
  Index pad_h = 0, pad_w = 0, apart_h = 1, apart_w = 1;
};

/// Packs the columns of pixels [p0,p1); with `ones`, a last row of ones (a bias is then one more
/// column of the weight).
MORAINE_INLINE void pack_columns(const Windows& g, const float* x, Index p0, Index p1, bool ones,
                                 PackedWeight<float>& to);

#if defined(MORAINE_BODIES)
namespace detail {
/// One panel of `width` columns, of which the first n are pixels p0 on.
MORAINE_INLINE void pack_windows(const Windows& g, const float* x, Index p0, Index n, Index width,
                                 float* to) {
  using L = simd::Lanes4;
  const Index area = g.kernel_h * g.kernel_w, plane = g.height * g.width;
  for (Index tap = 0; tap < area; ++tap) {
    const Index i = tap / g.kernel_w * g.apart_h - g.pad_h,
                j = tap % g.kernel_w * g.apart_w - g.pad_w;
    // Pieces of rows inside the plane: at most as many as pixels.
    struct Piece {
      Index from, to, n;
    } pieces[64];
    Index count = 0;
    for (Index p = p0; p < p0 + n;) {
      const Index h = p / g.out_w, w0 = p % g.out_w;
      const Index w1 = g.out_w - w0 < p0 + n - p ? g.out_w : w0 + p0 + n - p;
      const Index row = h * g.step_h + i;
      if (row >= 0 && row < g.height) {
        const Index low = j >= 0 ? 0 : (g.step_w - 1 - j) / g.step_w;
        const Index high = j >= g.width ? 0 : (g.width - 1 - j) / g.step_w + 1;
        const Index a = low > w0 ? low : w0, b = high < w1 ? high : w1;
        if (b > a) pieces[count++] = {row * g.width + a * g.step_w + j, p - p0 + a - w0, b - a};
      }
      p += w1 - w0;
    }
    float* out = to + tap * width;
    const float* from = x;
    const Index next = area * width;
    if (count == 1 && pieces[0].n == width && g.step_w == 1) {
      from += pieces[0].from;
      for (Index c = 0; c < g.channels; ++c, out += next, from += plane)
        for (Index k = 0; k < width; k += 4) {
          L::F v;
          L::load(v, from + k);
          L::store(out + k, v);
        }
      continue;
    }
    for (Index c = 0; c < g.channels; ++c, out += next, from += plane) {
      for (Index k = 0; k < width; k += 4) L::store(out + k, L::F{});
      for (Index q = 0; q < count; ++q)
        every(from + pieces[q].from, g.step_w, pieces[q].n, out + pieces[q].to);
    }
  }
}
}  // namespace detail

MORAINE_INLINE void pack_columns(const Windows& g, const float* x, Index p0, Index p1, bool ones,
                                 PackedWeight<float>& to) {
  const GemmKernels& kernels = gemm_kernels();
  const Panels panels(kernels, p1 - p0);
  const Index taps = g.channels * g.kernel_h * g.kernel_w, k = taps + (ones ? 1 : 0);
  if (to.n != p1 - p0 || to.k != k) to.data = Scratch(panels.padded * k);
  to.k = k;
  to.n = p1 - p0;
  to.kernels = &kernels;
  for (Index i = 0; i < panels.wide + panels.narrow; ++i) {
    const bool wide = i < panels.wide;
    const Index width = wide ? kernels.wide_cols : kernels.lanes;
    const Index at = wide ? i * width : panels.wide * kernels.wide_cols + (i - panels.wide) * width;
    const Index n = p1 - p0 - at < width ? p1 - p0 - at : width;
    float* const panel = to.data.data() + at * k;
    detail::pack_windows(g, x, p0 + at, n, width, panel);
    for (Index j = 0; j < width && ones; ++j) panel[taps * width + j] = 1.0f;
  }
}
#endif

}  // namespace cpu
}  // namespace moraine
