#pragma once
// Running sums along one axis.
//
//   y_r = x_0 + ... + x_r,   dx_r = dy_r + ... + dy_(n-1)
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/autograd/record.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/ops/reduce.hpp>
#endif

#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
/// x and y (outer,size,inner); backwards: from the last to the first.
template <class T>
struct Cumsum {
  static constexpr const char* name = "cumsum";
  Index outer, size, inner;
  bool backwards;
  const T* x;
  T* y;
  static void cpu(const Cumsum& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

template <class T>
Tensor<T> cumsum(const Tensor<T>& x, int axis = -1) {
  const Split at = split_at(x.shape(), axis);
  const Tensor<T> c = x.contiguous().detach();
  Tensor<T> y = empty_like(c);
  launch(c.device(), Cumsum<T>{at.outer, at.size, at.inner, false, c.data(), y.data()});
  return record("cumsum", y, {&x}, [at](const Tensor<T>& dy) {
    const Tensor<T> g = dy.contiguous();
    Tensor<T> dx = empty_like(g);
    launch(g.device(), Cumsum<T>{at.outer, at.size, at.inner, true, g.data(), dx.data()});
    return Grads<T>{dx};
  });
}

// ---- CPU
template <class T>
void Cumsum<T>::cpu(const Cumsum& k) {
  constexpr Index piece = 64;  // columns of one o that one thread walks down together
  const Index pieces = (k.inner + piece - 1) / piece;
  const Index width = k.inner < piece ? k.inner : piece;
  parallel_for(k.outer * pieces, 1 + (1 << 14) / (k.size * width + 1), [&](Index b, Index e) {
    for (Index r = b; r < e; ++r) {
      const Index o = r / pieces, first = (r % pieces) * piece;
      const Index m = first + piece < k.inner ? piece : k.inner - first;
      acc<T> s[piece] = {};
      for (Index j = 0; j < k.size; ++j) {
        const Index row = (o * k.size + (k.backwards ? k.size - 1 - j : j)) * k.inner + first;
        for (Index i = 0; i < m; ++i) k.y[row + i] = static_cast<T>(s[i] += k.x[row + i]);
      }
    }
  });
}
MORAINE_INSTANTIATE(Cumsum)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
