#pragma once
// The small trunks as files: weights in half precision (2.4 MB each) with what a user must know in
// the metadata: bands, wavelengths, normalisation, and how they were trained.
#include <cstdint>
#include <map>
#include <moraine/io/safetensors.hpp>
#include <moraine/recipes/small_trunks.hpp>
#include <string>

namespace moraine MORAINE_API {

inline const char* name_of(SmallTrunk kind) {
  return kind == SmallTrunk::vision ? "vision" : "depth";
}

/// Writes a trunk, rounded to half precision; read_trunk() of recipes/model_card.hpp reads it.
/// `how` joins the metadata (steps, seed, losses).
inline void save_small_trunk(const std::string& path, ViT<float>& trunk, SmallTrunk kind,
                             const std::map<std::string, std::string>& how) {
  TensorMap half;
  for (const auto& [name, value] : state<float>(trunk)) {
    const Tensor<float> x = value.as<float>();
    Tensor<float16> y = Tensor<float16>::empty(x.shape());
    for (Index i = 0; i < x.numel(); ++i) y.data()[i] = float16(x.data()[i]);
    half.emplace(name, y);
  }
  std::map<std::string, std::string> card = {
      {"model", "moraine small trunk"},
      {"kind", name_of(kind)},
      {"config", "patch 4, width 128, blocks 6, heads 4, hidden 512, sincos positions, eps 1e-6"},
      {"bands", kind == SmallTrunk::vision ? "blue,green,red,nir" : "blue,green,red"},
      {"wavelengths_nm", kind == SmallTrunk::vision ? "485,555,660,830" : "485,555,660"},
      {"units", "reflectance"},
      {"mean", kind == SmallTrunk::vision ? "0.10,0.125,0.14,0.28" : "0.10,0.125,0.14"},
      {"std", kind == SmallTrunk::vision ? "0.05,0.06,0.075,0.14" : "0.05,0.06,0.075"},
      {"pretraining", kind == SmallTrunk::vision
                          ? "masked modelling of generated scenes, 60 % hidden"
                          : "log(1 + height) of generated scenes, smooth L1"},
      {"licence", "MIT"}};
  for (const auto& [k, v] : how) card[k] = v;
  write_safetensors(path, half, card);
}

}  // namespace moraine
