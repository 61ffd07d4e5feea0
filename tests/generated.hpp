#pragma once
// Model folders whose weights are a formula (weights.json, see scripts/make_dofa_fixtures.py): too
// large to be committed, written where a test needs them.
#include <moraine/io/file.hpp>
#include <moraine/io/json.hpp>
#include <moraine/io/safetensors.hpp>

#include "fixtures.hpp"

namespace fixtures {

/// Elements uniform in [low, high): the first 53 bits of splitmix64, seeded by the FNV-1a hash of
/// the name.
inline moraine::Tensor<float> filled(const std::string& name, const moraine::Shape& shape,
                                     double low, double high) {
  std::uint64_t seed = 0xcbf29ce484222325u;
  for (const char c : name) seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  auto t = moraine::Tensor<float>::empty(shape);
  for (moraine::Index i = 0; i < t.numel(); ++i) {
    std::uint64_t z = seed + static_cast<std::uint64_t>(i + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    t.data()[i] = static_cast<float>(low + (high - low) * (static_cast<double>(z >> 11) * 0x1p-53));
  }
  return t;
}

/// The tensors that a weights.json describes.
inline moraine::TensorMap generated(const std::string& weights_json) {
  moraine::TensorMap all;
  const moraine::Json tensors = moraine::read_json(weights_json);
  for (const moraine::JsonMember& m : tensors.as_object()) {
    moraine::Shape shape;
    for (const moraine::Json& n : m.value.at("shape").as_array()) shape.push(n.as_int());
    all.emplace(
        m.key, filled(m.key, shape, m.value.at("low").as_double(), m.value.at("high").as_double()));
  }
  return all;
}

/// A fixture's folder as a model's: itself, or, where its weights are a formula, a copy with them
/// that lives as long as this.
struct ModelFolder {
  std::string path;

  explicit ModelFolder(const std::string& folder) : path(folder) {
    if (!moraine::is_file(folder + "/weights.json")) return;
    path = own_.path;
    moraine::write_file(path + "/config.json", moraine::read_file(folder + "/config.json"));
    moraine::write_safetensors(path + "/model.safetensors", generated(folder + "/weights.json"));
  }

 private:
  scratch::Dir own_;
};

}  // namespace fixtures
