// Every op on the path of a dense head or a ViT that is neither a linear layer nor attention, on
// one thread: its time against a floor, max(bytes / copy bandwidth, operations / FMA peak). Bytes
// are what must be read and written once, operations what the definition needs (a fused
// multiply-add is two). Both speeds are measured before and after each call: a loop of
// multiply-adds in registers, and a copy of as many bytes as the op counts. "share" is the median
// of floor / time, "best" the least floor over the least time: on a machine that others use, the
// truth lies between.
//
//   image_ops --benchmark_filter=depthwise        MORAINE_BENCH_THREADS=2 image_ops
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <moraine/autograd/backward.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/cpu/simd.hpp>
#include <moraine/ops/batch_norm.hpp>
#include <moraine/ops/conv_transpose.hpp>
#include <moraine/ops/deform_attention.hpp>
#include <moraine/ops/group_norm.hpp>
#include <moraine/ops/norm.hpp>
#include <moraine/ops/pad.hpp>
#include <moraine/ops/pixel_shuffle.hpp>
#include <moraine/ops/pool.hpp>
#include <moraine/ops/resize.hpp>
#include <moraine/ops/softmax.hpp>
#include <moraine/ops/unary.hpp>
#include <string>
#include <vector>

#include "peak.hpp"

using namespace moraine;
using cpu::Isa;

namespace {

using Inputs = std::vector<Tensor<float>>;

using bench::now;

/// y = x, n floats, by ordinary stores (a copy that goes round the caches would be another
/// yardstick than what ops can do whose result is read next).
template <class L>
MORAINE_FLATTEN void copy(const float* x, Index n, float* y) {
  for (Index i = 0; i + 4 * L::width <= n; i += 4 * L::width) {
    typename L::F v[4];
    MORAINE_UNROLL for (int j = 0; j < 4; ++j) L::load(v[j], x + i + j * L::width);
    MORAINE_UNROLL for (int j = 0; j < 4; ++j) L::store(y + i + j * L::width, v[j]);
  }
}
#define MORAINE_BENCH_LOOPS(NAME, ATTRIBUTE, LANES) \
  ATTRIBUTE void copy_##NAME(const float* x, Index n, float* y) { copy<LANES>(x, n, y); }
MORAINE_BENCH_LOOPS(portable, __attribute__((noinline)), cpu::simd::Lanes4)
#if defined(MORAINE_X86)
MORAINE_BENCH_LOOPS(avx2, MORAINE_AVX2, cpu::simd::Lanes8)
MORAINE_BENCH_LOOPS(avx512, MORAINE_AVX512, cpu::simd::Lanes16)
#endif

/// Operations per second of all threads together, now.
double peak() {
  const int n = threads();
  std::vector<float> keep(static_cast<std::size_t>(n) * 48, 0.5f);
  std::vector<double> rate(static_cast<std::size_t>(n));
  parallel_for(n, 1, [&](Index i, Index) {
    rate[static_cast<std::size_t>(i)] = 1e9 * bench::multiply_add_rate(keep.data() + i * 48, 30000);
  });
  double sum = 0;
  for (double r : rate) sum += r;
  return sum;
}

/// Bytes per second, read and written, of a copy that reads half of `bytes` and writes the other.
class Copy {
 public:
  explicit Copy(double bytes)
      : n_(std::max<Index>(1024, static_cast<Index>(bytes / 8))), from_(n_, 1.0f), to_(n_, 2.0f) {}
  double rate() {
    const double start = now();
    parallel_for(n_, 1 << 16, [&](Index b, Index e) {
      const float* const x = from_.data() + b;
      float* const y = to_.data() + b;
      switch (cpu::best_isa()) {
#if defined(MORAINE_X86)
        case Isa::avx512:
          return copy_avx512(x, e - b, y);
        case Isa::avx2:
          return copy_avx2(x, e - b, y);
#endif
        default:
          return copy_portable(x, e - b, y);
      }
    });
    return 8.0 * static_cast<double>(n_) / (now() - start);
  }

 private:
  Index n_;
  std::vector<float> from_, to_;
};

/// What one call must move and compute.
struct Work {
  double bytes = 0, flop = 0;
};

/// Runs `call` under the benchmark; `prepare` is not timed.
template <class Prepare, class Call>
void measure(benchmark::State& state, Work work, Prepare prepare, Call call) {
  cpu_device.trim();  // blocks of other sizes would leave no room to keep those of this op
  std::vector<double> shares, bounds;
  Copy copy(work.bytes);
  copy.rate();
  double best = 1e9, fast = 0, wide = 0;
  prepare();
  call();
  for (auto _ : state) {
    prepare();
    const double peak0 = peak(), copy0 = copy.rate(), start = now();
    call();
    const double seconds = now() - start, copy1 = copy.rate(), peak1 = peak();
    state.SetIterationTime(seconds);
    const double arithmetic = work.flop / (0.5 * (peak0 + peak1));
    const double memory = work.bytes / (0.5 * (copy0 + copy1));
    shares.push_back(std::max(arithmetic, memory) / seconds);
    bounds.push_back(arithmetic / memory);
    best = std::min(best, seconds);
    fast = std::max({fast, peak0, peak1});
    wide = std::max({wide, copy0, copy1});
  }
  std::sort(shares.begin(), shares.end());
  std::sort(bounds.begin(), bounds.end());
  state.counters["share"] = shares[shares.size() / 2];
  state.counters["flop/bytes"] = bounds[bounds.size() / 2];  // above 1: arithmetic is the bound
  state.counters["best"] = std::max(work.flop / fast, work.bytes / wide) / best;
  state.counters["ms"] = 1e3 * best;
}

Tensor<float> noise(const Shape& shape) {
  Tensor<float> t = Tensor<float>::empty(shape);
  std::uint64_t state = 1;
  for (Index i = 0; i < t.numel(); ++i) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    t.data()[i] = static_cast<float>(static_cast<double>(state >> 11) / 4503599627370496.0 - 1.0);
  }
  return t;
}

template <class Op>
void forward(benchmark::State& state, std::vector<Shape> shapes, Work work, Op op) {
  Inputs x;
  for (const Shape& s : shapes) x.push_back(noise(s));
  Tensor<float> y;
  measure(
      state, work, [&] { y = {}; }, [&] { y = op(x); });
}

/// The backward alone, with gradients of the inputs in `tracked`.
template <class Op>
void backward_of(benchmark::State& state, std::vector<Shape> shapes, std::vector<int> tracked,
                 Work work, Op op) {
  Inputs x;
  for (const Shape& s : shapes) x.push_back(noise(s));
  for (int i : tracked) x[static_cast<std::size_t>(i)].requires_grad();
  Tensor<float> y, dy;
  measure(
      state, work,
      [&] {
        for (int i : tracked) x[static_cast<std::size_t>(i)].zero_grad();
        y = op(x);
        if (!dy.defined()) dy = noise(y.shape());
      },
      [&] { backward(y, dy); });
}

double floats(std::initializer_list<Shape> shapes) {
  double n = 0;
  for (const Shape& s : shapes) n += static_cast<double>(s.numel());
  return 4 * n;
}

template <class... Args>
void add(const std::string& name, Args... args) {
  benchmark::RegisterBenchmark(name.c_str(), args...)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->Iterations(11);
}

/// A convolution and its two gradients; transposed: conv_transpose2d.
void convolution(const std::string& name, const Shape& x, const Shape& w, const Shape& y,
                 double flop, const ConvOptions& o, bool transposed = false) {
  const auto op = [o, transposed](const Inputs& t) {
    return transposed ? conv_transpose2d(t[0], t[1], t.size() > 2 ? t[2] : Tensor<float>(),
                                         {.stride = o.stride, .groups = o.groups})
                      : conv2d(t[0], t[1], t.size() > 2 ? t[2] : Tensor<float>(), o);
  };
  using Shapes = std::vector<Shape>;
  using Which = std::vector<int>;
  const Work work{floats({x, w, y}), flop};
  add(name + "/forward", forward<decltype(op)>, Shapes{x, w, {y[1]}}, work, op);
  add(name + "/dx", backward_of<decltype(op)>, Shapes{x, w}, Which{0}, work, op);
  add(name + "/dw", backward_of<decltype(op)>, Shapes{x, w}, Which{1}, work, op);
}

/// An op with its backward, whose arithmetic is counted per element of its output.
template <class Op>
void map(const std::string& name, std::vector<Shape> shapes, std::vector<int> tracked, Work f,
         Work b, Op op) {
  add(name + "/forward", forward<Op>, shapes, f, op);
  add(name + "/backward", backward_of<Op>, shapes, tracked, b, op);
}

double volume(const Shape& s) { return static_cast<double>(s.numel()); }

void convolutions() {
  for (Index k : {3, 5, 7}) {
    const Shape x{1, 256, 128, 128};
    convolution("depthwise/" + std::to_string(k) + "x" + std::to_string(k), x, {256, 1, k, k}, x,
                2.0 * volume(x) * static_cast<double>(k * k), {.padding = k / 2, .groups = 256});
  }
  convolution("depthwise/3x3_small_planes", {8, 384, 14, 14}, {384, 1, 3, 3}, {8, 384, 14, 14},
              18.0 * 8 * 384 * 196, {.padding = 1, .groups = 384});
  convolution("depthwise/3x3_stride2", {1, 256, 128, 128}, {256, 1, 3, 3}, {1, 256, 64, 64},
              18.0 * 256 * 64 * 64, {.stride = 2, .padding = 1, .groups = 256});
  const auto dense = [](const std::string& name, Index in, Index out, Index size, Index k,
                        Index stride) {
    const Index to = (size - 1) / stride + 1;
    convolution(name, {1, in, size, size}, {out, in, k, k}, {1, out, to, to},
                2.0 * static_cast<double>(in * out * k * k * to * to),
                {.stride = stride, .padding = k / 2});
  };
  dense("dense/3x3_256_37", 256, 256, 37, 3, 1);
  dense("dense/3x3_64_256", 64, 64, 256, 3, 1);
  dense("dense/3x3_64_128_stride2", 64, 128, 128, 3, 2);
  dense("pointwise/256_256_64", 256, 256, 64, 1, 1);
  dense("pointwise/64_64_256", 64, 64, 256, 1, 1);
  dense("pointwise/96_24_128", 96, 24, 128, 1, 1);
  convolution("transposed/2x2_256_128_64", {1, 256, 64, 64}, {256, 128, 2, 2}, {1, 128, 128, 128},
              2.0 * 256 * 512 * 64 * 64, {.stride = 2}, true);
  convolution("transposed/4x4_96_96_37", {1, 96, 37, 37}, {96, 96, 4, 4}, {1, 96, 148, 148},
              2.0 * 96 * 96 * 16 * 37 * 37, {.stride = 4}, true);
  convolution("patches/14x14_768_518", {1, 3, 518, 518}, {768, 3, 14, 14}, {1, 768, 37, 37},
              2.0 * 588 * 768 * 1369, {.stride = 14});
}

void images() {
  const auto resizing = [](const std::string& name, Shape x, Shape y, ResizeOptions o,
                           double taps) {
    const Work w{floats({x, y}), taps * volume(y)};
    o.size = {y[2], y[3]};
    map("resize/" + name, {x}, {0}, w, w, [o](const Inputs& t) { return resize(t[0], o); });
  };
  for (bool corners : {false, true}) {
    const std::string tail = corners ? "_corners" : "";
    resizing("bilinear_37_148" + tail, {1, 256, 37, 37}, {1, 256, 148, 148},
             {.align_corners = corners}, 4);
    resizing("bilinear_128_512" + tail, {1, 64, 128, 128}, {1, 64, 512, 512},
             {.align_corners = corners}, 4);
  }
  resizing("bilinear_64_128", {1, 256, 64, 64}, {1, 256, 128, 128}, {}, 4);
  resizing("bilinear_512_128", {1, 64, 512, 512}, {1, 64, 128, 128}, {}, 8);
  resizing("antialias_518_224", {1, 32, 518, 518}, {1, 32, 224, 224}, {.antialias = true}, 15);
  resizing("bicubic_37_64_positions", {1, 768, 37, 37}, {1, 768, 64, 64},
           {.mode = Interpolation::bicubic}, 10);
  resizing("nearest_64_128", {1, 256, 64, 64}, {1, 256, 128, 128}, {.mode = Interpolation::nearest},
           0);

  const Shape x{1, 256, 128, 128}, half{1, 256, 64, 64};
  map("pool/max_2x2", {x}, {0}, {floats({x, half}), volume(x)}, {floats({x, half}), volume(half)},
      [](const Inputs& t) { return max_pool2d(t[0], {.kernel = 2}); });
  map("pool/max_3x3_stride2", {x}, {0}, {floats({x, half}), 9 * volume(half)},
      {floats({x, half}), volume(half)},
      [](const Inputs& t) { return max_pool2d(t[0], {.kernel = 3, .stride = 2, .padding = 1}); });
  map("pool/average_2x2", {x}, {0}, {floats({x, half}), 2 * volume(x)},
      {floats({x, half}), volume(x)},
      [](const Inputs& t) { return avg_pool2d(t[0], {.kernel = 2}); });
  map("pool/adaptive_6x6", {x}, {0}, {floats({x}), volume(x)}, {floats({x}), volume(x)},
      [](const Inputs& t) { return adaptive_avg_pool2d(t[0], 6); });
  const Shape blocks{1, 1024, 64, 64};
  map("pixel_shuffle/2", {blocks}, {0}, {2 * floats({x}), 0}, {2 * floats({x}), 0},
      [](const Inputs& t) { return pixel_shuffle(t[0], 2); });
  map("pad/reflect_3", {x}, {0}, {2 * floats({x}), 0}, {2 * floats({x}), 0}, [](const Inputs& t) {
    return pad(t[0], {{3, 3}, {3, 3}}, {.mode = PadMode::reflect});
  });
  map("pad/constant_3", {x}, {0}, {2 * floats({x}), 0}, {2 * floats({x}), 0}, [](const Inputs& t) {
    return pad(t[0], {{3, 3}, {3, 3}});
  });
}

void norms() {
  const Shape rows{1370, 768}, keys{1370, 1370}, hidden{1370, 3072};
  map("layer_norm/1370x768", {rows, {768}, {768}}, {0, 1, 2},
      {2 * floats({rows}), 7 * volume(rows)}, {3 * floats({rows}), 15 * volume(rows)},
      [](const Inputs& t) { return layer_norm(t[0], t[1], t[2], 1e-6); });
  map("softmax/1370x1370", {keys}, {0}, {2 * floats({keys}), 22 * volume(keys)},
      {3 * floats({keys}), 4 * volume(keys)}, [](const Inputs& t) { return softmax(t[0]); });
  // The polynomial that cpu/simd.hpp evaluates has 30 operations, its derivative 32.
  map("gelu/1370x3072", {hidden}, {0}, {2 * floats({hidden}), 30 * volume(hidden)},
      {3 * floats({hidden}), 32 * volume(hidden)}, [](const Inputs& t) { return gelu(t[0]); });
  map("relu/1370x3072", {hidden}, {0}, {2 * floats({hidden}), volume(hidden)},
      {3 * floats({hidden}), volume(hidden)}, [](const Inputs& t) { return relu(t[0]); });
  const Shape x{2, 128, 128, 128};
  map("batch_norm/train", {x, {128}, {128}}, {0, 1, 2}, {2 * floats({x}), 6 * volume(x)},
      {3 * floats({x}), 8 * volume(x)}, [](const Inputs& t) {
        return batch_norm_train(t[0], BatchNormInputs<float>{.weight = t[1], .bias = t[2]}).y;
      });
  map("batch_norm/evaluate", {x, {128}, {128}, {128}}, {0}, {2 * floats({x}), 2 * volume(x)},
      {2 * floats({x}), volume(x)}, [](const Inputs& t) {
        const auto one = Tensor<float>::ones({128});
        return batch_norm(t[0], BatchNormInputs<float>{t[1], t[2], t[3], one});
      });
  map("group_norm/32", {x, {128}, {128}}, {0, 1, 2}, {2 * floats({x}), 6 * volume(x)},
      {3 * floats({x}), 10 * volume(x)},
      [](const Inputs& t) { return group_norm(t[0], 32, t[1], t[2]); });
}

/// One layer of Mask2Former's pixel decoder at 512 x 512: three levels, eight heads of 32, four
/// points. Places are spread as evenly as can be: more than a trained network does.
void deformable() {
  const std::vector<Size2> grids{64, 32, 16};
  const Index s = 5376, h = 8, d = 32, l = 3, p = 4;
  const Shape value{1, s, h, d}, places{1, s, h, l, p, 2}, weights{1, s, h, l, p};
  const double corners = static_cast<double>(s * h * l * p * 4 * d);
  Tensor<float> at = noise(places);
  for (Index i = 0; i < at.numel(); ++i) at.data()[i] = 0.5f + 0.5f * at.data()[i];
  const auto op = [grids, at](const Inputs& t) {
    if (t[1].data()[0] != at.data()[0]) std::copy_n(at.data(), at.numel(), t[1].data());
    return deform_attention(t[0], grids, t[1], t[2]);
  };
  map("deform_attention/64_32_16", {value, places, weights}, {0, 1, 2},
      {floats({value, value, places, weights}), 2 * corners},
      {floats({value, value, value, places, places, weights, weights}), 4 * corners}, op);
}

}  // namespace

int main(int argc, char** argv) {
  const char* const t = std::getenv("MORAINE_BENCH_THREADS");
  set_threads(t ? std::atoi(t) : 1);
  benchmark::Initialize(&argc, argv);
  convolutions();
  images();
  norms();
  deformable();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
