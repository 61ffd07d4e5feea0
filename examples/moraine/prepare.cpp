// prepare: photographs as a model wants them, so that `prepare` and `encode` together are what the
// model's image processor and class are in Python.
#include <unistd.h>

#include <charconv>
#include <moraine/io/rgb.hpp>
#include <moraine/io/safetensors.hpp>
#include <moraine/recipes/image_processor_config.hpp>

#include "arguments.hpp"
#include "commands.hpp"

using namespace moraine;

namespace program {
namespace {

/// "518" or "518x777".
Size2 parse_size(const std::string& text) {
  Index n[2] = {0, 0};
  const char *at = text.data(), *end = at + text.size();
  int count = 0;
  for (; count < 2; ++count) {
    const auto r = std::from_chars(at, end, n[count]);
    if (r.ec != std::errc{}) break;
    at = r.ptr;
    if (at == end) break;
    if (*at++ != 'x') break;
  }
  if (at != end || count == 2 || n[0] < 1 || (count == 1 && n[1] < 1))
    fail(ErrorKind::value, "prepare: option --size has the value " + quoted(text) +
                               "; it takes a number of pixels, or HEIGHTxWIDTH");
  return count ? Size2{n[0], n[1]} : Size2(n[0]);
}

/// A depth map (h,w) as stored: PNG of 8 or 16 bits, or one band of a TIFF.
Tensor<float> read_depth(const std::string& path) {
  AnyTensor any;
  const FileKind kind = recognise(path);
  if (kind == FileKind::tiff || kind == FileKind::big_tiff) {
    GeoTiffReader file(path);
    if (static_cast<double>(file.info().width) * static_cast<double>(file.info().height) > 1e8)
      fail(ErrorKind::memory, "prepare: the prompt depth " + quoted(base_name(path)) +
                                  " is too large; " + std::to_string(file.info().width) + " x " +
                                  std::to_string(file.info().height));
    any = file.read_all();
    any.shape = {any.shape[1], any.shape[2], any.shape[0]};
  } else {
    any = read_image(path).pixels;
  }
  if (any.shape[2] != 1)
    fail(ErrorKind::shape, "prepare: the prompt depth " + quoted(base_name(path)) + " has " +
                               std::to_string(any.shape[2]) + " channels; depth is one");
  return any.as<float>().reshaped({any.shape[0], any.shape[1]});
}

std::vector<float> parse_numbers(const std::string& text) {
  std::vector<float> all;
  for (std::size_t at = 0; at <= text.size();) {
    std::size_t comma = text.find(',', at);
    if (comma == std::string::npos) comma = text.size();
    float v = 0;
    const auto r = std::from_chars(text.data() + at, text.data() + comma, v);
    if (r.ec != std::errc{} || r.ptr != text.data() + comma || !(v > 0 && v < 1e6f))
      fail(ErrorKind::value, "prepare: option --wavelengths has the value " + quoted(text) +
                                 "; it takes three numbers in micrometres: 0.665,0.56,0.49");
    all.push_back(v);
    at = comma + 1;
  }
  return all;
}

}  // namespace

int run_prepare(const PrepareOptions& o) {
  if (is_directory(o.output))
    fail(ErrorKind::file,
         "prepare: the output " + quoted(o.output) + " is a directory; name a file in it");
  const std::string dir = dir_name(o.output);
  if (!is_directory(dir) || access(dir.c_str(), W_OK) != 0)
    fail(ErrorKind::file, "prepare: cannot write " + quoted(o.output) + "; the directory " +
                              quoted(dir) + " is not there or not writable");
  ImageProcessor processor = read_image_processor(
      o.model, o.backend == "pil" ? ProcessorBackend::pil : ProcessorBackend::torchvision);
  if (!o.size.empty()) processor = with_size(processor, parse_size(o.size));
  const std::string type =
      ConfigReader(read_json(o.model + "/config.json"), "config.json").text("model_type", "");
  const auto only = [&](const char* family, const char* option, const std::string& value) {
    if (!value.empty() && type != family)
      fail(ErrorKind::value, std::string("prepare: option ") + option + " is for " + family +
                                 "; the model is " + quoted(type));
  };
  only("prompt_depth_anything", "--prompt-depth", o.prompt_depth);
  only("dofa", "--wavelengths", o.wavelengths);

  TensorMap out;
  Tensor<float> pixels;
  const Index n = static_cast<Index>(o.images.size());
  for (Index i = 0; i < n; ++i) {
    const std::string& path = o.images[static_cast<std::size_t>(i)];
    const Tensor<float> one = prepare_image(read_rgb(path), processor);  // (1,3,H,W)
    if (!pixels.defined())
      pixels = n == 1 ? one : Tensor<float>::empty({n, 3, one.size(2), one.size(3)});
    if (pixels.size(2) != one.size(2) || pixels.size(3) != one.size(3))
      fail(ErrorKind::shape, "prepare: the image " + quoted(base_name(path)) + " becomes " +
                                 str(one.shape()) + ", others " + str(pixels.shape()) +
                                 " -> prepare them one by one");
    if (n > 1) std::copy_n(one.data(), one.numel(), pixels.data() + i * one.numel());
  }
  out.emplace("pixel_values", pixels);
  if (!o.prompt_depth.empty()) {
    if (n != 1)
      fail(ErrorKind::value,
           "prepare: --prompt-depth belongs to one image; " + std::to_string(n) + " are given");
    out.emplace("prompt_depth", prepare_prompt_depth(read_depth(o.prompt_depth), processor));
  }
  if (type == "dofa") {
    const std::vector<float> w =
        parse_numbers(o.wavelengths.empty() ? "0.665,0.56,0.49" : o.wavelengths);
    if (w.size() != 3)
      fail(ErrorKind::value, "prepare: option --wavelengths names " + std::to_string(w.size()) +
                                 " bands; a photograph has 3");
    out.emplace("wavelengths", Tensor<float>({3}, {w[0], w[1], w[2]}));
  }
  write_safetensors(o.output, out);
  return 0;
}

}  // namespace program
