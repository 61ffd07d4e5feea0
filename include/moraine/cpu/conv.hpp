#pragma once
// Convolution in float and its two gradients; ops/conv.hpp has the definition, and the loops in
// double.
//
// Forward: a product with columns that are packed a piece at a time (cpu/columns.hpp). Gradient of
// the input: every remainder of a position modulo the stride is a forward convolution of dY with
// the taps that meet it. Gradient of the weight: its transpose, columns times dY^T, so that the
// columns are read as rows where they lie. One channel a group: cpu/depthwise.hpp. Pieces depend on
// sizes alone.
#include <moraine/core/parallel.hpp>
#include <moraine/core/shape.hpp>
#include <moraine/cpu/columns.hpp>
#include <moraine/cpu/depthwise.hpp>
#include <moraine/cpu/gemm.hpp>
#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

/// One axis of a convolution.
struct ConvAxis {
  Index size = 0, outs = 0, kernel = 1, stride = 1, padding = 0, dilation = 1;
};
/// x (batch,in,rows.size,columns.size), w (out,in/groups,kernel), y
/// (batch,out,rows.outs,columns.outs).
struct Conv {
  Index batch = 0, in = 0, out = 0, groups = 1;
  ConvAxis rows, columns;
  Index plane() const { return rows.size * columns.size; }
  Index pixels() const { return rows.outs * columns.outs; }
  Index area() const { return rows.kernel * columns.kernel; }
  Index taps() const { return in / groups * area(); }
  bool depthwise() const { return groups > 1 && in == groups; }
};

/// y = conv(x) + b; b (out) or null.
MORAINE_INLINE void conv(const Conv& c, const float* x, const float* w, const float* b, float* y);
/// dx = the gradient of x, plus b (in) where it is not null.
MORAINE_INLINE void conv_grad_input(const Conv& c, const float* dy, const float* w, const float* b,
                                    float* dx);
MORAINE_INLINE void conv_grad_weight(const Conv& c, const float* x, const float* dy, float* dw);

#if defined(MORAINE_BODIES)
namespace detail {

inline TapAxis tap_axis(const ConvAxis& a) {
  TapAxis t{.size = a.size, .outs = a.outs, .step = a.stride};
  for (Index i = 0; i < a.kernel; ++i) t.at.push_back(i * a.dilation - a.padding);
  return t;
}
/// Inputs z = z0 + stride u from the outputs (z + padding - i dilation) / stride that read them, in
/// ascending order; `tap` gets the i.
inline TapAxis tap_axis_back(const ConvAxis& a, Index z0, std::vector<Index>& tap) {
  TapAxis t{.size = a.outs, .outs = (a.size - z0 + a.stride - 1) / a.stride, .out0 = z0};
  t.out_step = a.stride;
  for (Index i = a.kernel - 1; i >= 0; --i) {
    const Index d = z0 + a.padding - i * a.dilation;
    if (d % a.stride == 0) t.at.push_back(d / a.stride), tap.push_back(i);
  }
  return t;
}

/// Planes for one piece of work: enough to pay for a Correlator and a thread.
inline Index depthwise_grain(const Conv& c) {
  return 1 + (1 << 20) / (c.pixels() * (c.taps() + 4) + 1);
}

/// Output pixels of a piece: columns of about 256 KiB, whole tiles, at least eight pieces where an
/// image has that many tiles.
inline Index conv_piece(Index pixels, Index k) {
  const Index w = gemm_kernels().wide_cols, eighth = (pixels + 8 * w - 1) / (8 * w) * w;
  Index size = (Index{1} << 16) / (k < 1 ? 1 : k) / w * w;
  size = size < 4 * w ? 4 * w : size;
  return size < eighth ? size : eighth;
}

/// rows [out][k]: the weights of one group with its bias as the last column.
inline std::vector<float> with_bias(const float* w, const float* b, Index out, Index taps) {
  std::vector<float> both(static_cast<std::size_t>(out * (taps + 1)));
  for (Index o = 0; o < out; ++o) {
    std::memcpy(both.data() + o * (taps + 1), w + o * taps,
                static_cast<std::size_t>(taps) * sizeof(float));
    both[static_cast<std::size_t>(o * (taps + 1) + taps)] = b[o];
  }
  return both;
}

inline Windows windows_of(const Conv& c) {
  return {c.in / c.groups,   c.rows.size,      c.columns.size,    c.rows.outs,      c.columns.outs,
          c.rows.kernel,     c.columns.kernel, c.rows.stride,     c.columns.stride, c.rows.padding,
          c.columns.padding, c.rows.dilation,  c.columns.dilation};
}

/// The rows [row][p0..p1) of the columns, `ld` apart.
inline void column_rows(const Windows& g, const float* x, Index p0, Index p1, float* to, Index ld) {
  const Index area = g.kernel_h * g.kernel_w;
  parallel_for(g.channels * area, 1 + 32768 / (p1 - p0), [&](Index begin, Index end) {
    for (Index q = begin; q < end; ++q) {
      const Index i = q % area / g.kernel_w * g.apart_h - g.pad_h,
                  j = q % g.kernel_w * g.apart_w - g.pad_w;
      const Index low = j >= 0 ? 0 : (g.step_w - 1 - j) / g.step_w;
      const Index high = j >= g.width ? 0 : (g.width - 1 - j) / g.step_w + 1;
      float* out = to + q * ld;
      for (Index p = p0; p < p1;) {
        const Index h = p / g.out_w, w0 = p % g.out_w;
        const Index w1 = g.out_w - w0 < p1 - p ? g.out_w : w0 + p1 - p;
        const Index row = h * g.step_h + i;
        const bool inside = row >= 0 && row < g.height;
        Index a = low > w0 ? low : w0, b = high < w1 ? high : w1;
        if (!inside || b < a) a = b = w1;
        for (Index w = w0; w < a && w < w1; ++w) out[w - w0] = 0;
        if (b > a)
          every(x + (q / area * g.height + row) * g.width + a * g.step_w + j, g.step_w, b - a,
                out + a - w0);
        for (Index w = b; w < w1; ++w) out[w - w0] = 0;
        out += w1 - w0;
        p += w1 - w0;
      }
    }
  });
}

}  // namespace detail

MORAINE_INLINE void conv(const Conv& c, const float* x, const float* w, const float* b, float* y) {
  const Index n = c.pixels(), taps = c.taps(), out = c.out / c.groups, k = taps + (b ? 1 : 0);
  if (c.batch * c.out * n == 0) return;
  if (c.depthwise()) {
    parallel_for(c.batch * c.out, detail::depthwise_grain(c), [&](Index begin, Index end) {
      Correlator one({detail::tap_axis(c.rows), detail::tap_axis(c.columns)});
      for (Index p = begin; p < end; ++p) {
        const Index o = p % c.out;
        one.run(x + (p / c.out * c.in + o / out) * c.plane(), w + o * taps, b ? b[o] : 0.0f,
                y + p * n, c.columns.outs);
      }
    });
    return;
  }
  if (k == 0) {
    for (Index i = 0; i < c.batch * c.out * n; ++i) y[i] = 0;
    return;
  }
  const std::vector<float> both = b ? detail::with_bias(w, b, c.out, taps) : std::vector<float>();
  const Windows windows = detail::windows_of(c);
  const Index size = detail::conv_piece(n, k), pieces = (n + size - 1) / size;
  parallel_for(c.batch * c.groups * pieces, 1, [&](Index begin, Index end) {
    PackedWeight<float> columns;
    for (Index t = begin; t < end; ++t) {
      const Index image = t / (c.groups * pieces), g = t / pieces % c.groups;
      const Index p0 = t % pieces * size, p1 = p0 + size < n ? p0 + size : n;
      pack_columns(windows, x + (image * c.groups + g) * windows.channels * c.plane(), p0, p1,
                   b != nullptr, columns);
      gemm<float>({.m = out,
                   .n = p1 - p0,
                   .k = k,
                   .a = {(b ? both.data() : w) + g * out * k, k, 1},
                   .c = {y + (image * c.groups + g) * out * n + p0, n, 1},
                   .packed = &columns});
    }
  });
}

MORAINE_INLINE void conv_grad_input(const Conv& c, const float* dy, const float* w, const float* b,
                                    float* dx) {
  const Index n = c.pixels(), taps = c.taps(), area = c.area();
  const Index out = c.out / c.groups, in = c.in / c.groups;
  const Index sh = c.rows.stride, sw = c.columns.stride, wide = c.columns.size;
  if (c.batch * c.in * c.plane() == 0) return;
  if (c.depthwise()) {
    parallel_for(c.batch * c.in, detail::depthwise_grain(c), [&](Index begin, Index end) {
      for (Index z = 0; z < sh * sw; ++z) {
        if (z / sw >= c.rows.size || z % sw >= wide) continue;
        std::vector<Index> row, column;
        Correlator one({detail::tap_axis_back(c.rows, z / sw, row),
                        detail::tap_axis_back(c.columns, z % sw, column), out});
        std::vector<float> part(static_cast<std::size_t>(out) * row.size() * column.size());
        for (Index p = begin; p < end; ++p) {
          const Index channel = p % c.in;
          float* to = part.data();
          for (Index o = channel * out; o < (channel + 1) * out; ++o)
            for (Index i : row)
              for (Index j : column) *to++ = w[o * taps + i * c.columns.kernel + j];
          one.run(dy + (p / c.in * c.out + channel * out) * n, part.data(), b ? b[channel] : 0.0f,
                  dx + p * c.plane(), wide);
        }
      }
    });
    return;
  }
  // For every remainder: its taps of the weight, as (in, out * rows * columns) by group.
  struct Part {
    Windows windows;
    TapAxis rows, columns;
    Index k = 0;
    std::vector<float> w;
  };
  std::vector<Part> parts;
  for (Index z = 0; z < sh * sw; ++z) {
    std::vector<Index> row, column;
    Part p;
    p.rows = detail::tap_axis_back(c.rows, z / sw, row);
    p.columns = detail::tap_axis_back(c.columns, z % sw, column);
    const auto start = [](const TapAxis& a) { return a.at.empty() ? 0 : -a.at[0]; };
    const auto apart = [](const TapAxis& a) { return a.at.size() < 2 ? 1 : a.at[1] - a.at[0]; };
    p.windows = {out,
                 c.rows.outs,
                 c.columns.outs,
                 p.rows.outs,
                 p.columns.outs,
                 static_cast<Index>(row.size()),
                 static_cast<Index>(column.size()),
                 1,
                 1,
                 start(p.rows),
                 start(p.columns),
                 apart(p.rows),
                 apart(p.columns)};
    p.k = out * p.windows.kernel_h * p.windows.kernel_w + (b ? 1 : 0);
    p.w.resize(static_cast<std::size_t>(c.in * p.k));
    float* to = p.w.data();
    for (Index channel = 0; channel < c.in; ++channel) {
      const float* from = w + channel / in * out * taps + channel % in * area;
      for (Index o = 0; o < out; ++o)
        for (Index i : row)
          for (Index j : column) *to++ = from[o * taps + i * c.columns.kernel + j];
      if (b) *to++ = b[channel];
    }
    parts.push_back(std::move(p));
  }
  // A piece is whole rows of every remainder: dY is read once for all of them.
  const Index high = (c.rows.size + sh - 1) / sh, across = (wide + sw - 1) / sw;
  Index band = detail::conv_piece(high * across, out * area / (sh * sw) + 1) / across;
  band = band < 1 ? 1 : band;
  const bool plain = sh * sw == 1;
  const Index size = plain ? detail::conv_piece(high * across, parts[0].k) : band * across;
  const Index pieces = plain ? (c.plane() + size - 1) / size : (high + band - 1) / band;
  parallel_for(c.batch * c.groups * pieces, 1, [&](Index begin, Index end) {
    PackedWeight<float> columns;
    Scratch results;
    if (!plain) results = Scratch(sw * in * size);
    for (Index t = begin; t < end; ++t) {
      const Index image = t / (c.groups * pieces), g = t / pieces % c.groups;
      const float* const from = dy + (image * c.groups + g) * out * n;
      float* const to = dx + (image * c.groups + g) * in * c.plane();
      const auto product = [&](const Part& p, Index p0, Index p1, float* y, Index ldy) {
        if (p.k == 0) {
          for (Index i = 0; i < in; ++i)
            std::memset(y + i * ldy, 0, static_cast<std::size_t>(p1 - p0) * sizeof(float));
          return;
        }
        pack_columns(p.windows, from, p0, p1, b != nullptr, columns);
        gemm<float>({.m = in,
                     .n = p1 - p0,
                     .k = p.k,
                     .a = {p.w.data() + g * in * p.k, p.k, 1},
                     .c = {y, ldy, 1},
                     .packed = &columns});
      };
      const Index first = t % pieces;
      if (plain) {
        const Index p0 = first * size, p1 = p0 + size < c.plane() ? p0 + size : c.plane();
        product(parts[0], p0, p1, to + p0, c.plane());
        continue;
      }
      for (Index z0 = 0; z0 < sh; ++z0) {
        const Part* const row = parts.data() + z0 * sw;
        const Index u0 = first * band;
        const Index u1 = u0 + band < row->rows.outs ? u0 + band : row->rows.outs;
        if (u1 <= u0) continue;
        for (Index z1 = 0; z1 < sw; ++z1) {
          const Index v = row[z1].columns.outs;
          if (v > 0) product(row[z1], u0 * v, u1 * v, results.data() + z1 * in * size, size);
        }
        const bool even = wide % sw == 0;
        for (Index i = 0; i < in; ++i)
          for (Index u = u0; u < u1; ++u) {
            float* const line = to + (i * c.rows.size + z0 + u * sh) * wide;
            if (even)
              zip(results.data() + i * size + (u - u0) * across, in * size, sw, 0.0f, across, line);
            else
              for (Index z1 = 0; z1 < sw; ++z1) {
                const Index v = row[z1].columns.outs;
                const float* const r = results.data() + (z1 * in + i) * size + (u - u0) * v;
                for (Index j = 0; j < v; ++j) line[z1 + j * sw] = r[j];
              }
          }
      }
    }
  });
}

MORAINE_INLINE void conv_grad_weight(const Conv& c, const float* x, const float* dy, float* dw) {
  const Index n = c.pixels(), taps = c.taps(), out = c.out / c.groups;
  if (c.out * taps == 0) return;
  if (c.batch * n == 0 || c.depthwise())
    for (Index i = 0; i < c.out * taps; ++i) dw[i] = 0;
  if (c.batch * n == 0) return;
  if (c.depthwise()) {
    parallel_for(c.out, 1 + (1 << 20) / (c.batch * n * (taps + 4) + 1),
                 [&](Index begin, Index end) {
                   Correlator one({detail::tap_axis(c.rows), detail::tap_axis(c.columns)});
                   for (Index o = begin; o < end; ++o)
                     for (Index image = 0; image < c.batch; ++image)
                       one.weight(x + (image * c.in + o / out) * c.plane(),
                                  dy + (image * c.out + o) * n, dw + o * taps);
                 });
    return;
  }
  const Windows windows = detail::windows_of(c);
  const bool as_is = c.area() == 1 && c.rows.stride == 1 && c.columns.stride == 1 &&
                     c.rows.padding == 0 && c.columns.padding == 0;
  Index size = (Index{1} << 19) / taps / 16 * 16;
  size = size < 128 ? 128 : size > 1024 ? 1024 : size;
  const Index ld = size + 16;  // rows that are powers of two apart share few places of a cache
  parallel_for(c.groups, c.groups < 4 ? c.groups : 1, [&](Index begin, Index end) {
    Scratch columns;
    if (!as_is) columns = Scratch(taps * ld);
    const Scratch transposed(taps * out);
    for (Index g = begin; g < end; ++g) {
      for (Index image = 0; image < c.batch; ++image)
        for (Index p0 = 0; p0 < n; p0 += size) {
          const Index p1 = p0 + size < n ? p0 + size : n;
          const float* const from = x + (image * c.groups + g) * windows.channels * c.plane();
          Matrix<const float> rows{from + p0, n, 1};
          if (!as_is) {
            detail::column_rows(windows, from, p0, p1, columns.data(), ld);
            rows = {columns.data(), ld, 1};
          }
          gemm<float>({.m = taps,
                       .n = out,
                       .k = p1 - p0,
                       .a = rows,
                       .b = {dy + (image * c.groups + g) * out * n + p0, 1, n},
                       .c = {transposed.data(), out, 1},
                       .accumulate = image > 0 || p0 > 0});
        }
      for (Index o = 0; o < out; ++o)
        for (Index q = 0; q < taps; ++q)
          dw[(g * out + o) * taps + q] = transposed.data()[q * out + o];
    }
  });
}
#endif

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
