#pragma once
// The sizes of a recognised model, read off its weights, the published preset that has them, and
// the config.json that load_pretrained takes. What weights cannot say (heads, the activation) is
// the published models' value, named in `assumed`.
#include <cmath>
#include <map>
#include <moraine/core/any_tensor.hpp>
#include <moraine/io/json.hpp>
#include <moraine/recipes/recognise_weights.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

struct WeightSizes {
  bool complete = false;  ///< everything below was found
  Index width = 0, depth = 0, hidden = 0, patch = 0, channels = 0, registers = 0;
  Index grid = 0;   ///< trained patch grid, a side; 0: no table
  Index heads = 0;  ///< as published for this width and family
  bool gated = false;
  std::string preset;  ///< "ViT-L/14"; "" for sizes that nobody published
};

namespace detail {

/// The tensor that a row of the table names, whatever the naming: by its first piece.
class SizedWeights {
 public:
  SizedWeights(const TensorMap& map, const RecognisedWeights& r)
      : r_(r), table_(*r.family, r.naming, r.bare) {
    for (const auto& [key, t] : map)
      if (key.starts_with(r.prefix)) names_.emplace(name_in_file(key.substr(r.prefix.size())), &t);
  }
  /// The shape of a tensor by the name it has in the naming `like`; rank 0 when it is not there.
  Shape shape(const std::string& name, Naming like) const {
    std::size_t row = 0, piece = 0;
    NameMatch m;
    if (!table_.find(name, like, row, piece, m)) return {};
    const auto& here = table_.rows[row].pieces[static_cast<int>(r_.naming)];
    for (const NamePiece& p : here) {
      if (p.zeros) continue;
      const auto at = names_.find(fill_name(p.name, m));
      if (at == names_.end()) continue;
      Shape s = at->second->shape;
      if (p.transposed && s.rank == 2) std::swap(s.dim[0], s.dim[1]);
      return s;
    }
    return {};
  }
  bool has(const std::string& name, Naming like) const {
    std::size_t row = 0, piece = 0;
    NameMatch m;
    if (!table_.find(name, like, row, piece, m)) return false;
    for (const NamePiece& p : table_.rows[row].pieces[static_cast<int>(r_.naming)])
      if (!p.zeros && names_.count(fill_name(p.name, m))) return true;
    return false;
  }

 private:
  const RecognisedWeights& r_;
  NameTable table_;
  std::map<std::string, const AnyTensor*> names_;
};

struct SizePreset {
  const char* family;  ///< begins the family's name
  Index width, depth, heads, hidden, patch;
  const char* name;
};
inline constexpr SizePreset size_presets[] = {
    {"dinov2", 384, 12, 6, 1536, 14, "DINOv2 ViT-S/14"},
    {"dinov2", 768, 12, 12, 3072, 14, "DINOv2 ViT-B/14"},
    {"dinov2", 1024, 24, 16, 4096, 14, "DINOv2 ViT-L/14"},
    {"dinov2", 1536, 40, 24, 4096, 14, "DINOv2 ViT-g/14"},
    {"dinov3", 384, 12, 6, 1536, 16, "DINOv3 ViT-S/16"},
    {"dinov3", 768, 12, 12, 3072, 16, "DINOv3 ViT-B/16"},
    {"dinov3", 1024, 24, 16, 4096, 16, "DINOv3 ViT-L/16"},
    {"dinov3", 1280, 32, 20, 5120, 16, "DINOv3 ViT-H+/16"},
    {"dinov3", 4096, 40, 32, 8192, 16, "DINOv3 ViT-7B/16"},
    {"clip", 768, 12, 12, 3072, 32, "CLIP ViT-B/32"},
    {"clip", 768, 12, 12, 3072, 16, "CLIP ViT-B/16"},
    {"clip", 1024, 24, 16, 4096, 14, "CLIP ViT-L/14"},
    {"clip", 1280, 32, 16, 5120, 14, "CLIP ViT-H/14"},
    {"sam", 768, 12, 12, 3072, 16, "SAM ViT-B"},
    {"sam", 1024, 24, 16, 4096, 16, "SAM ViT-L"},
    {"sam", 1280, 32, 16, 5120, 16, "SAM ViT-H"},
    {"eva02", 192, 12, 3, 512, 14, "EVA-02 Ti/14"},
    {"eva02", 384, 12, 6, 1024, 14, "EVA-02 S/14"},
    {"eva02", 768, 12, 12, 2048, 14, "EVA-02 B/14"},
    {"eva02", 1024, 24, 16, 2730, 14, "EVA-02 L/14"},
    {"dofa", 768, 12, 12, 3072, 16, "DOFA ViT-B/16"},
    {"dofa", 1024, 24, 16, 4096, 16, "DOFA ViT-L/16"},
    {"depth_anything", 384, 12, 6, 1536, 14, "Depth Anything V2 Small"},
    {"depth_anything", 768, 12, 12, 3072, 14, "Depth Anything V2 Base"},
    {"depth_anything", 1024, 24, 16, 4096, 14, "Depth Anything V2 Large"}};

inline Index side_of(Index n) {
  const auto s = static_cast<Index>(std::lround(std::sqrt(static_cast<double>(n))));
  return s * s == n ? s : 0;
}

}  // namespace detail

/// Reads the sizes off a recognised file. Never throws for odd shapes: `complete` stays false.
inline WeightSizes weight_sizes(const TensorMap& map, const RecognisedWeights& r) {
  WeightSizes s;
  if (!r.family) return s;
  const std::string family = r.family->name;
  const detail::SizedWeights w(map, r);
  const bool sam = family == "sam", eva = family.starts_with("eva02"), clip = family == "clip",
             dofa = family == "dofa", depth = family.starts_with("depth");
  // Names that hold whatever the naming of the file: the authors', or timm's where those lack.
  const Naming like = eva || dofa ? Naming::timm : Naming::meta;
  const std::string front = clip && !(r.bare && r.naming == like)  ? "visual."
                            : sam && !(r.bare && r.naming == like) ? "image_encoder."
                            : depth                                ? "pretrained."
                                                                   : "";
  const std::string block = front + (clip ? "transformer.resblocks." : "blocks.");
  while (w.has(block + std::to_string(s.depth) + (clip ? ".ln_1.weight" : ".norm1.weight"), like))
    ++s.depth;
  s.gated = family.ends_with("_gated") || eva;
  const std::string b0 = block + "0.mlp.";
  const Shape patch = w.shape(front + (clip ? "conv1.weight" : "patch_embed.proj.weight"), like);
  const Shape out = w.shape(b0 + (clip                         ? "c_proj.weight"
                                  : sam                        ? "lin2.weight"
                                  : family.ends_with("_gated") ? "w3.weight"
                                                               : "fc2.weight"),
                            like);
  if (out.rank == 2) s.width = out.dim[0], s.hidden = out.dim[1];
  if (patch.rank == 4) s.channels = patch.dim[1], s.patch = patch.dim[2];
  const Shape pos = w.shape(front + (clip ? "positional_embedding" : "pos_embed"), like);
  if (sam && pos.rank == 4) s.grid = pos.dim[1];
  const bool timm_registers =
      family.starts_with("dinov2") && r.naming == Naming::timm && w.has("reg_token", Naming::timm);
  if (!sam && pos.rank >= 2)
    s.grid = detail::side_of(pos.dim[pos.rank - 2] - (timm_registers ? 0 : 1));
  const Shape reg = w.shape(
      front + (family.starts_with("dinov3") ? "storage_tokens" : "register_tokens"), Naming::meta);
  if (reg.rank == 3) s.registers = reg.dim[1];
  if (dofa) s.patch = 16, s.channels = 0;
  s.heads = s.width % 64 == 0 ? s.width / 64 : 0;
  if (sam) {
    const Shape rel = w.shape(block + "0.attn.rel_pos_h", like);
    s.heads =
        rel.rank == 2 && rel.dim[1] > 0 && s.width % rel.dim[1] == 0 ? s.width / rel.dim[1] : 0;
  }
  for (const detail::SizePreset& p : detail::size_presets)
    if (family.starts_with(p.family) && s.width == p.width && s.depth == p.depth &&
        s.hidden == p.hidden && s.patch == p.patch) {
      s.heads = p.heads;
      s.preset = p.name;
      if (family == "dinov3_gated" && p.width == 384) s.preset = "DINOv3 ViT-S+/16";
      if (family.starts_with("depth") &&
          w.has("depth_head.scratch.refinenet1.resConfUnit_depth.0.weight", Naming::meta))
        s.preset = "Prompt Depth Anything" + s.preset.substr(17);
      if (family.starts_with("dinov2") && s.registers) s.preset += " with registers";
    }
  s.complete = s.width > 0 && s.depth > 0 && s.hidden > 0 && s.patch > 0;
  return s;
}

/// What weights do not say, where it is another than the published models'.
struct SizedConfigOptions {
  Index heads = 0;           ///< 0: as published
  std::string activation{};  ///< hidden_act; empty: as published
};
struct SizedConfig {
  Json config;                       ///< null: it cannot be written
  std::vector<std::string> assumed;  ///< fields whose value the weights do not say
  std::string missing;               ///< why there is none
};

namespace detail {
inline Json dinov2_fields(const WeightSizes& s, const SizedWeights& w, const std::string& front,
                          bool with_type) {
  Json j = Json::object();
  if (with_type) {
    j.set("model_type", s.registers ? "dinov2_with_registers" : "dinov2");
    j.set("architectures", Json::array({s.registers ? "Dinov2WithRegistersModel" : "Dinov2Model"}));
  } else {
    j.set("model_type", "dinov2");
  }
  j.set("hidden_size", static_cast<long long>(s.width));
  j.set("num_hidden_layers", static_cast<long long>(s.depth));
  j.set("num_attention_heads", static_cast<long long>(s.heads));
  // hidden = ratio * width; gated: two thirds of it, rounded up to a multiple of eight.
  Index ratio = s.hidden / s.width;
  if (s.gated)
    for (ratio = 1; ratio < 64 && (s.width * ratio * 2 / 3 + 7) / 8 * 8 != s.hidden;) ++ratio;
  j.set("mlp_ratio", static_cast<long long>(ratio));
  j.set("hidden_act", "gelu");
  j.set("layer_norm_eps", 1e-6);
  j.set("image_size", static_cast<long long>(s.grid * s.patch));
  j.set("patch_size", static_cast<long long>(s.patch));
  j.set("num_channels", static_cast<long long>(s.channels));
  j.set("qkv_bias", w.has(front + "blocks.0.attn.qkv.bias", Naming::meta));
  j.set("use_swiglu_ffn", s.gated);
  if (s.registers) j.set("num_register_tokens", static_cast<long long>(s.registers));
  return j;
}
}  // namespace detail

/// A config.json for a file in the names that `r` says: Hugging Face's, timm's for EVA-02, any for
/// DOFA.
inline SizedConfig sized_config(const TensorMap& map, const RecognisedWeights& r,
                                const SizedConfigOptions& o = {}) {
  SizedConfig out;
  WeightSizes s = weight_sizes(map, r);
  if (o.heads > 0) s.heads = o.heads;
  const std::string family = r.family ? r.family->name : "";
  const auto n = [](Index v) { return Json(static_cast<long long>(v)); };
  if (!s.complete) {
    out.missing = "its sizes cannot be read off the weights";
    return out;
  }
  const bool eva = family.starts_with("eva02"), dofa = family == "dofa";
  if (!dofa && r.naming != (eva ? Naming::timm : Naming::hf)) {
    out.missing = std::string("it is written for the names of ") + (eva ? "timm" : "hf") + " only";
    return out;
  }
  if (s.heads == 0) {
    out.missing = "the number of heads is not known for a width of " + std::to_string(s.width) +
                  " -> say it with --heads";
    return out;
  }
  if (s.width % s.heads)
    fail(ErrorKind::value, "convert: " + std::to_string(s.heads) +
                               " heads do not divide the width " + std::to_string(s.width));
  const detail::SizedWeights w(map, r);
  Json j = Json::object();
  if (family != "sam" && o.heads == 0) out.assumed.push_back("num_attention_heads");
  if (family.starts_with("dinov2")) {
    j = detail::dinov2_fields(s, w, "", true);
    if (!s.registers) j.set("use_mask_token", w.has("mask_token", Naming::meta));
    out.assumed.insert(out.assumed.end(), {"hidden_act", "layer_norm_eps"});
  } else if (family.starts_with("dinov3")) {
    const std::string q = "layer.0.attention.";
    const auto here = [&](const std::string& name) { return map.count(r.prefix + name) != 0; };
    j.set("model_type", "dinov3_vit");
    j.set("architectures", Json::array({"DINOv3ViTModel"}));
    j.set("hidden_size", n(s.width));
    j.set("intermediate_size", n(s.hidden));
    j.set("num_hidden_layers", n(s.depth));
    j.set("num_attention_heads", n(s.heads));
    j.set("patch_size", n(s.patch));
    j.set("num_channels", n(s.channels));
    j.set("hidden_act", s.gated ? "silu" : "gelu");
    j.set("layer_norm_eps", 1e-5);
    j.set("rope_theta", 100.0);
    j.set("image_size", n(224));
    j.set("query_bias", here(q + "q_proj.bias"));
    j.set("key_bias", here(q + "k_proj.bias"));
    j.set("value_bias", here(q + "v_proj.bias"));
    j.set("proj_bias", here(q + "o_proj.bias"));
    j.set("mlp_bias", here("layer.0.mlp.up_proj.bias"));
    j.set("use_gated_mlp", s.gated);
    j.set("num_register_tokens", n(s.registers));
    out.assumed.insert(out.assumed.end(), {"hidden_act", "layer_norm_eps", "rope_theta"});
  } else if (family == "clip") {
    j.set("model_type", "clip_vision_model");
    const Shape projection = w.shape("visual.proj", Naming::meta);
    j.set("architectures", Json::array({projection.rank == 2 ? "CLIPVisionModelWithProjection"
                                                             : "CLIPVisionModel"}));
    j.set("hidden_size", n(s.width));
    j.set("intermediate_size", n(s.hidden));
    j.set("num_hidden_layers", n(s.depth));
    j.set("num_attention_heads", n(s.heads));
    j.set("num_channels", n(s.channels));
    j.set("image_size", n(s.grid * s.patch));
    j.set("patch_size", n(s.patch));
    j.set("hidden_act", "quick_gelu");
    j.set("layer_norm_eps", 1e-5);
    if (projection.rank == 2) j.set("projection_dim", n(projection.dim[0]));
    out.assumed.insert(out.assumed.end(), {"hidden_act", "layer_norm_eps"});
  } else if (family == "sam") {
    j.set("model_type", "sam_vision_model");
    j.set("architectures", Json::array({"SamVisionModel"}));
    const std::string front = r.bare ? "" : "vision_encoder.";
    const Shape neck = w.shape(front + "neck.conv1.weight", Naming::hf);
    j.set("hidden_size", n(s.width));
    j.set("num_hidden_layers", n(s.depth));
    j.set("num_attention_heads", n(s.heads));
    j.set("mlp_dim", n(s.hidden));
    j.set("output_channels", n(neck.rank == 4 ? neck.dim[0] : 256));
    j.set("num_channels", n(s.channels));
    j.set("image_size", n(s.grid * s.patch));
    j.set("patch_size", n(s.patch));
    j.set("qkv_bias", w.has(front + "layers.0.attn.qkv.bias", Naming::hf));
    Json global = Json::array();
    Index window = 0;
    for (Index i = 0; i < s.depth; ++i) {
      const Shape rel =
          w.shape(front + "layers." + std::to_string(i) + ".attn.rel_pos_h", Naming::hf);
      const Index reach = rel.rank == 2 ? (rel.dim[0] + 1) / 2 : s.grid;
      if (reach == s.grid)
        global.push(n(i));
      else
        window = reach;
    }
    j.set("window_size", n(window));
    j.set("global_attn_indexes", std::move(global));
    j.set("hidden_act", "gelu");
    j.set("layer_norm_eps", 1e-6);
    out.assumed.insert(out.assumed.end(), {"hidden_act", "layer_norm_eps"});
  } else if (eva) {
    const char* size = s.width == 192   ? "tiny"
                       : s.width == 384 ? "small"
                       : s.width == 768 ? "base"
                                        : "large";
    const bool large = s.grid * s.patch > 224;
    const bool fused = family == "eva02_fused";
    if (s.preset.empty() || fused != (s.width < 768)) {
      out.missing = "timm has no architecture of these sizes";
      return out;
    }
    j.set("architecture", std::string("eva02_") + size + "_patch14_" +
                              (!large          ? "224"
                               : s.width < 768 ? "336"
                                               : "448"));
    const Shape head = w.shape("head.weight", Naming::timm);
    j.set("num_classes", n(head.rank == 2 ? head.dim[0] : 0));
    Json args = Json::object();
    args.set("img_size", n(s.grid * s.patch));
    if (w.has("norm.weight", Naming::timm) && !map.count(r.prefix + "fc_norm.weight"))
      args.set("global_pool", "token");
    j.set("model_args", std::move(args));
    out.assumed.clear();
  } else if (dofa) {
    j.set("model_type", "dofa");
    j.set("img_size", n(s.grid * s.patch));
    j.set("patch_size", n(s.patch));
    j.set("embed_dim", n(s.width));
    j.set("depth", n(s.depth));
    j.set("num_heads", n(s.heads));
    j.set("mlp_ratio", static_cast<double>(s.hidden) / static_cast<double>(s.width));
    j.set("global_pool", true);
    const Shape head = w.shape("head.weight", Naming::timm);
    j.set("num_classes", n(head.rank == 2 ? head.dim[0] : 0));
    out.assumed = {"num_heads", "patch_size", "global_pool"};
  } else {  // Depth Anything
    const bool prompt =
        w.has("depth_head.scratch.refinenet1.resConfUnit_depth.0.weight", Naming::meta);
    j.set("model_type", prompt ? "prompt_depth_anything" : "depth_anything");
    j.set("architectures", Json::array({prompt ? "PromptDepthAnythingForDepthEstimation"
                                               : "DepthAnythingForDepthEstimation"}));
    Json backbone = detail::dinov2_fields(s, w, "pretrained.", false);
    Json stages = Json::array();
    if (s.depth == 24)
      stages = Json::array({5, 12, 18, 24});
    else if (s.depth == 40)
      stages = Json::array({10, 20, 30, 40});
    else
      for (Index i = 1; i <= 4; ++i) stages.push(n(s.depth * i / 4));
    backbone.set("out_indices", std::move(stages));
    backbone.set("apply_layernorm", true);
    backbone.set("reshape_hidden_states", false);
    j.set("backbone_config", std::move(backbone));
    j.set("patch_size", n(s.patch));
    j.set("reassemble_hidden_size", n(s.width));
    Json necks = Json::array();
    for (int i = 0; i < 4; ++i) {
      const Shape c = w.shape("depth_head.projects." + std::to_string(i) + ".weight", Naming::meta);
      necks.push(n(c.rank == 4 ? c.dim[0] : 0));
    }
    j.set("neck_hidden_sizes", std::move(necks));
    const Shape fusion = w.shape("depth_head.scratch.layer1_rn.weight", Naming::meta);
    const Shape head = w.shape("depth_head.scratch.output_conv2.0.weight", Naming::meta);
    j.set("fusion_hidden_size", n(fusion.rank == 4 ? fusion.dim[0] : 0));
    j.set("head_hidden_size", n(head.rank == 4 ? head.dim[0] : 0));
    j.set("depth_estimation_type", prompt ? "metric" : "relative");
    if (!prompt) j.set("max_depth", 1);
    out.assumed.insert(out.assumed.end(), {"out_indices", "depth_estimation_type"});
  }
  if (!o.activation.empty() && j.find("hidden_act")) j.set("hidden_act", o.activation);
  out.config = std::move(j);
  return out;
}

}  // namespace moraine
