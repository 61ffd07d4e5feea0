#pragma once
// A model from its weights alone: a .pth of the authors, a safetensors file of timm, whatever is
// read here. The family is told by the names, the sizes are read off the shapes, and both become
// what a model directory would have held (recipes/pretrained.hpp then loads it):
//
//   auto model = load_pretrained<float>(open_weights("dinov2_vits14_pretrain.pth"));
#include <moraine/io/weights.hpp>
#include <moraine/recipes/convert.hpp>
#include <moraine/recipes/model_directory.hpp>
#include <moraine/recipes/weight_sizes.hpp>
#include <string>
#include <utility>

namespace moraine MORAINE_API {

struct OpenWeightsOptions {
  TorchOptions torch = {};
  std::string prefix = "";             ///< only names that begin so, without it
  std::vector<std::string> drop = {};  ///< globs of names that are left out
  SizedConfigOptions sizes = {};       ///< what the weights do not say
};

/// Opens weights of a family that recipes/name_maps.hpp knows, in any of its namings. Tensors that
/// are only renamed stay in the mapped file. Throws ErrorKind::key when the family is not
/// recognised, and ErrorKind::config when its config cannot be read off the weights.
inline Pretrained open_weights(const std::string& path, const OpenWeightsOptions& o = {}) {
  WeightsFile file = read_weights(path, o.torch);
  // Names first, so that the family is recognised without what is to be left out.
  TensorMap kept = convert_weights(file.tensors, {.prefix = o.prefix, .drop = o.drop}).tensors;
  const RecognisedWeights r = recognise_weights(kept);
  ConvertOptions names{.rename = true};
  if (r.family && !r.family->sign[static_cast<int>(Naming::hf)]) names.to = Naming::timm;
  Converted made = convert_weights(kept, names);
  const SizedConfig c = sized_config(made.tensors, recognise_weights(made.tensors), o.sizes);
  if (c.config.is_null())
    fail(ErrorKind::config, "weights: " + quoted(base_name(path)) +
                                ": its configuration cannot be made; " + c.missing);
  Pretrained p;
  p.config = c.config;
  const ConfigReader reader(p.config, base_name(path));
  p.model_type = reader.text("model_type", "");
  p.architecture = reader.text("architecture", "");
  p.weights.tensors = std::move(made.tensors);
  p.weights.metadata = std::move(file.metadata);
  p.weights.other_dtypes = std::move(file.other_dtypes);
  return p;
}

}  // namespace moraine
