#pragma once
// Correlations of single planes with few taps, in float: depthwise convolution, its gradient of the
// input (the same with the taps turned round) and of the weight.
//
//   y(out0 + out_step u) = init + sum over t of w_t x(step u + at_t),   x = 0 beside its plane
//
// A band of rows is copied between zeros into scratch, columns sorted by their remainder modulo the
// step, so that every tap is a plain vector load at an offset of its own: no borders, strides or
// dilations in the loops that compute.
#include <moraine/core/parallel.hpp>
#include <moraine/core/shape.hpp>
#include <moraine/cpu/interleave.hpp>
#include <moraine/cpu/pack.hpp>
#include <moraine/cpu/simd.hpp>
#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

/// One axis: output u stands at out0 + out_step u, u < outs, and tap t reads the input at
/// step u + at[t].
struct TapAxis {
  Index size = 0;  ///< of the input
  Index outs = 0, out0 = 0, out_step = 1, step = 1;
  std::vector<Index> at = {};
};

/// y plane from `sources` planes of x. The taps are all pairs of a row of `rows` and a column of
/// `columns` for every source: w[(source * rows.at.size() + i) * columns.at.size() + j].
struct Correlation {
  TapAxis rows, columns;
  Index sources = 1;
};

/// The loops of one instruction set. `cols` is at least a vector; init is a vector of one value;
/// rows of y are `ldy` apart.
struct TapKernels {
  Isa isa;
  /// Four rows: y[r][c] = init + sum over t of w[t] x[at[t] + r step + c], c < cols.
  void any(const float* x, Index step, const Index* at, const float* w, Index taps,
           const float* init, Index cols, float* y, Index ldy) const;
  /// The same for taps on kh >= 4 neighbouring rows, at[i * kw + j], with the weights of the four
  /// output rows side by side: w[(i * kw + j) * 4 + r] is that of tap row (i - r) mod kh.
  void grid(const float* x, Index step, const Index* at, const float* w, Index kh, Index kw,
            const float* init, Index cols, float* y, Index ldy) const;
  /// Four rows by 3 x 3 neighbouring taps.
  void three(const float* x, Index step, const float* w, const float* init, Index cols, float* y,
             Index ldy) const;
  /// sums[i * kw + j] = sum over r < rows, c < cols of dy[r * cols + c] x[at[i * kw + j] + r step +
  /// c]; kw neighbouring columns, cols any number.
  void weight(const float* x, Index step, const Index* at, Index kh, Index kw, const float* dy,
              Index rows, Index cols, float* sums) const;
  Index lanes() const { return isa == Isa::avx512 ? 16 : isa == Isa::avx2 ? 8 : 4; }
};

namespace simd {

template <class L, int R, int V>
MORAINE_FLATTEN void tap_tile(const float* x, Index step, const Index* at, const float* w,
                              Index taps, const float* init, float* y, Index ldy) {
  using F = typename L::F;
  F s[R][V];
  MORAINE_UNROLL for (int r = 0; r < R; ++r) {
    MORAINE_UNROLL for (int v = 0; v < V; ++v) L::load(s[r][v], init);
  }
  for (Index t = 0; t < taps; ++t) {
    const float* const p = x + at[t];
    const F f = w[t] - F{};
    MORAINE_UNROLL for (int r = 0; r < R; ++r) {
      MORAINE_UNROLL for (int v = 0; v < V; ++v) {
        F a;
        L::load(a, p + r * step + v * L::width);
        s[r][v] += f * a;
      }
    }
  }
  MORAINE_UNROLL for (int r = 0; r < R; ++r) {
    MORAINE_UNROLL for (int v = 0; v < V; ++v) L::store(y + r * ldy + v * L::width, s[r][v]);
  }
}

/// Keeps a vector in its register: g++ would read it from memory again for every use, and loads
/// that cross a cache line are what these loops wait for.
template <class F>
MORAINE_FLATTEN void keep([[maybe_unused]] F& x) {
#if defined(MORAINE_X86) && !defined(__clang__)
  __asm__("" : "+v"(x));
#endif
}

/// The taps [begin,end): the first A output rows read at at[t], the others `low` further.
template <class L, int R, int V, int A>
MORAINE_FLATTEN void grid_taps(typename L::F (&s)[R][V], const float* x, Index low, const Index* at,
                               const float* w, Index begin, Index end) {
  using F = typename L::F;
  for (Index t = begin; t < end; ++t) {
    const float* const p = x + at[t];
    F a[V];
    MORAINE_UNROLL for (int v = 0; v < V; ++v) L::load(a[v], p + v * L::width), keep(a[v]);
    MORAINE_UNROLL for (int r = 0; r < A; ++r) {
      const F f = w[t * R + r] - F{};
      MORAINE_UNROLL for (int v = 0; v < V; ++v) s[r][v] += f * a[v];
    }
    if constexpr (A < R) {
      MORAINE_UNROLL for (int v = 0; v < V; ++v) L::load(a[v], p + low + v * L::width), keep(a[v]);
      MORAINE_UNROLL for (int r = A; r < R; ++r) {
        const F f = w[t * R + r] - F{};
        MORAINE_UNROLL for (int v = 0; v < V; ++v) s[r][v] += f * a[v];
      }
    }
  }
}
/// Row t of x is tap row t - r of output row r, and every vector of it serves all of them. Rows of
/// x at the upper and the lower end of the tile that are not for all outputs go in pairs, so that
/// every step feeds all accumulators: at tap row i, output row r is given w[(i - r) mod kh].
template <class L, int V>
MORAINE_FLATTEN void grid_tile(const float* x, Index step, const Index* at, const float* w,
                               Index kh, Index kw, const float* init, float* y, Index ldy) {
  using F = typename L::F;
  constexpr int R = 4;
  F s[R][V];
  MORAINE_UNROLL for (int r = 0; r < R; ++r) {
    MORAINE_UNROLL for (int v = 0; v < V; ++v) L::load(s[r][v], init);
  }
  const Index low = kh * step;
  grid_taps<L, R, V, 1>(s, x, low, at, w, 0, kw);
  grid_taps<L, R, V, 2>(s, x, low, at, w, kw, 2 * kw);
  grid_taps<L, R, V, 3>(s, x, low, at, w, 2 * kw, 3 * kw);
  grid_taps<L, R, V, 4>(s, x, low, at, w, 3 * kw, kh * kw);
  MORAINE_UNROLL for (int r = 0; r < R; ++r) {
    MORAINE_UNROLL for (int v = 0; v < V; ++v) L::store(y + r * ldy + v * L::width, s[r][v]);
  }
}

/// The weights stay in registers.
template <class L>
MORAINE_FLATTEN void taps_three(const float* x, Index step, const float* w, const float* init,
                                Index cols, float* y, Index ldy) {
  using F = typename L::F;
  F f[9];
  MORAINE_UNROLL for (int t = 0; t < 9; ++t) f[t] = w[t] - F{};
  for (Index c = 0; c < cols; c += L::width) {
    if (c + L::width > cols) c = cols - L::width;
    F s[4], v;
    MORAINE_UNROLL for (int r = 0; r < 4; ++r) L::load(s[r], init);
    MORAINE_UNROLL for (int i = 0; i < 6; ++i) {
      MORAINE_UNROLL for (int j = 0; j < 3; ++j) {
        L::load(v, x + i * step + c + j);
        keep(v);
        MORAINE_UNROLL for (int r = 0; r < 4; ++r) {
          if (i >= r && i < r + 3) s[r] += f[(i - r) * 3 + j] * v;
        }
      }
    }
    MORAINE_UNROLL for (int r = 0; r < 4; ++r) L::store(y + r * ldy + c, s[r]);
  }
}

/// I x J taps at a time. In the last vector of a row, what x holds beyond it must not meet a zero
/// of dy: it may be a NaN.
template <class L, int I, int J>
MORAINE_FLATTEN void weight_tile(const float* x, Index step, const Index* at, Index kw,
                                 const float* dy, Index rows, Index cols, float* sums) {
  using F = typename L::F;
  using B = typename L::B;
  F s[I][J];
  MORAINE_UNROLL for (int i = 0; i < I; ++i) {
    MORAINE_UNROLL for (int j = 0; j < J; ++j) s[i][j] = F{};
  }
  const Index whole = cols / L::width * L::width;
  float ones[L::width] = {};
  F mask, one;
  for (Index i = whole; i < cols; ++i) ones[i - whole] = 1.0f;
  L::load(one, ones);
  mask = (F)(one != 0.0f);
  const float* p[I];
  MORAINE_UNROLL for (int i = 0; i < I; ++i) p[i] = x + at[i * kw];
  for (Index r = 0; r < rows; ++r) {
    Index c = 0;
    F g, a;
    for (; c < whole; c += L::width) {
      L::load(g, dy + c);
      MORAINE_UNROLL for (int i = 0; i < I; ++i) {
        MORAINE_UNROLL for (int j = 0; j < J; ++j) {
          L::load(a, p[i] + c + j);
          s[i][j] += a * g;
        }
      }
    }
    if (c < cols) {
      load<L>(g, dy + c, cols - c);
      MORAINE_UNROLL for (int i = 0; i < I; ++i) {
        MORAINE_UNROLL for (int j = 0; j < J; ++j) {
          L::load(a, p[i] + c + j);
          a = (F)((B)a & (B)mask);
          s[i][j] += a * g;
        }
      }
    }
    dy += cols;
    MORAINE_UNROLL for (int i = 0; i < I; ++i) p[i] += step;
  }
  MORAINE_UNROLL for (int i = 0; i < I; ++i) {
    MORAINE_UNROLL for (int j = 0; j < J; ++j) sums[i * kw + j] = sum<L>(s[i][j]);
  }
}

/// All taps, I rows at a time; the last I may be taken twice.
template <class L, int I, int J>
MORAINE_FLATTEN void weight_tiles(const float* x, Index step, const Index* at, Index kh, Index kw,
                                  const float* dy, Index rows, Index cols, float* sums) {
  for (Index i = 0; i < kh; i += I) {
    const Index from = (i + I <= kh ? i : kh - I) * kw;
    weight_tile<L, I, J>(x, step, at + from, kw, dy, rows, cols, sums + from);
  }
}

#if defined(MORAINE_BODIES)
#define MORAINE_TAP_KERNELS(NAME, ATTRIBUTE, LANES)                                                \
  ATTRIBUTE MORAINE_INLINE void NAME##_any1(const float* x, Index step, const Index* at,           \
                                            const float* w, Index taps, const float* init,         \
                                            float* y, Index ldy) {                                 \
    tap_tile<LANES, 4, 1>(x, step, at, w, taps, init, y, ldy);                                     \
  }                                                                                                \
  ATTRIBUTE MORAINE_INLINE void NAME##_any2(const float* x, Index step, const Index* at,           \
                                            const float* w, Index taps, const float* init,         \
                                            float* y, Index ldy) {                                 \
    tap_tile<LANES, 4, 2>(x, step, at, w, taps, init, y, ldy);                                     \
  }                                                                                                \
  ATTRIBUTE MORAINE_INLINE void NAME##_any3(const float* x, Index step, const Index* at,           \
                                            const float* w, Index taps, const float* init,         \
                                            float* y, Index ldy) {                                 \
    tap_tile<LANES, 4, 3>(x, step, at, w, taps, init, y, ldy);                                     \
  }                                                                                                \
  ATTRIBUTE MORAINE_INLINE void NAME##_grid1(const float* x, Index step, const Index* at,          \
                                             const float* w, Index kh, Index kw,                   \
                                             const float* init, float* y, Index ldy) {             \
    grid_tile<LANES, 1>(x, step, at, w, kh, kw, init, y, ldy);                                     \
  }                                                                                                \
  ATTRIBUTE MORAINE_INLINE void NAME##_grid2(const float* x, Index step, const Index* at,          \
                                             const float* w, Index kh, Index kw,                   \
                                             const float* init, float* y, Index ldy) {             \
    grid_tile<LANES, 2>(x, step, at, w, kh, kw, init, y, ldy);                                     \
  }                                                                                                \
  ATTRIBUTE MORAINE_INLINE void NAME##_grid3(const float* x, Index step, const Index* at,          \
                                             const float* w, Index kh, Index kw,                   \
                                             const float* init, float* y, Index ldy) {             \
    grid_tile<LANES, 3>(x, step, at, w, kh, kw, init, y, ldy);                                     \
  }                                                                                                \
  ATTRIBUTE MORAINE_INLINE void NAME##_three(const float* x, Index step, const float* w,           \
                                             const float* init, Index cols, float* y, Index ldy) { \
    taps_three<LANES>(x, step, w, init, cols, y, ldy);                                             \
  }                                                                                                \
  ATTRIBUTE MORAINE_INLINE void NAME##_weight(const float* x, Index step, const Index* at,         \
                                              Index kh, Index kw, const float* dy, Index rows,     \
                                              Index cols, float* sums) {                           \
    if (kw == 3 && kh >= 3)                                                                        \
      return weight_tiles<LANES, 3, 3>(x, step, at, kh, kw, dy, rows, cols, sums);                 \
    if (kw == 5 && kh >= 2)                                                                        \
      return weight_tiles<LANES, 2, 5>(x, step, at, kh, kw, dy, rows, cols, sums);                 \
    if (kw == 7 && kh >= 2)                                                                        \
      return weight_tiles<LANES, 2, 7>(x, step, at, kh, kw, dy, rows, cols, sums);                 \
    const Index taps = kh * kw;                                                                    \
    if (taps >= 8) return weight_tiles<LANES, 8, 1>(x, step, at, taps, 1, dy, rows, cols, sums);   \
    weight_tiles<LANES, 1, 1>(x, step, at, taps, 1, dy, rows, cols, sums);                         \
  }
MORAINE_TAP_KERNELS(portable_taps, __attribute__((noinline)), Lanes4)
#if defined(MORAINE_X86)
MORAINE_TAP_KERNELS(avx2_taps, MORAINE_AVX2, Lanes8)
MORAINE_TAP_KERNELS(avx512_taps, MORAINE_AVX512, Lanes16)
#endif
#undef MORAINE_TAP_KERNELS
#endif

}  // namespace simd

#if defined(MORAINE_BODIES)
#if defined(MORAINE_X86)
#define MORAINE_TAP_CALL(NAME, ...)                           \
  (isa == Isa::avx512 ? simd::avx512_taps_##NAME(__VA_ARGS__) \
   : isa == Isa::avx2 ? simd::avx2_taps_##NAME(__VA_ARGS__)   \
                      : simd::portable_taps_##NAME(__VA_ARGS__))
#else
#define MORAINE_TAP_CALL(NAME, ...) simd::portable_taps_##NAME(__VA_ARGS__)
#endif
// Tiles of 3, 2 or 1 vectors from left to right; the last begins early enough to be whole: what two
// tiles compute is the same.
#define MORAINE_TAP_TILES(NAME, ...)                                                \
  const Index l = lanes(), most = cols / l;                                         \
  for (Index c = 0; c < cols;) {                                                    \
    const Index left = (cols - c + l - 1) / l, v = left < most ? left : most;       \
    const Index width = v > 3 ? 3 * l : v * l;                                      \
    if (c + width > cols) c = cols - width;                                         \
    if (v >= 3)                                                                     \
      MORAINE_TAP_CALL(NAME##3, x + c, step, at, w, __VA_ARGS__, init, y + c, ldy); \
    else if (v == 2)                                                                \
      MORAINE_TAP_CALL(NAME##2, x + c, step, at, w, __VA_ARGS__, init, y + c, ldy); \
    else                                                                            \
      MORAINE_TAP_CALL(NAME##1, x + c, step, at, w, __VA_ARGS__, init, y + c, ldy); \
    c += width;                                                                     \
  }
MORAINE_INLINE void TapKernels::any(const float* x, Index step, const Index* at, const float* w,
                                    Index taps, const float* init, Index cols, float* y,
                                    Index ldy) const {MORAINE_TAP_TILES(any, taps)} MORAINE_INLINE
    void TapKernels::grid(const float* x, Index step, const Index* at, const float* w, Index kh,
                          Index kw, const float* init, Index cols, float* y,
                          Index ldy) const {MORAINE_TAP_TILES(grid, kh, kw)}
#undef MORAINE_TAP_TILES
MORAINE_INLINE void TapKernels::three(const float* x, Index step, const float* w, const float* init,
                                      Index cols, float* y, Index ldy) const {
  MORAINE_TAP_CALL(three, x, step, w, init, cols, y, ldy);
}
MORAINE_INLINE void TapKernels::weight(const float* x, Index step, const Index* at, Index kh,
                                       Index kw, const float* dy, Index rows, Index cols,
                                       float* sums) const {
  MORAINE_TAP_CALL(weight, x, step, at, kh, kw, dy, rows, cols, sums);
}
#undef MORAINE_TAP_CALL
#endif

/// Runs correlations of one geometry, with scratch of its own: one for each piece of work.
class Correlator {
 public:
  /// beside: what stands beside the plane.
  MORAINE_INLINE explicit Correlator(const Correlation& c, float beside = 0);
  /// y, with rows `ldy` apart, from `sources` contiguous planes of x.
  MORAINE_INLINE void run(const float* x, const float* w, float init, float* y, Index ldy);
  /// dw[i * columns.at.size() + j] += sum over u of dy(u) x(step u + at); dy contiguous, one
  /// source.
  MORAINE_INLINE void weight(const float* x, const float* dy, float* dw);

  /// For other loops over the same scratch: outputs [first, first + band()) read from row(i) on,
  /// tap t at offsets()[t], at least width() columns.
  MORAINE_INLINE void fill(const float* x, Index first);
  Index band() const { return band_; }
  Index width() const { return cols_; }
  const float* row(Index i) const { return scratch_.data() + i * c_.rows.step * pitch_; }
  const std::vector<Index>& offsets() const { return at_; }

 private:
  Correlation c_;
  TapKernels k_;
  float beside_;
  Index low_row_ = 0, low_col_ = 0;  ///< the least tap offsets
  Index phase_ = 0, pitch_ = 0;      ///< floats of one remainder in a row, and of a row
  Index used_ = 0;                   ///< those of a remainder that are read
  Index band_ = 0, rows_ = 0;        ///< output rows of a band, and scratch rows for them
  Index cols_ = 0;                   ///< at least a vector
  static constexpr Index high_ = 4;  ///< output rows of a tile
  bool grid_ = false, three_ = false, together_ = false;
  std::vector<Index> at_;  ///< of every tap, in scratch
  std::vector<float> line_, weights_;
  Scratch scratch_;
};

#if defined(MORAINE_BODIES)
MORAINE_INLINE Correlator::Correlator(const Correlation& c, float beside)
    : c_(c), k_{best_isa()}, beside_(beside) {
  const auto range = [](const std::vector<Index>& at, Index& low, Index& high) {
    low = high = at.empty() ? 0 : at[0];
    for (Index a : at) low = a < low ? a : low, high = a > high ? a : high;
  };
  const auto run_of = [](const std::vector<Index>& at) {
    for (std::size_t i = 1; i < at.size(); ++i)
      if (at[i] != at[i - 1] + 1) return false;
    return true;
  };
  Index high_row, high_col;
  range(c_.rows.at, low_row_, high_row);
  range(c_.columns.at, low_col_, high_col);
  const Index s = c_.columns.step, outs = c_.rows.outs;
  const Index kh = static_cast<Index>(c_.rows.at.size());
  const bool rows_run = c_.sources == 1 && c_.rows.step == 1 && run_of(c_.rows.at);
  together_ = s == 1 && run_of(c_.columns.at);
  three_ = rows_run && together_ && kh == 3 && c_.columns.at.size() == 3;
  grid_ = rows_run && kh >= 4;
  cols_ = c_.columns.outs < k_.lanes() ? k_.lanes() : c_.columns.outs;
  used_ = cols_ + (high_col - low_col_) / s;
  phase_ = (used_ + 7) / 8 * 8;
  pitch_ = phase_ * s;
  // About 128 KiB, in bands of one height: a band is read from the second cache.
  const Index most = (Index{1} << 15) / (pitch_ * c_.rows.step * c_.sources);
  const Index bands = most > high_ ? (outs + most - 1) / most : (outs + high_ - 1) / high_;
  band_ = bands > 0 ? ((outs + bands - 1) / bands + high_ - 1) / high_ * high_ : high_;
  rows_ = (band_ - 1) * c_.rows.step + high_row - low_row_ + 1;
  for (Index source = 0; source < c_.sources; ++source)
    for (Index i : c_.rows.at)
      for (Index j : c_.columns.at) {
        const Index shift = j - low_col_;
        at_.push_back((source * rows_ + i - low_row_) * pitch_ + shift % s * phase_ + shift / s);
      }
  line_.resize(static_cast<std::size_t>(cols_ * high_));
  scratch_ = Scratch(c_.sources * rows_ * pitch_ + 16);  // a vector may reach beyond the last row
}

/// The rows that outputs from `first` on read.
MORAINE_INLINE void Correlator::fill(const float* x, Index first) {
  const Index from = first * c_.rows.step + low_row_, s = c_.columns.step;
  const Index left = c_.rows.outs - first,
              unused = left < band_ ? (band_ - left) * c_.rows.step : 0;
  // Planes smaller than a tile have it whole: what lies beneath them must be numbers.
  const Index used = left < high_ ? rows_ : rows_ - unused;
  for (Index source = 0; source < c_.sources; ++source)
    for (Index r = 0; r < used; ++r) {
      float* to = scratch_.data() + (source * rows_ + r) * pitch_;
      const Index row = from + r;
      if (row < 0 || row >= c_.rows.size) {
        for (Index k = 0; k < pitch_; ++k) to[k] = beside_;
        continue;
      }
      const float* line = x + (source * c_.rows.size + row) * c_.columns.size;
      for (Index f = 0; f < s; ++f, to += phase_) {
        // Column k of this remainder is column low_col + f + k s of x.
        const Index start = low_col_ + f, end = c_.columns.size;
        Index k0 = start >= 0 ? 0 : (s - 1 - start) / s;
        Index k1 = start >= end ? 0 : (end - 1 - start) / s + 1;
        k0 = k0 > used_ ? used_ : k0;
        k1 = k1 > used_ ? used_ : k1 < k0 ? k0 : k1;
        for (Index k = 0; k < k0; ++k) to[k] = beside_;
        if (k1 > k0) every(line + start + k0 * s, s, k1 - k0, to + k0);
        for (Index k = k1; k < used_; ++k) to[k] = beside_;
      }
    }
}

MORAINE_INLINE void Correlator::run(const float* x, const float* w, float init, float* y,
                                    Index ldy) {
  const TapAxis &rows = c_.rows, &columns = c_.columns;
  const Index kh = static_cast<Index>(rows.at.size()), kw = static_cast<Index>(columns.at.size());
  const Index taps = static_cast<Index>(at_.size());
  alignas(64) float start[16];
  for (float& v : start) v = init;
  if (grid_) {
    weights_.resize(4 * at_.size());
    for (Index i = 0; i < kh; ++i)
      for (Index j = 0; j < kw; ++j)
        for (Index r = 0; r < 4; ++r)
          weights_[static_cast<std::size_t>((i * kw + j) * 4 + r)] = w[(i + kh - r) % kh * kw + j];
    w = weights_.data();
  }
  for (Index first = 0; first < rows.outs; first += band_) {
    fill(x, first);
    const Index here = rows.outs - first < band_ ? rows.outs - first : band_;
    const Index tall = here < high_ ? here : high_;
    // Outputs apart from each other, and planes smaller than a tile, go through `line`.
    const bool direct = tall == high_ && cols_ == columns.outs && columns.out_step == 1;
    for (Index r = 0; r < here; r += high_) {
      const Index at = r + tall <= here ? r : here - tall;
      float* const out = y + (rows.out0 + (first + at) * rows.out_step) * ldy + columns.out0;
      float* const to = direct ? out : line_.data();
      const Index ld = direct ? rows.out_step * ldy : cols_;
      const float* const from = scratch_.data() + at * rows.step * pitch_;
      // The rows of the next band, or of the next plane, arrive while this one is computed.
      const float* const ahead = x + (first + here + at) * rows.step * columns.size;
      for (Index i = 0; i < tall * rows.step * columns.size; i += 16) __builtin_prefetch(ahead + i);
      if (direct)
        for (Index i = 0; i < high_; ++i)
          for (Index j = 0; j < cols_; j += 16) __builtin_prefetch(out + (i + high_) * ld + j, 1);
      if (three_)
        k_.three(from, pitch_, w, start, cols_, to, ld);
      else if (grid_)
        k_.grid(from, pitch_, at_.data(), w, kh, kw, start, cols_, to, ld);
      else
        k_.any(from, rows.step * pitch_, at_.data(), w, taps, start, cols_, to, ld);
      for (Index i = 0; i < tall && !direct; ++i)
        for (Index j = 0; j < columns.outs; ++j)
          out[i * rows.out_step * ldy + j * columns.out_step] = to[i * ld + j];
    }
  }
}

MORAINE_INLINE void Correlator::weight(const float* x, const float* dy, float* dw) {
  const TapAxis &rows = c_.rows, &columns = c_.columns;
  const Index kh = static_cast<Index>(rows.at.size()), kw = static_cast<Index>(columns.at.size());
  if (line_.size() < at_.size()) line_.resize(at_.size());
  for (Index first = 0; first < rows.outs; first += band_) {
    fill(x, first);
    const Index here = rows.outs - first < band_ ? rows.outs - first : band_;
    // Columns that are no neighbours in scratch are taps of their own.
    k_.weight(scratch_.data(), rows.step * pitch_, at_.data(), together_ ? kh : kh * kw,
              together_ ? kw : 1, dy + first * columns.outs, here, columns.outs, line_.data());
    for (std::size_t t = 0; t < at_.size(); ++t) dw[t] += line_[t];
  }
}
#endif

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
