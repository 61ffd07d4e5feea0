#pragma once
// What all families have in common once they are loaded: prepared images in, hidden states out. For
// programs that run whatever backbone a directory holds; whoever knows the family uses its own type
// (load_dinov2 gives a ViT).
#include <moraine/core/any_tensor.hpp>
#include <moraine/nn/module.hpp>
#include <moraine/ops/shape.hpp>

#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

/// Images, resized and normalised as the model wants them. Undefined: not given.
template <class T>
struct BackboneInput {
  Tensor<T> pixels = {};        ///< (B,C,H,W)
  Tensor<T> prompt_depth = {};  ///< (B,1,h,w), prompt_depth_anything alone
  Tensor<T> wavelengths = {};   ///< (C) in micrometres, dofa alone
};

/// What a backbone returns. Undefined: this family does not have it.
template <class T>
struct BackboneOutput {
  std::vector<Tensor<T>> hidden_states;  ///< input of block 0, then the output of every block
  Tensor<T> last_hidden_state, pooler_output, image_embeds, logits, predicted_depth;

  /// By the names of the reference classes: hidden_states.0, ..., last_hidden_state, ...
  TensorMap named() const {
    TensorMap out;
    for (std::size_t i = 0; i < hidden_states.size(); ++i)
      out.emplace("hidden_states." + std::to_string(i), hidden_states[i]);
    const auto add = [&](const char* name, const Tensor<T>& t) {
      if (t.defined()) out.emplace(name, t);
    };
    add("last_hidden_state", last_hidden_state);
    add("pooler_output", pooler_output);
    add("image_embeds", image_embeds);
    add("logits", logits);
    add("predicted_depth", predicted_depth);
    return out;
  }
};

/// A model of any family, in one type. Walk it as any module: use_bf16<T>(*b), prepare<T>(*b),
/// inject<T>(*b, "blocks.*.attn.qkv", ...).
template <class T>
struct Backbone {
  virtual ~Backbone() = default;
  /// Throws what check() throws.
  virtual BackboneOutput<T> forward(const BackboneInput<T>& in) = 0;
  /// Throws ErrorKind::shape or value for an input that the family does not take; the message names
  /// the tensor and its shape.
  virtual void check(const BackboneInput<T>& in) const = 0;
  virtual void visit(Visitor<T>& v) = 0;
  /// Tensors that it reads beside pixel_values: prompt_depth, wavelengths.
  virtual std::vector<std::string> more_inputs() const { return {}; }
};

/// The images that a family takes.
struct PixelRules {
  Index channels = 3;     ///< 0: any
  Index patch = 1;        ///< the smallest height and width
  Index exactly = 0;      ///< height and width, when no other size will do
  bool multiple = false;  ///< height and width must be multiples of the patch
};

/// Refuses images (B,C,H,W) by a family's rules.
template <class T>
void check_pixels(const Tensor<T>& pixels, const PixelRules& r) {
  if (!pixels.defined())
    fail(ErrorKind::key, "pixel_values: the input holds none; every model needs them");
  const Shape& s = pixels.shape();
  const auto refuse = [&](const std::string& why) {
    fail(ErrorKind::shape, "pixel_values: " + str(s) + " " + why);
  };
  if (s.rank != 4) refuse("must have four axes (B,C,H,W); it has " + std::to_string(s.rank));
  if (s[0] < 1) refuse("holds no image; the batch is 0");
  if (r.channels ? s[1] != r.channels : s[1] < 1)
    refuse("has " + std::to_string(s[1]) + " channels; the model takes " +
           (r.channels ? std::to_string(r.channels) : "one or more"));
  if (s[2] < r.patch || s[3] < r.patch)
    refuse("is smaller than one patch; the model's patch is " + std::to_string(r.patch));
  if (r.exactly && (s[2] != r.exactly || s[3] != r.exactly))
    refuse("is of another size; the model takes " + std::to_string(r.exactly) + " x " +
           std::to_string(r.exactly) + " alone");
  if (r.multiple && (s[2] % r.patch || s[3] % r.patch))
    refuse("is no multiple of the patch; the model's patch is " + std::to_string(r.patch));
}

/// All hidden states of a trunk that opens up (models/vit.hpp): the input of block 0, then what
/// every block returns.
template <class T, class Trunk>
std::vector<Tensor<T>> hidden_states(Trunk& trunk, const Tensor<T>& pixels) {
  const Tensor<T> places = trunk.places(pixels.size(2), pixels.size(3));
  std::vector<Tensor<T>> all{trunk.embed(pixels)};  // (B,P+N,D)
  for (Index i = 0; i < trunk.config.depth; ++i) all.push_back(trunk.block(i, all.back(), places));
  return all;
}

/// The first token of (B,N,D): (B,D), CLS.
template <class T>
Tensor<T> first_token(const Tensor<T>& x) {
  return reshape(slice(x, 1, 0, 1), {x.size(0), x.size(2)});  // (B,D)
}

}  // namespace moraine
