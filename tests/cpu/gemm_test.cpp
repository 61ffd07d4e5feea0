// The float product against a double loop, against Eigen, and against itself: every epilogue, every
// layout, ragged sizes, all kernels of this machine, any thread count.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <moraine/core/parallel.hpp>
#include <moraine/core/random.hpp>
#include <moraine/cpu/gemm.hpp>
#include <vector>

#include "eigen_reference.hpp"

using namespace moraine;
using cpu::Gemm;
using cpu::GemmKernels;
using cpu::Isa;

namespace {

struct Noise {
  std::uint64_t state = 1;
  double next() {  // in [-1,1), by a 64-bit linear congruence
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<double>(state >> 11) / 4503599627370496.0 - 1.0;
  }
};

template <class T>
std::vector<T> noise(Index n, std::uint64_t seed) {
  Noise r{seed * 2 + 1};
  std::vector<T> v(static_cast<std::size_t>(n));
  for (T& x : v) x = static_cast<T>(r.next());
  return v;
}

/// g in double, element by element, and the bound on the rounding of each element in T.
template <class T>
void expect(const Gemm<T>& g, const std::vector<T>& before, const T* c, const T* pre) {
  double worst = 0, worst_pre = 0;
  for (Index i = 0; i < g.batch; ++i)
    for (Index r = 0; r < g.m; ++r)
      for (Index j = 0; j < g.n; ++j) {
        double x = 0, size = 0;
        for (Index k = 0; k < g.k; ++k) {
          const double p = double(g.a.data[i * g.step_a + r * g.a.row + k * g.a.col]) *
                           double(g.b.data[i * g.step_b + k * g.b.row + j * g.b.col]);
          x += p;
          size += std::fabs(p);
        }
        x = g.alpha * x + (g.bias ? g.bias[j] : 0);
        const Index at = i * g.step_c + r * g.c.row + j;
        const double eps = std::numeric_limits<T>::epsilon();
        const double bound =
            eps * (std::sqrt(double(g.k)) + 2) * (size + 1) + (sizeof(T) == 4 ? 1e-6 : 0);
        if (pre) worst_pre = std::fmax(worst_pre, std::fabs(x - pre[at]) / bound);
        x = activate(g.act.act, x);
        if (g.scale) x *= g.scale[j];
        const auto old = static_cast<std::size_t>(at);
        if (g.residual) x += g.residual == c ? before[old] : g.residual[at];
        if (g.accumulate) x += before[old];
        const double e = std::fabs(x - c[at]) / bound;
        worst = e > worst || std::isnan(e) ? e : worst;
      }
  CHECK(worst <= 1.0);
  CHECK(worst_pre <= 1.0);
}

struct Case {
  Index m, n, k;
  bool ta = false, tb = false;
  Index batch = 1;
  bool share_a = false, share_b = false;
  bool bias = false;
  Activation act = Activation::none;
  bool pre = false, residual = false, in_place = false, scale = false, accumulate = false;
  float alpha = 1;
  bool pack = false;
  Index gap = 0;  // elements between rows of every operand
};

template <class T>
std::vector<T> run(const GemmKernels* kernels, const Case& c, bool check) {
  const Index ra = (c.ta ? c.m : c.k) + c.gap, rb = (c.tb ? c.k : c.n) + c.gap, rc = c.n + c.gap;
  const Index sa = (c.ta ? c.k : c.m) * ra, sb = (c.tb ? c.n : c.k) * rb, sc = c.m * rc;
  const auto a = noise<T>(c.batch * sa + 1, 1), b = noise<T>(c.batch * sb + 1, 2);
  const auto bias = noise<T>(c.n, 3), scale = noise<T>(c.n, 4);
  const auto residual = noise<T>(c.batch * sc + 1, 5);
  auto out = noise<T>(c.batch * sc + 1, 6);
  const auto before = out;
  std::vector<T> pre(out.size(), T(7));
  Gemm<T> g;
  g.m = c.m, g.n = c.n, g.k = c.k, g.batch = c.batch;
  g.a = {a.data(), c.ta ? 1 : ra, c.ta ? ra : 1};
  g.b = {b.data(), c.tb ? 1 : rb, c.tb ? rb : 1};
  g.c = {out.data(), rc, 1};
  g.step_a = c.share_a ? 0 : sa, g.step_b = c.share_b ? 0 : sb, g.step_c = sc;
  g.alpha = static_cast<T>(c.alpha);
  g.bias = c.bias ? bias.data() : nullptr;
  g.act = c.act;
  g.pre = c.pre ? pre.data() : nullptr;
  g.residual = c.in_place ? out.data() : c.residual ? residual.data() : nullptr;
  g.scale = c.scale ? scale.data() : nullptr;
  g.accumulate = c.accumulate;
  if constexpr (sizeof(T) == 4) {
    std::shared_ptr<const cpu::PackedWeight<float>> packed;
    if (c.pack) {
      packed = cpu::pack_matrix(b.data(), g.b.row, g.b.col, c.k, c.n, *kernels);
      g.packed = packed.get();
      const T* real = g.b.data;
      g.b.data = nullptr;
      cpu::detail::gemm_with(*kernels, g);
      g.b.data = real;
    } else {
      cpu::detail::gemm_with(*kernels, g);
    }
  } else {
    cpu::gemm(g);
  }
  if (check) {
    expect(g, before, out.data(), c.pre ? pre.data() : nullptr);
    // Nothing beside the matrices was written.
    bool clean = true;
    for (Index i = 0; i < c.batch * c.m; ++i)
      for (Index j = c.n; j < rc; ++j) {
        const auto at = static_cast<std::size_t>(i * rc + j);
        clean = clean && out[at] == before[at] && pre[at] == T(7);
      }
    CHECK(clean);
    CHECK(out.back() == before.back());
  }
  if (c.pre) out.insert(out.end(), pre.begin(), pre.end());
  return out;
}

// All that this machine runs, or the ones that MORAINE_ISA names.
std::vector<const GemmKernels*> all_kernels() {
  if (std::getenv("MORAINE_ISA")) return {cpu::gemm_kernels(cpu::best_isa())};
  std::vector<const GemmKernels*> all;
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512})
    if (const GemmKernels* k = cpu::gemm_kernels(isa)) all.push_back(k);
  return all;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  // Sizes around every tile edge of every kernel, and past one block of rows, columns and k.
  for (Index m : {1, 5, 6, 7, 12, 13, 97})
    for (Index n : {1, 3, 8, 9, 15, 16, 17, 33, 64, 100, 130})
      for (Index k : {0, 1, 7, 33}) all.push_back({.m = m, .n = n, .k = k, .bias = m % 2 == 1});
  all.push_back({.m = 25, .n = 48, .k = 2050, .bias = true});
  all.push_back({.m = 101, .n = 300, .k = 1500, .bias = true, .pack = true});
  for (int bits = 0; bits < 8; ++bits) {
    Case c{.m = 29, .n = 51, .k = 40};
    c.ta = bits & 1, c.tb = bits & 2, c.gap = bits & 4 ? 3 : 0;
    all.push_back(c);
    c.m = 130, c.n = 200, c.k = 1100;
    all.push_back(c);
    c.batch = 5, c.m = 14, c.n = 32, c.k = 9;
    all.push_back(c);
    c.share_b = true;
    all.push_back(c);
    c.share_a = true, c.share_b = false;
    all.push_back(c);
    if (!(bits & 1)) {
      c = {.m = 40, .n = 75, .k = 31, .tb = bool(bits & 2), .pack = true, .gap = c.gap};
      all.push_back(c);
    }
  }
  for (Activation act : {Activation::none, Activation::gelu, Activation::gelu_tanh,
                         Activation::quick_gelu, Activation::silu, Activation::relu})
    for (int bits = 0; bits < 8; ++bits) {
      Case c{.m = 20, .n = 39, .k = 25, .tb = true, .act = act};
      c.bias = bits & 1, c.pre = bits & 2, c.alpha = bits & 4 ? 0.5f : 1.0f;
      all.push_back(c);
    }
  for (int bits = 0; bits < 8; ++bits) {
    Case c{.m = 31, .n = 70, .k = 1030, .bias = true};
    c.residual = true, c.in_place = bits & 1, c.scale = bits & 2, c.pack = bits & 4;
    all.push_back(c);
    c.batch = 2, c.k = 12, c.pack = false;
    all.push_back(c);
  }
  for (float alpha : {1.0f, -0.25f})
    all.push_back({.m = 50, .n = 90, .k = 1025, .ta = true, .accumulate = true, .alpha = alpha});
  return all;
}

/// The largest error of a product of m x k by k x n against Eigen in double, in units of its bound.
double against_eigen(const GemmKernels& kernels, const Case& c) {
  const Index ra = c.ta ? c.m : c.k, rb = c.tb ? c.k : c.n, rc = c.n + 1;
  const auto a = noise<float>(c.m * c.k, 1), b = noise<float>(c.k * c.n, 2);
  std::vector<float> out(static_cast<std::size_t>(c.m * rc), 7.0f);
  Gemm<float> g{.m = c.m, .n = c.n, .k = c.k};
  g.a = {a.data(), c.ta ? 1 : ra, c.ta ? ra : 1};
  g.b = {b.data(), c.tb ? 1 : rb, c.tb ? rb : 1};
  g.c = {out.data(), rc, 1};
  const std::vector<double> wide_a(a.begin(), a.end()), wide_b(b.begin(), b.end());
  std::vector<double> want(static_cast<std::size_t>(c.m * c.n));
  Gemm<double> r{.m = c.m, .n = c.n, .k = c.k};
  r.a = {wide_a.data(), g.a.row, g.a.col};
  r.b = {wide_b.data(), g.b.row, g.b.col};
  r.c = {want.data(), c.n, 1};
  cpu::gemm_reference(r);
  if (c.pack) {
    const auto packed = cpu::pack_matrix(b.data(), g.b.row, g.b.col, c.k, c.n, kernels);
    g.packed = packed.get(), g.b.data = nullptr;
    cpu::detail::gemm_with(kernels, g);
  } else {
    cpu::detail::gemm_with(kernels, g);
  }
  // |a|, |b| < 1: k rounded products, added in any order.
  const double bound = std::numeric_limits<float>::epsilon() * double(c.k + 1);
  double worst = 0;
  for (Index i = 0; i < c.m; ++i) {
    for (Index j = 0; j < c.n; ++j) {
      const double e = std::fabs(double(out[static_cast<std::size_t>(i * rc + j)]) -
                                 want[static_cast<std::size_t>(i * c.n + j)]);
      worst = e > worst || std::isnan(e) ? e : worst;
    }
    if (out[static_cast<std::size_t>(i * rc + c.n)] != 7.0f) return 1e9;  // written beside C
  }
  return worst / bound;
}

}  // namespace

TEST_CASE("gemm: float kernels agree with a double loop") {
  for (const GemmKernels* kernels : all_kernels()) {
    CAPTURE(cpu::name_of(kernels->isa));
    for (const Case& c : cases()) {
      CAPTURE(c.m);
      CAPTURE(c.n);
      CAPTURE(c.k);
      CAPTURE(c.ta);
      CAPTURE(c.tb);
      CAPTURE(c.batch);
      CAPTURE(c.gap);
      CAPTURE(name_of(c.act));
      run<float>(kernels, c, true);
    }
  }
}

TEST_CASE("gemm: every tail of rows, columns and k, in every layout, against Eigen in double") {
  for (const GemmKernels* kernels : all_kernels()) {
    CAPTURE(cpu::name_of(kernels->isa));
    for (int layout = 0; layout < 8; ++layout) {
      CAPTURE(layout);
      const bool ta = layout & 1, tb = layout & 2, pack = layout & 4;
      for (Index i = 1; i <= 130; ++i) {
        CAPTURE(i);
        CHECK(against_eigen(*kernels,
                            {.m = i, .n = 21, .k = 19, .ta = ta, .tb = tb, .pack = pack}) <= 1);
        CHECK(against_eigen(*kernels,
                            {.m = 7, .n = i, .k = 19, .ta = ta, .tb = tb, .pack = pack}) <= 1);
        CHECK(against_eigen(*kernels,
                            {.m = 7, .n = 21, .k = i, .ta = ta, .tb = tb, .pack = pack}) <= 1);
      }
    }
  }
}

TEST_CASE("gemm: double agrees with a double loop") {
  for (const Case& c : cases()) {
    CAPTURE(c.m);
    CAPTURE(c.n);
    CAPTURE(c.k);
    run<double>(nullptr, c, true);
  }
}

TEST_CASE("gemm: the same bits for 1, 2 and 3 threads") {
  const int before = threads();
  for (const GemmKernels* kernels : all_kernels())
    for (const Case& c :
         {Case{.m = 301, .n = 500, .k = 1400, .tb = true, .bias = true, .act = Activation::gelu},
          Case{.m = 301, .n = 500, .k = 90, .ta = true, .accumulate = true},
          Case{.m = 40, .n = 64, .k = 32, .batch = 37}, Case{.m = 1000, .n = 16, .k = 300}}) {
      set_threads(1);
      const auto one = run<float>(kernels, c, false);
      for (int t : {2, 3}) {
        set_threads(t);
        const auto more = run<float>(kernels, c, false);
        CHECK(std::memcmp(one.data(), more.data(), one.size() * sizeof(float)) == 0);
      }
    }
  set_threads(before);
}

TEST_CASE("gemm: packed, unpacked and in-place operands give the same bits") {
  for (const GemmKernels* kernels : all_kernels()) {
    const Case plain{.m = 20, .n = 128, .k = 1200, .bias = true};  // few rows: B is read in place
    Case packed = plain;
    packed.pack = true;
    CHECK(run<float>(kernels, plain, false) == run<float>(kernels, packed, false));
  }
}

TEST_CASE("gemm: agrees with Eigen") {
  const Index m = 150, n = 90, k = 260;
  const auto a = noise<float>(m * k, 1), b = noise<float>(n * k, 2), bias = noise<float>(n, 3);
  std::vector<float> x(static_cast<std::size_t>(m * n)), y(x.size());
  Gemm<float> g{.m = m, .n = n, .k = k, .a = {a.data(), k, 1}, .b = {b.data(), 1, k}};
  g.bias = bias.data();
  g.act = Activation::gelu;
  g.c = {x.data(), n, 1};
  cpu::gemm(g);
  g.c = {y.data(), n, 1};
  cpu::gemm_reference(g);
  float worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) worst = std::fmax(worst, std::fabs(x[i] - y[i]));
  CHECK(worst < 1e-5f);
}

TEST_CASE("gemm: NaN, infinity and denormals") {
  const float inf = std::numeric_limits<float>::infinity();
  for (const GemmKernels* kernels : all_kernels()) {
    for (Index n : {20, 70}) {
      const Index m = 7, k = 5;
      auto a = noise<float>(m * k, 1);
      const auto b = noise<float>(k * n, 2);
      a[2 * k + 3] = NAN;
      a[4 * k + 1] = inf;
      std::vector<float> c(static_cast<std::size_t>(m * n));
      Gemm<float> g{.m = m, .n = n, .k = k, .a = {a.data(), k, 1}, .b = {b.data(), n, 1}};
      g.c = {c.data(), n, 1};
      for (Activation act : {Activation::none, Activation::gelu, Activation::gelu_tanh,
                             Activation::quick_gelu, Activation::silu, Activation::relu}) {
        g.act = act;
        cpu::detail::gemm_with(*kernels, g);
        for (Index i = 0; i < m; ++i)
          for (Index j = 0; j < n; ++j) {
            const float x = c[static_cast<std::size_t>(i * n + j)];
            if (i == 2) CHECK(std::isnan(x));  // and in no other row
            if (i != 2 && i != 4) CHECK(std::isfinite(x));
            const float sign = b[static_cast<std::size_t>(n + j)];
            if (i == 4 && sign > 0) CHECK(x == inf);
            if (i == 4 && sign < 0 && act == Activation::none) CHECK(x == -inf);
            if (i == 4 && sign < 0 && (act == Activation::gelu || act == Activation::relu))
              CHECK(x == 0.0f);
          }
      }
      // Denormals are numbers.
      std::vector<float> d(static_cast<std::size_t>(m * k), 1e-40f), one(b.size(), 1.0f);
      g.a.data = d.data();
      g.b.data = one.data();
      g.act = Activation::none;
      cpu::detail::gemm_with(*kernels, g);
      CHECK(c[0] == doctest::Approx(5e-40).epsilon(1e-4));
      CHECK(c[0] > 0);
    }
  }
}

TEST_CASE("gemm: sizes of zero") {
  const std::vector<float> bias{1, -2, 3};
  std::vector<float> c(6, 9.0f);
  Gemm<float> g{.m = 2, .n = 3, .k = 0};
  g.c = {c.data(), 3, 1};
  cpu::gemm(g);
  CHECK(c == std::vector<float>(6, 0.0f));
  g.bias = bias.data();
  g.act = Activation::relu;
  cpu::gemm(g);
  CHECK(c == std::vector<float>{1, 0, 3, 1, 0, 3});
  g.m = 0;
  cpu::gemm(g);
  g.m = 2, g.n = 0;
  cpu::gemm(g);
  g.n = 3, g.batch = 0;
  cpu::gemm(g);
  CHECK(c == std::vector<float>{1, 0, 3, 1, 0, 3});
}

#if defined(__x86_64__) && defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
// The sum 1 * (1 + 2^-12)^2 - ... keeps its last bits only if product and sum are rounded once.
// -ffp-contract=off separates them: half the speed, and this test is where one learns of it.
TEST_CASE("gemm: kernels with FMA were compiled with contraction") {
  for (Isa isa : {Isa::avx2, Isa::avx512}) {
    const GemmKernels* kernels = cpu::gemm_kernels(isa);
    if (!kernels) continue;
    const float x = 1.0f + std::ldexp(1.0f, -12);
    const std::vector<float> a{1.0f, x}, b{-x * x, x};
    float c = 0;
    Gemm<float> g{.m = 1, .n = 1, .k = 2, .a = {a.data(), 2, 1}, .b = {b.data(), 1, 1}};
    g.c = {&c, 1, 1};
    cpu::detail::gemm_with(*kernels, g);
    CHECK_MESSAGE(c == std::ldexp(1.0f, -24),
                  "compiled with -ffp-contract=off: kernels run at half speed");
  }
}
#endif
