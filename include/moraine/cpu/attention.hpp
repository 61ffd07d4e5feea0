#pragma once
// Scaled dot-product attention without the matrix of scores:
//
//   S = scale q k^T + terms,  P = softmax(S),  out = P v
//
// Float works on a strip of six queries against a block of keys at a time with the running maximum
// and sum of each row (Milakov and Gimelshein 2018; Dao et al. 2022); double, the oracle, is plain
// loops. The gradients are in cpu/attention_backward.hpp. The order of every sum depends on the
// sizes alone: the same bits for any thread count. A NaN in q reaches its row, a NaN in k or v
// every row of its head.
#include <cmath>
#include <cstdint>
#include <moraine/core/parallel.hpp>
#include <moraine/core/shape.hpp>
#include <moraine/cpu/attention_kernels.hpp>
#include <moraine/cpu/gemm_kernels.hpp>
#include <moraine/cpu/pack.hpp>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

/// The vector of token t, head h, product b starts at data + b * batch + h * head + t * token; its
/// elements are adjacent.
template <class T>
struct Heads {
  T* data = nullptr;
  Index batch = 0, head = 0, token = 0;
  T* at(Index b, Index h) const { return data + b * batch + h * head; }
};

/// One number for every score, by strides in elements: 0 along an axis where all share one.
template <class T>
struct ScoreBias {
  T* data = nullptr;
  Index batch = 0, head = 0, query = 0;
  Index key = 0;  ///< 1 or 0
  T* at(Index b, Index h, Index i) const { return data + b * batch + h * head + i * query; }
};

/// What is added to the scores; read block by block, never laid out as queries x keys. A row whose
/// scores all are -inf by these, or that has no key, gives 0, with gradients of 0.
template <class T>
struct ScoreTerms {
  ScoreBias<const T> bias{};
  const std::uint8_t* mask = nullptr;  ///< (batch,nk); -inf is added to a key where it is 0
  const Index* keys = nullptr;  ///< (batch): keys from this one on are not there, and not read
  /// The keys are a map of rows x columns, row by row (SAM's relative positions): rel_h (batch,
  /// heads,nq,rows) + rel_w (batch,heads,nq,columns). Both or none.
  const T *rel_h = nullptr, *rel_w = nullptr;
  Index rows = 0, columns = 0;

  bool any() const { return bias.data || mask || rel_h; }
  Index keys_of(Index b, Index nk) const {
    return !keys || keys[b] > nk ? nk : keys[b] < 0 ? 0 : keys[b];
  }
};

template <class T>
struct Attention {
  Index batch = 1, heads = 1;
  Index nq = 0, nk = 0;  ///< queries, keys; with nk = 0 the output is 0 and lse is -inf
  Index d = 0, dv = 0;   ///< elements of a query and key, of a value
  Heads<const T> q{}, k{}, v{};
  Heads<T> out{};  ///< must not overlap q, k or v
  T scale = T(1);
  ScoreTerms<T> terms{};
  T* lse = nullptr;  ///< (batch,heads,nq), optional: log sum_j exp(S_ij), for the backward
};

void attention(const Attention<float>& a);
void attention(const Attention<double>& a);
/// With a choice of its products; in double it is ignored.
void attention(const Attention<float>& a, Product p);
inline void attention(const Attention<double>& a, Product) { attention(a); }

namespace detail {
class TermRows;
struct AttentionCut;
/// Queries [q0,q1), at most 96, of one head with packed keys and values.
using AttendFunction = void(const GemmKernels& ker, const Attention<float>& a,
                            const TermRows& terms, const AttentionCut& cut, Index b, Index h,
                            Index q0, Index q1, const float* packed, float* scratch);
AttendFunction attend;
/// The float form by given kernels; of pairs with the `attend` of cpu/attention_bf16.hpp.
void attention_with(const GemmKernels& kernels, const Attention<float>& a,
                    AttendFunction* attend_to = attend);
}  // namespace detail
/// The `attend` of Product::bf16, beside bf16_slot.
inline detail::AttendFunction* bf16_attend_slot = nullptr;

#if defined(MORAINE_BODIES)

namespace detail {

using simd::ln_2;
using simd::log2_e;

inline Index round_up(Index n, Index to) { return (n + to - 1) / to * to; }

/// dst (rows,padded) = factor * src, zero from column cols on.
__attribute__((noinline)) inline void copy_rows(const float* src, Index token, Index rows,
                                                Index cols, Index padded, float factor,
                                                float* dst) {
  using L = simd::Lanes4;
  for (Index i = 0; i < rows; ++i) {
    const float* const from = src + i * token;
    float* const to = dst + i * padded;
    if (i + 4 < rows)
      for (Index z = 0; z < cols; z += 16) __builtin_prefetch(from + 4 * token + z);
    Index j = 0;
    for (; j + 4 <= cols; j += 4) {
      L::F x;
      L::load(x, from + j);
      x *= factor;
      L::store(to + j, x);
    }
    for (; j < cols; ++j) to[j] = factor * from[j];
    for (; j < padded; ++j) to[j] = 0;
  }
}

/// C (rows,cols) = or += A B on whole tiles. Element (i,k) of A lies at a[i * row + k * step]; rows
/// past `rows` repeat the last one, so C must hold rows and cols rounded up to 6 and a tile. B are
/// panels, panel p at b + p * next, its rows ldb apart.
__attribute__((noinline)) inline void tiles(const GemmKernels& ker, const float* a, Index row,
                                            Index step, const float* b, Index next, Index ldb,
                                            Index rows, Index cols, Index k, bool add, float* c,
                                            Index ldc) {
  static constexpr float zeros[64] = {};
  const Index w = ker.wide_cols;
  const bool across = cols > rows;  // the larger operand is read once, the smaller stays in cache
  const auto one = [&](Index s, Index j) {
    const float* at[6];
    for (Index i = 0; i < 6; ++i) at[i] = a + (s + i < rows ? s + i : rows - 1) * row;
    float* const out = c + s * ldc + j;
    ker.wide(at, step, b, ldb, k, add ? out : zeros, add ? ldc : 0, out, ldc);
  };
  if (across)
    for (Index j = 0; j < cols; j += w, b += next)
      for (Index s = 0; s < rows; s += 6) one(s, j);
  else
    for (Index s = 0; s < rows; s += 6, b -= (cols + w - 1) / w * next)
      for (Index j = 0; j < cols; j += w, b += next) one(s, j);
}

/// Writes what is added to the scores of one query, which the products then start from.
class TermRows {
 public:
  TermRows(Isa isa, const ScoreTerms<float>& terms, Index batch, Index heads, Index nq, Index nk)
      : kernels_(attention_kernels(isa)), terms_(terms), heads_(heads), nq_(nq), ld_(nk + 16) {
    if (!terms.mask) return;
    mask_ = Scratch(batch * ld_);
    for (Index b = 0; b < batch; ++b)
      for (Index j = 0; j < ld_; ++j)
        mask_.data()[b * ld_ + j] = j >= nk || terms.mask[b * nk + j] ? 0.0f : -HUGE_VALF;
  }
  /// Floats that `fill` works on.
  Index scratch() const { return terms_.rows + terms_.columns + 32; }
  /// Of query i against n keys from k0 on.
  void fill(Index b, Index h, Index i, Index k0, Index n, float* scratch, float* s) const {
    ScoreRow r;
    if (terms_.bias.data) {
      r.bias = terms_.bias.at(b, h, i) + k0 * terms_.bias.key;
      r.step = terms_.bias.key;
    }
    if (terms_.mask) r.mask = mask_.data() + b * ld_ + k0;
    if (terms_.rel_h) {
      const Index at = (b * heads_ + h) * nq_ + i, rows = terms_.rows, columns = terms_.columns;
      copy_rows(terms_.rel_h + at * rows, rows, 1, rows, rows, log2_e, scratch);
      copy_rows(terms_.rel_w + at * columns, columns, 1, columns, columns, log2_e, scratch + rows);
      r.h = scratch;
      r.w = scratch + rows;
      r.columns = columns;
      r.first = k0;
    }
    kernels_.start(r, s, n);
  }

 private:
  const AttentionKernels& kernels_;
  const ScoreTerms<float>& terms_;
  Index heads_, nq_, ld_;
  Scratch mask_;
};

/// How the work on one problem is cut, from its sizes alone. A word is a float, or a pair of
/// bfloat16 where the kernels take these.
struct AttentionCut {
  static constexpr Index most = 96;  ///< queries of a task
  Index values = 0;                  ///< dv rounded up to panels
  Index block = 0;                   ///< keys at a time: with their values they fill half of L2
  Index turn = 0;                    ///< queries at a time
  Index d = 0, nk = 0;               ///< words of a query, and of a column of values
  Index keys_size = 0, size = 0;     ///< words of the panels of keys; of keys and values
  Index ld = 0, ldq = 0;

  AttentionCut(const GemmKernels& ker, const Attention<float>& a) {
    const Index w = ker.wide_cols, per = ker.pairs ? 2 : 1, keys = round_up(a.nk, w);
    values = round_up(a.dv, w);
    block = round_up(65536 * per / (a.d + a.dv + 1), 64);
    block = keys == 0 || block < keys ? block : keys;
    // Vectors so long that a block holds few keys are worked on in two turns, the keys of all
    // strips, then the values.
    turn = a.d + a.dv > 512 * per ? most : ker.wide_rows;
    d = steps_of(ker, a.d);
    nk = steps_of(ker, a.nk);
    keys_size = keys * d;
    size = keys_size + nk * values;
    // Rows a little more than a power of two apart use different sets of the caches.
    ld = block + 16;
    ldq = d + 16;
  }
  /// What `attend` works on, but for the terms.
  Index scratch() const { return turn * ld + most * (ldq + values + 2); }
};

/// Keys [k0,k1) of a head and their values, as panels: [key / w][d][w], then [dv / w][key][w].
inline void pack_keys(const GemmKernels& ker, const Attention<float>& a, const AttentionCut& cut,
                      Index b, Index h, Index k0, Index k1, float* packed) {
  PackFunction* const pack = ker.pairs ? ker.pairs->pack : pack_panel;
  const Index w = ker.wide_cols, before = ker.pairs ? k0 / 2 : k0;
  const float* const k = a.k.at(b, h);
  const float* const v = a.v.at(b, h) + k0 * a.v.token;
  for (Index j = k0; j < k1; j += w)
    pack(k + j * a.k.token, 1, a.k.token, a.d, k1 - j < w ? k1 - j : w, w, packed + j * cut.d);
  for (Index j = 0; j < a.dv; j += w)
    pack(v + j, a.v.token, 1, k1 - k0, a.dv - j < w ? a.dv - j : w, w,
         packed + cut.keys_size + j * cut.nk + before * w);
}

/// Asks for rows ahead: those of a projection lie pages apart, and nothing else fetches them.
template <bool write>
MORAINE_FLATTEN void prefetch_rows(const float* p, Index token, Index rows, Index cols) {
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; j += 16) __builtin_prefetch(p + i * token + j, write);
}

MORAINE_INLINE void attend(const GemmKernels& ker, const Attention<float>& a, const TermRows& terms,
                           const AttentionCut& cut, Index b, Index h, Index q0, Index q1,
                           const float* packed, float* scratch) {
  const AttentionKernels& kernels = attention_kernels(ker.isa);
  const Index w = ker.wide_cols, values = cut.values, ld = cut.ld, ldq = cut.ldq;
  const Index nk = a.terms.keys_of(b, a.nk);
  const bool add = a.terms.any();
  float* const s = scratch;             // [query of the turn][key]
  float* const q = s + cut.turn * ld;   // [query][d], times scale log2 e
  float* const o = q + cut.most * ldq;  // [query][dv]
  float* const top = o + cut.most * values;
  float* const total = top + cut.most;
  float* const row = total + cut.most;  // of the terms
  const float* const from = a.q.at(b, h);
  float* const to = a.out.at(b, h);
  float* const lse = a.lse ? a.lse + (b * a.heads + h) * a.nq : nullptr;
  for (Index j = 0; j < q1 - q0; ++j) top[j] = -HUGE_VALF, total[j] = 0;
  for (Index k0 = 0; k0 == 0 || k0 < nk; k0 += cut.block) {
    const Index kn = nk - k0 < cut.block ? nk - k0 : cut.block;
    for (Index r = q0; r < q1; r += cut.turn) {
      const Index rows = q1 - r < cut.turn ? q1 - r : cut.turn, t0 = r - q0;
      float* const out = o + t0 * values;
      if (k0 == 0) {
        copy_rows(from + r * a.q.token, a.q.token, rows, a.d, ldq, a.scale * log2_e, q + t0 * ldq);
        const Index next = r + rows, more = a.nq - next < rows ? a.nq - next : rows;
        prefetch_rows<false>(from + next * a.q.token, a.q.token, more, a.d);
      }
      const bool last = k0 + kn == nk;
      if (last) prefetch_rows<true>(to + r * a.out.token, a.out.token, rows, a.dv);
      for (Index j = 0; j < rows && add; ++j) terms.fill(b, h, r + j, k0, kn, row, s + j * ld);
      for (Index j = 0; j < rows && kn > 0; j += 6) {
        ScoreStrip t;
        t.count = rows - j < 6 ? rows - j : 6;
        t.keys = packed + k0 * a.d;
        t.d = a.d;
        t.n = kn;
        t.add = add;
        t.s = s + j * ld;
        t.ld = ld;
        for (Index z = 0; z < 6; ++z) {
          const Index one = t0 + j + (z < t.count ? z : t.count - 1);
          t.queries[z] = q + one * ldq;
          t.top[z] = top[one];
        }
        kernels.strip(t);
        for (Index z = 0; z < t.count; ++z) {
          const Index one = t0 + j + z;
          if (t.top[z] != top[one] && k0 > 0) {
            const float fade = std::exp2(top[one] - t.top[z]);
            total[one] *= fade;
            copy_rows(o + one * values, 0, 1, values, values, fade, o + one * values);
          }
          total[one] += t.sum[z];
          top[one] = t.top[z];
        }
      }
      if (kn > 0)
        tiles(ker, s, ld, 1, packed + cut.keys_size + k0 * w, w * a.nk, w, rows, a.dv, kn, k0 > 0,
              out, values);
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

MORAINE_INLINE void attention_with(const GemmKernels& ker, const Attention<float>& a,
                                   AttendFunction* attend_to) {
  if (a.batch <= 0 || a.heads <= 0 || a.nq <= 0) return;
  const AttentionCut cut(ker, a);
  const TermRows terms(ker.isa, a.terms, a.batch, a.heads, a.nq, a.nk);
  constexpr Index most = AttentionCut::most;
  const Index blocks_q = (a.nq + most - 1) / most, chunks = (a.nk + 63) / 64;
  const Index all = a.batch * a.heads,
              scratch_size = cut.scratch() + terms.scratch() + (ker.pairs ? cut.ld + a.d : 0);
  const auto work = [&](Index head, Index i, const float* packed, float* scratch) {
    const Index q0 = i * most, q1 = q0 + most < a.nq ? q0 + most : a.nq;
    attend_to(ker, a, terms, cut, head / a.heads, head % a.heads, q0, q1, packed, scratch);
  };
  if (all >= 64 && cut.size <= 32768) {  // windows: a head is a task, and stays in its cache
    const Index cost = a.nk * (a.d + a.dv) * a.nq + 1000;
    parallel_for(all, 1 + 400000 / cost, [&](Index begin, Index end) {
      const Scratch scratch(scratch_size + cut.size);
      float* const packed = scratch.data() + scratch_size;
      for (Index x = begin; x < end; ++x) {
        pack_keys(ker, a, cut, x / a.heads, x % a.heads, 0, a.terms.keys_of(x / a.heads, a.nk),
                  packed);
        if (x + 1 < all) {
          const Index b = (x + 1) / a.heads, h = (x + 1) % a.heads;
          prefetch_rows<false>(a.k.at(b, h), a.k.token, a.nk, a.d);
          prefetch_rows<false>(a.v.at(b, h), a.v.token, a.nk, a.dv);
        }
        for (Index i = 0; i < blocks_q; ++i) work(x, i, packed, scratch.data());
      }
    });
    return;
  }
  Index group = cut.size > 0 ? (4 << 20) / cut.size : all;
  group = group < 1 ? 1 : group > all ? all : group;
  const Scratch packed(group * cut.size);
  for (Index start = 0; start < all; start += group) {
    const Index count = all - start < group ? all - start : group;
    parallel_for(count * chunks, 1 + 256 / (a.d + a.dv + 1), [&](Index begin, Index end) {
      for (Index x = begin; x < end; ++x) {
        const Index i = start + x / chunks, b = i / a.heads, k0 = x % chunks * 64;
        const Index nk = a.terms.keys_of(b, a.nk), k1 = k0 + 64 < nk ? k0 + 64 : nk;
        if (k0 < nk)
          pack_keys(ker, a, cut, b, i % a.heads, k0, k1, packed.data() + x / chunks * cut.size);
      }
    });
    const Index cost = a.nk * (a.d + a.dv) * (a.nq < most ? a.nq : most) + 1000;
    parallel_for(count * blocks_q, 1 + 100000 / cost, [&](Index begin, Index end) {
      const Scratch scratch(scratch_size);
      for (Index x = begin; x < end; ++x)
        work(start + x / blocks_q, x % blocks_q, packed.data() + x / blocks_q * cut.size,
             scratch.data());
    });
  }
}

}  // namespace detail

MORAINE_INLINE void attention(const Attention<float>& a) {
  detail::attention_with(gemm_kernels(), a);
}

namespace detail {
/// What is added to score (b,h,i,j), in double.
inline double term(const ScoreTerms<double>& t, Index b, Index h, Index i, Index j, Index heads,
                   Index nq, Index nk) {
  double x = 0;
  if (t.bias.data) x = t.bias.at(b, h, i)[j * t.bias.key];
  if (t.mask && !t.mask[b * nk + j]) x += -HUGE_VAL;
  const Index row = (b * heads + h) * nq + i;
  if (t.rel_h)
    x += t.rel_h[row * t.rows + j / t.columns] + t.rel_w[row * t.columns + j % t.columns];
  return x;
}
}  // namespace detail

MORAINE_INLINE void attention(const Attention<double>& a) {
  parallel_for(a.batch * a.heads * a.nq, 8, [&](Index begin, Index end) {
    double* const p = static_cast<double*>(std::malloc(sizeof(double) * (a.nk + 1)));
    if (!p) fail(ErrorKind::memory, "attention: out of memory");
    for (Index x = begin; x < end; ++x) {
      const Index b = x / a.nq / a.heads, h = x / a.nq % a.heads, r = x % a.nq;
      const Index nk = a.terms.keys_of(b, a.nk);
      const double* const q = a.q.at(b, h) + r * a.q.token;
      double top = -HUGE_VAL, total = 0;
      for (Index j = 0; j < nk; ++j) {
        const double* const k = a.k.at(b, h) + j * a.k.token;
        double s = 0;
        for (Index c = 0; c < a.d; ++c) s += q[c] * k[c];
        p[j] = s * a.scale + detail::term(a.terms, b, h, r, j, a.heads, a.nq, a.nk);
        top = p[j] > top ? p[j] : top;
      }
      // As in float: nothing but -inf is 0 with terms, NaN without.
      const double shift = top == -HUGE_VAL && a.terms.any() ? 0 : top;
      for (Index j = 0; j < nk; ++j) total += p[j] = std::exp(p[j] - shift);
      const double norm = total == 0 ? 0 : 1 / total;
      double* const out = a.out.at(b, h) + r * a.out.token;
      for (Index c = 0; c < a.dv; ++c) out[c] = 0;
      for (Index j = 0; j < nk && norm != 0; ++j) {
        const double* const v = a.v.at(b, h) + j * a.v.token;
        for (Index c = 0; c < a.dv; ++c) out[c] += p[j] * norm * v[c];
      }
      if (a.lse) a.lse[x] = top + std::log(total);
    }
    std::free(p);
  });
}

MORAINE_INLINE void attention(const Attention<float>& a, Product p) {
  const GemmKernels& kernels = kernels_of(p);
  detail::attention_with(kernels, a, p == Product::bf16 ? bf16_attend_slot : detail::attend);
}

#endif  // MORAINE_BODIES

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
