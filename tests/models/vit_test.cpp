// What a ViT keeps for its backward, with and without gradient checkpointing.
#include <doctest/doctest.h>

#include <moraine/autograd/backward.hpp>
#include <moraine/models/vit.hpp>
#include <moraine/nn/init.hpp>
#include <vector>

#include "fixtures.hpp"

using namespace moraine;

TEST_CASE(
    "vit: gradient checkpointing keeps the inputs of blocks alone; gradients differ by rounding") {
  ViT<float> vit({.patch = 4,
                  .width = 32,
                  .depth = 6,
                  .heads = 4,
                  .hidden = 128,
                  .grid_h = 8,
                  .grid_w = 8,
                  .layer_scale = true});
  for (Named<float>& p : parameters<float>(vit))
    if (p.tensor->rank() >= 2) init::normal(*p.tensor, 0.1, init::stream(1, p.name));
  require_grad<float>(vit, "**");
  Tensor<float> x = Tensor<float>::empty({2, 3, 32, 32});
  init::normal(x, 1, Random(1, "x", 0));
  std::size_t kept[2];
  std::vector<Tensor<float>> gradients[2];
  for (bool less : {false, true}) {
    vit.gradient_checkpointing = less;
    const std::size_t before = cpu_device.live;
    const Tensor<float> y = vit(x);
    kept[less] = cpu_device.live - before;
    backward(sum(mul(y, y)));
    for (Named<float>& p : parameters<float>(vit)) {
      gradients[less].push_back(p.tensor->grad());
      p.tensor->zero_grad();
    }
  }
  // A block keeps some 16 tokens' worth (1 in, 1 + 1 norms, 3 qkv, 1 attention, 1 sum, 4 + 4 in the
  // mlp, ...) or its input.
  CHECK_MESSAGE(kept[1] * 4 < kept[0], kept[1], " of ", kept[0], " bytes");
  for (std::size_t i = 0; i < gradients[0].size(); ++i)
    CHECK(fixtures::distance(gradients[1][i], gradients[0][i]) < 1e-5);
}
