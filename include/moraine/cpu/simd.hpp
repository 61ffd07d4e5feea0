#pragma once
// Vectors of 4, 8 and 16 floats by the compilers' vector extensions, and the functions that every
// fast CPU kernel needs on them: exp, and the activations with their derivatives.
//
// A kernel is written once as an always-inline template over Lanes and called from small functions
// that carry a target attribute (cpu/gemm_kernels.hpp, ...). So no -march is needed and no
// intrinsics header is included. Vectors travel by reference only: passed by value they would
// change the calling convention with the instruction set. Products and sums in one expression
// become fused multiply-adds where the target has them (-ffp-contract, on by default in both
// compilers; `off` halves the speed and is caught by tests/cpu/gemm_test.cpp).
#include <cstdlib>
#include <cstring>
#include <moraine/core/activation.hpp>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/core/shape.hpp>
#include <string>

/// A kernel template: no target of its own, takes that of the function it is inlined into.
#define MORAINE_FLATTEN inline __attribute__((always_inline))
/// Put before every loop over an array of vectors: g++ keeps the array in registers only if all
/// such loops vanish; one that stays halves the speed without a warning.
#define MORAINE_UNROLL _Pragma("GCC unroll 16")
#if defined(__x86_64__)
#define MORAINE_X86 1
#define MORAINE_AVX2 __attribute__((target("avx2,fma"), noinline))
#define MORAINE_AVX512 \
  __attribute__((target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl"), noinline))
#endif

/// Functions that moraine::compiled holds: `inline` when header-only, an ordinary declaration for
/// its users (MORAINE_COMPILED), an ordinary definition where it is built (MORAINE_COMPILING).
#if defined(MORAINE_COMPILED) || defined(MORAINE_COMPILING)
#define MORAINE_INLINE
#else
#define MORAINE_INLINE inline
#endif
#if !defined(MORAINE_COMPILED) || defined(MORAINE_COMPILING)
#define MORAINE_BODIES 1
#endif

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

/// Instruction sets with kernels of their own. `portable` is 4 lanes of whatever the compiler's
/// baseline has (SSE2, NEON).
enum class Isa : unsigned char { portable, avx2, avx512 };

inline const char* name_of(Isa isa) {
  return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "portable";
}

inline bool supports(Isa isa) {
#if defined(MORAINE_X86)
  if (isa == Isa::avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma");
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return isa == Isa::portable;
}

/// The best set of this machine, or what the environment variable MORAINE_ISA names (portable,
/// avx2, avx512); asked once. A name that this machine cannot run is an error: falling back would
/// measure, or test, something else than what was asked for.
inline Isa best_isa() {
  static const Isa best = [] {
    if (const char* name = std::getenv("MORAINE_ISA")) {
      for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512})
        if (std::strcmp(name, name_of(isa)) == 0 && supports(isa)) return isa;
      fail(ErrorKind::value, std::string("MORAINE_ISA: this machine cannot run '") + name +
                                 "' -> portable" + (supports(Isa::avx2) ? ", avx2" : "") +
                                 (supports(Isa::avx512) ? ", avx512" : ""));
    }
    return supports(Isa::avx512) ? Isa::avx512 : supports(Isa::avx2) ? Isa::avx2 : Isa::portable;
  }();
  return best;
}

namespace simd {

// load and store need a float's alignment, no more.
#define MORAINE_LANES(Name, N)                                                                  \
  struct Name {                                                                                 \
    static constexpr int width = N;                                                             \
    typedef float F __attribute__((vector_size(4 * N)));                                        \
    typedef int I __attribute__((vector_size(4 * N)));                                          \
    typedef unsigned B __attribute__((vector_size(4 * N)));                                     \
    struct U {                                                                                  \
      F v;                                                                                      \
    } __attribute__((packed, may_alias));                                                       \
    static MORAINE_FLATTEN void load(F& x, const float* p) {                                    \
      x = reinterpret_cast<const U*>(p)->v;                                                     \
    }                                                                                           \
    static MORAINE_FLATTEN void store(float* p, const F& x) { reinterpret_cast<U*>(p)->v = x; } \
  };
MORAINE_LANES(Lanes4, 4)
MORAINE_LANES(Lanes8, 8)
MORAINE_LANES(Lanes16, 16)
#undef MORAINE_LANES

/// What load and store do at the end of a row; out of line, so that loops stay short.
__attribute__((noinline)) inline void load_tail(float* x, int width, const float* p, Index left,
                                                float fill) {
  for (Index i = 0; i < width; ++i) x[i] = i < left ? p[i] : fill;
}
__attribute__((noinline)) inline void store_tail(float* p, const float* x, Index left) {
  for (Index i = 0; i < left; ++i) p[i] = x[i];
}

/// The `left` floats from p on if they are fewer than a vector, `fill` in the lanes beyond.
template <class L>
MORAINE_FLATTEN void load(typename L::F& x, const float* p, Index left, float fill = 0) {
  if (left >= L::width) {
    L::load(x, p);
  } else {
    float part[L::width];
    load_tail(part, L::width, p, left, fill);
    L::load(x, part);
  }
}
template <class L>
MORAINE_FLATTEN void store(float* p, const typename L::F& x, Index left) {
  if (left >= L::width) {
    L::store(p, x);
  } else {
    float part[L::width];
    L::store(part, x);
    store_tail(p, part, left);
  }
}

/// The lanes' sum and maximum, by halves. The maximum may lose a NaN; a sum keeps it.
template <class L>
MORAINE_FLATTEN float sum(const typename L::F& x) {
  float v[L::width];
  std::memcpy(v, &x, sizeof v);
  MORAINE_UNROLL for (int h = L::width / 2; h > 0; h /= 2) {
    MORAINE_UNROLL for (int i = 0; i < h; ++i) v[i] += v[i + h];
  }
  return v[0];
}
template <class L>
MORAINE_FLATTEN float max(const typename L::F& x) {
  float v[L::width];
  std::memcpy(v, &x, sizeof v);
  MORAINE_UNROLL for (int h = L::width / 2; h > 0; h /= 2) {
    MORAINE_UNROLL for (int i = 0; i < h; ++i) v[i] = v[i + h] > v[i] ? v[i + h] : v[i];
  }
  return v[0];
}

/// t <- 2^t for t <= 127, relative error 1.5e-7. Below 2^-126: 0. NaN stays NaN.
template <class L>
MORAINE_FLATTEN void exp2(typename L::F& t) {
  using F = typename L::F;
  using I = typename L::I;
  using B = typename L::B;
  // Comparisons are written so that a NaN takes the branch that keeps it.
  const I tiny = t < -126.0f;
  const F shifted = t + 12582912.0f;  // 1.5 2^23: the sum's low bits are round(t)
  const F f = t - (shifted - 12582912.0f);
  F p = f * 1.326472604e-3f + 9.671512722e-3f;  // minimax on [-.5,.5]
  p = p * f + 5.550733747e-2f;
  p = p * f + 0.2402224208f;
  p = p * f + 0.6931469776f;
  p = p * f + 1.0f;
  const B bits = (B)p + ((B)shifted << 23);
  t = (F)(bits & ~(B)tiny);
}

/// x <- e^x, relative error 2e-7. Overflow gives infinity, results below 2^-126 are 0. Without
/// `large`, for x <= 88 only, a quarter of the work less.
template <class L, bool large = true>
MORAINE_FLATTEN void exp(typename L::F& x) {
  using F = typename L::F;
  using I = typename L::I;
  using B = typename L::B;
  const I big = x > 88.7228394f, tiny = x < -87.3365448f;
  if constexpr (large) x = big ? F{} : x;
  const F shifted = x * 1.44269504f + 12582912.0f;
  const F n = shifted - 12582912.0f;
  // ln 2 in two parts, the first with 9 bits: n times it is exact with or without FMA.
  F f = x - n * 0.693359375f;
  f = (f + n * 2.12194440e-4f) * 1.44269504f;
  F p = f * 1.326472604e-3f + 9.671512722e-3f;
  p = p * f + 5.550733747e-2f;
  p = p * f + 0.2402224208f;
  p = p * f + 0.6931469776f;
  p = p * f + 1.0f;
  F r = (F)((B)p + ((B)shifted << 23));
  if constexpr (large) {
    // 2^128 does not exist as a float: scale in two steps near the upper end.
    const I top = n > 127.0f;
    const F half = (F)((B)r - ((B)top & 0x00800000u));
    r = top ? half + half : r;
    r = big ? __builtin_inff() - F{} : r;
  }
  x = (F)((B)r & ~(B)tiny);
}

/// x <- sqrt(x) for x >= 0, relative error 3e-7; 0 for 0. Three Newton steps for 1/sqrt from the
/// well-known guess on the bits: there is no vector square root without intrinsics.
template <class L>
MORAINE_FLATTEN void sqrt(typename L::F& x) {
  using F = typename L::F;
  F r = (F)(0x5f3759dfu - ((typename L::B)x >> 1));
  const F h = x * 0.5f;
  MORAINE_UNROLL for (int i = 0; i < 3; ++i) r = r * (1.5f - h * r * r);
  x = x * r;
}

/// x <- s = 1/(1+e^-x), d <- s (1-s), both without cancellation at either end.
template <class L>
MORAINE_FLATTEN void sigmoid(typename L::F& x, typename L::F& d) {
  using F = typename L::F;
  F e = (F)((typename L::B)x | 0x80000000u);  // -|x|
  exp<L, false>(e);
  const F s = 1.0f / (1.0f + e);
  d = e * s * s;
  x = x < 0.0f ? e * s : s;
}

/// q <- 1 - Phi(|x|) = erfc(|x|/sqrt 2)/2 and e <- exp(-x x/2), absolute error of q 1.5e-7
/// (Abramowitz and Stegun 7.1.26).
template <class L>
MORAINE_FLATTEN void normal_tail(const typename L::F& x, typename L::F& q, typename L::F& e) {
  using F = typename L::F;
  const F a = (F)((typename L::I)x & 0x7fffffff);
  const F t = 1.0f / (1.0f + a * (0.3275911f * 0.70710678f));
  e = a * a * -0.72134752f;  // -x^2/2 log2(e)
  exp2<L>(e);
  F p = t * (0.5f * 1.061405429f) + 0.5f * -1.453152027f;
  p = p * t + 0.5f * 1.421413741f;
  p = p * t + 0.5f * -0.284496736f;
  p = p * t + 0.5f * 0.254829592f;
  q = p * t * e;
}

/// x <- x Phi(x), the erf form, absolute error 3.3e-7. +inf gives +inf, -inf gives -0 (the limit).
template <class L>
MORAINE_FLATTEN void gelu(typename L::F& x) {
  using F = typename L::F;
  F q, e;
  normal_tail<L>(x, q, e);
  F a = (F)((typename L::I)x & 0x7fffffff);
  a = a > 16.0f ? 16.0f - F{} : a;   // inf times 0 would be NaN
  x = (x < 0.0f ? F{} : x) - a * q;  // a NaN is in the first term
}

/// x <- d gelu(x)/dx = Phi(x) + x phi(x).
template <class L>
MORAINE_FLATTEN void gelu_grad(typename L::F& x) {
  using F = typename L::F;
  F q, e;
  normal_tail<L>(x, q, e);
  F c = x > 16.0f ? 16.0f - F{} : x;
  c = c < -16.0f ? F{} - 16.0f : c;
  x = (x < 0.0f ? q : 1.0f - q) + c * e * 0.39894228f;
}

/// x <- x sigmoid(c x).
template <class L>
MORAINE_FLATTEN void swish(typename L::F& x, float c) {
  typename L::F s = x * c, d;
  sigmoid<L>(s, d);
  x = x * s;
}
/// x <- d x sigmoid(c x) / dx.
template <class L>
MORAINE_FLATTEN void swish_grad(typename L::F& x, float c) {
  typename L::F s = x * c, d;
  sigmoid<L>(s, d);
  x = s + x * d * c;
}

/// x <- the tanh form of gelu; (1 + tanh u)/2 is sigmoid(2u).
template <class L>
MORAINE_FLATTEN void gelu_tanh(typename L::F& x) {
  typename L::F s = x * 1.59576912f * (x * x * 0.044715f + 1.0f), d;
  sigmoid<L>(s, d);
  x = x * s;
}
template <class L>
MORAINE_FLATTEN void gelu_tanh_grad(typename L::F& x) {
  typename L::F s = x * 1.59576912f * (x * x * 0.044715f + 1.0f), d;
  sigmoid<L>(s, d);
  x = s + x * d * 1.59576912f * (x * x * 0.134145f + 1.0f);
}

}  // namespace simd
}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
