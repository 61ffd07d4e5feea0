// One forward of a vision encoder, timed: ViT-B/14 at 518 x 518 (1370 tokens) with random weights,
// as models/dinov2.hpp runs it. By itself it prints seconds and GFLOP/s; bench/peers/run.py sends
// it a line for every forward, in turn with the same work in PyTorch.
//
//   build/cpu/bench/encoder [--threads N] [--runs N] [--small] [--serve]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <moraine/models/dinov2.hpp>
#include <moraine/nn/init.hpp>
#include <vector>

using namespace moraine;

int main(int argc, char** argv) {
  int runs = 5;
  bool serve = false, small = false;
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--serve")) serve = true;
    if (!std::strcmp(argv[i], "--small")) small = true;
    if (i + 1 < argc && !std::strcmp(argv[i], "--runs")) runs = std::atoi(argv[i + 1]);
    if (i + 1 < argc && !std::strcmp(argv[i], "--threads")) set_threads(std::atoi(argv[i + 1]));
  }
  const ViTConfig c = vit_config(small ? dinov2_small() : dinov2_base());
  ViT<float> vit(c);
  for (Named<float>& p : parameters<float>(vit))
    if (p.tensor->rank() >= 2) init::normal(*p.tensor, 0.02, init::stream(1, p.name));
  prepare<float>(vit);
  Tensor<float> x = Tensor<float>::empty({1, 3, 518, 518});
  init::normal(x, 1, Random(1, "pixels", 0));
  const NoGrad off;
  const auto once = [&] {
    const auto t = std::chrono::steady_clock::now();
    const Tensor<float> y = vit(x);
    const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count();
    if (!(y.data()[0] == y.data()[0])) std::fprintf(stderr, "not a number\n");
    return s;
  };
  once();
  if (serve) {
    std::printf("ready\n");
    std::fflush(stdout);
    for (char line[16]; std::fgets(line, sizeof line, stdin);) {
      std::printf("%.6f\n", once());
      std::fflush(stdout);
    }
    return 0;
  }
  std::vector<double> s;
  for (int i = 0; i < runs; ++i) s.push_back(once());
  std::sort(s.begin(), s.end());
  // Multiply-adds: 12 C^2 N per block and token for the products, 2 N^2 C for attention.
  const double n = 1370, d = static_cast<double>(c.width), l = static_cast<double>(c.depth);
  const double flop = 2 * (l * (12 * d * d * n + 2 * n * n * d) + 1369 * 588 * d);
  std::printf("ViT-%c/14, 518 x 518, %d threads: %.3f s (median of %d, least %.3f), %.0f GFLOP/s\n",
              small ? 'S' : 'B', threads(), s[s.size() / 2], runs, s[0],
              flop / s[s.size() / 2] * 1e-9);
}
