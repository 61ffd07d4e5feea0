#pragma once
// Compares ops with the golden values of tests/parity/fixtures/ops_<group>.safetensors, which
// PyTorch computed in double (scripts/make_ops_fixtures.py; the format is in
// tests/parity/README.md): values and gradients, in double and in float.
//
//   check_parity("loss", [](auto& c) { if (c.op == "mse") return c.value(mse(c.x(0), c.x(1), ...));
//   });
//
// The function is called for every case and says by c.value() that it knows it. A case that nobody
// knows is a failure, and so is an output or a gradient of the file that was not compared.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <moraine/autograd/backward.hpp>
#include <moraine/io/json.hpp>
#include <moraine/io/safetensors.hpp>
#include <string>
#include <vector>

namespace moraine::parity {

template <class T>
struct Case {
  std::string name, op;
  Json parameters;
  const TensorMap* all;
  std::map<int, Tensor<T>> leaves;
  double float_tolerance = 2e-5;  ///< of the largest value; double: 1e-12
  double float_floor = 1e-7;      ///< and this much; double: 2e-16
  int known = 0, graded = 0;      ///< outputs and gradients that were compared

  /// Outputs ("out.") or gradients ("grad.") that the file holds of this case.
  int held(const std::string& kind) const {
    const std::string begin = name + "." + kind;
    int n = kind == "out." && has("out");
    for (auto at = all->lower_bound(begin); at != all->end() && at->first.rfind(begin, 0) == 0;
         ++at)
      ++n;
    return n;
  }
  bool has(const std::string& what) const { return all->count(name + "." + what) != 0; }
  const AnyTensor& get(const std::string& what) const { return all->at(name + "." + what); }
  /// Input i; a leaf of the tape, the same one at every call.
  const Tensor<T>& x(int i) {
    auto [at, fresh] = leaves.try_emplace(i);
    if (fresh) at->second = get("in." + std::to_string(i)).template as<T>().clone().requires_grad();
    return at->second;
  }
  /// Input i when there is one, else undefined.
  Tensor<T> optional(int i) { return has("in." + std::to_string(i)) ? x(i) : Tensor<T>(); }
  Tensor<std::int64_t> ids(int i) const {
    return get("in." + std::to_string(i)).template as<std::int64_t>();
  }
  double number(const char* key) const { return parameters.at(key).as_double(key); }
  Index integer(const char* key) const { return parameters.at(key).as_int(key); }
  const std::string& text(const char* key) const { return parameters.at(key).as_string(key); }
  bool yes(const char* key) const { return parameters.at(key).as_bool(key); }
  /// A list of integers; a single number is a list of one.
  std::vector<Index> integers(const char* key) const {
    const Json& v = parameters.at(key);
    if (!v.is_array()) return {v.as_int(key)};
    std::vector<Index> out;
    for (const Json& i : v.as_array(key)) out.push_back(i.as_int(key));
    return out;
  }
  std::vector<double> numbers(const char* key) const {
    const Json& v = parameters.at(key);
    if (!v.is_array()) return {v.as_double(key)};
    std::vector<double> out;
    for (const Json& i : v.as_array(key)) out.push_back(i.as_double(key));
    return out;
  }

  /// The value of the op; its gradients follow from the leaves that were read.
  void value(const Tensor<T>& y) {
    output("out", y);
    if (!has("cot")) return;
    if (!y.tracked()) {
      FAIL_CHECK(name << ": the value is not on the tape");
      return;
    }
    backward(y, get("cot").template as<T>());
    for (auto& [i, leaf] : leaves) {
      const std::string what = "grad." + std::to_string(i);
      if (!has(what)) continue;
      near(what, leaf.grad().defined() ? leaf.grad() : zeros_like(leaf));
      ++graded;
    }
  }
  /// A further output: "out.1", ...
  template <class S>
  void output(const std::string& what, const Tensor<S>& y) {
    ++known;
    if constexpr (std::is_integral_v<S>) {
      CHECK_MESSAGE(y.shape() == get(what).shape,
                    name << " " << what << ": shape " << str(y.shape()));
      CHECK_MESSAGE(y.values() == get(what).template as<S>().values(), name << " " << what);
    } else {
      near(what, y);
    }
  }
  /// Within 1e-12 (double) or float_tolerance of the largest value; the floor is the rounding of 1
  /// unless the case sets another.
  void near(const std::string& what, const Tensor<T>& got) {
    const Tensor<double> want = get(what).template as<double>();
    if (got.shape() != want.shape()) {
      FAIL_CHECK(name << " " << what << ": shape " << str(got.shape()) << " instead of "
                      << str(want.shape()));
      return;
    }
    constexpr bool single = sizeof(T) == 4;
    const std::vector<T> a = got.values();
    const std::vector<double> b = want.values();
    double most = 0, diff = 0;
    for (std::size_t i = 0; i < b.size(); ++i) {
      const double u = double(a[i]);
      if (u == b[i] || (std::isnan(u) && std::isnan(b[i]))) continue;
      most = std::max(most, std::abs(b[i]));
      diff = std::max(diff, std::isfinite(u) ? std::abs(u - b[i]) : INFINITY);
    }
    for (double v : b)
      if (std::isfinite(v)) most = std::max(most, std::abs(v));
    const double allowed =
        (single ? float_tolerance : 1e-12) * most + (single ? float_floor : 2e-16);
    CHECK_MESSAGE(diff <= allowed, name << " " << what
                                        << std::string(single ? ", float" : ", double")
                                        << ": differs by " << diff << ", allowed " << allowed);
  }
};

template <class T, class F>
void check_parity_as(const std::string& group, F& f) {
  const std::string path =
      std::string(MORAINE_SOURCE_DIR) + "/tests/parity/fixtures/ops_" + group + ".safetensors";
  const SafetensorsFile file = read_safetensors(path);
  REQUIRE(!file.metadata.empty());
  for (const auto& [name, text] : file.metadata) {
    Case<T> c{name, "", parse_json(text), &file.tensors, {}};
    c.op = c.parameters.at("op").as_string("op");
    try {
      f(c);
    } catch (const Error& e) {
      FAIL_CHECK(name << " threw: " << e.what());
      continue;
    }
    if (c.known == 0) FAIL_CHECK(name << ": no op answers to '" << c.op << "'");
    CHECK_MESSAGE(c.known == c.held("out."), name << ": outputs left out");
    CHECK_MESSAGE(c.graded == c.held("grad."), name << ": gradients left out");
  }
}
template <class F>
void check_parity(const std::string& group, F f) {
  check_parity_as<double>(group, f);
  check_parity_as<float>(group, f);
}

}  // namespace moraine::parity
