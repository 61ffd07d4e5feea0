#pragma once
// The inner loops of cpu/rows.hpp on vectors, written once and compiled for AVX2 and for the
// baseline. Nearly all wait for memory more than for arithmetic, so AVX-512 machines use the AVX2
// form (and give the same bits).
#include <cmath>
#include <moraine/core/activation.hpp>
#include <moraine/core/shape.hpp>
#include <moraine/cpu/simd.hpp>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

/// The kernels of one instruction set; each works on one row (or one piece of a flat array) of n
/// elements. They are functions, not a table of pointers: what a program does not call is not
/// compiled.
struct RowKernels {
  Isa isa;
  /// stats: mean, rstd
  void layer_norm(const float* x, const float* w, const float* b, float eps, Index n, float* y,
                  float* stats) const;
  void layer_norm_dx(const float* x, const float* w, const float* dy, float mean, float rstd,
                     Index n, float* dx) const;
  /// adds to dw and db
  void layer_norm_dw(const float* x, const float* dy, float mean, float rstd, Index n, float* dw,
                     float* db) const;
  /// log: log_softmax instead
  void softmax(bool log, const float* x, Index n, float* y) const;
  void softmax_dx(bool log, const float* y, const float* dy, Index n, float* dx) const;
  /// y may be x
  void activation(Activation act, const float* x, Index n, float* y) const;
  void activation_dx(Activation act, const float* x, const float* dy, Index n, float* dx) const;
  void add(const float* x, Index n, float* sum) const;
  float squares(const float* x, Index n) const;
  /// f: 1 - lr decay, b1, 1-b1, b2, 1-b2, lr / (1-b1^t), 1/sqrt(1-b2^t), eps, a factor on g
  void adamw(const float* f, Index n, float* p, const float* g, float* m, float* v) const;
};

/// The kernels of one instruction set; null if this machine lacks it.
const RowKernels* row_kernels(Isa isa);
/// The best kernels for this machine.
const RowKernels& row_kernels();

namespace simd {

/// Calls f(j, left) for every vector of a row: whole ones first, with `left` a constant, so that no
/// loop holds the call of a tail.
template <class L, class F>
MORAINE_FLATTEN void each_vector(Index n, F f) {
  Index j = 0;
  for (; j + L::width <= n; j += L::width) f(j, Index{L::width});
  if (j < n) f(j, n - j);
}

/// Sum over the row of what term(j, left, v) puts into v for the vector at j, in four chains.
template <class L, class Term>
MORAINE_FLATTEN float sum_row(Index n, Term term) {
  using F = typename L::F;
  constexpr Index W = L::width;
  F s[4], v;
  MORAINE_UNROLL for (int i = 0; i < 4; ++i) s[i] = F{};
  Index j = 0;
  for (; j + 4 * W <= n; j += 4 * W) {
    MORAINE_UNROLL for (int i = 0; i < 4; ++i) {
      term(j + i * W, W, v);
      s[i] += v;
    }
  }
  for (; j < n; j += W) {
    term(j, n - j, v);
    s[0] += v;
  }
  s[0] = (s[0] + s[1]) + (s[2] + s[3]);
  return sum<L>(s[0]);
}

template <class L>
MORAINE_FLATTEN void layer_norm(const float* x, const float* w, const float* b, float eps, Index n,
                                float* y, float* stats) {
  using F = typename L::F;
  const float share = 1.0f / static_cast<float>(n);
  const float mean =
      share * sum_row<L>(n, [&](Index j, Index left, F& v) { load<L>(v, x + j, left); });
  const float var = share * sum_row<L>(n, [&](Index j, Index left, F& v) {
                      load<L>(v, x + j, left, mean);
                      v -= mean;
                      v *= v;
                    });
  const float rstd = 1.0f / std::sqrt(var + eps);
  each_vector<L>(n, [&](Index j, Index left) {
    F v, g;
    load<L>(v, x + j, left);
    v = (v - mean) * rstd;
    if (w) load<L>(g, w + j, left), v *= g;
    if (b) load<L>(g, b + j, left), v += g;
    store<L>(y + j, v, left);
  });
  stats[0] = mean;
  stats[1] = rstd;
}

template <class L>
MORAINE_FLATTEN void layer_norm_dx(const float* x, const float* w, const float* dy, float mean,
                                   float rstd, Index n, float* dx) {
  using F = typename L::F;
  const float share = 1.0f / static_cast<float>(n);
  const auto gradient = [&](Index j, Index left, F& g) {
    load<L>(g, dy + j, left);
    F v;
    if (w) load<L>(v, w + j, left), g *= v;
  };
  const float c0 = share * sum_row<L>(n, gradient);
  const float c1 = share * sum_row<L>(n, [&](Index j, Index left, F& g) {
                     F v;
                     gradient(j, left, g);
                     load<L>(v, x + j, left, mean);
                     g *= (v - mean) * rstd;
                   });
  each_vector<L>(n, [&](Index j, Index left) {
    F g, v;
    gradient(j, left, g);
    load<L>(v, x + j, left);
    g = rstd * (g - c0 - (v - mean) * rstd * c1);
    store<L>(dx + j, g, left);
  });
}

template <class L>
MORAINE_FLATTEN void layer_norm_dw(const float* x, const float* dy, float mean, float rstd, Index n,
                                   float* dw, float* db) {
  using F = typename L::F;
  each_vector<L>(n, [&](Index j, Index left) {
    F g, v, s;
    load<L>(g, dy + j, left);
    load<L>(v, x + j, left);
    load<L>(s, dw + j, left);
    s += g * ((v - mean) * rstd);
    store<L>(dw + j, s, left);
    load<L>(s, db + j, left);
    s += g;
    store<L>(db + j, s, left);
  });
}

/// y = softmax(x), or its logarithm.
template <class L>
MORAINE_FLATTEN void softmax(bool log, const float* x, Index n, float* y) {
  using F = typename L::F;
  constexpr float none = -__builtin_inff();
  F a = none - F{}, b = a, v;
  each_vector<L>(n, [&](Index j, Index left) {
    load<L>(v, x + j, left, none);
    v = v > a ? v : a;
    a = b;
    b = v;
  });
  a = b > a ? b : a;
  const float top = max<L>(a);
  const float total = sum_row<L>(n, [&](Index j, Index left, F& e) {
    load<L>(e, x + j, left, none);
    e -= top;
    exp<L, false>(e);
    if (!log) store<L>(y + j, e, left);
  });
  const float shift = log ? std::log(total) : 0.0f, scale = 1.0f / total;
  each_vector<L>(n, [&](Index j, Index left) {
    load<L>(v, (log ? x : y) + j, left);
    v = log ? v - top - shift : v * scale;
    store<L>(y + j, v, left);
  });
}

/// The gradient of either from its output y.
template <class L>
MORAINE_FLATTEN void softmax_dx(bool log, const float* y, const float* dy, Index n, float* dx) {
  using F = typename L::F;
  const float c = sum_row<L>(n, [&](Index j, Index left, F& v) {
    load<L>(v, dy + j, left);
    F u;
    if (!log) load<L>(u, y + j, left), v *= u;
  });
  each_vector<L>(n, [&](Index j, Index left) {
    F u, v;
    load<L>(u, y + j, left);
    load<L>(v, dy + j, left);
    if (log) {
      exp<L>(u);
      v -= u * c;
    } else {
      v = u * (v - c);
    }
    store<L>(dx + j, v, left);
  });
}

/// y = f(x), in place on a vector; one loop for each f, so that its constants stay in registers.
template <class L, class F>
MORAINE_FLATTEN void map(const float* x, Index n, float* y, F f) {
  each_vector<L>(n, [&](Index j, Index left) {
    typename L::F v;
    load<L>(v, x + j, left);
    f(v);
    store<L>(y + j, v, left);
  });
}

template <class L>
MORAINE_FLATTEN void activation(Activation act, const float* x, Index n, float* y) {
  using F = typename L::F;
  switch (act) {
    case Activation::gelu:
      return map<L>(x, n, y, [](F& v) { gelu<L>(v); });
    case Activation::gelu_tanh:
      return map<L>(x, n, y, [](F& v) { gelu_tanh<L>(v); });
    case Activation::relu:
      return map<L>(x, n, y, [](F& v) { v = v < 0.0f ? F{} : v; });
    case Activation::silu:
    case Activation::quick_gelu: {
      const float c = act == Activation::silu ? 1.0f : 1.702f;
      return map<L>(x, n, y, [c](F& v) { swish<L>(v, c); });
    }
    case Activation::none:
      return map<L>(x, n, y, [](F&) {});
  }
}

/// dx = dy f(x).
template <class L, class F>
MORAINE_FLATTEN void map_dx(const float* x, const float* dy, Index n, float* dx, F f) {
  each_vector<L>(n, [&](Index j, Index left) {
    typename L::F v, g;
    load<L>(v, x + j, left);
    f(v);
    load<L>(g, dy + j, left);
    v *= g;
    store<L>(dx + j, v, left);
  });
}

template <class L>
MORAINE_FLATTEN void activation_dx(Activation act, const float* x, const float* dy, Index n,
                                   float* dx) {
  using F = typename L::F;
  switch (act) {
    case Activation::gelu:
      return map_dx<L>(x, dy, n, dx, [](F& v) { gelu_grad<L>(v); });
    case Activation::gelu_tanh:
      return map_dx<L>(x, dy, n, dx, [](F& v) { gelu_tanh_grad<L>(v); });
    case Activation::relu:
      return map_dx<L>(x, dy, n, dx, [](F& v) { v = v > 0.0f ? F{} + 1.0f : F{}; });
    case Activation::silu:
    case Activation::quick_gelu: {
      const float c = act == Activation::silu ? 1.0f : 1.702f;
      return map_dx<L>(x, dy, n, dx, [c](F& v) { swish_grad<L>(v, c); });
    }
    case Activation::none:
      return map_dx<L>(x, dy, n, dx, [](F& v) { v = F{} + 1.0f; });
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
  return sum_row<L>(n, [&](Index j, Index left, typename L::F& v) {
    load<L>(v, x + j, left);
    v *= v;
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
    b *= f[8];
    c = c * f[1] + b * f[2];
    d = d * f[3] + b * b * f[4];
    F root = d;
    sqrt<L>(root);
    a = a * f[0] - c * f[5] / (root * f[6] + f[7]);
    store<L>(p + j, a, left);
    store<L>(m + j, c, left);
    store<L>(v + j, d, left);
  }
}

}  // namespace simd

#if defined(MORAINE_BODIES)
#if defined(MORAINE_X86)
#define MORAINE_AVX2_ROW_KERNEL(RESULT, NAME, PARAMETERS, ARGUMENTS)                             \
  namespace simd {                                                                               \
  MORAINE_AVX2 MORAINE_INLINE RESULT avx2_##NAME PARAMETERS { return NAME<Lanes8> ARGUMENTS; }   \
  }                                                                                              \
  MORAINE_INLINE RESULT RowKernels::NAME PARAMETERS const {                                      \
    return isa == Isa::portable ? simd::portable_##NAME ARGUMENTS : simd::avx2_##NAME ARGUMENTS; \
  }
#else
#define MORAINE_AVX2_ROW_KERNEL(RESULT, NAME, PARAMETERS, ARGUMENTS) \
  MORAINE_INLINE RESULT RowKernels::NAME PARAMETERS const {          \
    return simd::portable_##NAME ARGUMENTS;                          \
  }
#endif
#define MORAINE_PORTABLE_ROW_KERNEL(RESULT, NAME, PARAMETERS, ARGUMENTS)       \
  namespace simd {                                                             \
  __attribute__((noinline)) MORAINE_INLINE RESULT portable_##NAME PARAMETERS { \
    return NAME<Lanes4> ARGUMENTS;                                             \
  }                                                                            \
  }
#define MORAINE_ROW_KERNEL(RESULT, NAME, PARAMETERS, ARGUMENTS)    \
  MORAINE_PORTABLE_ROW_KERNEL(RESULT, NAME, PARAMETERS, ARGUMENTS) \
  MORAINE_AVX2_ROW_KERNEL(RESULT, NAME, PARAMETERS, ARGUMENTS)

MORAINE_ROW_KERNEL(void, layer_norm,
                   (const float* x, const float* w, const float* b, float eps, Index n, float* y,
                    float* stats),
                   (x, w, b, eps, n, y, stats))
MORAINE_ROW_KERNEL(void, layer_norm_dx,
                   (const float* x, const float* w, const float* dy, float mean, float rstd,
                    Index n, float* dx),
                   (x, w, dy, mean, rstd, n, dx))
MORAINE_ROW_KERNEL(void, layer_norm_dw,
                   (const float* x, const float* dy, float mean, float rstd, Index n, float* dw,
                    float* db),
                   (x, dy, mean, rstd, n, dw, db))
MORAINE_ROW_KERNEL(void, softmax, (bool log, const float* x, Index n, float* y), (log, x, n, y))
MORAINE_ROW_KERNEL(void, softmax_dx,
                   (bool log, const float* y, const float* dy, Index n, float* dx),
                   (log, y, dy, n, dx))
MORAINE_ROW_KERNEL(void, activation_dx,
                   (Activation act, const float* x, const float* dy, Index n, float* dx),
                   (act, x, dy, n, dx))
MORAINE_ROW_KERNEL(void, add, (const float* x, Index n, float* sum), (x, n, sum))
MORAINE_ROW_KERNEL(float, squares, (const float* x, Index n), (x, n))
MORAINE_ROW_KERNEL(void, adamw,
                   (const float* f, Index n, float* p, const float* g, float* m, float* v),
                   (f, n, p, g, m, v))

// Activations are arithmetic, not memory: they have an AVX-512 form as well.
MORAINE_PORTABLE_ROW_KERNEL(void, activation, (Activation act, const float* x, Index n, float* y),
                            (act, x, n, y))
#if defined(MORAINE_X86)
namespace simd {
MORAINE_AVX2 MORAINE_INLINE void avx2_activation(Activation act, const float* x, Index n,
                                                 float* y) {
  activation<Lanes8>(act, x, n, y);
}
MORAINE_AVX512 MORAINE_INLINE void avx512_activation(Activation act, const float* x, Index n,
                                                     float* y) {
  activation<Lanes16>(act, x, n, y);
}
}  // namespace simd
#endif
MORAINE_INLINE void RowKernels::activation(Activation act, const float* x, Index n,
                                           float* y) const {
#if defined(MORAINE_X86)
  if (isa == Isa::avx512) return simd::avx512_activation(act, x, n, y);
  if (isa == Isa::avx2) return simd::avx2_activation(act, x, n, y);
#endif
  simd::portable_activation(act, x, n, y);
}
#undef MORAINE_ROW_KERNEL
#undef MORAINE_AVX2_ROW_KERNEL
#undef MORAINE_PORTABLE_ROW_KERNEL

MORAINE_INLINE const RowKernels* row_kernels(Isa isa) {
  static constexpr RowKernels all[] = {{Isa::portable}, {Isa::avx2}, {Isa::avx512}};
  return supports(isa) ? &all[static_cast<int>(isa)] : nullptr;
}
MORAINE_INLINE const RowKernels& row_kernels() { return *row_kernels(best_isa()); }
#endif

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
