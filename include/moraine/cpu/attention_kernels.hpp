#pragma once
// The inner loops of cpu/attention.hpp and cpu/attention_backward.hpp on vectors: six queries
// against a block of keys, and what is added to their scores. Scores are in units of log2: the
// queries are multiplied by log2 e beforehand, and 2^x is what the loops compute.
#include <cstring>
#include <moraine/core/shape.hpp>
#include <moraine/cpu/simd.hpp>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

/// Six queries (the last one repeated where there are fewer) against n keys:
/// s <- 2^(s - top) with s = q k (+ what s held), top = max(top, max s), sum = sum s.
struct ScoreStrip {
  const float* queries[6];
  Index count;        ///< how many of the six are asked for; the others' s is arbitrary
  const float* keys;  ///< panels of wide_cols keys, [d][wide_cols], one after the other
  Index d, n;
  bool add;  ///< s holds what is added to the scores
  float* s;  ///< [6][ld]; columns from n to whole panels become 0
  Index ld;
  float top[6];  ///< in: the largest score before; out: the largest so far
  float sum[6];
};

/// What is added to the scores of one query with keys first, first + 1, ...: log2 e times bias and
/// mask, and h and w as they are.
struct ScoreRow {
  const float* bias = nullptr;  ///< of the first key; null: none
  Index step = 0;               ///< 1, or 0: one number for all keys
  const float* mask = nullptr;  ///< of the first key: 0 or -inf; a vector beyond n may be read
  const float* h = nullptr;     ///< of every row of a map of keys with `columns` columns; or null
  const float* w = nullptr;     ///< of every column; a vector beyond may be read
  Index columns = 1, first = 0;
};

/// Where the gradient of such a row is added to; null: it is not.
struct ScoreRowGrad {
  float* bias = nullptr;  ///< one for every key
  float* h = nullptr;
  float* w = nullptr;  ///< a vector beyond may be read and written as it was
  Index columns = 1, first = 0;
};

struct AttentionKernels {
  void (*strip)(ScoreStrip& t);
  /// p <- 2^(p - lse); dp <- p (dp - delta). n is a multiple of the vector width.
  void (*softmax_dx)(float* p, float* dp, Index n, float lse, float delta);
  /// s <- the row; up to 15 floats beyond n are overwritten.
  void (*start)(const ScoreRow& r, float* s, Index n);
  /// Adds the row's gradient ds; up to 15 floats beyond n are read.
  void (*finish)(const ScoreRowGrad& r, const float* ds, Index n);
};

const AttentionKernels& attention_kernels(Isa isa);

#if defined(MORAINE_BODIES)

namespace simd {

constexpr float log2_e = 1.44269504f, ln_2 = 0.693147181f;

/// Every lane becomes the largest, or the sum, of all lanes.
template <class L, bool largest>
MORAINE_FLATTEN void across(typename L::F& x) {
  typename L::F y;
  const auto fold = [&]() __attribute__((always_inline)) {
    if constexpr (largest)
      x = y > x ? y : x;
    else
      x += y;
  };
  if constexpr (L::width == 16) {
    y = __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    fold();
    y = __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    fold();
    y = __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    fold();
    y = __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  } else if constexpr (L::width == 8) {
    y = __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3);
    fold();
    y = __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5);
    fold();
    y = __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6);
  } else {
    y = __builtin_shufflevector(x, x, 2, 3, 0, 1);
    fold();
    y = __builtin_shufflevector(x, x, 1, 0, 3, 2);
  }
  fold();
}

/// s = q k for whole panels, with the largest of every row in vectors.
template <class L, int V>
MORAINE_FLATTEN void strip_scores(const ScoreStrip& t, float* most) {
  using F = typename L::F;
  constexpr int W = L::width;
  static constexpr float zeros[V * W] = {};
  const Index ldi = t.add ? t.ld : 0;
  const float* b = t.keys;
  const float* const* const q = t.queries;
  const float *const q0 = q[0], *const q1 = q[1], *const q2 = q[2], *const q3 = q[3],
                     *const q4 = q[4], *const q5 = q[5];
  for (Index j = 0; j < t.n; j += V * W) {
    F s[6][V];
    float* const out = t.s + j;
    const float* const init = t.add ? out : zeros;
    MORAINE_UNROLL for (int i = 0; i < 6; ++i) {
      MORAINE_UNROLL for (int v = 0; v < V; ++v) { L::load(s[i][v], init + i * ldi + v * W); }
    }
    for (Index k = 0; k < t.d; ++k) {
      const float x[6] = {q0[k], q1[k], q2[k], q3[k], q4[k], q5[k]};
      F w[V];
      MORAINE_UNROLL for (int v = 0; v < V; ++v) L::load(w[v], b + v * W);
      MORAINE_UNROLL for (int i = 0; i < 6; ++i) {
        const F y = x[i] - F{};
        MORAINE_UNROLL for (int v = 0; v < V; ++v) s[i][v] += y * w[v];
      }
      b += V * W;
    }
    MORAINE_UNROLL for (int i = 0; i < 6; ++i) {
      MORAINE_UNROLL for (int v = 0; v < V; ++v) L::store(out + i * t.ld + v * W, s[i][v]);
    }
    if (t.n - j < V * W) {  // keys that are not there
      for (int i = 0; i < 6; ++i)
        for (Index z = t.n - j; z < V * W; ++z) out[i * t.ld + z] = -__builtin_inff();
      MORAINE_UNROLL for (int i = 0; i < 6; ++i) {
        MORAINE_UNROLL for (int v = 0; v < V; ++v) L::load(s[i][v], out + i * t.ld + v * W);
      }
    }
    MORAINE_UNROLL for (int i = 0; i < 6; ++i) {
      F m;
      L::load(m, most + i * W);
      MORAINE_UNROLL for (int v = 0; v < V; ++v) m = s[i][v] > m ? s[i][v] : m;
      L::store(most + i * W, m);
    }
  }
}

template <class L, int V>
MORAINE_FLATTEN void strip(ScoreStrip& t) {
  using F = typename L::F;
  constexpr int W = L::width;
  float most[6 * W];
  for (int i = 0; i < 6; ++i) L::store(most + i * W, t.top[i] - F{});
  strip_scores<L, V>(t, most);
  for (Index i = 0; i < t.count; ++i) {
    F m, x = F{}, y = F{};
    L::load(m, most + i * W);
    across<L, true>(m);
    t.top[i] = m[0];
    // Nothing but -inf so far: weights 0, not NaN; a later block may still hold a number.
    m = m == -__builtin_inff() ? F{} : m;
    float* const s = t.s + i * t.ld;
    for (Index j = 0; j < t.n; j += 2 * W) {  // V is even
      F u, v;
      L::load(u, s + j);
      L::load(v, s + j + W);
      u -= m;
      v -= m;
      exp2<L>(u);
      exp2<L>(v);
      L::store(s + j, u);
      L::store(s + j + W, v);
      x += u;
      y += v;
    }
    x += y;
    across<L, false>(x);
    t.sum[i] = x[0];
  }
}

template <class L>
MORAINE_FLATTEN void softmax_piece_dx(float* p, float* dp, Index n, float lse, float delta) {
  using F = typename L::F;
  for (Index j = 0; j < n; j += L::width) {
    F u, g;
    L::load(u, p + j);
    L::load(g, dp + j);
    u -= lse;
    exp2<L>(u);
    g = u * (g - delta);
    L::store(p + j, u);
    L::store(dp + j, g);
  }
}

template <class L>
MORAINE_FLATTEN void start_row(const ScoreRow& r, float* s, Index n) {
  using F = typename L::F;
  constexpr int W = L::width;
  F x, y;
  if (r.h) {  // row by row of the map; each overwrites what the one before wrote beyond its end
    Index row = r.first / r.columns, c = r.first % r.columns;
    for (Index j = 0; j < n; c = 0, ++row) {
      const Index m = r.columns - c < n - j ? r.columns - c : n - j;
      for (Index i = 0; i < m; i += W) {
        L::load(x, r.w + c + i);
        x += r.h[row];
        L::store(s + j + i, x);
      }
      j += m;
    }
    if (!r.bias && !r.mask) return;
  }
  const float one = r.bias && r.step == 0 ? *r.bias * log2_e : 0.0f;
  for (Index j = 0; j < n; j += W) {
    x = one - F{};
    if (r.step) load<L>(x, r.bias + j, n - j), x *= log2_e;
    if (r.h) L::load(y, s + j), x += y;
    if (r.mask) L::load(y, r.mask + j), x += y;
    L::store(s + j, x);
  }
}

/// The first `left` floats from p on, 0 in the lanes beyond, whatever they hold in memory.
template <class L>
MORAINE_FLATTEN void load_first(typename L::F& x, const float* p, Index left) {
  static constexpr int lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  typename L::I lane;
  std::memcpy(&lane, lanes, sizeof lane);
  L::load(x, p);
  x = (typename L::F)((typename L::I)x & (lane < static_cast<int>(left < 16 ? left : 16)));
}

template <class L>
MORAINE_FLATTEN void finish_row(const ScoreRowGrad& r, const float* ds, Index n) {
  using F = typename L::F;
  constexpr int W = L::width;
  F x, y;
  for (Index j = 0; j < n && r.bias; j += W) {
    L::load(x, ds + j);
    load<L>(y, r.bias + j, n - j);
    y += x;
    store<L>(r.bias + j, y, n - j);
  }
  if (!r.h) return;
  Index row = r.first / r.columns, c = r.first % r.columns;
  for (Index j = 0; j < n; c = 0, ++row) {
    const Index m = r.columns - c < n - j ? r.columns - c : n - j;
    F z = F{};
    for (Index i = 0; i < m; i += W) {
      load_first<L>(x, ds + j + i, m - i);
      z += x;
      L::load(y, r.w + c + i);
      y += x;
      L::store(r.w + c + i, y);
    }
    r.h[row] += sum<L>(z);
    j += m;
  }
}

#define MORAINE_ATTENTION_KERNELS(NAME, ATTRIBUTE, LANES, VECTORS)                         \
  ATTRIBUTE MORAINE_INLINE void NAME##_strip(ScoreStrip& t) { strip<LANES, VECTORS>(t); }  \
  ATTRIBUTE MORAINE_INLINE void NAME##_softmax_dx(float* p, float* dp, Index n, float lse, \
                                                  float delta) {                           \
    softmax_piece_dx<LANES>(p, dp, n, lse, delta);                                         \
  }
// These wait for memory: AVX-512 machines use the AVX2 form.
#define MORAINE_SCORE_ROW_KERNELS(NAME, ATTRIBUTE, LANES)                                 \
  ATTRIBUTE MORAINE_INLINE void NAME##_start_row(const ScoreRow& r, float* s, Index n) {  \
    start_row<LANES>(r, s, n);                                                            \
  }                                                                                       \
  ATTRIBUTE MORAINE_INLINE void NAME##_finish_row(const ScoreRowGrad& r, const float* ds, \
                                                  Index n) {                              \
    finish_row<LANES>(r, ds, n);                                                          \
  }
MORAINE_ATTENTION_KERNELS(portable, __attribute__((noinline)), Lanes4, 2)
MORAINE_SCORE_ROW_KERNELS(portable, __attribute__((noinline)), Lanes4)
#if defined(MORAINE_X86)
MORAINE_ATTENTION_KERNELS(avx2, MORAINE_AVX2, Lanes8, 2)
MORAINE_SCORE_ROW_KERNELS(avx2, MORAINE_AVX2, Lanes8)
MORAINE_ATTENTION_KERNELS(avx512, MORAINE_AVX512, Lanes16, 4)
#endif
#undef MORAINE_ATTENTION_KERNELS
#undef MORAINE_SCORE_ROW_KERNELS

}  // namespace simd

MORAINE_INLINE const AttentionKernels& attention_kernels(Isa isa) {
  using namespace simd;
#if defined(MORAINE_X86)
  static constexpr AttentionKernels a2{avx2_strip, avx2_softmax_dx, avx2_start_row,
                                       avx2_finish_row};
  static constexpr AttentionKernels a5{avx512_strip, avx512_softmax_dx, avx2_start_row,
                                       avx2_finish_row};
  if (isa == Isa::avx2) return a2;
  if (isa == Isa::avx512) return a5;
#endif
  static constexpr AttentionKernels p{portable_strip, portable_softmax_dx, portable_start_row,
                                      portable_finish_row};
  (void)isa;
  return p;
}

#endif  // MORAINE_BODIES

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
