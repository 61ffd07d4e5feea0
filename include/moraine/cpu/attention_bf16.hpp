#pragma once
// cpu/attention.hpp with products of bfloat16 operands: q, k, v and the weights P of a row are each
// rounded once, P by at most 2^-8 of it; scores, softmax, sums and the output are float. For a
// processor with vdpbf16ps, at twice the rate of float; elsewhere no faster, with half the
// workspace.
//
// Panels and rows hold pairs (cpu/bf16_kernels.hpp): along d for the scores, along the keys for the
// output. A row of P is written over its scores and is a row of pairs as it stands. The backward is
// the float one, from the operands as given and this forward's lse and output.
#include <cmath>
#include <moraine/core/product.hpp>
#include <moraine/cpu/attention.hpp>
#include <moraine/cpu/bf16_kernels.hpp>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

namespace detail {
AttendFunction attend_pairs;  ///< what attention_with takes together with kernels of pairs
}  // namespace detail

#if defined(MORAINE_BODIES)

namespace simd {

/// x = factor s + add, top = max(before, max x); the n values 2^(x - top) replace s, as bfloat16.
/// Returns their sum before rounding. n is a multiple of two vectors; add may be null.
using SoftmaxPairsFunction = float(float* s, const float* add, Index n, float factor, float before,
                                   float* top);

template <class L>
MORAINE_FLATTEN float softmax_to_pairs(float* s, const float* add, Index n, float factor,
                                       float before, float* top) {
  using F = typename L::F;
  constexpr int W = L::width;
  F a = before - F{}, b = a, u, v, t;
  const auto scores = [&](Index j) __attribute__((always_inline)) {
    L::load(u, s + j);
    L::load(v, s + j + W);
    u *= factor;
    v *= factor;
    if (add) {
      L::load(t, add + j), u += t;
      L::load(t, add + j + W), v += t;
    }
  };
  for (Index j = 0; j < n; j += 2 * W) {
    scores(j);
    a = u > a ? u : a;
    b = v > b ? v : b;
  }
  a = b > a ? b : a;
  *top = max<L>(a);
  // Nothing but -inf so far: weights 0, not NaN; a later block may still hold a number.
  const float m = *top == -__builtin_inff() ? 0.0f : *top;
  F x = F{}, y = F{};
  char* to = reinterpret_cast<char*>(s);
  for (Index j = 0; j < n; j += 2 * W, to += 4 * W) {
    scores(j);
    u -= m;
    v -= m;
    exp2<L>(u);
    exp2<L>(v);
    x += u;
    y += v;
    store_rounded<L>(to, u);
    store_rounded<L>(to + 2 * W, v);
  }
  x += y;
  return sum<L>(x);
}

#define MORAINE_SOFTMAX_PAIRS(NAME, ATTRIBUTE, LANES)                                           \
  ATTRIBUTE MORAINE_INLINE float NAME##_softmax_pairs(float* s, const float* add, Index n,      \
                                                      float factor, float before, float* top) { \
    return softmax_to_pairs<LANES>(s, add, n, factor, before, top);                             \
  }
MORAINE_SOFTMAX_PAIRS(portable, __attribute__((noinline)), Lanes4)
#if defined(MORAINE_X86)
MORAINE_SOFTMAX_PAIRS(avx2, MORAINE_AVX2, Lanes8)
MORAINE_SOFTMAX_PAIRS(avx512, MORAINE_AVX512, Lanes16)
#endif
#undef MORAINE_SOFTMAX_PAIRS

inline SoftmaxPairsFunction* softmax_pairs(Isa isa) {
#if defined(MORAINE_X86)
  if (isa == Isa::avx2) return avx2_softmax_pairs;
  if (isa == Isa::avx512) return avx512_softmax_pairs;
#endif
  (void)isa;
  return portable_softmax_pairs;
}

}  // namespace simd

namespace detail {

/// C (rows,cols) = or += A B on whole tiles, k pairs; C holds rows and cols rounded up to a tile.
/// Panel p of B starts at b + p * next.
__attribute__((noinline)) inline void tiles_of_pairs(const GemmKernels& ker, const float* a,
                                                     Index row, const float* b, Index next,
                                                     Index rows, Index cols, Index k, bool add,
                                                     float* c, Index ldc) {
  static constexpr float zeros[64] = {};
  const Index w = ker.wide_cols, r = ker.wide_rows;
  for (Index j = 0; j < cols; j += w, b += next)
    for (Index s = 0; s < rows; s += r) {
      const float* at[6];
      for (Index i = 0; i < r; ++i) at[i] = a + (s + i < rows ? s + i : rows - 1) * row;
      float* const out = c + s * ldc + j;
      ker.wide(at, 1, b, w, k, add ? out : zeros, add ? ldc : 0, out, ldc);
    }
}

/// As attend, with the panels of ker.pairs.
MORAINE_INLINE void attend_pairs(const GemmKernels& ker, const Attention<float>& a,
                                 const TermRows& terms, const AttentionCut& cut, Index b, Index h,
                                 Index q0, Index q1, const float* packed, float* scratch) {
  simd::SoftmaxPairsFunction* const softmax = simd::softmax_pairs(ker.isa);
  const Index w = ker.wide_cols, values = cut.values, ld = cut.ld, ldq = cut.ldq;
  const Index nk = a.terms.keys_of(b, a.nk);
  const bool add = a.terms.any();
  float* const s = scratch;             // [query of the turn][key], then P over it
  float* const q = s + cut.turn * ld;   // [query][pair of d]
  float* const o = q + cut.most * ldq;  // [query][dv]
  float* const top = o + cut.most * values;
  float* const total = top + cut.most;
  float* const extra = total + cut.most;  // what is added to the scores of a query
  float* const scaled = extra + ld;       // one query
  float* const row = scaled + a.d;        // of the terms
  const float* const from = a.q.at(b, h);
  float* const to = a.out.at(b, h);
  float* const lse = a.lse ? a.lse + (b * a.heads + h) * a.nq : nullptr;
  // Scores are scaled in float, after the product. Keys that are not there have -inf, which only a
  // positive factor keeps: a sign, or a scale of 0, goes to the queries, and costs them no digit.
  const bool as_is = a.scale > 0;
  const float sign = a.scale < 0 ? -1.0f : a.scale;
  const float factor = as_is ? a.scale * log2_e : a.scale < 0 ? -a.scale * log2_e : 1.0f;

  for (Index j = 0; j < q1 - q0; ++j) top[j] = -HUGE_VALF, total[j] = 0;
  for (Index k0 = 0; k0 == 0 || k0 < nk; k0 += cut.block) {
    const Index kn = nk - k0 < cut.block ? nk - k0 : cut.block, whole = round_up(kn, w);
    for (Index r = q0; r < q1; r += cut.turn) {
      const Index rows = q1 - r < cut.turn ? q1 - r : cut.turn, t0 = r - q0;
      float* const out = o + t0 * values;
      for (Index j = 0; j < rows && k0 == 0; ++j) {
        const float* x = from + (r + j) * a.q.token;
        if (!as_is) copy_rows(x, 0, 1, a.d, a.d, sign, scaled), x = scaled;
        ker.pairs->round(x, a.d, q + (t0 + j) * ldq);
      }
      if (k0 == 0) {
        const Index next = r + rows, more = a.nq - next < rows ? a.nq - next : rows;
        prefetch_rows<false>(from + next * a.q.token, a.q.token, more, a.d);
      }
      const bool last = k0 + kn == nk;
      if (last) prefetch_rows<true>(to + r * a.out.token, a.out.token, rows, a.dv);
      if (kn > 0)
        tiles_of_pairs(ker, q + t0 * ldq, ldq, packed + k0 * cut.d, w * cut.d, rows, kn, cut.d,
                       false, s, ld);
      for (Index j = 0; j < rows && kn > 0; ++j) {
        const Index t = t0 + j;
        for (Index z = kn; z < whole; ++z) s[j * ld + z] = -HUGE_VALF;
        if (add) {
          terms.fill(b, h, r + j, k0, kn, row, extra);
          for (Index z = kn; z < whole; ++z) extra[z] = 0;
        }
        float now;
        const float sum = softmax(s + j * ld, add ? extra : nullptr, whole, factor, top[t], &now);
        if (now != top[t] && k0 > 0) {
          const float fade = std::exp2(top[t] - now);
          total[t] *= fade;
          copy_rows(o + t * values, 0, 1, values, values, fade, o + t * values);
        }
        total[t] += sum;
        top[t] = now;
      }
      if (kn > 0)
        tiles_of_pairs(ker, s, ld, packed + cut.keys_size + k0 / 2 * w, w * cut.nk, rows, a.dv,
                       (kn + 1) / 2, k0 > 0, out, values);
      for (Index j = 0; j < rows && last; ++j) {
        // Nothing but -inf: 0 where the terms say so, as PyTorch; NaN where the scores do.
        const bool none = nk == 0 || (add && total[t0 + j] == 0);
        float* const y = to + (r + j) * a.out.token;
        copy_rows(out + j * values, 0, 1, none ? 0 : a.dv, a.dv, 1.0f / total[t0 + j], y);
        if (lse) lse[r + j] = top[t0 + j] * ln_2 + std::log(total[t0 + j]);
      }
    }
  }
}

}  // namespace detail

#endif  // MORAINE_BODIES

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
