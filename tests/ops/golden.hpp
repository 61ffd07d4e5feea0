#pragma once
// Cases of tests/parity/fixtures/ops_<group>.safetensors: values and gradients from PyTorch in
// double, read again in float. How a case is laid out is written in tests/parity/README.md.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <moraine/autograd/backward.hpp>
#include <moraine/io/safetensors.hpp>
#include <string>
#include <vector>

namespace golden {

/// The parameters of a case: a flat JSON object of numbers, pairs, booleans and words.
class Parameters {
 public:
  explicit Parameters(std::string json) : json_(std::move(json)) {}
  bool has(const char* key) const { return at(key) != std::string::npos; }
  /// One number stands for both of a pair.
  std::pair<double, double> pair(const char* key, double otherwise) const {
    if (!has(key)) return {otherwise, otherwise};
    const char* p = json_.c_str() + at(key);
    const bool two = *p == '[';
    char* end = nullptr;
    const double a = std::strtod(p + two, &end);
    return {a, two ? std::strtod(end + 1, nullptr) : a};
  }
  double number(const char* key, double otherwise) const { return pair(key, otherwise).first; }
  bool flag(const char* key, bool otherwise = false) const {
    return has(key) ? json_[at(key)] == 't' : otherwise;
  }
  std::string word(const char* key) const {
    const std::size_t begin = at(key) + 1;
    return json_.substr(begin, json_.find('"', begin) - begin);
  }

 private:
  std::size_t at(const char* key) const {
    const std::string quoted = '"' + std::string(key) + "\": ";
    const std::size_t p = json_.find(quoted);
    return p == std::string::npos ? p : p + quoted.size();
  }
  std::string json_;
};

template <class T>
double distance(const moraine::Tensor<T>& got, const moraine::Tensor<double>& want) {
  if (!got.defined() || got.shape() != want.shape()) return INFINITY;
  const std::vector<T> a = got.values();
  const std::vector<double> b = want.values();
  double most = 0, worst = 0;
  for (double v : b) most = std::max(most, std::abs(v));
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(d <= worst)) worst = d;  // keeps a NaN
  }
  return worst == 0 ? 0 : worst / most;
}

template <class T, class F>
void check(const moraine::TensorMap& m, const std::string& name, const Parameters& p, F& f) {
  using moraine::Tensor;
  const double tolerance = sizeof(T) == 8 ? 1e-12 : 1e-5;
  std::vector<Tensor<T>> x;
  for (int i = 0; m.count(name + ".in." + std::to_string(i)); ++i) {
    x.push_back(m.at(name + ".in." + std::to_string(i)).as<T>());
    x.back().requires_grad();
  }
  const Tensor<T> y = f(x, p);
  CHECK_MESSAGE(distance(y, m.at(name + ".out").as<double>()) < tolerance, name, ": the value");
  moraine::backward(y, m.at(name + ".cot").as<T>());
  for (std::size_t i = 0; i < x.size(); ++i)
    CHECK_MESSAGE(
        distance(x[i].grad(), m.at(name + ".grad." + std::to_string(i)).as<double>()) < tolerance,
        name, ": gradient ", i);
}

/// Every case of that op in the group; f(inputs, parameters) -> value, for float and double.
/// `cases` is how many there must be, so that a renamed op is not a pass.
template <class F>
void check_group(const std::string& group, const std::string& op, int cases, F f) {
  const auto file = moraine::read_safetensors(
      std::string(MORAINE_SOURCE_DIR) + "/tests/parity/fixtures/ops_" + group + ".safetensors");
  int seen = 0;
  for (const auto& [name, json] : file.metadata) {
    const Parameters p(json);
    if (p.word("op") != op) continue;
    ++seen;
    check<double>(file.tensors, name, p, f);
    check<float>(file.tensors, name, p, f);
  }
  CHECK(seen == cases);
}

}  // namespace golden
