#pragma once
// Group normalisation: every group of channels of every sample is brought to mean 0 and variance 1,
// then scaled and shifted by channel. Y. Wu and K. He, Group Normalization, ECCV 2018.
//
//   h = (x - m) r,  r = 1 / sqrt(v + eps),   y = h w + b;   m and v over the group's channels and
//   space dw = sum dy h,  db = sum dy,   dx = (dy w - mean(dy w) - h mean(dy w h)) r
#include <moraine/core/device.hpp>
#include <moraine/ops/norm.hpp>
#include <moraine/ops/shape.hpp>
#ifdef MORAINE_HOST
#include <moraine/cpu/channels.hpp>
#endif

#include <cmath>
#include <string>
#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
/// x (batch,channels,inner); mean and rstd (batch*groups); w and b (channels) may be null.
template <class T>
struct GroupNorm {
  static constexpr const char* name = "group_norm";
  Index batch, channels, groups, inner;
  T eps;
  const T *x, *w, *b;
  T *y, *mean, *rstd;
  static void cpu(const GroupNorm& k);
};
/// Any of dx, dw, db may be null.
template <class T>
struct GroupNormGrad {
  static constexpr const char* name = "group_norm";
  Index batch, channels, groups, inner;
  const T *x, *w, *mean, *rstd, *dy;
  T *dx, *dw, *db;
  static void cpu(const GroupNormGrad& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

/// The definition: in memory (B,C,...) is (B*G, C/G*...), a layer norm of long rows.
template <class T>
Tensor<T> group_norm_composed(const Tensor<T>& x, Index groups, const Tensor<T>& weight = {},
                              const Tensor<T>& bias = {}, double eps = 1e-5) {
  const Index rows = x.size(0) * groups;
  Tensor<T> y = reshape(x, {rows, rows ? x.numel() / rows : 0});
  y = reshape(layer_norm(y, Tensor<T>(), Tensor<T>(), eps), x.shape());
  Shape channel = x.shape();
  for (int i = 0; i < channel.rank; ++i) channel.dim[i] = i == 1 ? x.size(1) : 1;
  if (weight.defined()) y = mul(y, reshape(weight, channel));
  return bias.defined() ? add(y, reshape(bias, channel)) : y;
}

/// x (B,C,...), weight and bias (C) or undefined. C must be a multiple of groups.
template <class T>
Tensor<T> group_norm(const Tensor<T>& x, Index groups, const Tensor<T>& weight = {},
                     const Tensor<T>& bias = {}, double eps = 1e-5) {
  if (x.rank() < 2 || groups < 1 || x.size(1) % groups != 0)
    fail(ErrorKind::shape, "group_norm: needs (B,C,...) with C a multiple of the groups; x " +
                               str(x.shape()) + ", groups " + std::to_string(groups));
  for (const Tensor<T>* p : {&weight, &bias})
    if (p->defined() && p->shape() != Shape{x.size(1)})
      fail(ErrorKind::shape,
           "group_norm: weight or bias " + str(p->shape()) + " for x " + str(x.shape()));
  const Index batch = x.size(0), channels = x.size(1);
  const Index planes = batch * channels, inner = planes > 0 ? x.numel() / planes : 0;
  const auto plain = [](const Tensor<T>& t) { return t.defined() ? t.contiguous().detach() : t; };
  const Tensor<T> cx = plain(x), cw = plain(weight), cb = plain(bias);
  Tensor<T> y = empty_like(cx);
  const Tensor<T> mean = Tensor<T>::empty({batch * groups}, x.device()),
                  rstd = Tensor<T>::empty({batch * groups}, x.device());
  launch(x.device(), GroupNorm<T>{batch, channels, groups, inner, static_cast<T>(eps), cx.data(),
                                  cw.data(), cb.data(), y.data(), mean.data(), rstd.data()});
  const bool dx = wants(x), dw = wants(weight), db = wants(bias);
  return record("group_norm", y, {&x, &weight, &bias},
                [batch, channels, groups, inner, dx, dw, db, mean, rstd, w = cw,
                 x = dx || dw ? cx : Tensor<T>()](const Tensor<T>& dy) {
                  const Tensor<T> g = dy.contiguous();
                  Grads<T> out(3);
                  if (dx) out[0] = empty_like(g);
                  if (dw) out[1] = Tensor<T>::empty({channels}, g.device());
                  if (db) out[2] = Tensor<T>::empty({channels}, g.device());
                  launch(g.device(), GroupNormGrad<T>{batch, channels, groups, inner, x.data(),
                                                      w.data(), mean.data(), rstd.data(), g.data(),
                                                      out[0].data(), out[1].data(), out[2].data()});
                  return out;
                });
}

// ---- CPU
template <class T>
void GroupNorm<T>::cpu(const GroupNorm& k) {
  const Index per = k.channels / k.groups, n = per * k.inner;
  parallel_for(k.batch * k.groups, 1 + 16384 / (n + 1), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      const T* const x = k.x + r * n;
      const double all = static_cast<double>(n);
      const T m = static_cast<T>(cpu::deviations(x, n, T(0), 1) / all);
      const T v = static_cast<T>(cpu::deviations(x, n, m, 2) / all);
      const T s = T(1) / std::sqrt(v + k.eps);
      k.mean[r] = m;
      k.rstd[r] = s;
      for (Index c = 0; c < per; ++c) {
        const Index channel = r % k.groups * per + c;
        cpu::scale_shift(x + c * k.inner, k.inner, m, k.w ? s * k.w[channel] : s,
                         k.b ? k.b[channel] : T(0), k.y + r * n + c * k.inner);
      }
    }
  });
}

/// Sums of a channel of one sample are one piece's; samples are added in their order.
template <class T>
void GroupNormGrad<T>::cpu(const GroupNormGrad& k) {
  const Index per = k.channels / k.groups, n = per * k.inner, all = k.batch * k.channels;
  std::vector<double> sums(
      static_cast<std::size_t>(2 * all));  // of dy and dy h, by (sample, channel)
  const bool moments = k.dx || k.dw;
  parallel_for(k.batch * k.groups, 1 + 16384 / (n + 1), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      const T m = moments ? k.mean[r] : T(0), s = moments ? k.rstd[r] : T(0);
      double g = 0, h = 0;
      for (Index c = 0; c < per; ++c) {
        const Index at = r * n + c * k.inner, channel = r % k.groups * per + c;
        double a = 0, b = 0;
        if (moments)
          cpu::gradient_sums(k.dy + at, k.x + at, k.inner, m, a, b);
        else
          a = cpu::deviations(k.dy + at, k.inner, T(0), 1);
        b *= static_cast<double>(s);
        sums[static_cast<std::size_t>(2 * (r * per + c))] = a;
        sums[static_cast<std::size_t>(2 * (r * per + c) + 1)] = b;
        const double w = k.w ? static_cast<double>(k.w[channel]) : 1.0;
        g += w * a;
        h += w * b;
      }
      if (!k.dx) continue;
      const double share = static_cast<double>(s) / static_cast<double>(n);
      const T shift = static_cast<T>(g * share), slope = static_cast<T>(h * share) * s;
      for (Index c = 0; c < per; ++c) {
        const Index at = r * n + c * k.inner, channel = r % k.groups * per + c;
        cpu::norm_gradient(k.dy + at, k.x + at, k.inner, m, k.w ? s * k.w[channel] : s, slope,
                           shift, k.dx + at);
      }
    }
  });
  for (Index c = 0; c < k.channels && (k.dw || k.db); ++c) {
    double a = 0, b = 0;
    for (Index i = c; i < all; i += k.channels) {
      a += sums[static_cast<std::size_t>(2 * i)];
      b += sums[static_cast<std::size_t>(2 * i + 1)];
    }
    if (k.db) k.db[c] = static_cast<T>(a);
    if (k.dw) k.dw[c] = static_cast<T>(b);
  }
}
MORAINE_INSTANTIATE(GroupNorm)
MORAINE_INSTANTIATE(GroupNormGrad)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
