#pragma once
// Foundation models from a directory as the model hub has it, whatever their family: the one table
// of what config.json may name. A program that knows its family includes that family's header alone
// (recipes/backbones/dinov2.hpp) and compiles nothing of the others.
#include <moraine/recipes/backbones/clip.hpp>
#include <moraine/recipes/backbones/depth_anything.hpp>
#include <moraine/recipes/backbones/dinov2.hpp>
#include <moraine/recipes/backbones/dinov3.hpp>
#include <moraine/recipes/backbones/dofa.hpp>
#include <moraine/recipes/backbones/eva02.hpp>
#include <moraine/recipes/backbones/sam.hpp>

#include <memory>
#include <string>

namespace moraine MORAINE_API {

/// One row: what `model_type` (transformers) or `architecture` (timm) says, '*' for any letters,
/// and what makes the model of it.
template <class T>
struct BackboneFamily {
  const char* name;
  std::unique_ptr<Backbone<T>> (*make)(const Pretrained&);
};

/// Every family. A new one is an include above and a row here.
template <class T>
inline constexpr BackboneFamily<T> backbone_families[] = {
    {"dinov2", dinov2_backbone<T>},
    {"dinov2_with_registers", dinov2_backbone<T>},
    {"dinov3_vit", dinov3_backbone<T>},
    {"clip_vision_model", clip_backbone<T>},
    {"clip", clip_backbone<T>},
    {"eva02_*", eva02_backbone<T>},
    {"sam_vision_model", sam_backbone<T>},
    {"sam", sam_backbone<T>},
    {"dofa", dofa_backbone<T>},
    {"depth_anything", depth_anything_backbone<T>},
    {"prompt_depth_anything", depth_anything_backbone<T>},
};

/// "dinov2, dinov2_with_registers, ...": for messages and help texts.
template <class T = float>
std::string backbone_names() {
  std::string all;
  for (const BackboneFamily<T>& f : backbone_families<T>)
    all += std::string(all.empty() ? "" : ", ") + f.name;
  return all;
}

struct PretrainedOptions {
  /// Packs the frozen weights for the kernels. Say false to change the model first (use_bf16,
  /// inject), then call prepare().
  bool packed = true;
  /// Receives what became of every key of the file; null: nobody asks.
  LoadReport* report = nullptr;
};

/// The backbone that a directory's config.json names.
template <class T = float>
std::unique_ptr<Backbone<T>> load_pretrained(const Pretrained& p, const PretrainedOptions& o = {}) {
  const char* field = p.model_type.empty() ? "architecture" : "model_type";
  const std::string& name = p.model_type.empty() ? p.architecture : p.model_type;
  if (name.empty())
    fail(ErrorKind::config,
         "config.json: names no model; it has neither model_type nor architecture");
  for (const BackboneFamily<T>& f : backbone_families<T>)
    if (matches(f.name, name.c_str())) {
      const LoadAccount account(o.report);
      std::unique_ptr<Backbone<T>> b = f.make(p);
      if (o.packed) prepare_mapped<T>(*b, p.weights);
      return b;
    }
  fail(ErrorKind::config, std::string("config.json: ") + field + " " + quoted(name) +
                              " is unknown; known: " + backbone_names<T>());
}
template <class T = float>
std::unique_ptr<Backbone<T>> load_pretrained(const std::string& directory,
                                             const PretrainedOptions& o = {}) {
  return load_pretrained<T>(open_pretrained(directory), o);
}

}  // namespace moraine
