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

std::string encode_usage() {
  return "usage: encode --model DIR --input in.safetensors --output out.safetensors\n"
         "              [--device cpu|cuda] [--dtype f32|bf16] [--threads N]\n"
         "\n"
         "Runs the vision backbone in DIR (config.json and model.safetensors, or shards with their "
         "index)\n"
         "on the images `pixel_values` (B,C,H,W), resized and normalised as the model wants them, "
         "and\n"
         "writes hidden_states.0 ... hidden_states.L and what else the family returns.\n"
         "Models: " +
         backbone_names() + ".\n";
}

/// The tensors that the model reads; others in the file are not looked at.
BackboneInput<float> read_input(const std::string& path, const Backbone<float>& model) {
  const SafetensorsFile file = read_safetensors(path);
  const auto read = [&](const char* name) -> Tensor<float> {
    const auto at = file.tensors.find(name);
    if (at == file.tensors.end()) return {};
    const AnyTensor& t = at->second;
    if (t.dtype != Dtype::f32) {
      const auto other = file.other_dtypes.find(name);
      fail(ErrorKind::dtype,
           "encode: " + std::string(name) + " " + str(t.shape) + " must be F32; it is " +
               (other != file.other_dtypes.end() ? other->second : name_of(t.dtype)));
    }
    return t.as<float>();
  };
  BackboneInput<float> in;
  in.pixels = read("pixel_values");
  if (!in.pixels.defined())
    fail(ErrorKind::key, "encode: the input " + quoted(base_name(path)) +
                             " holds no pixel_values; " + std::to_string(file.tensors.size()) +
                             " tensors have other names");
  for (const std::string& name : model.more_inputs()) {
    if (name == "prompt_depth") in.prompt_depth = read("prompt_depth");
    if (name == "wavelengths") in.wavelengths = read("wavelengths");
  }
  return in;
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
  const NoGrad off;
  const Pretrained p = open_pretrained(o.model);
  const std::unique_ptr<Backbone<float>> model = load_pretrained<float>(p, {.packed = false});
  const BackboneInput<float> in = read_input(o.input, *model);
  model->check(in);
  if (o.bf16) use_bf16<float>(*model);
  prepare_mapped<float>(*model, p.weights);
  write_safetensors(o.output, model->forward(in).named());
}

int encode_main(int argc, char** argv) {
  return guarded("encode", 1, [&] {
    const Arguments a(
        "encode", argc, argv,
        {{"--model"}, {"--input"}, {"--output"}, {"--device"}, {"--dtype"}, {"--threads"}});
    if (a.help) {
      std::fputs(encode_usage().c_str(), stdout);
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
