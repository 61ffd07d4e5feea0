#pragma once
// What the families on the one trunk share about their files.
#include <moraine/models/vit.hpp>
#include <moraine/nn/model_size.hpp>

#include <string>
#include <vector>

namespace moraine MORAINE_API {

/// Refuses a config whose trunk would be many times larger than its file, before memory is asked
/// for (nn/model_size.hpp). `files` says where the trunk's parameters stand.
inline void check_vit_size(const char* what, const ViTConfig& v, const TensorMap& weights,
                           const LoadOptions& files) {
  const double d = static_cast<double>(v.width), hidden = static_cast<double>(v.hidden);
  const double tokens = static_cast<double>(v.grid_h) * static_cast<double>(v.grid_w) +
                        static_cast<double>(v.prefix());
  const double patch = static_cast<double>(v.channels * v.patch) * static_cast<double>(v.patch);
  const double block = d * (4 * d + (v.ffn == Ffn::swiglu ? 3 : 2) * hidden);
  std::vector<ExpectedTensor> rows;
  const auto expect = [&](const std::string& path, const Shape& shape) {
    const KeyRow row = row_for(files, path);
    if (!row.keys[0].empty()) rows.push_back({row.keys[0], piece_shape(row, shape)});
  };
  if (v.final_norm) expect("norm.weight", {v.width});
  if (v.position == Position::learned)
    expect("pos_embed", {1, (v.class_token ? 1 : 0) + v.grid_h * v.grid_w, v.width});
  expect("patch_embed.proj.weight", {v.width, v.channels, v.patch, v.patch});
  if (v.registers) expect("reg_token", {1, v.registers, v.width});
  if (v.ffn == Ffn::swiglu)
    expect("blocks.0.mlp.w12.weight", {2 * v.hidden, v.width});
  else
    expect("blocks.0.mlp.fc1.weight", {v.hidden, v.width});
  for (Index i = 0; i < v.depth && i < static_cast<Index>(weights.size()); ++i)
    expect("blocks." + std::to_string(i) + ".norm1.weight", {v.width});
  check_model_size(what, static_cast<double>(v.depth) * block + d * (tokens + patch), weights,
                   rows);
}

/// A trunk from its config and the tensors of its file(s); frozen parameters stay in the mapped
/// file where they can.
template <class T>
ViT<T> load_vit(const char* what, const ViTConfig& v, const TensorMap& weights, LoadOptions files) {
  files.what = what;
  files.may_share = true;
  check_vit_size(what, v, weights, files);
  ViT<T> vit(v);
  load<T>(vit, weights, files);
  return vit;
}

}  // namespace moraine
