// The tape: accumulation, freeing, no_grad, checkpoint, and what a frozen trunk keeps, in bytes.
#include <doctest/doctest.h>

#include <moraine/autograd/checkpoint.hpp>
#include <moraine/nn/block.hpp>
#include <moraine/nn/init.hpp>
#include <moraine/peft/inject.hpp>
#include <moraine/peft/lora.hpp>
#include <string>
#include <vector>

using namespace moraine;

namespace {
Block<float> random_block(const BlockConfig& c) {
  Block<float> b(c);
  for (Named<float>& p : parameters<float>(b))
    if (p.tensor->rank() == 2) init::normal(*p.tensor, 0.1, init::stream(1, p.name));
  return b;
}
Tensor<float> random_input(const Shape& s) {
  Tensor<float> x = Tensor<float>::empty(s);
  init::normal(x, 1, Random(5, "x", 0));
  return x;
}
}  // namespace

TEST_CASE("gradients add up where a value is used twice, and over calls until zero_grad") {
  Tensor<double> x({2}, {3, 5});
  x.requires_grad();
  backward(sum(x * x + x));
  CHECK(x.grad().values() == std::vector<double>{7, 11});
  backward(sum(x));
  CHECK(x.grad().values() == std::vector<double>{8, 12});
  x.zero_grad();
  CHECK_FALSE(x.grad().defined());
}

TEST_CASE("a graph is freed by backward; using it again is an error that says so") {
  Tensor<double> x({2}, {3, 5});
  x.requires_grad();
  const Tensor<double> y = sum(x * x);
  backward(y);
  CHECK_THROWS_WITH_AS(backward(y), doctest::Contains("compute the value again"), Error);
  const Tensor<double> c({2}, {1, 2});
  CHECK_THROWS_WITH_AS(backward(sum(c)), doctest::Contains("requires_grad"), Error);
  CHECK_THROWS_WITH_AS(backward(x * x), doctest::Contains("more than one element"), Error);
}

TEST_CASE("NoGrad records nothing, and detach cuts") {
  Tensor<double> x({1}, {3});
  x.requires_grad();
  {
    NoGrad off;
    CHECK_FALSE((x * x).tracked());
  }
  CHECK((x * x).tracked());
  CHECK_FALSE((x.detach() * x.detach()).tracked());
}

TEST_CASE("a chain of 200,000 ops is walked and destroyed without recursion") {
  Tensor<double> x({1}, {1});
  x.requires_grad();
  Tensor<double> y = x;
  for (int i = 0; i < 200000; ++i) y = scale(y, 1.0);
  backward(sum(y));
  CHECK(x.grad().item() == 1);
  Tensor<double> z = x;
  for (int i = 0; i < 200000; ++i) z = scale(z, 1.0);
  z = {};  // never walked, only dropped
}

TEST_CASE("checkpoint gives the same bits and keeps only its input") {
  Block<float> block = random_block({.width = 16, .heads = 2, .hidden = 32});
  require_grad<float>(block, "**");
  const auto run = [&](bool saved, std::size_t& kept) {
    Tensor<float> x = random_input({2, 5, 16});
    x.requires_grad();
    const std::size_t before = cpu_device.live;
    const Tensor<float> y =
        saved ? checkpoint([&](const Tensor<float>& v) { return block(v); }, x) : block(x);
    kept = cpu_device.live - before;
    backward(sum(y * y));
    std::vector<float> g = x.grad().values();
    for (Named<float>& p : parameters<float>(block)) {
      for (float v : p.tensor->grad().values()) g.push_back(v);
      p.tensor->zero_grad();
    }
    return g;
  };
  std::size_t all, few;
  CHECK(run(false, all) == run(true, few));
  CHECK(few == 2 * 5 * 16 * sizeof(float));  // the value itself
  CHECK(all > 4 * few);
}

TEST_CASE("what a trunk keeps for the backward, in bytes") {
  constexpr Index b = 2, n = 7, c = 16, f = 64;
  const std::size_t token = b * n * sizeof(float);
  const auto kept = [&](Block<float>& block, bool input_tracked) {
    Tensor<float> x = random_input({b, n, c});
    x.requires_grad(input_tracked);
    const std::size_t before = cpu_device.live;
    const Tensor<float> y = block(x);
    return cpu_device.live - before;
  };
  const BlockConfig config{.width = c, .heads = 2, .hidden = f};
  Block<float> block = random_block(config);
  freeze<float>(block);
  SUBCASE("frozen below the first adapter: its output and nothing else") {
    CHECK(kept(block, false) == token * c);
  }
  SUBCASE("frozen above it: activations for the gradient of the input, none for a weight") {
    // The tape holds of each part:                        per token
    //   norm1, norm2: mean and rstd (their input is x or the sum before the MLP)   2 * 2
    //   attention: qkv, its output, and one log-sum-exp per head                   3c + c + heads
    //   the sum after attention (input of norm2)                                   c
    //   fc1: its pre-activation                                                    f
    // and y itself. Not held: inputs of qkv, proj, fc1, fc2 (only dW needs them).
    const std::size_t expected = token * (4 + 4 * c + 2 + c + f + c);
    CHECK(kept(block, true) == expected);
  }
  SUBCASE("trained: the inputs of the four products as well") {
    const std::size_t frozen = kept(block, true);
    require_grad<float>(block, "**.weight");
    // norm1(x), attention's output is held already, norm2(x), gelu(fc1)
    CHECK(kept(block, true) == frozen + token * (c + c + f));
  }
  SUBCASE("LoRA on qkv holds the low-rank activations and the inputs of A and B") {
    const std::size_t frozen = kept(block, true);
    inject<float>(block, "attn.qkv", lora({.rank = 3}));
    // x of A (norm1's output), and the scaled r numbers per token that B reads
    CHECK(kept(block, true) == frozen + token * (c + 3));
  }
}

TEST_CASE("no gradient buffer ever exists for a frozen weight") {
  Block<float> block = random_block({.width = 16, .heads = 2, .hidden = 32});
  freeze<float>(block);
  inject<float>(block, "attn.qkv", lora({.rank = 2}));
  Tensor<float> x = random_input({1, 4, 16});
  backward(sum(block(x)));
  for (Named<float>& p : parameters<float>(block)) {
    const bool adapter = p.name.find("lora_") != std::string::npos;
    CHECK(p.tensor->tracked() == adapter);
    if (adapter) CHECK(p.tensor->grad().defined());
  }
}

TEST_CASE("a listener hears every op with its name") {
  struct Names final : OpListener {
    std::string all;
    void heard(const char* op, Dtype, const void*, Index, const Shape&) override {
      all += std::string(op) + ' ';
    }
  } names;
  Tensor<double> x({1}, {3});
  tape().listener = &names;
  exp(x * x);
  tape().listener = nullptr;
  CHECK(names.all == "mul exp ");
}
