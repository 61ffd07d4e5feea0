// Row kernels against their definitions in double, for every kernel set of this machine, with
// ragged rows, NaN, infinities and extreme values; and the same bits for any thread count.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <moraine/core/parallel.hpp>
#include <moraine/cpu/rows.hpp>
#include <vector>

using namespace moraine;
using cpu::Isa;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();

std::vector<float> noise(Index n, std::uint64_t seed, float scale = 1) {
  std::uint64_t state = seed * 2 + 1;
  std::vector<float> v(static_cast<std::size_t>(n));
  for (float& x : v) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    x = scale * static_cast<float>(static_cast<double>(state >> 11) / 4503599627370496.0 - 1.0);
  }
  return v;
}

std::vector<double> wide(const std::vector<float>& x) { return {x.begin(), x.end()}; }

double worst(const std::vector<float>& x, const std::vector<double>& y) {
  REQUIRE(x.size() == y.size());
  double w = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double e = std::fabs(x[i] - y[i]);
    w = e > w || std::isnan(e) ? e : w;
  }
  return w;
}

std::vector<const cpu::RowKernels*> all_kernels() {
  std::vector<const cpu::RowKernels*> all{cpu::row_kernels(Isa::portable)};
  if (const auto* k = cpu::row_kernels(Isa::avx2)) all.push_back(k);
  return all;
}

}  // namespace

TEST_CASE("exp: relative error at most 2e-7 over the whole range, exact ends") {
  // softmax of (x, 0) with x < 0 would hide exp's error; log_softmax_dx with y = x, dy = (1, 0..)
  // is -exp(x) in every other lane.
  for (const auto* k : all_kernels()) {
    double rel = 0;
    for (int i = -87000; i < 88700; i += 7) {
      const float x = static_cast<float>(i) * 1e-3f;
      const std::vector<float> y{0, x}, dy{1, 0};
      float dx[2];
      k->softmax_dx(true, y.data(), dy.data(), 2, dx);
      const double e = std::exp(static_cast<double>(x));
      rel = std::fmax(rel, std::fabs(-dx[1] - e) / e);
    }
    CHECK(rel <= 2e-7);
    for (float x : {88.73f, 200.0f, inf, -104.0f, -inf, 0.0f, -0.0f, 1e-40f, 88.722f}) {
      const std::vector<float> y{0, x}, dy{1, 0};
      float dx[2];
      k->softmax_dx(true, y.data(), dy.data(), 2, dx);
      const float e = std::exp(x);
      CAPTURE(x);
      if (e == 0 || e == inf || e == 1)
        CHECK(-dx[1] == e);
      else
        CHECK(-dx[1] == doctest::Approx(e).epsilon(2e-7));
    }
    const std::vector<float> y{0, NAN}, dy{1, 0};
    float dx[2];
    k->softmax_dx(true, y.data(), dy.data(), 2, dx);
    CHECK(std::isnan(dx[1]));
  }
}

TEST_CASE("activations: values within 1e-6, derivatives within 1e-6, every float range") {
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512}) {
    const auto* k = cpu::row_kernels(isa);
    if (!k) continue;
    for (Activation act : {Activation::none, Activation::gelu, Activation::gelu_tanh,
                           Activation::quick_gelu, Activation::silu, Activation::relu}) {
      CAPTURE(name_of(act));
      std::vector<float> x;
      for (int i = -20000; i <= 20000; i += 3) x.push_back(static_cast<float>(i) * 1e-3f);
      for (float v : {1e-40f, -1e-40f, 1e-10f, -1e-10f, 0.0f, -0.0f}) x.push_back(v);
      const auto n = static_cast<Index>(x.size());
      std::vector<float> y(x.size()), dx(x.size());
      const auto dy = noise(n, 3);
      k->activation(act, x.data(), n, y.data());
      k->activation_dx(act, x.data(), dy.data(), n, dx.data());
      double value = 0, slope = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double v = x[i], size = std::fmax(1.0, std::fabs(v));
        value = std::fmax(value, std::fabs(y[i] - activate(act, v)) / size);
        slope = std::fmax(slope, std::fabs(dx[i] - dy[i] * activate_grad(act, v)));
      }
      CHECK(value <= 4e-7);
      CHECK(slope <= 1e-6);
      const std::vector<float> edge{NAN, inf, -inf, 3e38f, -3e38f};
      const std::vector<float> one(5, 1.0f);
      std::vector<float> e(5), d(5);
      k->activation(act, edge.data(), 5, e.data());
      k->activation_dx(act, edge.data(), one.data(), 5, d.data());
      CHECK(std::isnan(e[0]));
      CHECK(e[1] == inf);
      CHECK(e[3] == 3e38f);
      if (act == Activation::gelu || act == Activation::relu) CHECK(e[2] == 0.0f);
      if (act != Activation::none) CHECK(e[4] == 0.0f);
      if (act == Activation::gelu) {
        CHECK(std::isnan(d[0]));
        CHECK(d[1] == 1.0f);
        CHECK(d[2] == 0.0f);
        CHECK(d[3] == 1.0f);
        CHECK(d[4] == 0.0f);
      }
    }
  }
}

TEST_CASE("softmax and log_softmax: forward and backward against double") {
  for (Index cols : {1, 2, 7, 8, 9, 31, 33, 64, 257, 1370}) {
    CAPTURE(cols);
    const Index rows = 5;
    const auto x = noise(rows * cols, 1, 9), dy = noise(rows * cols, 2);
    const auto X = wide(x), DY = wide(dy);
    std::vector<float> y(x.size()), dx(x.size());
    std::vector<double> Y(x.size()), DX(x.size());
    cpu::softmax(x.data(), rows, cols, y.data());
    cpu::softmax(X.data(), rows, cols, Y.data());
    CHECK(worst(y, Y) <= 1e-6);
    cpu::softmax_backward(y.data(), dy.data(), rows, cols, dx.data());
    cpu::softmax_backward(Y.data(), DY.data(), rows, cols, DX.data());
    CHECK(worst(dx, DX) <= 2e-6);
    cpu::log_softmax(x.data(), rows, cols, y.data());
    cpu::log_softmax(X.data(), rows, cols, Y.data());
    CHECK(worst(y, Y) <= 4e-6);
    cpu::log_softmax_backward(y.data(), dy.data(), rows, cols, dx.data());
    cpu::log_softmax_backward(Y.data(), DY.data(), rows, cols, DX.data());
    CHECK(worst(dx, DX) <= 1e-5);
    double sum = 0;  // the definition, once more and by hand
    for (Index j = 0; j < cols; ++j) sum += std::exp(X[static_cast<std::size_t>(j)]);
    CHECK(Y[0] == doctest::Approx(X[0] - std::log(sum)).epsilon(1e-12));
  }
}

TEST_CASE("softmax: masks, NaN and infinity") {
  for (const auto* k : all_kernels())
    for (Index n : {3, 20}) {
      std::vector<float> x(static_cast<std::size_t>(n), 1.0f), y(x.size());
      x[1] = -inf;  // masked: exactly zero, the others as if it were not there
      k->softmax(false, x.data(), n, y.data());
      CHECK(y[1] == 0.0f);
      CHECK(y[0] == doctest::Approx(1.0 / static_cast<double>(n - 1)).epsilon(1e-6));
      x[1] = 3e38f;
      k->softmax(false, x.data(), n, y.data());
      CHECK(y[1] == 1.0f);
      CHECK(y[0] == 0.0f);
      x[1] = NAN;
      k->softmax(false, x.data(), n, y.data());
      for (float v : y) CHECK(std::isnan(v));
      k->softmax(true, x.data(), n, y.data());
      for (float v : y) CHECK(std::isnan(v));
      for (float& v : x) v = -inf;
      k->softmax(false, x.data(), n, y.data());
      for (float v : y) CHECK(std::isnan(v));
    }
}

TEST_CASE("layer norm: forward and backward against double") {
  for (Index cols : {1, 5, 8, 33, 384, 770})
    for (bool affine : {true, false}) {
      CAPTURE(cols);
      const Index rows = 37;
      auto x = noise(rows * cols, 1, 3);
      for (float& v : x) v += 5;  // a mean that a one-pass variance would cancel against
      const auto dy = noise(rows * cols, 2), w = noise(cols, 3), b = noise(cols, 4);
      const auto X = wide(x), DY = wide(dy), W = wide(w), B = wide(b);
      const auto nr = static_cast<std::size_t>(rows), nc = static_cast<std::size_t>(cols);
      std::vector<float> y(x.size()), dx(x.size()), mean(nr), rstd(nr), dw(nc), db(nc);
      std::vector<double> Y(x.size()), DX(x.size()), MEAN(nr), RSTD(nr), DW(nc), DB(nc);
      const float *wp = affine ? w.data() : nullptr, *bp = affine ? b.data() : nullptr;
      const double *Wp = affine ? W.data() : nullptr, *Bp = affine ? B.data() : nullptr;
      cpu::layer_norm(cpu::LayerNorm<float>{rows, cols, x.data(), wp, bp, 1e-3f, y.data(),
                                            mean.data(), rstd.data()});
      cpu::layer_norm(cpu::LayerNorm<double>{rows, cols, X.data(), Wp, Bp, 1e-3, Y.data(),
                                             MEAN.data(), RSTD.data()});
      CHECK(worst(y, Y) <= 1e-5);
      CHECK(worst(mean, MEAN) <= 4e-6);
      cpu::layer_norm_backward(cpu::LayerNormBackward<float>{rows, cols, x.data(), wp, mean.data(),
                                                             rstd.data(), dy.data(), dx.data(),
                                                             dw.data(), db.data()});
      cpu::layer_norm_backward(cpu::LayerNormBackward<double>{rows, cols, X.data(), Wp, MEAN.data(),
                                                              RSTD.data(), DY.data(), DX.data(),
                                                              DW.data(), DB.data()});
      CHECK(worst(dx, DX) <= (cols == 1 ? 1e-3 : 1e-5));
      CHECK(worst(dw, DW) <= 1e-4);
      CHECK(worst(db, DB) <= 1e-5);
      // Each gradient alone is the same.
      std::vector<float> dw2(nc), db2(nc);
      cpu::layer_norm_backward(cpu::LayerNormBackward<float>{
          rows, cols, x.data(), wp, mean.data(), rstd.data(), dy.data(), nullptr, dw2.data()});
      cpu::LayerNormBackward<float> only{rows,        cols,        x.data(), wp,
                                         mean.data(), rstd.data(), dy.data()};
      only.db = db2.data();
      cpu::layer_norm_backward(only);
      CHECK(dw2 == dw);
      CHECK(db2 == db);
    }
}

TEST_CASE("layer norm: the double backward is the derivative of the double forward") {
  const Index rows = 2, cols = 6;
  auto x = wide(noise(rows * cols, 1));
  const auto w = wide(noise(cols, 2)), b = wide(noise(cols, 3)), dy = wide(noise(rows * cols, 4));
  std::vector<double> y(x.size()), dx(x.size()), mean(2), rstd(2);
  const auto loss = [&] {
    cpu::layer_norm(cpu::LayerNorm<double>{rows, cols, x.data(), w.data(), b.data(), 1e-5, y.data(),
                                           mean.data(), rstd.data()});
    double s = 0;
    for (std::size_t i = 0; i < y.size(); ++i) s += y[i] * dy[i];
    return s;
  };
  loss();
  cpu::LayerNormBackward<double> g{rows,        cols,        x.data(),  w.data(),
                                   mean.data(), rstd.data(), dy.data(), dx.data()};
  cpu::layer_norm_backward(g);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double h = 1e-6, keep = x[i];
    x[i] = keep + h;
    const double up = loss();
    x[i] = keep - h;
    const double down = loss();
    x[i] = keep;
    CHECK(dx[i] == doctest::Approx((up - down) / (2 * h)).epsilon(1e-6));
  }
}

TEST_CASE("column sums and sums of squares") {
  for (Index rows : {0, 1, 15, 16, 17, 1500}) {
    const Index cols = 37;
    const auto x = noise(rows * cols, 1);
    std::vector<float> s(37, 5.0f);
    std::vector<double> expected(37);
    for (Index i = 0; i < rows * cols; ++i)
      expected[static_cast<std::size_t>(i % cols)] += x[static_cast<std::size_t>(i)];
    cpu::column_sums(x.data(), rows, cols, s.data());
    CHECK(worst(s, expected) <= 1e-4);
    double q = 0;
    for (float v : x) q += static_cast<double>(v) * v;
    CHECK(cpu::sum_of_squares(x.data(), rows * cols) == doctest::Approx(q).epsilon(1e-6));
  }
  // Squares beyond float's range are summed in double; what is not finite stays so.
  std::vector<float> big(3000, 1e25f), small(10, 1e-30f);
  CHECK(cpu::sum_of_squares(big.data(), 3000) == doctest::Approx(3e53).epsilon(1e-6));
  CHECK(cpu::sum_of_squares(small.data(), 10) == doctest::Approx(1e-59).epsilon(1e-6));
  big[1500] = inf;
  CHECK(cpu::sum_of_squares(big.data(), 3000) == inf);
  big[1500] = NAN;
  CHECK(std::isnan(cpu::sum_of_squares(big.data(), 3000)));
}

TEST_CASE("AdamW: float follows double, and double the definition") {
  const Index n = 1003;
  auto p = noise(n, 1), g = noise(n, 2), m = std::vector<float>(1003), v = m;
  g[5] = 0;
  auto P = wide(p), G = wide(g), M = wide(m), V = wide(v);
  const double p0 = P[0], g0 = G[0];
  cpu::AdamW o{.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .decay = 0.1};
  for (o.step = 1; o.step <= 10; ++o.step) {
    cpu::adamw(o, n, p.data(), g.data(), m.data(), v.data());
    cpu::adamw(o, n, P.data(), G.data(), M.data(), V.data());
    // After one step m and v, bias corrected, are g and g^2: the step is lr times the sign.
    if (o.step == 1)
      CHECK(P[0] ==
            doctest::Approx(p0 * (1 - 1e-3) - 1e-2 * g0 / (std::fabs(g0) + 1e-8)).epsilon(1e-12));
  }
  CHECK(worst(p, P) <= 2e-6);
  CHECK(worst(m, M) <= 1e-6);
  CHECK(worst(v, V) <= 1e-6);
  CHECK(v[5] == 0.0f);
  CHECK(std::isfinite(p[5]));
}

TEST_CASE("rows: the same bits for 1, 2 and 3 threads") {
  const int before = threads();
  const Index rows = 700, cols = 203;
  const auto x = noise(rows * cols, 1, 3), dy = noise(rows * cols, 2), w = noise(cols, 3);
  std::vector<std::vector<float>> first;
  double square = 0;
  for (int t : {1, 2, 3}) {
    set_threads(t);
    std::vector<std::vector<float>> r(8, std::vector<float>(x.size()));
    std::vector<float> mean(700), rstd(700);
    cpu::layer_norm(cpu::LayerNorm<float>{rows, cols, x.data(), w.data(), w.data(), 1e-5f,
                                          r[0].data(), mean.data(), rstd.data()});
    cpu::layer_norm_backward(cpu::LayerNormBackward<float>{rows, cols, x.data(), w.data(),
                                                           mean.data(), rstd.data(), dy.data(),
                                                           r[1].data(), r[2].data(), r[3].data()});
    cpu::softmax(x.data(), rows, cols, r[4].data());
    cpu::softmax_backward(r[4].data(), dy.data(), rows, cols, r[5].data());
    cpu::column_sums(x.data(), rows, cols, r[6].data());
    cpu::activation(Activation::gelu, x.data(), rows * cols, r[7].data());
    const double q = cpu::sum_of_squares(x.data(), rows * cols);
    if (t == 1) {
      first = r;
      square = q;
    }
    CHECK(q == square);
    for (std::size_t i = 0; i < r.size(); ++i)
      CHECK(std::memcmp(r[i].data(), first[i].data(), x.size() * sizeof(float)) == 0);
  }
  set_threads(before);
}
