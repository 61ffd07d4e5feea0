// Fused attention: double against the definition and its finite differences, float against double,
// every head size and layout, everything that may be added to the scores, NaN and infinity, and the
// same bits for any thread count.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <moraine/core/parallel.hpp>
#include <moraine/cpu/attention.hpp>
#include <moraine/cpu/attention_backward.hpp>
#include <vector>

using namespace moraine;
using cpu::Isa;

namespace {

template <class T>
std::vector<T> noise(Index n, std::uint64_t seed) {
  std::uint64_t state = seed * 2 + 1;
  std::vector<T> v(static_cast<std::size_t>(n));
  for (T& x : v) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    x = static_cast<T>(
        static_cast<float>(static_cast<double>(state >> 11) / 4503599627370496.0 - 1.0));
  }
  return v;
}

/// A whole problem with its results. `fused` lays q, k, v out as one (B,N,3,H,D) as a ViT does;
/// otherwise each is (B,H,N,D) with a gap after every token.
template <class T>
struct Problem {
  Index batch, heads, nq, nk, d, dv;
  bool fused;
  std::vector<T> q, k, v, dout, out, lse, dq, dk, dvalue;
  cpu::Attention<T> f;
  cpu::AttentionBackward<T> b;

  Problem(Index batch_, Index heads_, Index nq_, Index nk_, Index d_, Index dv_, bool fused_)
      : batch(batch_), heads(heads_), nq(nq_), nk(nk_), d(d_), dv(dv_), fused(fused_) {
    f.batch = b.batch = batch, f.heads = b.heads = heads;
    f.nq = b.nq = nq, f.nk = b.nk = nk, f.d = b.d = d, f.dv = b.dv = dv;
    f.scale = b.scale = static_cast<T>(1.5f / std::sqrt(static_cast<float>(d)));
    const auto make = [&](std::vector<T>& x, Index n, Index c, std::uint64_t seed) {
      x = noise<T>(batch * heads * n * (c + 3) + 1, seed);
      for (T& e : x) e *= T(2);
      return strides(n, c);
    };
    set(f.q, q, make(q, nq, d, 1));
    set(f.k, k, make(k, nk, d, 2));
    set(f.v, v, make(v, nk, dv, 3));
    set(b.dout, dout, make(dout, nq, dv, 4));
    b.q = f.q, b.k = f.k, b.v = f.v;
    const auto blank = [&](std::vector<T>& x, Index n, Index c) {
      x.assign(static_cast<std::size_t>(batch * heads * n * (c + 3) + 1), T(77));
      return strides(n, c);
    };
    set(f.out, out, blank(out, nq, dv));
    set(b.dq, dq, blank(dq, nq, d));
    set(b.dk, dk, blank(dk, nk, d));
    set(b.dvalue, dvalue, blank(dvalue, nk, dv));
    lse.assign(static_cast<std::size_t>(batch * heads * nq), T(0));
    f.lse = lse.data();
    b.lse = lse.data();
    b.out = {f.out.data, f.out.batch, f.out.head, f.out.token};
  }
  struct Strides {
    Index batch, head, token;
  };
  Strides strides(Index n, Index c) const {
    if (fused) return {n * heads * (c + 3), c + 3, heads * (c + 3)};
    return {heads * n * (c + 3), n * (c + 3), c + 3};
  }
  template <class U, class V>
  static void set(cpu::Heads<U>& h, std::vector<V>& x, Strides s) {
    h = {x.data(), s.batch, s.head, s.token};
  }
};

/// What is added to the scores of a Problem, with room for its gradients.
enum Added { bias = 1, mask = 2, relative = 4, counts = 8 };
template <class T>
struct Addition {
  std::vector<T> b, db, h, dh, w, dw;
  std::vector<std::uint8_t> m;
  std::vector<Index> n;

  /// `shared` axes of the bias (bits: 1 batch, 2 head, 4 query) have stride 0; the keys are a map
  /// of nk / columns rows.
  Addition(Problem<T>& p, int what, int shared, Index columns) {
    cpu::ScoreTerms<T> t;
    if (what & bias) {
      const Index queries = shared & 4 ? 1 : p.nq, heads = shared & 2 ? 1 : p.heads,
                  batch = shared & 1 ? 1 : p.batch;
      b = noise<T>(batch * heads * queries * p.nk, 5);
      db.assign(b.size(), T(77));
      t.bias = {b.data(), shared & 1 ? 0 : heads * queries * p.nk, shared & 2 ? 0 : queries * p.nk,
                shared & 4 ? 0 : p.nk, 1};
      p.b.dbias = {db.data(), t.bias.batch, t.bias.head, t.bias.query, 1};
    }
    if (what & mask) {
      m.resize(static_cast<std::size_t>(p.batch * p.nk));
      for (std::size_t i = 0; i < m.size(); ++i) m[i] = i % 3 != 1;
      t.mask = m.data();
    }
    if (what & relative) {
      t.columns = columns;
      t.rows = p.nk / columns;
      h = noise<T>(p.batch * p.heads * p.nq * t.rows, 6);
      w = noise<T>(p.batch * p.heads * p.nq * t.columns, 7);
      dh.assign(h.size(), T(77));
      dw.assign(w.size(), T(77));
      t.rel_h = h.data(), t.rel_w = w.data();
      p.b.drel_h = dh.data(), p.b.drel_w = dw.data();
    }
    if (what & counts) {
      for (Index i = 0; i < p.batch; ++i) n.push_back(i == 1 ? 0 : p.nk - p.nk / (3 + i));
      t.keys = n.data();
    }
    p.f.terms = p.b.terms = t;
  }
};

double worst(const std::vector<float>& x, const std::vector<double>& y) {
  REQUIRE(x.size() == y.size());
  double w = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double e = std::fabs(x[i] - y[i]) / std::fmax(1.0, std::fabs(y[i]));
    w = e > w || std::isnan(e) ? e : w;
  }
  return w;
}

// All that this machine runs, or the ones that MORAINE_ISA names.
std::vector<const cpu::GemmKernels*> all_kernels() {
  if (std::getenv("MORAINE_ISA")) return {cpu::gemm_kernels(cpu::best_isa())};
  std::vector<const cpu::GemmKernels*> all;
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512})
    if (const auto* k = cpu::gemm_kernels(isa)) all.push_back(k);
  return all;
}

}  // namespace

TEST_CASE("attention: double is the definition, its backward the derivative") {
  Problem<double> p(2, 2, 3, 4, 5, 2, true);
  cpu::attention(p.f);
  for (Index b = 0; b < 2; ++b)
    for (Index h = 0; h < 2; ++h)
      for (Index i = 0; i < 3; ++i) {
        double e[4], sum = 0;
        for (Index j = 0; j < 4; ++j) {
          e[j] = 0;
          for (Index c = 0; c < 5; ++c)
            e[j] += p.f.q.at(b, h)[i * p.f.q.token + c] * p.f.k.at(b, h)[j * p.f.k.token + c];
          e[j] = std::exp(e[j] * p.f.scale);
          sum += e[j];
        }
        for (Index c = 0; c < 2; ++c) {
          double y = 0;
          for (Index j = 0; j < 4; ++j) y += e[j] / sum * p.f.v.at(b, h)[j * p.f.v.token + c];
          CHECK(p.f.out.at(b, h)[i * p.f.out.token + c] == doctest::Approx(y).epsilon(1e-12));
        }
        CHECK(p.lse[static_cast<std::size_t>((b * 2 + h) * 3 + i)] ==
              doctest::Approx(std::log(sum)).epsilon(1e-12));
      }
  cpu::attention_backward(p.b);
  const auto loss = [&] {
    cpu::attention(p.f);
    double s = 0;
    for (Index b = 0; b < 2; ++b)
      for (Index h = 0; h < 2; ++h)
        for (Index i = 0; i < 3; ++i)
          for (Index c = 0; c < 2; ++c)
            s +=
                p.f.out.at(b, h)[i * p.f.out.token + c] * p.b.dout.at(b, h)[i * p.b.dout.token + c];
    return s;
  };
  const auto check = [&](std::vector<double>& x, const std::vector<double>& dx) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (dx[i] == 77) continue;  // a gap
      const double keep = x[i], h = 1e-6;
      x[i] = keep + h;
      const double up = loss();
      x[i] = keep - h;
      const double down = loss();
      x[i] = keep;
      CHECK(dx[i] == doctest::Approx((up - down) / (2 * h)).epsilon(1e-6));
    }
  };
  check(p.q, p.dq);
  check(p.k, p.dk);
  check(p.v, p.dvalue);
}

TEST_CASE("attention: float agrees with double, forward and backward") {
  struct Size {
    Index batch, heads, nq, nk, d, dv;
  };
  for (const auto* kernels : all_kernels())
    for (Size z :
         {Size{1, 1, 1, 1, 1, 1}, Size{1, 1, 7, 5, 3, 4}, Size{2, 3, 49, 49, 32, 32},
          Size{1, 2, 50, 33, 20, 20}, Size{1, 2, 197, 197, 64, 64}, Size{1, 2, 100, 259, 80, 80},
          Size{1, 1, 13, 700, 128, 128}, Size{1, 1, 30, 70, 1024, 1024},
          Size{1, 1, 40, 90, 300, 17}, Size{3, 1, 6, 16, 16, 48}, Size{1, 1, 5, 2600, 8, 8},
          Size{1, 1, 31, 66, 88, 88}, Size{1, 1, 17, 131, 96, 96}, Size{1, 1, 23, 65, 33, 31}})
      for (bool fused : {false, true}) {
        CAPTURE(cpu::name_of(kernels->isa));
        CAPTURE(z.nk);
        CAPTURE(z.d);
        CAPTURE(fused);
        Problem<float> x(z.batch, z.heads, z.nq, z.nk, z.d, z.dv, fused);
        Problem<double> y(z.batch, z.heads, z.nq, z.nk, z.d, z.dv, fused);
        y.f.scale = y.b.scale = x.f.scale;
        cpu::detail::attention_with(*kernels, x.f);
        cpu::attention(y.f);
        // Rounding of a score grows with the root of its terms. Gaps are 77 in both.
        CHECK(worst(x.out, y.out) <= 2e-6 + 1.5e-7 * std::sqrt(static_cast<double>(z.d)));
        CHECK(worst(x.lse, y.lse) <= 2e-6);
        cpu::detail::attention_backward_with(*kernels, x.b);
        cpu::attention_backward(y.b);
        CHECK(worst(x.dq, y.dq) <= 2e-5);
        CHECK(worst(x.dk, y.dk) <= 2e-5);
        CHECK(worst(x.dvalue, y.dvalue) <= 2e-5);
      }
}

TEST_CASE("attention: with terms added to the scores float agrees with double") {
  struct Size {
    Index batch, heads, nq, nk, d, columns;
  };
  for (const auto* kernels : all_kernels())
    for (Size z : {Size{1, 1, 1, 1, 3, 1}, Size{3, 2, 49, 49, 32, 7}, Size{2, 2, 20, 196, 64, 14},
                   Size{2, 1, 13, 1024, 8, 64}, Size{1, 2, 100, 65, 80, 5},
                   Size{2, 1, 7, 2100, 5, 30}, Size{1, 1, 9, 130, 600, 13}})
      for (int what = 1; what < 16; ++what)
        for (int shared = 0; shared < (what & bias ? 8 : 1); ++shared) {
          if (z.nk > 500 && shared > 0 && shared != 3) continue;  // time
          CAPTURE(cpu::name_of(kernels->isa));
          CAPTURE(z.nk);
          CAPTURE(z.d);
          CAPTURE(what);
          CAPTURE(shared);
          Problem<float> x(z.batch, z.heads, z.nq, z.nk, z.d, z.d, true);
          Problem<double> y(z.batch, z.heads, z.nq, z.nk, z.d, z.d, true);
          y.f.scale = y.b.scale = x.f.scale;
          const Addition<float> u(x, what, shared, z.columns);
          const Addition<double> v(y, what, shared, z.columns);
          cpu::detail::attention_with(*kernels, x.f);
          cpu::attention(y.f);
          CHECK(worst(x.out, y.out) <= 3e-6 + 1.5e-7 * std::sqrt(static_cast<double>(z.d)));
          cpu::detail::attention_backward_with(*kernels, x.b);
          cpu::attention_backward(y.b);
          CHECK(worst(x.dq, y.dq) <= 2e-5);
          CHECK(worst(x.dk, y.dk) <= 2e-5);
          CHECK(worst(x.dvalue, y.dvalue) <= 2e-5);
          CHECK(worst(u.db, v.db) <= 2e-5);
          CHECK(worst(u.dh, v.dh) <= 2e-5);
          CHECK(worst(u.dw, v.dw) <= 2e-5);
        }
}

TEST_CASE("attention: every number of keys and columns, alone and with terms") {
  for (const auto* kernels : all_kernels())
    for (Index nk = 1; nk <= 130; ++nk) {
      CAPTURE(cpu::name_of(kernels->isa));
      CAPTURE(nk);
      Index columns = 1;
      for (Index c = 2; c <= nk && c < 40; ++c)
        if (nk % c == 0) columns = c;
      for (int what : {0, bias + mask + relative}) {
        Problem<float> x(1, 1, 1 + nk % 13, nk, 1 + nk % 11, 1 + nk % 7, false);
        Problem<double> y(1, 1, 1 + nk % 13, nk, 1 + nk % 11, 1 + nk % 7, false);
        y.f.scale = y.b.scale = x.f.scale;
        const Addition<float> u(x, what, 0, columns);
        const Addition<double> v(y, what, 0, columns);
        cpu::detail::attention_with(*kernels, x.f);
        cpu::attention(y.f);
        cpu::detail::attention_backward_with(*kernels, x.b);
        cpu::attention_backward(y.b);
        CHECK(worst(x.out, y.out) <= 3e-6);
        CHECK(worst(x.dq, y.dq) <= 1e-5);
        CHECK(worst(x.dk, y.dk) <= 1e-5);
        CHECK(worst(x.dvalue, y.dvalue) <= 1e-5);
        CHECK(worst(u.db, v.db) <= 1e-5);
        CHECK(worst(u.dh, v.dh) <= 1e-5);
        CHECK(worst(u.dw, v.dw) <= 1e-5);
      }
    }
}

TEST_CASE("attention: double's gradients of what is added are derivatives") {
  for (int shared = 0; shared < 8; ++shared) {
    CAPTURE(shared);
    Problem<double> p(2, 2, 3, 6, 3, 2, true);
    Addition<double> t(p, bias + mask + relative, shared, 3);
    cpu::attention(p.f);
    cpu::attention_backward(p.b);
    const auto loss = [&] {
      cpu::attention(p.f);
      double s = 0;
      for (std::size_t i = 0; i < p.out.size(); ++i)
        if (p.out[i] != 77) s += p.out[i] * p.dout[i];
      return s;
    };
    const auto check = [&](std::vector<double>& x, const std::vector<double>& dx) {
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double keep = x[i], h = 1e-6;
        x[i] = keep + h;
        const double up = loss();
        x[i] = keep - h;
        const double down = loss();
        x[i] = keep;
        CHECK(std::fabs(dx[i] - (up - down) / (2 * h)) <= 1e-7);
      }
    };
    check(t.b, t.db);
    check(t.h, t.dh);
    check(t.w, t.dw);
  }
}

TEST_CASE("attention: gradients that nobody wants are not touched, the others are the same") {
  Problem<float> all(1, 2, 30, 40, 16, 16, true);
  cpu::attention(all.f);
  cpu::attention_backward(all.b);
  for (int which = 0; which < 3; ++which) {
    Problem<float> one(1, 2, 30, 40, 16, 16, true);
    cpu::attention(one.f);
    auto* dq = one.b.dq.data;
    auto* dk = one.b.dk.data;
    auto* dv = one.b.dvalue.data;
    one.b.dq.data = which == 0 ? dq : nullptr;
    one.b.dk.data = which == 1 ? dk : nullptr;
    one.b.dvalue.data = which == 2 ? dv : nullptr;
    cpu::attention_backward(one.b);
    CHECK((one.dq == all.dq) == (which == 0));
    CHECK((one.dk == all.dk) == (which == 1));
    CHECK((one.dvalue == all.dvalue) == (which == 2));
  }
}

TEST_CASE("attention: the same bits for 1, 2, 3 and 8 threads") {
  const int before = threads();
  for (int shared : {-1, 0, 1, 2, 3, 7}) {
    CAPTURE(shared);
    std::vector<std::vector<float>> first;
    for (int t : {1, 2, 3, 8}) {
      set_threads(t);
      // Keys in one piece and in several, forwards of windows and of long rows.
      Problem<float> p(shared == 2 ? 20 : 3, 4, 101,
                       shared < 0   ? 700
                       : shared < 2 ? 200
                                    : 300,
                       40, 24, true);
      const Addition<float> u(p, shared < 0 ? 0 : 15, shared < 0 ? 0 : shared, 20);
      cpu::attention(p.f);
      cpu::attention_backward(p.b);
      const std::vector<std::vector<float>> r{p.out, p.lse, p.dq, p.dk, p.dvalue, u.db, u.dh, u.dw};
      if (t == 1) first = r;
      for (std::size_t i = 0; i < r.size(); ++i)
        CHECK((r[i].empty() ||
               std::memcmp(r[i].data(), first[i].data(), r[i].size() * sizeof(float)) == 0));
    }
  }
  set_threads(before);
}

TEST_CASE("attention: NaN, infinity, and no keys") {
  const float inf = std::numeric_limits<float>::infinity();
  for (const auto* kernels : all_kernels()) {
    Problem<float> p(1, 2, 9, 1200, 16, 16, false);
    p.q[static_cast<std::size_t>(2 * p.f.q.token + 3)] = NAN;  // head 0, query 2
    cpu::detail::attention_with(*kernels, p.f);
    for (Index h = 0; h < 2; ++h)
      for (Index i = 0; i < 9; ++i)
        for (Index c = 0; c < 16; ++c)
          CHECK(std::isnan(p.f.out.at(0, h)[i * p.f.out.token + c]) == (h == 0 && i == 2));
    // Scores of -inf in every key but one, which is in the last block: that key's value.
    Problem<float> m(1, 1, 7, 1200, 16, 16, false);
    for (Index i = 0; i < 7; ++i) m.q[static_cast<std::size_t>(i * m.f.q.token)] = 1;
    for (Index j = 0; j < 1199; ++j) m.k[static_cast<std::size_t>(j * m.f.k.token)] = -inf;
    cpu::detail::attention_with(*kernels, m.f);
    for (Index i = 0; i < 7; ++i)
      for (Index c = 0; c < 16; ++c)
        CHECK(m.f.out.data[i * m.f.out.token + c] == m.f.v.data[1199 * m.f.v.token + c]);
    // Scores of several hundred neither overflow nor vanish.
    Problem<float> s(1, 1, 7, 50, 16, 16, false);
    Problem<double> t(1, 1, 7, 50, 16, 16, false);
    s.f.scale = 100;
    t.f.scale = 100;
    cpu::detail::attention_with(*kernels, s.f);
    cpu::attention(t.f);
    CHECK(worst(s.out, t.out) <= 1e-3);
    Problem<float> none(1, 1, 3, 0, 4, 4, false);
    cpu::detail::attention_with(*kernels, none.f);
    cpu::detail::attention_backward_with(*kernels, none.b);
    CHECK(none.out[0] == 0.0f);
    CHECK(none.lse[0] == -inf);
    CHECK(none.dq[0] == 0.0f);
    Problem<float> empty(1, 1, 0, 5, 4, 4, false);
    cpu::detail::attention_with(*kernels, empty.f);
    cpu::detail::attention_backward_with(*kernels, empty.b);
    CHECK(empty.dk[0] == 0.0f);
  }
}

TEST_CASE("attention: NaN and infinity in what is added") {
  const float inf = std::numeric_limits<float>::infinity();
  for (const auto* kernels : all_kernels()) {
    CAPTURE(cpu::name_of(kernels->isa));
    // Rows: plain, NaN, +inf, all -inf, -inf but for the last key (its value).
    Problem<float> p(1, 1, 8, 700, 16, 16, false);
    Addition<float> t(p, bias, 0, 1);
    t.b[1 * 700 + 650] = NAN;
    t.b[2 * 700 + 3] = inf;
    for (std::size_t j = 0; j < 700; ++j) t.b[3 * 700 + j] = -inf;
    for (std::size_t j = 0; j < 699; ++j) t.b[4 * 700 + j] = -inf;
    cpu::detail::attention_with(*kernels, p.f);
    cpu::detail::attention_backward_with(*kernels, p.b);
    for (Index i = 0; i < 8; ++i)
      for (Index c = 0; c < 16; ++c) {
        const float y = p.f.out.data[i * p.f.out.token + c], dq = p.b.dq.data[i * p.b.dq.token + c];
        CHECK(std::isnan(y) == (i == 1 || i == 2));
        CHECK(std::isnan(dq) == (i == 1 || i == 2));
        if (i == 3) CHECK(y == 0);
        if (i == 3) CHECK(dq == 0);
        if (i == 4) CHECK(y == p.f.v.data[699 * p.f.v.token + c]);
      }
    for (std::size_t j = 0; j < 700; ++j) CHECK(t.db[3 * 700 + j] == 0);
    CHECK(p.lse[3] == -inf);
    // A masked key adds nothing, but a NaN in it stays NaN, as in PyTorch; one past the count is
    // not read.
    for (int what : {int(mask), int(counts)}) {
      Problem<float> n(1, 1, 8, 30, 16, 16, false);
      const Addition<float> u(n, what, 0, 1);
      n.k[static_cast<std::size_t>((what == mask ? 1 : 29) * n.f.k.token)] = NAN;
      cpu::detail::attention_with(*kernels, n.f);
      for (Index i = 0; i < 8; ++i)
        CHECK(std::isnan(n.f.out.data[i * n.f.out.token]) == (what == mask));
    }
  }
}
