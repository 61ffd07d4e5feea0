#pragma once
// Where the recorded reference results are, and how far a tensor is from one of them.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <moraine/core/any_tensor.hpp>
#include <string>
#include <vector>

#include "io/scratch.hpp"

namespace fixtures {

inline std::string dir() { return std::string(MORAINE_SOURCE_DIR) + "/tests/parity/fixtures"; }

/// Folders whose names begin so, sorted, with their full path.
inline std::vector<std::string> folders(const std::string& begin) {
  std::vector<std::string> out;
  for (const std::string& n : scratch::list(dir()))
    if (n.rfind(begin, 0) == 0) out.push_back(dir() + "/" + n);
  std::sort(out.begin(), out.end());
  return out;
}

/// The families of models that the tests run, by the beginning of their folders. A new family is
/// one entry; a folder with a config.json that no entry covers fails encode_test.
inline const std::vector<std::string> families = {
    "dinov2_", "dinov3_", "clip_", "eva02_", "depth_anything_", "prompt_depth_anything_",
    "sam_",    "dofa_"};

/// max |a - b| / max(1, max |b|), b being the reference; infinite when a NaN or infinity stands on
/// one side only, or the shapes differ.
inline double distance(const moraine::AnyTensor& a, const moraine::AnyTensor& b) {
  const double inf = std::numeric_limits<double>::infinity();
  if (a.shape != b.shape) return inf;
  const std::vector<double> x = a.as<double>().values(), y = b.as<double>().values();
  double worst = 0, scale = 1;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (std::isfinite(y[i])) scale = std::max(scale, std::abs(y[i]));
    const bool same = x[i] == y[i] || (std::isnan(x[i]) && std::isnan(y[i]));
    const double d = same ? 0.0 : std::abs(x[i] - y[i]);
    worst = std::isnan(d) ? inf : std::max(worst, d);
  }
  return worst / scale;
}

/// The worst distance over all tensors of the reference. A tensor missing on either side counts as
/// infinite; `at` receives the name of the worst.
inline double distance(const moraine::TensorMap& a, const moraine::TensorMap& b, std::string* at) {
  double worst = -1;
  const auto take = [&](const std::string& name, double d) {
    if (d > worst) worst = d, *at = name;
  };
  for (const auto& [name, t] : b) {
    const auto it = a.find(name);
    take(name, it == a.end() ? std::numeric_limits<double>::infinity() : distance(it->second, t));
  }
  for (const auto& [name, t] : a)
    if (!b.count(name)) take(name, std::numeric_limits<double>::infinity());
  return worst;
}

}  // namespace fixtures
