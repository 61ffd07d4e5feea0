#pragma once
// LoRA (Hu et al., 2021): y = W x + b + (alpha/r) B A x with A (r,in) and B (out,r) trained.
#include <moraine/nn/init.hpp>
#include <moraine/nn/slot.hpp>

#include <memory>
#include <string>
#include <utility>

namespace moraine MORAINE_API {

struct LoraOptions {
  Index rank = 8;
  double alpha = 0;        ///< 0: equal to 2 * rank, a factor of 2
  std::uint64_t seed = 0;  ///< of A; B starts at zero, so the model starts unchanged
};

template <class T>
struct Lora final : Layer<T> {
  std::unique_ptr<Layer<T>> base;
  Tensor<T> a, b;  ///< (r,in), (out,r)
  T factor;

  /// A uniform in +-1/sqrt(in) (Kaiming uniform with a = sqrt 5), B zero; both trained.
  Lora(std::unique_ptr<Layer<T>> layer, const LoraOptions& o, const std::string& path)
      : base(std::move(layer)),
        a(Tensor<T>::empty({o.rank, base->in_features()})),
        b(Tensor<T>::zeros({base->out_features(), o.rank})),
        factor(static_cast<T>((o.alpha == 0 ? 2.0 * static_cast<double>(o.rank) : o.alpha) /
                              static_cast<double>(o.rank))) {
    if (dynamic_cast<const Lora<T>*>(base.get()))
      fail(ErrorKind::value, "lora: the layer at \"" + path +
                                 "\" has one already -> inject into other paths, or use one of a "
                                 "larger rank");
    if (o.rank < 1)
      fail(ErrorKind::value, "lora: rank must be positive; " + std::to_string(o.rank));
    init::linear_default(a, base->in_features(), init::stream(o.seed, path + ".lora_A"));
    a.requires_grad();
    b.requires_grad();
  }
  Tensor<T> run(const Tensor<T>& x, const LinearOptions<T>& o) override {
    const Tensor<T> low = scale(linear(x, a), factor);  // (...,r)
    if (o.activation == Activation::none && !o.scale.defined())
      return linear(low, b, {}, {.residual = base->run(x, o)});  // (...,out)
    return finish(linear(low, b, {}, {.residual = base->run(x, {})}), o);
  }
  void visit(Visitor<T>& v) override {
    base->visit(v);
    v("lora_A", a);
    v("lora_B", b);
  }
  void pack() override { base->pack(); }
  Index in_features() const override { return base->in_features(); }
  Index out_features() const override { return base->out_features(); }
};

/// For inject(): wraps a layer in LoRA.
inline auto lora(const LoraOptions& o) {
  return [o](auto layer, const std::string& path) {
    using T = typename decltype(layer->run({}, {}))::value_type;
    return std::make_unique<Lora<T>>(std::move(layer), o, path);
  };
}

}  // namespace moraine
