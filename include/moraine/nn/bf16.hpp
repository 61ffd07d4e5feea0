#pragma once
// Products on bfloat16 operands with float accumulation, emulated: weights are rounded once, inputs
// on every use. What a bfloat16 kernel would give, up to the order of its sums; no faster.
#include <moraine/core/parallel.hpp>
#include <moraine/nn/slot.hpp>

#include <memory>
#include <utility>

namespace moraine MORAINE_API {

/// The nearest bfloat16 of every element, ties to even. The gradient passes through unchanged.
template <class T>
Tensor<T> round_bf16(const Tensor<T>& x) {
  const Tensor<T> c = x.contiguous().detach();
  if (c.device() != Device::cpu)
    fail(ErrorKind::device, "round_bf16: has no CUDA form yet; x " + str(x.shape()));
  Tensor<T> y = empty_like(c);
  parallel_for(c.numel(), 1 << 14, [&](Index b, Index e) {
    for (Index i = b; i < e; ++i)
      y.data()[i] = static_cast<T>(static_cast<float>(bfloat16(static_cast<float>(c.data()[i]))));
  });
  return record("round_bf16", y, {&x}, [](const Tensor<T>& dy) { return Grads<T>{dy}; });
}

/// A layer whose matrices and inputs are rounded to bfloat16. Biases, scales and residuals stay.
template <class T>
class Bf16Layer final : public Layer<T> {
 public:
  explicit Bf16Layer(std::unique_ptr<Layer<T>> base) : base_(std::move(base)) {
    struct Round final : Visitor<T> {
      void parameter(const std::string&, Tensor<T>& t) override {
        if (t.rank() >= 2) t = round_bf16(t.detach());
      }
    } v;
    base_->visit(v);
  }
  Tensor<T> run(const Tensor<T>& x, const LinearOptions<T>& o) override {
    return base_->run(round_bf16(x), o);
  }
  void visit(Visitor<T>& v) override { base_->visit(v); }
  void pack() override { base_->pack(); }
  Index in_features() const override { return base_->in_features(); }
  Index out_features() const override { return base_->out_features(); }

 private:
  std::unique_ptr<Layer<T>> base_;
};

/// Puts every layer of every slot behind Bf16Layer. For frozen weights; call prepare() afterwards.
template <class T, class M>
void use_bf16(M& module) {
  struct Wrap final : Visitor<T> {
    void parameter(const std::string&, Tensor<T>&) override {}
    void slot(const std::string&, Slot<T>& s) override {
      if (!s.empty())
        s.wrap([](std::unique_ptr<Layer<T>> old) {
          return std::make_unique<Bf16Layer<T>>(std::move(old));
        });
    }
  } v;
  module.visit(v);
}

}  // namespace moraine
