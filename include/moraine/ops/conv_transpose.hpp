#pragma once
// The transposed convolution: conv2d's gradient of the input, used as a forward.
//
//   y(b, o, h s - p + i d, w s - p + j d) += W(c,o,i,j) x(b,c,h,w),   plus bias(o)
//
// With V(dy) = the gradient of conv2d's input: y = V(x), so dx = conv2d(dy), and dW is conv2d's
// gradient of the weight with the parts of x and dy exchanged. It has no kernel of its own.
#include <moraine/ops/conv.hpp>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

#ifdef MORAINE_HOST

struct ConvTransposeOptions {
  Size2 stride = 1;
  Size2 padding = 0;
  Size2 output_padding = 0;  ///< added at the lower and right border; below stride or dilation
  Size2 dilation = 1;
  Index groups = 1;
};

/// x (B,I,H,W), weight (I,O/groups,kh,kw) (the input's channels first), bias (O) or undefined
/// -> (B,O,H',W') with H' = (H-1) stride - 2 padding + dilation (kh-1) + output_padding + 1.
template <class T>
Tensor<T> conv_transpose2d(const Tensor<T>& x, const Tensor<T>& weight, const Tensor<T>& bias = {},
                           const ConvTransposeOptions& o = {}) {
  const Shape &n = x.shape(), &m = weight.shape();
  if (n.rank != 4 || m.rank != 4 || o.groups < 1 || n[1] != m[0] || n[1] % o.groups != 0)
    fail(ErrorKind::shape,
         "conv_transpose2d: needs x (B,I,H,W), weight (I,O/groups,kh,kw), I a "
         "multiple of groups; x " +
             str(n) + ", weight " + str(m) + ", groups " + std::to_string(o.groups));
  const Index out = m[1] * o.groups;
  if (bias.defined() && bias.shape() != Shape{out})
    fail(ErrorKind::shape, "conv_transpose2d: bias " + str(bias.shape()) +
                               " for weight (in,out/groups,kh,kw) " + str(m) + ", groups " +
                               std::to_string(o.groups));
  check_device("conv_transpose2d", x.device(), weight.device());
  const auto size = [](Index n, Index kernel, Index stride, Index padding, Index extra,
                       Index dilation) {
    constexpr Index most = Index{1} << 24;
    const bool sane = n >= 1 && n <= most && kernel >= 1 && kernel <= most && stride >= 1 &&
                      stride <= most && padding >= 0 && padding <= most && dilation >= 1 &&
                      dilation <= most;
    if (!sane || extra < 0 || (extra >= stride && extra >= dilation))
      fail(
          ErrorKind::value,
          "conv_transpose2d: input, kernel, stride and dilation must be at least 1 (at most 2^24), "
          "output_padding below stride or dilation; input " +
              std::to_string(n) + ", kernel " + std::to_string(kernel) + ", stride " +
              std::to_string(stride) + ", padding " + std::to_string(padding) +
              ", output_padding " + std::to_string(extra) + ", dilation " +
              std::to_string(dilation));
    const Index r = (n - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1;
    if (r < 1)
      fail(ErrorKind::shape,
           "conv_transpose2d: padding leaves no output; size " + std::to_string(r));
    return r;
  };
  // The convolution whose gradient this is: from y's channels to x's.
  const ConvShape s{n[0],
                    out,
                    size(n[2], m[2], o.stride.h, o.padding.h, o.output_padding.h, o.dilation.h),
                    size(n[3], m[3], o.stride.w, o.padding.w, o.output_padding.w, o.dilation.w),
                    n[1],
                    n[2],
                    n[3],
                    o.groups,
                    {m[2], m[3]},
                    o.stride,
                    o.padding,
                    o.dilation};
  const Tensor<T> cx = x.contiguous().detach(), cw = weight.contiguous().detach();
  const Tensor<T> cb = bias.defined() ? bias.contiguous().detach() : Tensor<T>();
  Tensor<T> y = Tensor<T>::empty({s.batch, s.in, s.height, s.width}, x.device());
  launch(x.device(), Conv2dGradInput<T>{s, cx.data(), cw.data(), cb.data(), y.data()});
  const bool db = bias.defined() && wants(bias);
  return record(
      "conv_transpose2d", y, {&x, &weight, &bias},
      [s, db, kx = wants(weight) ? cx : Tensor<T>(),
       kw = wants(x) ? cw : Tensor<T>()](const Tensor<T>& dy) {
        const Tensor<T> g = dy.contiguous();
        Grads<T> d(3);
        if (kw.defined()) {
          d[0] = Tensor<T>::empty({s.batch, s.out, s.out_h, s.out_w}, g.device());
          launch(g.device(), Conv2d<T>{s, g.data(), kw.data(), nullptr, d[0].data()});
        }
        if (kx.defined()) {
          d[1] = Tensor<T>::empty({s.out, s.group_in(), s.kernel.h, s.kernel.w}, g.device());
          launch(g.device(), Conv2dGradWeight<T>{s, g.data(), kx.data(), d[1].data()});
        }
        if (db) d[2] = sum_values(g, {0, 2, 3}).reshaped({s.in});
        return d;
      });
}
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
