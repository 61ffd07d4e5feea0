// Attention with products of bfloat16 operands. The oracle is the attention in double over rounded
// q, k and v. What remains is the rounding of each weight P, at most 2^-8 of it: the output may be
// off by 2^-8 sum P |v|, which the oracle gives as well, and by float sums.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <moraine/autograd/backward.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/cpu/attention_bf16.hpp>
#include <moraine/ops/attention.hpp>
#include <moraine/ops/reduce.hpp>
#include <vector>

#include "bf16_all_kernels.hpp"

using namespace moraine;
using cpu::GemmKernels;

namespace {

std::vector<float> noise(Index n, std::uint64_t seed, float factor = 1) {
  std::uint64_t state = seed * 2 + 1;
  std::vector<float> v(static_cast<std::size_t>(n));
  for (float& x : v) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    x = factor * static_cast<float>(static_cast<double>(state >> 11) / 4503599627370496.0 - 1.0);
  }
  return v;
}

std::vector<double> rounded(const std::vector<float>& x) {
  std::vector<double> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(bfloat16(x[i]));
  return y;
}
std::vector<double> widened(const std::vector<float>& x) { return {x.begin(), x.end()}; }

enum Added { none = 0, bias = 1, mask = 2, relative = 4, counts = 8 };

struct Problem {
  Index batch = 1, heads = 1, nq = 1, nk = 1, d = 1, dv = 1;
  bool fused = false;  ///< tokens before heads, as a projection lays them out
  float scale = 0;     ///< 0: 1/sqrt(d)
  int added = none;
  Index columns = 1;

  std::vector<float> q = {}, k = {}, v = {}, b = {}, h = {}, w = {};
  std::vector<std::uint8_t> m = {};
  std::vector<Index> n = {};

  void make() {
    const Index all = batch * heads;
    q = noise(all * nq * (d + 3), 1, 2);
    k = noise(all * nk * (d + 3), 2, 2);
    v = noise(all * nk * (dv + 3), 3, 2);
    if (added & bias) b = noise(all * nq * nk, 4);
    for (Index i = 0; i < batch * nk && added & mask; ++i) m.push_back(i % 3 != 1);
    if (added & relative) {
      h = noise(all * nq * (nk / columns), 5);
      w = noise(all * nq * columns, 6);
    }
    for (Index i = 0; i < batch && added & counts; ++i) n.push_back(i == 1 ? 0 : nk - nk / (3 + i));
  }
  template <class T>
  cpu::Heads<T> over(T* x, Index tokens, Index c) const {
    if (fused) return {x, tokens * heads * (c + 3), c + 3, heads * (c + 3)};
    return {x, heads * tokens * (c + 3), tokens * (c + 3), c + 3};
  }
  template <class T>
  cpu::Attention<T> bind(const std::vector<T>& tq, const std::vector<T>& tk,
                         const std::vector<T>& tv, const std::vector<T>& tb,
                         const std::vector<T>& th, const std::vector<T>& tw, std::vector<T>& out,
                         std::vector<T>& lse) const {
    out.assign(static_cast<std::size_t>(batch * heads * nq * (dv + 3)), T(77));
    lse.assign(static_cast<std::size_t>(batch * heads * nq), T(0));
    cpu::Attention<T> a{.batch = batch, .heads = heads, .nq = nq, .nk = nk, .d = d, .dv = dv};
    a.q = over(tq.data(), nq, d);
    a.k = over(tk.data(), nk, d);
    a.v = over(tv.data(), nk, dv);
    a.out = over(out.data(), nq, dv);
    a.scale = static_cast<T>(scale_of());
    a.lse = lse.data();
    if (added & bias) a.terms.bias = {tb.data(), heads * nq * nk, nq * nk, nk, 1};
    if (added & mask) a.terms.mask = m.data();
    if (added & relative) {
      a.terms.rel_h = th.data(), a.terms.rel_w = tw.data();
      a.terms.rows = nk / columns, a.terms.columns = columns;
    }
    if (added & counts) a.terms.keys = n.data();
    return a;
  }
  float scale_of() const { return scale != 0 ? scale : 1 / std::sqrt(static_cast<float>(d)); }

  std::vector<float> run(const GemmKernels& kernels) const {
    std::vector<float> out, lse;
    cpu::detail::attention_with(kernels, bind(q, k, v, b, h, w, out, lse),
                                cpu::detail::attend_pairs);
    out.insert(out.end(), lse.begin(), lse.end());
    return out;
  }
  /// The worst error of out as a share of its bound, and the worst of out against what unrounded
  /// operands give.
  double check(const GemmKernels& kernels, double* from_exact = nullptr) const {
    const std::vector<float> got = run(kernels);
    std::vector<double> out, lse, size, unused;
    const auto rq = rounded(q), rk = rounded(k), rv = rounded(v), tb = widened(b), th = widened(h),
               tw = widened(w);
    cpu::attention(bind(rq, rk, rv, tb, th, tw, out, lse));
    std::vector<double> magnitude = rv;
    for (double& x : magnitude) x = std::fabs(x);
    cpu::attention(bind(rq, rk, magnitude, tb, th, tw, size, unused));
    double worst = 0;
    for (std::size_t i = 0; i < out.size(); ++i) {
      const double e = std::fabs(got[i] - out[i]) / (std::fabs(size[i]) / 256 + 2e-5);
      worst = e > worst || std::isnan(e) ? e : worst;
    }
    for (std::size_t i = 0; i < lse.size(); ++i) {
      const double x = got[out.size() + i];
      if (x == lse[i]) continue;  // -inf
      const double e = std::fabs(x - lse[i]) / (2e-6 * std::fmax(1.0, std::fabs(lse[i])));
      worst = e > worst || std::isnan(e) ? e : worst;
    }
    if (from_exact) {
      cpu::attention(bind(widened(q), widened(k), widened(v), tb, th, tw, out, lse));
      *from_exact = 0;
      for (std::size_t i = 0; i < out.size(); ++i)
        *from_exact = std::fmax(*from_exact, std::fabs(got[i] - out[i]));
    }
    return worst;
  }
};

}  // namespace

TEST_CASE("bf16 attention: every tail of queries, keys, head and value size") {
  for (const auto& each : bf16_all_kernels::all()) {
    CAPTURE(each.name);
    for (Index i = 1; i <= 130; ++i)
      for (Problem p : {Problem{.nq = i, .nk = 21, .d = 9, .dv = 11},
                        Problem{.nq = 7, .nk = i, .d = 9, .dv = 11},
                        Problem{.nq = 7, .nk = 21, .d = i, .dv = 11},
                        Problem{.nq = 7, .nk = 21, .d = 9, .dv = i}}) {
        CAPTURE(i);
        p.make();
        CHECK(p.check(*each.kernels) <= 1);
      }
  }
}

TEST_CASE("bf16 attention: layouts, blocks of keys, scales") {
  for (const auto& each : bf16_all_kernels::all()) {
    CAPTURE(each.name);
    for (bool fused : {false, true})
      for (Problem p : {Problem{.batch = 2, .heads = 3, .nq = 101, .nk = 77, .d = 64, .dv = 64},
                        Problem{.heads = 2, .nq = 20, .nk = 1301, .d = 80, .dv = 96},
                        Problem{.nq = 9, .nk = 333, .d = 700, .dv = 501},
                        Problem{.nq = 13, .nk = 50, .d = 32, .dv = 32, .scale = -0.3f},
                        Problem{.nq = 13, .nk = 50, .d = 31, .dv = 32, .scale = 1e-30f}}) {
        CAPTURE(p.d);
        p.fused = fused;
        p.make();
        CHECK(p.check(*each.kernels) <= 1);
      }
  }
}

TEST_CASE("bf16 attention: everything that may be added to the scores") {
  for (const auto& each : bf16_all_kernels::all()) {
    CAPTURE(each.name);
    for (int added = 0; added < 16; ++added)
      for (Index columns : {5, 30}) {
        CAPTURE(added);
        Problem p{.batch = 3, .heads = 2, .nq = 11, .nk = 1200, .d = 100, .dv = 33};
        if (columns == 5) p.nk = 35;
        p.added = added;
        p.columns = columns;
        p.make();
        CHECK(p.check(*each.kernels) <= 1);
      }
  }
}

TEST_CASE("bf16 attention: how far from exact, and weights that are rounded without a bias") {
  for (const auto& each : bf16_all_kernels::all()) {
    CAPTURE(each.name);
    Problem p{.heads = 4, .nq = 96, .nk = 1370, .d = 64, .dv = 64};
    p.make();
    double off = 0;
    CHECK(p.check(*each.kernels, &off) <= 1);
    CHECK(off <= 5e-3);  // values in [-2,2], scores in about [-3,3]
    CHECK(off >= 1e-4);  // or the operands were not rounded
    // Of equal values the mean is that value: some 2^-9 below it if weights were cut off.
    for (float& x : p.v) x = 1;
    const std::vector<float> got = p.run(*each.kernels);
    double worst = 0;
    for (Index i = 0; i < 4 * 96; ++i)
      for (Index j = 0; j < 64; ++j)
        worst = std::fmax(worst, std::fabs(got[static_cast<std::size_t>(i * 67 + j)] - 1.0));
    CHECK(worst <= 4e-4);
  }
}

TEST_CASE("bf16 attention: the same bits for any number of threads") {
  const int before = threads();
  Problem p{.batch = 2, .heads = 3, .nq = 200, .nk = 300, .d = 40, .dv = 24};
  p.added = bias | counts;
  p.make();
  for (const auto& each : bf16_all_kernels::all()) {
    set_threads(1);
    const std::vector<float> one = p.run(*each.kernels);
    for (int t : {2, 3, 8}) {
      set_threads(t);
      const std::vector<float> more = p.run(*each.kernels);
      CHECK(std::memcmp(one.data(), more.data(), one.size() * sizeof(float)) == 0);
    }
  }
  set_threads(before);
}

TEST_CASE("bf16 attention: NaN in q reaches its row, in k or v every row of its head") {
  for (const auto& each : bf16_all_kernels::all())
    for (int which = 0; which < 3; ++which) {
      CAPTURE(each.name);
      CAPTURE(which);
      Problem p{.heads = 2, .nq = 15, .nk = 21, .d = 7, .dv = 5};
      p.make();
      std::vector<float>& x = which == 0 ? p.q : which == 1 ? p.k : p.v;
      const Index c = which == 2 ? 8 : 10;
      x[static_cast<std::size_t>((which ? 21 : 15) * c + 3 * c + 4)] = NAN;  // head 1, token 3
      const std::vector<float> y = p.run(*each.kernels);
      for (Index h = 0; h < 2; ++h)
        for (Index i = 0; i < 15; ++i)
          for (Index j = 0; j < 5; ++j) {
            const bool hit = h == 1 && (which == 0 ? i == 3 : which == 1 || j == 4);
            CHECK(std::isnan(y[static_cast<std::size_t>((h * 15 + i) * 8 + j)]) == hit);
          }
    }
}

TEST_CASE("bf16 attention: no keys, and the door") {
  Problem p{.nq = 3, .nk = 0, .d = 4, .dv = 2};
  p.make();
  const std::vector<float> y = p.run(cpu::bf16_kernels());
  for (Index i = 0; i < 3; ++i) {
    CHECK(y[static_cast<std::size_t>(i * 5)] == 0.0f);
    CHECK(y[static_cast<std::size_t>(15 + i)] == -HUGE_VALF);
  }
  p = {.nq = 3, .nk = 8, .d = 4, .dv = 2};
  p.make();
  std::vector<float> out, lse, plain;
  cpu::attention(p.bind(p.q, p.k, p.v, p.b, p.h, p.w, plain, lse));
  cpu::attention(p.bind(p.q, p.k, p.v, p.b, p.h, p.w, out, lse), Product::fp32);
  CHECK(out == plain);
  cpu::attention(p.bind(p.q, p.k, p.v, p.b, p.h, p.w, out, lse), Product::bf16);
  out.insert(out.end(), lse.begin(), lse.end());
  CHECK(out == p.run(cpu::bf16_kernels()));
}

TEST_CASE("bf16 attention: as an op, with the gradient of float products; double ignores it") {
  const Index n = 40, c = 2 * 24;
  const std::vector<float> values = noise(n * 3 * c, 1), weights = noise(n * c, 2);
  std::vector<float> y[2], dx[2];
  for (int i = 0; i < 2; ++i) {
    Tensor<float> x({1, n, 3 * c}, values);
    x.requires_grad();
    const Tensor<float> out =
        self_attention(x, 2, {.product = i == 0 ? Product::fp32 : Product::bf16});
    y[i] = out.values();
    backward(sum(mul(out, Tensor<float>({1, n, c}, weights))));
    dx[i] = x.grad().values();
  }
  double off = 0, off_dx = 0, most = 0;
  for (std::size_t i = 0; i < y[0].size(); ++i) off = std::fmax(off, std::fabs(y[0][i] - y[1][i]));
  for (std::size_t i = 0; i < dx[0].size(); ++i) {
    off_dx = std::fmax(off_dx, std::fabs(dx[0][i] - dx[1][i]));
    most = std::fmax(most, std::fabs(dx[0][i]));
  }
  CHECK(off > 1e-5);
  CHECK(off < 4e-3);  // 2^-8 of values in [-1,1]
  CHECK(off_dx < 4e-3 * most);
  const Tensor<double> d({1, 1, 3 * 2}, {0.1, 0.2, 0.3, 0.4, 1.0 / 3, 2.0 / 3});
  CHECK(self_attention(d, 1, {.product = Product::bf16}).values() == self_attention(d, 1).values());
}
