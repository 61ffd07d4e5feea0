#pragma once
// Trains a Segmenter: cross entropy plus the balance loss, AdamW, poly decay with warm-up,
// clipping. Everything random is a function of (seed, step), so a run that is resumed from a
// snapshot ends with the same bits as one that was never stopped.
#include <cmath>
#include <cstdint>
#include <memory>
#include <moraine/autograd/backward.hpp>
#include <moraine/ops/cross_entropy.hpp>
#include <moraine/recipes/segmenter.hpp>
#include <moraine/train/optim.hpp>
#include <moraine/train/schedule.hpp>
#include <string>
#include <vector>

namespace moraine MORAINE_API {

struct SegmentationTraining {
  Index steps = 200, warmup = 20;
  double lr = 6e-3;  ///< of adapters and experts
  double head_lr = 1e-2;
  double weight_decay = 0.05;  ///< on matrices, but not on experts and gates
  double clip = 1.0;
  double balance = 0.1;  ///< weight of the balance loss
  Decay decay = Decay::poly;
  std::int64_t ignore_label = 255;
  /// Runs every block of the vision trunk again in the backward instead of keeping what it
  /// computed.
  bool gradient_checkpointing = false;
};

struct StepLoss {
  double cross_entropy = 0, balance = 0, grad_norm = 0;
};

/// Hears every op of a step and remembers the first that made a NaN or an infinity.
struct NonFinite final : OpListener {
  std::string where;
  void heard(const char* op, Dtype dtype, const void* data, Index n, const Shape& shape) override {
    if (!where.empty()) return;
    const auto look = [&](const auto* x) {
      for (Index i = 0; i < n; ++i)
        if (!std::isfinite(x[i])) {
          const std::string path = scope_path();
          where = std::string(op) + " " + str(shape) + (path.empty() ? "" : " in " + path);
          return;
        }
    };
    if (dtype == Dtype::f32) look(static_cast<const float*>(data));
    if (dtype == Dtype::f64) look(static_cast<const double*>(data));
  }
};

template <class T>
class SegmentationTrainer {
 public:
  /// The model must outlive the trainer and not move.
  SegmentationTrainer(Segmenter<T>& model, const SegmentationTraining& o)
      : model_(model),
        options_(o),
        schedule_{.decay = o.decay, .steps = o.steps, .warmup = o.warmup},
        optimizer_(parameters<T>(model), {.lr = o.lr, .weight_decay = o.weight_decay}) {
    model.vision.gradient_checkpointing = o.gradient_checkpointing;
    optimizer_.set_lr_factor("head.**", o.head_lr / o.lr);
    for (const char* free :
         {"moe.experts_a.**", "moe.experts_b.**", "moe.w_gate.**", "moe.w_noise.**", "moe.scale"})
      optimizer_.set_decay_factor(free, 0);
  }

  /// One step on pixels (B,C,H,W) and labels (B,H,W). Throws ErrorKind::non_finite, naming step,
  /// op, layer and `what` (the tiles), when the loss or the gradient is not finite; the parameters
  /// are then unchanged.
  StepLoss step(const Tensor<T>& pixels, const Tensor<std::int64_t>& labels,
                const std::string& what = "") {
    StepLoss l;
    Tensor<T> loss = forward(pixels, labels, l);
    if (std::isfinite(l.cross_entropy) && std::isfinite(l.balance)) {
      backward(loss);
      l.grad_norm = grad_norm(optimizer_);
    }
    if (!std::isfinite(l.cross_entropy) || !std::isfinite(l.balance) ||
        !std::isfinite(l.grad_norm)) {
      optimizer_.zero_grad();
      report(pixels, labels, l, what);
    }
    optimizer_.step(schedule_.at(optimizer_.steps()), clip_scale(l.grad_norm, options_.clip));
    optimizer_.zero_grad();
    return l;
  }
  /// Bytes of tensors that a step on such a batch will hold beside what is held now: measured on
  /// one and on two of its tiles, for every further tile adds the same. Changes nothing.
  std::uint64_t step_bytes(const Tensor<T>& pixels, const Tensor<std::int64_t>& labels) {
    const auto measured = [&](Index tiles) {
      const std::size_t held = cpu_device.live.load(), before = cpu_device.peak.load();
      cpu_device.reset_peak();
      {
        StepLoss l;
        const Tensor<T> loss = forward(slice(pixels, 0, 0, tiles).contiguous(),
                                       slice(labels, 0, 0, tiles).contiguous(), l);
        backward(loss);
      }
      optimizer_.zero_grad();
      const std::size_t most = cpu_device.peak.load();
      for (std::size_t now = most;
           before > now && !cpu_device.peak.compare_exchange_weak(now, before);) {
      }
      return static_cast<std::uint64_t>(most - held);
    };
    const Index b = pixels.size(0);
    const std::uint64_t one = measured(1);
    if (b == 1) return one;
    const std::uint64_t two = measured(2);
    return two + static_cast<std::uint64_t>(b - 2) * (two > one ? two - one : 0);
  }
  Index steps_done() const { return optimizer_.steps(); }
  const SegmentationTraining& options() const { return options_; }

  /// The trained parameters under "model." and the optimizer's moments.
  TensorMap snapshot() const {
    TensorMap out = optimizer_.state();
    for (const auto& s : optimizer_.slots())
      out.emplace("model." + s.param.name, s.param.tensor->detach());
    return out;
  }
  void restore(const TensorMap& map, Index steps) {
    for (const auto& s : optimizer_.slots()) {
      const auto it = map.find("model." + s.param.name);
      if (it == map.end() || it->second.shape != s.param.tensor->shape())
        fail(ErrorKind::key, "restore: the checkpoint does not fit; model." + s.param.name);
      Tensor<T> t = it->second.template as<T>().clone();
      t.requires_grad();
      *s.param.tensor = t;
    }
    optimizer_.load_state(map, steps);
  }

 private:
  Tensor<T> forward(const Tensor<T>& pixels, const Tensor<std::int64_t>& labels, StepLoss& l) {
    const Segmentation<T> s = model_(pixels, optimizer_.steps());
    Tensor<T> loss = cross_entropy(s.logits, labels, {.ignore_index = options_.ignore_label});
    l.cross_entropy = static_cast<double>(loss.item());
    if (s.aux_loss.defined()) {
      l.balance = static_cast<double>(s.aux_loss.item());
      loss = add(loss, scale(s.aux_loss, static_cast<T>(options_.balance)));
    }
    return loss;
  }
  [[noreturn]] void report(const Tensor<T>& pixels, const Tensor<std::int64_t>& labels, StepLoss l,
                           const std::string& what) {
    NonFinite listener;
    for (Index i = 0; i < pixels.numel() && listener.where.empty(); ++i)
      if (!std::isfinite(pixels.contiguous().data()[i])) listener.where = "the input";
    if (listener.where.empty()) {
      tape().listener = &listener;
      StepLoss again;
      const Tensor<T> loss = forward(pixels, labels, again);
      if (listener.where.empty()) backward(loss);
      tape().listener = nullptr;
      optimizer_.zero_grad();
      if (listener.where.empty()) listener.where = "the gradient";
    }
    fail(ErrorKind::non_finite, "train: NaN or infinity at step " +
                                    std::to_string(optimizer_.steps()) + ", first in " +
                                    listener.where + (what.empty() ? "" : "; tiles " + what) +
                                    "; loss " + std::to_string(l.cross_entropy) +
                                    " -> look at these tiles, or lower the learning rate");
  }
  Segmenter<T>& model_;
  SegmentationTraining options_;
  Schedule schedule_;
  AdamW<T> optimizer_;
};

}  // namespace moraine
