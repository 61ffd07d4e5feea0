// Modules and their seams: paths, globs, load and save, slots, bfloat16 products.
#include <doctest/doctest.h>

#include <moraine/autograd/backward.hpp>
#include <moraine/nn/bf16.hpp>
#include <moraine/nn/block.hpp>
#include <moraine/nn/load.hpp>
#include <moraine/ops/reduce.hpp>
#include <moraine/peft/inject.hpp>
#include <moraine/peft/lora.hpp>

#include "fixtures.hpp"

using namespace moraine;

namespace {
Block<float> block(Ffn ffn = Ffn::mlp) {
  Block<float> b({.width = 8, .heads = 2, .hidden = 12, .ffn = ffn, .layer_scale = true});
  float v = 0;
  for (Named<float>& p : parameters<float>(b))
    for (Index i = 0; i < p.tensor->numel(); ++i) p.tensor->data()[i] = 0.3f * std::sin(v += 0.71f);
  return b;
}
Tensor<float> input() {
  Tensor<float> x = Tensor<float>::empty({1, 3, 8});
  for (Index i = 0; i < x.numel(); ++i) x.data()[i] = std::sin(0.9f * static_cast<float>(i));
  return x;
}
std::vector<std::string> keys(const std::string& path) {
  if (path == "attn.qkv.weight" || path == "attn.qkv.bias") {
    const std::string end = path.substr(8);
    return {"q" + end, "k" + end, "v" + end};
  }
  return {path};
}
}  // namespace

TEST_CASE("nn: paths of a block, and globs over them") {
  Block<float> b = block();
  std::string all;
  for (const Named<float>& p : parameters<float>(b)) all += p.name + ' ';
  CHECK(
      all ==
      "norm1.weight norm1.bias attn.qkv.weight attn.qkv.bias attn.proj.weight attn.proj.bias "
      "ls1.gamma "
      "norm2.weight norm2.bias mlp.fc1.weight mlp.fc1.bias mlp.fc2.weight mlp.fc2.bias ls2.gamma ");
  CHECK(matches("blocks.*.attn.qkv", "blocks.11.attn.qkv"));
  CHECK_FALSE(matches("blocks.*.qkv", "blocks.11.attn.qkv"));
  CHECK(matches("**.qkv", "blocks.11.attn.qkv"));
  CHECK_FALSE(matches("blocks", "blocks.1"));
  CHECK(require_grad<float>(b, "attn.**") == 8 * 24 + 24 + 64 + 8);
  CHECK(count_parameters<float>(b, true) == 8 * 24 + 24 + 64 + 8);
  freeze<float>(b);
  CHECK(count_parameters<float>(b, true) == 0);
}

TEST_CASE("nn: load is the inverse of save, fused rows and prefixes included") {
  Block<float> from = block(), to({.width = 8, .heads = 2, .hidden = 12, .layer_scale = true});
  const LoadOptions o{.ignored = {"extra.*"}, .keys_of = keys, .prefix = "model."};
  TensorMap map = save<float>(from, o);
  CHECK(map.count("model.q.weight") == 1);
  CHECK(map.at("model.k.bias").shape == Shape{8});
  map.emplace("extra.note", Tensor<float>::ones({1}));
  const LoadReport report = load<float>(to, map, o);
  CHECK(report.ignored == std::vector<std::string>{"extra.note"});
  CHECK(to(input()).values() == from(input()).values());
}

TEST_CASE("nn: a key table as data: stars, joined rows, rows of zeros that no file holds") {
  const BlockConfig config{.width = 8, .heads = 2, .hidden = 12, .key_bias = false};
  Block<float> from(config), to(config);
  for (Named<float>& p : parameters<float>(from))
    for (Index i = 0; i < p.tensor->numel(); ++i)
      p.tensor->data()[i] = 1 + 0.3f * std::sin(0.71f * static_cast<float>(i));
  const LoadOptions o{.table = {{"attn.qkv.bias", {"q.bias", "", "v.bias"}},
                                {"attn.qkv.*", {"q.*", "k.*", "v.*"}},
                                {"norm1.*", {"first.*.x"}}},
                      .prefix = "m."};
  const TensorMap map = save<float>(from, o);
  CHECK(map.count("m.k.weight") == 1);
  CHECK(map.count("m.k.bias") == 0);
  CHECK(map.count("m.") == 0);
  CHECK(map.at("m.v.bias").shape == Shape{8});
  CHECK(map.count("m.first.weight.x") == 1);
  CHECK(map.count("m.norm2.weight") == 1);
  CHECK(load<float>(to, map, o).tensors == static_cast<Index>(map.size()));
  const std::vector<float> bias = state<float>(to).at("attn.qkv.bias").as<float>().values();
  for (std::size_t i = 0; i < 24; ++i) CHECK((bias[i] == 0) == (i >= 8 && i < 16));
  // Training never moves the rows that are not there, whatever the optimizer would do with them.
  require_grad<float>(to, "attn.qkv.bias");
  backward(sum(to(input())));
  for (const Named<float>& p : parameters<float>(to))
    if (p.name == "attn.qkv.bias") {
      const std::vector<float> g = p.tensor->grad().values();
      for (std::size_t i = 0; i < 24; ++i) CHECK((g[i] == 0) == (i >= 8 && i < 16));
    }
}

TEST_CASE("nn: load says everything that does not fit, and changes nothing") {
  Block<float> b = block();
  const std::vector<float> before = b(input()).values();
  TensorMap map = save<float>(b);
  map.erase("ls1.gamma");
  map["norm1.bias"] = Tensor<float>::ones({9});
  map["norm2.bias"] = Tensor<std::int64_t>::ones({8});
  map["stranger"] = Tensor<float>::ones({1});
  map["norm1.weight"] = Tensor<float>::ones({8});
  CHECK(scratch::message_of([&] { load<float>(b, map); }) ==
        "load: the weights do not fit the model; 1 missing: ls1.gamma; 1 of another shape: "
        "norm1.bias "
        "(expected (8), found (9)); 1 not of a floating type: norm2.bias (I64); 1 unexpected: "
        "stranger");
  CHECK(b(input()).values() == before);
}

TEST_CASE("nn: load hints at the nearest name, and at a prefix that the whole file has") {
  Block<float> b = block();
  TensorMap map = save<float>(b);
  map["ls1.gama"] = map.at("ls1.gamma");
  map.erase("ls1.gamma");
  CHECK(scratch::message_of([&] { load<float>(b, map); }) ==
        "load: the weights do not fit the model; 1 missing: ls1.gamma (is it ls1.gama?); 1 "
        "unexpected: ls1.gama");
  TensorMap inside;
  for (const auto& [k, t] : save<float>(b)) inside["model.vit." + k] = t;
  const std::string m = scratch::message_of([&] { load<float>(b, inside); });
  CHECK(m.find("14 missing: norm1.weight, ") != std::string::npos);
  CHECK(
      m.ends_with("-> the file's names begin with \"model.vit.\": moraine convert --prefix "
                  "model.vit."));
}

TEST_CASE("nn: the account of a load names every key, also for who called from further out") {
  Block<float> from = block(), to({.width = 8, .heads = 2, .hidden = 12, .layer_scale = true});
  const LoadOptions o{.ignored = {"extra.*"}, .keys_of = keys};
  TensorMap map = save<float>(from, o);
  map.emplace("extra.note", Tensor<float>::ones({1}));
  map["norm1.weight"] = map.at("norm1.weight").as<double>();
  LoadReport all;
  {
    const LoadAccount account(&all);
    load<float>(to, map, o);
  }
  load<float>(to, map, o);  // nobody asks any more
  CHECK(all.tensors == 18);
  CHECK(all.used.size() == 18);
  CHECK(all.used[0] == "norm1.weight");
  CHECK(all.ignored == std::vector<std::string>{"extra.note"});
  CHECK(all.conversions == std::vector<std::string>{"norm1.weight: F64 -> F32"});
  CHECK(all.joined.size() == 2);
  CHECK(all.joined[0] == "attn.qkv.weight: q.weight + k.weight + v.weight");
  CHECK(all.shared == 0);
  CHECK(all.text(1) ==
        "used 18 (missing 0, unexpected 0), 0 of them in the file's memory\nignored 1\n  "
        "extra.note\nconverted 1\n  norm1.weight: F64 -> F32\nreshaped 0\njoined "
        "2\n  attn.qkv.weight: q.weight + k.weight + v.weight\n  ...\n");
}

TEST_CASE("nn: packed weights change no bit, and a replaced weight is noticed") {
  Block<float> b = block();
  const std::vector<float> plain = b(input()).values();
  prepare<float>(b);
  const std::vector<float> packed = b(input()).values();
  double worst = 0;
  for (std::size_t i = 0; i < plain.size(); ++i)
    worst = std::max(worst, std::abs(static_cast<double>(plain[i]) - packed[i]));
  CHECK(worst == 0);
  TensorMap map = save<float>(b);
  map["mlp.fc1.weight"] = Tensor<float>::zeros({12, 8});
  load<float>(b, map);
  Block<float> fresh = block();
  load<float>(fresh, map);
  CHECK(b(input()).values() == fresh(input()).values());
  CHECK(b(input()).values() != packed);
}

TEST_CASE("nn: round_bf16 rounds to nearest, ties to even, and lets the gradient through") {
  // 1 + 2^-8 lies between 1 and 1 + 2^-7; 1 + 3 * 2^-8 between 1 + 2^-7 and 1 + 2^-6.
  Tensor<float> x({4}, {1.0f, 1.00390625f, 1.01171875f, -3.14159265f});
  CHECK(round_bf16(x).values() == std::vector<float>{1.0f, 1.0f, 1.015625f, -3.140625f});
  x.requires_grad();
  backward(sum(round_bf16(x)));
  CHECK(x.grad().values() == std::vector<float>{1, 1, 1, 1});
}

TEST_CASE("nn: use_bf16 reaches every slot, changes no parameter, and can be undone") {
  for (Ffn ffn : {Ffn::mlp, Ffn::swiglu}) {
    Block<float> exact = block(ffn), rounded = block(ffn);
    const std::vector<float> before = exact(input()).values();
    inject<float>(rounded, "attn.qkv", lora({.rank = 2}));  // its B is zero
    use_bf16<float>(rounded);
    struct Count final : Visitor<float> {
      int all = 0, layers = 0;
      void parameter(const std::string&, Tensor<float>&) override {}
      void product(Product& p) override { all += 1, layers += p == Product::bf16; }
    } count;
    rounded.visit(count);
    CHECK(count.all == 5);  // four layers and what is between two of them
    CHECK(count.layers == count.all);
    const TensorMap a = state<float>(exact), b = state<float>(rounded);
    for (const auto& [name, t] : a)
      CHECK(t.as<float>().values() == b.at(name).as<float>().values());

    // Unpacked and packed, the same bits: rounding the operands is all there is to it.
    const std::vector<float> unpacked = rounded(input()).values();
    prepare<float>(rounded);
    CHECK(rounded(input()).values() == unpacked);
    const double d = fixtures::distance(AnyTensor(rounded(input())), AnyTensor(exact(input())));
    CHECK(d > 1e-6);
    CHECK(d < 1e-2);
    use_bf16<float>(rounded, Product::fp32);  // what is packed for bf16 is noticed
    CHECK(rounded(input()).values() == before);
  }
}

TEST_CASE(
    "nn: what was loaded belongs to the module; it shares the map's memory only where it may") {
  Block<float> a = block(), b = block(), c = block();
  load<float>(b, state<float>(a));
  load<float>(c, state<float>(a), {.may_share = true});
  parameters<float>(a)[0].tensor->data()[0] = 17;
  CHECK(parameters<float>(b)[0].tensor->data()[0] != 17);
  CHECK(parameters<float>(c)[0].tensor->data()[0] == 17);
}
