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

namespace moraine MORAINE_API {
namespace cpu {

/// Attention with a choice of its products. In double the choice is ignored.
void attention(const Attention<float>& a, Product p);
inline void attention(const Attention<double>& a, Product) { attention(a); }

namespace detail {
/// By given kernels of pairs.
void attention_bf16_with(const GemmKernels& kernels, const Attention<float>& a);
}  // namespace detail

#if defined(MORAINE_BODIES)

namespace simd {

/// x = factor s + add, top = max(before, max x); the n values 2^(x - top) replace s, as bfloat16.
/// Returns their sum before rounding. n is a multiple of two vectors; add may be null.
using SoftmaxPairsFunction = float(float* s, const float* add, Index n, float factor, float before,
                                   float* top);

template <class L, bool terms>
MORAINE_FLATTEN float softmax_to_pairs(float* s, const float* add, Index n, float factor,
                                       float before, float* top) {
  using F = typename L::F;
  constexpr int W = L::width;
  F a = before - F{}, b = a, u, v, t;
  for (Index j = 0; j < n; j += 2 * W) {
    L::load(u, s + j);
    L::load(v, s + j + W);
    u *= factor;
    v *= factor;
    if constexpr (terms) {
      L::load(t, add + j), u += t;
      L::load(t, add + j + W), v += t;
    }
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
    L::load(u, s + j);
    L::load(v, s + j + W);
    if constexpr (terms) {
      L::load(t, add + j);
      u = u * factor + t;
      L::load(t, add + j + W);
      v = v * factor + t;
      u -= m;
      v -= m;
    } else {
      u = u * factor - m;
      v = v * factor - m;
    }
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
    return add ? softmax_to_pairs<LANES, true>(s, add, n, factor, before, top)                  \
               : softmax_to_pairs<LANES, false>(s, add, n, factor, before, top);                \
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

MORAINE_INLINE void attention_bf16_with(const GemmKernels& ker, const Attention<float>& a) {
  if (a.batch <= 0 || a.heads <= 0 || a.nq <= 0) return;
  simd::SoftmaxPairsFunction* const softmax = simd::softmax_pairs(ker.isa);
  const Index w = ker.wide_cols, keys = round_up(a.nk, w), values = round_up(a.dv, w);
  const Index dp = (a.d + 1) / 2, np = (a.nk + 1) / 2;
  // As in float: a block of keys and values fills half of L2, and long vectors take turns.
  Index block = round_up(131072 / (a.d + a.dv + 1), 64);
  block = block < keys ? block : keys;
  constexpr Index most = 96;  // queries of a task
  const Index turn = a.d + a.dv > 1024 ? most : ker.wide_rows;
  const Index blocks_q = (a.nq + most - 1) / most, chunks = (a.nk + 63) / 64;
  const Index size_k = keys * dp, size_v = np * values, size = size_k + size_v;
  const Index all = a.batch * a.heads;
  Index group = size > 0 ? (4 << 20) / size : all;
  group = group < 1 ? 1 : group > all ? all : group;
  const Scratch packed(group * size);
  const bool add = a.terms.any();
  const TermRows terms(ker.isa, a.terms, a.batch, a.heads, a.nq, a.nk);
  // Scores are scaled in float, after the product. Keys that are not there have -inf, which only a
  // positive factor keeps: a sign, or a scale of 0, goes to the queries, and costs them no digit.
  const bool as_is = a.scale > 0;
  const float sign = a.scale < 0 ? -1.0f : a.scale;
  const float factor = as_is ? a.scale * log2_e : a.scale < 0 ? -a.scale * log2_e : 1.0f;

  for (Index start = 0; start < all; start += group) {
    const Index count = all - start < group ? all - start : group;
    parallel_for(count * chunks, 1 + 256 / (a.d + a.dv + 1), [&](Index begin, Index end) {
      for (Index x = begin; x < end; ++x) {
        const Index i = x / chunks, h = (start + i) % a.heads, b = (start + i) / a.heads;
        const Index nk = a.terms.keys_of(b, a.nk);
        const Index k0 = x % chunks * 64, k1 = k0 + 64 < nk ? k0 + 64 : nk;
        if (k0 >= nk) continue;
        float* const dst = packed.data() + i * size;
        for (Index j = k0; j < k1; j += w)  // panels of keys: [key / w][d / 2][w]
          ker.pairs->pack(a.k.at(b, h) + j * a.k.token, 1, a.k.token, a.d, k1 - j < w ? k1 - j : w,
                          w, dst + j * dp);
        for (Index j = 0; j < a.dv; j += w)  // panels of values: [dv / w][key / 2][w]
          ker.pairs->pack(a.v.at(b, h) + k0 * a.v.token + j, a.v.token, 1, k1 - k0,
                          a.dv - j < w ? a.dv - j : w, w, dst + size_k + j * np + k0 / 2 * w);
      }
    });
    const Index cost = a.nk * (a.d + a.dv) * (a.nq < most ? a.nq : most) + 1000;
    parallel_for(count * blocks_q, 1 + 100000 / cost, [&](Index begin, Index end) {
      // Rows a little more than a power of two apart use different sets of the caches.
      const Index ld = block + 16, ldq = dp + 16;
      const Scratch scratch(round_up(turn, ker.wide_rows) * ld + most * (ldq + values + 2) + ld +
                            a.d + terms.scratch());
      float* const s = scratch.data();                          // [query of the turn][key]
      float* const q = s + round_up(turn, ker.wide_rows) * ld;  // [query][d / 2], pairs
      float* const o = q + most * ldq;                          // [query][dv]
      float* const top = o + most * values;
      float* const total = top + most;
      float* const extra = total + most;  // what is added to the scores of a query
      float* const scaled = extra + ld;   // one query
      float* const row = scaled + a.d;    // of the terms
      for (Index x = begin; x < end; ++x) {
        const Index i = x / blocks_q, h = (start + i) % a.heads, b = (start + i) / a.heads;
        const Index q0 = x % blocks_q * most, q1 = q0 + most < a.nq ? q0 + most : a.nq;
        const Index nk = a.terms.keys_of(b, a.nk);
        const float* const kp = packed.data() + i * size;
        const float* const vp = kp + size_k;
        for (Index j = 0; j < most; ++j) top[j] = -HUGE_VALF, total[j] = 0;
        for (Index r = q0; r < q1; ++r) {
          const float* from = a.q.at(b, h) + r * a.q.token;
          // Rows of a projection lie pages apart: nothing else fetches them ahead.
          for (Index z = 0; z < a.d && r + 4 < q1; z += 16)
            __builtin_prefetch(from + 4 * a.q.token + z);
          if (!as_is) {
            copy_rows(from, 0, 1, a.d, a.d, sign, scaled);
            from = scaled;
          }
          ker.pairs->round(from, a.d, q + (r - q0) * ldq);
        }
        for (Index k0 = 0; k0 < nk; k0 += block) {
          const Index kn = nk - k0 < block ? nk - k0 : block, whole = round_up(kn, w);
          for (Index r = q0; r < q1; r += turn) {
            const Index rows = q1 - r < turn ? q1 - r : turn;
            float* const out = o + (r - q0) * values;
            tiles_of_pairs(ker, q + (r - q0) * ldq, ldq, kp + k0 * dp, w * dp, rows, kn, dp, false,
                           s, ld);
            for (Index j = 0; j < rows; ++j) {
              const Index t = r - q0 + j;
              for (Index z = kn; z < whole; ++z) s[j * ld + z] = -HUGE_VALF;
              if (add) {
                terms.fill(b, h, r + j, k0, kn, row, extra);
                for (Index z = kn; z < whole; ++z) extra[z] = 0;
              }
              float now;
              const float sum =
                  softmax(s + j * ld, add ? extra : nullptr, whole, factor, top[t], &now);
              if (now != top[t] && k0 > 0) {
                const float fade = std::exp2(top[t] - now);
                total[t] *= fade;
                copy_rows(out + j * values, 0, 1, values, values, fade, out + j * values);
              }
              total[t] += sum;
              top[t] = now;
            }
            tiles_of_pairs(ker, s, ld, vp + k0 / 2 * w, w * np, rows, a.dv, (kn + 1) / 2, k0 > 0,
                           out, values);
          }
        }
        for (Index r = q0; r < q1; ++r) {
          const Index t = r - q0;
          // Nothing but -inf: 0 where the terms say so, as PyTorch; NaN where the scores do.
          const bool none = nk == 0 || (add && total[t] == 0);
          float* const out = a.out.at(b, h) + r * a.out.token;
          if (none)
            for (Index j = 0; j < a.dv; ++j) out[j] = 0;
          else
            copy_rows(o + t * values, 0, 1, a.dv, a.dv, 1.0f / total[t], out);
          if (a.lse) a.lse[(b * a.heads + h) * a.nq + r] = top[t] * ln_2 + std::log(total[t]);
        }
      }
    });
  }
}

}  // namespace detail

MORAINE_INLINE void attention(const Attention<float>& a, Product p) {
  if (p == Product::bf16)
    detail::attention_bf16_with(bf16_kernels(), a);
  else
    attention(a);
}

#endif  // MORAINE_BODIES

}  // namespace cpu
}  // namespace moraine
