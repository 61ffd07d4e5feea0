#pragma once
// Fields of a config.json, for the readers of the model families (recipes/backbones).
#include <moraine/core/activation.hpp>
#include <moraine/core/shape.hpp>
#include <moraine/io/json.hpp>

#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

/// Reads fields of config.json: absent or null gives the default; a wrong type or range is an
/// error that names the file and the field. The object must outlive the reader.
class ConfigReader {
 public:
  ConfigReader(const Json& object, std::string file) : json_(&object), file_(std::move(file)) {}

  bool has(const char* field) const { return get(field) != nullptr; }
  Index size(const char* field, Index fallback, Index least = 1) const {
    const Json* j = get(field);
    return j ? whole(field, *j, least) : fallback;
  }
  double number(const char* field, double fallback) const {
    const Json* j = get(field);
    if (!j) return fallback;
    if (!j->is_number()) wrong(field, "a number");
    return j->as_double(field);
  }
  /// A number that is at least `least`: an epsilon, a ratio.
  double number_from(const char* field, double fallback, double least) const {
    const double v = number(field, fallback);
    if (!(v >= least))
      fail(ErrorKind::config, file_ + ": " + field + " is out of range; " + number_text(v));
    return v;
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
  std::vector<Index> sizes(const char* field, std::vector<Index> fallback, Index least = 0) const {
    const Json* j = list(field);
    if (!j) return fallback;
    std::vector<Index> out;
    for (const Json& v : j->as_array()) out.push_back(whole(field, v, least));
    return out;
  }
  /// One whole number, or a list of them.
  std::vector<Index> size_or_sizes(const char* field, std::vector<Index> fallback,
                                   Index least = 1) const {
    const Json* j = get(field);
    if (j && j->is_array()) return sizes(field, fallback, least);
    return j ? std::vector<Index>{whole(field, *j, least)} : fallback;
  }
  std::vector<double> numbers(const char* field, std::vector<double> fallback) const {
    const Json* j = list(field);
    if (!j) return fallback;
    std::vector<double> out;
    for (const Json& v : j->as_array()) {
      if (!v.is_number()) refuse(field, "holds " + std::string(name_of(v.kind())));
      out.push_back(v.as_double(field));
    }
    return out;
  }
  std::vector<std::string> texts(const char* field, std::vector<std::string> fallback) const {
    const Json* j = list(field);
    if (!j) return fallback;
    std::vector<std::string> out;
    for (const Json& v : j->as_array()) {
      if (!v.is_string()) refuse(field, "holds " + std::string(name_of(v.kind())));
      out.push_back(v.as_string(field));
    }
    return out;
  }
  /// The fields of an object within ("vision_config"); absent or null: all defaults.
  ConfigReader object(const char* field) const {
    static const Json nothing = Json::object();
    const Json* j = get(field);
    if (j && !j->is_object()) wrong(field, "an object");
    return {j ? *j : nothing, file_ + ": " + field};
  }
  /// Names of the fields, as they stand in the file.
  std::vector<std::string> fields() const {
    std::vector<std::string> out;
    for (const JsonMember& m : json_->as_object(file_)) out.push_back(m.key);
    return out;
  }
  /// The error that a field is not usable: "config.json: num_heads 5 does not divide ...".
  [[noreturn]] void refuse(const char* field, const std::string& why) const {
    fail(ErrorKind::config, file_ + ": " + field + " " + why);
  }
  /// Fails unless `heads_field` divides `width_field`.
  void check_heads(const char* heads_field, Index heads, const char* width_field,
                   Index width) const {
    if (width % heads)
      refuse(heads_field, std::to_string(heads) + " does not divide " + width_field + " " +
                              std::to_string(width));
  }
  const std::string& file() const { return file_; }

 private:
  const Json* get(const char* field) const {
    const Json* j = json_->find(field);
    return j && !j->is_null() ? j : nullptr;
  }
  const Json* list(const char* field) const {
    const Json* j = get(field);
    if (j && !j->is_array()) wrong(field, "an array");
    return j;
  }
  Index whole(const char* field, const Json& j, Index least) const {
    if (!j.is_integer())
      refuse(field, std::string("must be a whole number; it is ") + name_of(j.kind()));
    // A number beyond 63 bits is a whole number too, and out of range.
    const Index v = j.as_double(field) > 1e15 ? Index{1} << 50 : j.as_int(field);
    if (v < least || v > (Index{1} << 24))
      fail(ErrorKind::config, file_ + ": " + field + " is out of range; " + std::to_string(v));
    return v;
  }
  [[noreturn]] void wrong(const char* field, const char* wanted) const {
    refuse(field, std::string("must be ") + wanted + "; it is " + name_of(get(field)->kind()));
  }
  const Json* json_;
  std::string file_;
};

}  // namespace moraine
