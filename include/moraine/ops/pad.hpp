#pragma once
// Padding: constant, reflected (without repeating the border) or replicated, axis by axis.
//
// A composition: reflect and replicate select positions of one axis after the other (their gradient
// adds what was repeated), constant copies into a filled tensor (its gradient is a slice).
#include <moraine/ops/index.hpp>
#include <moraine/ops/shape.hpp>
#include <string>
#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

enum class PadMode : unsigned char { constant, reflect, replicate };

/// How many elements to put before and after an axis; below 0: cut off (constant only).
struct Padding {
  Index before = 0, after = 0;
};

struct PadOptions {
  PadMode mode = PadMode::constant;
  double value = 0;  ///< of the constant
};

namespace detail {
template <class T>
Tensor<T> pad_constant(const Tensor<T>& x, const std::vector<Padding>& p, int lead, T value) {
  // Where the kept part begins in x, how long it is, and where it begins in y.
  Shape shape = x.shape(), kept = x.shape(), from = x.shape(), to = x.shape();
  for (int a = 0; a < x.rank(); ++a) {
    const Padding q = a < lead ? Padding{} : p[static_cast<std::size_t>(a - lead)];
    const Index n = x.shape().dim[a];
    shape.dim[a] = n + q.before + q.after;
    from.dim[a] = q.before < 0 ? -q.before : 0;
    to.dim[a] = q.before < 0 ? 0 : q.before;
    kept.dim[a] = n - from.dim[a] - (q.after < 0 ? -q.after : 0);
    if (kept.dim[a] < 0)
      fail(ErrorKind::shape, "pad: cuts off more than there is; axis " + std::to_string(a) +
                                 " of " + str(x.shape()) + " by " + std::to_string(q.before) +
                                 " and " + std::to_string(q.after));
  }
  const auto part = [kept](const Tensor<T>& t, const Shape& first) {
    Index offset = 0;
    for (int a = 0; a < first.rank; ++a) offset += first.dim[a] * t.strides().dim[a];
    return t.view(kept, t.strides(), kept.numel() ? offset : 0);
  };
  Tensor<T> y = Tensor<T>::full(shape, value, x.device());
  copy_into(part(y, to), part(x.detach(), from));
  return record("pad", y, {&x}, [part, from, to, shape = x.shape()](const Tensor<T>& dy) {
    Tensor<T> dx = Tensor<T>::zeros(shape, dy.device());
    copy_into(part(dx, from), part(dy, to));
    return Grads<T>{dx};
  });
}
}  // namespace detail

/// Pads the last axes of x, in their order: {{top, bottom}, {left, right}} for (...,H,W). A
/// reflection needs less padding than the axis has elements.
template <class T>
Tensor<T> pad(const Tensor<T>& x, const std::vector<Padding>& padding, const PadOptions& o = {}) {
  const int lead = x.rank() - static_cast<int>(padding.size());
  if (lead < 0)
    fail(ErrorKind::shape,
         "pad: " + std::to_string(padding.size()) + " axes to pad; x " + str(x.shape()));
  if (o.mode == PadMode::constant)
    return detail::pad_constant(x, padding, lead, static_cast<T>(o.value));
  const bool reflect = o.mode == PadMode::reflect;
  Tensor<T> y = x;
  for (int a = lead; a < x.rank(); ++a) {
    const Padding q = padding[static_cast<std::size_t>(a - lead)];
    const Index n = x.shape().dim[a];
    if (q.before == 0 && q.after == 0) continue;
    const Index most = reflect ? n - 1 : n ? Index{1} << 46 : 0;
    if (q.before < 0 || q.after < 0 || q.before > most || q.after > most)
      fail(ErrorKind::shape, std::string("pad: ") + (reflect ? "reflect" : "replicate") + " by " +
                                 std::to_string(q.before) + " and " + std::to_string(q.after) +
                                 " on axis " + std::to_string(a) + " of " + str(x.shape()));
    auto at = Tensor<std::int64_t>::empty({n + q.before + q.after});
    for (Index j = 0; j < at.numel(); ++j) {
      Index i = j - q.before;
      if (i < 0) i = reflect ? -i : 0;
      if (i >= n) i = reflect ? 2 * (n - 1) - i : n - 1;
      at.data()[j] = i;
    }
    y = index_select(y, at.to(x.device()), a);
  }
  return y;
}

}  // namespace moraine
MORAINE_OPTIMISED_END
