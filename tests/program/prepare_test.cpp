// `moraine prepare`: with `encode` it is Python's whole way from a picture; and every way to fail.
#include <doctest/doctest.h>

#include "run.hpp"

using namespace moraine;
using program::Words;

namespace {

/// A model's directory, pictures, and a folder for the output.
struct PrepareCase {
  scratch::Dir model, out;
  std::string pictures = fixtures::dir() + "/processors";
  explicit PrepareCase(const std::string& config = "{\"model_type\": \"dinov2\"}") {
    write_file(model / "config.json", config);
  }
  std::string result() const { return out / "in.safetensors"; }
  program::Result run(const Words& more, bool image = true) const {
    Words all{"prepare", "--model", model.path, "--output", result()};
    if (image) all.insert(all.end(), {"--image", pictures + "/noise.png"});
    all.insert(all.end(), more.begin(), more.end());
    return program::run("moraine", all);
  }
  Tensor<float> pixels() const {
    return read_safetensors(result()).tensors.at("pixel_values").as<float>();
  }
  void check_failure(const program::Result& r, const Words& names) const {
    INFO("line: " << r.err);
    CHECK(r.status == 1);
    CHECK(program::is_one_line(r.err));
    CHECK(r.err.rfind("prepare: ", 0) == 0);
    for (const std::string& n : names) CHECK_MESSAGE(r.err.find(n) != std::string::npos, n);
    CHECK(scratch::list(out.path).empty());
  }
};

/// A PNG that is cut short.
void write_cut(const std::string& from, const std::string& to) {
  write_file(to, read_file(from).substr(0, 300));
}

}  // namespace

TEST_CASE("prepare and encode: from a picture to depth as in Python") {
  if (!program::is_built()) return;
  const std::string model = fixtures::dir() + "/depth_anything_sparse_config";
  const PrepareCase c;
  program::Result r =
      program::run("moraine", {"prepare", "--model", model, "--image", c.pictures + "/noise.png",
                               "--output", c.result(), "--size", "28"});
  INFO(r.err);
  REQUIRE(r.status == 0);
  const std::string depth = c.out / "out.safetensors";
  r = program::run("encode", {"--model", model, "--input", c.result(), "--output", depth});
  INFO(r.err);
  REQUIRE(r.status == 0);
  const auto ref = read_safetensors(c.pictures + "/pipeline.safetensors");
  CHECK(fixtures::distance(read_safetensors(depth).tensors.at("predicted_depth"),
                           ref.tensors.at("predicted_depth")) <= 1e-5);
}

TEST_CASE("prepare: batches, sizes, backends and further tensors") {
  if (!program::is_built()) return;
  {
    const PrepareCase c;
    REQUIRE(c.run({"--image", c.pictures + "/tall.png", "--size", "21"}, true).status == 0);
    CHECK(c.pixels().shape() == Shape{2, 3, 21, 21});
    const Tensor<float> both = c.pixels();
    REQUIRE(c.run({"--size", "21"}).status == 0);
    CHECK(c.pixels().shape() == Shape{1, 3, 21, 21});
    const Tensor<float> one = c.pixels();
    CHECK(std::equal(one.data(), one.data() + one.numel(), both.data()));
    REQUIRE(c.run({"--size", "14x35", "--backend", "pil"}).status == 0);
    CHECK(c.pixels().shape() == Shape{1, 3, 14, 35});
    const Tensor<float> pil = c.pixels();
    REQUIRE(c.run({"--size", "14x35", "--backend", "torchvision"}).status == 0);
    CHECK(fixtures::distance(pil, c.pixels()) > 0);
  }
  {
    const PrepareCase c("{\"model_type\": \"dofa\", \"img_size\": 32}");
    REQUIRE(c.run({}).status == 0);
    CHECK(c.pixels().shape() == Shape{1, 3, 32, 32});
    CHECK(read_safetensors(c.result()).tensors.at("wavelengths").as<float>().at({0}) == 0.665f);
    REQUIRE(c.run({"--wavelengths", "0.83,0.6,0.5"}).status == 0);
    CHECK(read_safetensors(c.result()).tensors.at("wavelengths").as<float>().at({0}) == 0.83f);
  }
  {
    const PrepareCase c("{\"model_type\": \"prompt_depth_anything\"}");
    REQUIRE(c.run({"--size", "28", "--prompt-depth", c.pictures + "/gray.png"}).status == 0);
    const auto all = read_safetensors(c.result()).tensors;
    CHECK(all.at("prompt_depth").shape == Shape{1, 1, 13, 18});
    CHECK(all.at("prompt_depth").as<float>().at({0, 0, 0, 0}) <= 0.255f);
  }
}

TEST_CASE("prepare: what it refuses, in one line and without output") {
  if (!program::is_built()) return;
  const PrepareCase c;
  const program::Result help = program::run("moraine", {"prepare", "--help"});
  CHECK(help.status == 0);
  for (const char* option : {"--model", "--image", "--size", "--backend", "--prompt-depth"})
    CHECK_MESSAGE(help.out.find(option) != std::string::npos, option);
  c.check_failure(program::run("moraine", {"prepare", "--model", "x"}), {"--image"});
  c.check_failure(c.run({"--images", "x"}), {"unknown option \"--images\""});
  c.check_failure(c.run({"--size", "0"}), {"--size", "\"0\""});
  c.check_failure(c.run({"--size", "12x"}), {"--size", "\"12x\""});
  c.check_failure(c.run({"--size", "12x3x4"}), {"--size"});
  c.check_failure(c.run({"--size", "99999"}), {"32768"});
  c.check_failure(c.run({"--backend", "opencv"}), {"--backend"});
  c.check_failure(c.run({"--image", c.model / "none.png"}, false), {"none.png"});
  c.check_failure(c.run({"--image", c.model / "config.json"}, false), {"config.json"});
  c.check_failure(c.run({"--image", fixtures::dir() + "/../../io/fixtures/gray16.png"}, false),
                  {"gray16.png", "16 bits"});
  c.check_failure(c.run({"--image", fixtures::dir() + "/../../io/fixtures/cmyk.jpg"}, false),
                  {"cmyk.jpg"});
  write_cut(c.pictures + "/noise.png", c.model / "cut.png");
  c.check_failure(c.run({"--image", c.model / "cut.png"}, false), {"cut.png"});
  c.check_failure(c.run({"--prompt-depth", c.pictures + "/gray.png"}),
                  {"--prompt-depth", "prompt_depth_anything"});
  c.check_failure(c.run({"--wavelengths", "1,2,3"}), {"--wavelengths", "dofa"});
  const PrepareCase dofa("{\"model_type\": \"dofa\"}");
  dofa.check_failure(dofa.run({"--wavelengths", "1,2"}), {"--wavelengths", "2 bands"});
  dofa.check_failure(dofa.run({"--wavelengths", "1,b,2"}), {"--wavelengths", "1,b,2"});
  const PrepareCase depth("{\"model_type\": \"prompt_depth_anything\"}");
  depth.check_failure(depth.run({"--prompt-depth", c.pictures + "/noise.png"}), {"3 channels"});
  depth.check_failure(depth.run({"--image", c.pictures + "/tall.png", "--size", "28"}),
                      {"tall.png", "one by one"});
  const PrepareCase unknown("{\"model_type\": \"resnet\"}");
  unknown.check_failure(unknown.run({}), {"resnet", "preprocessor_config.json"});
  write_file(c.model / "preprocessor_config.json", "{\"image_processor_type\": \"X\"}");
  c.check_failure(c.run({}), {"preprocessor_config.json", "\"X\""});
  const PrepareCase none;
  unlink((none.model / "config.json").c_str());
  none.check_failure(none.run({}), {"config.json"});
  const program::Result r = program::run(
      "moraine", {"prepare", "--model", c.model.path, "--image", "x.png", "--output", "no/where"});
  none.check_failure(r, {"no/where"});
}
