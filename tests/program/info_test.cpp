// `moraine info`, `moraine doctor`, and the program's own options.
#include <doctest/doctest.h>

#include "run.hpp"

using namespace moraine;
using program::Words;

namespace {
void check_failure(const program::Result& r, const Words& names) {
  INFO("line: " << r.err);
  CHECK(r.status == 1);
  CHECK(program::is_one_line(r.err));
  for (const std::string& n : names) CHECK_MESSAGE(r.err.find(n) != std::string::npos, n);
}
void check_parts(const program::Result& r, const Words& parts) {
  INFO(r.out << r.err);
  CHECK(r.status == 0);
  for (const std::string& p : parts) CHECK_MESSAGE(r.out.find(p) != std::string::npos, p);
}
}  // namespace

TEST_CASE("moraine: help, version, and what it does not know") {
  if (!program::is_built()) return;
  check_parts(program::run("moraine", {"--help"}), {"info", "encode", "xray", "doctor"});
  check_parts(program::run("moraine", {"--version"}), {"moraine " MORAINE_VERSION});
  check_failure(program::run("moraine", {}), {"moraine: "});
  check_failure(program::run("moraine", {"dance"}), {"dance"});
  check_failure(program::run("moraine", {"info"}), {"file"});
  check_failure(program::run("moraine", {"info", "--fast", "x"}), {"info: ", "--fast"});
  check_failure(program::run("moraine", {"--fast"}), {"moraine: ", "--fast", "moraine --help"});
}

TEST_CASE("moraine: an option that is unknown is named before one that is missing") {
  if (!program::is_built()) return;
  check_failure(program::run("moraine", {"predict", "--modle", "x"}),
                {"predict: unknown option \"--modle\"", "did you mean --model?",
                 "moraine predict --help lists the options"});
  check_failure(program::run("moraine", {"predict", "--input", "--modle", "--x=3"}),
                {"predict: unknown option \"--x\""});
  check_failure(program::run("moraine", {"predict", "--model", "x"}),
                {"predict: --input is required", "moraine predict --help"});
  check_failure(program::run("moraine", {"eval", "--prediction"}), {"eval: ", "--prediction"});
  // Only train has a configuration.
  for (const Words& w : {Words{"demo", "--set", "foo=1"}, Words{"predict", "--set", "train.lr=3"},
                         Words{"eval", "--set", "foo.bar=3"}, Words{"pretrain", "--set", "a=1"}})
    check_failure(program::run("moraine", w), {w[0] + ": unknown option \"--set\"", "only train"});
}

TEST_CASE("moraine demo: a folder that cannot be is said before any training") {
  if (!program::is_built()) return;
  const scratch::Dir dir;
  write_file(dir / "file", "x");
  program::Result r = program::run("moraine", {"demo", "--output", dir / "file"});
  check_failure(r, {"demo: the output", "is a file"});
  CHECK(r.out.empty());
  r = program::run("moraine", {"demo", "--output", dir / "file/deeper"});
  check_failure(r, {"demo: cannot make the folder", "Not a directory"});
  CHECK(r.out.empty());
}

TEST_CASE("moraine predict and eval: a picture is no GeoTIFF") {
  if (!program::is_built()) return;
  const scratch::Dir dir;
  for (const auto& [kind, bytes] :
       {std::pair{"PNG", "\x89PNG\r\n\x1a\n rest"}, std::pair{"JPEG", "\xff\xd8\xff\xe0 rest"}}) {
    write_file(dir / "sc.png", bytes);
    check_failure(program::run("moraine", {"predict", "--model", dir.path, "--input",
                                           dir / "sc.png", "--output", dir / "map.tif"}),
                  {"predict: ", "sc.png\" is a ", kind, "gdal_translate"});
    // Without --output, which eval does not need.
    check_failure(program::run("moraine", {"eval", "--prediction", dir / "sc.png", "--labels",
                                           dir / "sc.png"}),
                  {"eval: ", "it is a ", kind, "gdal_translate"});
  }
}

TEST_CASE("moraine info: told by content, not by name") {
  if (!program::is_built()) return;
  const scratch::Dir dir;
  const std::string file = dir / "picture.png";
  TensorMap map{{"a.weight", Tensor<float>::ones({2, 3})},
                {"steps", Tensor<std::int64_t>::ones({})}};
  write_safetensors(file, map, {{"format", "pt"}});
  check_parts(
      program::run("moraine", {"info", file}),
      {"safetensors", "2 (1 F32, 1 I64)", "6 floating values, 1 others", "format: pt", "(2,3)"});
  write_file(file, "{\"model_type\": \"dinov2\", \"list\": [1, 2]}");
  check_parts(program::run("moraine", {"info", file}),
              {"JSON", "object of 2 members", "\"dinov2\"", "[1,2]"});
  write_file(file, "[1, 2, 3]");
  check_parts(program::run("moraine", {"info", file}), {"an array of 3"});
}

TEST_CASE("moraine info: a GeoTIFF") {
  if (!program::is_built()) return;
  const std::string data = scratch::data_dir();
  if (data.empty()) return;
  check_parts(program::run("moraine", {"info", data + "/dsm/dsm.tif"}),
              {"283 x 259 pixels, 1 band", "F32", "256 x 256 tiles", "deflate", "-9999",
               "EPSG:26918", "39.0502"});
}

TEST_CASE("moraine info: files that it cannot read") {
  if (!program::is_built()) return;
  const scratch::Dir dir;
  const std::string file = dir / "x";
  check_failure(program::run("moraine", {"info", file}), {file});
  check_failure(program::run("moraine", {"info", dir.path}), {dir.path});
  for (const std::string& bytes :
       {std::string(), std::string("hello"), std::string("{\"a\": "),
        std::string("II*\0\1\0\0\0", 8), std::string("\x89PNG\r\n\x1a\n"),
        std::string("\xff\xd8\xff\xe0"), std::string("PK\x03\x04 zip"),
        std::string("\x10\0\0\0\0\0\0\0{\"a\":1}         ", 24)}) {
    write_file(file, bytes);
    check_failure(program::run("moraine", {"info", file}), {"info: "});
  }
  // Cut off: the first bytes still tell what it was.
  write_file(file, std::string("II*\0\x10\0\0\0", 8));
  program::Result r = program::run("moraine", {"info", file});
  check_failure(r, {"cannot be opened; C", "is the file cut off?"});
  write_safetensors(file, {{"a.weight", Tensor<float>::ones({2, 3})}});
  write_file(file, read_file(file).substr(0, 30));
  check_failure(program::run("moraine", {"info", file}),
                {"looks like a safetensors file", "30 bytes", "is the file cut off?"});
}

TEST_CASE("moraine doctor") {
  if (!program::is_built()) return;
  check_parts(program::run("moraine", {"doctor"}),
              {"threads ", "kernels ", "CUDA ", "tiffio.h", "g++"});
  setenv("MORAINE_ISA", "portable", 1);
  check_parts(program::run("moraine", {"doctor"}), {"kernels   portable (chosen by MORAINE_ISA)"});
  setenv("MORAINE_ISA", "avx3", 1);
  check_failure(program::run("moraine", {"doctor"}),
                {"MORAINE_ISA: this machine cannot run 'avx3'", "portable"});
  unsetenv("MORAINE_ISA");
  // Nothing on the PATH: what is missing is named with the line that installs it.
  const std::string path = std::getenv("PATH");
  setenv("PATH", "/nowhere", 1);
  const program::Result r = program::run("moraine", {"doctor"});
  setenv("PATH", path.c_str(), 1);
  check_parts(r, {"MISSING   cmake", "apt-get install -y g++ cmake ninja-build python3"});
}
