// Products of bfloat16 operands against a double loop over the rounded operands. Such products are
// exact in float, so only the additions round: (terms + 2) half units of the sum of magnitudes.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <moraine/autograd/backward.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/cpu/gemm.hpp>
#include <moraine/ops/linear.hpp>
#include <moraine/ops/reduce.hpp>
#include <vector>

#include "bf16_all_kernels.hpp"

using namespace moraine;
using cpu::Gemm;
using cpu::GemmKernels;

namespace {

std::vector<float> noise(Index n, std::uint64_t seed) {
  std::uint64_t state = seed * 2 + 1;
  std::vector<float> v(static_cast<std::size_t>(n));
  for (float& x : v) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    x = static_cast<float>(static_cast<double>(state >> 11) / 4503599627370496.0 - 1.0);
  }
  return v;
}

double rounded(float x) { return static_cast<double>(static_cast<float>(bfloat16(x))); }

struct Case {
  Index m, n, k;
  bool ta = false, tb = false, pack = false;
  Index batch = 1;
  bool share_a = false, share_b = false;
  bool bias = false, pre = false, residual = false, in_place = false, scale = false,
       accumulate = false;
  Activation act = Activation::none;
  float alpha = 1;
  Index gap = 0;
};

/// Runs a case; returns its worst error as a share of the bound, or keeps what was written.
double run(const GemmKernels& kernels, const Case& c, std::vector<float>* keep = nullptr) {
  const Index ra = (c.ta ? c.m : c.k) + c.gap, rb = (c.tb ? c.k : c.n) + c.gap, rc = c.n + c.gap;
  const Index sa = (c.ta ? c.k : c.m) * ra, sb = (c.tb ? c.n : c.k) * rb, sc = c.m * rc;
  const auto a = noise(c.batch * sa + 1, 1), b = noise(c.batch * sb + 1, 2);
  const auto bias = noise(c.n, 3), scale = noise(c.n, 4), residual = noise(c.batch * sc + 1, 5);
  auto out = noise(c.batch * sc + 1, 6);
  const auto before = out;
  std::vector<float> pre(out.size(), 7.0f);
  Gemm<float> g{.m = c.m, .n = c.n, .k = c.k};
  g.a = {a.data(), c.ta ? 1 : ra, c.ta ? ra : 1};
  g.b = {b.data(), c.tb ? 1 : rb, c.tb ? rb : 1};
  g.c = {out.data(), rc, 1};
  g.batch = c.batch, g.step_a = c.share_a ? 0 : sa, g.step_b = c.share_b ? 0 : sb, g.step_c = sc;
  g.alpha = c.alpha, g.act = c.act, g.accumulate = c.accumulate;
  if (c.bias) g.bias = bias.data();
  if (c.pre) g.pre = pre.data();
  if (c.residual) g.residual = c.in_place ? out.data() : residual.data();
  if (c.scale) g.scale = scale.data();
  std::shared_ptr<const cpu::PackedWeight<float>> packed;
  Gemm<float> called = g;
  if (c.pack) {
    packed = cpu::pack_matrix(b.data(), g.b.row, g.b.col, c.k, c.n, kernels);
    called.packed = packed.get();
    called.b.data = nullptr;
  }
  cpu::detail::gemm_with(kernels, called);
  if (keep) {
    *keep = out;
    keep->insert(keep->end(), pre.begin(), pre.end());
    return 0;
  }

  std::vector<double> a16(a.size()), b16(b.size());
  for (std::size_t i = 0; i < a.size(); ++i) a16[i] = rounded(a[i]);
  for (std::size_t i = 0; i < b.size(); ++i) b16[i] = rounded(b[i]);
  double worst = 0;
  const double half_unit = 0.5 * std::numeric_limits<float>::epsilon();
  const auto note = [&](double error, double bound) {
    if (!(error <= worst * bound)) worst = error / bound;  // a NaN is noted
  };
  for (Index i = 0; i < c.batch; ++i)
    for (Index r = 0; r < c.m; ++r) {
      for (Index j = 0; j < c.n; ++j) {
        double x = 0, size = 0;
        const double* const pa = a16.data() + i * g.step_a + r * g.a.row;
        const double* const pb = b16.data() + i * g.step_b + j * g.b.col;
        for (Index k = 0; k < c.k; ++k) {
          const double p = pa[k * g.a.col] * pb[k * g.b.row];
          x += p;
          size += std::fabs(p);
        }
        x = c.alpha * x + (c.bias ? bias[static_cast<std::size_t>(j)] : 0);
        const auto at = static_cast<std::size_t>(i * sc + r * rc + j);
        // Half a unit of at most `size` for each addition, and the epilogue (activations: 3e-7).
        double bound = half_unit * static_cast<double>(c.k + 2) * (size + 1) + 1e-6;
        if (c.pre) note(std::fabs(x - pre[at]), bound);
        x = activate(c.act, x);
        if (c.scale) x *= scale[static_cast<std::size_t>(j)];
        if (c.residual) x += c.in_place ? before[at] : residual[at];
        if (c.accumulate) x += before[at];
        note(std::fabs(x - out[at]), 1.2 * bound);  // the slope of an activation is below 1.2
      }
      for (Index j = c.n; j < rc; ++j) {
        const auto at = static_cast<std::size_t>(i * sc + r * rc + j);
        CHECK(out[at] == before[at]);
        CHECK(pre[at] == 7.0f);
      }
    }
  CHECK(out.back() == before.back());
  return worst;
}

}  // namespace

TEST_CASE("bf16 gemm: every tail of rows, columns and k, in every layout") {
  for (const auto& each : bf16_all_kernels::all()) {
    CAPTURE(each.name);
    for (int layout = 0; layout < 8; ++layout) {
      CAPTURE(layout);
      const bool ta = layout & 1, tb = layout & 2, pack = layout & 4;
      for (Index i = 1; i <= 130; ++i) {
        CAPTURE(i);
        CHECK(run(*each.kernels, {.m = i, .n = 21, .k = 19, .ta = ta, .tb = tb, .pack = pack}) <=
              1);
        CHECK(run(*each.kernels, {.m = 7, .n = i, .k = 19, .ta = ta, .tb = tb, .pack = pack}) <= 1);
        CHECK(run(*each.kernels, {.m = 7, .n = 21, .k = i, .ta = ta, .tb = tb, .pack = pack}) <= 1);
      }
    }
  }
}

TEST_CASE("bf16 gemm: several blocks of rows, columns and k, batches, rows apart") {
  for (const auto& each : bf16_all_kernels::all()) {
    CAPTURE(each.name);
    for (int bits = 0; bits < 8; ++bits) {
      CAPTURE(bits);
      Case c{.m = 101, .n = 150, .k = 2051, .ta = bool(bits & 1), .tb = bool(bits & 2)};
      c.gap = bits & 4 ? 3 : 0;
      c.bias = bits & 1;
      CHECK(run(*each.kernels, c) <= 1);
      c.pack = true;
      CHECK(run(*each.kernels, c) <= 1);
      c.pack = false, c.m = 14, c.n = 33, c.k = 9, c.batch = 5;
      CHECK(run(*each.kernels, c) <= 1);
      c.share_b = true;
      CHECK(run(*each.kernels, c) <= 1);
      c.share_a = true, c.share_b = false;
      CHECK(run(*each.kernels, c) <= 1);
    }
  }
}

TEST_CASE("bf16 gemm: epilogues") {
  for (const auto& each : bf16_all_kernels::all()) {
    CAPTURE(each.name);
    for (Activation act : {Activation::none, Activation::gelu, Activation::gelu_tanh,
                           Activation::quick_gelu, Activation::silu, Activation::relu})
      for (int bits = 0; bits < 16; ++bits) {
        CAPTURE(name_of(act));
        CAPTURE(bits);
        Case c{.m = 20, .n = 39, .k = 25, .tb = true};
        c.act = act;
        c.bias = bits & 1, c.pre = bits & 2, c.alpha = bits & 4 ? 0.5f : 1.0f;
        c.residual = c.scale = bits & 8, c.in_place = bits & 1;
        CHECK(run(*each.kernels, c) <= 1);
      }
    CHECK(run(*each.kernels, {.m = 50, .n = 90, .k = 2101, .ta = true, .accumulate = true}) <= 1);
    CHECK(run(*each.kernels, {.m = 5, .n = 9, .k = 0, .bias = true, .act = Activation::gelu}) <= 1);
    CHECK(run(*each.kernels, {.m = 5, .n = 90, .k = 0, .ta = true, .bias = true}) <= 1);
  }
}

TEST_CASE("bf16 gemm: the same bits for any number of threads, packed or not") {
  const int before = threads();
  for (const auto& each : bf16_all_kernels::all()) {
    CAPTURE(each.name);
    for (Case c :
         {Case{.m = 301, .n = 500, .k = 2100, .tb = true, .bias = true, .act = Activation::gelu},
          Case{.m = 301, .n = 300, .k = 91, .ta = true, .accumulate = true},
          Case{.m = 40, .n = 64, .k = 32, .batch = 37}, Case{.m = 1000, .n = 16, .k = 300}}) {
      set_threads(1);
      std::vector<float> one, more;
      run(*each.kernels, c, &one);
      for (int t : {2, 3, 8}) {
        set_threads(t);
        run(*each.kernels, c, &more);
        CHECK(std::memcmp(one.data(), more.data(), one.size() * sizeof(float)) == 0);
      }
      if (c.batch > 1) continue;
      c.pack = true;
      run(*each.kernels, c, &more);
      CHECK(std::memcmp(one.data(), more.data(), one.size() * sizeof(float)) == 0);
    }
  }
  set_threads(before);
}

TEST_CASE("bf16 gemm: rounding is to nearest, ties to even, in rows and in both packings") {
  // Every upper half, with lower halves around the middle; times one they come back rounded.
  std::vector<float> x;
  for (std::uint32_t top = 0; top < 0x10000u; top += 7)
    for (std::uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const std::uint32_t bits = top << 16 | low;
      float f;
      std::memcpy(&f, &bits, 4);
      x.push_back(f);
    }
  while (x.size() % 40) x.push_back(1.0f);
  const Index n = static_cast<Index>(x.size()), rows = n / 40;
  for (const auto& each : bf16_all_kernels::all()) {
    CAPTURE(each.name);
    const bool flushes = each.kernels == cpu::bf16_native_kernels();
    std::vector<float> y(x.size()), one{1.0f};
    // x as A (a column: rows of k = 1; read with a stride: strips), then as B in both layouts.
    for (int form = 0; form < 4; ++form) {
      CAPTURE(form);
      Gemm<float> g;
      if (form == 0)
        g = {.m = n, .n = 1, .k = 1, .a = {x.data(), 1, 1}, .b = {one.data(), 1, 1}};
      else if (form == 1)
        g = {.m = n, .n = 1, .k = 1, .a = {x.data(), 1, 2}, .b = {one.data(), 1, 1}};
      else
        g = {.m = 1, .n = n, .k = 1, .a = {one.data(), 1, 1}, .b = {x.data(), n, 1}};
      if (form == 3) g.b = {x.data(), 1, 1}, g.m = 1;
      g.c = {y.data(), g.n, 1};
      cpu::detail::gemm_with(*each.kernels, g);
      bool same = true;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const float want = bfloat16(x[i]);
        if (flushes && std::fabs(want) < std::numeric_limits<float>::min()) continue;
        same = same && (want == y[i] || (std::isnan(want) && std::isnan(y[i])));
      }
      CHECK(same);
    }
    // The same numbers along k, 40 at a time, against a unit vector for each: the vector paths.
    std::vector<float> unit(40 * 40, 0.0f), z(x.size());
    for (std::size_t i = 0; i < 40; ++i) unit[i * 41] = 1.0f;
    std::vector<float> finite = x;
    for (float& f : finite)
      if (!(std::fabs(f) < 1e38f)) f = 3.0f;
    const Gemm<float> as_rows{.m = rows,
                              .n = 40,
                              .k = 40,
                              .a = {finite.data(), 40, 1},
                              .b = {unit.data(), 40, 1},
                              .c = {z.data(), 40, 1}};
    cpu::detail::gemm_with(*each.kernels, as_rows);
    bool same = true;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const float want = bfloat16(finite[i]);
      if (flushes && std::fabs(want) < std::numeric_limits<float>::min()) continue;
      same = same && want == z[i];
    }
    CHECK(same);
    const Gemm<float> as_weight{.m = 40,
                                .n = rows,
                                .k = 40,
                                .a = {unit.data(), 40, 1},
                                .b = {finite.data(), 1, 40},
                                .c = {z.data(), rows, 1}};
    cpu::detail::gemm_with(*each.kernels, as_weight);
    same = true;
    for (Index i = 0; i < 40; ++i)
      for (Index j = 0; j < rows; ++j) {
        const float want = bfloat16(finite[static_cast<std::size_t>(j * 40 + i)]);
        if (flushes && std::fabs(want) < std::numeric_limits<float>::min()) continue;
        same = same && want == z[static_cast<std::size_t>(i * rows + j)];
      }
    CHECK(same);
  }
}

TEST_CASE("bf16 gemm: NaN and infinity stay in their row") {
  const float inf = std::numeric_limits<float>::infinity();
  for (const auto& each : bf16_all_kernels::all())
    for (Index n : {20, 70})
      for (bool ta : {false, true}) {
        CAPTURE(each.name);
        const Index m = 7, k = 5;
        auto a = noise(m * k, 1);
        const auto b = noise(k * n, 2);
        const Index row = ta ? 1 : k, col = ta ? m : 1;
        a[static_cast<std::size_t>(2 * row + 3 * col)] = NAN;
        a[static_cast<std::size_t>(4 * row + 4 * col)] = inf;  // beside the zero of an odd k
        a[static_cast<std::size_t>(5 * row + col)] = 3.4e38f;  // rounds to infinity
        std::vector<float> c(static_cast<std::size_t>(m * n));
        const Gemm<float> g{.m = m,
                            .n = n,
                            .k = k,
                            .a = {a.data(), row, col},
                            .b = {b.data(), n, 1},
                            .c = {c.data(), n, 1}};
        cpu::detail::gemm_with(*each.kernels, g);
        for (Index i = 0; i < m; ++i)
          for (Index j = 0; j < n; ++j) {
            const float x = c[static_cast<std::size_t>(i * n + j)];
            const Index at = i == 4 ? 4 : 1;
            if (i == 2)
              CHECK(std::isnan(x));
            else if (i == 4 || i == 5)
              CHECK(x == (b[static_cast<std::size_t>(at * n + j)] > 0 ? inf : -inf));
            else
              CHECK(std::isfinite(x));
          }
      }
}

TEST_CASE("bf16 gemm: a weight packed for another product is refused; double ignores the option") {
  const auto w = noise(6 * 4, 1), x = noise(2 * 4, 2);
  std::vector<float> y(12);
  const auto packed = cpu::pack_weight(w.data(), 6, 4, Product::bf16);
  Gemm<float> g{.m = 2, .n = 6, .k = 4, .a = {x.data(), 4, 1}, .b = {w.data(), 1, 4}};
  g.c = {y.data(), 6, 1};
  g.packed = packed.get();
  CHECK_THROWS_WITH_AS(
      cpu::gemm(g), "gemm: a weight packed for bf16 in a product of fp32 -> pack it again", Error);
  g.product = Product::bf16;
  cpu::gemm(g);
  const std::vector<float> first = y;
  g.packed = nullptr;
  cpu::gemm(g);
  CHECK(first == y);
  const double a = 1.0 / 3, b = 1.0 / 7;
  double c = 0;
  Gemm<double> d{.m = 1, .n = 1, .k = 1, .a = {&a, 1, 1}, .b = {&b, 1, 1}};
  d.c = {&c, 1, 1};
  d.product = Product::bf16;
  cpu::gemm(d);
  CHECK(c == a * b);
}

TEST_CASE("bf16 linear: values and gradients are those of rounded operands") {
  const Index m = 37, k = 45, n = 53;
  const auto vx = noise(m * k, 1), vw = noise(n * k, 2), vb = noise(n, 3), vg = noise(m * n, 4);
  for (bool packed : {false, true}) {
    CAPTURE(packed);
    Tensor<float> x({m, k}, vx), w({n, k}, vw), b({n}, vb);
    const Tensor<float> g({m, n}, vg);
    x.requires_grad();
    b.requires_grad();
    if (!packed) w.requires_grad();
    LinearOptions<float> o{.product = Product::bf16};
    if (packed) o.packed = cpu::pack_weight(vw.data(), n, k, Product::bf16);
    if (packed) o.packed_back = cpu::pack_weight_backward(vw.data(), n, k, Product::bf16);
    const Tensor<float> y = linear(x, w, b, o);
    backward(sum(mul(y, g)));
    double worst = 0;
    const auto at = [](const std::vector<float>& v, Index i) {
      return rounded(v[static_cast<std::size_t>(i)]);
    };
    const auto check = [&](const Tensor<float>& t, Index i, double want, double terms) {
      worst = std::fmax(worst, std::fabs(t.data()[i] - want) / (terms * terms * 6e-8));
    };
    for (Index i = 0; i < m; ++i)
      for (Index j = 0; j < n; ++j) {
        double s = vb[static_cast<std::size_t>(j)];
        for (Index c = 0; c < k; ++c) s += at(vx, i * k + c) * at(vw, j * k + c);
        check(y, i * n + j, s, k);
      }
    const Tensor<float> dx = x.grad();
    for (Index i = 0; i < m; ++i)
      for (Index c = 0; c < k; ++c) {
        double s = 0;
        for (Index j = 0; j < n; ++j) s += at(vg, i * n + j) * at(vw, j * k + c);
        check(dx, i * k + c, s, n);
      }
    for (Index j = 0; j < n; ++j) {  // the bias sees no product
      double s = 0;
      for (Index i = 0; i < m; ++i) s += vg[static_cast<std::size_t>(i * n + j)];
      check(b.grad(), j, s, m);
    }
    if (!packed)
      for (Index j = 0; j < n; ++j)
        for (Index c = 0; c < k; ++c) {
          double s = 0;
          for (Index i = 0; i < m; ++i) s += at(vg, i * n + j) * at(vx, i * k + c);
          check(w.grad(), j * k + c, s, m);
        }
    CHECK(worst <= 1);
  }
}
