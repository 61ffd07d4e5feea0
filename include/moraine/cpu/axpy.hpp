#pragma once
// y += a x, the inner loop of everything that adds weighted rows: depthwise convolution, resizing.
#include <moraine/core/config.hpp>
#include <moraine/core/shape.hpp>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

/// y[i] += a x[i] for i < n; x and y do not overlap. Written in blocks of eight, because g++ -O2
/// leaves a loop of unknown length without vectors.
template <class T>
inline void axpy(Index n, T a, const T* __restrict x, T* __restrict y) {
  Index i = 0;
  for (; i + 8 <= n; i += 8)
    for (Index j = 0; j < 8; ++j) y[i + j] += a * x[i + j];
  for (; i < n; ++i) y[i] += a * x[i];
}

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
