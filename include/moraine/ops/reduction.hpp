#pragma once
// How a loss turns many values into one, and the sum that all of them use.
#include <moraine/core/dtype.hpp>
#include <moraine/core/shape.hpp>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

enum class Reduction : unsigned char {
  mean,  ///< the sum, divided by the number (or the weight) of what counted; 0 when nothing did
  sum,
  none  ///< one value per element
};

inline const char* name_of(Reduction r) {
  return r == Reduction::mean ? "mean" : r == Reduction::sum ? "sum" : "none";
}

/// f(begin) + ... + f(end-1) by halves down to runs of at most 512 in eight interleaved sums: an
/// order that depends on the length alone, and an error that grows with its logarithm.
template <class A, class F>
A ordered_total(Index begin, Index end, const F& f) {
  const Index n = end - begin;
  if (n <= 512) {
    A s[8] = {};
    Index i = begin;
    for (; i + 8 <= end; i += 8)
      for (int j = 0; j < 8; ++j) s[j] += f(i + j);
    for (int j = 0; i < end; ++i, ++j) s[j] += f(i);
    return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
  }
  const Index half = begin + (n / 2 + 511) / 512 * 512;
  return ordered_total<A>(begin, half, f) + ordered_total<A>(half, end, f);
}
template <class A>
A ordered_sum(const A* v, Index n) {
  return ordered_total<A>(0, n, [v](Index i) { return v[i]; });
}

}  // namespace moraine
MORAINE_OPTIMISED_END
