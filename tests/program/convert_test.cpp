// `moraine convert`: weights of torch.save and of other publishers, without Python.
#include <doctest/doctest.h>

#include <cstring>

#include "run.hpp"

using namespace moraine;
using program::Words;

namespace {
program::Result convert(Words words) {
  words.insert(words.begin(), "convert");
  return program::run("moraine", words);
}
void converts(const Words& words, const Words& parts = {}) {
  const program::Result r = convert(words);
  INFO(r.out << r.err);
  REQUIRE(r.status == 0);
  CHECK(r.err.empty());
  for (const std::string& p : parts) CHECK_MESSAGE(r.out.find(p) != std::string::npos, p);
}
bool same_tensors(const TensorMap& a, const TensorMap& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [k, t] : a) {
    const auto at = b.find(k);
    if (at == b.end() || at->second.shape != t.shape || at->second.dtype != t.dtype ||
        std::memcmp(at->second.data, t.data, t.bytes) != 0)
      return false;
  }
  return true;
}
}  // namespace

TEST_CASE("convert: the authors' .pth becomes a directory that encode reads") {
  if (!program::is_built()) return;
  const scratch::Dir dir, out;
  const std::string names = fixtures::dir() + "/names_dinov2/";
  converts({names + "meta.pth", dir / "model.safetensors", "--to", "hf", "--heads", "2",
            "--account", out / "account.json"},
           {"torch zip", "dinov2 in the names of meta", "renamed      35", "config.json"});
  CHECK(same_tensors(read_safetensors(dir / "model.safetensors").tensors,
                     read_safetensors(names + "hf.safetensors").tensors));
  const Json account = read_json(out / "account.json");
  CHECK(account.at("recognised").as_string() == "dinov2 in the names of meta");
  CHECK(account.at("renamed").at("norm.weight").as_string() == "layernorm.weight");
  CHECK(account.at("renamed").as_object().size() == 35);
  write_safetensors(dir / "in.safetensors",
                    {{"pixel_values", AnyTensor(Tensor<float>::ones({1, 3, 16, 16}))}});
  const program::Result r = program::run(
      "encode", {"--model", dir.path, "--input", dir / "in.safetensors", "--output", out / "o"});
  INFO(r.err);
  CHECK(r.status == 0);
}

TEST_CASE("convert: there and back gives the same features, byte for byte") {
  if (!program::is_built()) return;
  const std::string from = fixtures::dir() + "/dinov2_registers/";
  const scratch::Dir dir, out;
  converts({from, dir / "meta.safetensors", "--to", "meta"});
  converts({dir / "meta.safetensors", out / "model.safetensors", "--to", "hf", "--heads", "3"});
  for (const char* where : {"a", "b"}) {
    const program::Result r =
        program::run("encode", {"--model", where[0] == 'a' ? from : out.path, "--input",
                                from + "in_wide.safetensors", "--output", dir / where});
    INFO(r.err);
    REQUIRE(r.status == 0);
  }
  CHECK(read_file(dir / "a") == read_file(dir / "b"));
}

TEST_CASE("convert: element types, prefixes, parts, names to leave out") {
  if (!program::is_built()) return;
  const std::string torch = fixtures::dir() + "/torch/";
  const scratch::Dir dir;
  converts({torch + "lightning.ckpt", dir / "a", "--prefix", "model.", "--dtype", "bf16", "--drop",
            "norm.*"},
           {"part \"state_dict\"", "converted    3"});
  const SafetensorsFile a = read_safetensors(dir / "a");
  CHECK(a.tensors.size() == 3);
  CHECK(a.tensors.at("fc.weight").dtype == Dtype::bf16);
  CHECK(a.metadata.at("source") == "lightning.ckpt");
  converts({torch + "teacher.pth", dir / "b", "--select", "student"}, {"part \"student\""});
  converts({torch + "teacher.pth", dir / "c"}, {"other parts  student"});
  CHECK(!same_tensors(read_safetensors(dir / "b").tensors, read_safetensors(dir / "c").tensors));
  converts({torch + "refuse_code.pth", dir / "d", "--pass-over", "posix.*"}, {"no tensors   y"});
  // Over itself: the file that is read stays whole until the new one is.
  converts({dir / "b", dir / "b", "--dtype", "f16"});
  CHECK(read_safetensors(dir / "b").tensors.at("fc.weight").dtype == Dtype::f16);
}

TEST_CASE("convert: an existing config.json is not replaced") {
  if (!program::is_built()) return;
  const scratch::Dir dir;
  const std::string file = fixtures::dir() + "/names_dinov2/meta.safetensors";
  write_file(dir / "config.json", "{}");
  const program::Result r =
      convert({file, dir / "model.safetensors", "--to", "hf", "--heads", "2"});
  CHECK(r.status == 1);
  CHECK(program::is_one_line(r.err));
  CHECK(r.err.find("config.json\" is there already") != std::string::npos);
  CHECK(scratch::list(dir.path).size() == 1);
  converts({file, dir / "model.safetensors", "--to", "hf", "--no-config"});
  CHECK(read_file(dir / "config.json") == "{}");
}

TEST_CASE("info: family, sizes, statistics and licence of weights") {
  if (!program::is_built()) return;
  const auto tells = [](const Words& words, const Words& parts) {
    const program::Result r = program::run("moraine", words);
    INFO(r.out << r.err);
    CHECK(r.status == 0);
    for (const std::string& p : parts) CHECK_MESSAGE(r.out.find(p) != std::string::npos, p);
  };
  const std::string dir = fixtures::dir();
  tells({"info", dir + "/names_dinov2/meta.pth"},
        {"PyTorch (torch zip)", "dinov2 in the names of meta", "none of the published sizes",
         "width 16, 2 blocks, hidden 64, patch 4, trained at 16"});
  tells({"info", dir + "/dinov2_plain"}, {"a model directory", "model_type     dinov2"});
  tells({"info", dir + "/torch/teacher.pth", "--select", "student"}, {"part           student"});
  // The sizes of a published model, as views of a few bytes would have them: names and shapes only.
  const scratch::Dir out;
  Tensor<float> odd({6}, {1, 2, 3, std::nanf(""), -std::numeric_limits<float>::infinity(), 6});
  write_safetensors(out / "x.safetensors", {{"a.b.weight", odd}, {"a.c", Tensor<float>::ones({2})}},
                    {{"license", "cc-by-4.0"}});
  tells({"info", out / "x.safetensors"},
        {"licence        cc-by-4.0", "1 NaN, 1 infinite", "    b.weight", "not recognised"});
  write_file(out / "README.md", "---\nlicense: apache-2.0\ntags: []\n---\n# Model\n");
  write_safetensors(out / "y.safetensors", {{"a", Tensor<float>({4}, {1, 2, 3, 6})}});
  tells({"info", out / "y.safetensors"}, {"licence        apache-2.0", "3       1.871", "6"});
}
