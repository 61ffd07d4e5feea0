// A vision encoder, timed: DINOv2's ViT-S/14, B/14 or L/14 on one image of 518 x 518 (1370 tokens)
// with random weights, as models/dinov2.hpp runs it. The work is a forward, a forward and backward
// of all parameters (`--work train`), or of rank-16 LoRA on qkv of a frozen model (`--work lora`).
// By itself it prints seconds and GFLOP/s; bench/peers/run.py sends it a line for every pass, in
// turn with the same work elsewhere.
//
//   build/cpu/bench/encoder [--model s|b|l] [--work forward|train|lora] [--dtype fp32|bf16]
//                           [--gradient-checkpointing] [--threads N] [--runs N] [--serve]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <moraine/models/dinov2.hpp>
#include <moraine/moraine.hpp>
#include <moraine/nn/bf16.hpp>
#include <moraine/nn/init.hpp>
#include <moraine/peft/inject.hpp>
#include <moraine/peft/lora.hpp>
#include <string>
#include <vector>

#include "serve.hpp"

using namespace moraine;

int main(int argc, char** argv) {
  int runs = 5;
  bool serving = false, checkpointing = false;
  std::string size = "b", work = "forward", dtype = "fp32";
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--serve") {
      serving = true;
      continue;
    }
    if (option == "--gradient-checkpointing") {
      checkpointing = true;
      continue;
    }
    const std::string value = i + 1 < argc ? argv[++i] : "";
    if (option == "--model" && (value == "s" || value == "b" || value == "l"))
      size = value;
    else if (option == "--work" && (value == "forward" || value == "train" || value == "lora"))
      work = value;
    else if (option == "--dtype" && (value == "fp32" || value == "bf16"))
      dtype = value;
    else if (option == "--runs" && std::atoi(value.c_str()) > 0)
      runs = std::atoi(value.c_str());
    else if (option == "--threads" && std::atoi(value.c_str()) > 0)
      set_threads(std::atoi(value.c_str()));
    else
      return std::fprintf(stderr, "encoder: cannot read '%s %s'\n", option.c_str(), value.c_str()),
             1;
  }
  const Dinov2Config family = size == "s"   ? dinov2_small()
                              : size == "b" ? dinov2_base()
                                            : dinov2_large();
  const ViTConfig c = vit_config(family);
  ViT<float> vit(c);
  for (Named<float>& p : parameters<float>(vit))
    if (p.tensor->rank() >= 2) init::normal(*p.tensor, 0.02, init::stream(1, p.name));
  freeze<float>(vit);
  if (work == "lora") inject<float>(vit, "blocks.*.attn.qkv", lora({.rank = 16}));
  if (work == "train") require_grad<float>(vit, "**");
  if (dtype == "bf16") use_bf16<float>(vit);
  vit.gradient_checkpointing = checkpointing;
  prepare<float>(vit);
  Tensor<float> x = Tensor<float>::empty({1, 3, 518, 518});
  init::normal(x, 1, Random(1, "pixels", 0));
  const auto once = [&] {
    const auto t = std::chrono::steady_clock::now();
    float y = 0;
    if (work == "forward") {
      const NoGrad off;
      y = vit(x).data()[0];
    } else {
      for (Named<float>& p : parameters<float>(vit)) p.tensor->zero_grad();
      const Tensor<float> loss = mean(square(vit(x)));
      backward(loss);
      y = loss.item();
    }
    const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count();
    if (!(y == y)) std::fprintf(stderr, "not a number\n");
    return s;
  };
  once();
  if (serving) return serve(once), 0;
  const std::vector<double> s = passes(runs, once);
  // Multiply-adds: 12 C^2 N per block and token for the products, 2 N^2 C for attention; a backward
  // of all parameters is twice a forward, one of the adapters alone nearly once.
  const double n = 1370, d = static_cast<double>(c.width), l = static_cast<double>(c.depth);
  const double forward = 2 * (l * (12 * d * d * n + 2 * n * n * d) + 1369 * 588 * d);
  const double flop = forward * (work == "forward" ? 1 : work == "train" ? 3 : 2);
  std::printf(
      "ViT-%c/14 %s %s, 518 x 518, %d threads: %.3f s (median of %d, least %.3f), %.0f GFLOP/s, "
      "tensors at most %.0f MiB, process %.0f MiB\n",
      size[0] - 'a' + 'A', work.c_str(), dtype.c_str(), threads(), s[s.size() / 2], runs, s[0],
      flop / s[s.size() / 2] * 1e-9, static_cast<double>(cpu_device.peak.load()) / (1 << 20),
      peak_mib());
}
