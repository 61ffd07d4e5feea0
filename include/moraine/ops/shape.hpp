#pragma once
// Shape changes, recorded: reshape, permute, transpose, expand, slice, concat, stack, split.
// All but concat and stack are free views; the gradient of a view is the inverse view (reshape,
// permute), a sum (expand), or a copy into zeros (slice).
#include <moraine/ops/reduce.hpp>

#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

/// Another shape with the same elements in the same order; one size may be -1 (deduced).
template <class T>
Tensor<T> reshape(const Tensor<T>& x, Shape shape) {
  const Shape wanted = shape;
  Index known = 1;
  int free = -1;
  bool valid = true;
  for (int i = 0; i < shape.rank; ++i) {
    if (shape.dim[i] == -1 && free < 0) {
      free = i;
    } else {
      valid &= shape.dim[i] >= 0;
      known *= shape.dim[i];
    }
  }
  if (free >= 0 && valid && known != 0) shape.dim[free] = x.numel() / known;
  if (!valid || shape.numel() != x.numel() || (free >= 0 && known == 0))
    fail(ErrorKind::shape, "reshape: " + str(x.shape()) + " has " + std::to_string(x.numel()) +
                               " elements; wanted " + str(wanted));
  if constexpr (std::is_floating_point_v<T>)
    return record("reshape", x.detach().reshaped(shape), {&x},
                  [from = x.shape()](const Tensor<T>& dy) { return Grads<T>{dy.reshaped(from)}; });
  else
    return x.reshaped(shape);
}

/// A view of x with its axes in the order `axes`; not recorded.
template <class T>
Tensor<T> permute_view(const Tensor<T>& x, const std::vector<int>& axes) {
  Shape shape, strides;
  unsigned seen = 0;
  for (int a : axes) {
    const int i = x.shape().axis(a);
    seen |= 1u << i;
    shape.push(x.shape().dim[i]);
    strides.push(x.strides().dim[i]);
  }
  if (static_cast<int>(axes.size()) != x.rank() || seen != (1u << x.rank()) - 1)
    fail(ErrorKind::shape,
         "permute: needs each of " + std::to_string(x.rank()) + " axes once; x " + str(x.shape()));
  return x.view(shape, strides);
}

/// Axis i of the result is axis axes[i] of x.
template <class T>
Tensor<T> permute(const Tensor<T>& x, const std::vector<int>& axes) {
  Tensor<T> y = permute_view(x, axes);
  std::vector<int> back(axes.size());
  for (std::size_t i = 0; i < axes.size(); ++i)
    back[static_cast<std::size_t>(x.shape().axis(axes[i]))] = static_cast<int>(i);
  return record("permute", y, {&x},
                [back](const Tensor<T>& dy) { return Grads<T>{permute_view(dy, back)}; });
}

/// Swaps two axes.
template <class T>
Tensor<T> transpose(const Tensor<T>& x, int a = -2, int b = -1) {
  std::vector<int> axes;
  for (int i = 0; i < x.rank(); ++i) axes.push_back(i);
  std::swap(axes[static_cast<std::size_t>(x.shape().axis(a))],
            axes[static_cast<std::size_t>(x.shape().axis(b))]);
  return permute(x, axes);
}

/// Repeats axes of size 1 (and adds leading ones) to reach `shape`, without a copy.
template <class T>
Tensor<T> expand(const Tensor<T>& x, const Shape& shape) {
  return record("expand", expand_view(x.detach(), shape), {&x},
                [from = x.shape()](const Tensor<T>& dy) { return Grads<T>{sum_to(dy, from)}; });
}

/// dst = src for any strides; shapes must be equal. Not recorded.
template <class T>
void copy_into(const Tensor<T>& dst, const Tensor<T>& src) {
  if (dst.shape() != src.shape())
    fail(ErrorKind::shape, "copy: " + str(src.shape()) + " into " + str(dst.shape()));
  if (dst.device() != Device::cpu || src.device() != Device::cpu)
    fail(ErrorKind::device, "copy: strided copies have no CUDA form yet -> .to(Device::cpu)");
  const Shape& n = dst.shape();
  if (n.numel() == 0) return;
  if (n.rank == 0) {
    *dst.data() = *src.data();
    return;
  }
  const int last = n.rank - 1;
  const Index m = n.dim[last], p = dst.strides().dim[last], q = src.strides().dim[last];
  parallel_for(n.numel() / m, 1 + (1 << 15) / m, [&](Index b, Index e) {
    for (Index r = b; r < e; ++r) {
      Index od = 0, os = 0, rest = r;
      for (int i = last; i-- > 0;) {
        const Index c = rest % n.dim[i];
        rest /= n.dim[i];
        od += c * dst.strides().dim[i];
        os += c * src.strides().dim[i];
      }
      T* d = dst.data() + od;
      const T* s = src.data() + os;
      if (p == 1 && q == 1)
        std::memcpy(static_cast<void*>(d), s, static_cast<std::size_t>(m) * sizeof(T));
      else
        for (Index i = 0; i < m; ++i) d[i * p] = s[i * q];
    }
  });
}

/// Elements start, start+step, ... below stop along one axis; a view.
template <class T>
Tensor<T> slice(const Tensor<T>& x, int axis, Index start, Index stop, Index step = 1) {
  const int a = x.shape().axis(axis);
  const Index n = x.shape().dim[a];
  if (start < 0 || stop > n || start > stop || step < 1)
    fail(ErrorKind::shape, "slice: [" + std::to_string(start) + "," + std::to_string(stop) +
                               ") step " + std::to_string(step) + " on axis " + std::to_string(a) +
                               " of " + str(x.shape()));
  Shape shape = x.shape(), strides = x.strides();
  shape.dim[a] = (stop - start + step - 1) / step;
  strides.dim[a] *= step;
  Tensor<T> y = x.view(shape, strides, start * x.strides().dim[a]);
  if constexpr (!std::is_floating_point_v<T>)
    return y;
  else
    return record("slice", y, {&x}, [from = x.shape(), a, start, step](const Tensor<T>& dy) {
      Tensor<T> dx = Tensor<T>::zeros(from, dy.device());
      Shape strides = dx.strides();
      strides.dim[a] *= step;
      copy_into(dx.view(dy.shape(), strides, start * dx.strides().dim[a]), dy);
      return Grads<T>{dx};
    });
}

/// Joins tensors along an existing axis; the other sizes must agree.
template <class T>
Tensor<T> concat(const std::vector<Tensor<T>>& parts, int axis) {
  if (parts.empty()) fail(ErrorKind::shape, "concat: no tensors");
  const int a = parts[0].shape().axis(axis);
  Shape shape = parts[0].shape();
  shape.dim[a] = 0;
  for (const Tensor<T>& p : parts) {
    Shape s = p.shape();
    bool fits = s.rank == shape.rank;
    for (int i = 0; fits && i < s.rank; ++i) fits = i == a || s.dim[i] == shape.dim[i];
    if (!fits)
      fail(ErrorKind::shape, "concat: " + str(p.shape()) + " does not fit " +
                                 str(parts[0].shape()) + " along axis " + std::to_string(a));
    shape.dim[a] += s.dim[a];
  }
  Tensor<T> y = Tensor<T>::empty(shape, parts[0].device());
  std::vector<Index> begins;
  Index at = 0;
  for (const Tensor<T>& p : parts) {
    copy_into(y.view(p.shape(), y.strides(), at * y.strides().dim[a]), p.detach());
    begins.push_back(at);
    at += p.shape().dim[a];
  }
  if constexpr (!std::is_floating_point_v<T>)
    return y;
  else
    return record("concat", y, parts, [begins, at, a](const Tensor<T>& dy) {
      Grads<T> g;
      for (std::size_t i = 0; i < begins.size(); ++i)
        g.push_back(slice(dy, a, begins[i], i + 1 < begins.size() ? begins[i + 1] : at));
      return g;
    });
}

/// Joins tensors of one shape along a new axis.
template <class T>
Tensor<T> stack(const std::vector<Tensor<T>>& parts, int axis = 0) {
  std::vector<Tensor<T>> wide;
  for (const Tensor<T>& p : parts) {
    Shape s = p.shape();
    s.insert(axis < 0 ? axis + s.rank + 1 : axis, 1);
    wide.push_back(reshape(p, s));
  }
  return concat(wide, axis);
}

/// Cuts an axis into pieces of the given sizes.
template <class T>
std::vector<Tensor<T>> split(const Tensor<T>& x, const std::vector<Index>& sizes, int axis) {
  std::vector<Tensor<T>> out;
  Index at = 0;
  for (Index n : sizes) out.push_back(slice(x, axis, at, at + n)), at += n;
  if (at != x.size(axis))
    fail(ErrorKind::shape, "split: pieces add up to " + std::to_string(at) + "; x " +
                               str(x.shape()) + " axis " + std::to_string(axis));
  return out;
}

}  // namespace moraine
MORAINE_OPTIMISED_END
