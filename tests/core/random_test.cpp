// Philox against the known answers of Random123 (kat_vectors, philox 4x32-10), and the normals.
#include <doctest/doctest.h>

#include <cmath>
#include <moraine/core/parallel.hpp>
#include <moraine/core/random.hpp>
#include <vector>

using namespace moraine;

TEST_CASE("philox gives the published known answers") {
  struct Row {
    std::uint64_t key;
    std::uint32_t c[4], out[4];
  };
  const Row rows[] = {
      {0, {0, 0, 0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {~0ull,
       {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {0x299f31d0a4093822ull,
       {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const Row& r : rows) {
    const Philox p = philox(r.key, r.c[0], r.c[1], r.c[2], r.c[3]);
    for (int i = 0; i < 4; ++i) CHECK(p.v[i] == r.out[i]);
  }
}

TEST_CASE("a stream depends on seed, purpose and step, and on nothing else") {
  const Random a(1, "noise", 2);
  CHECK(a.bits(5) == Random(1, "noise", 2).bits(5));
  CHECK(a.bits(5) != Random(2, "noise", 2).bits(5));
  CHECK(a.bits(5) != Random(1, "other", 2).bits(5));
  CHECK(a.bits(5) != Random(1, "noise", 3).bits(5));
  CHECK(a.bits(5) != a.bits(6));
  // Steps beyond 32 bits are distinct as well.
  CHECK(Random(1, "noise", 1ull << 40).bits(0) != Random(1, "noise", 0).bits(0));
}

TEST_CASE("uniforms fill [0,1) and integers their range") {
  const Random r(7, "uniform", 0);
  double mean = 0;
  int seen[10] = {};
  for (std::uint64_t i = 0; i < 100000; ++i) {
    const float u = r.uniform(i);
    REQUIRE(u >= 0.0f);
    REQUIRE(u < 1.0f);
    mean += u / 1e5;
    ++seen[r.below(i, 10)];
  }
  CHECK(mean == doctest::Approx(0.5).epsilon(0.01));
  for (int n : seen) CHECK(n == doctest::Approx(10000).epsilon(0.05));
}

TEST_CASE("normals: quantiles of the standard normal, and moments") {
  // Quantiles from tables with 10 digits.
  CHECK(Random::inverse_normal(0.5) == 0.0);
  CHECK(Random::inverse_normal(0.975) == doctest::Approx(1.959963984540054).epsilon(1e-14));
  CHECK(Random::inverse_normal(0.001) == doctest::Approx(-3.090232306167813).epsilon(1e-14));
  CHECK(Random::inverse_normal(1e-12) == doctest::Approx(-7.034483825301132).epsilon(1e-12));
  const Random r(3, "normal", 1);
  double m1 = 0, m2 = 0, m4 = 0;
  constexpr int n = 200000;
  for (std::uint64_t i = 0; i < n; ++i) {
    const double x = r.normal(i);
    m1 += x / n, m2 += x * x / n, m4 += x * x * x * x / n;
  }
  CHECK(std::abs(m1) < 0.01);
  CHECK(m2 == doctest::Approx(1).epsilon(0.02));
  CHECK(m4 == doctest::Approx(3).epsilon(0.05));
}
