#pragma once
// Sparse matrices along the axes of planes, in float: what resizing and average pooling are made
// of. Down the rows a vector of columns is weighted and added; along a row, where neighbouring
// outputs read at uneven places, several rows are turned into columns first, so that each vector
// holds one output of them all. Two axes go plane by plane, with what lies between in the cache.
#include <moraine/core/parallel.hpp>
#include <moraine/core/shape.hpp>
#include <moraine/cpu/pack.hpp>
#include <moraine/cpu/simd.hpp>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

/// Row o of the matrix has the weights weight[begin[o]..begin[o+1]) for the inputs from first[o]
/// on.
template <class T>
struct Table {
  Index in = 0, out = 0;
  const Index* first = nullptr;
  const Index* begin = nullptr;
  const T* weight = nullptr;
};

/// y[r] = sum over t of w[t] x[t * step + r], n elements.
MORAINE_INLINE void weighted_rows(const float* x, Index step, const float* w, Index taps, Index n,
                                  float* y);
/// Rows of x (`step` apart), each by the table, to rows of y (`ldy` apart).
MORAINE_INLINE void along_rows(const Table<float>& t, const float* x, Index step, Index rows,
                               float* y, Index ldy);

/// y (planes,rows.out,columns.out) from x (planes,rows.in,columns.in).
MORAINE_INLINE void resample(const Table<float>& rows, const Table<float>& columns, Index planes,
                             const float* x, float* y);

namespace simd {

/// V vectors at c; TAPS: the number of taps, or 0 for any.
template <class L, int V, int TAPS>
MORAINE_FLATTEN void weighted_block(const float* x, Index step, const float* w, Index taps,
                                    float* y) {
  using F = typename L::F;
  F s[V], v;
  const F first = w[0] - F{};
  MORAINE_UNROLL for (int i = 0; i < V; ++i) {
    L::load(s[i], x + i * L::width);
    s[i] *= first;
  }
  for (Index t = 1; t < (TAPS > 0 ? TAPS : taps); ++t) {
    const F f = w[t] - F{};
    MORAINE_UNROLL for (int i = 0; i < V; ++i) {
      L::load(v, x + t * step + i * L::width);
      s[i] += f * v;
    }
  }
  MORAINE_UNROLL for (int i = 0; i < V; ++i) L::store(y + i * L::width, s[i]);
}
/// The last block begins early enough to be whole: x and y do not overlap.
template <class L, int TAPS>
MORAINE_FLATTEN void weighted_rows(const float* x, Index step, const float* w, Index taps, Index n,
                                   float* y) {
  constexpr int W = L::width;
  Index c = 0;
  for (; c + 4 * W <= n; c += 4 * W) weighted_block<L, 4, TAPS>(x + c, step, w, taps, y + c);
  for (; c + W <= n; c += W) weighted_block<L, 1, TAPS>(x + c, step, w, taps, y + c);
  if (c < n && n >= W) {
    weighted_block<L, 1, TAPS>(x + n - W, step, w, taps, y + n - W);
  } else {
    for (; c < n; ++c) {
      float s = w[0] * x[c];
      for (Index t = 1; t < taps; ++t) s += w[t] * x[c + t * step];
      y[c] = s;
    }
  }
}

/// Four rows, given as columns: q[4 i + r] is x_i of row r. One output of all four is a vector;
/// four outputs are turned back into pieces of rows.
template <class L>
MORAINE_FLATTEN void along_columns(const Index* first, const Index* begin, const float* weight,
                                   Index outs, const float* q, float* y, Index ldy) {
  using F = typename L::F;
  constexpr int W = L::width;
  const auto output = [&](F& s, Index o) {
    const float* p = q + W * first[o];
    const float* w = weight + begin[o];
    const Index taps = begin[o + 1] - begin[o];
    F v;
    s = F{};
    for (Index t = 0; t < taps; ++t) {
      L::load(v, p + W * t);
      s += w[t] * v;
    }
  };
  Index o = 0;
  for (; o + 4 <= outs; o += 4) {
    F a, b, c, d;
    output(a, o);
    output(b, o + 1);
    output(c, o + 2);
    output(d, o + 3);
    const F ab = __builtin_shufflevector(a, b, 0, 4, 1, 5),
            cd = __builtin_shufflevector(c, d, 0, 4, 1, 5),
            AB = __builtin_shufflevector(a, b, 2, 6, 3, 7),
            CD = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    L::store(y + o, __builtin_shufflevector(ab, cd, 0, 1, 4, 5));
    L::store(y + ldy + o, __builtin_shufflevector(ab, cd, 2, 3, 6, 7));
    L::store(y + 2 * ldy + o, __builtin_shufflevector(AB, CD, 0, 1, 4, 5));
    L::store(y + 3 * ldy + o, __builtin_shufflevector(AB, CD, 2, 3, 6, 7));
  }
  for (; o < outs; ++o) {
    F a;
    output(a, o);
    MORAINE_UNROLL for (int r = 0; r < W; ++r) y[r * ldy + o] = a[r];
  }
}

#if defined(MORAINE_BODIES)
#define MORAINE_RESAMPLE_KERNELS(NAME, ATTRIBUTE, LANES)                                         \
  ATTRIBUTE MORAINE_INLINE void NAME##_weighted_rows(const float* x, Index step, const float* w, \
                                                     Index taps, Index n, float* y) {            \
    if (taps == 2) return weighted_rows<LANES, 2>(x, step, w, 2, n, y);                          \
    weighted_rows<LANES, 0>(x, step, w, taps, n, y);                                             \
  }                                                                                              \
  ATTRIBUTE MORAINE_INLINE void NAME##_along_columns(const Index* first, const Index* begin,     \
                                                     const float* weight, Index outs,            \
                                                     const float* q, float* y, Index ldy) {      \
    along_columns<Lanes4>(first, begin, weight, outs, q, y, ldy);                                \
  }
MORAINE_RESAMPLE_KERNELS(portable, __attribute__((noinline)), Lanes4)
#if defined(MORAINE_X86)
MORAINE_RESAMPLE_KERNELS(avx2, MORAINE_AVX2, Lanes8)
#endif
#undef MORAINE_RESAMPLE_KERNELS
#endif

}  // namespace simd

#if defined(MORAINE_BODIES)
MORAINE_INLINE void weighted_rows(const float* x, Index step, const float* w, Index taps, Index n,
                                  float* y) {
  if (taps == 0) {
    for (Index i = 0; i < n; ++i) y[i] = 0;
    return;
  }
#if defined(MORAINE_X86)
  if (best_isa() != Isa::portable) return simd::avx2_weighted_rows(x, step, w, taps, n, y);
#endif
  simd::portable_weighted_rows(x, step, w, taps, n, y);
}

MORAINE_INLINE void along_rows(const Table<float>& t, const float* x, Index step, Index rows,
                               float* y, Index ldy) {
  using L = simd::Lanes4;
  const Scratch turned(4 * t.in + 4);
  float* const q = turned.data();
  for (Index r = 0; r < rows; r += 4) {
    // Rows that are missing are computed like the last one, over and over, into its place.
    const float* row[4];
    const Index here = rows - r < 4 ? rows - r : 4;
    for (Index i = 0; i < 4; ++i) row[i] = x + (r + (i < here ? i : here - 1)) * step;
    Index c = 0;
    for (; c + 4 <= t.in; c += 4) {
      L::F a, b, d, e;
      L::load(a, row[0] + c);
      L::load(b, row[1] + c);
      L::load(d, row[2] + c);
      L::load(e, row[3] + c);
      const L::F ab = __builtin_shufflevector(a, b, 0, 4, 1, 5),
                 de = __builtin_shufflevector(d, e, 0, 4, 1, 5),
                 AB = __builtin_shufflevector(a, b, 2, 6, 3, 7),
                 DE = __builtin_shufflevector(d, e, 2, 6, 3, 7);
      L::store(q + 4 * c, __builtin_shufflevector(ab, de, 0, 1, 4, 5));
      L::store(q + 4 * c + 4, __builtin_shufflevector(ab, de, 2, 3, 6, 7));
      L::store(q + 4 * c + 8, __builtin_shufflevector(AB, DE, 0, 1, 4, 5));
      L::store(q + 4 * c + 12, __builtin_shufflevector(AB, DE, 2, 3, 6, 7));
    }
    for (; c < t.in; ++c)
      for (Index i = 0; i < 4; ++i) q[4 * c + i] = row[i][c];
    float* to = y + r * ldy;
    Scratch few;
    if (here < 4) few = Scratch(4 * t.out), to = few.data();
    const Index ld = here < 4 ? t.out : ldy;
#if defined(MORAINE_X86)
    if (best_isa() != Isa::portable)
      simd::avx2_along_columns(t.first, t.begin, t.weight, t.out, q, to, ld);
    else
#endif
      simd::portable_along_columns(t.first, t.begin, t.weight, t.out, q, to, ld);
    for (Index i = 0; i < here && here < 4 && t.out > 0; ++i)
      std::memcpy(y + (r + i) * ldy, to + i * ld, static_cast<std::size_t>(t.out) * sizeof(float));
  }
}

MORAINE_INLINE void resample(const Table<float>& rows, const Table<float>& columns, Index planes,
                             const float* x, float* y) {
  // First the axis that leaves less work; along a row, an element costs several times what it costs
  // down the rows.
  const auto cost_of = [&](Index lines, Index line) {
    return 4.0 * static_cast<double>(lines) *
               static_cast<double>(columns.in + columns.out + columns.begin[columns.out]) +
           static_cast<double>(rows.begin[rows.out]) * static_cast<double>(line);
  };
  const bool wide = cost_of(rows.in, columns.out) <= cost_of(rows.out, columns.in);
  // Bands of output rows whose intermediate rows fill at most 128 KiB.
  const Index line = wide ? columns.out : columns.in;
  Index high = (Index{1} << 15) / (line < 1 ? 1 : line);
  if (wide) high = high * rows.out / (rows.in < 1 ? 1 : rows.in);
  high = high < 16 ? 16 : (high + 3) / 4 * 4;
  const Index bands = (rows.out + high - 1) / high;
  const Index cost = high * (columns.in + columns.out) + 1;
  parallel_for(planes * bands, 1 + 65536 / cost, [&](Index begin, Index end) {
    Scratch between;
    Index size = 0;
    for (Index i = begin; i < end; ++i) {
      const Index o0 = i % bands * high, o1 = o0 + high < rows.out ? o0 + high : rows.out;
      const float* const plane = x + i / bands * rows.in * columns.in;
      float* const out = y + i / bands * rows.out * columns.out;
      Index low = 0, top = o1 - o0;  // input rows of the band; without them: its output rows
      if (wide) {
        low = rows.first[o0];
        top = low;
        for (Index o = o0; o < o1; ++o) {
          const Index last = rows.first[o] + rows.begin[o + 1] - rows.begin[o];
          top = last > top ? last : top;
        }
      }
      if ((top - low) * line > size) between = Scratch(size = (top - low) * line);
      float* const mid = between.data();
      if (wide) along_rows(columns, plane + low * columns.in, columns.in, top - low, mid, line);
      for (Index o = o0; o < o1; ++o) {
        const float* const from =
            wide ? mid + (rows.first[o] - low) * line : plane + rows.first[o] * columns.in;
        weighted_rows(from, line, rows.weight + rows.begin[o], rows.begin[o + 1] - rows.begin[o],
                      line, wide ? out + o * columns.out : mid + (o - o0) * line);
      }
      if (!wide) along_rows(columns, mid, line, o1 - o0, out + o0 * columns.out, columns.out);
    }
  });
}
#endif

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
