#pragma once
// The gradients of cpu/attention.hpp:
//
//   dv = P^T dout,  dS = P (dout v^T - rowsum(dout out)),  dq = scale dS k,  dk = scale dS^T q
//
// and dS itself, summed to the shape of what was added to the scores. P is computed again from lse.
// A piece of the keys of one head belongs to one task, which writes its dk and dv and its own share
// of the sums that run over keys; shares are added in order.
#include <cmath>
#include <cstring>
#include <moraine/core/parallel.hpp>
#include <moraine/core/shape.hpp>
#include <moraine/cpu/attention.hpp>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

/// Gradients; those that are null are not computed. Overwrites, never adds.
template <class T>
struct AttentionBackward {
  Index batch = 1, heads = 1;
  Index nq = 0, nk = 0, d = 0, dv = 0;
  Heads<const T> q{}, k{}, v{}, out{}, dout{};
  T scale = T(1);
  ScoreTerms<T> terms{};
  const T* lse = nullptr;  ///< (batch,heads,nq) from the forward
  Heads<T> dq{}, dk{}, dvalue{};
  ScoreBias<T> dbias{};                    ///< dense; a stride of 0 sums over that axis
  T *drel_h = nullptr, *drel_w = nullptr;  ///< shapes of rel_h, rel_w; both or none

  /// Elements of dbias.
  Index bias_size() const {
    return (dbias.batch ? batch : 1) * (dbias.head ? heads : 1) * (dbias.query ? nq : 1) * nk;
  }
};

void attention_backward(const AttentionBackward<float>& a);
void attention_backward(const AttentionBackward<double>& a);

namespace detail {
/// The float form by given kernels.
void attention_backward_with(const GemmKernels& kernels, const AttentionBackward<float>& a);
}  // namespace detail

#if defined(MORAINE_BODIES)

namespace detail {

inline float dot(const float* x, const float* y, Index n) {
  using L = simd::Lanes4;
  L::F s = {}, a, b;
  for (Index j = 0; j < n; j += 4) {
    simd::load<L>(a, x + j, n - j);
    simd::load<L>(b, y + j, n - j);
    s += a * b;
  }
  return simd::sum<L>(s);
}

/// The share of one piece of keys in the sums over keys: dq (nq rounded up to 6, d rounded up to a
/// tile; not yet scaled), then drel_h and drel_w, row by row.
struct BackwardShare {
  Index d = 0, dq = 0, h = 0, w = 0, size = 0;
  BackwardShare(const AttentionBackward<float>& a, Index tile) : d(round_up(a.d, tile)) {
    if (a.dq.data) dq = round_up(a.nq, 6) * d;
    if (a.drel_h) h = a.terms.rows, w = a.terms.columns + 16;
    size = dq + a.nq * (h + w);
  }
};

/// The queries of a head as the products read them: rows that lie together, not pages apart.
struct PreparedQueries {
  Index ldd = 0, ldv = 0, nq = 0, size = 0;
  PreparedQueries(const AttentionBackward<float>& a, Index tile)
      : ldd(round_up(a.d, tile) + 16), ldv(round_up(a.dv, tile) + 16), nq(a.nq) {
    size = nq * (ldd + ldv + 2);
  }
  float* q(float* p) const { return p; }                       ///< [query][d], times scale log2 e
  float* dout(float* p) const { return p + nq * ldd; }         ///< [query][dv]
  float* lse(float* p) const { return p + nq * (ldd + ldv); }  ///< times log2 e
  float* delta(float* p) const { return lse(p) + nq; }         ///< sum_j dout_j out_j
  void fill(const AttentionBackward<float>& a, Index b, Index h, Index q0, Index q1,
            float* p) const {
    const float* const g = a.dout.at(b, h) + q0 * a.dout.token;
    const float* const out = a.out.at(b, h) + q0 * a.out.token;
    copy_rows(a.q.at(b, h) + q0 * a.q.token, a.q.token, q1 - q0, a.d, ldd, a.scale * log2_e,
              q(p) + q0 * ldd);
    copy_rows(g, a.dout.token, q1 - q0, a.dv, ldv, 1.0f, dout(p) + q0 * ldv);
    const float* const stats = a.lse + (b * a.heads + h) * a.nq;
    for (Index i = q0; i < q1; ++i) {
      prefetch_rows<false>(out + (i - q0 + 4) * a.out.token, 0, i + 4 < q1, a.dv);
      delta(p)[i] = dot(g + (i - q0) * a.dout.token, out + (i - q0) * a.out.token, a.dv);
      // Nothing but -inf by the terms: P = 0.
      const bool none = a.terms.any() && stats[i] == -HUGE_VALF;
      lse(p)[i] = none ? HUGE_VALF : stats[i] * log2_e;
    }
  }
};

/// One piece of the keys of one head against all of its queries: dk and dv of these keys, complete,
/// their share, and their part of dbias, added to `bias`.
MORAINE_INLINE void attention_backward_piece(
    const GemmKernels& ker, const AttentionBackward<float>& a, const TermRows& terms,
    const BackwardShare& layout, const PreparedQueries& prepared, float* queries_of_head, Index b,
    Index h, Index begin, Index end, float* share, const ScoreBias<float>& bias) {
  const AttentionKernels& kernels = attention_kernels(ker.isa);
  const Index w = ker.wide_cols;
  const Index d = layout.d, dv = round_up(a.dv, w), wide = d > dv ? d : dv;
  Index block = round_up(16384 / wide, 64);
  block = block > 256 ? 256 : block;
  block = block < round_up(end - begin, w) ? block : round_up(end - begin, w);
  constexpr Index queries = 96;
  const Index ld = block + 16, six = round_up(block, 6);
  const Index ldd = prepared.ldd, ldv = prepared.ldv;
  const Scratch scratch(2 * queries * ld + block * (d + dv + ldd) + six * (ldd + ldv) +
                        terms.scratch());
  float* const p = scratch.data();      // [query][key]
  float* const ds = p + queries * ld;   // [query][key]
  float* const kt = ds + queries * ld;  // panels of keys: [key / w][d][w]
  float* const vt = kt + block * d;     // panels of keys: [key / w][dv][w]
  float* const kr = vt + block * dv;    // [key][d]
  float* const dk = kr + block * ldd;   // [key][d]
  float* const dvs = dk + six * ldd;    // [key][dv]
  float* const row = dvs + six * ldv;   // of the terms
  const bool add = a.terms.any(), row_grads = bias.data || a.drel_h;
  float* const dq = a.dq.data ? share : nullptr;
  float* const rel = share + layout.dq;
  if (a.drel_h && layout.size > layout.dq)
    std::memset(rel, 0, static_cast<std::size_t>(layout.size - layout.dq) * sizeof(float));
  const Index nk = a.terms.keys_of(b, a.nk), stop = end < nk ? end : nk;

  for (Index k0 = begin; k0 < stop; k0 += block) {
    const Index kn = stop - k0 < block ? stop - k0 : block, whole = round_up(kn, w);
    const float* const keys = a.k.at(b, h) + k0 * a.k.token;
    const float* const values = a.v.at(b, h) + k0 * a.v.token;
    for (Index j = 0; j < kn; j += w) {
      const Index n = kn - j < w ? kn - j : w;
      pack_panel(keys + j * a.k.token, 1, a.k.token, a.d, n, w, kt + j * a.d);
      pack_panel(values + j * a.v.token, 1, a.v.token, a.dv, n, w, vt + j * a.dv);
    }
    copy_rows(keys, a.k.token, kn, a.d, ldd, 1.0f, kr);
    for (Index q0 = 0; q0 < a.nq; q0 += queries) {
      const Index qn = a.nq - q0 < queries ? a.nq - q0 : queries;
      const float* const q = prepared.q(queries_of_head) + q0 * ldd;
      const float* const g = prepared.dout(queries_of_head) + q0 * ldv;
      const float* const lse = prepared.lse(queries_of_head) + q0;
      const float* const delta = prepared.delta(queries_of_head) + q0;
      for (Index i = 0; i < qn && add; ++i) terms.fill(b, h, q0 + i, k0, kn, row, p + i * ld);
      tiles(ker, q, ldd, 1, kt, w * a.d, w, qn, kn, a.d, add, p, ld);
      tiles(ker, g, ldv, 1, vt, w * a.dv, w, qn, kn, a.dv, false, ds, ld);
      for (Index i = 0; i < qn; ++i)
        kernels.softmax_dx(p + i * ld, ds + i * ld, whole, lse[i], delta[i]);
      for (Index i = 0; i < qn && row_grads; ++i) {
        ScoreRowGrad r{.columns = a.terms.columns, .first = k0};
        if (bias.data) r.bias = bias.at(b, h, q0 + i) + k0;
        if (a.drel_h) {
          r.h = rel + (q0 + i) * (layout.h + layout.w);
          r.w = r.h + layout.h;
        }
        kernels.finish(r, ds + i * ld, kn);
      }
      // The tile takes its left operand with any strides: P^T and dS^T are P and dS read by column.
      if (a.dvalue.data) tiles(ker, p, 1, ld, g, w, ldv, kn, dv, qn, q0 > 0, dvs, ldv);
      if (a.dk.data) tiles(ker, ds, 1, ld, q, w, ldd, kn, d, qn, q0 > 0, dk, ldd);
      if (dq) tiles(ker, ds, ld, 1, kr, w, ldd, qn, d, kn, k0 > begin, dq + q0 * d, d);
    }
    for (Index i = 0; i < kn && a.nq > 0; ++i) {
      const Index to = k0 + i;
      if (a.dvalue.data)
        copy_rows(dvs + i * ldv, ldv, 1, a.dv, a.dv, 1.0f, a.dvalue.at(b, h) + to * a.dvalue.token);
      if (a.dk.data)  // q held scale log2 e
        copy_rows(dk + i * ldd, ldd, 1, a.d, a.d, ln_2, a.dk.at(b, h) + to * a.dk.token);
    }
  }
  for (Index i = a.nq > 0 && begin < stop ? stop : begin; i < end; ++i) {  // keys nobody looked at
    for (Index j = 0; a.dvalue.data && j < a.dv; ++j) a.dvalue.at(b, h)[i * a.dvalue.token + j] = 0;
    for (Index j = 0; a.dk.data && j < a.d; ++j) a.dk.at(b, h)[i * a.dk.token + j] = 0;
  }
}

/// In which order the heads of all products are worked on. Those that share numbers of dbias form
/// chains; a chain is one task after the other and adds to a copy of dbias of its own, as many
/// copies as memory allows, so that nothing is added by two at once.
struct HeadOrder {
  Index slices = 1, sharers = 1;  ///< parts of dbias that do not overlap; heads that share one
  Index copies = 1, chain = 1;    ///< chains of a slice; heads of a chain
  bool over_batch = false, over_heads = false;
  Index heads = 1;

  HeadOrder(const AttentionBackward<float>& a, Index pieces) : heads(a.heads) {
    over_batch = a.dbias.data && !a.dbias.batch;
    over_heads = a.dbias.data && !a.dbias.head;
    slices = (over_batch ? 1 : a.batch) * (over_heads ? 1 : a.heads);
    sharers = a.batch * a.heads / slices;
    const Index room = (4 << 20) / (a.bias_size() + 1);
    copies = 64 / (slices * pieces);
    for (Index most : {Index{8}, sharers, room}) copies = copies < most ? copies : most;
    if (copies < 1) copies = 1;
    chain = (sharers + copies - 1) / copies;
  }
  Index chains() const { return slices * copies; }
  /// Member m of chain c; false if the chain is shorter.
  bool at(Index c, Index m, Index& b, Index& h) const {
    const Index slice = c / copies, member = c % copies * chain + m;
    if (member >= sharers) return false;
    b = over_batch && over_heads ? member / heads
        : over_batch             ? member
        : over_heads             ? slice
                                 : slice / heads;
    h = over_batch && over_heads ? member % heads
        : over_batch             ? slice
        : over_heads             ? member
                                 : slice % heads;
    return true;
  }
};

/// out = factor times the sum of `parts` rows of n, `apart` floats from each other, in order.
inline void add_rows(const float* rows, Index apart, Index parts, Index n, float factor,
                     float* out) {
  using L = simd::Lanes4;
  L::F sum, x;
  for (Index j = 0; j < n; j += 4) {
    sum = L::F{};
    for (Index s = 0; s < parts; ++s) {
      simd::load<L>(x, rows + s * apart + j, n - j);
      sum += x;
    }
    sum *= factor;
    simd::store<L>(out + j, sum, n - j);
  }
}

/// dq, drel_h and drel_w of queries [q0,q1) of a head from the shares of its pieces.
MORAINE_INLINE void attention_backward_sums(const AttentionBackward<float>& a,
                                            const BackwardShare& share, Index b, Index h, Index q0,
                                            Index q1, const float* shares, Index parts) {
  for (Index r = q0; r < q1; ++r) {
    if (a.dq.data)
      add_rows(shares + r * share.d, share.size, parts, a.d, a.scale,
               a.dq.at(b, h) + r * a.dq.token);
    if (!a.drel_h) continue;
    const Index at = (b * a.heads + h) * a.nq + r;
    const float* const rel = shares + share.dq + r * (share.h + share.w);
    add_rows(rel, share.size, parts, a.terms.rows, 1.0f, a.drel_h + at * a.terms.rows);
    add_rows(rel + share.h, share.size, parts, a.terms.columns, 1.0f,
             a.drel_w + at * a.terms.columns);
  }
}

MORAINE_INLINE void attention_backward_with(const GemmKernels& ker,
                                            const AttentionBackward<float>& a) {
  if (a.batch * a.heads <= 0) return;
  // At most 8 pieces of keys, each with a share of its own.
  const Index piece = a.nk <= 8 * 256 ? 256 : round_up((a.nk + 7) / 8, 256);
  const Index pieces = a.nk > 0 ? (a.nk + piece - 1) / piece : 1;
  const BackwardShare share(a, ker.wide_cols);
  const PreparedQueries prepared(a, ker.wide_cols);
  const HeadOrder order(a, pieces);
  const TermRows terms(ker.isa, a.terms, a.batch, a.heads, a.nq, a.nk);
  const Index bias = a.dbias.data ? a.bias_size() : 0, copies = order.copies, chain = order.chain;
  const Scratch more(copies > 1 ? copies * bias : 0);
  float* const sums = copies > 1 ? more.data() : a.dbias.data;
  if (bias > 0) std::memset(sums, 0, static_cast<std::size_t>(copies * bias) * sizeof(float));

  const Index room = share.size * pieces + prepared.size;  // of a head
  const auto parts = [&](Index b) { return (a.terms.keys_of(b, a.nk) + piece - 1) / piece; };
  const auto work = [&](Index c, Index part, Index b, Index h, float* at) {
    ScoreBias<float> dbias = a.dbias;
    if (dbias.data) dbias.data = sums + c % copies * bias;
    attention_backward_piece(
        ker, a, terms, share, prepared, at + share.size * pieces, b, h, part * piece,
        part * piece + piece < a.nk ? part * piece + piece : a.nk, at + part * share.size, dbias);
  };
  const Index cost = a.nq * (a.nk < piece ? a.nk : piece) * (a.d + a.dv) * 3 + 1000;
  if (pieces == 1) {  // short: a head is a task, and stays in its cache
    parallel_for(order.chains(), 1 + 100000 / (cost * chain), [&](Index begin, Index end) {
      const Scratch scratch(room);
      for (Index c = begin; c < end; ++c)
        for (Index m = 0, b, h; m < chain && order.at(c, m, b, h); ++m) {
          prepared.fill(a, b, h, 0, a.nq, scratch.data() + share.size);
          if (a.nk > 0) work(c, 0, b, h, scratch.data());
          attention_backward_sums(a, share, b, h, 0, a.nq, scratch.data(), parts(b));
        }
    });
  } else {
    // Chains side by side as far as memory allows, one member of each at a time.
    Index group = (4 << 20) / (room + 1);
    group = group < 1 ? 1 : group > order.chains() ? order.chains() : group;
    const Scratch scratch(group * room);
    const Index blocks = (a.nq + 63) / 64;
    for (Index start = 0; start < order.chains(); start += group)
      for (Index m = 0; m < chain; ++m) {
        const Index count = order.chains() - start < group ? order.chains() - start : group;
        const auto rows = [&](Index x, auto&& call) {  // 64 queries of a head
          Index b, h;
          const Index i = x / blocks, q0 = x % blocks * 64, q1 = q0 + 64 < a.nq ? q0 + 64 : a.nq;
          if (order.at(start + i, m, b, h)) call(b, h, q0, q1, scratch.data() + i * room);
        };
        parallel_for(count * blocks, 1 + 256 / (a.d + a.dv + 1), [&](Index from, Index to) {
          for (Index x = from; x < to; ++x)
            rows(x, [&](Index b, Index h, Index q0, Index q1, float* at) {
              prepared.fill(a, b, h, q0, q1, at + share.size * pieces);
            });
        });
        parallel_for(count * pieces, 1 + 100000 / cost, [&](Index from, Index to) {
          Index b, h;
          for (Index x = from; x < to; ++x)
            if (order.at(start + x / pieces, m, b, h))
              work(start + x / pieces, x % pieces, b, h, scratch.data() + x / pieces * room);
        });
        parallel_for(count * blocks, 1 + 256 / (a.d + 1), [&](Index from, Index to) {
          for (Index x = from; x < to; ++x)
            rows(x, [&](Index b, Index h, Index q0, Index q1, const float* at) {
              attention_backward_sums(a, share, b, h, q0, q1, at, parts(b));
            });
        });
      }
  }
  if (copies > 1)
    parallel_for(bias, 4096, [&](Index from, Index to) {
      for (Index j = from; j < to; ++j) {
        float sum = 0;
        for (Index c = 0; c < copies; ++c) sum += sums[c * bias + j];
        a.dbias.data[j] = sum;
      }
    });
}

}  // namespace detail

MORAINE_INLINE void attention_backward(const AttentionBackward<float>& a) {
  detail::attention_backward_with(gemm_kernels(), a);
}

MORAINE_INLINE void attention_backward(const AttentionBackward<double>& a) {
  const Index bias = a.dbias.data ? a.bias_size() : 0, all = a.batch * a.heads;
  for (Index j = 0; j < bias; ++j) a.dbias.data[j] = 0;
  parallel_for(all, bias > 0 ? all : 1, [&](Index begin, Index end) {  // heads may share dbias
    for (Index x = begin; x < end; ++x) {
      const Index b = x / a.heads, h = x % a.heads, nk = a.terms.keys_of(b, a.nk);
      for (Index j = 0; j < a.nk; ++j) {
        for (Index c = 0; a.dk.data && c < a.d; ++c) a.dk.at(b, h)[j * a.dk.token + c] = 0;
        for (Index c = 0; a.dvalue.data && c < a.dv; ++c)
          a.dvalue.at(b, h)[j * a.dvalue.token + c] = 0;
      }
      for (Index r = 0; r < a.nq; ++r) {
        const Index row = x * a.nq + r;
        const double* const q = a.q.at(b, h) + r * a.q.token;
        const double* const g = a.dout.at(b, h) + r * a.dout.token;
        const double* const out = a.out.at(b, h) + r * a.out.token;
        double* const dq = a.dq.data ? a.dq.at(b, h) + r * a.dq.token : nullptr;
        double* const dbias = a.dbias.data ? a.dbias.at(b, h, r) : nullptr;
        double* const dh = a.drel_h ? a.drel_h + row * a.terms.rows : nullptr;
        double* const dw = a.drel_w ? a.drel_w + row * a.terms.columns : nullptr;
        double delta = 0;
        for (Index c = 0; c < a.dv; ++c) delta += g[c] * out[c];
        for (Index c = 0; dq && c < a.d; ++c) dq[c] = 0;
        for (Index c = 0; dh && c < a.terms.rows; ++c) dh[c] = 0;
        for (Index c = 0; dw && c < a.terms.columns; ++c) dw[c] = 0;
        const bool none = a.terms.any() && a.lse[row] == -HUGE_VAL;  // P = 0
        for (Index j = 0; j < nk && !none; ++j) {
          const double* const k = a.k.at(b, h) + j * a.k.token;
          const double* const v = a.v.at(b, h) + j * a.v.token;
          double s = 0, dp = 0;
          for (Index c = 0; c < a.d; ++c) s += q[c] * k[c];
          for (Index c = 0; c < a.dv; ++c) dp += g[c] * v[c];
          s = a.scale * s + detail::term(a.terms, b, h, r, j, a.heads, a.nq, a.nk);
          const double p = std::exp(s - a.lse[row]), ds = p * (dp - delta);
          for (Index c = 0; dq && c < a.d; ++c) dq[c] += a.scale * ds * k[c];
          for (Index c = 0; a.dk.data && c < a.d; ++c)
            a.dk.at(b, h)[j * a.dk.token + c] += a.scale * ds * q[c];
          for (Index c = 0; a.dvalue.data && c < a.dv; ++c)
            a.dvalue.at(b, h)[j * a.dvalue.token + c] += p * g[c];
          if (dbias) dbias[j] += ds;
          if (dh) dh[j / a.terms.columns] += ds;
          if (dw) dw[j % a.terms.columns] += ds;
        }
      }
    }
  });
}

#endif  // MORAINE_BODIES

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
