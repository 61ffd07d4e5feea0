#pragma once
// Foundation models from a directory as the model hub has it: config.json beside model.safetensors
// or its shards.
#include <moraine/io/json.hpp>
#include <moraine/io/safetensors.hpp>
#include <moraine/models/dinov2.hpp>
#include <string>

namespace moraine MORAINE_API {

/// Reads fields of config.json: absent or null gives the default; a wrong type or range is an
/// error that names the field.
class ConfigReader {
 public:
  ConfigReader(const Json& object, std::string file) : json_(object), file_(std::move(file)) {}

  Index size(const char* field, Index fallback, Index least = 1) const {
    const Json* j = get(field);
    if (!j) return fallback;
    if (!j->is_integer()) wrong(field, "a whole number");
    const Index v = j->as_int(field);
    if (v < least || v > (Index{1} << 24))
      fail(ErrorKind::config, file_ + ": " + field + " is out of range; " + std::to_string(v));
    return v;
  }
  double number(const char* field, double fallback) const {
    const Json* j = get(field);
    if (!j) return fallback;
    if (!j->is_number()) wrong(field, "a number");
    return j->as_double(field);
  }
  bool flag(const char* field, bool fallback) const {
    const Json* j = get(field);
    if (!j) return fallback;
    if (!j->is_bool()) wrong(field, "true or false");
    return j->as_bool(field);
  }
  std::string text(const char* field, const std::string& fallback) const {
    const Json* j = get(field);
    if (!j) return fallback;
    if (!j->is_string()) wrong(field, "a string");
    return j->as_string(field);
  }
  Activation activation(const char* field, Activation fallback) const {
    const std::string s = text(field, name_of(fallback));
    for (Activation a : {Activation::gelu, Activation::quick_gelu, Activation::gelu_tanh,
                         Activation::silu, Activation::relu})
      if (s == name_of(a)) return a;
    fail(ErrorKind::config,
         file_ + ": " + field + " \"" + s +
             "\" is not supported -> gelu, quick_gelu, gelu_pytorch_tanh, silu, relu");
  }
  const std::string& file() const { return file_; }

 private:
  const Json* get(const char* field) const {
    const Json* j = json_.find(field);
    return j && !j->is_null() ? j : nullptr;
  }
  [[noreturn]] void wrong(const char* field, const char* wanted) const {
    fail(ErrorKind::config,
         file_ + ": " + field + " must be " + wanted + "; it is " + name_of(get(field)->kind()));
  }
  const Json& json_;
  std::string file_;
};

/// A Hugging Face config.json of model_type dinov2 or dinov2_with_registers.
inline Dinov2Config dinov2_config(const Json& json, const std::string& file = "config.json") {
  const ConfigReader r(json, file);
  const bool reg = r.text("model_type", "") == "dinov2_with_registers";
  const Dinov2Config d = reg ? dinov2_with_registers_defaults() : Dinov2Config{};
  Dinov2Config c = d;
  c.hidden_size = r.size("hidden_size", d.hidden_size);
  c.num_hidden_layers = r.size("num_hidden_layers", d.num_hidden_layers);
  c.num_attention_heads = r.size("num_attention_heads", d.num_attention_heads);
  c.mlp_ratio = r.number("mlp_ratio", d.mlp_ratio);
  c.image_size = r.size("image_size", d.image_size);
  c.patch_size = r.size("patch_size", d.patch_size);
  c.num_channels = r.size("num_channels", d.num_channels);
  c.hidden_act = r.activation("hidden_act", d.hidden_act);
  c.layer_norm_eps = r.number("layer_norm_eps", d.layer_norm_eps);
  c.qkv_bias = r.flag("qkv_bias", d.qkv_bias);
  c.use_swiglu_ffn = r.flag("use_swiglu_ffn", d.use_swiglu_ffn);
  if (reg) c.num_register_tokens = r.size("num_register_tokens", d.num_register_tokens, 0);
  if (c.hidden_size % c.num_attention_heads)
    fail(ErrorKind::config, file + ": num_attention_heads " +
                                std::to_string(c.num_attention_heads) +
                                " does not divide hidden_size " + std::to_string(c.hidden_size));
  if (c.image_size < c.patch_size)
    fail(ErrorKind::config, file + ": image_size " + std::to_string(c.image_size) +
                                " is below patch_size " + std::to_string(c.patch_size));
  if (!(c.layer_norm_eps >= 0))
    fail(ErrorKind::config,
         file + ": layer_norm_eps is out of range; " + number_text(c.layer_norm_eps));
  const double hidden = static_cast<double>(c.hidden_size) * c.mlp_ratio;
  if (!(hidden >= 1 && hidden <= 1 << 28))
    fail(ErrorKind::config, file + ": mlp_ratio is out of range; " + number_text(c.mlp_ratio));
  return c;
}

/// A model directory: its configuration and its tensors, mapped.
struct Pretrained {
  Json config;
  std::string model_type;
  SafetensorsFile weights;
};

/// Opens config.json and the weights of `directory`. The tensors stay in the mapped files.
inline Pretrained open_pretrained(const std::string& directory) {
  Pretrained p;
  const std::string file = directory + "/config.json";
  p.config = read_json(file);
  if (!p.config.is_object())
    fail(ErrorKind::config,
         file + ": the top level must be an object; it is " + name_of(p.config.kind()));
  p.model_type = ConfigReader(p.config, file).text("model_type", "");
  p.weights = read_sharded(directory);
  return p;
}

/// A DINOv2 trunk, with or without registers, from its directory; frozen and packed.
template <class T = float>
ViT<T> load_dinov2(const Pretrained& p) {
  ViT<T> vit = dinov2<T>(dinov2_config(p.config), p.weights.tensors);
  prepare<T>(vit);
  return vit;
}

}  // namespace moraine
