#pragma once
// Counter-based randomness: Philox4x32-10 (Salmon et al., SC 2011). Every number is a function of
// (seed, purpose, step, index), so nothing has to be saved for a resume, and no result depends on
// the order or the number of threads.
#include <moraine/core/config.hpp>

#include <cmath>
#include <cstdint>

namespace moraine MORAINE_API {

/// Four 32-bit words from a 128-bit counter and a 64-bit key.
struct Philox {
  std::uint32_t v[4];
};

MORAINE_HD inline Philox philox(std::uint64_t key, std::uint32_t c0, std::uint32_t c1,
                                std::uint32_t c2, std::uint32_t c3) {
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0, p1 = std::uint64_t{0xCD9E8D57u} * c2;
    const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return Philox{{c0, c1, c2, c3}};
}

/// A stream of random numbers, named by what it is for. `Random(seed, "dropout", step)` at index i
/// gives the same number on every machine, thread and device.
class Random {
 public:
  MORAINE_HD Random(std::uint64_t seed, std::uint32_t purpose, std::uint64_t step)
      : seed_(seed), purpose_(purpose), step_(step) {}
  Random(std::uint64_t seed, const char* purpose, std::uint64_t step)
      : Random(seed, hash(purpose), step) {}

  /// 32 uniform bits.
  MORAINE_HD std::uint32_t bits(std::uint64_t i) const { return block(i >> 2).v[i & 3]; }
  /// Uniform in [0,1) with 24 bits: exact in float.
  MORAINE_HD float uniform(std::uint64_t i) const {
    return static_cast<float>(bits(i) >> 8) * 5.9604644775390625e-8f;
  }
  /// Uniform in [low, high).
  MORAINE_HD float uniform(std::uint64_t i, float low, float high) const {
    return low + (high - low) * uniform(i);
  }
  /// Uniform integer in [0,n), n below 2^32 (multiply-shift; bias below n/2^32).
  MORAINE_HD std::uint32_t below(std::uint64_t i, std::uint32_t n) const {
    return static_cast<std::uint32_t>((std::uint64_t{bits(i)} * n) >> 32);
  }
  /// Standard normal: the inverse distribution function of 32 bits (Wichura's AS 241 PPND16, in
  /// double, which uses + - * / sqrt and one log).
  MORAINE_HD double normal(std::uint64_t i) const {
    return inverse_normal((static_cast<double>(bits(i)) + 0.5) * 2.3283064365386962890625e-10);
  }

  /// FNV-1a, for purposes written as text.
  static constexpr std::uint32_t hash(const char* s) {
    std::uint32_t h = 2166136261u;
    for (; *s; ++s) h = (h ^ static_cast<unsigned char>(*s)) * 16777619u;
    return h;
  }
  MORAINE_HD static double inverse_normal(double p);

 private:
  MORAINE_HD Philox block(std::uint64_t b) const {
    return philox(seed_ ^ (step_ * 0x9E3779B97F4A7C15ull), static_cast<std::uint32_t>(b),
                  static_cast<std::uint32_t>(b >> 32), purpose_, static_cast<std::uint32_t>(step_));
  }
  std::uint64_t seed_;
  std::uint32_t purpose_;
  std::uint64_t step_;
};

/// x with P(N(0,1) < x) = p, 0 < p < 1; relative error about 1e-16. M. Wichura, Applied Statistics
/// 37 (1988), algorithm AS 241, routine PPND16.
MORAINE_HD inline double Random::inverse_normal(double p) {
  const double q = p - 0.5;
  if (q > -0.425 && q < 0.425) {
    const double r = 0.180625 - q * q;
    return q *
           (((((((2509.0809287301226727 * r + 33430.575583588128105) * r + 67265.770927008700853) *
                    r +
                45921.953931549871457) *
                   r +
               13731.693765509461125) *
                  r +
              1971.5909503065514427) *
                 r +
             133.14166789178437745) *
                r +
            3.387132872796366608) /
           (((((((5226.495278852545925 * r + 28729.085735721942674) * r + 39307.89580009271061) *
                    r +
                21213.794301586595867) *
                   r +
               5394.1960214247511077) *
                  r +
              687.1870074920579083) *
                 r +
             42.313330701600911252) *
                r +
            1.0);
  }
  double r = std::sqrt(-std::log(q < 0 ? p : 1.0 - p)), x;
  if (r <= 5.0) {
    r -= 1.6;
    x = (((((((7.7454501427834140764e-4 * r + 0.0227238449892691845833) * r +
              0.24178072517745061177) *
                 r +
             1.27045825245236838258) *
                r +
            3.64784832476320460504) *
               r +
           5.7694972214606914055) *
              r +
          4.6303378461565452959) *
             r +
         1.42343711074968357734) /
        (((((((1.05075007164441684324e-9 * r + 5.475938084995344946e-4) * r +
              0.0151986665636164571966) *
                 r +
             0.14810397642748007459) *
                r +
            0.68976733498510000455) *
               r +
           1.6763848301838038494) *
              r +
          2.05319162663775882187) *
             r +
         1.0);
  } else {
    r -= 5.0;
    x = (((((((2.01033439929228813265e-7 * r + 2.71155556874348757815e-5) * r +
              0.0012426609473880784386) *
                 r +
             0.026532189526576123093) *
                r +
            0.29656057182850489123) *
               r +
           1.7848265399172913358) *
              r +
          5.4637849111641143699) *
             r +
         6.6579046435011037772) /
        (((((((2.04426310338993978564e-15 * r + 1.4215117583164458887e-7) * r +
              1.8463183175100546818e-5) *
                 r +
             7.868691311456132591e-4) *
                r +
            0.0148753612908506148525) *
               r +
           0.13692988092273580531) *
              r +
          0.59983220655588793769) *
             r +
         1.0);
  }
  return q < 0 ? -x : x;
}

}  // namespace moraine
