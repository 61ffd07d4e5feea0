#pragma once
// Turning an axis around: roll (cyclic shift) and flip (reversal). Their gradients undo them.
//
//   roll  y_i = x_((i - s) mod n)        flip  y_i = x_(n-1-i)
#include <moraine/ops/index.hpp>
#include <string>
#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

/// Shifts axis axes[i] by shifts[i] elements towards its end; what falls out enters at the front.
template <class T>
Tensor<T> roll(const Tensor<T>& x, const std::vector<Index>& shifts, const std::vector<int>& axes) {
  if (shifts.size() != axes.size())
    fail(ErrorKind::shape, "roll: " + std::to_string(shifts.size()) + " shifts for " +
                               std::to_string(axes.size()) + " axes");
  Tensor<T> y = x;
  for (std::size_t k = 0; k < axes.size(); ++k) {
    const Index n = x.size(axes[k]), s = n ? ((shifts[k] % n) + n) % n : 0;
    if (s == 0) continue;
    auto at = Tensor<std::int64_t>::empty({n});
    for (Index i = 0; i < n; ++i) at.data()[i] = i < s ? i - s + n : i - s;
    y = index_select(y, at.to(x.device()), axes[k]);
  }
  return y;
}

/// Reverses the order along each of the axes.
template <class T>
Tensor<T> flip(const Tensor<T>& x, const std::vector<int>& axes) {
  Tensor<T> y = x;
  for (int axis : axes) {
    const Index n = x.size(axis);
    auto at = Tensor<std::int64_t>::empty({n});
    for (Index i = 0; i < n; ++i) at.data()[i] = n - 1 - i;
    y = index_select(y, at.to(x.device()), axis);
  }
  return y;
}

}  // namespace moraine
MORAINE_OPTIMISED_END
