// Negative controls: each check of op_case.hpp reports an op that is wrong in exactly that way.
#include "../op_case.hpp"

#include <cmath>
#include <moraine/core/parallel.hpp>
#include <moraine/ops/binary.hpp>
#include <moraine/ops/unary.hpp>

using namespace moraine;
using op_test::make_row;

namespace {

bool reports(const op_test::Row& row, const std::string& check) {
  for (const std::string& f : op_test::failures(row))
    if (f.rfind(check + ":", 0) == 0) return true;
  return false;
}
bool clean(const op_test::Row& row) { return op_test::failures(row).empty(); }

/// x^2, but its gradient is `factor` * 2x.
template <class T>
Tensor<T> square_with(const Tensor<T>& x, double factor) {
  Tensor<T> y = square(x.detach());
  return record("square", y, {&x}, [x = x.detach(), factor](const Tensor<T>& dy) {
    return Grads<T>{scale(mul(dy, x), static_cast<T>(2 * factor))};
  });
}

}  // namespace

TEST_CASE("a correct row passes") {
  CHECK(clean(make_row("square", {Shape{3, 4}}, [](auto& x) { return square_with(x[0], 1); })));
}
TEST_CASE("a wrong gradient fails, however small the error") {
  const auto row = [](double factor) {
    return make_row("square", {Shape{3, 4}}, [=](auto& x) { return square_with(x[0], factor); });
  };
  CHECK(reports(row(1.5), "gradient"));
  CHECK(reports(row(0), "gradient"));
  CHECK(reports(row(-1), "gradient"));
  CHECK(reports(row(1 + 1e-6), "gradient"));
}
TEST_CASE("a wrong gradient of a tiny value fails: nothing absolute excuses it") {
  CHECK(reports(make_row("tiny", {Shape{3, 4}},
                         [](auto& x) {
                           using T = op_test::scalar<decltype(x)>;
                           return scale(square_with(x[0], 1.01), T(1e-6));
                         }),
                "gradient"));
}
TEST_CASE("a gradient wrong in one element only fails") {
  CHECK(reports(make_row("one", {Shape{3, 4}},
                         [](auto& x) {
                           using T = op_test::scalar<decltype(x)>;
                           return record("one", exp(x[0].detach()), {&x[0]},
                                         [y = exp(x[0].detach())](const Tensor<T>& dy) {
                                           Tensor<T> dx = mul(dy, y);
                                           if (dx.numel() > 5) dx.data()[5] *= T(1.001);
                                           return Grads<T>{dx};
                                         });
                         }),
                "gradient"));
}
TEST_CASE("a missing gradient fails") {
  CHECK(reports(make_row("cut", {Shape{3}}, [](auto& x) { return exp(x[0].detach()); }), "row"));
  CHECK(reports(
      make_row("cut", {Shape{3, 4}, Shape{3, 4}}, [](auto& x) { return mul(x[0], x[1].detach()); }),
      "gradient"));
}
TEST_CASE("a wrong reference fails in value and in gradient") {
  CHECK(reports(make_row(
                    "value", {Shape{3, 4}}, [](auto& x) { return exp(x[0]); },
                    [](auto& x) {
                      using T = op_test::scalar<decltype(x)>;
                      return scale(exp(x[0]), T(1 + 1e-9));
                    }),
                "reference"));
  CHECK(reports(make_row(
                    "gradient", {Shape{3, 4}}, [](auto& x) { return square(x[0]); },
                    [](auto& x) { return square_with(x[0], 1.1); }),
                "reference"));
}
TEST_CASE("an op that depends on the number of threads fails") {
  CHECK(reports(make_row("threads", {Shape{3, 4}},
                         [](auto& x) {
                           using T = op_test::scalar<decltype(x)>;
                           return scale(x[0], T(1) + T(1e-6) * T(threads()));
                         }),
                "threads"));
}
TEST_CASE("an op that forgets strides fails") {
  CHECK(reports(make_row("strides", {Shape{3, 4}},
                         [](auto& x) {
                           return add(x[0],
                                      x[0].detach().view(x[0].shape(), row_major(x[0].shape())));
                         }),
                "strided"));
}
TEST_CASE("an op that writes to its input or reads what nobody wrote fails") {
  CHECK(reports(make_row("writes", {Shape{3, 4}},
                         [](auto& x) {
                           if (x[0].numel()) x[0].data()[0] = 0;
                           return exp(x[0]);
                         }),
                "bits"));
#if !defined(__SANITIZE_ADDRESS__)  // it keeps freed blocks back, so poisoned memory never returns
  CHECK(reports(make_row("unwritten", {Shape{3, 4}},
                         [](auto& x) {
                           auto y = empty_like(x[0]);
                           return add(x[0], y);
                         }),
                "bits"));
#endif
}
TEST_CASE("an op that differs between float and double fails") {
  CHECK(reports(make_row("float", {Shape{3, 4}},
                         [](auto& x) {
                           using T = op_test::scalar<decltype(x)>;
                           return scale(x[0], T(sizeof(T) == 4 ? 1.001 : 1));
                         }),
                "float"));
}
TEST_CASE("an op that fails on ragged or empty sizes, throws strangers or hides NaN fails") {
  const auto refuse = [](auto& x, Index n) {
    if (x[0].size(0) == n) fail(ErrorKind::shape, "odd: does not like this size");
    return exp(x[0]);
  };
  CHECK(
      reports(make_row("ragged", {Shape{3, 4}}, [=](auto& x) { return refuse(x, 17); }), "ragged"));
  CHECK(reports(make_row("empty", {Shape{3, 4}}, [=](auto& x) { return refuse(x, 0); }), "empty"));
  CHECK(reports(make_row("stranger", {Shape{3, 4}},
                         [](auto& x) {
                           if (x[0].numel() > 6 && std::isnan(x[0].values()[6])) throw 1.5f;
                           return exp(x[0]);
                         }),
                "nan"));
  CHECK(reports(make_row("hides", {Shape{3, 4}},
                         [](auto& x) {
                           using T = op_test::scalar<decltype(x)>;
                           Tensor<T> y = x[0].clone();
                           for (Index i = 0; i < y.numel(); ++i)
                             if (std::isnan(y.data()[i])) y.data()[i] = T(0);
                           return record("hides", y, {&x[0]},
                                         [](const Tensor<T>& dy) { return Grads<T>{dy}; });
                         }),
                "nan"));
}
