#include <moraine/core/any_tensor.hpp>
#include <moraine/io/recognise.hpp>
#include <moraine/io/safetensors.hpp>

#include "scratch.hpp"

using namespace moraine;

TEST_CASE("recognise: by content, never by name") {
  const std::string fixtures = std::string(MORAINE_SOURCE_DIR) + "/tests/io/fixtures/";
  CHECK(recognise(fixtures + "reference.safetensors") == FileKind::safetensors);
  CHECK(recognise(fixtures + "rgb.png") == FileKind::png);
  CHECK(recognise(fixtures + "rgb.jpg") == FileKind::jpeg);
  const auto kind = [](std::string_view s) { return recognise(s, s.size()); };
  CHECK(kind("") == FileKind::empty);
  CHECK(kind({"II\x2a\0", 4}) == FileKind::tiff);
  CHECK(kind({"MM\0\x2a", 4}) == FileKind::tiff);
  CHECK(kind({"II\x2b\0", 4}) == FileKind::big_tiff);
  CHECK(kind({"MM\0\x2b", 4}) == FileKind::big_tiff);
  CHECK(kind(" \n {\"a\":1}") == FileKind::json);
  CHECK(kind("[1]") == FileKind::json);
  CHECK(kind("\x93NUMPY\x01") == FileKind::npy);
  CHECK(kind("PK\x03\x04") == FileKind::npz_or_zip);
  const std::string torch = std::string(MORAINE_SOURCE_DIR) + "/tests/parity/fixtures/torch/";
  CHECK(recognise(torch + "legacy.pth") == FileKind::torch_legacy);
  CHECK(recognise(torch + "legacy_protocol5.pth") == FileKind::torch_legacy);
  CHECK(recognise(torch + "plain.pth") == FileKind::npz_or_zip);
  CHECK(recognise(torch + "refuse_pickle.pth") == FileKind::unknown);
  CHECK(kind("hello") == FileKind::unknown);
  CHECK(kind(std::string(300, '\0')) == FileKind::unknown);
  CHECK(kind(std::string("\xff\0\0\0\0\0\0\0{}", 10)) ==
        FileKind::unknown);  // longer than the file
  CHECK(kind(std::string("\x02\0\0\0\0\0\0\0{}", 10)) == FileKind::safetensors);
  CHECK(kind(std::string(124, ' ') + std::string("\0\1IM", 4)) == FileKind::mat5);
  CHECK(kind(std::string(124, ' ') + std::string("\1\0MI", 4)) == FileKind::mat5);
  CHECK(scratch::contains(scratch::message_of([] { recognise("/no/such"); }), "cannot open"));
  const std::string dir = scratch::data_dir();
  if (dir.empty()) return;
  CHECK(recognise(dir + "/dsm/dsm.tif") == FileKind::tiff);
  CHECK(recognise(dir + "/houston2013/FC_TrLabel.mat") == FileKind::mat5);
  CHECK(recognise(dir + "/mat_conformance/testhdf5_7.4_GLNX86.mat") == FileKind::hdf5);
}
