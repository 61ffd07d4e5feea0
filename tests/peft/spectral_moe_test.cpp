// The SpectralMoE plugin against known values: the module and the paper's equations evaluated in
// double on a small case whose tensors are value[i] = amp sin(freq i + phase), stored in float.
#include <doctest/doctest.h>

#include <cmath>
#include <moraine/autograd/backward.hpp>
#include <moraine/peft/spectral_moe.hpp>

using namespace moraine;

namespace {
struct Fill {
  double amp, freq, phase;
};
template <class T>
Tensor<T> fill(const Shape& shape, Fill f) {
  Tensor<T> t = Tensor<T>::empty(shape);
  for (Index i = 0; i < t.numel(); ++i)
    t.data()[i] = static_cast<T>(
        static_cast<float>(f.amp * std::sin(f.freq * static_cast<double>(i) + f.phase)));
  return t;
}

template <class T>
SpectralMoe<T> tiny(SpectralMoeConfig c) {
  c.layers = 2, c.dim = 8, c.tokens = 5, c.rank = 2, c.experts = 3, c.query_dim = 4;
  SpectralMoe<T> m(c);
  for (int l = 0; l < 2; ++l) {
    const auto at = static_cast<std::size_t>(l);
    for (int e = 0; e < 3; ++e) {
      m.experts_a[at][static_cast<std::size_t>(e)] = fill<T>({5, 2}, {0.9, 0.7, 0.3 * l + 0.5 * e});
      m.experts_b[at][static_cast<std::size_t>(e)] = fill<T>({2, 8}, {0.8, 0.4, 0.2 * l + 0.9 * e});
    }
    for (int j = 0; j < 2; ++j) {
      m.w_gate[at][static_cast<std::size_t>(j)] = fill<T>({8, 3}, {0.6, 1.1, 0.1 * l + 0.4 * j});
      m.w_noise[at][static_cast<std::size_t>(j)] = fill<T>({8, 3}, {0.2, 0.9, 0.2 * l + 0.3 * j});
    }
  }
  m.scale = Tensor<T>::scalar(T(0.5));
  m.token2feat_w = fill<T>({8, 8}, {0.3, 0.37, 0.1}),
  m.token2feat_b = fill<T>({8}, {0.2, 0.5, 0.2});
  m.delta_w = fill<T>({8, 8}, {0.25, 0.53, 0.4}), m.delta_b = fill<T>({8}, {0.1, 0.8, 0.6});
  m.transform_w = fill<T>({4, 8}, {0.4, 0.29, 0.3}), m.transform_b = fill<T>({4}, {0.1, 0.6, 0.1});
  m.merge_w = fill<T>({4, 12}, {0.35, 0.31, 0.2}), m.merge_b = fill<T>({4}, {0.05, 0.9, 0.7});
  return m;
}
template <class T>
Tensor<T> visual() {
  return fill<T>({1, 6, 8}, {1.0, 0.61, 0.25});
}
template <class T>
Tensor<T> depth() {
  return fill<T>({1, 6, 8}, {0.9, 0.47, 0.75});
}

template <class T>
double farthest(const Tensor<T>& got, const std::vector<double>& want) {
  const std::vector<T> v = got.values();
  REQUIRE(v.size() == want.size());
  double worst = 0;
  for (std::size_t i = 0; i < v.size(); ++i)
    worst = std::max(worst, std::abs(static_cast<double>(v[i]) - want[i]));
  return worst;
}

struct Row {
  const char* name;
  SpectralMoeConfig config;
  Index layer;
  std::vector<double> row0;
  double sum, abs_sum;
};
SpectralMoeConfig with(SpectralMoeConfig c, Index k) {
  c.gate.top_k = k;
  return c;
}
std::vector<Row> rows() {
  const SpectralMoeConfig paper = spectral_moe_paper(), official = spectral_moe_official();
  SpectralMoeConfig dot_gate = official, dot_experts = official, weighted = with(official, 2),
                    drop = paper, figure = paper;
  dot_gate.gate.logits = GateLogits::dot;
  dot_experts.expert.logits = ExpertLogits::dot;
  weighted.expert.combine = Combine::weighted;
  drop.expert.drop_first = true;
  figure.fusion = Fusion::figure;
  return {{"official k=1",
           official,
           0,
           {0.769671, 0.422181, 0.891616, 1.395925, 0.080204, -0.426859, -0.208341, -1.244304},
           3.129790,
           30.557432},
          {"official k=2",
           with(official, 2),
           0,
           {0.808425, 0.434070, 0.842043, 1.429149, 0.099543, -0.477681, -0.181429, -1.217972},
           3.442466,
           30.571347},
          {"official k=3",
           with(official, 3),
           0,
           {0.830562, 0.441245, 0.813376, 1.448061, 0.110999, -0.507019, -0.166187, -1.202505},
           3.623700,
           30.632218},
          {"official, dot gate",
           dot_gate,
           0,
           {0.771109, 0.421360, 0.890925, 1.397374, 0.079576, -0.427737, -0.206914, -1.244725},
           3.131937,
           30.555904},
          {"official, layer 1",
           official,
           1,
           {0.769224, 0.422614, 0.891668, 1.395444, 0.080590, -0.426728, -0.208845, -1.243976},
           3.128898,
           30.558849},
          {"official, dot logits",
           dot_experts,
           0,
           {0.766994, 0.425512, 0.891261, 1.392916, 0.083297, -0.426665, -0.211610, -1.241523},
           3.130302,
           30.552446},
          {"official k=2, weighted",
           weighted,
           0,
           {0.768490, 0.424085, 0.891064, 1.394523, 0.082032, -0.427120, -0.209931, -1.242596},
           3.129516,
           30.560660},
          {"paper k=1",
           paper,
           0,
           {0.840358, 0.401525, 0.839727, 1.463802, 0.070324, -0.485744, -0.144873, -1.243177},
           3.499653,
           30.560146},
          {"paper k=2",
           with(paper, 2),
           0,
           {0.839612, 0.402428, 0.839651, 1.462967, 0.071158, -0.485669, -0.145776, -1.242430},
           3.499661,
           30.561118},
          {"paper, drop_first",
           drop,
           0,
           {0.822845, 0.408687, 0.850722, 1.446634, 0.074952, -0.472788, -0.161292, -1.241191},
           3.419346,
           30.545596},
          {"paper, fusion figure",
           figure,
           0,
           {0.840346, 0.400071, 0.841062, 1.464040, 0.068771, -0.484570, -0.144389, -1.244792},
           3.491200,
           30.559868}};
}
}  // namespace

TEST_CASE("spectral_moe: outputs of both presets and single switches") {
  for (const Row& r : rows()) {
    INFO(r.name);
    const auto out = tiny<double>(r.config).layer(r.layer, visual<double>(), depth<double>()).out;
    const std::vector<double> all = out.values();
    double sum = 0, abs_sum = 0;
    for (double v : all) sum += v, abs_sum += std::abs(v);
    CHECK(farthest(slice(reshape(out, {6, 8}), 0, 0, 1), r.row0) <= 1e-6);
    CHECK(std::abs(sum - r.sum) <= 1e-6);
    CHECK(std::abs(abs_sum - r.abs_sum) <= 1e-6);
    // In float rows agree to the printed digits and sums to a few more units in the last place.
    const auto single = tiny<float>(r.config).layer(r.layer, visual<float>(), depth<float>()).out;
    CHECK(farthest(slice(reshape(single, {6, 8}), 0, 0, 1), r.row0) <= 2e-6);
  }
}

TEST_CASE("spectral_moe: with every expert chosen no gate changes the official output") {
  // Its combine takes which experts are chosen and not how much: the row "any gate, k=3".
  const Row* all = nullptr;
  const std::vector<Row> table = rows();
  for (const Row& r : table)
    if (std::string(r.name) == "official k=3") all = &r;
  REQUIRE(all != nullptr);
  for (GateLogits g : {GateLogits::l1, GateLogits::l2, GateLogits::l2sq, GateLogits::dot}) {
    SpectralMoeConfig c = all->config;
    c.gate.logits = g;
    const auto out = tiny<double>(c).layer(0, visual<double>(), depth<double>()).out;
    double sum = 0;
    for (double v : out.values()) sum += v;
    CHECK(farthest(slice(reshape(out, {6, 8}), 0, 0, 1), all->row0) <= 1e-6);
    CHECK(std::abs(sum - all->sum) <= 1e-6);
  }
}

TEST_CASE("spectral_moe: the full softmax that the published code leaves out") {
  // Delta = softmax(Od Ov^T / sqrt(D)) Ov, of which the official preset keeps the diagonal. It is
  // no fusion of ours, so the rest of the layer is written out here.
  const SpectralMoe<double> m = tiny<double>(spectral_moe_official());
  const Tensor<double> v = visual<double>();
  const auto o = m.layer(0, v, depth<double>());
  const auto head = [](const Tensor<double>& x) { return reshape(x, {1, 1, 6, 8}); };
  const auto delta = [&](const Tensor<double>& q, const Tensor<double>& kv) {
    return reshape(attention(head(q), head(kv), head(kv)), {1, 6, 8});
  };
  const auto out = [&](const Tensor<double>& d) {
    return add(v, mul(linear(add(d, v), m.delta_w, m.delta_b), m.scale));
  };
  CHECK(out(o.delta).values() == o.out.values());  // the rest of the layer is this
  const Tensor<double> full = out(delta(o.moe_depth, o.moe_visual));
  double sum = 0, abs_sum = 0;
  for (double x : full.values()) sum += x, abs_sum += std::abs(x);
  CHECK(farthest(slice(reshape(full, {6, 8}), 0, 0, 1),
                 {0.834094, 0.392574, 0.854136, 1.459639, 0.059702, -0.471916, -0.146836,
                  -1.255219}) <= 1e-6);
  CHECK(std::abs(sum - 3.405229) <= 1e-6);
  CHECK(std::abs(abs_sum - 30.553212) <= 1e-6);
}

TEST_CASE("spectral_moe: routing, gates and the balance loss of the official preset") {
  struct Loss {
    GateLogits gate;
    Index k;
    double value, digits;
  };
  for (const Loss& x :
       {Loss{GateLogits::l2, 1, 7500.0, 1e-3}, Loss{GateLogits::l2, 2, 3056.758, 1e-3},
        Loss{GateLogits::l2, 3, 84.6995, 1e-4}, Loss{GateLogits::dot, 1, 1000.0, 1e-3},
        Loss{GateLogits::dot, 2, 441.787, 1e-3}, Loss{GateLogits::dot, 3, 3.266, 1e-3},
        Loss{GateLogits::l2sq, 1, 7500.0, 1e-3}, Loss{GateLogits::l2sq, 2, 3690.450, 1e-3},
        Loss{GateLogits::l2sq, 3, 1195.606, 1e-3}}) {
    SpectralMoeConfig c = with(spectral_moe_official(), x.k);
    c.gate.logits = x.gate;
    INFO("k " << x.k);
    const auto o = tiny<double>(c).layer(0, visual<double>(), depth<double>());
    CHECK(std::abs(o.aux_loss.item() - x.value) <= x.digits);
  }
  const auto one =
      tiny<double>(spectral_moe_official()).layer(0, visual<double>(), depth<double>());
  CHECK(one.visual.chosen.values() == std::vector<std::int64_t>{0, 0, 2, 2, 2, 0});
  CHECK(one.depth.chosen.values() == std::vector<std::int64_t>{2, 2, 2, 2, 2, 2});
  const auto two =
      tiny<double>(with(spectral_moe_official(), 2)).layer(0, visual<double>(), depth<double>());
  CHECK(farthest(slice(two.visual.gates, 0, 0, 1), {0.526196, 0, 0.473804}) <= 1e-6);
  CHECK(farthest(slice(two.depth.gates, 0, 0, 1), {0.454952, 0, 0.545048}) <= 1e-6);
}

TEST_CASE("spectral_moe: with noise, as in training") {
  const Tensor<double> noise = fill<double>({6, 3}, {1.0, 1.3, 0.2});
  SpectralMoe<double> m = tiny<double>(spectral_moe_official());
  const auto o = m.layer(0, visual<double>(), depth<double>(), {noise, noise});
  const Tensor<double> f = reshape(visual<double>(), {6, 8});
  CHECK(farthest(slice(gate_logits(f, m.w_gate[0][0], GateLogits::l2), 0, 0, 1),
                 {-2.105830, -2.475770, -2.210712}) <= 1e-6);
  CHECK(farthest(slice(softplus(matmul(f, m.w_noise[0][0])) + 0.01, 0, 0, 1),
                 {0.715811, 0.667351, 0.646910}) <= 1e-6);
  CHECK(o.visual.chosen.values() == std::vector<std::int64_t>{1, 2, 0, 2, 0, 0});
  CHECK(farthest(o.visual.load, {2.568332, 0.976193, 2.491394}) <= 1e-6);
  CHECK(std::abs(o.aux_loss.item() - 979.8172) <= 1e-4);
}

TEST_CASE("spectral_moe: the queries of a mask decoder") {
  CHECK(farthest(tiny<double>(spectral_moe_official()).queries(),
                 {0.285552,  -0.048227, -0.058956, 0.234273,  0.114740,  0.025710, -0.011964,
                  0.081639,  0.040670,  0.084861,  -0.036951, 0.064333,  0.201015, 0.025269,
                  -0.097500, 0.225325,  0.307982,  -0.050769, -0.077127, 0.267246}) <= 1e-6);
}

TEST_CASE("spectral_moe: at full width with gates of zero one expert takes every row") {
  SpectralMoeConfig c = spectral_moe_official();
  c.layers = 1;
  SpectralMoe<float> m(c);
  const auto o = m.layer(0, Tensor<float>::ones({1, 4, 1024}), Tensor<float>::ones({1, 4, 1024}));
  CHECK(o.visual.chosen.values() == std::vector<std::int64_t>{0, 0, 0, 0});
  CHECK(o.aux_loss.item() == doctest::Approx(24000));
}

TEST_CASE("spectral_moe: who trains the gate") {
  const Tensor<double> noise = fill<double>({6, 3}, {1.0, 1.3, 0.2});
  const auto gradient = [&](SpectralMoeConfig c, bool task) {
    SpectralMoe<double> m = tiny<double>(c);
    require_grad<double>(m, "**");
    const auto o = m.layer(0, visual<double>(), depth<double>(), {noise, noise});
    backward(task ? sum(o.out) : o.aux_loss);
    const Tensor<double> g = m.w_gate[0][0].grad();
    double most = 0;
    if (g.defined())
      for (double v : g.values()) most = std::max(most, std::abs(v));
    return most;
  };
  SpectralMoeConfig load = spectral_moe_paper();
  load.balance_load = true;
  CHECK(gradient(spectral_moe_paper(), true) <= 1e-15);   // k = 1: the gate is the constant 1
  CHECK(gradient(spectral_moe_paper(), false) <= 1e-15);  // importance is a count
  CHECK(gradient(load, false) > 1e-3);
  CHECK(gradient(with(spectral_moe_paper(), 2), true) > 1e-6);
  CHECK(gradient(with(spectral_moe_official(), 2), true) <= 1e-15);  // gates are not used
  CHECK(gradient(spectral_moe_official(), false) > 1e-3);
}

TEST_CASE("spectral_moe: prefix tokens pass by, depth's are dropped") {
  SpectralMoeConfig c = with(spectral_moe_paper(), 2);
  c.prefix = 2, c.depth_prefix = 1;
  const Tensor<double> extra = fill<double>({1, 2, 8}, {2, 1.7, 0.3});
  const auto plain =
      tiny<double>(with(spectral_moe_paper(), 2)).layer(0, visual<double>(), depth<double>());
  const auto o = tiny<double>(c).layer(0, concat<double>({extra, visual<double>()}, 1),
                                       concat<double>({slice(extra, 1, 0, 1), depth<double>()}, 1));
  CHECK(slice(o.out, 1, 0, 2).values() == extra.values());
  CHECK(slice(o.out, 1, 2, 8).values() == plain.out.values());
}

TEST_CASE("spectral_moe: sizes that do not fit are told") {
  const SpectralMoe<double> m = tiny<double>(spectral_moe_paper());
  CHECK_THROWS_WITH_AS(m.layer(2, visual<double>(), depth<double>()), "spectralmoe: layer 2 of 2",
                       Error);
  CHECK_THROWS_AS(m.layer(0, visual<double>(), Tensor<double>::zeros({1, 5, 8})), Error);
  CHECK_THROWS_AS(m.layer(0, visual<double>(), Tensor<double>::zeros({2, 6, 8})), Error);
  CHECK_THROWS_AS(SpectralMoe<double>(with(spectral_moe_paper(), 7)), Error);
}
