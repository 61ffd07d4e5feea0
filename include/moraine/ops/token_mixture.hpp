#pragma once
// A gated mixture of attentions over a few low-rank tokens, for experts that are made of tokens
// (peft/token_experts.hpp). Expert e has T tokens a_e (T,r); row i asks it with q_ie (r) and trusts
// it with g_ie:
//
//   p_iet = softmax_t(scale q_ie . a_et)
//   y_ie  = g_ie sum_t p_iet a_et,   m_i = sum_e g_ie sum_t p_iet          (t >= first)
//
// and the row's result is [y_i1 .. y_iE m_i]; m, what all tokens of a row weigh, is 1 if the gates
// sum to 1 and first is 0. With u_t = a_t . dy + dm (0 for t < first):
//
//   dg = sum_t p_t u_t,   ds_t = scale g p_t (u_t - dg)
//   dq = sum_t ds_t a_t,  da_t = sum_i g p_t dy [t >= first] + ds_t q
//
// Nothing of size T is kept: the backward computes p again.
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/cpu/pack.hpp>
#include <moraine/cpu/simd.hpp>
#include <moraine/ops/matmul.hpp>
#include <moraine/ops/softmax.hpp>
#endif

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
template <class T>
struct TokenMixture {
  static constexpr const char* name = "token_mixture";
  Index n, experts, tokens, rank, first;
  T scale;
  const T *q, *a, *g;  // (n,E*r), (E,T,r), (n,E)
  T* y;                // (n,E*r+1)
  static void cpu(const TokenMixture& k);
};
template <class T>
struct TokenMixtureGrad {
  static constexpr const char* name = "token_mixture";
  TokenMixture<T> forward;  // its y is not read
  const T* dy;
  T *dq, *da, *dg;  // all are computed
  static void cpu(const TokenMixtureGrad& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

template <class T>
struct TokenMixtureOptions {
  T scale = T(1);
  Index first = 0;  ///< tokens before it take part in the softmax but not in the sum
};

/// The definition: the same value and gradients, op by op.
template <class T>
Tensor<T> token_mixture_composed(const Tensor<T>& q, const Tensor<T>& a, const Tensor<T>& g,
                                 const TokenMixtureOptions<T>& o = {}) {
  const Index n = q.size(0), e = a.size(0), t = a.size(1), r = a.size(2);
  const Tensor<T> rows = permute(reshape(q, {n, e, r}), {1, 0, 2});    // (E,n,r)
  const Tensor<T> all = softmax(matmul(rows, transpose(a), o.scale));  // (E,n,T)
  const Tensor<T> p = mul(slice(all, 2, o.first, t), reshape(transpose(g), {e, n, 1}));
  const Tensor<T> low = matmul(p, slice(a, 1, o.first, t));                   // (E,n,r)
  const Tensor<T> mass = reshape(sum(p, {.axes = {0, 2}}), {n, 1});           // (n,1)
  return concat<T>({reshape(permute(low, {1, 0, 2}), {n, e * r}), mass}, 1);  // (n,E*r+1)
}

/// q (n,E*r), a (E,T,r), g (n,E) -> (n,E*r+1): the mixtures of every expert side by side, then m.
template <class T>
Tensor<T> token_mixture(const Tensor<T>& q, const Tensor<T>& a, const Tensor<T>& g,
                        const TokenMixtureOptions<T>& o = {}) {
  if (q.rank() != 2 || a.rank() != 3 || g.rank() != 2 || q.size(0) != g.size(0) ||
      g.size(1) != a.size(0) || q.size(1) != a.size(0) * a.size(2))
    fail(ErrorKind::shape, "token_mixture: needs q (n,E*r), a (E,T,r), g (n,E); q " +
                               str(q.shape()) + ", a " + str(a.shape()) + ", g " + str(g.shape()));
  if (a.size(1) < 1)
    fail(ErrorKind::shape, "token_mixture: an expert needs a token; a " + str(a.shape()));
  if (o.first < 0 || o.first > a.size(1))
    fail(ErrorKind::value, "token_mixture: first is " + std::to_string(o.first) + " of " +
                               std::to_string(a.size(1)) + " tokens");
  check_device("token_mixture", q.device(), a.device());
  check_device("token_mixture", q.device(), g.device());
  if (q.device() != Device::cpu) return token_mixture_composed(q, a, g, o);
  const Tensor<T> cq = q.contiguous().detach(), ca = a.contiguous().detach(),
                  cg = g.contiguous().detach();
  const Index n = q.size(0), e = a.size(0), r = a.size(2);
  Tensor<T> y = Tensor<T>::empty({n, e * r + 1});
  const TokenMixture<T> k{n,       e,         a.size(1), r,         o.first,
                          o.scale, cq.data(), ca.data(), cg.data(), y.data()};
  launch(Device::cpu, k);
  const bool any = wants(q) || wants(a) || wants(g);
  return record("token_mixture", y, {&q, &a, &g},
                [k, kq = any ? cq : Tensor<T>(), ka = any ? ca : Tensor<T>(),
                 kg = any ? cg : Tensor<T>()](const Tensor<T>& dy) {
                  const Tensor<T> c = dy.contiguous();
                  const Grads<T> out{empty_like(kq), empty_like(ka), empty_like(kg)};
                  launch(Device::cpu, TokenMixtureGrad<T>{k, c.data(), out[0].data(), out[1].data(),
                                                          out[2].data()});
                  return out;
                });
}

// ---- CPU
namespace cpu {
namespace simd {

/// A group: as many rows as two vectors have lanes, side by side; element x of all of them starts
/// at x * group_rows.
template <class L>
inline constexpr Index group_rows = 2 * L::width;

/// out_x = sum_y in_y b(x,y) for the rows of a group; b(x,y) lies at b[x * bx + y * by].
template <class L, int some>
MORAINE_FLATTEN void group_product_some(const float* in, Index ny, const float* b, Index bx,
                                        Index by, float* out) {
  using F = typename L::F;
  F s[2 * some] = {};
  for (Index y = 0; y < ny; ++y) {
    F u, v;
    L::load(u, in + y * group_rows<L>);
    L::load(v, in + y * group_rows<L> + L::width);
    MORAINE_UNROLL for (int x = 0; x < some; ++x) {
      const float f = b[x * bx + y * by];
      s[2 * x] += f * u;
      s[2 * x + 1] += f * v;
    }
  }
  MORAINE_UNROLL for (int x = 0; x < 2 * some; ++x) L::store(out + x * L::width, s[x]);
}
template <class L>
MORAINE_FLATTEN void group_product(const float* in, Index ny, const float* b, Index bx, Index by,
                                   Index nx, float* out) {
  Index x = 0;
  for (; x + 4 <= nx; x += 4)
    group_product_some<L, 4>(in, ny, b + x * bx, bx, by, out + x * group_rows<L>);
  for (; x < nx; ++x) group_product_some<L, 1>(in, ny, b + x * bx, bx, by, out + x * group_rows<L>);
}

/// s (T, a group) <- softmax over T.
template <class L>
MORAINE_FLATTEN void group_softmax(float* s, Index t) {
  using F = typename L::F;
  for (float* c = s; c < s + group_rows<L>; c += L::width) {
    F top, sum = F{}, x;
    L::load(top, c);
    for (Index i = 1; i < t; ++i) {
      L::load(x, c + i * group_rows<L>);
      top = x > top ? x : top;
    }
    for (Index i = 0; i < t; ++i) {
      L::load(x, c + i * group_rows<L>);
      x = (x - top) * 1.44269504f;
      exp2<L>(x);
      L::store(c + i * group_rows<L>, x);
      sum += x;
    }
    sum = 1.0f / sum;
    for (Index i = 0; i < t; ++i) {
      L::load(x, c + i * group_rows<L>);
      x *= sum;
      L::store(c + i * group_rows<L>, x);
    }
  }
}

/// `cols` columns of `rows` rows of x, times f, as a group; rows that are not there are zero.
template <class L>
MORAINE_FLATTEN void group_load(const float* x, Index stride, Index rows, Index cols, float f,
                                float* to) {
  for (Index i = 0; i < group_rows<L>; ++i)
    for (Index c = 0; c < cols; ++c)
      to[c * group_rows<L> + i] = i < rows ? f * x[i * stride + c] : 0.0f;
}
template <class L>
MORAINE_FLATTEN void group_store(const float* from, Index stride, Index rows, Index cols, float f,
                                 float* x) {
  for (Index i = 0; i < rows; ++i)
    for (Index c = 0; c < cols; ++c) x[i * stride + c] = f * from[c * group_rows<L> + i];
}

/// Rows [begin,end) of y.
template <class L>
MORAINE_FLATTEN void token_mixture(const TokenMixture<float>& k, Index begin, Index end) {
  using F = typename L::F;
  constexpr Index G = group_rows<L>;
  const Index t = k.tokens, r = k.rank, er = k.experts * r;
  const Scratch scratch(G * (t + 2 * r + 2));
  float* const q = scratch.data();
  float* const p = q + G * r;
  float* const low = p + G * t;
  float* const g = low + G * r;
  float* const mass = g + G;
  for (Index i = begin; i < end; i += G) {
    const Index rows = end - i < G ? end - i : G;
    std::memset(mass, 0, G * sizeof(float));
    for (Index e = 0; e < k.experts; ++e) {
      const float* const a = k.a + e * t * r;
      group_load<L>(k.q + i * er + e * r, er, rows, r, k.scale, q);
      group_load<L>(k.g + i * k.experts + e, k.experts, rows, 1, 1.0f, g);
      group_product<L>(q, r, a, r, 1, t, p);
      group_softmax<L>(p, t);
      group_product<L>(p + k.first * G, t - k.first, a + k.first * r, 1, r, r, low);
      for (Index h = 0; h < G; h += L::width) {
        F f, x, m, s = F{};
        L::load(f, g + h);
        for (Index c = 0; c < r; ++c) {
          L::load(x, low + c * G + h);
          x *= f;
          L::store(low + c * G + h, x);
        }
        for (Index j = k.first; j < t; ++j) {
          L::load(x, p + j * G + h);
          s += x;
        }
        L::load(m, mass + h);
        m += f * s;
        L::store(mass + h, m);
      }
      group_store<L>(low, er + 1, rows, r, 1.0f, k.y + i * (er + 1) + e * r);
    }
    group_store<L>(mass, er + 1, rows, 1, 1.0f, k.y + i * (er + 1) + er);
  }
}

/// Rows [begin,end) of dq and dg; their share of da goes to `part` (E,T,r).
template <class L>
MORAINE_FLATTEN void token_mixture_grad(const TokenMixtureGrad<float>& grad, Index begin, Index end,
                                        float* part) {
  using F = typename L::F;
  constexpr Index G = group_rows<L>, W = L::width;
  const TokenMixture<float>& k = grad.forward;
  const Index t = k.tokens, r = k.rank, er = k.experts * r;
  const Scratch scratch(G * (2 * t + 3 * r + 3) + W * t * r);
  float* const q = scratch.data();
  float* const dy = q + G * r;
  float* const dq = dy + G * r;
  float* const p = dq + G * r;
  float* const u = p + G * t;  // then ds / scale: the scale is in q
  float* const g = u + G * t;
  float* const dm = g + G;
  float* const dg = dm + G;
  float* const da = dg + G;  // (T,r), a vector of partial sums each
  for (Index e = 0; e < k.experts; ++e) {
    const float* const a = k.a + e * t * r;
    std::memset(da, 0, static_cast<std::size_t>(W * t * r) * sizeof(float));
    for (Index i = begin; i < end; i += G) {
      const Index rows = end - i < G ? end - i : G;
      group_load<L>(k.q + i * er + e * r, er, rows, r, k.scale, q);
      group_load<L>(k.g + i * k.experts + e, k.experts, rows, 1, 1.0f, g);
      group_load<L>(grad.dy + i * (er + 1) + e * r, er + 1, rows, r, 1.0f, dy);
      group_load<L>(grad.dy + i * (er + 1) + er, er + 1, rows, 1, 1.0f, dm);
      group_product<L>(q, r, a, r, 1, t, p);
      group_softmax<L>(p, t);
      group_product<L>(dy, r, a, r, 1, t, u);
      for (Index h = 0; h < G; h += W) {
        F f, m, s = F{}, x, w;
        L::load(f, g + h);
        L::load(m, dm + h);
        for (Index j = 0; j < k.first; ++j) L::store(u + j * G + h, F{});
        for (Index j = k.first; j < t; ++j) {
          L::load(x, p + j * G + h);
          L::load(w, u + j * G + h);
          w += m;
          s += x * w;
          L::store(u + j * G + h, w);
        }
        L::store(dg + h, s);
        for (Index j = 0; j < t; ++j) {
          L::load(x, p + j * G + h);
          L::load(w, u + j * G + h);
          x *= f;
          w = x * (w - s);
          L::store(u + j * G + h, w);
          x = j < k.first ? F{} : x;
          L::store(p + j * G + h, x);
        }
      }
      group_product<L>(u, t, a, 1, r, r, dq);
      group_store<L>(dq, er, rows, r, k.scale, grad.dq + i * er + e * r);
      group_store<L>(dg, k.experts, rows, 1, 1.0f, grad.dg + i * k.experts + e);
      for (Index j = 0; j < t; ++j) {
        F p0, p1, s0, s1;
        L::load(p0, p + j * G);
        L::load(p1, p + j * G + W);
        L::load(s0, u + j * G);
        L::load(s1, u + j * G + W);
        for (Index c = 0; c < r; ++c) {
          F x, d;
          L::load(d, da + (j * r + c) * W);
          L::load(x, dy + c * G);
          d += p0 * x;
          L::load(x, dy + c * G + W);
          d += p1 * x;
          L::load(x, q + c * G);
          d += s0 * x;
          L::load(x, q + c * G + W);
          d += s1 * x;
          L::store(da + (j * r + c) * W, d);
        }
      }
    }
    for (Index x = 0; x < t * r; ++x) {
      F d;
      L::load(d, da + x * W);
      part[e * t * r + x] = sum<L>(d);
    }
  }
}

#define MORAINE_TOKEN_MIXTURE_KERNELS(NAME, ATTRIBUTE, LANES)                                    \
  ATTRIBUTE inline void NAME##_token_mixture(const TokenMixture<float>& k, Index begin,          \
                                             Index end) {                                        \
    token_mixture<LANES>(k, begin, end);                                                         \
  }                                                                                              \
  ATTRIBUTE inline void NAME##_token_mixture_grad(const TokenMixtureGrad<float>& k, Index begin, \
                                                  Index end, float* part) {                      \
    token_mixture_grad<LANES>(k, begin, end, part);                                              \
  }
MORAINE_TOKEN_MIXTURE_KERNELS(portable, __attribute__((noinline)), Lanes4)
#if defined(MORAINE_X86)
MORAINE_TOKEN_MIXTURE_KERNELS(avx2, MORAINE_AVX2, Lanes8)
#endif
#undef MORAINE_TOKEN_MIXTURE_KERNELS

}  // namespace simd

inline void token_mixture(const TokenMixture<float>& k, Index begin, Index end) {
#if defined(MORAINE_X86)
  if (best_isa() != Isa::portable) return simd::avx2_token_mixture(k, begin, end);
#endif
  simd::portable_token_mixture(k, begin, end);
}
inline void token_mixture_grad(const TokenMixtureGrad<float>& k, Index begin, Index end,
                               float* part) {
#if defined(MORAINE_X86)
  if (best_isa() != Isa::portable) return simd::avx2_token_mixture_grad(k, begin, end, part);
#endif
  simd::portable_token_mixture_grad(k, begin, end, part);
}

/// In double: the definition, as loops. p (T) of row i and expert e.
inline void mixture_weights(const TokenMixture<double>& k, Index i, Index e,
                            std::vector<double>& p) {
  const Index t = k.tokens, r = k.rank;
  double top = -HUGE_VAL, total = 0;
  for (Index j = 0; j < t; ++j) {
    double s = 0;
    for (Index c = 0; c < r; ++c) s += k.q[(i * k.experts + e) * r + c] * k.a[(e * t + j) * r + c];
    p[static_cast<std::size_t>(j)] = k.scale * s;
    top = k.scale * s > top ? k.scale * s : top;
  }
  for (double& x : p) total += x = std::exp(x - top);
  for (double& x : p) x /= total;
}
inline void token_mixture(const TokenMixture<double>& k, Index begin, Index end) {
  const Index t = k.tokens, r = k.rank, width = k.experts * r + 1;
  std::vector<double> p(static_cast<std::size_t>(t));
  for (Index i = begin; i < end; ++i) {
    double* const y = k.y + i * width;
    for (Index c = 0; c < width; ++c) y[c] = 0;
    for (Index e = 0; e < k.experts; ++e) {
      mixture_weights(k, i, e, p);
      const double g = k.g[i * k.experts + e];
      for (Index j = k.first; j < t; ++j) {
        const double w = g * p[static_cast<std::size_t>(j)];
        for (Index c = 0; c < r; ++c) y[e * r + c] += w * k.a[(e * t + j) * r + c];
        y[width - 1] += w;
      }
    }
  }
}
inline void token_mixture_grad(const TokenMixtureGrad<double>& grad, Index begin, Index end,
                               double* part) {
  const TokenMixture<double>& k = grad.forward;
  const Index t = k.tokens, r = k.rank, width = k.experts * r + 1;
  std::vector<double> p(static_cast<std::size_t>(t)), u(p);
  for (Index i = begin; i < end; ++i)
    for (Index e = 0; e < k.experts; ++e) {
      mixture_weights(k, i, e, p);
      const double g = k.g[i * k.experts + e];
      const double *const dy = grad.dy + i * width + e * r, dm = grad.dy[(i + 1) * width - 1];
      const double* const q = k.q + (i * k.experts + e) * r;
      double* const dq = grad.dq + (i * k.experts + e) * r;
      double dg = 0;
      for (Index c = 0; c < r; ++c) dq[c] = 0;
      for (Index j = 0; j < t; ++j) {
        const std::size_t at = static_cast<std::size_t>(j);
        u[at] = j < k.first ? 0 : dm;
        for (Index c = 0; c < r && j >= k.first; ++c) u[at] += k.a[(e * t + j) * r + c] * dy[c];
        dg += p[at] * u[at];
      }
      for (Index j = 0; j < t; ++j) {
        const std::size_t at = static_cast<std::size_t>(j);
        const double ds = k.scale * g * p[at] * (u[at] - dg);
        for (Index c = 0; c < r; ++c) {
          const Index x = (e * t + j) * r + c;
          dq[c] += ds * k.a[x];
          part[x] += ds * q[c] + (j < k.first ? 0 : g * p[at] * dy[c]);
        }
      }
      grad.dg[i * k.experts + e] = dg;
    }
}

}  // namespace cpu

template <class T>
void TokenMixture<T>::cpu(const TokenMixture& k) {
  if (k.tokens == 0) fail(ErrorKind::shape, "token_mixture: an expert needs at least one token");
  parallel_for(k.n, 64, [&](Index b, Index e) { moraine::cpu::token_mixture(k, b, e); });
}
template <class T>
void TokenMixtureGrad<T>::cpu(const TokenMixtureGrad& k) {
  // At most 64 pieces of rows with a da of their own, then the pieces in order.
  const Index n = k.forward.n, size = k.forward.experts * k.forward.tokens * k.forward.rank;
  const Index piece = n <= 64 * 256 ? 256 : (n + 1023) / 1024 * 16,
              pieces = (n + piece - 1) / piece;
  std::vector<T> part(static_cast<std::size_t>(pieces * size));
  parallel_for(n, piece, [&](Index b, Index e) {
    moraine::cpu::token_mixture_grad(k, b, e, part.data() + b / piece * size);
  });
  for (Index at = 0; at < size; ++at) {
    T s = 0;
    for (Index p = 0; p < pieces; ++p) s += part[static_cast<std::size_t>(p * size + at)];
    k.da[at] = s;
  }
}
MORAINE_INSTANTIATE(TokenMixture)
MORAINE_INSTANTIATE(TokenMixtureGrad)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
