#pragma once
// What every family's test asks of its fixtures, through the type that all of them share.
#include <doctest/doctest.h>

#include <cstdio>
#include <moraine/autograd/backward.hpp>
#include <moraine/ops/binary.hpp>
#include <moraine/ops/reduce.hpp>
#include <moraine/peft/inject.hpp>
#include <moraine/peft/lora.hpp>
#include <moraine/recipes/pretrained.hpp>
#include <string>

#include "../fixtures.hpp"

namespace model_parity {
using namespace moraine;

/// Every output of every image of a family's folders, within 1e-5 (the contract asks for 1e-4).
inline void check_states(const std::string& prefix, std::size_t folders) {
  const auto found = fixtures::folders(prefix);
  REQUIRE(found.size() >= folders);
  for (const std::string& dir : found) {
    const auto model = load_pretrained<float>(dir);
    double worst = -1;
    int images = 0;
    std::string where;
    for (const std::string& file : scratch::list(dir)) {
      if (file.rfind("in", 0) != 0 || !file.ends_with(".safetensors")) continue;
      const auto in = read_safetensors(dir + "/" + file);
      const auto ref = read_safetensors(dir + "/ref" + file.substr(2));
      BackboneInput<float> input;
      input.pixels = in.tensors.at("pixel_values").as<float>();
      const NoGrad off;
      std::string at;
      const double d = fixtures::distance(model->forward(input).named(), ref.tensors, &at);
      if (d > worst) worst = d, where = file + " " + at;
      ++images;
    }
    std::printf("  %-32s %d images, worst %.1e (%s)\n", base_name(dir).c_str(), images, worst,
                where.c_str());
    CHECK_MESSAGE(worst <= 1e-5, dir);
    CHECK(images >= 1);
  }
}

/// grad.safetensors of a folder: what `output` pulls back to the pixels and to early weights.
/// `files` says what the weights are called in the file.
template <class Output>
void check_gradients(const std::string& name, const LoadOptions& files, std::size_t least,
                     Output output) {
  const std::string dir = fixtures::dir() + "/" + name;
  const TensorMap map = read_safetensors(dir + "/grad.safetensors").tensors;
  const auto model = load_pretrained<float>(dir);
  require_grad<float>(*model, "**");
  BackboneInput<float> in;
  in.pixels = map.at("pixel_values").as<float>().clone();
  in.pixels.requires_grad();
  backward(sum(mul(output(model->forward(in)), map.at("cotangent").as<float>())));
  TensorMap got{{"d.pixel_values", in.pixels.grad()}}, ref;
  for (const Named<float>& p : parameters<float>(*model)) {
    REQUIRE_MESSAGE(p.tensor->grad().defined(), p.name);
    const KeyRow row = row_for(files, p.name);
    AnyTensor piece = AnyTensor(p.tensor->grad());
    piece.shape = piece_shape(row, piece.shape);
    piece.bytes /= row.keys.size();
    for (const std::string& key : row.keys) {
      if (map.count("d." + key)) got.emplace("d." + key, piece);
      piece.data += piece.bytes;
    }
  }
  for (const auto& [key, t] : map)
    if (key.rfind("d.", 0) == 0) ref.emplace(key, t);
  REQUIRE(ref.size() >= least);
  std::string at;
  const double d = fixtures::distance(got, ref, &at);
  std::printf("  %-32s gradients: worst %.1e (%s)\n", name.c_str(), d, at.c_str());
  CHECK(d <= 1e-5);
}

/// LoRA by path: the same output before training, and gradients for its two matrices alone.
inline void check_lora(const std::string& name, const char* pattern, std::size_t places) {
  const std::string dir = fixtures::dir() + "/" + name;
  const auto plain = load_pretrained<float>(dir), adapted = load_pretrained<float>(dir);
  CHECK(inject<float>(*adapted, pattern, lora({.rank = 2})).size() == places);
  BackboneInput<float> in;
  in.pixels =
      read_safetensors(dir + "/in.safetensors").tensors.at("pixel_values").template as<float>();
  const Tensor<float> y = adapted->forward(in).last_hidden_state;
  CHECK(fixtures::distance(y, plain->forward(in).last_hidden_state) == 0);
  backward(sum(mul(y, y)));
  std::size_t trained = 0;
  for (const Named<float>& p : parameters<float>(*adapted)) {
    const bool lora_matrix = p.name.find(".lora_") != std::string::npos;
    CHECK_MESSAGE(p.tensor->tracked() == lora_matrix, p.name);
    trained += lora_matrix && p.tensor->grad().defined();
    if (!lora_matrix) continue;
    // Another output once they have moved.
    for (Index i = 0; i < p.tensor->numel(); ++i)
      p.tensor->data()[i] += 0.1f * static_cast<float>(i % 3 - 1);
  }
  CHECK(trained == 2 * places);
  CHECK(fixtures::distance(adapted->forward(in).last_hidden_state, y) > 1e-3);
}

/// Every key of the file but `ignored` comes back from save(), bit for bit, and no other.
template <class M>
void check_keys(const std::string& name, M& model, const LoadOptions& files, std::size_t ignored) {
  const Pretrained p = open_pretrained(fixtures::dir() + "/" + name);
  const TensorMap back = save<float>(model, files);
  for (const auto& entry : back) {  // clang 14: no structured binding within INFO
    const std::string& key = entry.first;
    REQUIRE_MESSAGE(p.weights.tensors.count(key) == 1, key);
    const double d = fixtures::distance(entry.second, p.weights.tensors.at(key));
    CHECK_MESSAGE(d == 0, key);
  }
  CHECK(back.size() + ignored == p.weights.tensors.size());
}

/// The message of the error that a model's files or input make.
template <class F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "(no error)";
}

}  // namespace model_parity
