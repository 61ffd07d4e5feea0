#pragma once
// The backbone that is a trunk and no more: its outputs are its hidden states, their final norm and
// the CLS token of that. DINOv2 and DINOv3.
#include <moraine/models/vit.hpp>
#include <moraine/recipes/backbone.hpp>

#include <utility>

namespace moraine MORAINE_API {

template <class T>
struct TrunkBackbone final : Backbone<T> {
  ViT<T> vit;
  explicit TrunkBackbone(ViT<T> v) : vit(std::move(v)) {}
  void check(const BackboneInput<T>& in) const override {
    check_pixels(in.pixels, {.channels = vit.config.channels, .patch = vit.config.patch});
  }
  BackboneOutput<T> forward(const BackboneInput<T>& in) override {
    check(in);
    BackboneOutput<T> out;
    out.hidden_states = hidden_states<T>(vit, in.pixels);
    out.last_hidden_state = vit.finish(out.hidden_states.back());  // (B,P+N,D)
    out.pooler_output = first_token(out.last_hidden_state);        // (B,D)
    return out;
  }
  void visit(Visitor<T>& v) override { vit.visit(v); }
};

}  // namespace moraine
