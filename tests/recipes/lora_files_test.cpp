// LoRA in peft's files: adapters that peft wrote give peft's outputs, and are written as they were
// read (scripts/make_lora_fixtures.py; its --check loads what MORAINE_LORA_OUT received into peft).
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <cstring>
#include <moraine/peft/inject.hpp>
#include <moraine/recipes/lora_files.hpp>
#include <moraine/recipes/pretrained.hpp>
#include <string>

#include "fixtures.hpp"
#include "tree.hpp"

using namespace moraine;

namespace {
std::string base_of(const std::string& dir) {
  std::string base = read_file(dir + "/base.txt");
  while (!base.empty() && base.back() == '\n') base.pop_back();
  return fixtures::dir() + "/" + base;
}
TensorMap outputs_of(Backbone<float>& b, const std::string& base) {
  NoGrad off;
  BackboneInput<float> in;
  in.pixels = read_safetensors(base + "/in.safetensors").tensors.at("pixel_values").as<float>();
  return b.forward(in).named();
}
/// The worst distance over the tensors that the reference has.
double worst_of(const TensorMap& got, const TensorMap& ref) {
  double worst = 0;
  for (const auto& entry_name : ref) {
    const auto& name = entry_name.first;
    const auto& t = entry_name.second;
    REQUIRE(got.count(name) == 1);
    worst = std::max(worst, fixtures::distance(got.at(name), t));
  }
  return worst;
}
const char* names_in(const std::string& dir) {
  for (const char* n : {"dinov2", "dinov3", "clip", "sam", "eva02"})
    if (base_name(dir).rfind(std::string("lora_") + n, 0) == 0) return n;
  return "trunk";
}
/// The words in front of the modules in peft's file.
std::string prefix_of_modules(const std::string& dir) {
  const std::string name = names_in(dir);
  const std::string module = read_lora(dir).modules.begin()->first;
  const char* first = name == "clip" || name == "dinov2" ? "encoder."
                      : name == "dinov3"                 ? "layer."
                      : name == "sam"                    ? "layers."
                                                         : "blocks.";
  return module.substr(0, module.find(first));
}
}  // namespace

TEST_CASE("lora files: an adapter of peft gives peft's outputs in every family") {
  const auto dirs = fixtures::folders("lora_");
  REQUIRE(dirs.size() == 6);
  for (const std::string& dir : dirs) {
    INFO(dir);
    const std::string base = base_of(dir);
    const TensorMap ref = read_safetensors(dir + "/ref.safetensors").tensors;
    auto model = load_pretrained<float>(base);
    CHECK(worst_of(outputs_of(*model, base), ref) > 0.1);  // without it, something else
    const LoraReport report = apply_lora<float>(*model, read_lora(dir));
    CHECK(report.modules.size() >= report.slots.size());
    const double worst = worst_of(outputs_of(*model, base), ref);
    std::printf("  %-20s %zu modules in %zu layers, %.1e\n", base_name(dir).c_str(),
                report.modules.size(), report.slots.size(), worst);
    CHECK(worst <= 1e-5);
  }
}

TEST_CASE("lora files: what was read is written as it was, and read again the same") {
  const char* out = std::getenv("MORAINE_LORA_OUT");
  for (const std::string& dir : fixtures::folders("lora_")) {
    INFO(dir);
    const scratch::Tree scratch_dir;
    const std::string folder =
        (out ? std::string(out) : scratch_dir.path) + "/" + base_name(dir).substr(5);
    mkdir(folder.c_str(), 0777);
    auto model = load_pretrained<float>(base_of(dir));
    apply_lora<float>(*model, read_lora(dir));
    LoraAdapter mine = collect_lora<float>(*model, names_in(dir), prefix_of_modules(dir));
    mine.fingerprint = "0123456789abcdef";
    write_lora(folder, mine);
    const TensorMap a = read_safetensors(folder + "/adapter_model.safetensors").tensors,
                    b = read_safetensors(dir + "/adapter_model.safetensors").tensors;
    REQUIRE(a.size() == b.size());
    for (const auto& entry_key : b) {
      const auto& key = entry_key.first;
      const auto& t = entry_key.second;
      INFO(key);
      REQUIRE(a.count(key) == 1);
      CHECK(a.at(key).shape == t.shape);
    }
    // A scale that differs within one fused layer (ranks, alpha_pattern) moves into B.
    const LoraAdapter again = read_lora(folder), theirs = read_lora(dir);
    for (const auto& entry_module : theirs.modules) {
      const auto& module = entry_module.first;
      const auto& p = entry_module.second;
      INFO(module);
      const LoraPair& q = again.modules.at(module);
      CHECK(fixtures::distance(q.a, p.a) == 0);
      const Tensor<float> x = q.b.as<float>(), y = p.b.as<float>();
      for (Index i = 0; i < x.numel(); ++i)
        CHECK(std::abs(q.scale * x.data()[i] - p.scale * y.data()[i]) <= 1e-6);
    }
    CHECK(again.fingerprint == mine.fingerprint);
    auto second = load_pretrained<float>(base_of(dir));
    apply_lora<float>(*second, again);
    const double worst = worst_of(outputs_of(*second, base_of(dir)),
                                  read_safetensors(dir + "/ref.safetensors").tensors);
    CHECK(worst <= 1e-5);
  }
}

TEST_CASE("lora files: one adapter on the fused layer becomes three that share an A") {
  const std::string base = fixtures::dir() + "/dinov2_plain";
  auto model = load_pretrained<float>(base);
  inject<float>(*model, "blocks.*.attn.qkv", lora({.rank = 3, .seed = 5}));
  // Untrained: all of it travels, though B is zero.
  CHECK(collect_lora<float>(*model, "dinov2").modules.size() == 9);
  for (Named<float>& p : parameters<float>(*model))
    if (p.name.ends_with("lora_B"))
      for (Index i = 0; i < p.tensor->numel(); ++i)
        p.tensor->data()[i] = 0.2f * std::sin(0.7f * static_cast<float>(i));
  const TensorMap expected = outputs_of(*model, base);
  const LoraAdapter all = collect_lora<float>(*model, "dinov2");
  CHECK(all.modules.size() == 9);
  const auto& q = all.modules.at("encoder.layer.1.attention.q_proj");
  const auto& v = all.modules.at("encoder.layer.1.attention.v_proj");
  CHECK(q.a.shape == Shape{3, 24});
  CHECK(std::memcmp(q.a.data, v.a.data, q.a.bytes) == 0);
  CHECK(collect_lora<float>(*model, "dinov2_transformers4")
            .modules.count("encoder.layer.0.attention.attention.key") == 1);
  auto second = load_pretrained<float>(base);
  const LoraReport report = apply_lora<float>(*second, all);
  CHECK(report.fused.size() == 3);
  CHECK(worst_of(outputs_of(*second, base), expected) <= 1e-6);
  for (const Named<float>& p : parameters<float>(*second))
    if (p.name.ends_with("lora_A")) CHECK(p.tensor->shape() == Shape{3, 24});  // not nine rows
}

TEST_CASE("lora files: what does not fit is an error that names it, and changes nothing") {
  const std::string dir = fixtures::dir() + "/lora_dinov2_qv", base = fixtures::dir() + "/";
  auto model = load_pretrained<float>(base + "dinov2_plain");
  const LoraAdapter good = read_lora(dir);
  const auto message = [&](const LoraAdapter& a, const std::string& print = "") {
    return scratch::message_of([&] { apply_lora<float>(*model, a, print); });
  };
  LoraAdapter bad = good;
  bad.modules["encoder.layer.7.attention.q_proj"] = good.modules.begin()->second;
  CHECK(scratch::contains(message(bad), "no layer for encoder.layer.7.attention.q_proj"));
  bad = good;
  bad.modules.begin()->second.a = Tensor<float>::ones({3, 7});
  CHECK(scratch::contains(message(bad), "is of another size; lora_A (3,7)"));
  bad = good;
  bad.fingerprint = "aaaa";
  CHECK(
      scratch::contains(message(bad, "bbbb"), "trained on another base; its fingerprint is aaaa"));
  bad = good;
  bad.modules["other.encoder.layer.0.attention.q_proj"] = good.modules.begin()->second;
  CHECK(scratch::contains(message(bad), "are both blocks.0.attn.qkv"));
  for (const Named<float>& p : parameters<float>(*model))
    CHECK(p.name.find("lora_") == std::string::npos);
  apply_lora<float>(*model, good);
  CHECK(scratch::contains(message(good), "has one already"));

  const scratch::Tree t;
  const auto refused = [&](const char* field, const Json& value, const char* part) {
    Json c = read_json(dir + "/adapter_config.json");
    c.set(field, value);
    write_json(t / "adapter_config.json", c);
    const std::string m = scratch::message_of([&] { read_lora(t.path); });
    INFO(m);
    CHECK(scratch::contains(m, "adapter_config.json"));
    CHECK(scratch::contains(m, part));
  };
  write_file(t / "adapter_model.safetensors", read_file(dir + "/adapter_model.safetensors"));
  refused("use_dora", true, "use_dora");
  refused("peft_type", "IA3", "peft_type");
  refused("bias", "all", "bias");
  refused("lora_alpha", "6", "lora_alpha");
  refused("lora_alpha", -1, "lora_alpha");
  refused("modules_to_save", Json::array({"classifier"}), "modules_to_save");
  refused("alpha_pattern", parse_json(R"({"^x$": 1})"), "regular expression");
  write_file(t / "adapter_config.json", read_file(dir + "/adapter_config.json"));
  TensorMap map = read_safetensors(dir + "/adapter_model.safetensors", {.map = false}).tensors;
  const std::string key = map.begin()->first;
  map.erase(key);
  write_safetensors(t / "adapter_model.safetensors", map);
  CHECK(scratch::contains(scratch::message_of([&] { read_lora(t.path); }),
                          key.substr(17) + " is missing"));
}
