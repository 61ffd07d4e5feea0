// Names of one publisher into those of another, against files that the publishers' own code made or
// read (scripts/make_names_fixtures.py).
#include <doctest/doctest.h>

#include <cstring>
#include <moraine/io/safetensors.hpp>
#include <moraine/recipes/convert.hpp>
#include <moraine/recipes/weight_sizes.hpp>
#include <string>
#include <vector>

#include "fixtures.hpp"

using namespace moraine;

namespace {
struct NamesCase {
  std::string family, folder;
  std::map<Naming, TensorMap> files;
};
std::vector<NamesCase> names_cases() {
  std::vector<NamesCase> out;
  for (const std::string& dir : fixtures::folders("names_")) {
    NamesCase c{dir.substr(dir.rfind("names_") + 6), dir, {}};
    for (int n = 0; n < namings; ++n) {
      const std::string file = dir + "/" + name_of(static_cast<Naming>(n)) + ".safetensors";
      if (is_file(file)) c.files[static_cast<Naming>(n)] = read_safetensors(file).tensors;
    }
    out.push_back(std::move(c));
  }
  return out;
}
bool same_bytes(const AnyTensor& a, const AnyTensor& b) {
  return a.shape == b.shape && a.dtype == b.dtype && a.bytes == b.bytes &&
         (a.bytes == 0 || std::memcmp(a.data, b.data, a.bytes) == 0);
}
/// What one naming has and another cannot give back.
bool may_lack(const std::string& key) {
  for (const char* end : {"mask_token", "rope_embed.periods", "bias_mask", "_mean", "_std"})
    if (key.ends_with(end)) return true;
  return false;
}
}  // namespace

TEST_CASE("convert: every family is recognised in every naming") {
  const auto cases = names_cases();
  REQUIRE(cases.size() == 11);
  for (const NamesCase& c : cases)
    for (const auto& entry_naming : c.files) {
      const auto& naming = entry_naming.first;
      const auto& map = entry_naming.second;
      INFO(c.family << " " << std::string(name_of(naming)));
      const RecognisedWeights r = recognise_weights(map);
      REQUIRE(r.family);
      std::string expected = c.family;
      for (const char* word : {"_registers", "_zero_bias"})
        if (const std::size_t at = expected.find(word); at != std::string::npos)
          expected.resize(at);
      if (expected.rfind("prompt_", 0) == 0) expected = expected.substr(7);
      CHECK(r.family->name == expected);
      // The same names in both: dinov2 without a mask token.
      if (!(c.family == "dinov2" && naming == Naming::timm)) CHECK(r.naming == naming);
      CHECK(r.prefix ==
            (c.family == "prompt_depth_anything" && naming == Naming::meta ? "pipeline." : ""));
    }
}

TEST_CASE("convert: from every naming into every other, tensor by tensor") {
  int pairs = 0;
  for (const NamesCase& c : names_cases())
    for (const auto& entry_from : c.files)
      for (const auto& entry_to : c.files) {
        const auto& [from_name, source] = entry_from;
        const Naming from = from_name, to = entry_to.first;
        const TensorMap& target = entry_to.second;
        INFO(c.family << ": " << std::string(name_of(from)) << " -> " << std::string(name_of(to)));
        ++pairs;
        const Converted got = convert_weights(source, {.rename = true, .to = to});
        const std::string prefix =
            to == Naming::meta && c.family == "prompt_depth_anything" ? "pipeline." : "";
        // timm's cls_token holds the position of CLS: only the sum can come back.
        const bool folded = c.family == "dinov2_registers" && from == Naming::timm && to != from;
        for (const auto& entry_key : got.tensors) {
          const auto& key = entry_key.first;
          const auto& t = entry_key.second;
          INFO(key);
          REQUIRE(target.count(prefix + key) == 1);
          const AnyTensor& expected = target.at(prefix + key);
          const bool position =
              key.find("cls_token") != std::string::npos || key.find("pos") != std::string::npos;
          if (folded && position)
            CHECK(t.shape == expected.shape);
          else
            CHECK(same_bytes(t, expected));
        }
        for (const auto& entry_key : target) {
          const auto& key = entry_key.first;
          INFO(key);
          const bool zero = c.family == "dinov3_zero_bias" && from == Naming::timm &&
                            (key.find("q_proj.bias") + 1 || key.find("v_proj.bias") + 1 ||
                             key.find("qkv.bias") + 1);
          CHECK((got.tensors.count(key.substr(prefix.size())) == 1 || may_lack(key) || zero));
        }
        if (folded) {
          const bool hf = to == Naming::hf;
          const std::string cls = hf ? "embeddings.cls_token" : "cls_token",
                            pos = hf ? "embeddings.position_embeddings" : "pos_embed";
          const auto values = [&](const TensorMap& m, const std::string& k) {
            return m.at(k).as<float>().values();
          };
          const auto c1 = values(got.tensors, cls), p1 = values(got.tensors, pos),
                     c2 = values(target, cls), p2 = values(target, pos);
          for (std::size_t i = 0; i < c1.size(); ++i) CHECK(c1[i] + p1[i] == c2[i] + p2[i]);
          for (std::size_t i = c1.size(); i < p1.size(); ++i) CHECK(p1[i] == p2[i]);
        }
        // Every tensor of the source is accounted for.
        std::size_t told = got.report.kept.size() + got.report.dropped.size();
        for (const auto& entry_olds : got.report.renamed) {
          const auto& olds = entry_olds.first;
          ++told;
          for (std::size_t at = olds.find(" + "); at != std::string::npos;
               at = olds.find(" + ", at + 1))
            ++told;
        }
        CHECK(told == source.size());
      }
  CHECK(pairs == 8 * 9 + 3 * 4);
}

TEST_CASE("convert: prefixes, towers saved alone, chunks of blocks, heads") {
  TensorMap hf, meta;
  for (const NamesCase& c : names_cases()) {
    if (c.family == "clip") hf = c.files.at(Naming::hf);
    if (c.family == "dinov2") meta = c.files.at(Naming::meta);
  }
  TensorMap bare, chunked, inside;
  for (const auto& [k, t] : hf) bare[k.rfind("vision_model.", 0) == 0 ? k.substr(13) : k] = t;
  const Converted a = convert_weights(hf, {.rename = true, .to = Naming::meta});
  const Converted b = convert_weights(bare, {.rename = true, .to = Naming::meta});
  CHECK(b.report.from.bare);
  REQUIRE(a.tensors.size() == b.tensors.size());
  for (const auto& [k, t] : a.tensors) CHECK(same_bytes(t, b.tensors.at(k)));
  for (const auto& entry_k : meta) {
    const auto& k = entry_k.first;
    const auto& t = entry_k.second;
    std::string name = k;
    if (name.rfind("blocks.", 0) == 0) name = "blocks.3." + name.substr(7);
    chunked["teacher.backbone." + name] = t;
    inside["teacher.backbone." + name] = t;
  }
  inside["teacher.dino_head.mlp.0.weight"] = Tensor<float>::ones({2});
  const Converted c = convert_weights(chunked, {.rename = true, .to = Naming::hf});
  CHECK(c.report.from.prefix == "teacher.backbone.");
  CHECK(c.tensors.count("encoder.layer.1.mlp.fc1.weight") == 1);
  const Converted d = convert_weights(inside, {.rename = true, .to = Naming::hf});
  CHECK(d.report.dropped.size() == 1);
  CHECK(d.tensors.size() == c.tensors.size());
}

TEST_CASE("convert: what state_dict() of transformers 5 calls DINOv2's projections") {
  TensorMap hf, memory;
  for (const NamesCase& c : names_cases())
    if (c.family == "dinov2") hf = c.files.at(Naming::hf);
  struct Pair {
    const char *file, *memory;
  };
  for (const auto& entry : hf) {
    std::string name = entry.first;
    for (const Pair& p : {Pair{"attention.attention.query", "attention.q_proj"},
                          Pair{"attention.attention.key", "attention.k_proj"},
                          Pair{"attention.attention.value", "attention.v_proj"},
                          Pair{"attention.output.dense", "attention.o_proj"}}) {
      const std::string file = p.file;
      const std::size_t at = name.find(file);
      if (at != std::string::npos) name.replace(at, file.size(), p.memory);
    }
    memory[name] = entry.second;
  }
  REQUIRE(memory.count("encoder.layer.0.attention.q_proj.weight") == 1);
  const Converted back = convert_weights(memory, {.rename = true, .to = Naming::hf});
  CHECK(back.report.from.what() == recognise_weights(hf).what());
  REQUIRE(back.tensors.size() == hf.size());
  for (const auto& entry : hf) CHECK(same_bytes(back.tensors.at(entry.first), entry.second));
  // The account has the names that were in the file.
  std::size_t names = back.report.kept.size();
  CHECK(!back.report.renamed.empty());
  for (const auto& entry : back.report.renamed) {
    CHECK(entry.first.find("_proj.") != std::string::npos);
    for (std::size_t at = 0; at != std::string::npos; at = entry.first.find(" + ", at + 1)) ++names;
  }
  CHECK(names == hf.size());
  const Converted meta = convert_weights(memory, {.rename = true, .to = Naming::meta});
  CHECK(meta.tensors.count("blocks.1.attn.qkv.weight") == 1);
}

TEST_CASE("convert: a classifier's bias does not vanish unsaid") {
  TensorMap map;
  for (const NamesCase& c : names_cases())
    if (c.family == "clip") map = c.files.at(Naming::timm);
  for (float bias : {0.0f, 0.1f}) {
    map["head.bias"] = Tensor<float>({10}, std::vector<float>(10, bias));
    const Converted c = convert_weights(map, {.rename = true, .to = Naming::hf});
    CHECK(c.report.notes.size() == (bias == 0 ? 0 : 1));
    CHECK(c.report.dropped.size() == 1);
  }
}

TEST_CASE("convert: what does not fit is an error that names it") {
  TensorMap map, eva;
  for (const NamesCase& c : names_cases()) {
    if (c.family == "dinov2") map = c.files.at(Naming::hf);
    if (c.family == "eva02") eva = c.files.at(Naming::timm);
  }
  const auto message = [](const TensorMap& m,
                          ConvertOptions o = {.rename = true, .to = Naming::meta}) {
    return scratch::message_of([&] { convert_weights(m, o); });
  };
  TensorMap odd = map;
  const std::string key = "encoder.layer.1.attention.attention.key.weight";
  odd.erase(key);
  CHECK(scratch::contains(message(odd), key + " is missing beside"));
  odd[key] = Tensor<float>::ones({3, 16});
  CHECK(scratch::contains(message(odd), "are parts of one tensor and differ; (16,16) and (3,16)") !=
        scratch::contains(message(odd), "are parts of one tensor and differ; (3,16) and (16,16)"));
  odd = map;
  odd["stranger.weight"] = Tensor<float>::ones({1});
  CHECK(scratch::contains(message(odd),
                          "1 names are not of dinov2 in the names of hf; "
                          "stranger.weight -> leave them out with --drop"));
  CHECK(message(odd, {.rename = true, .to = Naming::meta, .drop = {"stranger.*"}}).empty());
  CHECK(scratch::contains(message({{"a", Tensor<float>::ones({1})}}), "is not recognised"));
  CHECK(scratch::contains(message(eva, {.rename = true, .to = Naming::hf}),
                          "eva02 has no names of hf"));
  CHECK(scratch::contains(message(map, {.prefix = "nobody."}), "nothing is left"));
}

TEST_CASE("convert: element types, and values that do not fit them") {
  TensorMap map{{"w", Tensor<float>({3}, {1.0f, 1e6f, -3.5f})},
                {"n", Tensor<std::int64_t>::ones({2})}};
  const Converted half = convert_weights(map, {.convert = true, .dtype = Dtype::f16});
  CHECK(half.tensors.at("w").dtype == Dtype::f16);
  CHECK(half.tensors.at("n").dtype == Dtype::i64);
  CHECK(half.report.converted == std::vector<std::string>{"w"});
  REQUIRE(half.report.notes.size() == 1);
  CHECK(half.report.notes[0] == "1 values of w are too large for F16 and became infinite");
  const Converted b = convert_weights(map, {.convert = true, .dtype = Dtype::bf16});
  CHECK(b.report.notes.empty());
  CHECK(b.tensors.at("w").as<float>().values() == std::vector<float>{1, 999424, -3.5f});
}

TEST_CASE("convert: sizes are read off the weights, and are the same in every naming") {
  for (const NamesCase& c : names_cases())
    for (const auto& entry_naming : c.files) {
      const auto& naming = entry_naming.first;
      const auto& map = entry_naming.second;
      INFO(c.family << " " << std::string(name_of(naming)));
      const WeightSizes s = weight_sizes(map, recognise_weights(map));
      CHECK(s.complete);
      CHECK(s.width == 16);
      CHECK(s.depth == (c.family.ends_with("depth_anything") ? 4 : 2));
      CHECK(s.patch == 4);
      CHECK(s.channels == 3);
      CHECK(s.grid == (c.family.rfind("dinov3", 0) == 0 ? 0 : c.family == "sam" ? 6 : 4));
      CHECK(s.registers == (c.family == "dinov2_registers"     ? 3
                            : c.family.rfind("dinov3", 0) == 0 ? 4
                                                               : 0));
      CHECK(s.preset.empty());
      // Heads of 64 channels are what is published; SAM's tables tell them.
      CHECK(s.heads == (c.family == "sam" ? 2 : 0));
    }
}
