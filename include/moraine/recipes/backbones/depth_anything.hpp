#pragma once
// Depth Anything and Prompt Depth Anything from a Hugging Face directory: model_type depth_anything
// and prompt_depth_anything.
#include <moraine/recipes/backbones/dinov2.hpp>
#include <moraine/recipes/depth_anything.hpp>

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

namespace detail {

/// A number as one would write it: 4, not 4.0.
inline std::string plain_number(double v) {
  return v == std::floor(v) && std::abs(v) < 1e15 ? std::to_string(static_cast<Index>(v))
                                                  : number_text(v);
}

/// "stage7" and -5 of twelve layers -> 7 and 8, ascending; "stem" is the input of the first block.
inline std::vector<Index> depth_stages(const ConfigReader& r, Index layers) {
  std::vector<Index> by_index, by_name;
  for (double v : r.numbers("out_indices", {})) {
    const double least = -static_cast<double>(layers + 1), most = static_cast<double>(layers);
    if (!(v >= least && v <= most) || v != std::floor(v))
      r.refuse("out_indices",
               "is out of range; " + plain_number(v) + " of " + std::to_string(layers) + " layers");
    by_index.push_back(static_cast<Index>(v) + (v < 0 ? layers + 1 : 0));
  }
  for (const std::string& name : r.texts("out_features", {})) {
    Index at = name == "stem" ? 0 : -1;
    for (Index i = 1; i <= layers && at < 0; ++i)
      if (name == "stage" + std::to_string(i)) at = i;
    if (at < 0)
      r.refuse("out_features", "holds " + quoted(name) + "; the stages are stem, stage1 to stage" +
                                   std::to_string(layers));
    by_name.push_back(at);
  }
  if (!by_index.empty() && !by_name.empty() && by_index != by_name)
    r.refuse("out_features", "names other stages than out_indices");
  const std::vector<Index>& stages = by_index.empty() ? by_name : by_index;
  for (std::size_t i = 1; i < stages.size(); ++i)
    if (stages[i] <= stages[i - 1])
      r.refuse(by_index.empty() ? "out_features" : "out_indices",
               "must ascend; " + std::to_string(stages[i]) + " follows " +
                   std::to_string(stages[i - 1]));
  return stages.empty() ? std::vector<Index>{layers} : stages;
}

}  // namespace detail

/// The config of a depth_anything or prompt_depth_anything from its config.json.
inline DepthAnythingConfig read_depth_anything_config(const ConfigReader& r, bool prompt) {
  DepthAnythingConfig c;
  if (r.has("backbone_config")) {
    const ConfigReader b = r.object("backbone_config");
    const std::string type = b.text("model_type", "dinov2");
    if (type != "dinov2" && type != "dinov2_with_registers")
      b.refuse("model_type", quoted(type) + " is not supported -> dinov2");
    c.backbone = read_dinov2_config(b, type == "dinov2_with_registers");
    c.stages = detail::depth_stages(b, c.backbone.num_hidden_layers);
    c.apply_layernorm = b.flag("apply_layernorm", true);
    if (c.backbone.with_registers && c.backbone.num_register_tokens > 0)
      b.refuse("num_register_tokens", std::to_string(c.backbone.num_register_tokens) +
                                          " is not supported; the head reads patches behind a CLS "
                                          "token alone -> 0");
  }
  DptConfig& h = c.head;
  h.width = r.size("reassemble_hidden_size", h.width);
  h.patch = r.size("patch_size", h.patch);
  h.factors = r.numbers("reassemble_factors", h.factors);
  h.channels = r.sizes("neck_hidden_sizes", h.channels, 1);
  h.fusion = r.size("fusion_hidden_size", h.fusion, 2);
  h.head = r.size("head_hidden_size", h.head);
  h.prompt = prompt;
  const double head_in = r.number("head_in_index", -1);
  const double maps = static_cast<double>(h.channels.size());
  if (!(head_in >= -maps && head_in < maps) || head_in != std::floor(head_in))
    r.refuse("head_in_index", detail::plain_number(head_in) + " names none of " +
                                  detail::plain_number(maps) + " maps");
  const std::string kind = r.text("depth_estimation_type", "relative");
  if (kind != "relative" && kind != "metric")
    r.refuse("depth_estimation_type", quoted(kind) + " is not supported -> relative, metric");
  h.kind = kind == "metric" ? DepthKind::metric : DepthKind::relative;
  const double most = r.number("max_depth", 1);
  if (!prompt) {  // the class of a prompt reads neither
    h.head_in = static_cast<Index>(head_in);
    h.max_depth = most;
  }
  if (h.factors.size() < h.channels.size())
    r.refuse("reassemble_factors", "holds " + std::to_string(h.factors.size()) + " factors for " +
                                       std::to_string(h.channels.size()) + " neck_hidden_sizes");
  for (double f : h.factors)
    if (!(f >= 1.0 / 64 && f <= 64) || (f > 1 && f != std::floor(f)))
      r.refuse("reassemble_factors", "is out of range; " + detail::plain_number(f) +
                                         " -> whole above 1, or at least 1/64");
  if (h.width != c.backbone.hidden_size)
    r.refuse("reassemble_hidden_size", std::to_string(h.width) +
                                           " differs from the backbone's hidden_size " +
                                           std::to_string(c.backbone.hidden_size));
  if (h.patch != c.backbone.patch_size)
    r.refuse("patch_size", std::to_string(h.patch) + " differs from the backbone's " +
                               std::to_string(c.backbone.patch_size));
  if (h.channels.size() != c.stages.size())
    r.refuse("neck_hidden_sizes", "holds " + std::to_string(h.channels.size()) + " sizes for " +
                                      std::to_string(c.stages.size()) +
                                      " stages of the backbone's out_indices");
  for (Index s : c.stages)
    if (s > c.backbone.num_hidden_layers)
      r.refuse("backbone_config", "has " + std::to_string(c.backbone.num_hidden_layers) +
                                      " layers; stage " + std::to_string(s) + " is read");
  return c;
}

/// The model, loaded and not yet packed.
template <class T = float>
DepthAnything<T> open_depth_anything(const Pretrained& p) {
  const DepthAnythingConfig c =
      read_depth_anything_config(p.reader(), p.model_type == "prompt_depth_anything");
  check_weight_dtypes(p, depth_anything_files());
  return depth_anything<T>(c, p.weights.tensors);
}
/// A model from its directory; frozen and packed.
template <class T = float>
DepthAnything<T> load_depth_anything(const Pretrained& p) {
  DepthAnything<T> model = open_depth_anything<T>(p);
  prepare_mapped<T>(model, p.weights);
  return model;
}

/// Out: hidden states of the trunk and predicted_depth.
template <class T>
struct DepthAnythingBackbone final : Backbone<T> {
  DepthAnything<T> model;
  explicit DepthAnythingBackbone(DepthAnything<T> m) : model(std::move(m)) {}
  BackboneOutput<T> forward(const BackboneInput<T>& in) override {
    check(in);
    BackboneOutput<T> out;
    out.hidden_states = model.states(in.pixels);
    out.predicted_depth =
        model.depth(out.hidden_states, {in.pixels.size(2), in.pixels.size(3)}, in.prompt_depth);
    return out;
  }
  void check(const BackboneInput<T>& in) const override {
    check_pixels(in.pixels, {.channels = model.config.backbone.num_channels,
                             .patch = model.config.backbone.patch_size});
    if (!in.prompt_depth.defined()) return;
    const Shape& s = in.prompt_depth.shape();
    const auto refuse = [&](const std::string& why) {
      fail(ErrorKind::shape, "prompt_depth: " + str(s) + " " + why);
    };
    if (!model.config.head.prompt) refuse("is given; this model takes none");
    if (s.rank != 4) refuse("must have four axes (B,1,h,w); it has " + std::to_string(s.rank));
    if (s[0] != in.pixels.size(0))
      refuse("is for another batch; pixel_values " + str(in.pixels.shape()));
    if (s[1] != 1) refuse("has " + std::to_string(s[1]) + " channels; the model takes 1");
    if (s[2] < 1 || s[3] < 1) refuse("holds no pixel");
  }
  void visit(Visitor<T>& v) override { model.visit(v); }
  std::vector<std::string> more_inputs() const override {
    if (model.config.head.prompt) return {"prompt_depth"};
    return {};
  }
};
template <class T>
std::unique_ptr<Backbone<T>> depth_anything_backbone(const Pretrained& p) {
  return std::make_unique<DepthAnythingBackbone<T>>(open_depth_anything<T>(p));
}

}  // namespace moraine
