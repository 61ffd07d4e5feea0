// Models from weights alone, whatever the names they are in; and the account of what was loaded.
#include <doctest/doctest.h>

#include <cmath>
#include <moraine/recipes/pretrained.hpp>
#include <moraine/recipes/weights_alone.hpp>
#include <string>

#include "fixtures.hpp"

using namespace moraine;

TEST_CASE("weights alone: the same features from the names of every publisher") {
  int models = 0;
  for (const std::string& dir : fixtures::folders("names_")) {
    if (dir.ends_with("eva02")) continue;  // no architecture of timm has these sizes
    const Index side = dir.ends_with("sam") ? 24 : 16;
    BackboneInput<float> in;
    in.pixels = Tensor<float>::empty({1, 3, side, side});
    for (Index i = 0; i < in.pixels.numel(); ++i)
      in.pixels.data()[i] = std::sin(0.37f * static_cast<float>(i));
    TensorMap first;
    for (const std::string& name : scratch::list(dir)) {
      INFO(dir << "/" << name);
      NoGrad off;
      auto model = load_pretrained<float>(open_weights(
          dir + "/" + name,
          {.sizes = {.heads = 2, .activation = dir.ends_with("dinov3_gated") ? "silu" : ""}}));
      const TensorMap out = model->forward(in).named();
      ++models;
      if (first.empty()) {
        first = out;
        continue;
      }
      std::string at;
      // The sum of cls_token and its position is made in another order by timm with registers.
      CHECK(fixtures::distance(out, first, &at) <= 1e-6);
    }
  }
  CHECK(models == 8 * 3 + 2 * 2 + 1);  // and one .pth
}

TEST_CASE("weights alone: what cannot be told is said") {
  const std::string dir = fixtures::dir() + "/";
  const auto message = [&](const std::string& file, Index heads = 0) {
    return scratch::message_of([&] { open_weights(dir + file, {.sizes = {.heads = heads}}); });
  };
  CHECK(scratch::contains(message("names_dinov2/hf.safetensors"), "number of heads is not known"));
  CHECK(scratch::contains(message("names_eva02/timm.safetensors", 2),
                          "timm has no architecture of these sizes"));
  CHECK(scratch::contains(message("torch/plain.pth"), "is not recognised"));
  CHECK(scratch::contains(message("torch/refuse_code.pth"), "posix.system"));
}

TEST_CASE("load_pretrained: the account names what was converted and what is shared") {
  LoadReport report;
  load_pretrained<float>(fixtures::dir() + "/dinov2_bf16", {.report = &report});
  CHECK(report.ignored == std::vector<std::string>{"embeddings.mask_token"});
  CHECK(report.converted == report.tensors);
  CHECK(report.shared == 0);
  CHECK(report.joined[0].find("attention.query.weight + ") != std::string::npos);
  LoadReport plain;
  load_pretrained<float>(fixtures::dir() + "/dinov2_plain", {.report = &plain});
  CHECK(plain.converted == 0);
  CHECK(plain.shared > 20);  // in the mapped file
  CHECK(plain.used.size() == 60);
  CHECK(plain.text().find("ignored 1\n  embeddings.mask_token\n") != std::string::npos);
}
