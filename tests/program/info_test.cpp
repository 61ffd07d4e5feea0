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
  check_failure(program::run("moraine", {"info", "--fast", "x"}), {"--fast"});
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
}

TEST_CASE("moraine doctor") {
  if (!program::is_built()) return;
  check_parts(program::run("moraine", {"doctor"}),
              {"threads ", "kernels ", "CUDA ", "tiffio.h", "g++"});
  // Nothing on the PATH: what is missing is named with the line that installs it.
  const std::string path = std::getenv("PATH");
  setenv("PATH", "/nowhere", 1);
  const program::Result r = program::run("moraine", {"doctor"});
  setenv("PATH", path.c_str(), 1);
  check_parts(r, {"MISSING   cmake", "apt-get install -y g++ cmake ninja-build python3"});
}
