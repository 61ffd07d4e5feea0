#pragma once
// The columns of a convolution, in the order in which the product's tile reads them: panels of
// neighbouring output pixels, each (channels * kernel) rows of one tile's width. What is multiplied
// is written once and lies in the cache; there is no other copy.
#include <moraine/core/shape.hpp>
#include <moraine/cpu/gemm.hpp>
#include <moraine/cpu/interleave.hpp>
#include <moraine/cpu/pack.hpp>
#include <vector>

MORAINE_OPTIMISED_BEGIN
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
MORAINE_INLINE void pack_columns(const Windows& g, const float* x, Index p0, Index p1, bool ones,
                                 PackedWeight<float>& to) {
  using L = simd::Lanes4;
  const GemmKernels& kernels = gemm_kernels();
  const Panels panels(kernels, p1 - p0);
  const Index area = g.kernel_h * g.kernel_w, plane = g.height * g.width;
  const Index taps = g.channels * area, k = taps + (ones ? 1 : 0);
  if (to.n != p1 - p0 || to.k != k) to.data = Scratch(panels.padded * k);
  to.k = k;
  to.n = p1 - p0;
  to.kernels = &kernels;

  // What a panel takes from a plane at one tap: pieces of rows. The same for every channel.
  struct Piece {
    Index from, to, n;
  };
  struct Part {
    Index panel, width;  ///< where it starts, and its row
    int tap, begin, end;
    bool whole;
  };
  std::vector<Piece> pieces;
  std::vector<Part> parts;
  const Index all = panels.wide + panels.narrow, together = 128 / kernels.wide_cols;
  for (Index first = 0; first < all; first += together) {
    // Several panels at a time, so that a row of a channel is read on while its page is known.
    const Index last = first + together < all ? first + together : all;
    pieces.clear();
    parts.clear();
    for (Index tap = 0; tap < area; ++tap)
      for (Index q = first; q < last; ++q) {
        const bool wide = q < panels.wide;
        const Index width = wide ? kernels.wide_cols : kernels.lanes;
        const Index at =
            wide ? q * width : panels.wide * kernels.wide_cols + (q - panels.wide) * width;
        const Index begin = p0 + at, end = begin + width < p1 ? begin + width : p1;
        const Index i = tap / g.kernel_w * g.apart_h - g.pad_h,
                    j = tap % g.kernel_w * g.apart_w - g.pad_w;
        const Index low = j >= 0 ? 0 : (g.step_w - 1 - j) / g.step_w;
        const Index high = j >= g.width ? 0 : (g.width - 1 - j) / g.step_w + 1;
        Part part{at * k, width, static_cast<int>(tap), static_cast<int>(pieces.size()), 0, false};
        for (Index p = begin; p < end;) {
          const Index h = p / g.out_w, w0 = p % g.out_w;
          const Index w1 = g.out_w - w0 < end - p ? g.out_w : w0 + end - p;
          const Index row = h * g.step_h + i, a = low > w0 ? low : w0, b = high < w1 ? high : w1;
          if (row >= 0 && row < g.height && b > a)
            pieces.push_back({row * g.width + a * g.step_w + j, p - begin + a - w0, b - a});
          p += w1 - w0;
        }
        part.end = static_cast<int>(pieces.size());
        part.whole = part.end - part.begin == 1 && pieces.back().n == width && g.step_w == 1;
        parts.push_back(part);
      }
    for (Index c = 0; c < g.channels; ++c) {
      const float* const from = x + c * plane;
      for (const Part& part : parts) {
        float* const out = to.data.data() + part.panel + (c * area + part.tap) * part.width;
        const Piece* const piece = pieces.data() + part.begin;
        if (part.whole) {
          const float* const f = from + piece->from;
          if (part.width == 16) {
            L::F v[4];
            MORAINE_UNROLL for (int i = 0; i < 4; ++i) L::load(v[i], f + 4 * i);
            MORAINE_UNROLL for (int i = 0; i < 4; ++i) L::store(out + 4 * i, v[i]);
          } else {
            for (Index i = 0; i < part.width; i += 4) {
              L::F v;
              L::load(v, f + i);
              L::store(out + i, v);
            }
          }
          continue;
        }
        for (Index i = 0; i < part.width; i += 4) L::store(out + i, L::F{});
        for (int i = 0; i < part.end - part.begin; ++i)
          every(from + piece[i].from, g.step_w, piece[i].n, out + piece[i].to);
      }
    }
    for (Index q = first; q < last && ones; ++q) {
      const bool wide = q < panels.wide;
      const Index width = wide ? kernels.wide_cols : kernels.lanes;
      const Index at =
          wide ? q * width : panels.wide * kernels.wide_cols + (q - panels.wide) * width;
      for (Index i = 0; i < width; ++i) to.data.data()[at * k + taps * width + i] = 1.0f;
    }
  }
}
#endif

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
