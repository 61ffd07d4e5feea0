#pragma once
// Pooling over windows of an image (B,C,H,W), with PyTorch's rules.
//
//   max:      y = max over the window; padding never wins; dx goes to the first that attains it
//   average:  y = mean over the window, padding counted as zeros or left out
//   adaptive: window o of O covers floor(o H/O) to ceil((o+1) H/O)
//
// Averages are separable, so they are two tables (ops/axis_table.hpp); the maximum has a kernel.
#include <moraine/core/device.hpp>
#include <moraine/ops/window.hpp>
#ifdef MORAINE_HOST
#include <moraine/cpu/max_pool.hpp>
#include <moraine/ops/resize.hpp>
#include <moraine/ops/shape.hpp>
#endif

#include <type_traits>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

struct PoolOptions {
  Size2 kernel = {};
  Size2 stride = {};              ///< not given: the kernel
  Size2 padding = 0;              ///< at most half the kernel
  Size2 dilation = 1;             ///< max_pool2d only
  bool count_include_pad = true;  ///< avg_pool2d only: padding counts as zeros
};

// ---- kernels: what every backend must compute
/// index: the place of each maximum in its plane (h*width + w); NaN wins.
template <class T>
struct MaxPool {
  static constexpr const char* name = "max_pool2d";
  Index planes, height, width, out_h, out_w;
  Size2 kernel, stride, padding, dilation;
  const T* x;
  T* y;
  std::int64_t* index;  // or null
  static void cpu(const MaxPool& k);
};
/// dx[index] += dy, plane by plane.
template <class T>
struct MaxPoolGrad {
  static constexpr const char* name = "max_pool2d";
  Index planes, in, out;  // pixels of a plane
  const T* dy;
  const std::int64_t* index;
  T* dx;
  static void cpu(const MaxPoolGrad& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

/// Checks the options, fills in the stride, returns the output size.
inline Size2 pooled_size(const char* op, const Shape& x, PoolOptions& o) {
  if (x.rank != 4) fail(ErrorKind::shape, std::string(op) + ": needs (B,C,H,W); x " + str(x));
  if (o.stride == Size2{}) o.stride = o.kernel;
  if (2 * o.padding.h > o.kernel.h || 2 * o.padding.w > o.kernel.w)
    fail(ErrorKind::value, std::string(op) + ": padding is more than half the kernel; padding " +
                               str(o.padding) + ", kernel " + str(o.kernel));
  return {windows(op, x[2], o.kernel.h, o.stride.h, o.padding.h, o.dilation.h),
          windows(op, x[3], o.kernel.w, o.stride.w, o.padding.w, o.dilation.w)};
}

/// Maxima: max_pool2d(x, {.kernel = 3, .stride = 2, .padding = 1}).
template <class T>
Tensor<T> max_pool2d(const Tensor<T>& x, PoolOptions o) {
  const Size2 to = pooled_size("max_pool2d", x.shape(), o);
  if (o.dilation.h > x.size(2) || o.dilation.w > x.size(3))  // else every window meets the image
    fail(ErrorKind::value, "max_pool2d: dilation is larger than the image; dilation " +
                               str(o.dilation) + ", x " + str(x.shape()));
  const Tensor<T> c = x.contiguous().detach();
  const Shape& s = x.shape();
  Tensor<T> y = Tensor<T>::empty({s[0], s[1], to.h, to.w}, x.device());
  Tensor<std::int64_t> index;
  if (wants(x)) index = Tensor<std::int64_t>::empty(y.shape(), x.device());
  launch(x.device(), MaxPool<T>{s[0] * s[1], s[2], s[3], to.h, to.w, o.kernel, o.stride, o.padding,
                                o.dilation, c.data(), y.data(), index.data()});
  return record("max_pool2d", y, {&x}, [index, from = s](const Tensor<T>& dy) {
    const Tensor<T> g = dy.contiguous();
    Tensor<T> dx = Tensor<T>::zeros(from, dy.device());
    launch(dy.device(), MaxPoolGrad<T>{from[0] * from[1], from[2] * from[3],
                                       dy.size(2) * dy.size(3), g.data(), index.data(), dx.data()});
    return Grads<T>{dx};
  });
}

/// The table of average pooling along one axis.
inline AxisTable average_table(Index in, Index out, Index kernel, Index stride, Index padding,
                               bool count_padding) {
  AxisTable t(in, out);
  for (Index o = 0; o < out; ++o) {
    const Index from = o * stride - padding;
    const Index padded_end = from + kernel < in + padding ? from + kernel : in + padding;
    const Index first = from < 0 ? 0 : from, end = padded_end < in ? padded_end : in;
    const Index count = count_padding ? padded_end - from : end - first;
    t.push(first, std::vector<double>(static_cast<std::size_t>(end - first),
                                      1.0 / static_cast<double>(count)));
  }
  return t;
}

/// Means: avg_pool2d(x, {.kernel = 2}).
template <class T>
Tensor<T> avg_pool2d(const Tensor<T>& x, PoolOptions o) {
  if (o.dilation != Size2{1}) fail(ErrorKind::value, "avg_pool2d: takes no dilation");
  const Size2 to = pooled_size("avg_pool2d", x.shape(), o);
  return map_axes(
      "avg_pool2d", x,
      average_table(x.size(2), to.h, o.kernel.h, o.stride.h, o.padding.h, o.count_include_pad),
      average_table(x.size(3), to.w, o.kernel.w, o.stride.w, o.padding.w, o.count_include_pad));
}

/// Means over windows that cover the image evenly, whatever its size.
template <class T>
Tensor<T> adaptive_avg_pool2d(const Tensor<T>& x, Size2 to) {
  if (x.rank() != 4 || x.size(2) < 1 || x.size(3) < 1 || to.h < 1 || to.w < 1)
    fail(ErrorKind::shape, "adaptive_avg_pool2d: needs (B,C,H,W) and sizes of at least 1; x " +
                               str(x.shape()) + " to " + str(to));
  return map_axes("adaptive_avg_pool2d", x,
                  resize_table(x.size(2), to.h, {.mode = Interpolation::area}),
                  resize_table(x.size(3), to.w, {.mode = Interpolation::area}));
}

/// The mean of each channel, (B,C,H,W) -> (B,C).
template <class T>
Tensor<T> global_avg_pool2d(const Tensor<T>& x) {
  if (x.rank() != 4)
    fail(ErrorKind::shape, "global_avg_pool2d: needs (B,C,H,W); x " + str(x.shape()));
  return mean(x, {.axes = {2, 3}});
}
/// The maximum of each channel, (B,C,H,W) -> (B,C).
template <class T>
Tensor<T> global_max_pool2d(const Tensor<T>& x) {
  if (x.rank() != 4)
    fail(ErrorKind::shape, "global_max_pool2d: needs (B,C,H,W); x " + str(x.shape()));
  return max(reshape(x, {x.size(0), x.size(1), x.size(2) * x.size(3)}), 2).values;
}

// ---- CPU
template <class T>
void MaxPool<T>::cpu(const MaxPool& k) {
  if constexpr (std::is_same_v<T, float>) {
    const auto axis = [](Index size, Index outs, Index kernel, Index stride, Index padding,
                         Index dilation) {
      cpu::TapAxis a{.size = size, .outs = outs, .step = stride};
      for (Index i = 0; i < kernel; ++i) a.at.push_back(i * dilation - padding);
      return a;
    };
    return cpu::max_pool(axis(k.height, k.out_h, k.kernel.h, k.stride.h, k.padding.h, k.dilation.h),
                         axis(k.width, k.out_w, k.kernel.w, k.stride.w, k.padding.w, k.dilation.w),
                         k.planes, k.x, k.y, k.index);
  }
  parallel_for(k.planes * k.out_h, 1 + 8192 / (k.out_w * k.kernel.h * k.kernel.w),
               [&](Index b, Index e) {
                 for (Index r = b; r < e; ++r) {
                   const T* x = k.x + r / k.out_h * k.height * k.width;
                   // Padding is at most half a window, so the first row and column inside are found
                   // by a step.
                   Index h0 = r % k.out_h * k.stride.h - k.padding.h;
                   const Index end_h = h0 + (k.kernel.h - 1) * k.dilation.h + 1;
                   while (h0 < 0) h0 += k.dilation.h;
                   for (Index ow = 0; ow < k.out_w; ++ow) {
                     Index w0 = ow * k.stride.w - k.padding.w;
                     const Index end_w = w0 + (k.kernel.w - 1) * k.dilation.w + 1;
                     while (w0 < 0) w0 += k.dilation.w;
                     Index best = h0 * k.width + w0;
                     T m = x[best];
                     for (Index h = h0; h < end_h && h < k.height; h += k.dilation.h)
                       for (Index w = w0; w < end_w && w < k.width; w += k.dilation.w) {
                         const T v = x[h * k.width + w];
                         if (v > m || (v != v && m == m)) m = v, best = h * k.width + w;
                       }
                     k.y[r * k.out_w + ow] = m;
                     if (k.index) k.index[r * k.out_w + ow] = best;
                   }
                 }
               });
}
template <class T>
void MaxPoolGrad<T>::cpu(const MaxPoolGrad& k) {
  parallel_for(k.planes, 1 + 16384 / (k.out + 1), [&](Index b, Index e) {
    for (Index p = b; p < e; ++p)
      for (Index i = 0; i < k.out; ++i)
        k.dx[p * k.in + k.index[p * k.out + i]] += k.dy[p * k.out + i];
  });
}
MORAINE_INSTANTIATE(MaxPool)
MORAINE_INSTANTIATE(MaxPoolGrad)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
