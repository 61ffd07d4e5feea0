#pragma once
// A model directory as the model hub has it, config.json beside model.safetensors or its shards,
// before anybody knows which family it is.
#include <moraine/io/safetensors.hpp>
#include <moraine/nn/load.hpp>
#include <moraine/nn/slot.hpp>
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

/// prepare() for a module whose weights lie in `file`: what has been packed is read no more, so the
/// file's pages are given back every 64 MiB of it, and the model never needs both forms at once.
/// (They come back from the file when somebody looks: state(), the packing for a backward.)
template <class T, class M>
void prepare_mapped(M& module, const SafetensorsFile& file) {
  struct Pack final : Visitor<T> {
    const SafetensorsFile& file;
    Index since = 0;
    explicit Pack(const SafetensorsFile& f) : file(f) {}
    void parameter(const std::string&, Tensor<T>&) override {}
    void slot(const std::string&, Slot<T>& s) override {
      if (s.empty()) return;
      s.layer().pack();
      since += s.layer().in_features() * s.layer().out_features();
      if (since < (Index{1} << 26) / static_cast<Index>(sizeof(T))) return;
      file.forget_pages();
      since = 0;
    }
  } v(file);
  file.forget_pages();  // what loading touched: rows that were joined, values that were widened
  module.visit(v);
  file.forget_pages();
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
