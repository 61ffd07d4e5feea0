// encode: all hidden states of a foundation model for a batch of prepared images. The shortest way
// to compare this library with the models' reference implementations.
#include <unistd.h>

#include <moraine/nn/bf16.hpp>
#include <moraine/recipes/pretrained.hpp>

#include "arguments.hpp"
#include "commands.hpp"

using namespace moraine;

namespace program {
namespace {

constexpr const char* encode_usage =
    "usage: encode --model DIR --input in.safetensors --output out.safetensors\n"
    "              [--device cpu|cuda] [--dtype f32|bf16] [--threads N]\n"
    "\n"
    "Runs the vision backbone in DIR (config.json and model.safetensors, or shards with their "
    "index)\n"
    "on the images `pixel_values` (B,C,H,W), resized and normalised as the model wants them, and\n"
    "writes hidden_states.0 ... hidden_states.L, last_hidden_state and pooler_output.\n"
    "Models: dinov2, dinov2_with_registers.\n";

/// What the contract names and a later version brings.
bool is_planned(const std::string& type) {
  for (const char* known : {"dinov3_vit", "clip_vision_model", "clip", "sam_vision_model", "sam",
                            "dofa", "depth_anything", "prompt_depth_anything"})
    if (type == known) return true;
  return type.rfind("eva02_", 0) == 0;
}

[[noreturn]] void refuse_model(const Pretrained& p) {
  const bool timm = p.model_type.empty() && p.config.find("architecture");
  const char* field = timm ? "architecture" : "model_type";
  const std::string type =
      timm ? ConfigReader(p.config, "config.json").text(field, "") : p.model_type;
  fail(ErrorKind::config, std::string("encode: ") + field + " " + quoted(type) +
                              (type.empty()       ? " names no model in config.json"
                               : is_planned(type) ? " is not supported yet"
                                                  : " is unknown") +
                              "; this version runs dinov2 and dinov2_with_registers");
}

/// Weights must be F32, F16 or BF16; what is ignored may be anything.
void check_dtypes(const Pretrained& p, const std::string& prefix) {
  std::vector<std::string> bad;
  const LoadOptions files = dinov2_files(prefix);
  for (const auto& [key, t] : p.weights.tensors) {
    bool ignored = false;
    for (const std::string& glob : files.ignored) ignored |= matches(glob.c_str(), key.c_str());
    if (ignored || t.dtype == Dtype::f32 || t.dtype == Dtype::f16 || t.dtype == Dtype::bf16)
      continue;
    const auto other = p.weights.other_dtypes.find(key);
    bad.push_back(key + " (" +
                  (other != p.weights.other_dtypes.end() ? other->second : name_of(t.dtype)) + ")");
  }
  if (!bad.empty())
    fail(ErrorKind::dtype, "encode: weights must be F32, F16 or BF16; " +
                               std::to_string(bad.size()) + " are not: " + detail::some_of(bad));
}

/// The images, checked against what the model takes.
Tensor<float> read_pixels(const std::string& path, Index channels, Index patch) {
  const SafetensorsFile in = read_safetensors(path);
  const auto at = in.tensors.find("pixel_values");
  if (at == in.tensors.end())
    fail(ErrorKind::key, "encode: the input " + quoted(base_name(path)) +
                             " holds no pixel_values; " + std::to_string(in.tensors.size()) +
                             " tensors have other names");
  const AnyTensor& t = at->second;
  const std::string what = "encode: pixel_values " + str(t.shape);
  if (t.dtype != Dtype::f32)
    fail(ErrorKind::dtype, what + " must be F32; it is " + name_of(t.dtype));
  if (t.shape.rank != 4)
    fail(ErrorKind::shape,
         what + " must have four axes (B,C,H,W); it has " + std::to_string(t.shape.rank));
  if (t.shape[0] < 1) fail(ErrorKind::shape, what + " holds no image; the batch is 0");
  if (t.shape[1] != channels)
    fail(ErrorKind::shape, what + " has " + std::to_string(t.shape[1]) +
                               " channels; the model takes " + std::to_string(channels));
  if (t.shape[2] < patch || t.shape[3] < patch)
    fail(ErrorKind::shape,
         what + " is smaller than one patch; the model's patch is " + std::to_string(patch));
  return t.as<float>();
}

/// Fails early where the output could not be written at the end.
void check_output(const std::string& path) {
  if (is_directory(path))
    fail(ErrorKind::file,
         "encode: the output " + quoted(path) + " is a directory; name a file in it");
  const std::string dir = dir_name(path);
  if (!is_directory(dir))
    fail(ErrorKind::file,
         "encode: cannot write " + quoted(path) + "; there is no directory " + quoted(dir));
  if (access(dir.c_str(), W_OK) != 0)
    fail(ErrorKind::file,
         "encode: cannot write " + quoted(path) + "; the directory is not writable");
}

}  // namespace

void run_encode(const EncodeOptions& o) {
  check_output(o.output);
  const Pretrained p = open_pretrained(o.model);
  if (p.model_type != "dinov2" && p.model_type != "dinov2_with_registers") refuse_model(p);
  const NoGrad off;
  const Dinov2Config config = dinov2_config(p.config);
  check_dtypes(p, dinov2_prefix(config, p.weights.tensors));
  const Tensor<float> pixels = read_pixels(o.input, config.num_channels, config.patch_size);
  ViT<float> vit = dinov2<float>(config, p.weights.tensors);
  if (o.bf16) use_bf16<float>(vit);
  prepare<float>(vit);

  TensorMap out;
  Tensor<float> x = vit.embed(pixels);  // (B,P+N,D)
  out.emplace("hidden_states.0", x);
  for (Index i = 0; i < vit.config.depth; ++i) {
    x = vit.block(i, x);
    out.emplace("hidden_states." + std::to_string(i + 1), x);
  }
  const Tensor<float> last = vit.finish(x);
  out.emplace("last_hidden_state", last);
  out.emplace("pooler_output",
              reshape(slice(last, 1, 0, 1), {last.size(0), last.size(2)}));  // (B,D)
  write_safetensors(o.output, out);
}

int encode_main(int argc, char** argv) {
  return guarded("encode", 1, [&] {
    const Arguments a(
        "encode", argc, argv,
        {{"--model"}, {"--input"}, {"--output"}, {"--device"}, {"--dtype"}, {"--threads"}});
    if (a.help) {
      std::fputs(encode_usage, stdout);
      return 0;
    }
    EncodeOptions o;
    o.model = a.required("--model");
    o.input = a.required("--input");
    o.output = a.required("--output");
    o.bf16 = a.choice("--dtype", {"f32", "bf16"}) == "bf16";
    a.check_device();
    a.apply_threads();
    run_encode(o);
    return 0;
  });
}

}  // namespace program
