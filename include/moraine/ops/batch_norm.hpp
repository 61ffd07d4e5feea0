#pragma once
// Batch normalisation: every channel is brought to mean 0 and variance 1, by the statistics of the
// batch (training) or by those that training left (evaluation).
//
//   h = (x - m) r,  r = 1 / sqrt(v + eps),   y = h w + b;   m and v over batch and space
//   dh = dy w,  db = sum dy,  dw = sum dy h
//   training:   dx = (dh - mean dh - h mean(dh h)) r
//   evaluation: dx = dh r
//   running statistics:  m' = (1 - momentum) m' + momentum m, v' likewise with v n/(n-1)
#include <moraine/core/device.hpp>
#include <moraine/ops/reduction.hpp>
#ifdef MORAINE_HOST
#include <moraine/autograd/record.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/cpu/channels.hpp>
#include <moraine/ops/reduce.hpp>
#endif

#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
/// mean and variance (biased) of each channel of x (batch,channels,inner).
template <class T>
struct ChannelStats {
  static constexpr const char* name = "batch_norm";
  Index batch, channels, inner;
  const T* x;
  acc<T>*mean, *var;
  static void cpu(const ChannelStats& k);
};
/// y = (x - mean) / sqrt(var + eps) w + b by channel; w and b may be null.
template <class T>
struct BatchNorm {
  static constexpr const char* name = "batch_norm";
  Index batch, channels, inner;
  acc<T> eps;
  const T* x;
  const acc<T>*mean, *var;
  const T *w, *b;
  T* y;
  static void cpu(const BatchNorm& k);
};
/// dx, dw, db may be null. `training`: mean and var depend on x.
template <class T>
struct BatchNormGrad {
  static constexpr const char* name = "batch_norm";
  Index batch, channels, inner;
  bool training;
  acc<T> eps;
  const T* x;
  const acc<T>*mean, *var;
  const T *w, *dy;
  T *dx, *dw, *db;
  static void cpu(const BatchNormGrad& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

template <class T>
struct BatchNormInputs {
  Tensor<T> weight = {}, bias = {};  ///< (C), or undefined: 1 and 0
  Tensor<T> mean = {}, var = {};  ///< (C), the running statistics; undefined in training: 0 and 1
};
struct BatchNormOptions {
  double momentum = 0.1;
  double eps = 1e-5;
};
template <class T>
struct BatchNormResult {
  Tensor<T> y;
  Tensor<T> mean, var;  ///< (C), the new running statistics; not on the tape
};

namespace detail {
template <class T>
void check_batch_norm(const Tensor<T>& x, const BatchNormInputs<T>& p) {
  if (x.rank() < 2) fail(ErrorKind::shape, "batch_norm: needs (B,C,...); x " + str(x.shape()));
  for (const Tensor<T>* t : {&p.weight, &p.bias, &p.mean, &p.var})
    if (t->defined() && t->shape() != Shape{x.size(1)})
      fail(ErrorKind::shape,
           "batch_norm: a parameter " + str(t->shape()) + " for x " + str(x.shape()));
}
template <class T>
Tensor<T> batch_normed(const Tensor<T>& x, const BatchNormInputs<T>& p, const Tensor<acc<T>>& mean,
                       const Tensor<acc<T>>& var, bool training, double eps_) {
  const Split at = split_at(x.shape(), 1);
  const auto plain = [](const Tensor<T>& t) { return t.defined() ? t.contiguous().detach() : t; };
  const Tensor<T> cx = plain(x), w = plain(p.weight), b = plain(p.bias);
  const acc<T> eps = static_cast<acc<T>>(eps_);
  Tensor<T> y = empty_like(cx);
  launch(x.device(), BatchNorm<T>{at.outer, at.size, at.inner, eps, cx.data(), mean.data(),
                                  var.data(), w.data(), b.data(), y.data()});
  const bool dx = wants(x), dw = wants(p.weight), db = wants(p.bias);
  return record("batch_norm", y, {&x, &p.weight, &p.bias},
                [at, eps, training, dx, dw, db, mean, var, w,
                 x = (dx && training) || dw ? cx : Tensor<T>()](const Tensor<T>& dy) {
                  const Tensor<T> g = dy.contiguous();
                  Grads<T> out(3);
                  if (dx) out[0] = empty_like(g);
                  if (dw) out[1] = Tensor<T>::empty({at.size}, g.device());
                  if (db) out[2] = Tensor<T>::empty({at.size}, g.device());
                  launch(g.device(),
                         BatchNormGrad<T>{at.outer, at.size, at.inner, training, eps, x.data(),
                                          mean.data(), var.data(), w.data(), g.data(),
                                          out[0].data(), out[1].data(), out[2].data()});
                  return out;
                });
}
}  // namespace detail

/// x (B,C,...) by its own statistics; needs at least two values per channel.
template <class T>
BatchNormResult<T> batch_norm_train(const Tensor<T>& x, const BatchNormInputs<T>& p = {},
                                    const BatchNormOptions& o = {}) {
  detail::check_batch_norm(x, p);
  const Split at = split_at(x.shape(), 1);
  const Index n = at.outer * at.inner;
  if (n < 2)
    fail(ErrorKind::shape,
         "batch_norm: training needs at least two values per channel; x " + str(x.shape()));
  auto mean = Tensor<acc<T>>::empty({at.size}, x.device());
  auto var = Tensor<acc<T>>::empty({at.size}, x.device());
  const Tensor<T> c = x.contiguous().detach();
  launch(x.device(),
         ChannelStats<T>{at.outer, at.size, at.inner, c.data(), mean.data(), var.data()});
  BatchNormResult<T> r;
  r.y = detail::batch_normed(x, p, mean, var, true, o.eps);
  const auto moved = [&](const Tensor<T>& old, T start, const Tensor<acc<T>>& now, double factor) {
    const Tensor<acc<T>> v = now.to(Device::cpu);
    Tensor<T> out =
        old.defined() ? old.detach().to(Device::cpu).clone() : Tensor<T>::full({at.size}, start);
    const acc<T> m = static_cast<acc<T>>(o.momentum), f = static_cast<acc<T>>(o.momentum * factor);
    for (Index i = 0; i < at.size; ++i)
      out.data()[i] = static_cast<T>((1 - m) * acc<T>(out.data()[i]) + f * v.data()[i]);
    return out.to(x.device());
  };
  r.mean = moved(p.mean, T(0), mean, 1);
  r.var = moved(p.var, T(1), var, double(n) / double(n - 1));
  return r;
}

/// x (B,C,...) by the running statistics p.mean and p.var.
template <class T>
Tensor<T> batch_norm(const Tensor<T>& x, const BatchNormInputs<T>& p,
                     const BatchNormOptions& o = {}) {
  detail::check_batch_norm(x, p);
  if (!p.mean.defined() || !p.var.defined())
    fail(ErrorKind::value, "batch_norm: needs the running mean and variance; x " + str(x.shape()));
  const auto as = [&](const Tensor<T>& t) {
    const Tensor<T> c = t.detach().contiguous();
    if constexpr (std::is_same_v<T, acc<T>>)
      return c;
    else
      return Tensor<acc<T>>(c.shape(),
                            [&] {
                              const std::vector<T> v = c.values();
                              return std::vector<acc<T>>(v.begin(), v.end());
                            }())
          .to(x.device());
  };
  return detail::batch_normed(x, p, as(p.mean), as(p.var), false, o.eps);
}

// ---- CPU
namespace detail {
/// From this many pixels on, the vector kernels of cpu/channels.hpp.
constexpr Index channel_run = 16;
/// Sum over batch and space of f(offset), for one channel, in an order that depends on sizes alone.
template <class A, class F>
A channel_sum(Index batch, Index channels, Index inner, Index c, const F& f) {
  if (inner == 1) return ordered_total<A>(0, batch, [&](Index b) { return f(b * channels + c); });
  A s = 0;
  for (Index b = 0; b < batch; ++b) {
    const Index at = (b * channels + c) * inner;
    s += ordered_total<A>(at, at + inner, f);
  }
  return s;
}
}  // namespace detail

template <class T>
void ChannelStats<T>::cpu(const ChannelStats& k) {
  using A = acc<T>;
  const A n = static_cast<A>(k.batch * k.inner);
  if constexpr (std::is_same_v<T, float>)
    if (k.inner >= detail::channel_run) {
      const double all = static_cast<double>(k.batch * k.inner);
      parallel_for(k.channels, 1 + 32768 / (k.batch * k.inner + 1), [&](Index b, Index e) {
        for (Index c = b; c < e; ++c) {
          double m = 0, v = 0;
          for (Index i = 0; i < k.batch; ++i)
            m += cpu::deviations(k.x + (i * k.channels + c) * k.inner, k.inner, 0.0f, 1);
          const float mean = static_cast<float>(m / all);
          for (Index i = 0; i < k.batch; ++i)
            v += cpu::deviations(k.x + (i * k.channels + c) * k.inner, k.inner, mean, 2);
          k.mean[c] = mean;
          k.var[c] = static_cast<float>(v / all);
        }
      });
      return;
    }
  parallel_for(k.channels, 1 + 8192 / (k.batch * k.inner + 1), [&](Index b, Index e) {
    for (Index c = b; c < e; ++c) {
      const A m = detail::channel_sum<A>(k.batch, k.channels, k.inner, c,
                                         [&](Index i) { return A(k.x[i]); }) /
                  n;
      k.mean[c] = m;
      k.var[c] =
          detail::channel_sum<A>(k.batch, k.channels, k.inner, c,
                                 [&](Index i) { return (A(k.x[i]) - m) * (A(k.x[i]) - m); }) /
          n;
    }
  });
}
template <class T>
void BatchNorm<T>::cpu(const BatchNorm& k) {
  using A = acc<T>;
  parallel_for(k.batch * k.channels, 1 + 16384 / (k.inner + 1), [&](Index b, Index e) {
    for (Index r = b; r < e; ++r) {
      const Index c = r % k.channels;
      const A f = (k.w ? A(k.w[c]) : A(1)) / std::sqrt(k.var[c] + k.eps), m = k.mean[c];
      const A o = k.b ? A(k.b[c]) : A(0);
      const T* x = k.x + r * k.inner;
      T* y = k.y + r * k.inner;
      if constexpr (std::is_same_v<T, float>)
        if (k.inner >= detail::channel_run) {
          cpu::scale_shift(x, k.inner, m, f, o, y);
          continue;
        }
      for (Index i = 0; i < k.inner; ++i) y[i] = static_cast<T>((A(x[i]) - m) * f + o);
    }
  });
}
template <class T>
void BatchNormGrad<T>::cpu(const BatchNormGrad& k) {
  using A = acc<T>;
  const A n = static_cast<A>(k.batch * k.inner);
  parallel_for(k.channels, 1 + 4096 / (k.batch * k.inner + 1), [&](Index b, Index e) {
    for (Index c = b; c < e; ++c) {
      const A r = A(1) / std::sqrt(k.var[c] + k.eps), m = k.mean[c];
      const bool moments = k.training && k.dx;
      if constexpr (std::is_same_v<T, float>)
        if (k.inner >= detail::channel_run) {
          double sum = 0, sum_h = 0;
          for (Index i = 0; i < k.batch && (k.db || k.dw || moments); ++i) {
            const Index at = (i * k.channels + c) * k.inner;
            if (k.dw || moments)
              cpu::gradient_sums(k.dy + at, k.x + at, k.inner, m, sum, sum_h);
            else
              sum += cpu::deviations(k.dy + at, k.inner, 0.0f, 1);
          }
          sum_h *= static_cast<double>(r);
          if (k.db) k.db[c] = static_cast<float>(sum);
          if (k.dw) k.dw[c] = static_cast<float>(sum_h);
          const float f = (k.w ? k.w[c] : 1.0f) * r;
          const float d = f * static_cast<float>(sum / static_cast<double>(n)),
                      h = f * r * static_cast<float>(sum_h / static_cast<double>(n));
          for (Index i = 0; i < k.batch && k.dx; ++i) {
            const Index at = (i * k.channels + c) * k.inner;
            if (k.training)
              cpu::norm_gradient(k.dy + at, k.x + at, k.inner, m, f, h, d, k.dx + at);
            else
              cpu::scale_shift(k.dy + at, k.inner, 0.0f, f, 0.0f, k.dx + at);
          }
          continue;
        }
      A sum = 0, sum_h = 0;
      if (k.db || moments)
        sum = detail::channel_sum<A>(k.batch, k.channels, k.inner, c,
                                     [&](Index i) { return A(k.dy[i]); });
      if (k.dw || moments)
        sum_h = detail::channel_sum<A>(k.batch, k.channels, k.inner, c,
                                       [&](Index i) { return A(k.dy[i]) * ((A(k.x[i]) - m) * r); });
      if (k.db) k.db[c] = static_cast<T>(sum);
      if (k.dw) k.dw[c] = static_cast<T>(sum_h);
      if (!k.dx) continue;
      const A f = (k.w ? A(k.w[c]) : A(1)) * r, d = sum / n, h = sum_h / n * r;
      for (Index s = 0; s < k.batch; ++s) {
        const Index at = (s * k.channels + c) * k.inner;
        for (Index i = at; i < at + k.inner; ++i)
          k.dx[i] =
              static_cast<T>(f * (k.training ? A(k.dy[i]) - d - (A(k.x[i]) - m) * h : A(k.dy[i])));
      }
    }
  });
}
MORAINE_INSTANTIATE(ChannelStats)
MORAINE_INSTANTIATE(BatchNorm)
MORAINE_INSTANTIATE(BatchNormGrad)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
