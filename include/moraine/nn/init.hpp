#pragma once
// Initial values. Each parameter draws from its own stream, keyed by its path, so adding a module
// does not change the others.
#include <moraine/core/random.hpp>
#include <moraine/core/tensor.hpp>

#include <cmath>
#include <cstdint>
#include <string>

namespace moraine::init {

inline Random stream(std::uint64_t seed, const std::string& path) {
  return Random(seed, "init", Random::hash(path.c_str()));
}

/// Uniform in [-bound, bound).
template <class T>
void uniform(Tensor<T>& t, double bound, const Random& r) {
  for (Index i = 0; i < t.numel(); ++i)
    t.data()[i] = static_cast<T>(
        bound * (2.0 * static_cast<double>(r.uniform(static_cast<std::uint64_t>(i))) - 1.0));
}
/// N(0, std^2).
template <class T>
void normal(Tensor<T>& t, double std, const Random& r) {
  for (Index i = 0; i < t.numel(); ++i)
    t.data()[i] = static_cast<T>(std * r.normal(static_cast<std::uint64_t>(i)));
}
/// N(0, std^2) cut at two standard deviations, by its distribution function.
template <class T>
void trunc_normal(Tensor<T>& t, double std, const Random& r) {
  constexpr double low = 0.022750131948179195, span = 1.0 - 2.0 * low;  // Phi(-2), Phi(2) - Phi(-2)
  for (Index i = 0; i < t.numel(); ++i) {
    const double u =
        (static_cast<double>(r.bits(static_cast<std::uint64_t>(i))) + 0.5) / 4294967296.0;
    t.data()[i] = static_cast<T>(std * Random::inverse_normal(low + span * u));
  }
}
/// PyTorch's default for a linear layer: uniform in +-1/sqrt(fan_in), weight and bias alike.
template <class T>
void linear_default(Tensor<T>& t, Index fan_in, const Random& r) {
  uniform(t, 1.0 / std::sqrt(static_cast<double>(fan_in)), r);
}

}  // namespace moraine::init
