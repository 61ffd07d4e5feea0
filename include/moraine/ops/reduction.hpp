#pragma once
// How a loss turns many values into one, and the sum that all of them use.
#include <moraine/core/dtype.hpp>
#include <moraine/core/shape.hpp>

namespace moraine MORAINE_API {

enum class Reduction : unsigned char {
  mean,  ///< the sum, divided by the number (or the weight) of what counted; 0 when nothing did
  sum,
  none  ///< one value per element
};

inline const char* name_of(Reduction r) {
  return r == Reduction::mean ? "mean" : r == Reduction::sum ? "sum" : "none";
}

/// v(0) + ... + v(n-1) by halves down to runs of 128: an order that depends on n alone, and an
/// error that grows with log n.
template <class A>
MORAINE_HD A ordered_sum(const A* v, Index n) {
  if (n <= 128) {
    A s = 0;
    for (Index i = 0; i < n; ++i) s += v[i];
    return s;
  }
  const Index half = (n / 2 + 127) / 128 * 128;
  return ordered_sum(v, half) + ordered_sum(v + half, n - half);
}

}  // namespace MORAINE_API
