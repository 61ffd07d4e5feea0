// A model's directory before its family is known, and the pages of its file.
#include <doctest/doctest.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <moraine/recipes/backbones/dinov2.hpp>

#include "../fixtures.hpp"

using namespace moraine;

namespace {
/// Of a file whose size the system does not say.
std::string all_of(const char* path) {
  std::string out;
  std::FILE* f = std::fopen(path, "r");
  REQUIRE(f != nullptr);
  char part[4096];
  for (std::size_t n; (n = std::fread(part, 1, sizeof part, f)) > 0;) out.append(part, n);
  std::fclose(f);
  return out;
}
/// How much of a file's mapping this process holds, in kB: the line "Rss:" of its entry.
unsigned long held(const MappedFile& file) {
  const std::string smaps = all_of("/proc/self/smaps");
  char begin[32];
  std::snprintf(begin, sizeof begin, "%lx-",
                static_cast<unsigned long>(reinterpret_cast<std::uintptr_t>(file.data())));
  const std::size_t at = smaps.find(begin);
  REQUIRE(at != std::string::npos);
  const std::size_t rss = smaps.find("Rss:", at);
  REQUIRE(rss != std::string::npos);
  return std::strtoul(smaps.c_str() + rss + 4, nullptr, 10);
}
}  // namespace

TEST_CASE("model directory: pages of the file are given back, and come back with the same bytes") {
  const std::string dir = fixtures::dir() + "/dinov2_plain";
  const Pretrained p = open_pretrained(dir);
  REQUIRE(p.weights.files.size() == 1);
  const MappedFile& file = *p.weights.files[0];
  const std::string before(reinterpret_cast<const char*>(file.data()), file.size());
  CHECK(held(file) > 0);
  p.weights.forget_pages();
  CHECK(held(file) == 0);
  CHECK(before == std::string(reinterpret_cast<const char*>(file.data()), file.size()));
  // A file that was copied into memory keeps it.
  const SafetensorsFile copied = read_safetensors(dir + "/model.safetensors", {.map = false});
  copied.forget_pages();
  CHECK(before == std::string(reinterpret_cast<const char*>(copied.files[0]->data()),
                              copied.files[0]->size()));
  // All shards of a model.
  CHECK(open_pretrained(fixtures::dir() + "/dinov2_sharded").weights.files.size() == 4);
}

TEST_CASE("model directory: packing that gives pages back changes no bit and keeps the weights") {
  const Pretrained p = open_pretrained(fixtures::dir() + "/dinov2_plain");
  ViT<float> plain = open_dinov2<float>(p), mapped = open_dinov2<float>(p);
  prepare<float>(plain);
  prepare_mapped<float>(mapped, p.weights);
  const Tensor<float> x = Tensor<float>::ones({1, 3, 28, 35});
  CHECK(mapped(x).values() == plain(x).values());
  const TensorMap a = state<float>(plain), b = state<float>(mapped);
  for (const auto& [name, t] : a) CHECK(fixtures::distance(b.at(name), t) == 0);
  CHECK(held(*p.weights.files[0]) > 0);  // state() looked
}

TEST_CASE("model directory: weights that are neither F32, F16 nor BF16 are named") {
  Pretrained p = open_pretrained(fixtures::dir() + "/dinov2_plain");
  p.weights.tensors["layernorm.bias"] = Tensor<double>::ones({24});
  p.weights.tensors["embeddings.mask_token"] = Tensor<double>::ones({24});
  try {
    open_dinov2<float>(p);
    FAIL("no error");
  } catch (const Error& e) {
    CHECK(std::string(e.what()).find("weights must be F32, F16 or BF16; 1 are not: layernorm.bias "
                                     "(F64)") != std::string::npos);
  }
}
