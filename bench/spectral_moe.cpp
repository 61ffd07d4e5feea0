// One SpectralMoE layer at the sizes of the demo (batches of 8 tiles of 16 x 16 patches, width 128,
// 6 experts of 32 tokens of rank 8), with noise, as it is trained: the forward alone, and the
// forward and backward. GFLOP is what products, mixture, distances and fusion need, two for a
// multiply-add; softmax, sums and copies come on top (cpu_kernels says what the processor can do).
// `experts/E` are the experts alone as they stand in a ViT-L: 1024 rows of 1024, each sent to one
// of E experts of 100 tokens of rank 16, forward and backward; "of its floor" is the time over that
// of the products at the rate of the low-rank tile and of the bytes at the rate of a copy, both
// measured in the same run.
//
//   spectral_moe        MORAINE_BENCH_THREADS=2 spectral_moe
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <moraine/autograd/backward.hpp>
#include <moraine/nn/init.hpp>
#include <moraine/ops/token_mixture.hpp>
#include <moraine/peft/spectral_moe.hpp>
#include <moraine/recipes/segmenter.hpp>

using namespace moraine;

namespace {

constexpr Index batch = 8, patches = 256, width = 128, rows = batch * patches;

Tensor<float> noise(const Shape& s, const char* purpose) {
  Tensor<float> x = Tensor<float>::empty(s);
  init::normal(x, 1, Random(1, purpose, 0));
  return x;
}

struct Layer {
  SpectralMoe<float> moe;
  Tensor<float> visual = noise({batch, patches, width}, "visual"),
                depth = noise({batch, patches, width}, "depth");
  GateNoise<float> draws;

  explicit Layer(Fusion fusion) {
    SpectralMoeConfig c = SegmenterConfig::demo_moe();
    c.layers = 1, c.dim = width, c.fusion = fusion;
    moe = SpectralMoe<float>(c);
    moe.init({.seed = 1, .a_bound = 1.4, .b_std = 0.3, .prototype_std = 0.05, .scale = 0.1});
    require_grad<float>(moe, "**");
    visual.requires_grad();
    draws = {noise({rows, c.experts}, "draws visual"), noise({rows, c.experts}, "draws depth")};
  }
  SpectralMoeOutput<float> operator()() const { return moe.layer(0, visual, depth, draws); }

  /// Floating-point operations of a forward, or of a forward and backward.
  double operations(bool backward) const {
    const SpectralMoeConfig& c = moe.config;
    const double n = rows, d = width, e = static_cast<double>(c.experts),
                 er = e * static_cast<double>(c.rank), pairs = er * static_cast<double>(c.tokens);
    // Per stream: queries, tokens through W1, out of the mixture; noise; distances; the mixture.
    const double queries = n * d * er, up = er * d * d, out = n * (er + 1) * d, sigma = n * d * e;
    const double mixture = n * pairs, w2 = n * d * d;
    const double fusion = c.fusion == Fusion::eq ? n * static_cast<double>(patches) * d : 0;
    double madds = 2 * (queries + up + out + 2 * sigma + 2 * mixture) + w2 + 2 * fusion;
    if (backward)  // the depth rows want no gradient: of its first products only the weight's
      madds +=
          3 * queries + 4 * up + 4 * out + 2 * 3 * sigma + 2 * 6 * mixture + 2 * w2 + 5 * fusion;
    return 2 * madds;
  }
};

void report(benchmark::State& state, double operations) {
  state.counters["GFLOP"] = operations * 1e-9;
  state.counters["GFLOP/s"] = benchmark::Counter(
      operations * 1e-9 * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

void forward(benchmark::State& state, Fusion fusion) {
  const Layer layer(fusion);
  const NoGrad off;
  for (auto _ : state) benchmark::DoNotOptimize(layer().out.data());
  report(state, layer.operations(false));
}

void step(benchmark::State& state, Fusion fusion) {
  Layer layer(fusion);
  for (auto _ : state) {
    const SpectralMoeOutput<float> o = layer();
    backward(add(mean(o.out), scale(o.aux_loss, 0.1f)));
    for (Named<float>& p : parameters<float>(layer.moe)) p.tensor->zero_grad();
    layer.visual.zero_grad();
  }
  report(state, layer.operations(true));
}

/// The mixture alone, and the operations that define it.
void mixture(benchmark::State& state, bool fused) {
  const SpectralMoeConfig c = SegmenterConfig::demo_moe();
  Tensor<float> q = noise({rows, c.experts * c.rank}, "q"),
                a = noise({c.experts, c.tokens, c.rank}, "a"), g = noise({rows, c.experts}, "g");
  q.requires_grad(), a.requires_grad(), g.requires_grad();
  for (auto _ : state) {
    backward(sum(fused ? token_mixture(q, a, g) : token_mixture_composed(q, a, g)));
    q.zero_grad(), a.zero_grad(), g.zero_grad();
  }
  report(state, 2 * 7 * static_cast<double>(q.numel() * c.tokens));
}

double seconds_of(const auto& f) {
  double best = 1e9;
  for (int i = 0; i < 9; ++i) {
    const auto t = std::chrono::steady_clock::now();
    f();
    best =
        std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count());
  }
  return best;
}

void experts(benchmark::State& state) {
  const Index e = state.range(0), n = 1024, d = 1024, t = 100, r = 16;
  Tensor<float> f = noise({n, d}, "f"), gates = Tensor<float>::zeros({n, e});
  std::vector<Tensor<float>> a, b;
  for (Index i = 0; i < e; ++i) {
    a.push_back(noise({t, r}, "a")), b.push_back(noise({r, d}, "b"));
    a.back().requires_grad(), b.back().requires_grad();
  }
  Tensor<float> w1 = noise({d, d}, "w1"), b1 = noise({d}, "b1");
  Tensor<std::int64_t> chosen = Tensor<std::int64_t>::empty({n, 1});
  for (Index i = 0; i < n; ++i) {
    chosen.data()[i] = i * 7 % e;
    gates.data()[i * e + i * 7 % e] = 1;
  }
  const TokenExperts<float> x = [&] {  // what W1 makes of the experts is not the experts' own work
    const NoGrad off;
    return gather_experts(a, b, w1, b1);
  }();
  TokenExperts<float> y{x.a, x.b, x.up};
  for (Tensor<float>* p : {&y.a, &y.b, &y.up}) *p = p->clone(), p->requires_grad();
  f.requires_grad();
  const Tensor<float> dy = noise({n, d}, "dy");
  for (auto _ : state) {
    backward(token_experts(f, y, gates, chosen, {}), dy);
    for (Tensor<float>* p : {&y.a, &y.b, &y.up, &f}) p->zero_grad();
  }
  // Down and up, forward, and twice each backward; the tokens: 2 products forward, 5 backward.
  const double products = 2.0 * 6 * n * d * r, tokens = 2.0 * 7 * n * t * r;
  // f, out, and for the backward f and dout again, df.
  const double bytes = 4.0 * 5 * n * d;
  std::vector<float> from(1 << 22), to(1 << 22);
  const double copied = 8.0 * (1 << 22) / seconds_of([&] {
                          std::copy(from.begin(), from.end(), to.begin());
                          benchmark::DoNotOptimize(to.data());
                        });
  const auto packed = cpu::pack_weight(w1.data(), r, d);
  Tensor<float> low = Tensor<float>::empty({n, r});
  const double rate = 2.0 * n * d * r / seconds_of([&] {
                        cpu::gemm<float>({.m = n,
                                          .n = r,
                                          .k = d,
                                          .a = {f.data(), d, 1},
                                          .c = {low.data(), r, 1},
                                          .packed = packed.get()});
                      });
  const double floor = (products + tokens) / rate + bytes / copied;
  state.counters["floor_ms"] = 1e3 * floor;
  state.counters["of_its_floor"] =
      benchmark::Counter(floor * static_cast<double>(state.iterations()),
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

BENCHMARK(experts)->Arg(1)->Arg(6)->Arg(32)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(forward, paper, Fusion::eq)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(forward, local, Fusion::local)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(step, paper, Fusion::eq)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(step, local, Fusion::local)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(mixture, fused, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(mixture, composed, false)->Unit(benchmark::kMillisecond);

}  // namespace

int main(int argc, char** argv) {
  const char* n = std::getenv("MORAINE_BENCH_THREADS");
  set_threads(n ? std::atoi(n) : 1);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
