#pragma once
// Moves blocks of pixels into channels and back: pixel_shuffle and its inverse, and the same
// between an image and the tokens of a vision transformer. Pure copies; the gradient of each is its
// inverse.
//
//   pixel_shuffle:   y(b, c, h r + i, w r + j) = x(b, (c r + i) r + j, h, w)
//   patches:         t(b, h W + w, (c p + i) q + j) = x(b, c, h p + i, w q + j)
//   unpatch:         the inverse of patches
#include <moraine/ops/shape.hpp>
#include <moraine/ops/window.hpp>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

/// A view of an image (B,C,H,W) as its patches, (B, H/p, W/q, C, p, q); pixels at the lower and
/// right border that fill no patch are left out. Not recorded.
template <class T>
Tensor<T> patch_view(const Tensor<T>& x, Size2 p) {
  const Shape& n = x.shape();
  const Shape& s = x.strides();
  return x.view({n[0], n[2] / p.h, n[3] / p.w, n[1], p.h, p.w},
                {s[0], s[2] * p.h, s[3] * p.w, s[1], s[2], s[3]});
}
inline void check_patches(const char* op, const Shape& x, Size2 p) {
  if (x.rank != 4) fail(ErrorKind::shape, std::string(op) + ": needs (B,C,H,W); x " + str(x));
  if (p.h < 1 || p.w < 1)
    fail(ErrorKind::value, std::string(op) + ": the block must be at least 1 x 1; " + str(p));
}

/// Image (B,C,H,W) -> tokens (B, N, C*p.h*p.w), row by row, N = (H/p.h) (W/p.w): what a patch
/// embedding multiplies by its weight (O, C*p.h*p.w). A remainder of the image is left out.
template <class T>
Tensor<T> patches(const Tensor<T>& x, Size2 p) {
  check_patches("patches", x.shape(), p);
  if (x.size(2) < p.h || x.size(3) < p.w)
    fail(ErrorKind::shape, "patches: needs (B,C,H,W) with at least one patch; x " + str(x.shape()) +
                               ", patch " + str(p));
  const Tensor<T> view = patch_view(x.detach(), p);
  Tensor<T> y = Tensor<T>::empty(view.shape(), x.device());
  copy_into(y, view);
  const Shape& v = view.shape();
  y = y.reshaped({v[0], v[1] * v[2], v[3] * v[4] * v[5]});  // (B,N,C*p*q)
  return record("patches", y, {&x}, [from = x.shape(), v, p](const Tensor<T>& dy) {
    Tensor<T> dx = Tensor<T>::zeros(from, dy.device());
    copy_into(patch_view(dx, p), dy.reshaped(v));
    return Grads<T>{dx};
  });
}

/// Tokens (B, grid.h*grid.w, K*p.h*p.w) -> image (B, K, grid.h*p.h, grid.w*p.w): what turns the
/// last layer of a segmentation head, with K*p*p outputs a token, into logits for every pixel.
template <class T>
Tensor<T> unpatch(const Tensor<T>& t, Size2 grid, Size2 p) {
  if (t.rank() != 3 || p.h < 1 || p.w < 1 || grid.h < 0 || grid.w < 0 ||
      t.size(1) != grid.h * grid.w || t.size(2) % (p.h * p.w) != 0)
    fail(ErrorKind::shape, "unpatch: needs (B, grid_h*grid_w, K*p*p); tokens " + str(t.shape()) +
                               ", grid " + str(grid) + ", patch " + str(p));
  const Index b = t.size(0), k = t.size(2) / (p.h * p.w);
  const Shape blocks{b, grid.h, grid.w, k, p.h, p.w};
  Tensor<T> y = Tensor<T>::empty({b, k, grid.h * p.h, grid.w * p.w}, t.device());
  copy_into(patch_view(y, p), t.detach().reshaped(blocks));
  return record("unpatch", y, {&t}, [from = t.shape(), blocks, p](const Tensor<T>& dy) {
    Tensor<T> dt = Tensor<T>::empty(blocks, dy.device());
    copy_into(dt, patch_view(dy, p));
    return Grads<T>{dt.reshaped(from)};
  });
}

/// A view of an image (B,C,H,W) as (B,C,r,r,H/r,W/r). Not recorded.
template <class T>
Tensor<T> shuffle_view(const Tensor<T>& x, Index r) {
  const Shape& n = x.shape();
  const Shape& s = x.strides();
  return x.view({n[0], n[1], r, r, n[2] / r, n[3] / r},
                {s[0], s[1], s[2], s[3], s[2] * r, s[3] * r});
}

template <class T>
Tensor<T> pixel_unshuffle(const Tensor<T>& x, Index r);

/// (B, C*r*r, H, W) -> (B, C, H*r, W*r); PyTorch's pixel_shuffle.
template <class T>
Tensor<T> pixel_shuffle(const Tensor<T>& x, Index r) {
  check_patches("pixel_shuffle", x.shape(), r);
  const Shape& n = x.shape();
  if (n[1] % (r * r) != 0)
    fail(ErrorKind::shape, "pixel_shuffle: channels must be a multiple of r*r; x " + str(n) +
                               ", r " + std::to_string(r));
  Tensor<T> y = Tensor<T>::empty({n[0], n[1] / (r * r), n[2] * r, n[3] * r}, x.device());
  const Tensor<T> view = shuffle_view(y, r);
  copy_into(view, x.detach().reshaped(view.shape()));
  return record("pixel_shuffle", y, {&x},
                [r](const Tensor<T>& dy) { return Grads<T>{pixel_unshuffle(dy, r)}; });
}

/// (B, C, H*r, W*r) -> (B, C*r*r, H, W); the inverse.
template <class T>
Tensor<T> pixel_unshuffle(const Tensor<T>& x, Index r) {
  check_patches("pixel_unshuffle", x.shape(), r);
  const Shape& n = x.shape();
  if (n[2] % r != 0 || n[3] % r != 0)
    fail(ErrorKind::shape, "pixel_unshuffle: height and width must be multiples of r; x " + str(n) +
                               ", r " + std::to_string(r));
  const Tensor<T> view = shuffle_view(x.detach(), r);
  Tensor<T> y = Tensor<T>::empty(view.shape(), x.device());
  copy_into(y, view);
  return record("pixel_unshuffle", y.reshaped({n[0], n[1] * r * r, n[2] / r, n[3] / r}), {&x},
                [r](const Tensor<T>& dy) { return Grads<T>{pixel_shuffle(dy, r)}; });
}

}  // namespace moraine
MORAINE_OPTIMISED_END
