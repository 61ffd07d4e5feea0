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
