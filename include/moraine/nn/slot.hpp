#pragma once
// A Slot is a place in a block that holds "a layer Tensor -> Tensor". By default a Linear; LoRA, a
// mixture of experts or a layer of yours can be put around or in place of it, and the block never
// knows. peft/inject.hpp finds slots by path.
#include <moraine/nn/module.hpp>
#include <moraine/ops/linear.hpp>

#include <memory>
#include <utility>

namespace moraine MORAINE_API {

/// A layer (...,in) -> (...,out) behind a virtual call.
template <class T>
struct Layer {
  virtual ~Layer() = default;
  /// residual + scale * act(layer(x)); see LinearOptions. `finish` does what a layer does not fuse.
  virtual Tensor<T> run(const Tensor<T>& x, const LinearOptions<T>& o) = 0;
  virtual void visit(Visitor<T>& v) = 0;
  /// Packs frozen weights for the kernels; called by prepare() once they are loaded.
  virtual void pack() {}
  virtual Index in_features() const = 0;
  virtual Index out_features() const = 0;
};

/// The end of a LinearOptions, op by op.
template <class T>
Tensor<T> finish(Tensor<T> y, const LinearOptions<T>& o) {
  y = activate(o.activation, y);
  if (o.scale.defined()) y = mul(y, o.scale);
  return o.residual.defined() ? add(o.residual, y) : y;
}

template <class T>
class Slot {
 public:
  Slot() = default;
  explicit Slot(std::unique_ptr<Layer<T>> layer) : layer_(std::move(layer)) {}
  Tensor<T> operator()(const Tensor<T>& x, const LinearOptions<T>& o = {}) {
    if (!layer_) fail(ErrorKind::value, "slot: holds no layer; x " + str(x.shape()));
    return layer_->run(x, o);
  }
  Layer<T>& layer() { return *layer_; }
  bool empty() const { return !layer_; }
  /// Replaces the layer by make(old layer).
  template <class F>
  void wrap(F&& make) {
    layer_ = make(std::move(layer_));
  }
  void visit(Visitor<T>& v) {
    if (layer_) layer_->visit(v);
  }

 private:
  std::unique_ptr<Layer<T>> layer_;
};

/// Packs the frozen weights in every slot of a module, once, after loading. Speeds up every later
/// use; results do not change. A weight that is replaced or trained later is noticed; one whose
/// values are edited in place needs prepare() again.
template <class T, class M>
void prepare(M& module) {
  struct Pack final : Visitor<T> {
    void parameter(const std::string&, Tensor<T>&) override {}
    void slot(const std::string&, Slot<T>& s) override {
      if (!s.empty()) s.layer().pack();
    }
  } v;
  module.visit(v);
}

}  // namespace moraine
