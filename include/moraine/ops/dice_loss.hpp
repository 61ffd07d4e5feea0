#pragma once
// Dice loss of soft masks, from their overlap; for segmentation.
//
//   l = 1 - (2 sum_i p_i t_i + eps) / (sum_i p_i + sum_i t_i + eps),   i over the last axis
//
// A composition: its gradient is that of its parts.
#include <moraine/ops/compare.hpp>
#include <moraine/ops/reduction.hpp>
#include <moraine/ops/unary.hpp>
#include <string>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

template <class T>
struct DiceOptions {
  double epsilon = 1;                     ///< makes two empty masks agree
  bool logits = false;                    ///< p = sigmoid(x)
  Mask mask = {};                         ///< broadcasts to x; where it is 0 nothing is counted
  Reduction reduction = Reduction::mean;  ///< over the rows
};

/// x and t (...,N), one mask per row of N values in [0,1] -> one value, or (...) for
/// Reduction::none. Flatten images first: reshape(x, {B, K, -1}).
template <class T>
Tensor<T> dice(const Tensor<T>& x, const Tensor<T>& t, const DiceOptions<T>& o = {}) {
  if (x.shape() != t.shape() || x.rank() < 1)
    fail(ErrorKind::shape, "dice: prediction and target differ or have no axis; prediction " +
                               str(x.shape()) + ", target " + str(t.shape()));
  Tensor<T> p = o.logits ? sigmoid(x) : x, q = t;
  if (o.mask.defined()) {
    const Mask off = equal(o.mask, std::uint8_t{0});
    p = masked_fill(p, off, T(0));
    q = masked_fill(q, off, T(0));
  }
  const ReduceOptions rows{.axes = {-1}};
  const T eps = static_cast<T>(o.epsilon);
  const Tensor<T> overlap = scale(sum(mul(p, q), rows), T(2)) + eps;
  const Tensor<T> both = add(sum(p, rows), sum(q, rows)) + eps;
  const Tensor<T> loss = scale(div(overlap, both), T(-1)) + T(1);
  return o.reduction == Reduction::none                       ? loss
         : o.reduction == Reduction::sum || loss.numel() == 0 ? sum(loss)
                                                              : mean(loss);
}

}  // namespace moraine
MORAINE_OPTIMISED_END
