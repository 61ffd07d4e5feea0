// Prints how long one encoder block's work takes: for a comparison of Debug and optimised builds.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <moraine/autograd/backward.hpp>
#include <moraine/nn/block.hpp>
#include <moraine/nn/init.hpp>

using namespace moraine;

int main() {
  set_threads(1);
  Block<float> block({.width = 192, .heads = 3, .hidden = 768});
  for (Named<float>& p : parameters<float>(block))
    if (p.tensor->rank() >= 2) init::normal(*p.tensor, 0.05, init::stream(1, p.name));
  freeze<float>(block);
  prepare<float>(block);
  Tensor<float> x = Tensor<float>::empty({1, 512, 192});
  init::normal(x, 1, Random(1, "x", 0));
  x.requires_grad();
  const Tensor<float> dy = Tensor<float>::ones(x.shape());
  double best = 1e9;
  for (int i = 0; i < 7; ++i) {
    timespec a, b;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    backward(block(x), dy);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    best = std::min(best, static_cast<double>(b.tv_sec - a.tv_sec) +
                              1e-9 * static_cast<double>(b.tv_nsec - a.tv_nsec));
    x.zero_grad();
  }
  std::printf("%.6f\n", best);
}
