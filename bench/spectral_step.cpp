// One training step of SpectralMoE at full size, timed: two frozen ViT-L trunks (24 blocks, width
// 1024) on one image of 512 x 512 in patches of 16 (1024 tokens), the plugin of the paper (6
// experts of 100 tokens, rank 16, one chosen, with noise) after every block, loss, backward and
// AdamW on the plugin. Random weights. By itself it prints seconds; bench/peers/run.py sends it a
// line for every pass, in turn with the same mathematics in PyTorch (bench/peers/workers.py).
//
//   build/cpu/bench/spectral_step [--blocks N] [--experts E] [--threads N] [--runs N] [--serve]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <moraine/models/vit.hpp>
#include <moraine/moraine.hpp>
#include <moraine/nn/init.hpp>
#include <moraine/peft/spectral_moe.hpp>
#include <moraine/train/optim.hpp>
#include <string>
#include <vector>

#include "serve.hpp"

using namespace moraine;

int main(int argc, char** argv) {
  int runs = 3;
  Index blocks = 24, experts = 6;
  bool serving = false;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--serve") {
      serving = true;
      continue;
    }
    const int value = i + 1 < argc ? std::atoi(argv[++i]) : 0;
    if (value < 1) return std::fprintf(stderr, "spectral_step: cannot read %s\n", argv[i - 1]), 1;
    if (option == "--blocks") blocks = value;
    if (option == "--experts") experts = value;
    if (option == "--runs") runs = value;
    if (option == "--threads") set_threads(value);
  }
  const auto trunk = [&](std::uint64_t seed) {
    ViT<float> vit({.patch = 16,
                    .width = 1024,
                    .depth = blocks,
                    .heads = 16,
                    .hidden = 4096,
                    .grid_h = 32,
                    .grid_w = 32,
                    .layer_scale = true});
    for (Named<float>& p : parameters<float>(vit))
      if (p.tensor->rank() >= 2) init::normal(*p.tensor, 0.02, init::stream(seed, p.name));
    freeze<float>(vit);
    prepare<float>(vit);
    return vit;
  };
  ViT<float> visual = trunk(1), depth = trunk(2);
  SpectralMoeConfig c = spectral_moe_paper();
  c.layers = blocks, c.experts = experts, c.prefix = c.depth_prefix = 1, c.balance_load = true;
  SpectralMoe<float> moe(c);
  moe.init({.seed = 3, .b_std = 0.02, .prototype_std = 0.02});
  require_grad<float>(moe, "**");
  AdamW<float> adam(parameters<float>(moe), {.lr = 1e-4});
  Tensor<float> pixels = Tensor<float>::empty({1, 3, 512, 512});
  init::normal(pixels, 1, Random(1, "pixels", 0));
  Index steps = 0;
  const auto once = [&] {
    const auto t = std::chrono::steady_clock::now();
    adam.zero_grad();
    Tensor<float> v = visual.embed(pixels), z = depth.embed(pixels), aux = Tensor<float>::scalar(0);
    for (Index l = 0; l < blocks; ++l) {
      v = visual.block(l, v);
      z = depth.block(l, z);
      GateNoise<float> noise{Tensor<float>::empty({1024, experts}),
                             Tensor<float>::empty({1024, experts})};
      const auto step = static_cast<std::uint64_t>(steps * blocks + l);
      init::normal(noise.visual, 1, Random(1, "noise visual", step));
      init::normal(noise.depth, 1, Random(1, "noise depth", step));
      const SpectralMoeOutput<float> o = moe.layer(l, v, z, noise);
      v = o.out;
      aux = add(aux, o.aux_loss);
    }
    const Tensor<float> loss = add(mean(square(visual.finish(v))), aux);
    backward(loss);
    adam.step();
    ++steps;
    const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count();
    if (!(loss.item() == loss.item())) std::fprintf(stderr, "not a number\n");
    return s;
  };
  once();
  if (serving) return serve(once), 0;
  const std::vector<double> s = passes(runs, once);
  std::printf(
      "SpectralMoE step, %d blocks, %d experts, %d threads: %.3f s (median of %d, least "
      "%.3f), tensors at most %.0f MiB, process %.0f MiB\n",
      static_cast<int>(blocks), static_cast<int>(experts), threads(), s[s.size() / 2], runs, s[0],
      static_cast<double>(cpu_device.peak.load()) / (1 << 20), peak_mib());
}
