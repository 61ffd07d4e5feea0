#pragma once
// Cutting a map into square windows and putting it together again, for attention within windows.
// The map is padded with zeros at its bottom and right until windows fit.
//
// A composition of pad, reshape and permute; its gradient is that of its parts.
#include <moraine/ops/pad.hpp>
#include <moraine/ops/shape.hpp>
#include <string>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

/// x (B,H,W,C) -> (B * rows * columns, size, size, C), windows row by row.
template <class T>
Tensor<T> window_partition(const Tensor<T>& x, Index size) {
  if (x.rank() != 4 || size < 1)
    fail(ErrorKind::shape, "window_partition: needs (B,H,W,C) and a size of at least 1; x " +
                               str(x.shape()) + ", size " + std::to_string(size));
  const Index batch = x.size(0), h = x.size(1), w = x.size(2), c = x.size(3);
  const Index rows = (h + size - 1) / size, columns = (w + size - 1) / size;
  Tensor<T> y = x;
  if (rows * size != h || columns * size != w)
    y = pad(x, {{0, rows * size - h}, {0, columns * size - w}, {}});
  y = reshape(y, {batch, rows, size, columns, size, c});
  return reshape(permute(y, {0, 1, 3, 2, 4, 5}), {batch * rows * columns, size, size, c});
}

/// The inverse: windows (B * rows * columns, size, size, C) of a map of height x width ->
/// (B,H,W,C).
template <class T>
Tensor<T> window_unpartition(const Tensor<T>& windows, Index height, Index width) {
  const auto refuse = [&] {
    fail(ErrorKind::shape, "window_unpartition: needs square windows that fill a map of " +
                               std::to_string(height) + " x " + std::to_string(width) +
                               "; windows " + str(windows.shape()));
  };
  if (windows.rank() != 4 || windows.size(1) != windows.size(2) || windows.size(1) < 1 ||
      height < 1 || width < 1)
    refuse();
  const Index size = windows.size(1), c = windows.size(3);
  const Index rows = (height + size - 1) / size, columns = (width + size - 1) / size;
  if (windows.size(0) % (rows * columns) != 0) refuse();
  const Index batch = windows.size(0) / (rows * columns);
  Tensor<T> y = reshape(windows, {batch, rows, columns, size, size, c});
  y = reshape(permute(y, {0, 1, 3, 2, 4, 5}), {batch, rows * size, columns * size, c});
  if (rows * size != height) y = slice(y, 1, 0, height);
  if (columns * size != width) y = slice(y, 2, 0, width);
  return y;
}

}  // namespace moraine
MORAINE_OPTIMISED_END
