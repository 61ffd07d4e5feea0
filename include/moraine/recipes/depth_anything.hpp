#pragma once
// Depth Anything V2 (Yang et al., 2024) and Prompt Depth Anything (Lin et al., 2025): a DINOv2
// trunk whose hidden states of four stages, each through the final norm, are read by a DPT head.
//
//   DepthAnything<float> model = depth_anything<float>(config, weights);
//   Tensor<float> depth = model(pixels);                          // (B,p*h,p*w)
//   for (Tensor<float>& x : model.states(pixels)) ...             // the trunk's hidden states
//
// Relative depth is inverse depth (larger is nearer), metric depth is in metres. Facts from
// transformers' modeling_depth_anything.py, modeling_prompt_depth_anything.py and the conversion
// scripts beside them.
#include <moraine/decoders/dpt.hpp>
#include <moraine/models/dinov2.hpp>
#include <moraine/recipes/backbone.hpp>

#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

struct DepthAnythingConfig {
  Dinov2Config backbone = {.hidden_size = 384, .num_attention_heads = 6, .image_size = 518};
  std::vector<Index> stages = {9, 10, 11, 12};  ///< hidden states that the head reads, ascending
  bool apply_layernorm = true;                  ///< the final norm on each of them
  DptConfig head = {};
};

/// The published sizes. `max_depth` above 0: a metric model; 20 indoors, 80 outdoors.
inline DepthAnythingConfig depth_anything_v2_small(double max_depth = 0) {
  DepthAnythingConfig c{.backbone = dinov2_small(), .stages = {3, 6, 9, 12}};
  if (max_depth > 0) c.head.kind = DepthKind::metric, c.head.max_depth = max_depth;
  return c;
}
inline DepthAnythingConfig depth_anything_v2_base(double max_depth = 0) {
  DepthAnythingConfig c = depth_anything_v2_small(max_depth);
  c.backbone = dinov2_base();
  c.head.width = 768;
  c.head.channels = {96, 192, 384, 768};
  c.head.fusion = 128;
  return c;
}
inline DepthAnythingConfig depth_anything_v2_large(double max_depth = 0) {
  DepthAnythingConfig c = depth_anything_v2_small(max_depth);
  c.backbone = dinov2_large();
  c.stages = {5, 12, 18, 24};
  c.head.width = 1024;
  c.head.channels = {256, 512, 1024, 1024};
  c.head.fusion = 256;
  return c;
}
/// Announced by its authors, weights not published.
inline DepthAnythingConfig depth_anything_v2_giant(double max_depth = 0) {
  DepthAnythingConfig c = depth_anything_v2_small(max_depth);
  c.backbone = dinov2_giant();
  c.stages = {10, 20, 30, 40};
  c.head.width = 1536;
  c.head.channels = {1536, 1536, 1536, 1536};
  c.head.fusion = 384;
  return c;
}
/// Their last activation is a sigmoid: without a prompt the depth is in [0,1].
inline DepthAnythingConfig prompt_depth_anything_small() {
  DepthAnythingConfig c = depth_anything_v2_small(1);
  c.head.prompt = true;
  return c;
}
inline DepthAnythingConfig prompt_depth_anything_large() {
  DepthAnythingConfig c = depth_anything_v2_large(1);
  c.head.prompt = true;
  return c;
}

/// Throws ErrorKind::value where trunk and head do not fit, or a stage is not there.
inline void check_depth_anything(const DepthAnythingConfig& c) {
  const auto bad = [](const std::string& what) {
    fail(ErrorKind::value, "depth_anything: " + what);
  };
  check_dpt(c.head);
  if (c.backbone.with_registers && c.backbone.num_register_tokens > 0)
    bad("the head reads patches behind a CLS token alone, as in the reference; " +
        std::to_string(c.backbone.num_register_tokens) + " register tokens");
  if (c.head.width != c.backbone.hidden_size || c.head.patch != c.backbone.patch_size)
    bad("width and patch of trunk and head differ; " + std::to_string(c.backbone.hidden_size) +
        ", " + std::to_string(c.backbone.patch_size) + " and " + std::to_string(c.head.width) +
        ", " + std::to_string(c.head.patch));
  if (c.stages.size() != c.head.channels.size())
    bad("the head reads " + std::to_string(c.head.channels.size()) + " stages; " +
        std::to_string(c.stages.size()) + " are given");
  for (std::size_t i = 0; i < c.stages.size(); ++i)
    if (c.stages[i] < 0 || c.stages[i] > c.backbone.num_hidden_layers ||
        (i && c.stages[i] <= c.stages[i - 1]))
      bad("stages must ascend from 0 to " + std::to_string(c.backbone.num_hidden_layers) + "; " +
          std::to_string(c.stages[i]));
}

template <class T>
struct DepthAnything {
  DepthAnythingConfig config;
  ViT<T> backbone;
  Dpt<T> dpt;

  DepthAnything() = default;
  /// All parameters zero (norms one), to be loaded or initialised. Throws ErrorKind::value.
  explicit DepthAnything(const DepthAnythingConfig& c)
      : config((check_depth_anything(c), c)), backbone(vit_config(c.backbone)), dpt(c.head) {}

  /// Pixels (B,C,H,W) -> hidden states 0 to depth of the trunk, (B,1+N,D) each.
  std::vector<Tensor<T>> states(const Tensor<T>& pixels) {
    Scope scope("backbone");
    return hidden_states<T>(backbone, pixels);
  }
  /// Hidden states of the trunk for images of height x width -> depth (B,p*(height/p),p*(width/p)).
  /// `prompt` (B,1,h,w) of any size, or undefined. Only config.stages need be defined.
  Tensor<T> depth(const std::vector<Tensor<T>>& states, Size2 image,
                  const Tensor<T>& prompt = {}) const {
    const Index p = config.head.patch;
    const Size2 grid{image.h / p, image.w / p};
    std::vector<Tensor<T>> stages;
    for (Index s : config.stages) {
      // The norm is row by row, so CLS may go first.
      const Tensor<T>& x = states.at(static_cast<std::size_t>(s));
      const Tensor<T> patches = slice(x, 1, 1, x.size(1));  // (B,N,D)
      stages.push_back(config.apply_layernorm ? backbone.finish(patches) : patches);
    }
    return dpt(stages, grid, prompt);
  }
  /// Pixels (B,C,H,W) and perhaps a prompt (B,1,h,w) -> depth (B,p*(H/p),p*(W/p)).
  Tensor<T> operator()(const Tensor<T>& pixels, const Tensor<T>& prompt = {}) {
    std::vector<Tensor<T>> kept(static_cast<std::size_t>(backbone.config.depth) + 1);
    {
      Scope scope("backbone");
      Tensor<T> x = backbone.embed(pixels);  // (B,1+N,D)
      std::size_t next = 0;
      for (Index i = 0; next < config.stages.size(); ++i) {
        if (i > 0) x = backbone.block(i - 1, x);
        if (config.stages[next] == i) kept[static_cast<std::size_t>(i)] = x, ++next;
      }
    }
    return depth(kept, {pixels.size(2), pixels.size(3)}, prompt);
  }
  void visit(Visitor<T>& v) {
    v("backbone", backbone);
    dpt.visit(v);
  }
};

/// The key table of the Hugging Face files: the trunk's under "backbone.", the head's as they are.
inline std::vector<std::string> depth_anything_keys(const std::string& path) {
  const std::string head = "backbone.";
  if (path.rfind(head, 0) != 0) return {path};
  std::vector<std::string> keys = dinov2_keys(path.substr(head.size()));
  for (std::string& k : keys) k = head + k;
  return keys;
}
/// How to load or save such a file.
inline LoadOptions depth_anything_files() {
  return {.ignored = {"backbone.embeddings.mask_token"},
          .keys_of = depth_anything_keys,
          .what = "depth_anything"};
}

/// Values that the head's layers hold.
inline double dpt_size(const DptConfig& c) {
  const double f = static_cast<double>(c.fusion);
  double n = f * f / 2 * 9 + f / 2 * 9 * static_cast<double>(c.head);
  for (std::size_t i = 0; i < c.channels.size(); ++i) {
    const double k = static_cast<double>(c.channels[i]), factor = c.factors[i];
    n += k * static_cast<double>(c.width) + 9 * k * f + f * f * (c.prompt ? 55 : 37);
    n += factor > 1 ? k * k * factor * factor : factor < 1 ? 9 * k * k : 0;
  }
  return n;
}

/// A model from a config and the tensors of its file(s); frozen, not yet packed.
template <class T = float>
DepthAnything<T> depth_anything(const DepthAnythingConfig& c, const TensorMap& weights) {
  check_depth_anything(c);
  check_dinov2_size(c.backbone, weights, "backbone.");
  double have = 0;
  for (const auto& [key, t] : weights) have += static_cast<double>(t.shape.numel());
  if (dpt_size(c.head) > 8 * have + (1 << 20))
    fail(ErrorKind::key,
         "depth_anything: the weights do not fit the model; the file holds far fewer values than "
         "neck_hidden_sizes, fusion_hidden_size and head_hidden_size ask for");
  DepthAnything<T> model(c);
  LoadOptions files = depth_anything_files();
  files.may_share = true;
  // Without registers that class still writes an empty table.
  if (c.backbone.with_registers) files.ignored.push_back("backbone.embeddings.register_tokens");
  load<T>(model, weights, files);
  return model;
}

}  // namespace moraine
