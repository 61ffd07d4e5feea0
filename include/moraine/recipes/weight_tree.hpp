#pragma once
// Weights for the eye: statistics of every tensor, NaN and infinity counted, as a tree of their
// names. What `moraine info` prints.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <moraine/core/any_tensor.hpp>
#include <moraine/core/parallel.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

/// Of the finite values of one tensor; sums in double, in storage order.
struct TensorStatistics {
  Index values = 0, nan = 0, infinite = 0;
  double mean = 0, std = 0, least = 0, most = 0;  ///< std divides by the count
  bool known = false;                             ///< false: an element type that is not read
};

inline TensorStatistics statistics_of(const AnyTensor& t) {
  TensorStatistics s;
  s.values = t.shape.numel();
  if (t.dtype == Dtype::other) return s;
  s.known = true;
  visit(t.dtype, [&](auto zero) {
    using S = decltype(zero);
    double shift = 0, sum = 0, squares = 0;
    Index n = 0;
    for (Index i = 0; i < s.values; ++i) {
      S raw;
      std::memcpy(&raw, t.data + static_cast<std::size_t>(i) * sizeof(S), sizeof(S));
      double v;
      if constexpr (std::is_same_v<S, float16> || std::is_same_v<S, bfloat16>)
        v = static_cast<double>(static_cast<float>(raw));
      else
        v = static_cast<double>(raw);
      if (std::isnan(v)) {
        ++s.nan;
        continue;
      }
      if (std::isinf(v)) {
        ++s.infinite;
        continue;
      }
      if (n++ == 0) shift = s.least = s.most = v;
      s.least = v < s.least ? v : s.least;
      s.most = v > s.most ? v : s.most;
      sum += v - shift;
      squares += (v - shift) * (v - shift);
    }
    if (n == 0) return;
    const double m = sum / static_cast<double>(n);
    s.mean = shift + m;
    s.std = std::sqrt(std::max(0.0, squares / static_cast<double>(n) - m * m));
  });
  return s;
}

/// The same of every tensor, in the order of the map.
inline std::vector<TensorStatistics> statistics_of(const TensorMap& map) {
  std::vector<const AnyTensor*> all;
  for (const auto& [name, t] : map) all.push_back(&t);
  std::vector<TensorStatistics> out(all.size());
  parallel_for(static_cast<Index>(all.size()), 1, [&](Index b, Index e) {
    for (Index i = b; i < e; ++i)
      out[static_cast<std::size_t>(i)] = statistics_of(*all[static_cast<std::size_t>(i)]);
  });
  return out;
}

namespace detail {
/// Numbers by value, all else by letter: block 2 before block 10.
struct NaturalLess {
  bool operator()(const std::string& a, const std::string& b) const {
    const auto number = [](const std::string& s) {
      return !s.empty() && s.size() < 10 && s.find_first_not_of("0123456789") == std::string::npos;
    };
    if (number(a) && number(b)) {
      const long x = std::strtol(a.c_str(), nullptr, 10), y = std::strtol(b.c_str(), nullptr, 10);
      if (x != y) return x < y;
    }
    return a < b;
  }
};
struct WeightNode {
  std::map<std::string, WeightNode, NaturalLess> below;
  std::size_t at = 0;
  bool is_tensor = false;
};
}  // namespace detail

/// One line of the tree.
struct WeightLine {
  int depth = 0;
  std::string name;        ///< of this level; chains of single children are joined by dots
  std::ptrdiff_t at = -1;  ///< which tensor of the map; -1: a module
};

/// The names of a map as a tree, at most 32 levels deep.
inline std::vector<WeightLine> weight_tree(const TensorMap& map) {
  detail::WeightNode root;
  std::size_t i = 0;
  for (const auto& [name, t] : map) {
    detail::WeightNode* node = &root;
    std::string_view rest = name;
    for (int level = 0; level < 32; ++level) {
      const std::size_t dot = rest.find('.');
      const bool last = dot == std::string_view::npos || level == 31;
      node = &node->below[std::string(last ? rest : rest.substr(0, dot))];
      if (last) break;
      rest.remove_prefix(dot + 1);
    }
    node->at = i++;
    node->is_tensor = true;
  }
  std::vector<WeightLine> out;
  const auto walk = [&](const auto& self, const detail::WeightNode& node, int depth) -> void {
    for (const auto& [name, child] : node.below) {
      std::string joined = name;
      const detail::WeightNode* c = &child;
      while (!c->is_tensor && c->below.size() == 1) {
        joined += "." + c->below.begin()->first;
        c = &c->below.begin()->second;
      }
      out.push_back({depth, joined, c->is_tensor ? static_cast<std::ptrdiff_t>(c->at) : -1});
      self(self, *c, depth + 1);
    }
  };
  walk(walk, root, 0);
  return out;
}

}  // namespace moraine
