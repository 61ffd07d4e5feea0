#pragma once
// One row describes an op once:
//
//   OP_CASE(softmax, {Shape{3, 7}}, [](auto& x) { return softmax(x[0]); });
//   OP_CASE(linear, {Shape{3, 5}, Shape{4, 5}}, op, composed, {.low = -2, .high = 2});
//
// The second form has a reference: the composed definition of a fused op. From a row follow
//   gradient   every element of every gradient against central differences, in double, at 1e-7
//   float      float values and gradients against double
//   bits       inputs untouched; the same bits with and without a tape, for any subset of tracked
//              inputs, whatever freed memory held, and for 1, 2 and 3 threads
//   strided    transposed, sliced (between NaN) and repeated views of every input
//   ragged     each size that appears in the row replaced by 1, 17 and 65
//   empty      each size replaced by 0: an empty result or an Error; a result where `empty` says so
//   nan        NaN and infinity in each input: nothing but a value or an Error
//   reference  values and gradients of the composed definition
//   cuda       the same on a CUDA device where there is one
// and the timing of bench/ops.cpp. Sizes are letters: equal sizes in a row are one axis, so a row
// gives different axes different sizes. Side inputs of integer type are made inside the lambda
// from the shapes it sees (`integers`), so that they follow.
#include <doctest/doctest.h>

#include <functional>
#include <moraine/core/tensor.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace moraine::op_test {

template <class T>
using Inputs = std::vector<Tensor<T>>;
template <class T>
using Op = std::function<Tensor<T>(const Inputs<T>&)>;
/// Inside a row's lambda: the element type of its inputs.
template <class X>
using scalar = typename std::decay_t<X>::value_type::value_type;

struct RowOptions {
  double low = -1, high = 1;                           ///< inputs are uniform in [low, high)
  std::vector<std::pair<double, double>> ranges = {};  ///< per input, instead of low and high
  std::vector<double> kinks = {};                      ///< inputs keep 0.05 away from these
  bool apart = false;               ///< no two values of one input are close (max, top-k, sorting)
  bool gradient = true;             ///< false: the op is not differentiable and returns no tape
  std::vector<int> flat = {};       ///< inputs whose gradient is zero everywhere
  std::vector<Index> fixed = {};    ///< sizes that ragged and empty leave alone
  std::vector<Index> empty = {-1};  ///< sizes that may be 0; -1: the first size of the first input
  bool nan_spreads = true;          ///< a NaN in any input reaches the value
  bool exact_views = true;          ///< a view gives the same bits; false: the same to 1e-12 (1e-5)
  double float_tolerance = 2e-5;    ///< of the largest value, float against double
  double reference_tolerance = 1e-11;  ///< of the largest value, against the reference in double
  std::vector<Shape> large = {};  ///< sizes for threads and timing; default: the first size grown
};

struct Row {
  std::string name;
  std::vector<Shape> shapes;
  RowOptions options;
  Op<float> f32, reference32;
  Op<double> f64, reference64;
};

template <class F>
Row make_row(const char* name, std::vector<Shape> shapes, F f, RowOptions o = {}) {
  Row r{name, std::move(shapes), std::move(o), {}, {}, {}, {}};
  r.f32 = [f](const Inputs<float>& x) { return f(x); };
  r.f64 = [f](const Inputs<double>& x) { return f(x); };
  return r;
}
template <class F, class R>
Row make_row(const char* name, std::vector<Shape> shapes, F f, R reference, RowOptions o = {}) {
  Row r = make_row(name, std::move(shapes), std::move(f), std::move(o));
  r.reference32 = [reference](const Inputs<float>& x) { return reference(x); };
  r.reference64 = [reference](const Inputs<double>& x) { return reference(x); };
  return r;
}

/// Everything that is wrong with a row, one line each, beginning with the name of the check.
std::vector<std::string> failures(const Row& row);
/// Reports each of them to doctest.
void check_row(const Row& row);
/// The sizes for threads and timing.
std::vector<Shape> large_shapes(const Row& row);
/// The inputs of a row at some sizes: the same for every element type.
template <class T>
Inputs<T> make_inputs(const Row& row, const std::vector<Shape>& shapes);

/// All rows of a program, for bench/ops.cpp.
std::vector<Row (*)()>& all_rows();
inline bool list_row(Row (*make)()) {
  all_rows().push_back(make);
  return true;
}

/// Integers in [0, high), the same for the same arguments: indices and labels.
Tensor<std::int64_t> integers(const Shape& shape, Index high, unsigned seed = 1);
/// Floats in [low, high), as above.
template <class T>
Tensor<T> uniforms(const Shape& shape, double low = -1, double high = 1, unsigned seed = 1);

/// The kind and message of the Error that f throws; "(no error)" when it throws none.
struct Thrown {
  ErrorKind kind = ErrorKind::value;
  std::string message = "(no error)";
};
template <class F>
Thrown thrown(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return {e.kind(), e.what()};
  }
  return {};
}

}  // namespace moraine::op_test

#define OP_CASE(name, ...)                                                                         \
  static ::moraine::op_test::Row row_of_##name() {                                                 \
    return ::moraine::op_test::make_row(#name, __VA_ARGS__);                                       \
  }                                                                                                \
  [[maybe_unused]] static const bool listed_##name = ::moraine::op_test::list_row(&row_of_##name); \
  TEST_CASE("op " #name) { ::moraine::op_test::check_row(row_of_##name()); }

/// The expression throws Error of that kind with exactly that message.
#define CHECK_ERROR(kind_, message_, ...)                                      \
  do {                                                                         \
    const auto got = ::moraine::op_test::thrown([&] { (void)(__VA_ARGS__); }); \
    CHECK(got.message == message_);                                            \
    CHECK(got.kind == ::moraine::ErrorKind::kind_);                            \
  } while (0)
