#pragma once
// A model directory as the model hub has it, config.json beside model.safetensors or its shards,
// before anybody knows which family it is.
#include <moraine/io/safetensors.hpp>
#include <moraine/nn/load.hpp>
#include <moraine/recipes/config_reader.hpp>

#include <string>
#include <vector>

namespace moraine MORAINE_API {

/// A model directory: its configuration and its tensors, mapped.
struct Pretrained {
  Json config;
  std::string model_type;    ///< of transformers models; "" where there is none
  std::string architecture;  ///< of timm models; "" where there is none
  SafetensorsFile weights;

  ConfigReader reader() const { return {config, "config.json"}; }
};

/// Opens config.json and the weights of `directory`. The tensors stay in the mapped files.
inline Pretrained open_pretrained(const std::string& directory) {
  Pretrained p;
  const std::string file = directory + "/config.json";
  p.config = read_json(file);
  if (!p.config.is_object())
    fail(ErrorKind::config,
         file + ": the top level must be an object; it is " + name_of(p.config.kind()));
  const ConfigReader r(p.config, file);
  p.model_type = r.text("model_type", "");
  p.architecture = r.text("architecture", "");
  p.weights = read_sharded(directory);
  return p;
}

/// Fails where a weight is not F32, F16 or BF16; what `files` ignores may be anything. (load()
/// itself would also convert F64.)
inline void check_weight_dtypes(const Pretrained& p, const LoadOptions& files) {
  std::vector<std::string> bad;
  for (const auto& [key, t] : p.weights.tensors) {
    bool fine = t.dtype == Dtype::f32 || t.dtype == Dtype::f16 || t.dtype == Dtype::bf16;
    for (const std::string& glob : files.ignored) fine |= matches(glob.c_str(), key.c_str());
    if (fine) continue;
    const auto other = p.weights.other_dtypes.find(key);
    bad.push_back(key + " (" +
                  (other != p.weights.other_dtypes.end() ? other->second : name_of(t.dtype)) + ")");
  }
  if (!bad.empty())
    fail(ErrorKind::dtype, std::string(files.what) + ": weights must be F32, F16 or BF16; " +
                               std::to_string(bad.size()) + " are not: " + detail::some_of(bad));
}

}  // namespace moraine
