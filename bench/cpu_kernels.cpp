// The float kernels on the shapes of vision transformers: GFLOP/s, and the share of what this
// processor can do at that moment ("share", the median over repetitions of one call between two
// loops that do nothing but fused multiply-adds in registers); "best" is the best call over the
// best loop: on a machine that others use, the truth lies between. Speeds that need no arithmetic
// peak are given in GB/s. Products of bfloat16 operands (gemm_bf16, attention_bf16) are compared
// with a loop of vdpbf16ps where the processor has it, else with the float one; the label says
// which.
//
//   cpu_kernels --benchmark_filter=gemm        MORAINE_BENCH_THREADS=2 cpu_kernels
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <moraine/core/parallel.hpp>
#include <moraine/cpu/attention.hpp>
#include <moraine/cpu/attention_backward.hpp>
#include <moraine/cpu/attention_bf16.hpp>
#include <moraine/cpu/gemm.hpp>
#include <moraine/cpu/rows.hpp>
#include <string>
#include <vector>

#include "peak.hpp"

using namespace moraine;
using cpu::Isa;

namespace {

using bench::now;

constexpr long peak_steps = 60000;

#if defined(MORAINE_X86)
/// The loop of bench/peak.hpp with two products a lane.
__attribute__((target("avx512f,avx512bf16"), noinline)) void multiply_add_pairs(float* keep) {
  using L = cpu::simd::Lanes16;
  L::F s[12], a, b;
  L::load(a, keep);
  L::load(b, keep + 16);
  MORAINE_UNROLL for (int i = 0; i < 12; ++i) s[i] = b;
  for (long k = 0; k < peak_steps; ++k) {
    MORAINE_UNROLL for (int i = 0; i < 12; ++i) {
      __asm__("vdpbf16ps %2, %1, %0" : "+v"(s[i]) : "v"(a), "v"(b));
    }
  }
  MORAINE_UNROLL for (int i = 1; i < 12; ++i) s[0] += s[i];
  L::store(keep + 32, s[0]);
}
#endif

/// GFLOP/s of all threads together, now; with pairs those of vdpbf16ps, which is there.
double peak(bool pairs) {
  const int n = threads();
  std::vector<float> keep(static_cast<std::size_t>(n) * 48, 0.5f);
  std::vector<double> rate(static_cast<std::size_t>(n));
  parallel_for(n, 1, [&](Index i, Index) {
    float* const k = keep.data() + i * 48;
    double& mine = rate[static_cast<std::size_t>(i)];
#if defined(MORAINE_X86)
    if (pairs) {
      const double start = now();
      multiply_add_pairs(k);
      mine = 2.0 * 12 * static_cast<double>(peak_steps) * 32 / (now() - start) / 1e9;
      return;
    }
#endif
    mine = bench::multiply_add_rate(k, peak_steps);
  });
  double sum = 0;
  for (double r : rate) sum += r;
  return sum;
}

/// Runs `call` under the benchmark, with its rate in GFLOP/s and its median share of the peak.
template <class Call>
void measure(benchmark::State& state, double flop, Call call, Product product = Product::fp32) {
  const bool pairs = product == Product::bf16 && &cpu::bf16_kernels() == cpu::bf16_native_kernels();
  if (product == Product::bf16) state.SetLabel(pairs ? "of vdpbf16ps" : "of float FMA");
  std::vector<double> shares;
  double best = 1e9, most = 0;
  call();
  for (auto _ : state) {
    const double before = peak(pairs), start = now();
    call();
    const double seconds = now() - start, after = peak(pairs);
    state.SetIterationTime(seconds);
    shares.push_back(flop / seconds / 1e9 / (0.5 * (before + after)));
    best = std::min(best, seconds);
    most = std::max(most, std::max(before, after));
  }
  std::sort(shares.begin(), shares.end());
  state.counters["share"] = shares[shares.size() / 2];
  state.counters["best"] = flop / best / 1e9 / most;
  state.counters["GFLOP/s"] = flop / best / 1e9;
}

template <class Call>
void stream(benchmark::State& state, double bytes, Call call) {
  double best = 1e9;
  for (auto _ : state) {
    const double start = now();
    call();
    const double seconds = now() - start;
    state.SetIterationTime(seconds);
    best = std::min(best, seconds);
  }
  state.counters["GB/s"] = bytes / best / 1e9;
}

std::vector<float> noise(Index n) {
  std::vector<float> v(static_cast<std::size_t>(n));
  std::uint64_t state = 1;
  for (float& x : v) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    x = static_cast<float>(static_cast<double>(state >> 11) / 4503599627370496.0 - 1.0);
  }
  return v;
}

enum class Form { packed, gelu, residual, weight, weight_gradient };

void gemm(benchmark::State& state, Product product, Form form, Index m, Index n, Index k) {
  const auto a = noise(m * k), b = noise(n * k), bias = noise(n);
  std::vector<float> c(static_cast<std::size_t>(m * n));
  const auto packed = cpu::pack_weight(b.data(), n, k, product);
  cpu::Gemm<float> g{.m = m, .n = n, .k = k, .a = {a.data(), k, 1}, .b = {b.data(), 1, k}};
  g.c = {c.data(), n, 1};
  g.product = product;
  if (form != Form::weight_gradient) g.bias = bias.data();
  if (form != Form::weight && form != Form::weight_gradient) g.packed = packed.get();
  if (form == Form::gelu) g.act = Activation::gelu;
  if (form == Form::residual) g.residual = c.data(), g.scale = bias.data();
  if (form == Form::weight_gradient) g.a = {a.data(), 1, m}, g.b = {b.data(), n, 1};
  measure(
      state, 2.0 * static_cast<double>(m * n * k), [&] { cpu::gemm(g); }, product);
}

/// What is added to the scores: a bias of every head, or relative positions of a square map of
/// keys.
enum class Added { nothing, bias, relative };

void attention(benchmark::State& state, Product product, bool backward, Added added, Index batch,
               Index heads, Index n, Index d) {
  const Index c = heads * d;
  const auto x = noise(batch * n * 3 * c), dout = noise(batch * n * c);
  std::vector<float> out(dout.size()), dx(x.size()),
      lse(static_cast<std::size_t>(batch * heads * n));
  const Index t = 3 * c;
  const float scale = 1 / std::sqrt(static_cast<float>(d));
  cpu::Attention<float> f{.batch = batch, .heads = heads, .nq = n, .nk = n, .d = d, .dv = d};
  f.q = {x.data(), n * t, d, t};
  f.k = {x.data() + c, n * t, d, t};
  f.v = {x.data() + 2 * c, n * t, d, t};
  f.out = {out.data(), n * c, d, c};
  f.scale = scale;
  f.lse = lse.data();
  cpu::AttentionBackward<float> b{
      .batch = batch, .heads = heads, .nq = n, .nk = n, .d = d, .dv = d};
  b.q = f.q, b.k = f.k, b.v = f.v;
  b.out = {out.data(), n * c, d, c};
  b.dout = {dout.data(), n * c, d, c};
  b.scale = scale;
  b.lse = lse.data();
  b.dq = {dx.data(), n * t, d, t};
  b.dk = {dx.data() + c, n * t, d, t};
  b.dvalue = {dx.data() + 2 * c, n * t, d, t};
  const bool bias = added == Added::bias, relative = added == Added::relative;
  const Index side = std::lround(std::sqrt(static_cast<double>(n)));
  const auto terms = noise(bias ? heads * n * n : relative ? 2 * batch * heads * n * side : 0);
  std::vector<float> dterms(terms.size());
  const Index half = static_cast<Index>(terms.size()) / 2;
  if (bias)
    f.terms.bias = {terms.data(), 0, n * n, n, 1}, b.dbias = {dterms.data(), 0, n * n, n, 1};
  if (relative) {
    f.terms.rel_h = terms.data(), f.terms.rel_w = terms.data() + half;
    f.terms.rows = f.terms.columns = side;
    b.drel_h = dterms.data(), b.drel_w = dterms.data() + half;
  }
  b.terms = f.terms;
  cpu::attention(f);
  const double flop = 4.0 * static_cast<double>(batch * heads * n * n * d);
  if (backward)
    measure(state, 2.5 * flop, [&] { cpu::attention_backward(b); });
  else
    measure(
        state, flop, [&] { cpu::attention(f, product); }, product);
}

void rows(benchmark::State& state, const std::string& what, Index rows, Index cols) {
  const Index n = rows * cols;
  const auto x = noise(n), dy = noise(n), w = noise(cols);
  std::vector<float> y(x.size()), m(x.size()), v(x.size()), s(static_cast<std::size_t>(2 * cols)),
      mean(static_cast<std::size_t>(rows), 0.0f), rstd(static_cast<std::size_t>(rows), 1.0f);
  const double bytes = 4.0 * static_cast<double>(n);
  if (what == "layer_norm")
    stream(state, 2 * bytes, [&] {
      cpu::layer_norm(
          cpu::LayerNorm<float>{rows, cols, x.data(), w.data(), w.data(), 1e-6f, y.data()});
    });
  if (what == "layer_norm_backward")
    stream(state, 5 * bytes, [&] {
      cpu::layer_norm_backward(cpu::LayerNormBackward<float>{rows, cols, x.data(), w.data(),
                                                             mean.data(), rstd.data(), dy.data(),
                                                             y.data(), s.data(), s.data() + cols});
    });
  if (what == "softmax")
    stream(state, 2 * bytes, [&] { cpu::softmax(x.data(), rows, cols, y.data()); });
  if (what == "gelu")
    stream(state, 2 * bytes, [&] { cpu::activation(Activation::gelu, x.data(), n, y.data()); });
  if (what == "gelu_backward")
    stream(state, 3 * bytes,
           [&] { cpu::activation_backward(Activation::gelu, x.data(), dy.data(), n, y.data()); });
  if (what == "column_sums")
    stream(state, bytes, [&] { cpu::column_sums(x.data(), rows, cols, s.data()); });
  if (what == "sum_of_squares")
    stream(state, bytes, [&] { benchmark::DoNotOptimize(cpu::sum_of_squares(x.data(), n)); });
  if (what == "adamw")
    stream(state, 7 * bytes,
           [&] { cpu::adamw(cpu::AdamW{}, n, y.data(), x.data(), m.data(), v.data()); });
}

void fork_join(benchmark::State& state) {
  for (auto _ : state)
    parallel_for(threads(), 1, [](Index b, Index) { benchmark::DoNotOptimize(b); });
}

template <class... Args>
void add(const std::string& name, Args... args) {
  benchmark::RegisterBenchmark(name.c_str(), args...)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->Iterations(9);
}

}  // namespace

int main(int argc, char** argv) {
  if (const char* t = std::getenv("MORAINE_BENCH_THREADS")) set_threads(std::atoi(t));
  benchmark::Initialize(&argc, argv);
  struct Size {
    const char* what;
    Index m, n, k;
  };
  for (Size z : {Size{"vit_b_qkv", 1370, 2304, 768},
                 {"vit_b_proj", 1370, 768, 768},
                 {"vit_b_fc1", 1370, 3072, 768},
                 {"vit_b_fc2", 1370, 768, 3072},
                 {"vit_s_qkv", 1370, 1152, 384},
                 {"vit_l_fc1", 1370, 4096, 1024},
                 {"vit_b_224_qkv", 257, 2304, 768},
                 {"head", 1374, 100, 768},
                 {"lora_down", 1374, 16, 768},
                 {"lora_up", 1374, 768, 16}}) {
    const std::string size = "/" + std::to_string(z.m) + "x" + std::to_string(z.n) + "x" +
                             std::to_string(z.k) + "/" + z.what;
    for (Product p : {Product::fp32, Product::bf16}) {
      const std::string gemms = p == Product::bf16 ? "gemm_bf16/" : "gemm/";
      add(gemms + "packed" + size, gemm, p, Form::packed, z.m, z.n, z.k);
      add(gemms + "gelu" + size, gemm, p, Form::gelu, z.m, z.n, z.k);
      add(gemms + "residual" + size, gemm, p, Form::residual, z.m, z.n, z.k);
      add(gemms + "weight" + size, gemm, p, Form::weight, z.m, z.n, z.k);
      add(gemms + "weight_gradient" + size, gemm, p, Form::weight_gradient, z.n, z.k, z.m);
    }
  }
  const auto attentions = [](const std::string& name, Product p, bool backward) {
    const auto plain = [&](const char* what, Index batch, Index heads, Index n, Index d) {
      add(name + what, attention, p, backward, Added::nothing, batch, heads, n, d);
    };
    plain("/vit_b_518", 1, 12, 1370, 64);
    plain("/vit_s_518", 1, 6, 1370, 64);
    plain("/vit_b_224", 1, 12, 257, 64);
    plain("/sam_4096", 1, 3, 4096, 64);
    plain("/head_80", 1, 12, 1370, 80);
    plain("/windows_7x7", 64, 6, 49, 32);
    plain("/windows_14x14", 9, 12, 196, 64);
    plain("/fusion_1024", 1, 1, 1369, 1024);
    add(name + "/windows_7x7_bias", attention, p, backward, Added::bias, 64, 6, 49, 32);
    add(name + "/windows_14x14_relative", attention, p, backward, Added::relative, 9, 12, 196, 64);
    add(name + "/sam_4096_relative", attention, p, backward, Added::relative, 1, 3, 4096, 64);
  };
  attentions("attention", Product::fp32, false);
  attentions("attention_bf16", Product::bf16, false);
  attentions("attention_backward", Product::fp32, true);  // of both
  for (const char* what : {"layer_norm", "layer_norm_backward", "softmax", "gelu", "gelu_backward",
                           "column_sums", "sum_of_squares", "adamw"})
    add(std::string("rows/") + what + "/1370x768", rows, std::string(what), Index(1370),
        Index(768));
  benchmark::RegisterBenchmark("parallel_for/fork_join", fork_join);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
