#pragma once
// A dense layer y = x W^T + b, with the weight layout of PyTorch.
#include <moraine/core/mutex.hpp>
#include <moraine/nn/slot.hpp>

#include <memory>

namespace moraine MORAINE_API {

template <class T>
struct Linear final : Layer<T> {
  Tensor<T> weight;  ///< (out,in)
  Tensor<T> bias;    ///< (out), or undefined
  /// bf16: also packs the frozen weight so, in half the bytes. `weight` itself stays as it was
  /// loaded, for state() and for what changes its mind: frozen, forward and backward, a layer then
  /// holds two bytes a parameter for each direction beside its four.
  Product product = Product::fp32;
  /// (out) of ones and zeros, or undefined: where it is zero, the bias is zero and is not trained.
  Tensor<T> bias_mask;

  Linear() = default;
  Linear(Tensor<T> w, Tensor<T> b) : weight(std::move(w)), bias(std::move(b)) {}
  /// Zeros, to be loaded or initialised.
  Linear(Index in, Index out, bool with_bias)
      : weight(Tensor<T>::zeros({out, in})),
        bias(with_bias ? Tensor<T>::zeros({out}) : Tensor<T>()) {}

  Tensor<T> operator()(const Tensor<T>& x) { return run(x, {}); }
  Tensor<T> run(const Tensor<T>& x, const LinearOptions<T>& o) override {
    LinearOptions<T> with = o;
    if (product != Product::fp32) with.product = product;
    if (packed_of_ == weight.data() && packed_as_ == with.product && !weight.tracked()) {
      with.packed = packed_;
      if (wants(x)) with.packed_back = packed_for_backward();
    }
    if (bias_mask.defined() && bias.tracked()) return linear(x, weight, mul(bias, bias_mask), with);
    return linear(x, weight, bias, with);
  }
  void pack() override {
    if (weight.tracked() || weight.device() != Device::cpu || !weight.contiguous_in_memory())
      return;
    packed_ = cpu::pack_weight(weight.data(), weight.size(0), weight.size(1), product);
    packed_back_ = nullptr;
    packed_as_ = product;
    packed_of_ = weight.data();
  }
  void visit(Visitor<T>& v) override {
    v("weight", weight);
    v("bias", bias);
    v.product(product);
  }
  Index in_features() const override { return weight.size(1); }
  Index out_features() const override { return weight.size(0); }

 private:
  /// Packed when something is first trained through the layer: a model that only predicts never
  /// needs it. Under a lock, since several threads may train through one frozen trunk.
  std::shared_ptr<const cpu::PackedWeight<T>> packed_for_backward() {
    static Mutex all;
    const Lock lock(all);
    if (!packed_back_)
      packed_back_ =
          cpu::pack_weight_backward(weight.data(), weight.size(0), weight.size(1), product);
    return packed_back_;
  }
  std::shared_ptr<const cpu::PackedWeight<T>> packed_, packed_back_;
  const T* packed_of_ = nullptr;
  Product packed_as_ = Product::fp32;
};

/// A slot that holds a new Linear of zeros.
template <class T>
Slot<T> linear_slot(Index in, Index out, bool bias) {
  return Slot<T>(std::make_unique<Linear<T>>(in, out, bias));
}

}  // namespace moraine
