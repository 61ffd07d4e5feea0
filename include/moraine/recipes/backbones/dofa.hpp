#pragma once
// DOFA from a directory: torchgeo's tensors beside a config.json that says model_type dofa and the
// arguments of the class.
#include <moraine/models/dofa.hpp>
#include <moraine/recipes/backbone.hpp>
#include <moraine/recipes/model_directory.hpp>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

/// The config of a DOFA from the fields of its config.json. (What fc_norm is to be, the weights
/// say.)
inline DofaConfig read_dofa_config(const ConfigReader& r) {
  const DofaConfig d;
  DofaConfig c;
  c.img_size = r.size("img_size", d.img_size);
  c.patch_size = r.size("patch_size", d.patch_size);
  c.embed_dim = r.size("embed_dim", d.embed_dim);
  c.depth = r.size("depth", d.depth);
  c.num_heads = r.size("num_heads", d.num_heads);
  c.mlp_ratio = r.number("mlp_ratio", d.mlp_ratio);
  c.global_pool = r.flag("global_pool", d.global_pool);
  c.num_classes = r.size("num_classes", d.num_classes, 0);
  r.check_heads("num_heads", c.num_heads, "embed_dim", c.embed_dim);
  const double hidden = static_cast<double>(c.embed_dim) * c.mlp_ratio;
  if (!(hidden >= 1 && hidden <= 1 << 24))
    r.refuse("mlp_ratio", "is out of range; " + number_text(c.mlp_ratio));
  if (c.patch_size > 1024)  // a kernel has as many numbers as a patch has pixels, times the width
    r.refuse("patch_size", "is out of range; " + std::to_string(c.patch_size));
  if (c.img_size < c.patch_size)
    r.refuse("img_size",
             std::to_string(c.img_size) + " is below patch_size " + std::to_string(c.patch_size));
  // With its padding of 1 the convolution can give more patches than the class has positions.
  if (c.grid(c.img_size) != c.table())
    r.refuse("img_size", std::to_string(c.img_size) + " with patch_size " +
                             std::to_string(c.patch_size) + " gives " +
                             std::to_string(c.grid(c.img_size)) + " patches a side for " +
                             std::to_string(c.table()) + " positions");
  return c;
}

/// The model, loaded and not yet packed.
template <class T = float>
Dofa<T> open_dofa(const Pretrained& p) {
  const DofaConfig c = read_dofa_config(p.reader());
  check_weight_dtypes(p, dofa_files(c));
  return dofa<T>(c, p.weights.tensors);
}
/// A DOFA from its directory; frozen and packed.
template <class T = float>
Dofa<T> load_dofa(const Pretrained& p) {
  Dofa<T> model = open_dofa<T>(p);
  prepare_mapped<T>(model, p.weights);
  return model;
}

/// Images of exactly the trained size, as the reference class takes them. (Dofa itself takes
/// others.)
template <class T>
struct DofaBackbone final : Backbone<T> {
  Dofa<T> dofa;
  explicit DofaBackbone(Dofa<T> d) : dofa(std::move(d)) {}
  void check(const BackboneInput<T>& in) const override {
    const DofaConfig& c = dofa.config;
    check_pixels(in.pixels, {.channels = 0, .patch = c.patch_size, .exactly = c.img_size});
    if (!in.wavelengths.defined())
      fail(ErrorKind::key,
           "wavelengths: the input holds none; dofa needs one, in micrometres, for "
           "each channel of pixel_values " +
               str(in.pixels.shape()));
    if (in.wavelengths.shape() != Shape{in.pixels.size(1)})
      fail(ErrorKind::shape, "wavelengths: " + str(in.wavelengths.shape()) +
                                 " must be (C), one for each channel; pixel_values " +
                                 str(in.pixels.shape()));
  }
  BackboneOutput<T> forward(const BackboneInput<T>& in) override {
    check(in);
    BackboneOutput<T> out;
    out.hidden_states.push_back(dofa.embed(in.pixels, in.wavelengths));  // (B,1+N,D)
    for (Index i = 0; i < dofa.config.depth; ++i)
      out.hidden_states.push_back(dofa.block(i, out.hidden_states.back()));
    out.last_hidden_state = dofa.finish(out.hidden_states.back());  // (B,1+N,D)
    out.pooler_output = dofa.pool(out.last_hidden_state);           // (B,D)
    if (!dofa.head.empty()) out.logits = dofa.head(out.pooler_output);
    return out;
  }
  void visit(Visitor<T>& v) override { dofa.visit(v); }
  std::vector<std::string> more_inputs() const override { return {"wavelengths"}; }
};

template <class T = float>
std::unique_ptr<Backbone<T>> dofa_backbone(const Pretrained& p) {
  return std::make_unique<DofaBackbone<T>>(open_dofa<T>(p));
}

}  // namespace moraine
