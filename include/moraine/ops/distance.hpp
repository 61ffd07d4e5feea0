#pragma once
// Distances between rows and prototypes, as gates use them:
//
//   l1:   c_ne = sum_d |f_nd - w_ed|          dc/df = sign(f - w)
//   l2:   c_ne = sqrt(sum_d (f_nd - w_ed)^2)  dc/df = (f - w) / c      (0 where c = 0)
//   l2sq: c_ne = sum_d (f_nd - w_ed)^2        dc/df = 2 (f - w)
//   and dc/dw = -dc/df. The derivative of |t| at 0 is 0.
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/cpu/simd.hpp>
#include <moraine/ops/reduce.hpp>
#endif

#include <cmath>
#include <cstring>
#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

enum class Metric : unsigned char { l1, l2, l2sq };

// ---- kernels: what every backend must compute
template <class T>
struct Distance {
  static constexpr const char* name = "distance";
  Index n, e, d;
  Metric metric;
  const T *f, *w;  // (n,d), (e,d)
  T* c;            // (n,e)
  static void cpu(const Distance& k);
};
template <class T>
struct DistanceGrad {
  static constexpr const char* name = "distance";
  Index n, e, d;
  Metric metric;
  const T *f, *w, *c, *dc;
  T *df, *dw;  // (n,d), (e,d); either may be null
  static void cpu(const DistanceGrad& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

/// f (n,D), w (E,D) -> (n,E), all distances of a row of f to a row of w.
template <class T>
Tensor<T> distance(const Tensor<T>& f, const Tensor<T>& w, Metric metric) {
  if (f.rank() != 2 || w.rank() != 2 || f.size(1) != w.size(1))
    fail(ErrorKind::shape,
         "distance: needs (n,D) and (E,D); f " + str(f.shape()) + ", w " + str(w.shape()));
  const Tensor<T> cf = f.contiguous().detach(), cw = w.contiguous().detach();
  const Index n = f.size(0), e = w.size(0), d = f.size(1);
  Tensor<T> c = Tensor<T>::empty({n, e}, f.device());
  launch(f.device(), Distance<T>{n, e, d, metric, cf.data(), cw.data(), c.data()});
  const bool df = wants(f), dw = wants(w), any = df || dw;
  return record("distance", c, {&f, &w},
                [df, dw, n, e, d, metric, kf = any ? cf : Tensor<T>(), kw = any ? cw : Tensor<T>(),
                 kc = any && metric == Metric::l2 ? c : Tensor<T>()](const Tensor<T>& dc) {
                  const Tensor<T> g = dc.contiguous();
                  Grads<T> out(2);
                  if (df) out[0] = empty_like(kf);
                  if (dw) out[1] = empty_like(kw);
                  launch(g.device(),
                         DistanceGrad<T>{n, e, d, metric, kf.data(), kw.data(), kc.data(), g.data(),
                                         out[0].data(), out[1].data()});
                  return out;
                });
}

// ---- CPU
namespace cpu {
namespace simd {

/// Rows [begin,end) of c. Each sum runs in eight chains, joined in pairs that are four apart: the
/// same bits as the loop for double below, if that ran in float.
template <class L, bool absolute>
MORAINE_FLATTEN void distance_rows(const Distance<float>& k, Index begin, Index end) {
  using F = typename L::F;
  constexpr int W = L::width, parts = 8 / W;
  for (Index i = begin; i < end; ++i)
    for (Index j = 0; j < k.e; ++j) {
      const float *const f = k.f + i * k.d, *const w = k.w + j * k.d;
      F s[parts] = {};
      for (Index r = 0; r < k.d; r += 8) {
        MORAINE_UNROLL for (int p = 0; p < parts; ++p) {
          F t, u;
          load<L>(t, f + r + p * W, k.d - r - p * W);
          load<L>(u, w + r + p * W, k.d - r - p * W);
          t -= u;
          s[p] += absolute ? (F)((typename L::I)t & 0x7fffffff) : t * t;
        }
      }
      float v[8];
      std::memcpy(v, s, sizeof v);
      const float sum = ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]));
      k.c[i * k.e + j] = k.metric == Metric::l2 ? std::sqrt(sum) : sum;
    }
}

/// Rows [begin,end) of df, and their share of dw subtracted from `part` (e,d); either may be null.
template <class L, Metric metric>
MORAINE_FLATTEN void distance_grad_rows(const DistanceGrad<float>& k, Index begin, Index end,
                                        float* part) {
  using F = typename L::F;
  for (Index i = begin; i < end; ++i)
    for (Index r = 0; r < k.d; r += L::width) {
      const Index left = k.d - r;
      F f, df = F{};
      load<L>(f, k.f + i * k.d + r, left);
      for (Index j = 0; j < k.e; ++j) {
        const float g = k.dc[i * k.e + j];
        F t, slope;
        load<L>(t, k.w + j * k.d + r, left);
        t = f - t;
        if constexpr (metric == Metric::l1) {
          const F up = g - F{}, down = -up;
          slope = t * g;  // 0, or NaN where t is
          slope = t < 0.0f ? down : slope;
          slope = t > 0.0f ? up : slope;
        } else if constexpr (metric == Metric::l2) {
          const float c = k.c[i * k.e + j];
          slope = c == 0.0f ? F{} : g * t / c;
        } else {
          slope = 2.0f * g * t;
        }
        df += slope;
        if (part) {
          F s;
          load<L>(s, part + j * k.d + r, left);
          s -= slope;
          store<L>(part + j * k.d + r, s, left);
        }
      }
      if (k.df) store<L>(k.df + i * k.d + r, df, left);
    }
}

template <class L>
MORAINE_FLATTEN void distance_any(const Distance<float>& k, Index begin, Index end) {
  k.metric == Metric::l1 ? distance_rows<L, true>(k, begin, end)
                         : distance_rows<L, false>(k, begin, end);
}
template <class L>
MORAINE_FLATTEN void distance_grad_any(const DistanceGrad<float>& k, Index begin, Index end,
                                       float* part) {
  if (k.metric == Metric::l1) return distance_grad_rows<L, Metric::l1>(k, begin, end, part);
  if (k.metric == Metric::l2) return distance_grad_rows<L, Metric::l2>(k, begin, end, part);
  distance_grad_rows<L, Metric::l2sq>(k, begin, end, part);
}

#define MORAINE_DISTANCE_KERNELS(NAME, ATTRIBUTE, LANES)                                           \
  ATTRIBUTE inline void NAME##_distance(const Distance<float>& k, Index begin, Index end) {        \
    distance_any<LANES>(k, begin, end);                                                            \
  }                                                                                                \
  ATTRIBUTE inline void NAME##_distance_grad(const DistanceGrad<float>& k, Index begin, Index end, \
                                             float* part) {                                        \
    distance_grad_any<LANES>(k, begin, end, part);                                                 \
  }
MORAINE_DISTANCE_KERNELS(portable, __attribute__((noinline)), Lanes4)
#if defined(MORAINE_X86)
MORAINE_DISTANCE_KERNELS(avx2, MORAINE_AVX2, Lanes8)
#endif
#undef MORAINE_DISTANCE_KERNELS

}  // namespace simd

inline void distance(const Distance<float>& k, Index begin, Index end) {
#if defined(MORAINE_X86)
  if (best_isa() != Isa::portable) return simd::avx2_distance(k, begin, end);
#endif
  simd::portable_distance(k, begin, end);
}
inline void distance_grad(const DistanceGrad<float>& k, Index begin, Index end, float* part) {
#if defined(MORAINE_X86)
  if (best_isa() != Isa::portable) return simd::avx2_distance_grad(k, begin, end, part);
#endif
  simd::portable_distance_grad(k, begin, end, part);
}

/// The same in double: the definitions, as loops.
inline void distance(const Distance<double>& k, Index begin, Index end) {
  for (Index i = begin; i < end; ++i)
    for (Index j = 0; j < k.e; ++j) {
      double sum = 0;
      for (Index r = 0; r < k.d; ++r) {
        const double t = k.f[i * k.d + r] - k.w[j * k.d + r];
        sum += k.metric == Metric::l1 ? std::abs(t) : t * t;
      }
      k.c[i * k.e + j] = k.metric == Metric::l2 ? std::sqrt(sum) : sum;
    }
}
inline void distance_grad(const DistanceGrad<double>& k, Index begin, Index end, double* part) {
  for (Index i = begin; i < end; ++i)
    for (Index r = 0; r < k.d; ++r) {
      double df = 0;
      for (Index j = 0; j < k.e; ++j) {
        const double t = k.f[i * k.d + r] - k.w[j * k.d + r], g = k.dc[i * k.e + j];
        double slope = 2 * g * t;
        if (k.metric == Metric::l1) {
          slope = t > 0 ? g : t < 0 ? -g : t * g;
        } else if (k.metric == Metric::l2) {
          const double c = k.c[i * k.e + j];
          slope = c == 0 ? 0 : g * t / c;
        }
        df += slope;
        if (part) part[j * k.d + r] -= slope;
      }
      if (k.df) k.df[i * k.d + r] = df;
    }
}

}  // namespace cpu

template <class T>
void Distance<T>::cpu(const Distance& k) {
  parallel_for(k.n, 1 + 131072 / (k.e * k.d + 1),
               [&](Index b, Index end) { moraine::cpu::distance(k, b, end); });
}
template <class T>
void DistanceGrad<T>::cpu(const DistanceGrad& k) {
  // Pieces of 128 rows with a dw of their own, then the pieces in order.
  constexpr Index piece = 128;
  const Index pieces = (k.n + piece - 1) / piece, size = k.e * k.d;
  std::vector<T> part(static_cast<std::size_t>(k.dw ? pieces * size : 0));
  parallel_for(k.n, piece, [&](Index b, Index end) {
    moraine::cpu::distance_grad(k, b, end, k.dw ? part.data() + b / piece * size : nullptr);
  });
  if (!k.dw) return;
  for (Index at = 0; at < size; ++at) {
    T s = 0;
    for (Index p = 0; p < pieces; ++p) s += part[static_cast<std::size_t>(p * size + at)];
    k.dw[at] = s;
  }
}
MORAINE_INSTANTIATE(Distance)
MORAINE_INSTANTIATE(DistanceGrad)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
