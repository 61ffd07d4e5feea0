// Image processors against transformers' (both backends) and timm's transforms: every case of
// tests/parity/fixtures/processors, bytes bit for bit.
#include <doctest/doctest.h>

#include <cstdio>
#include <moraine/io/rgb.hpp>
#include <moraine/io/safetensors.hpp>
#include <moraine/recipes/image_processor_config.hpp>

#include "fixtures.hpp"
#include "message.hpp"

using namespace moraine;

namespace {

std::string processor_folder() {
  const auto all = fixtures::folders("processors");
  REQUIRE(all.size() == 1);
  return all[0];
}
Size2 case_size(const std::string& text) {
  const std::size_t x = text.find('x');
  const Index h = std::stol(text);
  return x == std::string::npos ? Size2(h) : Size2{h, std::stol(text.substr(x + 1))};
}
/// A model's directory with a config.json and perhaps others.
struct ProcessorDir {
  scratch::Dir dir;
  explicit ProcessorDir(const std::string& config, const std::string& preprocessor = "") {
    write_file(dir / "config.json", config);
    if (!preprocessor.empty()) write_file(dir / "preprocessor_config.json", preprocessor);
  }
  std::string error(ProcessorBackend b = ProcessorBackend::torchvision) const {
    return message_of([&] { read_image_processor(dir.path, b); });
  }
};
std::string processor_error(const std::string& fields) {
  return ProcessorDir("{\"model_type\": \"dinov2\"}",
                      "{\"image_processor_type\": \"BitImageProcessor\", " + fields + "}")
      .error();
}

}  // namespace

TEST_CASE("image processors: every case of transformers and timm") {
  const std::string folder = processor_folder();
  const Json cases = read_json(folder + "/cases.json");
  int checked = 0, bytes = 0;
  double worst = 0;
  for (const JsonMember& c : cases.as_object("cases")) {
    const ProcessorDir model(json_text(c.value.at("config")));
    if (c.value.find("preprocessor"))
      write_json(model.dir / "preprocessor_config.json", c.value.at("preprocessor"));
    if (c.value.find("nested")) {
      Json outer = Json::object();
      outer.set("image_processor", c.value.at("nested"));
      write_json(model.dir / "processor_config.json", outer);
    }
    for (const auto& entry : read_safetensors(folder + "/" + c.key + ".safetensors").tensors) {
      const std::string& key = entry.first;
      INFO(c.key << " " << key);
      const std::size_t dot = key.find('.');
      ImageProcessor p = read_image_processor(model.dir.path, key.substr(dot) == ".pil"
                                                                  ? ProcessorBackend::pil
                                                                  : ProcessorBackend::torchvision);
      if (c.value.find("size")) p = with_size(p, case_size(c.value.at("size").as_string("size")));
      const Tensor<float> x =
          prepare_image(read_rgb(folder + "/" + key.substr(0, dot) + ".png"), p);
      const double d = fixtures::distance(x, entry.second);
      // Where bytes are resized, every bit; PyTorch's sums of floats have an order of their own.
      CHECK(d <= (p.rescale_first ? 1e-6 : 0.0));
      bytes += !p.rescale_first;
      worst = std::max(worst, d);
      ++checked;
    }
  }
  std::printf("  %d pictures, %d of bytes alike in every bit, worst %.1e\n", checked, bytes, worst);
  CHECK(checked >= 95);
}

TEST_CASE("resample: Pillow's order before version 13") {
  // Tall pictures, whose columns Pillow 13 takes first: both orders, and that they differ.
  const Tensor<std::uint8_t> x = read_rgb(processor_folder() + "/tall.png");  // (61,17,3)
  const auto sized = [](const Tensor<std::uint8_t>& from, Index h, Index w, ResampleRule rule) {
    return resample(from, {.height = h, .width = w, .rule = rule});
  };
  const auto same = [](const Tensor<std::uint8_t>& a, const Tensor<std::uint8_t>& b) {
    return fixtures::distance(a, b) == 0;
  };
  using enum ResampleRule;
  const auto rows_first = sized(sized(x, 61, 11, pillow), 20, 11, pillow);
  const auto columns_first = sized(sized(x, 20, 17, pillow), 20, 11, pillow);
  CHECK(same(sized(x, 20, 11, pillow), columns_first));
  CHECK(same(sized(x, 20, 11, pillow_12), rows_first));
  CHECK(!same(rows_first, columns_first));
  // 12 lines fewer are no more than twice 6.
  CHECK(same(sized(x, 49, 11, pillow), sized(x, 49, 11, pillow_12)));
  CHECK(!same(sized(x, 48, 11, pillow), sized(x, 48, 11, pillow_12)));
  CHECK(same(sized(x, 61, 17, torch), x));
}

TEST_CASE("resample: the same bits for any number of threads") {
  Tensor<std::uint8_t> x = Tensor<std::uint8_t>::empty({301, 257, 3});
  for (Index i = 0; i < x.numel(); ++i)
    x.data()[i] = static_cast<std::uint8_t>((i * 2654435761u) >> 13);
  const int before = threads();
  Tensor<std::uint8_t> first;
  for (int n : {1, 2, 3}) {
    set_threads(n);
    const auto y = resample(x, {.height = 97, .width = 400});
    if (n == 1)
      first = y;
    else
      CHECK(fixtures::distance(y, first) == 0);
  }
  set_threads(before);
  CHECK(has(message_of([&] { resample(x, {.height = 0, .width = 4}); }), "resample: needs"));
  CHECK(has(message_of([&] {
              resample(Tensor<float>::zeros({2, 2, 3}),
                       {.height = 1, .width = 1, .rule = ResampleRule::pillow});
            }),
            "holds floats"));
}

TEST_CASE("image processors: what is refused") {
  CHECK(ProcessorDir("{\"model_type\": \"dinov2\"}").error().empty());
  CHECK(has(ProcessorDir("{\"model_type\": \"resnet\"}").error(), "model_type \"resnet\""));
  CHECK(has(ProcessorDir("[]").error(), "top level"));
  CHECK(has(ProcessorDir("{\"model_type\": \"dinov2\"}", "{").error(), "preprocessor_config.json"));
  CHECK(has(ProcessorDir("{\"model_type\": \"dinov2\"}", "3").error(), "preprocessor_config.json"));
  CHECK(has(ProcessorDir("{\"model_type\": \"dinov2\"}",
                         "{\"image_processor_type\": \"OwlViTImageProcessor\"}")
                .error(),
            "\"OwlViTImageProcessor\" is not supported"));
  CHECK(has(processor_error("\"size\": {\"longest_edge\": 3}"), "size is not one"));
  CHECK(has(processor_error("\"size\": {\"shortest_edge\": 0}"), "size is out of range; 0"));
  CHECK(has(processor_error("\"size\": {\"shortest_edge\": 1.5}"), "size must be whole"));
  CHECK(has(processor_error("\"size\": \"large\""), "size is not one"));
  CHECK(has(processor_error("\"crop_size\": 99999999"), "crop_size is out of range"));
  CHECK(has(processor_error("\"crop_size\": [1]"), "crop_size must be"));
  CHECK(has(processor_error("\"resample\": 0"), "resample 0 is not supported"));
  CHECK(has(processor_error("\"image_mean\": [1, 2]"), "image_mean must hold 3"));
  CHECK(has(processor_error("\"image_std\": [1, 0, 1]"), "image_std must not be 0"));
  CHECK(has(processor_error("\"rescale_factor\": 0"), "rescale_factor is out of range"));
  CHECK(has(processor_error("\"do_resize\": 1"), "do_resize must be true or false"));
  const auto timm = [](const std::string& fields) {
    return ProcessorDir("{\"architecture\": \"eva02_tiny_patch14_224\", \"pretrained_cfg\": {" +
                        fields + "}}")
        .error();
  };
  CHECK(timm("").empty());
  CHECK(has(timm("\"input_size\": [1, 4, 4]"), "input_size must be [3, height, width]"));
  CHECK(has(timm("\"crop_pct\": -1"), "crop_pct is out of range"));
  CHECK(has(timm("\"interpolation\": \"lanczos\""), "interpolation \"lanczos\""));

  const ImageProcessor p =
      read_image_processor(ProcessorDir("{\"model_type\": \"dinov2\"}").dir.path);
  const auto say = [&](Index h, Index w, const ImageProcessor& by) {
    return message_of([&] { prepare_image(Tensor<std::uint8_t>::zeros({h, w, 3}), by); });
  };
  CHECK(say(3, 5, p).empty());
  CHECK(has(say(1, 5000, p), "would make it 256 x 1280000 of (1,5000)"));
  CHECK(has(message_of([&] {
              prepare_image(Tensor<std::uint8_t>::zeros({3, 5, 4}), p);
            }),
            "needs (H,W,3)"));
  const ImageProcessor dpt =
      read_image_processor(ProcessorDir("{\"model_type\": \"depth_anything\"}").dir.path);
  CHECK(has(say(1000, 2, dpt), "DPTImageProcessor would make it"));
  CHECK(has(message_of([&] { with_size(p, {0, 4}); }), "size: must be"));
  const ImageProcessor sam =
      read_image_processor(ProcessorDir("{\"model_type\": \"sam\"}").dir.path);
  CHECK(has(message_of([&] { with_size(sam, {8, 4}); }), "takes one number"));
}

TEST_CASE("prompt depth: in metres, and never constant") {
  ImageProcessor p;
  const Tensor<float> d({2, 2}, {1000, 2500, 0, 3});
  const Tensor<float> y = prepare_prompt_depth(d, p);
  CHECK(y.shape() == Shape{1, 1, 2, 2});
  CHECK(y.at({0, 0, 0, 1}) == doctest::Approx(2.5));
  const Tensor<float> c = prepare_prompt_depth(Tensor<float>({2, 2}, {7, 7, 7, 7}), p);
  CHECK(c.at({0, 0, 0, 1}) > c.at({0, 0, 1, 0}));
  CHECK(c.at({0, 0, 0, 0}) == c.at({0, 0, 0, 1}));
  CHECK(has(message_of([&] { prepare_prompt_depth(Tensor<float>::zeros({0, 2}), p); }), "(h,w)"));
}
