#pragma once
// 2-D convolution (cross-correlation, as every framework has it), with g groups of channels:
//
//   y(b,o,h,w) = bias(o) + sum_{c,i,j} W(o,c,i,j) x(b, c, h s - p + i d, w s - p + j d)
//
// With the columns col(q,n) = x at tap q = (c,i,j) of output pixel n, this is a product for every
// image and group, Y = W col, and so are its gradients:
//   dx = scatter of W^T dY,   dW = sum over images of dY col^T,   dbias = sum dY
// Columns are made in pieces that fit a cache. One channel a group (depthwise) has loops of its
// own; windows that neither overlap nor leave gaps (patch embedding) are a reshape and a product.
#include <moraine/core/device.hpp>
#include <moraine/ops/window.hpp>
#ifdef MORAINE_HOST
#include <moraine/cpu/axpy.hpp>
#include <moraine/cpu/conv.hpp>
#include <moraine/ops/linear.hpp>
#include <moraine/ops/pixel_shuffle.hpp>
#endif

#include <algorithm>
#include <type_traits>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

/// Sizes of a convolution: x (batch,in,height,width), weight (out,in/groups,kernel), y
/// (batch,out,out_h,out_w).
struct ConvShape {
  Index batch, in, height, width, out, out_h, out_w, groups;
  Size2 kernel, stride, padding, dilation;

  Index group_in() const { return in / groups; }
  Index group_out() const { return out / groups; }
  Index taps() const { return group_in() * kernel.h * kernel.w; }  ///< rows of the columns
  Index pixels() const { return out_h * out_w; }
  Index plane() const { return height * width; }
  bool depthwise() const { return groups > 1 && in == groups; }
  /// The columns are x itself.
  bool pointwise() const { return kernel == Size2{1} && stride == Size2{1} && padding == Size2{0}; }
};

// ---- kernels: what every backend must compute
template <class T>
struct Conv2d {
  static constexpr const char* name = "conv2d";
  ConvShape s;
  const T *x, *w, *b;  // b (out) or null
  T* y;
  static void cpu(const Conv2d& k);
};
/// dx = gradient of the input, plus b (in) where it is not null: also the transposed convolution.
template <class T>
struct Conv2dGradInput {
  static constexpr const char* name = "conv2d";
  ConvShape s;
  const T *dy, *w, *b;
  T* dx;
  static void cpu(const Conv2dGradInput& k);
};
template <class T>
struct Conv2dGradWeight {
  static constexpr const char* name = "conv2d";
  ConvShape s;
  const T *x, *dy;
  T* dw;
  static void cpu(const Conv2dGradWeight& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

struct ConvOptions {
  Size2 stride = 1;
  Size2 padding = 0;
  Size2 dilation = 1;
  Index groups = 1;  ///< in == groups: depthwise
};

/// x (B,C,H,W), weight (O,C/groups,kh,kw), bias (O) or undefined -> (B,O,H',W') with
/// H' = (H + 2 padding - dilation (kh-1) - 1) / stride + 1, rounded down.
///
///   y = conv2d(x, w, b, {.stride = 2, .padding = {1, 0}});
///
/// With kernel == stride and no padding the result is a view of (B,H',W',O), so that flattening
/// it to tokens costs nothing.
template <class T>
Tensor<T> conv2d(const Tensor<T>& x, const Tensor<T>& weight, const Tensor<T>& bias = {},
                 const ConvOptions& o = {}) {
  const Shape &n = x.shape(), &m = weight.shape();
  if (n.rank != 4 || m.rank != 4 || o.groups < 1 || n[1] != m[1] * o.groups || m[0] % o.groups != 0)
    fail(ErrorKind::shape,
         "conv2d: needs x (B,C,H,W), weight (O,C/groups,kh,kw), O a multiple of "
         "groups; x " +
             str(n) + ", weight " + str(m) + ", groups " + std::to_string(o.groups));
  if (bias.defined() && bias.shape() != Shape{m[0]})
    fail(ErrorKind::shape,
         "conv2d: bias " + str(bias.shape()) + " for weight (out,in,kh,kw) " + str(m));
  check_device("conv2d", x.device(), weight.device());
  const Size2 kernel{m[2], m[3]};
  const ConvShape s{n[0],
                    n[1],
                    n[2],
                    n[3],
                    m[0],
                    windows("conv2d", n[2], kernel.h, o.stride.h, o.padding.h, o.dilation.h),
                    windows("conv2d", n[3], kernel.w, o.stride.w, o.padding.w, o.dilation.w),
                    o.groups,
                    kernel,
                    o.stride,
                    o.padding,
                    o.dilation};
  if (kernel == o.stride && o.padding == Size2{0} && o.dilation == Size2{1} && o.groups == 1 &&
      kernel != Size2{1}) {
    const Tensor<T> t =
        linear(patches(x, kernel), reshape(weight, {m[0], s.taps()}), bias);       // (B,N,O)
    return permute(reshape(t, {s.batch, s.out_h, s.out_w, s.out}), {0, 3, 1, 2});  // (B,O,H',W')
  }
  const Tensor<T> cx = x.contiguous().detach(), cw = weight.contiguous().detach();
  const Tensor<T> cb = bias.defined() ? bias.contiguous().detach() : Tensor<T>();
  Tensor<T> y = Tensor<T>::empty({s.batch, s.out, s.out_h, s.out_w}, x.device());
  launch(x.device(), Conv2d<T>{s, cx.data(), cw.data(), cb.data(), y.data()});
  const bool db = bias.defined() && wants(bias);
  return record(
      "conv2d", y, {&x, &weight, &bias},
      [s, db, kx = wants(weight) ? cx : Tensor<T>(),
       kw = wants(x) ? cw : Tensor<T>()](const Tensor<T>& dy) {
        const Tensor<T> g = dy.contiguous();
        Grads<T> d(3);
        if (kw.defined()) {
          d[0] = Tensor<T>::empty({s.batch, s.in, s.height, s.width}, g.device());
          launch(g.device(), Conv2dGradInput<T>{s, g.data(), kw.data(), nullptr, d[0].data()});
        }
        if (kx.defined()) {
          d[1] = Tensor<T>::empty({s.out, s.group_in(), s.kernel.h, s.kernel.w}, g.device());
          launch(g.device(), Conv2dGradWeight<T>{s, kx.data(), g.data(), d[1].data()});
        }
        if (db) d[2] = sum_values(g, {0, 2, 3}).reshaped({s.out});
        return d;
      });
}

// ---- CPU
namespace detail {

/// The part [begin,end) of outputs [from,to) whose input n*step + shift lies in [0,size).
struct Run {
  Index begin, end;
  Run(Index from, Index to, Index shift, Index step, Index size) {
    const Index low = shift >= 0 ? 0 : (step - 1 - shift) / step;
    const Index high = shift >= size ? 0 : (size - 1 - shift) / step + 1;
    begin = low < from ? from : low > to ? to : low;
    end = high < begin ? begin : high > to ? to : high;
  }
};

/// Calls f(row of x, first output of the run in [p0,p1), count, shift) for tap (i,j) and every
/// row of outputs; row is -1 where it is padding.
template <class F>
void tap_rows(const ConvShape& s, Index i, Index j, Index p0, Index p1, F&& f) {
  for (Index p = p0; p < p1;) {
    const Index h = p / s.out_w, w0 = p % s.out_w;
    const Index w1 = s.out_w - w0 < p1 - p ? s.out_w : w0 + p1 - p;
    const Index row = h * s.stride.h - s.padding.h + i * s.dilation.h;
    f(row < 0 || row >= s.height ? -1 : row, w0, w1, p - p0, j * s.dilation.w - s.padding.w);
    p += w1 - w0;
  }
}

/// col (taps, p1-p0) of the group of channels that starts at x.
template <class T>
void columns(const ConvShape& s, const T* x, Index p0, Index p1, T* col) {
  const Index n = p1 - p0;
  parallel_for(s.taps(), 1 + 16384 / n, [&](Index b, Index e) {
    for (Index q = b; q < e; ++q) {
      const Index j = q % s.kernel.w, i = q / s.kernel.w % s.kernel.h;
      const T* plane = x + q / (s.kernel.w * s.kernel.h) * s.plane();
      tap_rows(s, i, j, p0, p1, [&](Index row, Index w0, Index w1, Index at, Index shift) {
        T* to = col + q * n + at - w0;
        const Run r = row < 0 ? Run(w1, w1, 0, 1, 0) : Run(w0, w1, shift, s.stride.w, s.width);
        for (Index w = w0; w < r.begin; ++w) to[w] = T(0);
        const T* from = plane + row * s.width + shift;
        if (s.stride.w == 1)
          std::copy_n(from + r.begin, r.end - r.begin, to + r.begin);
        else
          for (Index w = r.begin; w < r.end; ++w) to[w] = from[w * s.stride.w];
        for (Index w = r.end; w < w1; ++w) to[w] = T(0);
      });
    }
  });
}

/// dx += what the columns took from x; a channel is one thread's, its taps come in order.
template <class T>
void scatter_columns(const ConvShape& s, const T* col, Index p0, Index p1, T* dx) {
  const Index n = p1 - p0, area = s.kernel.h * s.kernel.w;
  parallel_for(s.group_in(), 1 + 16384 / (n * area), [&](Index b, Index e) {
    for (Index q = b * area; q < e * area; ++q) {
      const Index j = q % s.kernel.w, i = q / s.kernel.w % s.kernel.h;
      T* plane = dx + q / area * s.plane();
      tap_rows(s, i, j, p0, p1, [&](Index row, Index w0, Index w1, Index at, Index shift) {
        if (row < 0) return;
        const T* from = col + q * n + at - w0;
        const Run r(w0, w1, shift, s.stride.w, s.width);
        T* to = plane + row * s.width + shift;
        if (s.stride.w == 1)
          cpu::axpy(r.end - r.begin, T(1), from + r.begin, to + r.begin);
        else
          for (Index w = r.begin; w < r.end; ++w) to[w * s.stride.w] += from[w];
      });
    }
  });
}

/// Output pixels per piece: columns of at most 2^20 elements, and pieces enough for all threads
/// when there is work for them. Depends on sizes alone.
inline Index piece(const ConvShape& s) {
  const Index n = s.pixels(), taps = s.taps() < 1 ? 1 : s.taps();
  const Index work = s.group_out() * taps * n >> 21;
  const Index pieces = work < 1 ? 1 : work > 16 ? 16 : work;
  Index size = (n + pieces - 1) / pieces;
  const Index most = (Index{1} << 20) / taps < 64 ? 64 : (Index{1} << 20) / taps;
  if (size > most) size = most;
  size = (size + 15) / 16 * 16;
  return size > n ? n : size;
}

/// A channel's row of outputs from one row of inputs, or the other way round.
template <class T, class F>
void depthwise_rows(const ConvShape& s, F&& f) {
  for (Index h = 0; h < s.out_h; ++h)
    for (Index i = 0; i < s.kernel.h; ++i) {
      const Index row = h * s.stride.h - s.padding.h + i * s.dilation.h;
      if (row < 0 || row >= s.height) continue;
      for (Index j = 0; j < s.kernel.w; ++j) {
        const Index shift = j * s.dilation.w - s.padding.w;
        f(h * s.out_w, row * s.width + shift, i * s.kernel.w + j,
          Run(0, s.out_w, shift, s.stride.w, s.width));
      }
    }
}

inline cpu::Conv float_conv(const ConvShape& s) {
  return {s.batch,
          s.in,
          s.out,
          s.groups,
          {s.height, s.out_h, s.kernel.h, s.stride.h, s.padding.h, s.dilation.h},
          {s.width, s.out_w, s.kernel.w, s.stride.w, s.padding.w, s.dilation.w}};
}

}  // namespace detail

template <class T>
void Conv2d<T>::cpu(const Conv2d& k) {
  if constexpr (std::is_same_v<T, float>)
    return cpu::conv(detail::float_conv(k.s), k.x, k.w, k.b, k.y);
  const ConvShape& s = k.s;
  const Index n = s.pixels(), taps = s.taps(), out = s.group_out();
  if (s.batch * s.out * n == 0) return;
  const auto fill = [&](T* y, Index o, Index count) {
    const T v = k.b ? k.b[o] : T(0);
    for (Index i = 0; i < count; ++i) y[i] = v;
  };
  if (s.depthwise()) {
    parallel_for(s.batch * s.out, 1 + 16384 / (n * taps), [&](Index b, Index e) {
      for (Index p = b; p < e; ++p) {
        const Index o = p % s.out;
        const T *x = k.x + (p / s.out * s.in + o / out) * s.plane(), *w = k.w + o * taps;
        T* y = k.y + p * n;
        fill(y, o, n);
        detail::depthwise_rows<T>(s, [&](Index at, Index from, Index tap, const detail::Run& r) {
          const T v = w[tap];
          if (s.stride.w == 1)
            cpu::axpy(r.end - r.begin, v, x + from + r.begin, y + at + r.begin);
          else
            for (Index i = r.begin; i < r.end; ++i) y[at + i] += v * x[from + i * s.stride.w];
        });
      }
    });
    return;
  }
  const Index size = detail::piece(s), pieces = (n + size - 1) / size;
  parallel_for(s.batch * s.groups * pieces, 1, [&](Index b, Index e) {
    Tensor<T> col;
    if (!s.pointwise()) col = Tensor<T>::empty({taps * size});
    for (Index t = b; t < e; ++t) {
      const Index image = t / (s.groups * pieces), g = t / pieces % s.groups;
      const Index p0 = t % pieces * size, p1 = p0 + size < n ? p0 + size : n;
      const T* x = k.x + (image * s.in + g * s.group_in()) * s.plane();
      T* y = k.y + (image * s.out + g * out) * n + p0;
      for (Index o = 0; o < out && (k.b || taps == 0); ++o) fill(y + o * n, g * out + o, p1 - p0);
      if (taps == 0) continue;
      cpu::Matrix<const T> cols{x + p0, n, 1};
      if (!s.pointwise()) {
        detail::columns(s, x, p0, p1, col.data());
        cols = {col.data(), p1 - p0, 1};
      }
      cpu::gemm<T>({.m = out,
                    .n = p1 - p0,
                    .k = taps,
                    .a = {k.w + g * out * taps, taps, 1},
                    .b = cols,
                    .c = {y, n, 1},
                    .accumulate = k.b != nullptr});
    }
  });
}

template <class T>
void Conv2dGradInput<T>::cpu(const Conv2dGradInput& k) {
  if constexpr (std::is_same_v<T, float>)
    return cpu::conv_grad_input(detail::float_conv(k.s), k.dy, k.w, k.b, k.dx);
  const ConvShape& s = k.s;
  const Index n = s.pixels(), taps = s.taps(), out = s.group_out(), in = s.group_in();
  if (s.batch * s.in * s.plane() == 0) return;
  const auto start = [&](T* dx, Index c) {
    const T v = k.b ? k.b[c] : T(0);
    for (Index i = 0; i < s.plane(); ++i) dx[i] = v;
  };
  if (s.depthwise()) {
    parallel_for(s.batch * s.in, 1 + 16384 / (n * taps * out + 1), [&](Index b, Index e) {
      for (Index p = b; p < e; ++p) {
        const Index c = p % s.in;
        T* dx = k.dx + p * s.plane();
        start(dx, c);
        for (Index o = c * out; o < (c + 1) * out; ++o) {
          const T *dy = k.dy + (p / s.in * s.out + o) * n, *w = k.w + o * taps;
          detail::depthwise_rows<T>(s, [&](Index at, Index to, Index tap, const detail::Run& r) {
            const T v = w[tap];
            if (s.stride.w == 1)
              cpu::axpy(r.end - r.begin, v, dy + at + r.begin, dx + to + r.begin);
            else
              for (Index i = r.begin; i < r.end; ++i) dx[to + i * s.stride.w] += v * dy[at + i];
          });
        }
      }
    });
    return;
  }
  const Index tasks = s.batch * s.groups, size = detail::piece(s);
  // Few images: the product and the scatter are parallel inside. Many: one image a thread.
  parallel_for(tasks, tasks < 4 ? tasks : 1, [&](Index b, Index e) {
    Tensor<T> col;
    if (!s.pointwise()) col = Tensor<T>::empty({taps * size});
    for (Index t = b; t < e; ++t) {
      const Index image = t / s.groups, g = t % s.groups;
      T* dx = k.dx + (image * s.in + g * in) * s.plane();
      for (Index c = 0; c < in; ++c) start(dx + c * s.plane(), g * in + c);
      if (out == 0) continue;
      for (Index p0 = 0; p0 < n; p0 += size) {
        const Index p1 = p0 + size < n ? p0 + size : n;
        cpu::Gemm<T> d{.m = taps,
                       .n = p1 - p0,
                       .k = out,
                       .a = {k.w + g * out * taps, 1, taps},
                       .b = {k.dy + (image * s.out + g * out) * n + p0, n, 1},
                       .c = {col.data(), p1 - p0, 1}};
        if (s.pointwise()) d.c = {dx + p0, n, 1}, d.accumulate = true;
        cpu::gemm<T>(d);
        if (!s.pointwise()) detail::scatter_columns(s, col.data(), p0, p1, dx);
      }
    }
  });
}

template <class T>
void Conv2dGradWeight<T>::cpu(const Conv2dGradWeight& k) {
  if constexpr (std::is_same_v<T, float>)
    return cpu::conv_grad_weight(detail::float_conv(k.s), k.x, k.dy, k.dw);
  const ConvShape& s = k.s;
  const Index n = s.pixels(), taps = s.taps(), out = s.group_out();
  if (s.out * taps == 0) return;
  if (s.batch * n == 0 || s.depthwise())
    for (Index i = 0; i < s.out * taps; ++i) k.dw[i] = T(0);
  if (s.batch * n == 0) return;
  if (s.depthwise()) {
    parallel_for(s.out, 1, [&](Index b, Index e) {
      for (Index o = b; o < e; ++o)
        for (Index image = 0; image < s.batch; ++image) {
          const T* x = k.x + (image * s.in + o / out) * s.plane();
          const T* dy = k.dy + (image * s.out + o) * n;
          T* dw = k.dw + o * taps;
          detail::depthwise_rows<T>(s, [&](Index at, Index from, Index tap, const detail::Run& r) {
            T sum = 0;
            for (Index i = r.begin; i < r.end; ++i) sum += dy[at + i] * x[from + i * s.stride.w];
            dw[tap] += sum;
          });
        }
    });
    return;
  }
  const Index size = detail::piece(s);
  parallel_for(s.groups, s.groups < 4 ? s.groups : 1, [&](Index b, Index e) {
    Tensor<T> col;
    if (!s.pointwise()) col = Tensor<T>::empty({taps * size});
    for (Index g = b; g < e; ++g)
      for (Index image = 0; image < s.batch; ++image)
        for (Index p0 = 0; p0 < n; p0 += size) {
          const Index p1 = p0 + size < n ? p0 + size : n;
          const T* x = k.x + (image * s.in + g * s.group_in()) * s.plane();
          cpu::Matrix<const T> cols{x + p0, 1, n};
          if (!s.pointwise()) {
            detail::columns(s, x, p0, p1, col.data());
            cols = {col.data(), 1, p1 - p0};
          }
          cpu::gemm<T>({.m = out,
                        .n = taps,
                        .k = p1 - p0,
                        .a = {k.dy + (image * s.out + g * out) * n + p0, n, 1},
                        .b = cols,
                        .c = {k.dw + g * out * taps, taps, 1},
                        .accumulate = image > 0 || p0 > 0});
        }
  });
}
MORAINE_INSTANTIATE(Conv2d)
MORAINE_INSTANTIATE(Conv2dGradInput)
MORAINE_INSTANTIATE(Conv2dGradWeight)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
