#pragma once
// What xray knows about one module of the library: its configuration, its tensors, and how to run
// it. A module is one file that ends with a `Register` object; see xray_spectralmoe.cpp.
#include <algorithm>
#include <moraine/autograd/backward.hpp>
#include <moraine/io/json.hpp>
#include <moraine/io/safetensors.hpp>
#include <moraine/nn/load.hpp>
#include <moraine/ops/binary.hpp>
#include <string>
#include <utility>
#include <vector>

namespace program::xray {

using namespace moraine;

enum class Kind { integer, number, flag, word, words };

/// A field of cfg.json. Sizes are required; switches have a default in each preset, as JSON text.
struct Field {
  const char* name;
  Kind kind;
  const char* meaning;
  double least = 0;                        ///< of integers and numbers
  std::vector<const char*> choices = {};   ///< of words
  std::vector<const char*> defaults = {};  ///< by preset; empty: required
};

/// A named tensor, with its shape in symbols.
struct Port {
  const char* name;
  const char* shape;
  const char* note = "";
};

/// One run of a module in T: what it is given, and what it leaves.
template <class T>
struct Run {
  Json config;  ///< every field is there and has the right type
  const TensorMap& weights;
  const TensorMap& inputs;
  bool grad = false;

  std::vector<std::pair<std::string, Tensor<T>>> outputs = {}, parameters = {}, read = {};
  TensorMap mid = {}, buffers = {};
  std::string sizes = {};  ///< "L 2  E 4; B 2  N 9", for the first line of the report

  Index size(const char* field) const { return config.at(field).as_int(field); }
  double number(const char* field) const { return config.at(field).as_double(field); }
  bool flag(const char* field) const { return config.at(field).as_bool(field); }
  const std::string& word(const char* field) const { return config.at(field).as_string(field); }
  /// The place of the field's value in a list of words.
  template <class E>
  E choice(const char* field, std::initializer_list<std::pair<const char*, E>> of) const {
    for (const auto& [name, value] : of)
      if (word(field) == name) return value;
    fail(ErrorKind::config, std::string("xray: ") + field + " has no value " + quoted(word(field)));
  }
  bool has_word(const char* field, const std::string& wanted) const {
    for (const Json& j : config.at(field).as_array(field))
      if (j.as_string(field) == wanted) return true;
    return false;
  }

  bool has_input(const std::string& name) const { return inputs.count(name) != 0; }
  const AnyTensor& find_input(const std::string& name) const {
    const auto at = inputs.find(name);
    if (at == inputs.end())
      fail(ErrorKind::key, "xray: input " + name + " is missing; the file holds " +
                               std::to_string(inputs.size()) + " tensors");
    return at->second;
  }
  /// The shape of an input; an error unless it is there and has `rank` axes.
  Shape input_shape(const std::string& name, int rank) const {
    const Shape s = find_input(name).shape;
    if (s.rank != rank)
      fail(ErrorKind::shape, "xray: input " + name + " has shape " + str(s) + "; it needs " +
                                 std::to_string(rank) + " axes");
    return s;
  }
  /// A floating input of this shape, in T. It gets a gradient unless `fixed`.
  Tensor<T> input(const std::string& name, const Shape& shape, bool fixed = false) {
    const AnyTensor& t = find_input(name);
    if (t.shape != shape)
      fail(ErrorKind::shape, "xray: input " + name + " has another shape; expected " + str(shape) +
                                 ", found " + str(t.shape));
    if (!is_float(t.dtype))
      fail(ErrorKind::dtype,
           "xray: input " + name + " is not of a floating type; it is " + name_of(t.dtype));
    Tensor<T> x = t.as<T>();
    if (fixed) return x;
    if (grad) x.requires_grad();
    read.emplace_back(name, x);
    return x;
  }
  /// Loads the module's weights, and makes all of them ask for gradients if there will be any.
  template <class M>
  void load_weights(M& module, std::vector<std::string> ignored) {
    load<T>(module, weights, {.ignored = std::move(ignored), .what = "xray"});
    if (grad) require_grad<T>(module, "**");
    for (const Named<T>& p : moraine::parameters<T>(module))
      parameters.emplace_back(p.name, *p.tensor);
  }
  void output(const std::string& name, const Tensor<T>& t) { outputs.emplace_back(name, t); }
  void intermediate(const std::string& name, const Tensor<T>& t) {
    mid.emplace("mid." + name, t.detach());
  }
};

struct Module {
  const char* name;
  const char* sentence;
  std::vector<const char*> presets;  ///< in the order of Field::defaults
  bool has_weights = true;
  std::vector<Field> fields = {};
  std::vector<Port> inputs = {}, outputs = {}, intermediates = {}, parameters = {}, ignored = {};
  void (*run32)(Run<float>&) = nullptr;
  void (*run64)(Run<double>&) = nullptr;
};

/// All modules of this program.
inline std::vector<Module>& modules() {
  static std::vector<Module> all;
  return all;
}
struct Register {
  explicit Register(Module m) { modules().push_back(std::move(m)); }
};

}  // namespace program::xray
