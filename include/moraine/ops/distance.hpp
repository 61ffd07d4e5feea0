#pragma once
// Distances between rows and prototypes, as gates use them:
//
//   l1:   c_ne = sum_d |f_nd - w_ed|          dc/df = sign(f - w)
//   l2:   c_ne = sqrt(sum_d (f_nd - w_ed)^2)  dc/df = (f - w) / c      (0 where c = 0)
//   l2sq: c_ne = sum_d (f_nd - w_ed)^2        dc/df = 2 (f - w)
//   and dc/dw = -dc/df. The derivative of |t| at 0 is 0.
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/ops/reduce.hpp>
#endif

#include <cmath>

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
template <class T>
void Distance<T>::cpu(const Distance& k) {
  parallel_for(k.n, 1 + 16384 / (k.e * k.d + 1), [&](Index b, Index end) {
    for (Index i = b; i < end; ++i)
      for (Index j = 0; j < k.e; ++j) {
        const T *f = k.f + i * k.d, *w = k.w + j * k.d;
        T s[8] = {};
        Index r = 0;
        const auto add = [&](Index at, int lane) {
          const T t = f[at] - w[at];
          s[lane] += k.metric == Metric::l1 ? (t < T(0) ? -t : t) : t * t;
        };
        for (; r + 8 <= k.d; r += 8)
          for (int lane = 0; lane < 8; ++lane) add(r + lane, lane);
        for (int lane = 0; r < k.d; ++r, ++lane) add(r, lane);
        const T sum = ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
        k.c[i * k.e + j] = k.metric == Metric::l2 ? std::sqrt(sum) : sum;
      }
  });
}
template <class T>
void DistanceGrad<T>::cpu(const DistanceGrad& k) {
  // The slope of c_ij with respect to f_i, times dc_ij.
  const auto slope = [&](Index i, Index j, Index r) {
    const T t = k.f[i * k.d + r] - k.w[j * k.d + r], g = k.dc[i * k.e + j];
    switch (k.metric) {
      case Metric::l1:
        return t > T(0) ? g : t < T(0) ? -g : t * g;
      case Metric::l2: {
        const T c = k.c[i * k.e + j];
        return c == T(0) ? T(0) : g * t / c;
      }
      case Metric::l2sq:
        break;
    }
    return T(2) * g * t;
  };
  if (k.df)
    parallel_for(k.n, 1 + 16384 / (k.e * k.d + 1), [&](Index b, Index end) {
      for (Index i = b; i < end; ++i)
        for (Index r = 0; r < k.d; ++r) {
          T s = 0;
          for (Index j = 0; j < k.e; ++j) s += slope(i, j, r);
          k.df[i * k.d + r] = s;
        }
    });
  if (!k.dw) return;
  // Pieces of 128 rows, then the pieces in order.
  constexpr Index piece = 128;
  const Index pieces = (k.n + piece - 1) / piece, size = k.e * k.d;
  std::vector<T> part(static_cast<std::size_t>(pieces * size));
  parallel_for(pieces, 1, [&](Index b, Index end) {
    for (Index p = b; p < end; ++p)
      for (Index i = p * piece; i < k.n && i < (p + 1) * piece; ++i)
        for (Index j = 0; j < k.e; ++j) {
          T* s = part.data() + p * size + j * k.d;
          for (Index r = 0; r < k.d; ++r) s[r] -= slope(i, j, r);
        }
  });
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
