#pragma once
// The inner loops of cpu/rows.hpp on vectors, written once and compiled for AVX2 and for the
// baseline. They wait for memory more than for arithmetic, so AVX-512 machines use the AVX2 form
// (and give the same bits).
#include <cmath>
#include <moraine/core/activation.hpp>
#include <moraine/core/shape.hpp>
#include <moraine/cpu/simd.hpp>

namespace moraine MORAINE_API {
namespace cpu {

/// One row (or one piece of a flat array) each; n elements.
struct RowKernels {
  /// stats: mean, rstd
  void (*layer_norm)(const float* x, const float* w, const float* b, float eps, Index n, float* y,
                     float* stats);
  void (*layer_norm_dx)(const float* x, const float* w, const float* dy, float mean, float rstd,
                        Index n, float* dx);
  /// adds to dw and db
  void (*layer_norm_dw)(const float* x, const float* dy, float mean, float rstd, Index n, float* dw,
                        float* db);
  void (*softmax)(const float* x, Index n, float* y);
  void (*log_softmax)(const float* x, Index n, float* y);
  void (*softmax_dx)(const float* y, const float* dy, Index n, float* dx);
  void (*log_softmax_dx)(const float* y, const float* dy, Index n, float* dx);
  void (*activation)(Activation act, const float* x, Index n, float* y);
  void (*activation_dx)(Activation act, const float* x, const float* dy, Index n, float* dx);
  void (*add)(const float* x, Index n, float* sum);
  float (*squares)(const float* x, Index n);
  /// f: 1 - lr decay, b1, 1-b1, b2, 1-b2, lr / (1-b1^t), 1/sqrt(1-b2^t), eps
  void (*adamw)(const float* f, Index n, float* p, const float* g, float* m, float* v);
};

const RowKernels* row_kernels(Isa isa);
const RowKernels& row_kernels();

namespace simd {

/// total = sum of term(x(j)) over the row in four chains of vectors; term(j, left, s) adds to s.
template <class L, class Term>
MORAINE_FLATTEN float sum_row(Index n, Term term) {
  using F = typename L::F;
  constexpr int W = L::width;
  F s[4] = {};
  Index j = 0;
  for (; j + 4 * W <= n; j += 4 * W) {
    term(j, Index(W), s[0]);
    term(j + W, Index(W), s[1]);
    term(j + 2 * W, Index(W), s[2]);
    term(j + 3 * W, Index(W), s[3]);
  }
  for (; j < n; j += W) term(j, n - j, s[0]);
  const F t = (s[0] + s[1]) + (s[2] + s[3]);
  return sum<L>(t);
}

template <class L>
MORAINE_FLATTEN void layer_norm(const float* x, const float* w, const float* b, float eps, Index n,
                                float* y, float* stats) {
  using F = typename L::F;
  const float of = static_cast<float>(n);
  const float mean = sum_row<L>(n,
                                [&](Index j, Index left, F& s) {
                                  F v;
                                  load<L>(v, x + j, left);
                                  s += v;
                                }) /
                     of;
  const float var = sum_row<L>(n,
                               [&](Index j, Index left, F& s) {
                                 F v;
                                 load<L>(v, x + j, left, mean);
                                 v -= mean;
                                 s += v * v;
                               }) /
                    of;
  const float rstd = 1.0f / std::sqrt(var + eps);
  for (Index j = 0; j < n; j += L::width) {
    const Index left = n - j;
    F v, g;
    load<L>(v, x + j, left);
    v = (v - mean) * rstd;
    if (w) load<L>(g, w + j, left), v *= g;
    if (b) load<L>(g, b + j, left), v += g;
    store<L>(y + j, v, left);
  }
  stats[0] = mean;
  stats[1] = rstd;
}

template <class L>
MORAINE_FLATTEN void layer_norm_dx(const float* x, const float* w, const float* dy, float mean,
                                   float rstd, Index n, float* dx) {
  using F = typename L::F;
  const float of = static_cast<float>(n);
  const auto gradient = [&](Index j, Index left, F& g) {
    load<L>(g, dy + j, left);
    F v;
    if (w) load<L>(v, w + j, left), g *= v;
  };
  const float c0 = sum_row<L>(n,
                              [&](Index j, Index left, F& s) {
                                F g;
                                gradient(j, left, g);
                                s += g;
                              }) /
                   of;
  const float c1 = sum_row<L>(n,
                              [&](Index j, Index left, F& s) {
                                F g, v;
                                gradient(j, left, g);
                                load<L>(v, x + j, left, mean);
                                s += g * ((v - mean) * rstd);
                              }) /
                   of;
  for (Index j = 0; j < n; j += L::width) {
    const Index left = n - j;
    F g, v;
    gradient(j, left, g);
    load<L>(v, x + j, left);
    g = rstd * (g - c0 - (v - mean) * rstd * c1);
    store<L>(dx + j, g, left);
  }
}

template <class L>
MORAINE_FLATTEN void layer_norm_dw(const float* x, const float* dy, float mean, float rstd, Index n,
                                   float* dw, float* db) {
  using F = typename L::F;
  for (Index j = 0; j < n; j += L::width) {
    const Index left = n - j;
    F g, v, s;
    load<L>(g, dy + j, left);
    load<L>(v, x + j, left);
    load<L>(s, dw + j, left);
    s += g * ((v - mean) * rstd);
    store<L>(dw + j, s, left);
    load<L>(s, db + j, left);
    s += g;
    store<L>(db + j, s, left);
  }
}

template <class L>
MORAINE_FLATTEN float max_row(const float* x, Index n) {
  using F = typename L::F;
  constexpr float none = -__builtin_inff();
  F a = none - F{}, b = a;
  Index j = 0;
  for (; j + 2 * L::width <= n; j += 2 * L::width) {
    F u, v;
    L::load(u, x + j);
    L::load(v, x + j + L::width);
    a = u > a ? u : a;
    b = v > b ? v : b;
  }
  for (; j < n; j += L::width) {
    F u;
    load<L>(u, x + j, n - j, none);
    a = u > a ? u : a;
  }
  a = b > a ? b : a;
  return max<L>(a);
}

template <class L>
MORAINE_FLATTEN void softmax(const float* x, Index n, float* y) {
  using F = typename L::F;
  const float top = max_row<L>(x, n);
  const float total = sum_row<L>(n, [&](Index j, Index left, F& s) {
    F v;
    load<L>(v, x + j, left, -__builtin_inff());
    v -= top;
    exp<L>(v);
    store<L>(y + j, v, left);
    s += v;
  });
  const float scale = 1.0f / total;
  for (Index j = 0; j < n; j += L::width) {
    F v;
    load<L>(v, y + j, n - j);
    v *= scale;
    store<L>(y + j, v, n - j);
  }
}

template <class L>
MORAINE_FLATTEN void log_softmax(const float* x, Index n, float* y) {
  using F = typename L::F;
  const float top = max_row<L>(x, n);
  const float total = sum_row<L>(n, [&](Index j, Index left, F& s) {
    F v;
    load<L>(v, x + j, left, -__builtin_inff());
    v -= top;
    exp<L>(v);
    s += v;
  });
  const float lse = std::log(total);
  for (Index j = 0; j < n; j += L::width) {
    F v;
    load<L>(v, x + j, n - j);
    v = v - top - lse;
    store<L>(y + j, v, n - j);
  }
}

template <class L>
MORAINE_FLATTEN void softmax_dx(const float* y, const float* dy, Index n, float* dx) {
  using F = typename L::F;
  const float c = sum_row<L>(n, [&](Index j, Index left, F& s) {
    F u, v;
    load<L>(u, y + j, left);
    load<L>(v, dy + j, left);
    s += u * v;
  });
  for (Index j = 0; j < n; j += L::width) {
    F u, v;
    load<L>(u, y + j, n - j);
    load<L>(v, dy + j, n - j);
    v = u * (v - c);
    store<L>(dx + j, v, n - j);
  }
}

template <class L>
MORAINE_FLATTEN void log_softmax_dx(const float* y, const float* dy, Index n, float* dx) {
  using F = typename L::F;
  const float c = sum_row<L>(n, [&](Index j, Index left, F& s) {
    F v;
    load<L>(v, dy + j, left);
    s += v;
  });
  for (Index j = 0; j < n; j += L::width) {
    F u, v;
    load<L>(u, y + j, n - j);
    exp<L>(u);
    load<L>(v, dy + j, n - j);
    v = v - u * c;
    store<L>(dx + j, v, n - j);
  }
}

template <class L>
MORAINE_FLATTEN void activation(Activation act, const float* x, Index n, float* y) {
  for (Index j = 0; j < n; j += L::width) {
    typename L::F v;
    load<L>(v, x + j, n - j);
    activate<L>(act, v);
    store<L>(y + j, v, n - j);
  }
}

template <class L>
MORAINE_FLATTEN void activation_dx(Activation act, const float* x, const float* dy, Index n,
                                   float* dx) {
  for (Index j = 0; j < n; j += L::width) {
    typename L::F v, g;
    load<L>(v, x + j, n - j);
    activate_grad<L>(act, v);
    load<L>(g, dy + j, n - j);
    v *= g;
    store<L>(dx + j, v, n - j);
  }
}

template <class L>
MORAINE_FLATTEN void add(const float* x, Index n, float* sum) {
  for (Index j = 0; j < n; j += L::width) {
    typename L::F v, s;
    load<L>(v, x + j, n - j);
    load<L>(s, sum + j, n - j);
    s += v;
    store<L>(sum + j, s, n - j);
  }
}

template <class L>
MORAINE_FLATTEN float squares(const float* x, Index n) {
  return sum_row<L>(n, [&](Index j, Index left, typename L::F& s) {
    typename L::F v;
    load<L>(v, x + j, left);
    s += v * v;
  });
}

template <class L>
MORAINE_FLATTEN void adamw(const float* f, Index n, float* p, const float* g, float* m, float* v) {
  using F = typename L::F;
  for (Index j = 0; j < n; j += L::width) {
    const Index left = n - j;
    F a, b, c, d;
    load<L>(a, p + j, left);
    load<L>(b, g + j, left);
    load<L>(c, m + j, left);
    load<L>(d, v + j, left);
    c = c * f[1] + b * f[2];
    d = d * f[3] + b * b * f[4];
    F root;
    MORAINE_UNROLL for (int i = 0; i < L::width; ++i) root[i] = std::sqrt(d[i]);
    a = a * f[0] - c * f[5] / (root * f[6] + f[7]);
    store<L>(p + j, a, left);
    store<L>(m + j, c, left);
    store<L>(v + j, d, left);
  }
}

#if defined(MORAINE_BODIES)
#define MORAINE_ROW_KERNELS(NAME, ATTRIBUTE, L)                                                  \
  struct NAME##_rows {                                                                           \
    ATTRIBUTE static void f0(const float* x, const float* w, const float* b, float eps, Index n, \
                             float* y, float* stats) {                                           \
      layer_norm<L>(x, w, b, eps, n, y, stats);                                                  \
    }                                                                                            \
    ATTRIBUTE static void f1(const float* x, const float* w, const float* dy, float mean,        \
                             float rstd, Index n, float* dx) {                                   \
      layer_norm_dx<L>(x, w, dy, mean, rstd, n, dx);                                             \
    }                                                                                            \
    ATTRIBUTE static void f2(const float* x, const float* dy, float mean, float rstd, Index n,   \
                             float* dw, float* db) {                                             \
      layer_norm_dw<L>(x, dy, mean, rstd, n, dw, db);                                            \
    }                                                                                            \
    ATTRIBUTE static void f3(const float* x, Index n, float* y) { softmax<L>(x, n, y); }         \
    ATTRIBUTE static void f4(const float* x, Index n, float* y) { log_softmax<L>(x, n, y); }     \
    ATTRIBUTE static void f5(const float* y, const float* dy, Index n, float* dx) {              \
      softmax_dx<L>(y, dy, n, dx);                                                               \
    }                                                                                            \
    ATTRIBUTE static void f6(const float* y, const float* dy, Index n, float* dx) {              \
      log_softmax_dx<L>(y, dy, n, dx);                                                           \
    }                                                                                            \
    ATTRIBUTE static void f7(Activation act, const float* x, Index n, float* y) {                \
      activation<L>(act, x, n, y);                                                               \
    }                                                                                            \
    ATTRIBUTE static void f8(Activation act, const float* x, const float* dy, Index n,           \
                             float* dx) {                                                        \
      activation_dx<L>(act, x, dy, n, dx);                                                       \
    }                                                                                            \
    ATTRIBUTE static void f9(const float* x, Index n, float* sum) { add<L>(x, n, sum); }         \
    ATTRIBUTE static float f10(const float* x, Index n) { return squares<L>(x, n); }             \
    ATTRIBUTE static void f11(const float* f, Index n, float* p, const float* g, float* m,       \
                              float* v) {                                                        \
      adamw<L>(f, n, p, g, m, v);                                                                \
    }                                                                                            \
    static constexpr RowKernels all{f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11};           \
  };
MORAINE_ROW_KERNELS(portable, __attribute__((noinline)), Lanes4)
#if defined(MORAINE_X86)
MORAINE_ROW_KERNELS(avx2, MORAINE_AVX2, Lanes8)
#endif
#undef MORAINE_ROW_KERNELS
#endif

}  // namespace simd

#if defined(MORAINE_BODIES)
MORAINE_INLINE const RowKernels* row_kernels(Isa isa) {
  if (!supports(isa)) return nullptr;
#if defined(MORAINE_X86)
  if (isa != Isa::portable) return &simd::avx2_rows::all;
#endif
  return &simd::portable_rows::all;
}
MORAINE_INLINE const RowKernels& row_kernels() {
  static const RowKernels& best = *row_kernels(best_isa());
  return best;
}
#endif

}  // namespace cpu
}  // namespace MORAINE_API
