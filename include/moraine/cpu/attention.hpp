#pragma once
// Scaled dot-product attention without the matrix of scores:
//
//   S = scale q k^T,  P = softmax(S),  out = P v
//   dv = P^T dout,  dS = P (dout v^T - rowsum(dout out)),  dq = scale dS k,  dk = scale dS^T q
//
// Float runs on the tiles of cpu/gemm_kernels.hpp, a strip of six queries against a block of keys
// at a time with the running maximum and sum of each row (Milakov and Gimelshein 2018; Dao et al.
// 2022); double, the oracle, is plain loops. The backward recomputes P from lse. The order of every
// sum depends on the sizes alone: the same bits for any thread count. A NaN in q reaches its row, a
// NaN in k or v every row of its head.
#include <cmath>
#include <moraine/core/parallel.hpp>
#include <moraine/core/shape.hpp>
#include <moraine/cpu/gemm_kernels.hpp>
#include <moraine/cpu/pack.hpp>

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

template <class T>
struct Attention {
  Index batch = 1, heads = 1;
  Index nq = 0, nk = 0;  ///< queries, keys; with nk = 0 the output is 0 and lse is -inf
  Index d = 0, dv = 0;   ///< elements of a query and key, of a value
  Heads<const T> q{}, k{}, v{};
  Heads<T> out{};  ///< must not overlap q, k or v
  T scale = T(1);
  T* lse = nullptr;  ///< (batch,heads,nq), optional: log sum_j exp(S_ij), for the backward
};

/// Gradients; dq, dk, dv that are null are not computed. Overwrites, never adds.
template <class T>
struct AttentionBackward {
  Index batch = 1, heads = 1;
  Index nq = 0, nk = 0, d = 0, dv = 0;
  Heads<const T> q{}, k{}, v{}, out{}, dout{};
  T scale = T(1);
  const T* lse = nullptr;  ///< (batch,heads,nq) from the forward
  Heads<T> dq{}, dk{}, dvalue{};
};

/// Element-wise inner loops; n is a multiple of the vector width.
struct AttentionKernels {
  /// s <- 2^(s - top), top = max(before, max s); returns the sum of s.
  float (*softmax)(float* s, Index n, float before, float* top);
  /// p <- 2^(p - lse); dp <- p (dp - delta).
  void (*softmax_dx)(float* p, float* dp, Index n, float lse, float delta);
};

const AttentionKernels& attention_kernels(Isa isa);

void attention(const Attention<float>& a);
void attention_backward(const AttentionBackward<float>& a);
void attention(const Attention<double>& a);
void attention_backward(const AttentionBackward<double>& a);

namespace detail {
/// The float forms by given kernels.
void attention_with(const GemmKernels& kernels, const Attention<float>& a);
void attention_backward_with(const GemmKernels& kernels, const AttentionBackward<float>& a);
}  // namespace detail

#if defined(MORAINE_BODIES)

namespace simd {

template <class L>
MORAINE_FLATTEN float softmax_piece(float* s, Index n, float before, float* top) {
  using F = typename L::F;
  constexpr int W = L::width;
  F a = before - F{}, b = a;
  Index j = 0;
  for (; j + 2 * W <= n; j += 2 * W) {
    F u, v;
    L::load(u, s + j);
    L::load(v, s + j + W);
    a = u > a ? u : a;
    b = v > b ? v : b;
  }
  if (j < n) {
    F u;
    L::load(u, s + j);
    a = u > a ? u : a;
  }
  a = b > a ? b : a;
  *top = max<L>(a);
  // Nothing but -inf so far: weights 0, not NaN; a later block may still hold a number.
  const float m = *top == -__builtin_inff() ? 0.0f : *top;
  F x = F{}, y = F{};
  for (j = 0; j + 2 * W <= n; j += 2 * W) {
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
  if (j < n) {
    F u;
    L::load(u, s + j);
    u -= m;
    exp2<L>(u);
    L::store(s + j, u);
    x += u;
  }
  x += y;
  return sum<L>(x);
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

#define MORAINE_ATTENTION_KERNELS(NAME, ATTRIBUTE, LANES)                                      \
  ATTRIBUTE MORAINE_INLINE float NAME##_softmax(float* s, Index n, float before, float* top) { \
    return softmax_piece<LANES>(s, n, before, top);                                            \
  }                                                                                            \
  ATTRIBUTE MORAINE_INLINE void NAME##_softmax_dx(float* p, float* dp, Index n, float lse,     \
                                                  float delta) {                               \
    softmax_piece_dx<LANES>(p, dp, n, lse, delta);                                             \
  }
MORAINE_ATTENTION_KERNELS(portable, __attribute__((noinline)), Lanes4)
#if defined(MORAINE_X86)
MORAINE_ATTENTION_KERNELS(avx2, MORAINE_AVX2, Lanes8)
MORAINE_ATTENTION_KERNELS(avx512, MORAINE_AVX512, Lanes16)
#endif
#undef MORAINE_ATTENTION_KERNELS

}  // namespace simd

MORAINE_INLINE const AttentionKernels& attention_kernels(Isa isa) {
  using namespace simd;
#if defined(MORAINE_X86)
  static constexpr AttentionKernels a2{avx2_softmax, avx2_softmax_dx};
  static constexpr AttentionKernels a5{avx512_softmax, avx512_softmax_dx};
  if (isa == Isa::avx2) return a2;
  if (isa == Isa::avx512) return a5;
#endif
  static constexpr AttentionKernels p{portable_softmax, portable_softmax_dx};
  (void)isa;
  return p;
}

namespace detail {

constexpr float log2_e = 1.44269504f, ln_2 = 0.693147181f;

inline Index round_up(Index n, Index to) { return (n + to - 1) / to * to; }

/// dst (rows,padded) = factor * src, zero from column cols on.
__attribute__((noinline)) inline void copy_rows(const float* src, Index token, Index rows,
                                                Index cols, Index padded, float factor,
                                                float* dst) {
  using L = simd::Lanes4;
  for (Index i = 0; i < rows; ++i) {
    const float* const from = src + i * token;
    float* const to = dst + i * padded;
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

/// C (rows,cols) = or += A B on whole tiles. Element (i,k) of A lies at a[i * row + k * step]; rows
/// past `rows` repeat the last one, so C must hold rows and cols rounded up to 6 and a tile. B are
/// panels, panel p at b + p * next, its rows ldb apart.
__attribute__((noinline)) inline void tiles(const GemmKernels& ker, const float* a, Index row,
                                            Index step, const float* b, Index next, Index ldb,
                                            Index rows, Index cols, Index k, bool add, float* c,
                                            Index ldc) {
  static constexpr float zeros[64] = {};
  const Index w = ker.wide_cols, strips = (rows + 5) / 6, panels = (cols + w - 1) / w;
  const bool across = cols > rows;  // the larger operand is read once, the smaller stays in cache
  for (Index x = 0; x < strips * panels; ++x) {
    const Index s = (across ? x % strips : x / panels) * 6, p = across ? x / strips : x % panels;
    const float* at[6];
    for (Index i = 0; i < 6; ++i) at[i] = a + (s + i < rows ? s + i : rows - 1) * row;
    float* const out = c + s * ldc + p * w;
    ker.wide(at, step, b + p * next, ldb, k, add ? out : zeros, add ? ldc : 0, out, ldc);
  }
}

MORAINE_INLINE void attention_with(const GemmKernels& ker, const Attention<float>& a) {
  if (a.batch <= 0 || a.heads <= 0 || a.nq <= 0) return;
  const AttentionKernels& soft = attention_kernels(ker.isa);
  const Index w = ker.wide_cols;
  const Index keys = round_up(a.nk, w), values = round_up(a.dv, w);
  // A block of keys and values fills half of L2; 16 strips of queries share it. Vectors so long
  // that a block holds few keys are worked on in two turns, the keys of all strips, then the
  // values.
  Index block = round_up(65536 / (a.d + a.dv + 1), 64);
  block = block < keys ? block : keys;
  constexpr Index most = 96;  // queries of a task
  const Index turn = a.d + a.dv > 512 ? most : 6;
  const Index blocks_q = (a.nq + most - 1) / most, chunks = (a.nk + 63) / 64;
  const Index size_k = keys * a.d, size_v = a.nk * values, size = size_k + size_v;
  const Index all = a.batch * a.heads;
  Index group = size > 0 ? (4 << 20) / size : all;
  group = group < 1 ? 1 : group > all ? all : group;
  const Scratch packed(group * size);

  for (Index start = 0; start < all; start += group) {
    const Index count = all - start < group ? all - start : group;
    parallel_for(count * chunks, 1 + 256 / (a.d + a.dv + 1), [&](Index begin, Index end) {
      for (Index x = begin; x < end; ++x) {
        const Index i = x / chunks, h = (start + i) % a.heads, b = (start + i) / a.heads;
        const Index k0 = x % chunks * 64, k1 = k0 + 64 < a.nk ? k0 + 64 : a.nk;
        float* const dst = packed.data() + i * size;
        for (Index j = k0; j < k1; j += w)  // panels of keys: [key / w][d][w]
          pack_panel(a.k.at(b, h) + j * a.k.token, 1, a.k.token, a.d, k1 - j < w ? k1 - j : w, w,
                     dst + j * a.d);
        for (Index j = 0; j < a.dv; j += w)  // panels of values: [dv / w][key][w]
          pack_panel(a.v.at(b, h) + k0 * a.v.token + j, a.v.token, 1, k1 - k0,
                     a.dv - j < w ? a.dv - j : w, w, dst + size_k + j * a.nk + k0 * w);
      }
    });
    const Index cost = a.nk * (a.d + a.dv) * (a.nq < most ? a.nq : most) + 1000;
    parallel_for(count * blocks_q, 1 + 100000 / cost, [&](Index begin, Index end) {
      // Rows a little more than a power of two apart use different sets of the caches.
      const Index ld = block + 16, ldq = a.d + 16;
      const Scratch scratch(turn * (ld + ldq) + most * (values + 2));
      float* const s = scratch.data();  // [query of the turn][key]
      float* const q = s + turn * ld;   // [query of the turn][d], times scale log2 e
      float* const o = q + turn * ldq;  // [query][dv]
      float* const top = o + most * values;
      float* const total = top + most;
      for (Index x = begin; x < end; ++x) {
        const Index i = x / blocks_q, h = (start + i) % a.heads, b = (start + i) / a.heads;
        const Index q0 = x % blocks_q * most, q1 = q0 + most < a.nq ? q0 + most : a.nq;
        const float* const kp = packed.data() + i * size;
        const float* const vp = kp + size_k;
        for (Index j = 0; j < most; ++j) top[j] = -HUGE_VALF, total[j] = 0;
        for (Index k0 = 0; k0 < a.nk; k0 += block) {
          const Index kn = a.nk - k0 < block ? a.nk - k0 : block, whole = round_up(kn, w);
          for (Index r = q0; r < q1; r += turn) {
            const Index rows = q1 - r < turn ? q1 - r : turn;
            float* const out = o + (r - q0) * values;
            copy_rows(a.q.at(b, h) + r * a.q.token, a.q.token, rows, a.d, ldq, a.scale * log2_e, q);
            tiles(ker, q, ldq, 1, kp + k0 * a.d, w * a.d, w, rows, kn, a.d, false, s, ld);
            for (Index j = 0; j < rows; ++j) {
              float* const row = s + j * ld;
              for (Index z = kn; z < whole; ++z) row[z] = -HUGE_VALF;
              const Index t = r - q0 + j;
              float now;
              const float sum = soft.softmax(row, whole, top[t], &now);
              if (now != top[t] && k0 > 0) {
                const float fade = std::exp2(top[t] - now);
                total[t] *= fade;
                for (Index z = 0; z < values; ++z) out[j * values + z] *= fade;
              }
              total[t] += sum;
              top[t] = now;
            }
            tiles(ker, s, ld, 1, vp + k0 * w, w * a.nk, w, rows, a.dv, kn, k0 > 0, out, values);
          }
        }
        for (Index r = q0; r < q1; ++r) {
          const Index t = r - q0;
          const float norm = 1.0f / total[t];
          float* const out = a.out.at(b, h) + r * a.out.token;
          if (a.nk > 0)
            copy_rows(o + t * values, 0, 1, a.dv, a.dv, norm, out);
          else
            for (Index j = 0; j < a.dv; ++j) out[j] = 0;
          if (a.lse) a.lse[(b * a.heads + h) * a.nq + r] = top[t] * ln_2 + std::log(total[t]);
        }
      }
    });
  }
}

/// One piece of the keys of one head against all of its queries: dk and dv of these keys, complete,
/// and their share of dq (nq rounded up to 6, d rounded up to a tile; not yet scaled).
MORAINE_INLINE void attention_backward_piece(const GemmKernels& ker,
                                             const AttentionBackward<float>& a, Index b, Index h,
                                             Index begin, Index end, float* dq) {
  const AttentionKernels& soft = attention_kernels(ker.isa);
  const Index w = ker.wide_cols;
  const Index d = round_up(a.d, w), dv = round_up(a.dv, w), wide = d > dv ? d : dv;
  Index block = round_up(16384 / wide, 64);
  block = block > 256 ? 256 : block;
  block = block < round_up(end - begin, w) ? block : round_up(end - begin, w);
  constexpr Index queries = 96;
  const Index ld = block + 16, six = round_up(block, 6);
  const Index ldd = d + 16, ldv = dv + 16;
  const Scratch scratch(2 * queries * ld + queries * (ldd + ldv + 2) + block * (d + dv + ldd) +
                        six * (ldd + ldv));
  float* const p = scratch.data();       // [query][key]
  float* const ds = p + queries * ld;    // [query][key]
  float* const q = ds + queries * ld;    // [query][d], times scale log2 e
  float* const g = q + queries * ldd;    // dout: [query][dv]
  float* const lse = g + queries * ldv;  // [query], times log2 e
  float* const delta = lse + queries;    // [query], sum_j dout_j out_j
  float* const kt = delta + queries;     // panels of keys: [key / w][d][w]
  float* const vt = kt + block * d;      // panels of keys: [key / w][dv][w]
  float* const kr = vt + block * dv;     // [key][d]
  float* const dk = kr + block * ldd;    // [key][d]
  float* const dvs = dk + six * ldd;     // [key][dv]
  const float* const stats = a.lse + (b * a.heads + h) * a.nq;

  for (Index k0 = begin; k0 < end; k0 += block) {
    const Index kn = end - k0 < block ? end - k0 : block, whole = round_up(kn, w);
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
      const float* const dout = a.dout.at(b, h) + q0 * a.dout.token;
      const float* const out = a.out.at(b, h) + q0 * a.out.token;
      copy_rows(a.q.at(b, h) + q0 * a.q.token, a.q.token, qn, a.d, ldd, a.scale * log2_e, q);
      copy_rows(dout, a.dout.token, qn, a.dv, ldv, 1.0f, g);
      for (Index i = 0; i < qn; ++i) {
        delta[i] = dot(dout + i * a.dout.token, out + i * a.out.token, a.dv);
        lse[i] = stats[q0 + i] * log2_e;
      }
      tiles(ker, q, ldd, 1, kt, w * a.d, w, qn, kn, a.d, false, p, ld);
      tiles(ker, g, ldv, 1, vt, w * a.dv, w, qn, kn, a.dv, false, ds, ld);
      for (Index i = 0; i < qn; ++i)
        soft.softmax_dx(p + i * ld, ds + i * ld, whole, lse[i], delta[i]);
      // The tile takes its left operand with any strides: P^T and dS^T are P and dS read by column.
      if (a.dvalue.data) tiles(ker, p, 1, ld, g, w, ldv, kn, dv, qn, q0 > 0, dvs, ldv);
      if (a.dk.data) tiles(ker, ds, 1, ld, q, w, ldd, kn, d, qn, q0 > 0, dk, ldd);
      if (dq) tiles(ker, ds, ld, 1, kr, w, ldd, qn, d, kn, k0 > begin, dq + q0 * d, d);
    }
    for (Index i = 0; i < kn; ++i) {
      if (a.dvalue.data)
        for (Index j = 0; j < a.dv; ++j)
          a.dvalue.at(b, h)[(k0 + i) * a.dvalue.token + j] = a.nq > 0 ? dvs[i * ldv + j] : 0.0f;
      if (a.dk.data)  // q held scale log2 e
        for (Index j = 0; j < a.d; ++j)
          a.dk.at(b, h)[(k0 + i) * a.dk.token + j] = a.nq > 0 ? dk[i * ldd + j] * ln_2 : 0.0f;
    }
  }
}

MORAINE_INLINE void attention_backward_with(const GemmKernels& ker,
                                            const AttentionBackward<float>& a) {
  const Index all = a.batch * a.heads;
  if (all <= 0) return;
  // At most 8 pieces of keys, each with a dq of its own; these are added in order.
  const Index piece = a.nk <= 8 * 256 ? 256 : round_up((a.nk + 7) / 8, 256);
  const Index pieces = a.nk > 0 ? (a.nk + piece - 1) / piece : 1;
  const Index d = round_up(a.d, ker.wide_cols), size = round_up(a.nq, 6) * d;
  Index group = a.dq.data && size > 0 ? (4 << 20) / (size * pieces) : all;
  group = group < 1 ? 1 : group > all ? all : group;
  const Scratch shares(a.dq.data ? group * pieces * size : 0);
  for (Index start = 0; start < all; start += group) {
    const Index count = all - start < group ? all - start : group;
    const Index cost = a.nq * (a.nk < piece ? a.nk : piece) * (a.d + a.dv) * 3 + 1000;
    parallel_for(count * pieces, 1 + 100000 / cost, [&](Index begin, Index end) {
      for (Index x = begin; x < end && a.nk > 0; ++x) {
        const Index i = start + x / pieces, k0 = x % pieces * piece;
        attention_backward_piece(ker, a, i / a.heads, i % a.heads, k0,
                                 k0 + piece < a.nk ? k0 + piece : a.nk,
                                 a.dq.data ? shares.data() + x * size : nullptr);
      }
    });
    if (!a.dq.data) continue;
    const Index most = a.nk > 0 ? pieces : 0;
    parallel_for(count * a.nq, 1 + 8192 / (a.d + 1), [&](Index begin, Index end) {
      for (Index x = begin; x < end; ++x) {
        const Index i = x / a.nq, r = x % a.nq;
        float* const dq = a.dq.at((start + i) / a.heads, (start + i) % a.heads) + r * a.dq.token;
        const float* const share = shares.data() + i * pieces * size + r * d;
        for (Index j = 0; j < a.d; ++j) {
          float sum = 0;
          for (Index s = 0; s < most; ++s) sum += share[s * size + j];
          dq[j] = a.scale * sum;
        }
      }
    });
  }
}

}  // namespace detail

MORAINE_INLINE void attention(const Attention<float>& a) {
  detail::attention_with(gemm_kernels(), a);
}
MORAINE_INLINE void attention_backward(const AttentionBackward<float>& a) {
  detail::attention_backward_with(gemm_kernels(), a);
}

MORAINE_INLINE void attention(const Attention<double>& a) {
  parallel_for(a.batch * a.heads * a.nq, 8, [&](Index begin, Index end) {
    double* const p = static_cast<double*>(std::malloc(sizeof(double) * (a.nk + 1)));
    if (!p) fail(ErrorKind::memory, "attention: out of memory");
    for (Index x = begin; x < end; ++x) {
      const Index b = x / a.nq / a.heads, h = x / a.nq % a.heads, r = x % a.nq;
      const double* const q = a.q.at(b, h) + r * a.q.token;
      double top = -HUGE_VAL, total = 0;
      for (Index j = 0; j < a.nk; ++j) {
        const double* const k = a.k.at(b, h) + j * a.k.token;
        double s = 0;
        for (Index c = 0; c < a.d; ++c) s += q[c] * k[c];
        p[j] = s * a.scale;
        top = p[j] > top ? p[j] : top;
      }
      for (Index j = 0; j < a.nk; ++j) total += p[j] = std::exp(p[j] - top);
      double* const out = a.out.at(b, h) + r * a.out.token;
      for (Index c = 0; c < a.dv; ++c) out[c] = 0;
      for (Index j = 0; j < a.nk; ++j) {
        const double* const v = a.v.at(b, h) + j * a.v.token;
        for (Index c = 0; c < a.dv; ++c) out[c] += p[j] / total * v[c];
      }
      if (a.lse) a.lse[x] = top + std::log(total);
    }
    std::free(p);
  });
}

MORAINE_INLINE void attention_backward(const AttentionBackward<double>& a) {
  parallel_for(a.batch * a.heads, 1, [&](Index begin, Index end) {
    for (Index x = begin; x < end; ++x) {
      const Index b = x / a.heads, h = x % a.heads;
      for (Index j = 0; j < a.nk; ++j) {
        for (Index c = 0; a.dk.data && c < a.d; ++c) a.dk.at(b, h)[j * a.dk.token + c] = 0;
        for (Index c = 0; a.dvalue.data && c < a.dv; ++c)
          a.dvalue.at(b, h)[j * a.dvalue.token + c] = 0;
      }
      for (Index r = 0; r < a.nq; ++r) {
        const double* const q = a.q.at(b, h) + r * a.q.token;
        const double* const g = a.dout.at(b, h) + r * a.dout.token;
        const double* const out = a.out.at(b, h) + r * a.out.token;
        double* const dq = a.dq.data ? a.dq.at(b, h) + r * a.dq.token : nullptr;
        double delta = 0;
        for (Index c = 0; c < a.dv; ++c) delta += g[c] * out[c];
        for (Index c = 0; dq && c < a.d; ++c) dq[c] = 0;
        for (Index j = 0; j < a.nk; ++j) {
          const double* const k = a.k.at(b, h) + j * a.k.token;
          const double* const v = a.v.at(b, h) + j * a.v.token;
          double s = 0, dp = 0;
          for (Index c = 0; c < a.d; ++c) s += q[c] * k[c];
          for (Index c = 0; c < a.dv; ++c) dp += g[c] * v[c];
          const double p = std::exp(a.scale * s - a.lse[x * a.nq + r]);
          const double ds = a.scale * p * (dp - delta);
          for (Index c = 0; dq && c < a.d; ++c) dq[c] += ds * k[c];
          for (Index c = 0; a.dk.data && c < a.d; ++c)
            a.dk.at(b, h)[j * a.dk.token + c] += ds * q[c];
          for (Index c = 0; a.dvalue.data && c < a.dv; ++c)
            a.dvalue.at(b, h)[j * a.dvalue.token + c] += p * g[c];
        }
      }
    }
  });
}

#endif  // MORAINE_BODIES

}  // namespace cpu
}  // namespace moraine
