#pragma once
// Cross entropy of classes against integer labels; for segmentation and classification.
//
//   l = w_c (log sum_k exp(x_k) - x_c),   c the label, w_c the weight of its class
//   dx_k = dl w_c (exp(x_k) / sum_j exp(x_j) - [k = c])
//   mean: sum l / sum w_c over the positions that are not ignored
//
// As PyTorch's, but for one case: where every position is ignored the mean is 0 with gradient 0,
// not NaN, so that an empty tile does not end a run.
#include <moraine/core/device.hpp>
#include <moraine/ops/reduction.hpp>
#ifdef MORAINE_HOST
#include <moraine/ops/binary.hpp>
#endif

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
/// x (outer,classes,inner), labels (outer,inner), weight (classes) or null. Writes lse
/// (outer,inner), the log of the sum of exponentials; y: one value, or (outer,inner) for
/// Reduction::none; and total: the divisor of the mean, 1 otherwise (0 means that nothing counted).
template <class T>
struct CrossEntropy {
  static constexpr const char* name = "cross_entropy";
  Index outer, classes, inner, ignore;
  Reduction reduction;
  const T* x;
  const std::int64_t* labels;
  const T* weight;
  acc<T>* lse;
  T* y;
  acc<T>* total;
  static void cpu(const CrossEntropy& k);
};
template <class T>
struct CrossEntropyGrad {
  static constexpr const char* name = "cross_entropy";
  Index outer, classes, inner, ignore;
  Reduction reduction;
  const T* x;
  const std::int64_t* labels;
  const T* weight;
  const acc<T>*lse, *total;
  const T* dy;
  T* dx;
  static void cpu(const CrossEntropyGrad& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

template <class T>
struct CrossEntropyOptions {
  std::int64_t ignore_index = -100;  ///< positions with this label count nothing
  Tensor<T> weight = {};             ///< (K), a constant factor per class
  Reduction reduction = Reduction::mean;
};

/// x (N,K) with labels (N), or x (B,K,...) with labels (B,...) -> one value (Reduction::none: the
/// shape of the labels). Throws ErrorKind::value for a label that is neither a class nor ignored.
template <class T>
Tensor<T> cross_entropy(const Tensor<T>& x, const Tensor<std::int64_t>& labels,
                        const CrossEntropyOptions<T>& o = {}) {
  Shape want = x.shape();
  if (want.rank >= 2) want.erase(1);
  if (x.rank() < 2 || labels.shape() != want)
    fail(ErrorKind::shape, "cross_entropy: logits are (B,K,...) and labels (B,...); logits " +
                               str(x.shape()) + ", labels " + str(labels.shape()));
  const Index classes = x.size(1);
  if (o.weight.defined() && o.weight.shape() != Shape{classes})
    fail(ErrorKind::shape, "cross_entropy: weight " + str(o.weight.shape()) + " for " +
                               std::to_string(classes) + " classes");
  check_device("cross_entropy", x.device(), labels.device());
  const Tensor<std::int64_t> c = labels.contiguous();
  const Tensor<std::int64_t> seen = c.to(Device::cpu);
  for (Index i = 0, n = seen.numel(); i < n; ++i) {
    const std::int64_t label = seen.data()[i];
    if (label != o.ignore_index && (label < 0 || label >= classes))
      fail(ErrorKind::value,
           "cross_entropy: label " + std::to_string(label) + " is neither a class in [0," +
               std::to_string(classes) + ") nor the ignored " + std::to_string(o.ignore_index) +
               "; element " + std::to_string(i) + " of labels " + str(labels.shape()));
  }
  const Split at = split_at(x.shape(), 1);
  const Tensor<T> cx = x.contiguous().detach();
  const Tensor<T> w = o.weight.defined() ? o.weight.contiguous().detach() : Tensor<T>();
  auto lse = Tensor<acc<T>>::empty({at.outer, at.inner}, x.device());
  auto total = Tensor<acc<T>>::empty({}, x.device());
  Tensor<T> y = Tensor<T>::empty(o.reduction == Reduction::none ? want : Shape{}, x.device());
  launch(x.device(),
         CrossEntropy<T>{at.outer, classes, at.inner, o.ignore_index, o.reduction, cx.data(),
                         c.data(), w.data(), lse.data(), y.data(), total.data()});
  return record("cross_entropy", y, {&x},
                [cx, c, w, lse, total, at, ignore = o.ignore_index,
                 reduction = o.reduction](const Tensor<T>& dy) {
                  const Tensor<T> g = dy.contiguous();
                  Tensor<T> dx = empty_like(cx);
                  launch(cx.device(),
                         CrossEntropyGrad<T>{at.outer, at.size, at.inner, ignore, reduction,
                                             cx.data(), c.data(), w.data(), lse.data(),
                                             total.data(), g.data(), dx.data()});
                  return Grads<T>{dx};
                });
}

// ---- CPU
namespace detail {
/// Positions are taken 64 at a time, classes one after the other: contiguous reads either way.
inline constexpr Index label_piece = 64;
}  // namespace detail

template <class T>
void CrossEntropy<T>::cpu(const CrossEntropy& k) {
  using A = acc<T>;
  constexpr Index piece = detail::label_piece;
  const Index n = k.outer * k.inner, pieces = (k.inner + piece - 1) / piece;
  std::vector<A> loss(static_cast<std::size_t>(n)), weight(static_cast<std::size_t>(n));
  const Index width = k.inner < piece ? k.inner : piece;
  parallel_for(k.outer * pieces, 1 + 8192 / (k.classes * width + 1), [&](Index b, Index e) {
    for (Index r = b; r < e; ++r) {
      const Index o = r / pieces, first = (r % pieces) * piece;
      const Index m = first + piece < k.inner ? piece : k.inner - first;
      const T* x = k.x + o * k.classes * k.inner + first;
      A top[piece], sum[piece];
      for (Index i = 0; i < m; ++i) top[i] = k.classes ? A(x[i]) : A(0), sum[i] = 0;
      for (Index c = 1; c < k.classes; ++c)
        for (Index i = 0; i < m; ++i) {
          const A v = A(x[c * k.inner + i]);
          top[i] = v > top[i] ? v : top[i];
        }
      for (Index c = 0; c < k.classes; ++c)
        for (Index i = 0; i < m; ++i) sum[i] += std::exp(A(x[c * k.inner + i]) - top[i]);
      for (Index i = 0; i < m; ++i) {
        const Index at = o * k.inner + first + i;
        const A lse = top[i] + std::log(sum[i]);
        k.lse[at] = lse;
        const std::int64_t c = k.labels[at];
        const A w = c == k.ignore ? A(0) : k.weight ? A(k.weight[c]) : A(1);
        weight[static_cast<std::size_t>(at)] = w;
        loss[static_cast<std::size_t>(at)] =
            c == k.ignore ? A(0) : w * ((top[i] - A(x[c * k.inner + i])) + std::log(sum[i]));
      }
    }
  });
  *k.total = 1;
  if (k.reduction == Reduction::none) {
    for (Index i = 0; i < n; ++i) k.y[i] = static_cast<T>(loss[static_cast<std::size_t>(i)]);
    return;
  }
  const A sum = ordered_sum(loss.data(), n);
  if (k.reduction == Reduction::mean) *k.total = ordered_sum(weight.data(), n);
  *k.y = static_cast<T>(*k.total == A(0) ? A(0) : sum / *k.total);
}
template <class T>
void CrossEntropyGrad<T>::cpu(const CrossEntropyGrad& k) {
  using A = acc<T>;
  constexpr Index piece = detail::label_piece;
  const Index pieces = (k.inner + piece - 1) / piece;
  const Index width = k.inner < piece ? k.inner : piece;
  const bool each = k.reduction == Reduction::none;
  parallel_for(k.outer * pieces, 1 + 8192 / (k.classes * width + 1), [&](Index b, Index e) {
    for (Index r = b; r < e; ++r) {
      const Index o = r / pieces, first = (r % pieces) * piece;
      const Index m = first + piece < k.inner ? piece : k.inner - first;
      const T* x = k.x + o * k.classes * k.inner + first;
      T* dx = k.dx + o * k.classes * k.inner + first;
      const Index row = o * k.inner + first;
      A scale[piece];
      for (Index i = 0; i < m; ++i) {
        const std::int64_t c = k.labels[row + i];
        const bool counts = c != k.ignore && *k.total != A(0);
        scale[i] = counts
                       ? A(k.dy[each ? row + i : 0]) * (k.weight ? A(k.weight[c]) : A(1)) / *k.total
                       : A(0);
      }
      for (Index c = 0; c < k.classes; ++c)
        for (Index i = 0; i < m; ++i) {
          const A p = std::exp(A(x[c * k.inner + i]) - k.lse[row + i]);
          // An ignored position has gradient 0 even where its logits are not numbers.
          dx[c * k.inner + i] = k.labels[row + i] == k.ignore ? T(0) : static_cast<T>(scale[i] * p);
        }
      for (Index i = 0; i < m; ++i) {
        const std::int64_t c = k.labels[row + i];
        if (c == k.ignore) continue;
        // p - 1 as -(1 - p) loses digits where p is near 1: expm1 keeps them.
        dx[c * k.inner + i] =
            static_cast<T>(scale[i] * std::expm1(A(x[c * k.inner + i]) - k.lse[row + i]));
      }
    }
  });
}
MORAINE_INSTANTIATE(CrossEntropy)
MORAINE_INSTANTIATE(CrossEntropyGrad)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
