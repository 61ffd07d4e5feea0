// Rows of ops/cross_entropy.hpp, ops/pointwise_loss.hpp and ops/dice_loss.hpp.
#include <cmath>
#include <moraine/autograd/backward.hpp>
#include <moraine/ops/index.hpp>
#include <moraine/ops/loss.hpp>
#include <moraine/ops/softmax.hpp>

#include "../op_case.hpp"

using namespace moraine;
using op_test::integers;
using op_test::scalar;
using op_test::uniforms;
using Labels = Tensor<std::int64_t>;

namespace {
/// Labels for logits (B,K,...); every third position gets `ignored` when that is not -100.
Labels labels_for(const Shape& logits, std::int64_t ignored = -100) {
  Shape s = logits;
  s.erase(1);
  Labels y = integers(s, logits[1] ? logits[1] : 1);
  if (ignored != -100)
    for (Index i = 1; i < y.numel(); i += 3) y.data()[i] = ignored;
  return y;
}
/// -log_softmax at the label, op by op.
template <class T>
Tensor<T> picked(const Tensor<T>& x, const Labels& labels) {
  Shape s = labels.shape();
  s.insert(1, 1);
  return scale(gather(log_softmax(x, 1), 1, labels.reshaped(s)), T(-1));
}
}  // namespace

OP_CASE(
    cross_entropy, {Shape{4, 5}},
    [](auto& x) { return cross_entropy(x[0], labels_for(x[0].shape())); },
    [](auto& x) { return mean(picked(x[0], labels_for(x[0].shape()))); },
    {.low = -3, .high = 3, .empty = {}});
OP_CASE(
    cross_entropy_image, {Shape{2, 5, 3, 4}},
    [](auto& x) {
      return cross_entropy(x[0], labels_for(x[0].shape()), {.reduction = Reduction::sum});
    },
    [](auto& x) { return sum(picked(x[0], labels_for(x[0].shape()))); },
    {.low = -3, .high = 3, .large = {Shape{2, 5, 130, 120}}});
OP_CASE(cross_entropy_ignore_weights, {Shape{2, 5, 7}},
        [](auto& x) {
          using T = scalar<decltype(x)>;
          return cross_entropy(
              x[0], labels_for(x[0].shape(), 255),
              {.ignore_index = 255, .weight = uniforms<T>({x[0].size(1)}, 0.2, 1.2)});
        },
        {.low = -3, .high = 3, .nan_spreads = false});
OP_CASE(
    cross_entropy_none, {Shape{4, 5, 3}},
    [](auto& x) {
      return cross_entropy(x[0], labels_for(x[0].shape()), {.reduction = Reduction::none});
    },
    [](auto& x) {
      const auto y = picked(x[0], labels_for(x[0].shape()));
      return reshape(y, {y.size(0), y.size(2)});
    });

TEST_CASE("cross entropy of certain logits keeps its precision") {
  const Tensor<float> x({1, 3}, {1e4f, 0.f, -1e4f});
  CHECK(cross_entropy(x, Labels({1}, {0})).item() == 0.f);
  CHECK(cross_entropy(x, Labels({1}, {2})).item() == 2e4f);
}
TEST_CASE("where every label is ignored the loss is 0, and so is its gradient") {
  Tensor<float> x({2, 3}, {1, 2, 3, NAN, 5, 6});
  x.requires_grad();
  const auto y = cross_entropy(x, Labels({2}, {-100, -100}));
  CHECK(y.item() == 0.f);
  backward(y);
  CHECK(x.grad().values() == std::vector<float>(6, 0.f));
}
TEST_CASE("an ignored position counts nothing, even where its logits are not numbers") {
  Tensor<float> x({2, 2}, {1, 2, NAN, NAN});
  x.requires_grad();
  const auto y = cross_entropy(x, Labels({2}, {1, 7}), {.ignore_index = 7});
  CHECK(y.item() == doctest::Approx(0.31326169));
  backward(y);
  CHECK(x.grad().values()[2] == 0.f);
  CHECK(x.grad().values()[1] == doctest::Approx(-0.26894142));
}
TEST_CASE("cross entropy names labels and shapes that do not fit") {
  const auto x = Tensor<float>::zeros({2, 3});
  CHECK_ERROR(value,
              "cross_entropy: label 3 is neither a class in [0,3) nor the ignored -100; element 1 "
              "of labels (2)",
              cross_entropy(x, Labels({2}, {0, 3})));
  CHECK_ERROR(value,
              "cross_entropy: label 255 is neither a class in [0,3) nor the ignored 0; element 0 "
              "of labels (2)",
              cross_entropy(x, Labels({2}, {255, 1}), {.ignore_index = 0}));
  CHECK_ERROR(shape,
              "cross_entropy: logits are (B,K,...) and labels (B,...); logits (2,3), labels (3)",
              cross_entropy(x, Labels::zeros({3})));
  CHECK_ERROR(shape, "cross_entropy: weight (2) for 3 classes",
              cross_entropy(x, Labels::zeros({2}), {.weight = Tensor<float>::ones({2})}));
}

namespace {
/// Targets of 0 and 1, the same for both element types.
template <class T>
Tensor<T> hard(const Shape& s) {
  return cast<T>(integers(s, 2, 5));
}
template <class T>
Mask some(const Tensor<T>& x) {
  return cast<std::uint8_t>(integers(x.shape(), 3, 9));
}
template <class T>
Tensor<T> soft_bce(const Tensor<T>& x, const Tensor<T>& t) {
  // -t log s(x) - (1-t) log(1-s(x))
  const Tensor<T> p = sigmoid(x), q = sigmoid(-x);
  return scale(add(mul(t, log(p)), mul(sub(Tensor<T>::ones({}), t), log(q))), T(-1));
}
/// Mean over what the mask keeps.
template <class T>
Tensor<T> kept_mean(const Tensor<T>& l, const Mask& m) {
  const Tensor<T> w = cast<T>(not_equal(m, std::uint8_t{0}));
  return div(sum(mul(l, w)), sum(w));
}
}  // namespace

OP_CASE(
    mse, {Shape{3, 4}, Shape{3, 4}}, [](auto& x) { return mse(x[0], x[1]); },
    [](auto& x) { return mean(square(sub(x[0], x[1]))); }, {.empty = {}});
OP_CASE(
    mse_none, {Shape{3, 4}, Shape{3, 4}},
    [](auto& x) { return mse(x[0], x[1], {.reduction = Reduction::none}); },
    [](auto& x) { return square(sub(x[0], x[1])); });
OP_CASE(
    smooth_l1_inside, {Shape{3, 4}, Shape{3, 4}},
    [](auto& x) { return smooth_l1(x[0], x[1], 1.0); },
    [](auto& x) { return scale(mean(square(sub(x[0], x[1]))), op_test::scalar<decltype(x)>(0.5)); },
    {.low = -0.4, .high = 0.4, .empty = {}});
OP_CASE(
    smooth_l1_outside, {Shape{3, 4}, Shape{3, 4}},
    [](auto& x) { return smooth_l1(x[0], x[1], 0.5, {.reduction = Reduction::sum}); },
    [](auto& x) {
      using T = scalar<decltype(x)>;
      return sum(abs(sub(x[0], x[1])) + T(-0.25));
    },
    {.ranges = {{0, 1}, {2, 3}}});
OP_CASE(
    bce_with_logits, {Shape{3, 4}, Shape{3, 4}},
    [](auto& x) { return bce_with_logits(x[0], x[1]); },
    [](auto& x) { return mean(soft_bce(x[0], x[1])); }, {.ranges = {{-4, 4}, {0, 1}}, .empty = {}});
OP_CASE(bce_with_logits_weights_mask, {Shape{3, 4}, Shape{3, 4}},
        [](auto& x) {
          using T = scalar<decltype(x)>;
          return bce_with_logits(x[0], x[1],
                                 {.weight = uniforms<T>(x[0].shape(), 0.5, 2), .mask = some(x[0])},
                                 uniforms<T>({x[0].size(-1)}, 0.5, 2, 3));
        },
        {.ranges = {{-4, 4}, {0, 1}}, .nan_spreads = false});
OP_CASE(
    focal, {Shape{3, 4}, Shape{3, 4}}, [](auto& x) { return focal(x[0], x[1]); },
    [](auto& x) {
      using T = scalar<decltype(x)>;
      const auto one = Tensor<T>::ones({});
      const auto p = sigmoid(x[0]);
      const auto pt = add(mul(p, x[1]), mul(sub(one, p), sub(one, x[1])));
      const auto at = add(scale(x[1], T(0.25)), scale(sub(one, x[1]), T(0.75)));
      return mean(mul(mul(at, square(sub(one, pt))), soft_bce(x[0], x[1])));
    },
    {.ranges = {{-4, 4}, {0, 1}}, .empty = {}});
OP_CASE(focal_odd_gamma, {Shape{3, 4}, Shape{3, 4}},
        [](auto& x) {
          return focal(x[0], x[1], {.alpha = -1, .gamma = 0.5},
                       {.mask = some(x[0]), .reduction = Reduction::sum});
        },
        {.ranges = {{-3, 3}, {0.1, 0.9}}, .nan_spreads = false});
OP_CASE(dice, {Shape{2, 5}, Shape{2, 5}}, [](auto& x) { return dice(x[0], x[1]); },
        {.low = 0, .high = 1, .empty = {}});
OP_CASE(dice_logits_mask, {Shape{2, 3, 5}, Shape{2, 3, 5}},
        [](auto& x) {
          return dice(
              x[0], x[1],
              {.epsilon = 0.5, .logits = true, .mask = some(x[0]), .reduction = Reduction::sum});
        },
        {.ranges = {{-3, 3}, {0, 1}}, .nan_spreads = false});

TEST_CASE("bce and focal of hard targets far from the boundary neither overflow nor vanish") {
  Tensor<float> x({4}, {200.f, -200.f, 200.f, -200.f});
  const Tensor<float> t({4}, {1, 0, 0, 1});
  CHECK(bce_with_logits(x, t, {.reduction = Reduction::none}).values() ==
        std::vector<float>{0, 0, 200, 200});
  CHECK(focal(x, t, {.alpha = -1}, {.reduction = Reduction::none}).values() ==
        std::vector<float>{0, 0, 200, 200});
  x.requires_grad();
  backward(focal(x, t, {.alpha = -1, .gamma = 0.5}, {.reduction = Reduction::sum}));
  CHECK(x.grad().values() == std::vector<float>{0, 0, 1, -1});
}
TEST_CASE("a mask hides NaN from every loss, and nothing left is 0") {
  Tensor<float> x({2, 2}, {0.5f, NAN, 0.25f, NAN});
  const Tensor<float> t({2, 2}, {1, 0, 0, 1});
  const Mask keep({2}, {1, 0}), none({1}, {0});
  CHECK(mse(x, t, {.mask = keep}).item() == 0.15625f);  // (0.25 + 0.0625) / 2
  CHECK(std::isfinite(bce_with_logits(x, t, {.mask = keep}).item()));
  CHECK(std::isfinite(focal(x, t, {}, {.mask = keep}).item()));
  x.requires_grad();
  const auto y = dice(x, t, {.mask = keep});
  CHECK(std::isfinite(y.item()));
  backward(y);
  CHECK(x.grad().values()[1] == 0.f);
  CHECK(mse(x, t, {.mask = none}).item() == 0.f);
}
TEST_CASE("losses name shapes and options that do not fit") {
  const auto a = Tensor<float>::zeros({2, 3}), b = Tensor<float>::zeros({3});
  CHECK_ERROR(shape, "mse: prediction and target differ; prediction (2,3), target (3)", mse(a, b));
  CHECK_ERROR(shape, "expand: (2) does not fit (2,3)",
              mse(a, a, {.weight = Tensor<float>::zeros({2})}));
  CHECK_ERROR(value, "smooth_l1: beta must be positive; beta 0.000000", smooth_l1(a, a, 0));
  CHECK_ERROR(value, "focal: needs alpha <= 1 and gamma >= 0; alpha 0.250000, gamma -1.000000",
              focal(a, a, {.gamma = -1}));
  CHECK_ERROR(shape,
              "dice: prediction and target differ or have no axis; prediction (2,3), target (3)",
              dice(a, b));
}
