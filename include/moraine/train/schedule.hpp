#pragma once
// Learning-rate schedules: a factor on the base rate as a function of the step alone.
#include <cmath>
#include <moraine/core/config.hpp>
#include <moraine/core/shape.hpp>

namespace moraine MORAINE_API {

enum class Decay : unsigned char { constant, poly, cosine };

struct Schedule {
  Decay decay = Decay::poly;
  Index steps = 0;     ///< of the whole run
  Index warmup = 0;    ///< linear from 1/warmup to 1
  double power = 0.9;  ///< of poly
  double floor = 0;    ///< where cosine ends, as a share of the base rate

  /// The factor at step t = 0, 1, ...: (t+1)/warmup, then (1-s)^power or
  /// floor + (1-floor)(1+cos(pi s))/2 with s the share of the rest that is done.
  double at(Index t) const {
    if (t < warmup) return static_cast<double>(t + 1) / static_cast<double>(warmup);
    const Index rest = steps - warmup;
    const double s =
        rest > 0 ? std::fmin(1, static_cast<double>(t - warmup) / static_cast<double>(rest)) : 1;
    switch (decay) {
      case Decay::constant:
        return 1;
      case Decay::poly:
        return std::pow(1 - s, power);
      case Decay::cosine:
        return floor + (1 - floor) * 0.5 * (1 + std::cos(3.14159265358979323846 * s));
    }
    return 1;
  }
};

}  // namespace moraine
