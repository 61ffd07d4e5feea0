#pragma once
// Layer normalisation over the last axis, with biased variance and eps inside the square root:
//
//   h = (x - mean x) / sqrt(var x + eps),   y = h w + b
//   dh = dy w,   dx = (dh - mean dh - h mean(dh h)) / sqrt(var x + eps)
//   dw = sum dy h,   db = sum dy
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/ops/binary.hpp>
#include <moraine/ops/reduce.hpp>
#endif

#include <cmath>

namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
template <class T> struct LayerNorm_ {
  static constexpr const char* name = "layer_norm";
  Index rows, cols;
  const T *x, *w, *b;  // w and b may be null
  T eps;
  T *y, *mean, *rstd;  // mean and rstd, one per row, may be null
  static void cpu(const LayerNorm_& k);
};
template <class T> struct LayerNormGrad {
  static constexpr const char* name = "layer_norm";
  Index rows, cols;
  const T *x, *w, *mean, *rstd, *dy;
  T* dx;            // may be null
  T *dw, *db;       // may be null; one row each
  static void cpu(const LayerNormGrad& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

/// The definition of layer_norm, op by op.
template <class T>
Tensor<T> layer_norm_composed(const Tensor<T>& x, const Tensor<T>& w, const Tensor<T>& b, double eps) {
  const Tensor<T> c = sub(x, mean(x, {.axes = {-1}, .keep = true}));
  Tensor<T> y = mul(c, rsqrt(mean(square(c), {.axes = {-1}, .keep = true}) + static_cast<T>(eps)));
  if (w.defined()) y = mul(y, w);
  return b.defined() ? add(y, b) : y;
}

/// x (...,C), w and b (C) or undefined -> (...,C).
template <class T>
Tensor<T> layer_norm(const Tensor<T>& x, const Tensor<T>& w, const Tensor<T>& b, double eps) {
  if (x.rank() < 1) fail(ErrorKind::shape, "layer_norm: needs at least one axis; x " + str(x.shape()));
  const Index cols = x.size(-1), rows = cols ? x.numel() / cols : 0;
  for (const Tensor<T>* p : {&w, &b})
    if (p->defined() && p->shape() != Shape{cols})
      fail(ErrorKind::shape, "layer_norm: weight or bias " + str(p->shape()) + " for x " + str(x.shape()));
  const Tensor<T> cx = x.contiguous().detach();
  const Tensor<T> cw = w.defined() ? w.contiguous().detach() : w, cb = b.defined() ? b.contiguous().detach() : b;
  const bool dx = wants(x), dw = wants(w), db = wants(b);
  Tensor<T> y = empty_like(cx), mean, rstd;
  if (dx || dw) mean = Tensor<T>::empty({rows}, x.device()), rstd = Tensor<T>::empty({rows}, x.device());
  launch(x.device(), LayerNorm_<T>{rows, cols, cx.data(), cw.data(), cb.data(), static_cast<T>(eps),
                                   y.data(), mean.data(), rstd.data()});
  return record("layer_norm", y, {&x, &w, &b},
                [dx, dw, db, rows, cols, mean, rstd, w = cw,
                 x = dx || dw ? cx : Tensor<T>()](const Tensor<T>& dy) {
                  const Tensor<T> g = dy.contiguous();
                  Grads<T> out(3);
                  if (dx) out[0] = empty_like(g);
                  if (dw) out[1] = Tensor<T>::empty({cols}, g.device());
                  if (db) out[2] = Tensor<T>::empty({cols}, g.device());
                  launch(g.device(), LayerNormGrad<T>{rows, cols, x.data(), w.data(), mean.data(),
                                                      rstd.data(), g.data(), out[0].data(),
                                                      out[1].data(), out[2].data()});
                  return out;
                });
}

// ---- CPU
template <class T> void LayerNorm_<T>::cpu(const LayerNorm_& k) {
  parallel_for(k.rows, 1 + 8192 / (k.cols + 1), [&](Index b, Index e) {
    for (Index r = b; r < e; ++r) {
      const T* x = k.x + r * k.cols;
      T* y = k.y + r * k.cols;
      T s[8] = {}, v[8] = {};
      Index i = 0;
      for (; i + 8 <= k.cols; i += 8)
        for (int j = 0; j < 8; ++j) s[j] += x[i + j];
      for (int j = 0; i < k.cols; ++i, ++j) s[j] += x[i];
      const T m = (((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]))) / static_cast<T>(k.cols);
      for (i = 0; i + 8 <= k.cols; i += 8)
        for (int j = 0; j < 8; ++j) v[j] += (x[i + j] - m) * (x[i + j] - m);
      for (int j = 0; i < k.cols; ++i, ++j) v[j] += (x[i] - m) * (x[i] - m);
      const T var = (((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]))) / static_cast<T>(k.cols);
      const T f = T(1) / std::sqrt(var + k.eps);
      if (k.w && k.b)
        for (i = 0; i < k.cols; ++i) y[i] = (x[i] - m) * f * k.w[i] + k.b[i];
      else
        for (i = 0; i < k.cols; ++i) y[i] = (x[i] - m) * f * (k.w ? k.w[i] : T(1)) + (k.b ? k.b[i] : T(0));
      if (k.mean) k.mean[r] = m, k.rstd[r] = f;
    }
  });
}
template <class T> void LayerNormGrad<T>::cpu(const LayerNormGrad& k) {
  if (k.dx)
    parallel_for(k.rows, 1 + 8192 / (k.cols + 1), [&](Index b, Index e) {
      for (Index r = b; r < e; ++r) {
        const T *x = k.x + r * k.cols, *dy = k.dy + r * k.cols;
        T* dx = k.dx + r * k.cols;
        const T m = k.mean[r], f = k.rstd[r];
        T s[8] = {}, h[8] = {};
        const auto add = [&](Index i, int j) {
          const T d = k.w ? dy[i] * k.w[i] : dy[i];
          s[j] += d;
          h[j] += d * (x[i] - m);
        };
        Index i = 0;
        for (; i + 8 <= k.cols; i += 8)
          for (int j = 0; j < 8; ++j) add(i + j, j);
        for (int j = 0; i < k.cols; ++i, ++j) add(i, j);
        const T n = static_cast<T>(k.cols);
        const T ms = (((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]))) / n;
        const T mh = (((h[0] + h[4]) + (h[1] + h[5])) + ((h[2] + h[6]) + (h[3] + h[7]))) / n * f * f;
        for (i = 0; i < k.cols; ++i)
          dx[i] = ((k.w ? dy[i] * k.w[i] : dy[i]) - ms - (x[i] - m) * mh) * f;
      }
    });
  if (!k.dw && !k.db) return;
  // Column sums in pieces of 64 rows, then the pieces in order.
  constexpr Index piece = 64;
  const Index pieces = (k.rows + piece - 1) / piece;
  std::vector<T> part(static_cast<std::size_t>(pieces * k.cols * 2));
  parallel_for(pieces, 1, [&](Index b, Index e) {
    for (Index p = b; p < e; ++p) {
      T *sw = part.data() + p * k.cols * 2, *sb = sw + k.cols;
      for (Index r = p * piece; r < k.rows && r < (p + 1) * piece; ++r) {
        const T* dy = k.dy + r * k.cols;
        if (k.dw) {
          const T* x = k.x + r * k.cols;
          const T m = k.mean[r], f = k.rstd[r];
          for (Index i = 0; i < k.cols; ++i) sw[i] += dy[i] * ((x[i] - m) * f);
        }
        for (Index i = 0; i < k.cols; ++i) sb[i] += dy[i];
      }
    }
  });
  for (Index i = 0; i < k.cols; ++i) {
    T sw = 0, sb = 0;
    for (Index p = 0; p < pieces; ++p) {
      sw += part[static_cast<std::size_t>(p * k.cols * 2 + i)];
      sb += part[static_cast<std::size_t>(p * k.cols * 2 + k.cols + i)];
    }
    if (k.dw) k.dw[i] = sw;
    if (k.db) k.db[i] = sb;
  }
}
MORAINE_INSTANTIATE(LayerNorm_)
MORAINE_INSTANTIATE(LayerNormGrad)
#endif

}  // namespace moraine
