// Visitors, globs, loading with everything wrong in one message, packing, and observers.
#include <doctest/doctest.h>

#include <algorithm>
#include <moraine/models/dinov2.hpp>
#include <moraine/nn/observe.hpp>
#include <moraine/peft/inject.hpp>
#include <moraine/peft/lora.hpp>
#include <string>
#include <vector>

using namespace moraine;

namespace {
template <class F>
std::string message(F f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing was thrown";
}
Dinov2Config tiny() {
  return {.hidden_size = 8,
          .num_hidden_layers = 2,
          .num_attention_heads = 2,
          .image_size = 8,
          .patch_size = 4};
}
void fill(ViT<float>& v) {
  for (Named<float>& p : parameters<float>(v))
    init::normal(*p.tensor, 0.3, init::stream(2, p.name));
}
}  // namespace

TEST_CASE("globs over paths") {
  CHECK(matches("blocks.*.attn.qkv", "blocks.11.attn.qkv"));
  CHECK_FALSE(matches("blocks.*.attn.qkv", "blocks.11.attn.qkv.weight"));
  CHECK_FALSE(matches("blocks.*", "blocks.1.norm1"));
  CHECK(matches("blocks.**", "blocks.1.norm1.weight"));
  CHECK(matches("**.bias", "a.b.bias"));
  CHECK(matches("**", ""));
  CHECK(matches("a*c", "abc"));
  CHECK_FALSE(matches("a*c", "a.c"));
}

TEST_CASE("paths of parameters are the names of the original checkpoints") {
  ViT<float> v(vit_config(tiny()));
  std::vector<std::string> names;
  for (const Named<float>& p : parameters<float>(v)) names.push_back(p.name);
  CHECK(names[0] == "cls_token");
  CHECK(std::count(names.begin(), names.end(), "blocks.1.attn.qkv.weight") == 1);
  CHECK(std::count(names.begin(), names.end(), "blocks.0.ls2.gamma") == 1);
  CHECK(std::count(names.begin(), names.end(), "norm.bias") == 1);
  CHECK(count_parameters<float>(v) ==
        8 * 3 * 16 + 8 + 8 + 5 * 8 + 16 +
            2 * (4 * 8 + 2 * 8 + 24 * 8 + 24 + 64 + 8 + 32 * 8 + 32 + 32 * 8 + 8));
}

TEST_CASE("save and load are inverse, through the key table of the files") {
  ViT<float> a(vit_config(tiny())), b(vit_config(tiny()));
  fill(a);
  const TensorMap file = save<float>(a, dinov2_files());
  CHECK(file.count("encoder.layer.1.attention.attention.key.weight") == 1);
  CHECK(file.count("embeddings.patch_embeddings.projection.bias") == 1);
  load<float>(b, file, dinov2_files());
  const auto pa = parameters<float>(a), pb = parameters<float>(b);
  for (std::size_t i = 0; i < pa.size(); ++i)
    CHECK(pa[i].tensor->values() == pb[i].tensor->values());
}

TEST_CASE("one message names everything that does not fit, by the keys of the file") {
  ViT<float> v(vit_config(tiny()));
  fill(v);
  TensorMap file = save<float>(v, dinov2_files());
  file.erase("encoder.layer.0.attention.attention.key.weight");
  file["layernorm.weight"] = Tensor<float>::zeros({9});
  file["layernorm.bias"] = Tensor<std::int64_t>::zeros({8});
  file["surprise"] = Tensor<float>::zeros({1});
  ViT<float> w(vit_config(tiny()));
  const std::string said = message([&] { load<float>(w, file, dinov2_files()); });
  for (const char* part : {"1 missing: encoder.layer.0.attention.attention.key.weight",
                           "layernorm.weight (expected (8), found (9))", "layernorm.bias (I64)",
                           "1 unexpected: surprise"})
    CHECK_MESSAGE(said.find(part) != std::string::npos, said);
  // Nothing was changed.
  for (const Named<float>& p : parameters<float>(w))
    if (p.name == "norm.weight") CHECK(p.tensor->values() == std::vector<float>(8, 1.0f));
}

TEST_CASE("packed weights change no value, and a new weight is noticed") {
  ViT<float> v(vit_config(tiny()));
  fill(v);
  Tensor<float> x = Tensor<float>::empty({1, 3, 8, 8});
  init::normal(x, 1, Random(1, "x", 0));
  const auto before = v(x).values();
  prepare<float>(v);
  CHECK(v(x).values() == before);
  for (Named<float>& p : parameters<float>(v))
    if (p.name == "blocks.0.mlp.fc1.weight") *p.tensor = Tensor<float>::zeros(p.tensor->shape());
  CHECK(v(x).values() != before);
}

TEST_CASE("inject: LoRA starts as nothing, names its slots, and says so when none matches") {
  ViT<float> v(vit_config(tiny()));
  fill(v);
  Tensor<float> x = Tensor<float>::empty({1, 3, 8, 8});
  init::normal(x, 1, Random(1, "x", 0));
  const auto before = v(x).values();
  freeze<float>(v);
  CHECK(inject<float>(v, "blocks.*.attn.qkv", lora({.rank = 2})) ==
        std::vector<std::string>{"blocks.0.attn.qkv", "blocks.1.attn.qkv"});
  CHECK(v(x).values() == before);
  CHECK(count_parameters<float>(v, true) == 2 * (2 * 8 + 24 * 2));
  // The frozen weights keep their names, so files still load.
  CHECK(save<float>(v, dinov2_files()).count("encoder.layer.0.attention.attention.query.weight") ==
        1);
  CHECK_THROWS_WITH_AS(inject<float>(v, "blocks.*.attn.q", lora({})),
                       doctest::Contains("blocks.0.attn.qkv"), Error);
}

TEST_CASE("LoRA is W x + b + (alpha/r) B A x") {
  Linear<double> base(3, 2, true);
  init::normal(base.weight, 1, Random(1, "w", 0));
  init::normal(base.bias, 1, Random(2, "w", 0));
  const Tensor<double> w = base.weight, bias = base.bias;
  Lora<double> l(std::make_unique<Linear<double>>(std::move(base)), {.rank = 2, .alpha = 3}, "p");
  init::normal(l.b, 1, Random(3, "w", 0));
  const Tensor<double> x({1, 3}, {1, 2, 3});
  const Tensor<double> want = add(linear(x, w, bias), scale(linear(linear(x, l.a), l.b), 1.5));
  const auto got = l.run(x, {}).values();
  for (std::size_t i = 0; i < got.size(); ++i)
    CHECK(got[i] == doctest::Approx(want.values()[i]).epsilon(1e-14));
}

TEST_CASE("observers hear the path of a place, and nobody pays without one") {
  struct Hear final : Observer {
    std::vector<std::string> names;
    void observed(const std::string& name, const AnyTensor&) override { names.push_back(name); }
  } hear;
  {
    Scope a("blocks", 3);
    Scope b("attn");
    CHECK(scope_path() == "blocks.3.attn");
    observe("gate", Tensor<float>::zeros({1}));
    const Observing on(hear);
    observe("gate", Tensor<float>::zeros({1}));
  }
  CHECK(scope_path().empty());
  CHECK(hear.names == std::vector<std::string>{"blocks.3.attn.gate"});
}

TEST_CASE("nn: a layer takes one LoRA, and two tensors of one path are not saved as one") {
  Block<float> b({.width = 8, .heads = 2, .hidden = 12});
  inject<float>(b, "attn.qkv", lora({.rank = 2}));
  CHECK_THROWS_WITH(inject<float>(b, "attn.*", lora({.rank = 2})),
                    doctest::Contains("lora: the layer at \"attn.qkv\" has one already"));
  struct Twice {
    Tensor<float> x = Tensor<float>::ones({2}), y = Tensor<float>::ones({3});
    void visit(Visitor<float>& v) { v("x", x), v("x", y); }
  } twice;
  CHECK_THROWS_WITH(state<float>(twice), doctest::Contains("two tensors have the path \"x\""));
}
