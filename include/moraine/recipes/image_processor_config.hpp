#pragma once
// The ImageProcessor of a model's directory: from preprocessor_config.json (or
// processor_config.json with an "image_processor"), from timm's pretrained_cfg within config.json,
// or, where there is neither, what the family's published models have.
//
// A field that is absent or null has the default of its class, as in transformers 5.23; the class
// is image_processor_type, with or without "Fast" or "Pil" at its end.
#include <moraine/recipes/config_reader.hpp>
#include <moraine/recipes/image_processor.hpp>

#include <cmath>
#include <string>
#include <vector>

namespace moraine MORAINE_API {

inline constexpr std::array<double, 3> imagenet_mean = {0.485, 0.456, 0.406},
                                       imagenet_std = {0.229, 0.224, 0.225},
                                       openai_clip_mean = {0.48145466, 0.4578275, 0.40821073},
                                       openai_clip_std = {0.26862954, 0.26130258, 0.27577711};

/// Which of its two forms a processor of transformers has.
enum class ProcessorBackend : unsigned char { torchvision, pil };

/// The defaults of a class of transformers. Throws ErrorKind::config for one that is not known.
inline ImageProcessor image_processor_class(const std::string& type, ProcessorBackend backend,
                                            const std::string& file = "preprocessor_config.json") {
  std::string name = type;
  for (const char* end : {"Fast", "Pil"})
    if (name.ends_with(end)) name.resize(name.size() - std::string(end).size());
  const std::string old = "FeatureExtractor";  // before transformers 4.26
  if (name.ends_with(old)) name.replace(name.size() - old.size(), old.size(), "ImageProcessor");
  ImageProcessor p;
  p.name = name;
  p.style = backend == ProcessorBackend::pil ? ProcessorStyle::pil : ProcessorStyle::torchvision;
  if (name == "BitImageProcessor" || name == "CLIPImageProcessor") {
    p.rule = SizeRule::shortest;
    p.crop = true;
    p.mean = openai_clip_mean;
    p.std = openai_clip_std;
  } else if (name == "DINOv3ViTImageProcessor") {
    p.style = ProcessorStyle::torchvision;  // the only form it has
    p.rule = SizeRule::exact;
    p.filter = ResampleFilter::bilinear;
    p.rescale_first = true;
  } else if (name == "SamImageProcessor") {
    p.rule = SizeRule::longest;
    p.height = p.width = 1024;
    p.filter = ResampleFilter::bilinear;
    p.pad_to = {1024, 1024};
  } else if (name == "DPTImageProcessor" || name == "PromptDepthAnythingImageProcessor") {
    p.rule = SizeRule::multiple;
    p.height = p.width = 384;
    p.mean = p.std = {0.5, 0.5, 0.5};
  } else if (name == "ViTImageProcessor") {
    p.rule = SizeRule::exact;
    p.filter = ResampleFilter::bilinear;
    p.mean = p.std = {0.5, 0.5, 0.5};
  } else {
    fail(ErrorKind::config,
         file + ": image_processor_type " + quoted(type) +
             " is not supported -> BitImageProcessor, CLIPImageProcessor, DINOv3ViTImageProcessor, "
             "SamImageProcessor, DPTImageProcessor, PromptDepthAnythingImageProcessor, "
             "ViTImageProcessor");
  }
  return p;
}

namespace detail {

/// Fields of a processor's configuration that ConfigReader has no form for.
class ProcessorFields {
 public:
  ProcessorFields(const Json& object, const ConfigReader& reader) : json_(object), r_(reader) {}

  const Json* get(const char* field) const {
    const Json* j = json_.find(field);
    return j && !j->is_null() ? j : nullptr;
  }
  /// 1 to 32768 pixels.
  Index side(const char* field, const Json& j) const {
    if (!j.is_integer())
      r_.refuse(field, std::string("must be whole numbers; it holds ") + name_of(j.kind()));
    const double v = j.as_double(field);
    if (!(v >= 1 && v <= 1 << 15)) r_.refuse(field, "is out of range; " + number_text(v));
    return static_cast<Index>(v);
  }
  /// A mean or std: three numbers, or one for all.
  std::array<double, 3> three(const char* field, std::array<double, 3> fallback) const {
    const Json* j = get(field);
    if (!j) return fallback;
    if (j->is_number()) {
      const double v = j->as_double(field);
      return {v, v, v};
    }
    const std::vector<double> v = r_.numbers(field, {});
    if (v.size() == 1) return {v[0], v[0], v[0]};
    if (v.size() != 3)
      r_.refuse(field, "must hold 3 numbers, one a channel; " + std::to_string(v.size()));
    return {v[0], v[1], v[2]};
  }
  /// A size that must be height and width: a number, [h,w] or {"height":h,"width":w}.
  Size2 both(const char* field, Size2 fallback) const {
    const Json* j = get(field);
    if (!j) return fallback;
    if (j->is_number()) return Size2(side(field, *j));
    if (j->is_array() && j->as_array(field).size() == 2)
      return {side(field, j->as_array(field)[0]), side(field, j->as_array(field)[1])};
    if (j->is_object() && j->find("height") && j->find("width"))
      return {side(field, j->at("height")), side(field, j->at("width"))};
    r_.refuse(field, "must be a number, [height, width], or an object of both");
  }
  /// `size`, by the class: which keys it takes.
  void size(ImageProcessor& p) const {
    const Json* j = get("size");
    if (!j) return;
    const auto key = [&](const char* k) -> const Json* {
      const Json* v = j->is_object() ? j->find(k) : nullptr;
      return v && !v->is_null() ? v : nullptr;
    };
    const auto take = [&](SizeRule rule, const Json& a, const Json& b) {
      p.rule = rule;
      p.height = side("size", a);
      p.width = side("size", b);
    };
    const Json *h = key("height"), *w = key("width"), *s = key("shortest_edge"),
               *l = key("longest_edge"), *mh = key("max_height"), *mw = key("max_width");
    if (p.rule == SizeRule::longest) {
      if (l) return take(SizeRule::longest, *l, *l);
      r_.refuse("size", "must hold longest_edge for " + p.name);
    }
    const bool fixed = p.rule == SizeRule::multiple;
    if (!fixed && s && l) return take(SizeRule::shortest_longest, *s, *l);
    if (!fixed && s) return take(SizeRule::shortest, *s, *s);
    if (!fixed && mh && mw) return take(SizeRule::within, *mh, *mw);
    const SizeRule exact = fixed ? SizeRule::multiple : SizeRule::exact;
    if (h && w) return take(exact, *h, *w);
    if (j->is_array() && j->as_array("size").size() == 2)
      return take(exact, j->as_array("size")[0], j->as_array("size")[1]);
    if (j->is_number()) return take(p.rule == SizeRule::shortest ? p.rule : exact, *j, *j);
    r_.refuse("size", std::string("is not one that ") + p.name + " takes");
  }

 private:
  const Json& json_;
  const ConfigReader& r_;
};

inline void check_arithmetic(const ImageProcessor& p, const ConfigReader& r) {
  for (double v : p.std)
    if (!(std::abs(v) > 0)) r.refuse("image_std", "must not be 0");
  if (!(std::abs(p.rescale_factor) > 0))
    r.refuse("rescale_factor", "is out of range; " + number_text(p.rescale_factor));
}

}  // namespace detail

/// A preprocessor_config.json. `otherwise`: the class where the file names none.
inline ImageProcessor read_preprocessor_config(
    const Json& json, const std::string& otherwise, ProcessorBackend backend,
    const std::string& file = "preprocessor_config.json") {
  if (!json.is_object())
    fail(ErrorKind::config,
         file + ": the top level must be an object; it is " + name_of(json.kind()));
  const ConfigReader r(json, file);
  const detail::ProcessorFields f(json, r);
  ImageProcessor p = image_processor_class(
      r.text("image_processor_type", r.text("feature_extractor_type", otherwise)), backend, file);
  const SizeRule own = p.rule;
  f.size(p);
  const Index code =
      r.size("resample", p.filter == ResampleFilter::bilinear ? 2 : 3, 0);  // Pillow's numbers
  if (code != 2 && code != 3)
    r.refuse("resample", std::to_string(code) + " is not supported -> 2 bilinear, 3 bicubic");
  p.filter = code == 2 ? ResampleFilter::bilinear : ResampleFilter::bicubic;
  p.crop = r.flag("do_center_crop", p.crop);
  if (p.crop && own == SizeRule::multiple)
    r.refuse("do_center_crop", "is not supported for " + p.name + " -> false");
  p.crop_size = f.both("crop_size", p.crop_size);
  p.rescale = r.flag("do_rescale", true);
  p.rescale_factor = r.number("rescale_factor", p.rescale_factor);
  p.normalize = r.flag("do_normalize", true);
  p.mean = f.three("image_mean", p.mean);
  p.std = f.three("image_std", p.std);
  if (own == SizeRule::multiple) {
    p.multiple_of = r.size("ensure_multiple_of", 1);
    p.keep_aspect = r.flag("keep_aspect_ratio", false);
    p.prompt_scale = r.number("prompt_scale_to_meter", p.prompt_scale);
    if (r.flag("do_pad", false) && f.get("size_divisor"))
      p.pad_multiple = f.side("size_divisor", *f.get("size_divisor"));
  } else if (own == SizeRule::longest || f.get("pad_size")) {
    p.pad_to =
        r.flag("do_pad", own == SizeRule::longest) ? f.both("pad_size", p.pad_to) : Size2{0, 0};
  }
  if (!r.flag("do_resize", true)) p.rule = SizeRule::keep;
  detail::check_arithmetic(p, r);
  return p;
}

/// timm's evaluation transform for a pretrained_cfg.
inline ImageProcessor read_timm_config(const ConfigReader& r, const Json& json) {
  const detail::ProcessorFields f(json, r);
  ImageProcessor p;
  p.name = "timm";
  p.style = ProcessorStyle::timm;
  const std::vector<Index> input = r.sizes("input_size", {3, 224, 224}, 1);
  if (input.size() != 3 || input[0] != 3 || input[1] > 1 << 15 || input[2] > 1 << 15)
    r.refuse("input_size", "must be [3, height, width], at most 32768 each");
  p.crop_pct = r.number("crop_pct", 0);
  if (p.crop_pct == 0) p.crop_pct = 0.875;  // timm: absent, null or 0
  if (!(p.crop_pct >= 0.01 && p.crop_pct <= 100))
    r.refuse("crop_pct", "is out of range; " + number_text(p.crop_pct));
  const std::string filter = r.text("interpolation", "bicubic");
  if (filter != "bicubic" && filter != "bilinear")
    r.refuse("interpolation", quoted(filter) + " is not supported -> bilinear, bicubic");
  p.filter = filter == "bicubic" ? ResampleFilter::bicubic : ResampleFilter::bilinear;
  p.mean = f.three("mean", imagenet_mean);
  p.std = f.three("std", imagenet_std);
  const std::string mode = r.text("crop_mode", "center");
  p.crop = true;
  p.crop_size = {input[1], input[2]};
  p.height = static_cast<Index>(std::floor(static_cast<double>(input[1]) / p.crop_pct));
  p.width = static_cast<Index>(std::floor(static_cast<double>(input[2]) / p.crop_pct));
  p.rule = mode == "squash"      ? SizeRule::exact
           : mode == "border"    ? SizeRule::border
           : p.height == p.width ? SizeRule::shortest
                                 : SizeRule::cover;
  if (mode == "border")
    for (std::size_t c = 0; c < 3; ++c) {
      const double v = detail::round_even(255 * p.mean[c]);
      p.fill[c] = static_cast<std::uint8_t>(v < 0 ? 0 : v > 255 ? 255 : v);
    }
  detail::check_arithmetic(p, r);
  return p;
}

/// What the published models of a family have, where a directory says nothing. `config`: its
/// config.json. DOFA's authors publish no processor: the shorter side to img_size, the centre, and
/// their RGB statistics (ImageNet's on 0..255) are a choice of this library.
inline ImageProcessor family_image_processor(const Json& config, ProcessorBackend backend) {
  const ConfigReader r(config, "config.json");
  const std::string type = r.text("model_type", ""), timm = r.text("architecture", "");
  const auto imagenet = [](ImageProcessor p) {
    p.mean = imagenet_mean;
    p.std = imagenet_std;
    return p;
  };
  const auto of_side = [](ImageProcessor p, Index side) {
    p.height = p.width = side;
    p.crop_size = Size2(side);
    if (p.pad_to != Size2{0, 0}) p.pad_to = Size2(side);
    return p;
  };
  if (type == "dinov2" || type == "dinov2_with_registers") {
    ImageProcessor p = imagenet(image_processor_class("BitImageProcessor", backend));
    p.height = p.width = 256;
    return p;
  }
  if (type == "dinov3_vit") return image_processor_class("DINOv3ViTImageProcessor", backend);
  if (type == "clip_vision_model" || type == "clip") {
    const ConfigReader v = type == "clip" ? r.object("vision_config") : r;
    return of_side(image_processor_class("CLIPImageProcessor", backend), v.size("image_size", 224));
  }
  if (type == "sam_vision_model" || type == "sam") {
    const ConfigReader v = type == "sam" ? r.object("vision_config") : r;
    return of_side(image_processor_class("SamImageProcessor", backend), v.size("image_size", 1024));
  }
  if (type == "depth_anything" || type == "prompt_depth_anything") {
    const bool prompt = type == "prompt_depth_anything";
    ImageProcessor p = imagenet(image_processor_class(
        prompt ? "PromptDepthAnythingImageProcessor" : "DPTImageProcessor", backend));
    p.height = p.width = prompt ? 756 : 518;
    p.multiple_of = r.size("patch_size", 14);
    p.keep_aspect = true;
    return p;
  }
  if (type == "dofa") {
    return of_side(imagenet(image_processor_class("BitImageProcessor", backend)),
                   r.size("img_size", 224));
  }
  if (timm.rfind("eva02_", 0) == 0) {
    // timm's first weights of each name.
    const std::size_t at = timm.rfind('_');
    const std::string end = timm.substr(at + 1);
    ImageProcessor p;
    p.name = "timm";
    p.style = ProcessorStyle::timm;
    p.crop = true;
    p.mean = openai_clip_mean;
    p.std = openai_clip_std;
    Index side = end == "336" ? 336 : end == "448" ? 448 : 224;
    const ConfigReader more = r.object("model_args");
    side = more.size("img_size", side);
    p.crop_pct = end == "224" ? 0.9 : 1.0;
    p.rule = end == "448" ? SizeRule::exact : SizeRule::shortest;
    p.crop_size = Size2(side);
    p.height = p.width = static_cast<Index>(std::floor(static_cast<double>(side) / p.crop_pct));
    return p;
  }
  fail(ErrorKind::config,
       "config.json: no image processor is known for " +
           (type.empty() ? "architecture " + quoted(timm) : "model_type " + quoted(type)) +
           " -> a preprocessor_config.json beside it");
}

/// The processor of a model directory. Where several files describe one, in this order:
/// processor_config.json with an "image_processor", preprocessor_config.json, the pretrained_cfg of
/// config.json, the family's own.
inline ImageProcessor read_image_processor(
    const std::string& directory, ProcessorBackend backend = ProcessorBackend::torchvision) {
  const Json config = read_json(directory + "/config.json");
  if (!config.is_object())
    fail(ErrorKind::config, "config.json: the top level must be an object; it is " +
                                std::string(name_of(config.kind())));
  const auto otherwise = [&] { return family_image_processor(config, backend); };
  const std::string whole = directory + "/processor_config.json",
                    own = directory + "/preprocessor_config.json";
  if (is_file(whole)) {
    const Json json = read_json(whole);
    const Json* inner = json.is_object() ? json.find("image_processor") : nullptr;
    if (inner && !inner->is_null()) {
      const std::string file = "processor_config.json: image_processor";
      const bool named = inner->is_object() && (inner->find("image_processor_type") ||
                                                inner->find("feature_extractor_type"));
      return read_preprocessor_config(*inner, named ? "" : otherwise().name, backend, file);
    }
  }
  if (is_file(own)) {
    const Json json = read_json(own);
    const bool named = json.is_object() &&
                       (json.find("image_processor_type") || json.find("feature_extractor_type"));
    return read_preprocessor_config(json, named ? "" : otherwise().name, backend);
  }
  const ConfigReader r(config, "config.json");
  if (r.has("architecture") && r.has("pretrained_cfg"))
    return read_timm_config(r.object("pretrained_cfg"), config.at("pretrained_cfg"));
  return otherwise();
}

}  // namespace moraine
