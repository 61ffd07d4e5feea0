#pragma once
// Random fields for the scene generator: value noise (normal values on a coarse grid, bicubic in
// between), sums of its octaves, and fast white normals. Every value is a function of (seed,
// purpose, place): no order of evaluation and no number of threads can change it.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <moraine/core/random.hpp>
#include <moraine/core/shape.hpp>
#include <vector>

namespace moraine::data {

namespace detail {

/// Normal quantiles at 4096 midpoints: white noise needs no more than 12 bits a value, and a table
/// in the first-level cache makes it ten times faster than the exact inverse.
inline const std::array<float, 4096>& normal_table() {
  static const std::array<float, 4096> table = [] {
    std::array<float, 4096> t{};
    for (std::size_t i = 0; i < t.size(); ++i)
      t[i] = static_cast<float>(Random::inverse_normal((static_cast<double>(i) + 0.5) / 4096));
    return t;
  }();
  return table;
}

}  // namespace detail

/// Row `row` of a plane of white standard normals (12 bits each): out[0..n).
inline void white_row(std::uint64_t seed, const char* purpose, std::uint32_t plane, Index row,
                      Index n, float* out) {
  const std::array<float, 4096>& table = detail::normal_table();
  const std::uint64_t key = seed ^ (std::uint64_t{plane} * 0x9E3779B97F4A7C15ull);
  const std::uint32_t name = Random::hash(purpose);
  for (Index x = 0; x < n; x += 8) {
    const Philox p = philox(key, static_cast<std::uint32_t>(x >> 3),
                            static_cast<std::uint32_t>(row), name, plane);
    const Index m = std::min<Index>(8, n - x);
    for (Index k = 0; k < m; ++k) out[x + k] = table[(p.v[k >> 1] >> ((k & 1) * 16 + 4)) & 4095u];
  }
}

/// A sequence of random numbers for objects that are drawn one after another.
class Draw {
 public:
  Draw(std::uint64_t seed, const char* purpose, std::uint64_t step = 0) : r_(seed, purpose, step) {}
  float uniform() { return r_.uniform(i_++); }
  float uniform(float low, float high) { return r_.uniform(i_++, low, high); }
  /// Integer in [low, high], both included.
  int integer(int low, int high) {
    return low + static_cast<int>(r_.below(i_++, static_cast<std::uint32_t>(high - low + 1)));
  }
  float normal(float sigma) { return sigma * static_cast<float>(r_.normal(i_++)); }

 private:
  Random r_;
  std::uint64_t i_ = 0;
};

/// Value noise over H x W pixels: standard normals about `step` pixels apart, cubic convolution
/// (a = -0.75) between them.
class ValueNoise {
 public:
  ValueNoise() = default;
  ValueNoise(std::uint64_t seed, const char* purpose, std::uint32_t octave, Index height,
             Index width, double step)
      : rows_(make_axis(height, step)), columns_(make_axis(width, step)) {
    grid_.resize(static_cast<std::size_t>(rows_.count * columns_.count));
    for (Index y = 0; y < rows_.count; ++y)
      white_row(seed, purpose, octave, y, columns_.count, grid_.data() + y * columns_.count);
  }

  /// out[x - x0] += amplitude * noise(y, x) for x in [x0, x1).
  void add_row(Index y, Index x0, Index x1, float amplitude, float* out) const {
    const std::size_t yy = static_cast<std::size_t>(y);
    const float* wy = rows_.weight.data() + 4 * yy;
    const Index g0 = columns_.first[static_cast<std::size_t>(x0)],
                g1 = columns_.first[static_cast<std::size_t>(x1 - 1)] + 4;
    float small[96];
    std::vector<float> large;
    float* line = small;
    if (g1 - g0 > 96) {
      large.resize(static_cast<std::size_t>(g1 - g0));
      line = large.data();
    }
    const float* in[4];
    float w[4];
    for (int k = 0; k < 4; ++k) {
      in[k] = grid_.data() + columns_.count * clamp(rows_.first[yy] + k, rows_.count);
      w[k] = wy[k] * amplitude;
    }
    for (Index g = g0; g < g1; ++g) {
      const Index c = clamp(g, columns_.count);
      line[g - g0] = w[0] * in[0][c] + w[1] * in[1][c] + w[2] * in[2][c] + w[3] * in[3][c];
    }
    for (Index x = x0; x < x1; ++x) {
      const float* l = line + (columns_.first[static_cast<std::size_t>(x)] - g0);
      const float* wx = columns_.weight.data() + 4 * x;
      out[x - x0] += wx[0] * l[0] + wx[1] * l[1] + wx[2] * l[2] + wx[3] * l[3];
    }
  }

 private:
  struct Axis {
    Index count = 0;            // grid nodes
    std::vector<Index> first;   // first of four nodes of each pixel; may lie outside the grid
    std::vector<float> weight;  // four per pixel
  };
  static Index clamp(Index i, Index n) { return i < 0 ? 0 : i >= n ? n - 1 : i; }
  static Axis make_axis(Index size, double step) {
    Axis a;
    a.count =
        std::max<Index>(2, static_cast<Index>(std::ceil(static_cast<double>(size) / step)) + 1);
    a.first.resize(static_cast<std::size_t>(size));
    a.weight.resize(static_cast<std::size_t>(size) * 4);
    // The first and the last pixel lie on nodes.
    const double ratio = static_cast<double>(a.count - 1) / static_cast<double>(size - 1);
    const auto near = [](double t) { return (1.25 * t - 2.25) * t * t + 1; };
    const auto far = [](double t) { return ((-0.75 * t + 3.75) * t - 6) * t + 3; };
    for (Index i = 0; i < size; ++i) {
      const double at = static_cast<double>(i) * ratio, whole = std::floor(at);
      const double t = at - whole;
      a.first[static_cast<std::size_t>(i)] = static_cast<Index>(whole) - 1;
      const double w[4] = {far(1 + t), near(t), near(1 - t), far(2 - t)};
      for (int k = 0; k < 4; ++k)
        a.weight[static_cast<std::size_t>(4 * i + k)] = static_cast<float>(w[k]);
    }
    return a;
  }
  Axis rows_, columns_;
  std::vector<float> grid_;
};

/// A sum of octaves: the i-th has half the step and half the amplitude of the one before, and no
/// step is below one pixel.
class FractalNoise {
 public:
  FractalNoise() = default;
  FractalNoise(std::uint64_t seed, const char* purpose, Index height, Index width, double step,
               int octaves) {
    for (int i = 0; i < octaves; ++i)
      octaves_.emplace_back(seed, purpose, static_cast<std::uint32_t>(i), height, width,
                            std::max(1.0, step / static_cast<double>(1 << i)));
  }
  bool defined() const { return !octaves_.empty(); }
  /// out[x - x0] = amplitude * noise(y, x) for x in [x0, x1).
  void row(Index y, Index x0, Index x1, float amplitude, float* out) const {
    std::fill(out, out + (x1 - x0), 0.0f);
    for (const ValueNoise& o : octaves_) {
      o.add_row(y, x0, x1, amplitude, out);
      amplitude *= 0.5f;
    }
  }
  float at(Index y, Index x) const {
    float v;
    row(y, x, x + 1, 1, &v);
    return v;
  }

 private:
  std::vector<ValueNoise> octaves_;
};

}  // namespace moraine::data
