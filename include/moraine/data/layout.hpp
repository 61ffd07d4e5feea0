#pragma once
// The geometry of a synthetic scene: who owns which pixel, how high it stands, how its rows run. A
// layout knows nothing of sensors, seasons or the sun; data/scene.hpp renders it under any Domain.
// The model and its constants are documented in docs/05-scenes.md.
//
// Lengths are in units of 1.5 m unless a name says px; q = 1.5 / gsd is the size of a unit in px.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <moraine/core/error.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/core/tensor.hpp>
#include <moraine/data/land.hpp>
#include <moraine/data/noise.hpp>
#include <string>
#include <vector>

namespace moraine::data {

struct LayoutOptions {
  float gsd = 1.5f;   ///< metres per pixel, 0.1..30
  Index height = 64;  ///< pixels, 8..65536
  Index width = 64;   ///< pixels, 8..65536
};

namespace detail {

/// A road: a straight axis with a sine on it, for positions `begin`..`end` along the axis.
struct Road {
  float x, y, dx, dy, begin, end;
  float half, amplitude, wave, phase;
  std::int32_t surface;
};

class LayoutBuilder {
 public:
  LayoutBuilder(std::uint64_t seed, const LayoutOptions& o)
      : seed_(seed),
        h_(o.height),
        w_(o.width),
        q_(1.5f / o.gsd),
        ext_y_(static_cast<float>(h_) / q_),
        ext_x_(static_cast<float>(w_) / q_),
        // Up to 96 pixels a scene is one tile of the statistics; beyond that it is a landscape.
        tile_(std::max(h_, w_) <= 96),
        tiles_(static_cast<float>(h_ * w_) / 4096.0f),
        by_((h_ + block - 1) / block),
        bx_((w_ + block - 1) / block) {
    out_.seed = seed;
    out_.gsd = o.gsd;
  }

  Layout build() {
    const Shape shape{h_, w_};
    out_.label = Tensor<std::uint8_t>::empty(shape);
    out_.height = Tensor<float>::empty(shape);
    out_.terrain = Tensor<float>::empty(shape);
    out_.rows = Tensor<float>::empty(shape);
    out_.surface = Tensor<std::int32_t>::empty(shape);
    out_.fine = FractalNoise(seed_, "scene.fine", h_, w_, 3, 2);
    out_.coarse = FractalNoise(seed_, "scene.coarse", h_, w_, 9, 2);
    make_terrain();
    make_parcels();
    make_water();
    make_roads();
    parallel_for(by_ * bx_, 1, [this](Index b, Index e) {
      for (; b < e; ++b) paint_block(b / bx_, b % bx_);
    });
    make_buildings();
    make_single_trees();
    return std::move(out_);
  }

 private:
  static constexpr Index block = 64;  // px; the tile of all statistics
  static constexpr float cell = 64;   // units; the hash grid of parcels in a landscape
  static constexpr float reach = 91;  // units; a cell has a seed, so none is nearer than this

  // ---- terrain
  void make_terrain() {
    const FractalNoise noise(seed_, "scene.terrain", h_, w_, 40 * q_, 3);
    parallel_for(h_, 64, [&](Index b, Index e) {
      for (; b < e; ++b) noise.row(b, 0, w_, 8, out_.terrain.data() + b * w_);
    });
  }

  // ---- parcels: a warped Voronoi diagram
  Surface draw_parcel(Draw& d) const {
    Surface s;
    const float kind = d.uniform();
    s.land = kind < 0.17f   ? Land::soil
             : kind < 0.41f ? Land::crop_a
             : kind < 0.62f ? Land::crop_b
             : kind < 0.82f ? Land::grass
                            : Land::trees;
    const float angle = d.uniform(0, pi);
    s.row_x = std::cos(angle);
    s.row_y = std::sin(angle);
    s.phenology = d.normal(0.03f);
    s.brightness = d.normal(0.10f);
    s.moisture = d.uniform();
    s.evergreen = d.uniform() < 0.3f;
    s.soil_brightness = d.uniform(0.3f, 1);
    s.period_b = d.uniform(3.2f, 4.6f);
    s.period_a = d.uniform(1.8f, 2.3f);
    s.tram_period = d.uniform(10, 16);
    s.phase = d.uniform(0, 2 * pi);
    s.stand_height = d.uniform(8, 16);
    return s;
  }
  void add_parcel(float x, float y, Draw& d) {
    seed_x_.push_back(x);
    seed_y_.push_back(y);
    out_.surfaces.push_back(draw_parcel(d));
  }
  void make_parcels() {
    warp_x_ = FractalNoise(seed_, "scene.warp_x", h_, w_, 20 * q_, 2);
    warp_y_ = FractalNoise(seed_, "scene.warp_y", h_, w_, 20 * q_, 2);
    if (tile_) {
      Draw d(seed_, "scene.parcels");
      const float n = static_cast<float>(d.integer(4, 8)) * tiles_ / (q_ * q_);
      const int count = std::clamp(static_cast<int>(std::lround(n)), 1, 1 << 20);
      const float stand = d.uniform(8, 16);  // one height of stands in a tile
      for (int i = 0; i < count; ++i) {
        const float x = d.uniform(-4, ext_x_ + 4), y = d.uniform(-4, ext_y_ + 4);
        add_parcel(x, y, d);
        out_.surfaces.back().stand_height = stand;
      }
      return;
    }
    // A landscape: each cell draws its own seeds, with the density of a tile, where 4 to 8 seeds
    // fall on 72 x 72 units.
    cells_x_ = static_cast<Index>(std::ceil(ext_x_ / cell)) + 4;
    cells_y_ = static_cast<Index>(std::ceil(ext_y_ / cell)) + 4;
    cell_start_.assign(static_cast<std::size_t>(cells_x_ * cells_y_ + 1), 0);
    for (Index c = 0; c < cells_x_ * cells_y_; ++c) {
      Draw d(seed_, "scene.parcels", static_cast<std::uint64_t>(c));
      const float n = static_cast<float>(d.integer(4, 8)) * (64.0f * 64) / (72.0f * 72);
      const int count = std::max(1, static_cast<int>(n + d.uniform()));
      const float left = static_cast<float>(c % cells_x_ - 2) * cell,
                  top = static_cast<float>(c / cells_x_ - 2) * cell;
      for (int i = 0; i < count; ++i) {
        const float x = left + d.uniform(0, cell), y = top + d.uniform(0, cell);
        add_parcel(x, y, d);
      }
      cell_start_[static_cast<std::size_t>(c + 1)] = static_cast<int>(seed_x_.size());
    }
  }
  /// Seeds that may be nearest to a point within `radius` of (x, y).
  void near_seeds(float x, float y, float radius, std::vector<int>& found) const {
    found.clear();
    float nearest = 1e30f;
    const auto visit = [&](int from, int to) {
      for (int i = from; i < to; ++i) {
        const std::size_t k = static_cast<std::size_t>(i);
        const float d = std::hypot(seed_x_[k] - x, seed_y_[k] - y);
        if (d > nearest + 2 * radius) continue;
        nearest = std::min(nearest, d);
        found.push_back(i);
      }
    };
    if (tile_) {
      visit(0, static_cast<int>(seed_x_.size()));
    } else {
      const auto at = [](float v, Index n) {
        return std::clamp<Index>(static_cast<Index>(std::floor(v / cell)) + 2, 0, n - 1);
      };
      const Index x0 = at(x - radius - reach, cells_x_), x1 = at(x + radius + reach, cells_x_);
      for (Index cy = at(y - radius - reach, cells_y_); cy <= at(y + radius + reach, cells_y_);
           ++cy)
        visit(cell_start_[static_cast<std::size_t>(cy * cells_x_ + x0)],
              cell_start_[static_cast<std::size_t>(cy * cells_x_ + x1 + 1)]);
    }
    const auto far = [&](int i) {
      const std::size_t k = static_cast<std::size_t>(i);
      return std::hypot(seed_x_[k] - x, seed_y_[k] - y) > nearest + 2 * radius + 1e-3f;
    };
    found.erase(std::remove_if(found.begin(), found.end(), far), found.end());
  }

  // ---- water
  void make_water() {
    Draw d(seed_, "scene.water");
    out_.turbidity = d.uniform();
    if (tile_) {
      if (d.uniform() >= 0.5f) return;
      lake_ = FractalNoise(seed_, "scene.lake", h_, w_, 44 * q_, 2);
      river_tile_ = d.uniform() < 0.5f;
      const float share = d.uniform(0.08f, 0.3f);
      lake_below_ = quantile(lake_, river_tile_, share, 1);
      float low = out_.terrain.data()[0];
      for (Index i = 0; i < h_ * w_; ++i) low = std::min(low, out_.terrain.data()[i]);
      level_.assign(1, low);
      level_rows_ = level_columns_ = 1;
    } else {
      // A quarter of the tiles has a lake on 8..30 % of it, a quarter a river: .0475 each.
      lake_ = FractalNoise(seed_, "scene.lake", h_, w_, 90 * q_, 3);
      river_ = FractalNoise(seed_, "scene.river", h_, w_, 260 * q_, 4);
      lake_below_ = quantile(lake_, false, 0.0475f, 8);
      river_below_ = quantile(river_, true, 0.0475f, 8);
      out_.turbidity_field = FractalNoise(seed_, "scene.turbidity", h_, w_, 500 * q_, 1);
      make_levels();
    }
    Surface s;
    s.brightness = d.normal(0.10f);
    water_surface_ = static_cast<std::int32_t>(out_.surfaces.size());
    out_.surfaces.push_back(s);
  }
  /// The value below which a share of the field (or of its absolute value) lies.
  float quantile(const FractalNoise& field, bool absolute, float share, Index stride) const {
    std::vector<float> line(static_cast<std::size_t>(w_)), all;
    for (Index y = 0; y < h_; y += stride) {
      field.row(y, 0, w_, 1, line.data());
      for (Index x = 0; x < w_; x += stride) {
        const float v = line[static_cast<std::size_t>(x)];
        all.push_back(absolute ? std::fabs(v) : v);
      }
    }
    const double at = static_cast<double>(share) * static_cast<double>(all.size() - 1);
    const auto k = all.begin() + static_cast<std::ptrdiff_t>(at);
    std::nth_element(all.begin(), k, all.end());
    const float low = *k;
    const float next = k + 1 == all.end() ? low : *std::min_element(k + 1, all.end());
    return low + (next - low) * static_cast<float>(at - std::floor(at));
  }
  /// Water level of a landscape: the lowest ground within about 36 units, smoothly interpolated.
  void make_levels() {
    level_step_ = std::max<Index>(4, static_cast<Index>(24 * q_));
    level_rows_ = (h_ + level_step_ - 1) / level_step_;
    level_columns_ = (w_ + level_step_ - 1) / level_step_;
    std::vector<float> low(static_cast<std::size_t>(level_rows_ * level_columns_), 1e30f);
    for (Index y = 0; y < h_; ++y)
      for (Index x = 0; x < w_; ++x) {
        float& l =
            low[static_cast<std::size_t>((y / level_step_) * level_columns_ + x / level_step_)];
        l = std::min(l, out_.terrain.data()[y * w_ + x]);
      }
    level_ = low;
    for (Index r = 0; r < level_rows_; ++r)
      for (Index c = 0; c < level_columns_; ++c)
        for (Index v = std::max<Index>(0, r - 1); v <= std::min(level_rows_ - 1, r + 1); ++v)
          for (Index u = std::max<Index>(0, c - 1); u <= std::min(level_columns_ - 1, c + 1); ++u)
            level_[static_cast<std::size_t>(r * level_columns_ + c)] =
                std::min(level_[static_cast<std::size_t>(r * level_columns_ + c)],
                         low[static_cast<std::size_t>(v * level_columns_ + u)]);
  }
  float level_at(Index y, Index x) const {
    if (level_.size() == 1) return level_[0];
    const auto split = [this](Index i, Index n, Index& a, Index& b) {
      const float t = (static_cast<float>(i) + 0.5f) / static_cast<float>(level_step_) - 0.5f;
      a = std::clamp<Index>(static_cast<Index>(std::floor(t)), 0, n - 1);
      b = std::min(a + 1, n - 1);
      return std::clamp(t - static_cast<float>(a), 0.0f, 1.0f);
    };
    Index r0, r1, c0, c1;
    const float v = split(y, level_rows_, r0, r1), u = split(x, level_columns_, c0, c1);
    const auto at = [this](Index r, Index c) {
      return level_[static_cast<std::size_t>(r * level_columns_ + c)];
    };
    return (1 - v) * ((1 - u) * at(r0, c0) + u * at(r0, c1)) +
           v * ((1 - u) * at(r1, c0) + u * at(r1, c1));
  }

  // ---- roads
  void add_road(Draw& d, float x, float y, float angle, float begin, float end) {
    Road r{x, y, std::cos(angle), std::sin(angle), begin, end, 0, 0, 0, 0, 0};
    r.amplitude = d.uniform(0, 3);
    r.wave = d.uniform(10, 25);
    r.phase = d.uniform(0, 6);
    r.half = d.uniform(1.3f, 2.8f);
    r.surface = static_cast<std::int32_t>(out_.surfaces.size());
    Surface s;
    s.land = Land::road;
    s.brightness = d.normal(0.10f);
    s.concrete = d.uniform() < 0.3f ? 0.5f : 0.0f;
    out_.surfaces.push_back(s);
    roads_.push_back(r);
  }
  void make_roads() {
    Draw d(seed_, "scene.roads");
    roads_of_.resize(static_cast<std::size_t>(by_ * bx_));
    if (tile_) {
      const float kind = d.uniform();
      const int n = kind < 0.2f ? 0 : kind < 0.7f ? 1 : 2;
      const float concrete = d.uniform() < 0.3f ? 0.5f : 0.0f;  // one material in a tile
      for (int i = 0; i < n; ++i) {
        const float angle = d.uniform(0, pi);
        const float x = d.uniform(0.2f, 0.8f) * ext_x_, y = d.uniform(0.2f, 0.8f) * ext_y_;
        add_road(d, x, y, angle, -1e6f, 1e6f);
        out_.surfaces.back().concrete = concrete;
        for (auto& list : roads_of_) list.push_back(i);
      }
      return;
    }
    // A landscape: roads start anywhere, follow one of the two directions that the country has
    // there, and end where they meet an older road. 1.1 roads cross a tile, about 60 px each; 15 %
    // more, since a landscape has more crossings and double roads.
    const FractalNoise ax(seed_, "scene.grain_x", h_, w_, 700 * q_, 2),
        ay(seed_, "scene.grain_y", h_, w_, 700 * q_, 2);
    const double target = 1.15 * 1.1 * 60 * static_cast<double>(tiles_) / static_cast<double>(q_);
    const int tries = static_cast<int>(64 + 8 * tiles_ / 4);
    double length = 0;
    for (int t = 0; t < tries && length < target; ++t) {
      const float x = d.uniform(0, ext_x_), y = d.uniform(0, ext_y_);
      const Index py = std::min(h_ - 1, static_cast<Index>(y * q_)),
                  px = std::min(w_ - 1, static_cast<Index>(x * q_));
      const bool main_road = length < 0.25 * target;
      const float angle = std::atan2(ay.at(py, px), ax.at(py, px)) +
                          (d.uniform() < 0.5f ? 0.5f * pi : 0.0f) + d.normal(0.12f);
      const float most = main_road ? 1e5f : d.uniform(100, 600);
      if (!main_road && nearest_road(x, y) < 14) continue;
      const float dx = std::cos(angle), dy = std::sin(angle);
      float end = std::min(most, to_border(x, y, dx, dy)),
            begin = -std::min(most, to_border(x, y, -dx, -dy));
      if (!main_road) {
        end = std::min(end, to_road(x, y, dx, dy));
        begin = std::max(begin, -to_road(x, y, -dx, -dy));
      }
      if (end - begin < 40) continue;
      length += static_cast<double>(end - begin);
      add_road(d, x, y, angle, begin, end);
      hash_road(static_cast<int>(roads_.size()) - 1);
    }
  }
  /// Distance along a ray to the border of the scene, and a little further.
  float to_border(float x, float y, float dx, float dy) const {
    float t = 1e6f;
    if (dx > 1e-6f) t = std::min(t, (ext_x_ - x) / dx);
    if (dx < -1e-6f) t = std::min(t, -x / dx);
    if (dy > 1e-6f) t = std::min(t, (ext_y_ - y) / dy);
    if (dy < -1e-6f) t = std::min(t, -y / dy);
    return t + 12;
  }
  /// Distance along a ray to the first road it meets.
  float to_road(float x, float y, float dx, float dy) const {
    float best = 1e6f;
    for (const Road& r : roads_) {
      const float cross = dx * r.dy - dy * r.dx;
      if (std::fabs(cross) < 1e-3f) continue;
      const float rx = r.x - x, ry = r.y - y;
      const float t = (rx * r.dy - ry * r.dx) / cross, s = (rx * dy - ry * dx) / cross;
      if (t > 0 && s > r.begin && s < r.end) best = std::min(best, t + 2);
    }
    return best;
  }
  float nearest_road(float x, float y) const {
    float best = 1e6f;
    for (const Road& r : roads_) {
      const float s = std::clamp((x - r.x) * r.dx + (y - r.y) * r.dy, r.begin, r.end);
      best = std::min(best, std::hypot(r.x + s * r.dx - x, r.y + s * r.dy - y));
    }
    return best;
  }
  /// Notes the road in every block that it may touch.
  void hash_road(int id) {
    const Road& r = roads_[static_cast<std::size_t>(id)];
    const float step = 16 / q_;
    const Index n = static_cast<Index>((r.end - r.begin) / step) + 2;
    const auto block_of = [](float px) { return static_cast<Index>(std::floor(px / block)); };
    const float margin = 16 + 8 * q_;
    for (Index i = 0; i <= n; ++i) {
      const float s = std::min(r.end, r.begin + static_cast<float>(i) * step);
      const float px = (r.x + s * r.dx) * q_, py = (r.y + s * r.dy) * q_;
      const Index y0 = std::max<Index>(0, block_of(py - margin)),
                  x0 = std::max<Index>(0, block_of(px - margin));
      const Index y1 = std::min(by_ - 1, block_of(py + margin)),
                  x1 = std::min(bx_ - 1, block_of(px + margin));
      for (Index y = y0; y <= y1; ++y)
        for (Index x = x0; x <= x1; ++x) {
          std::vector<int>& list = roads_of_[static_cast<std::size_t>(y * bx_ + x)];
          if (list.empty() || list.back() != id) list.push_back(id);
        }
    }
  }

  // ---- one block of 64 x 64 pixels: fields, stands, water, roads
  void paint_block(Index b_row, Index b_column) {
    const Index y0 = b_row * block, y1 = std::min(h_, y0 + block);
    const Index x0 = b_column * block, x1 = std::min(w_, x0 + block), n = x1 - x0;
    std::vector<float> sx(static_cast<std::size_t>(block * block)), sy(sx.size());
    for (Index y = y0; y < y1; ++y) {
      float* wx = sx.data() + (y - y0) * block;
      float* wy = sy.data() + (y - y0) * block;
      warp_x_.row(y, x0, x1, 2.5f, wx);
      warp_y_.row(y, x0, x1, 2.5f, wy);
      for (Index x = 0; x < n; ++x) {
        wx[x] += static_cast<float>(x0 + x) / q_;
        wy[x] += static_cast<float>(y) / q_;
      }
    }
    bool any_trees = false;
    std::vector<int> seeds;
    for (Index ty = y0; ty < y1; ty += 16)
      for (Index tx = x0; tx < x1; tx += 16)
        any_trees |= paint_fields(ty, std::min(ty + 16, y1), tx, std::min(tx + 16, x1),
                                  sx.data() - y0 * block - x0, sy.data() - y0 * block - x0, seeds);
    if (any_trees) paint_stands(y0, y1, x0, x1);
    if (lake_.defined()) paint_water(y0, y1, x0, x1);
    for (const int id : roads_of_[static_cast<std::size_t>(b_row * bx_ + b_column)])
      paint_road(roads_[static_cast<std::size_t>(id)], y0, y1, x0, x1);
  }
  /// sx, sy: warped coordinates with a row stride of `block`. Returns whether there are trees.
  bool paint_fields(Index y0, Index y1, Index x0, Index x1, const float* sx, const float* sy,
                    std::vector<int>& seeds) {
    float lo_x = 1e30f, hi_x = -1e30f, lo_y = 1e30f, hi_y = -1e30f;
    for (Index y = y0; y < y1; ++y)
      for (Index x = x0; x < x1; ++x) {
        lo_x = std::min(lo_x, sx[y * block + x]);
        hi_x = std::max(hi_x, sx[y * block + x]);
        lo_y = std::min(lo_y, sy[y * block + x]);
        hi_y = std::max(hi_y, sy[y * block + x]);
      }
    near_seeds(0.5f * (lo_x + hi_x), 0.5f * (lo_y + hi_y),
               0.5f * std::hypot(hi_x - lo_x, hi_y - lo_y), seeds);
    bool trees = false;
    for (Index y = y0; y < y1; ++y)
      for (Index x = x0; x < x1; ++x) {
        const float ux = sx[y * block + x], uy = sy[y * block + x];
        float best = 1e30f;
        int owner = 0;
        for (const int i : seeds) {
          const float dx = ux - seed_x_[static_cast<std::size_t>(i)],
                      dy = uy - seed_y_[static_cast<std::size_t>(i)];
          const float dist = dx * dx + dy * dy;
          if (dist < best) best = dist, owner = i;
        }
        const Surface& s = out_.surfaces[static_cast<std::size_t>(owner)];
        const float u = (static_cast<float>(x) * s.row_x + static_cast<float>(y) * s.row_y) / q_;
        float row = 0, height = 0;
        if (s.land == Land::crop_b) {
          row = std::sin(2 * pi * u / s.period_b + s.phase);
          height = 1.5f + 0.5f * row;
        } else if (s.land == Land::crop_a) {
          const float t = u / s.tram_period + s.phase;
          row = 0.35f * std::sin(2 * pi * u / s.period_a + s.phase);
          if (std::fabs(t - std::floor(t) - 0.5f) < 0.06f) row -= 1.2f;
          height = 0.8f;
        } else if (s.land == Land::soil) {
          row = 0.4f * std::sin(2 * pi * u / 2.6f + s.phase);
        } else if (s.land == Land::grass) {
          height = 0.2f;
        } else {
          trees = true;
        }
        set(y, x, s.land, owner, height, row);
      }
    return trees;
  }
  /// Crowns in trees' parcels: .055 per square unit on a margin of 3 units around a tile, that is
  /// .046 inside; drawn per cell of 8 units so that blocks agree on them.
  void paint_stands(Index y0, Index y1, Index x0, Index x1) {
    constexpr float size = 8, most = 3.4f;
    std::vector<float> dome(static_cast<std::size_t>(block * block), 0.0f);
    const auto cell_of = [&](Index p, float margin) {
      return static_cast<std::int64_t>(std::floor((static_cast<float>(p) / q_ + margin) / size));
    };
    const float per_cell = 0.055f * (64.0f * 64) / (70.0f * 70) * size * size;
    for (auto cy = cell_of(y0, -most); cy <= cell_of(y1, most); ++cy)
      for (auto cx = cell_of(x0, -most); cx <= cell_of(x1, most); ++cx) {
        Draw d(seed_, "scene.crowns",
               (static_cast<std::uint64_t>(cy + (1 << 24)) << 32) +
                   static_cast<std::uint64_t>(cx + (1 << 24)));
        const int n = poisson(per_cell, d.uniform());
        for (int i = 0; i < n; ++i) {
          const float x = (static_cast<float>(cx) + d.uniform()) * size,
                      y = (static_cast<float>(cy) + d.uniform()) * size;
          const float radius = d.uniform(1.7f, 3.4f), tall = d.uniform(0.6f, 1.2f);
          each_pixel(x, y, radius, y0, y1, x0, x1, [&](Index py, Index px, float dx, float dy) {
            const float dd = (dx * dx + dy * dy) / (radius * radius);
            if (dd >= 1) return;
            float& v = dome[static_cast<std::size_t>((py - y0) * block + px - x0)];
            v = std::max(v, tall * (0.5f + 0.5f * std::sqrt(1 - dd)));
          });
        }
      }
    for (Index y = y0; y < y1; ++y)
      for (Index x = x0; x < x1; ++x) {
        const Index i = y * w_ + x;
        if (out_.label.data()[i] != static_cast<std::uint8_t>(Land::trees)) continue;
        const Surface& s = out_.surfaces[static_cast<std::size_t>(out_.surface.data()[i])];
        out_.height.data()[i] = std::max(
            1.5f, s.stand_height * dome[static_cast<std::size_t>((y - y0) * block + x - x0)]);
      }
  }
  void paint_water(Index y0, Index y1, Index x0, Index x1) {
    float lake[block], river[block];
    for (Index y = y0; y < y1; ++y) {
      lake_.row(y, x0, x1, 1, lake);
      if (river_.defined()) river_.row(y, x0, x1, 1, river);
      for (Index x = x0; x < x1; ++x) {
        const float v = lake[x - x0];
        bool wet = (river_tile_ ? std::fabs(v) : v) < lake_below_;
        if (river_.defined()) wet |= std::fabs(river[x - x0]) < river_below_;
        if (!wet) continue;
        set(y, x, Land::water, water_surface_, 0, 0);
        out_.terrain.data()[y * w_ + x] = level_at(y, x) - 0.5f;
      }
    }
  }
  void paint_road(const Road& r, Index y0, Index y1, Index x0, Index x1) {
    const float most = r.half + r.amplitude;
    for (Index y = y0; y < y1; ++y)
      for (Index x = x0; x < x1; ++x) {
        const float ux = static_cast<float>(x) / q_ - r.x, uy = static_cast<float>(y) / q_ - r.y;
        const float across = uy * r.dx - ux * r.dy;
        if (std::fabs(across) >= most) continue;
        const float along = ux * r.dx + uy * r.dy;
        if (along < r.begin || along > r.end) continue;
        if (std::fabs(across + r.amplitude * std::sin(along / r.wave + r.phase)) < r.half)
          set(y, x, Land::road, r.surface, 0, 0);
      }
  }

  // ---- single objects, in a fixed order: later ones may stand on earlier ones
  void make_buildings() {
    FractalNoise settled;
    if (!tile_) settled = FractalNoise(seed_, "scene.settled", h_, w_, 220 * q_, 2);
    const float least = tile_ ? 0 : quantile(settled, false, 0.35f, 16);
    const float across = static_cast<float>(block) / q_;
    for (Index b = 0; b < (tile_ ? 1 : by_ * bx_); ++b) {
      Draw d(seed_, "scene.buildings", static_cast<std::uint64_t>(b));
      const float left = static_cast<float>(b % bx_) * across,
                  top = static_cast<float>(b / bx_) * across;
      const Index mid_y = std::min(h_ - 1, (b / bx_) * block + block / 2),
                  mid_x = std::min(w_ - 1, (b % bx_) * block + block / 2);
      const bool built = tile_ ? d.uniform() < 0.65f : settled.at(mid_y, mid_x) >= least;
      if (!built) continue;
      const int tries =
          static_cast<int>(static_cast<float>(d.integer(3, 11)) * (tile_ ? tiles_ : 1) / (q_ * q_));
      const std::vector<int>& near = roads_of_[static_cast<std::size_t>(b)];
      for (int t = 0; t < tries; ++t) {
        float x, y, angle;
        if (!near.empty() && d.uniform() < 0.8f) {
          const Road& r = roads_[static_cast<std::size_t>(
              near[static_cast<std::size_t>(d.integer(0, static_cast<int>(near.size()) - 1))])];
          float along = d.uniform(-0.6f, 0.6f) * across;
          if (!tile_)  // around the point of the road that is nearest to the block's centre
            along += (left + across / 2 - r.x) * r.dx + (top + across / 2 - r.y) * r.dy;
          const float side = (d.uniform() < 0.5f ? -1.0f : 1.0f) * d.uniform(6, 13);
          x = r.x + along * r.dx - side * r.dy;
          y = r.y + along * r.dy + side * r.dx;
          angle = std::atan2(r.dy, r.dx) + (d.uniform() < 0.5f ? 0 : 0.5f * pi);
          if (along < r.begin || along > r.end) x = -1e5f;  // nowhere: the try is spent
        } else {
          x = left + d.uniform() * (tile_ ? ext_x_ : across);
          y = top + d.uniform() * (tile_ ? ext_y_ : across);
          angle = d.uniform(0, pi);
        }
        add_building(d, x, y, angle);
      }
    }
  }
  void add_building(Draw& d, float cx, float cy, float angle) {
    const float lx = d.uniform(2.2f, 6.5f), ly = d.uniform(2.2f, 4.5f);
    const float kind = d.uniform(), height = d.uniform(3, 14), tint = d.normal(0.12f);
    const Roof roof = kind < 0.3f    ? Roof::tile
                      : kind < 0.5f  ? Roof::concrete
                      : kind < 0.65f ? Roof::metal
                      : kind < 0.85f ? Roof::slate
                                     : Roof::asphalt;
    const float c = std::cos(angle), s = std::sin(angle), radius = std::hypot(lx, ly);
    int pixels = 0, blocked = 0;
    const auto each = [&](auto&& f) {
      each_pixel(cx, cy, radius, 0, h_, 0, w_, [&](Index py, Index px, float dx, float dy) {
        const float v = -dx * s + dy * c;
        if (std::fabs(dx * c + dy * s) < lx && std::fabs(v) < ly) f(py, px, v);
      });
    };
    float brightness = tint;
    each([&](Index py, Index px, float) {
      const std::uint8_t l = out_.label.data()[py * w_ + px];
      if (!pixels) brightness += surface_brightness(out_.surface.data()[py * w_ + px]);
      ++pixels;
      blocked +=
          l == static_cast<std::uint8_t>(Land::water) || l == static_cast<std::uint8_t>(Land::road);
    });
    if (!pixels || blocked > 8) return;  // eight pixels: .002 of a tile
    Surface surface;
    surface.land = Land::roof;
    surface.roof = roof;
    surface.brightness = brightness;
    const std::int32_t id = static_cast<std::int32_t>(out_.surfaces.size());
    out_.surfaces.push_back(surface);
    const bool gable = roof == Roof::tile || roof == Roof::slate;
    each([&](Index py, Index px, float v) {
      set(py, px, Land::roof, id, height + (gable ? 2 * (1 - std::fabs(v) / ly) : 0), 0);
    });
  }
  float surface_brightness(std::int32_t id) const {
    const Surface& s = out_.surfaces[static_cast<std::size_t>(id)];
    return s.land == Land::roof ? 0 : s.brightness;
  }
  void make_single_trees() {
    const float across = static_cast<float>(block) / q_;
    for (Index b = 0; b < (tile_ ? 1 : by_ * bx_); ++b) {
      Draw d(seed_, "scene.single_trees", static_cast<std::uint64_t>(b));
      const float left = static_cast<float>(b % bx_) * across,
                  top = static_cast<float>(b / bx_) * across;
      for (int n = d.integer(0, 11); n > 0; --n) {
        const float x = left + d.uniform() * (tile_ ? ext_x_ : across),
                    y = top + d.uniform() * (tile_ ? ext_y_ : across);
        const float radius = d.uniform(1.5f, 2.8f), height = d.uniform(5, 11);
        each_pixel(x, y, radius, 0, h_, 0, w_, [&](Index py, Index px, float dx, float dy) {
          if (dx * dx + dy * dy >= radius * radius) return;
          const Index i = py * w_ + px;
          const Land l = static_cast<Land>(out_.label.data()[i]);
          if (l == Land::roof || l == Land::road || l == Land::water) return;
          // The tree keeps what the parcel gives: its season, its brightness.
          set(py, px, Land::trees, out_.surface.data()[i], height, 0);
        });
      }
    }
  }

  /// The count at probability u of a Poisson law.
  static int poisson(float mean, float u) {
    float p = std::exp(-mean), sum = p;
    int n = 0;
    while (u > sum && n < 64) p *= mean / static_cast<float>(++n), sum += p;
    return n;
  }

  // ---- pixels
  void set(Index y, Index x, Land land, std::int32_t surface, float height, float row) {
    const Index i = y * w_ + x;
    out_.label.data()[i] = static_cast<std::uint8_t>(land);
    out_.surface.data()[i] = surface;
    out_.height.data()[i] = height;
    out_.rows.data()[i] = row;
  }
  /// Calls f(py, px, dx, dy) for the pixels in a square around (x, y), cut to a window.
  template <class F>
  void each_pixel(float x, float y, float radius, Index y0, Index y1, Index x0, Index x1,
                  F&& f) const {
    if (!(std::fabs(x) < 1e6f) || x < -1e4f) return;
    const Index top = std::max(y0, static_cast<Index>(std::ceil((y - radius) * q_))),
                bottom = std::min(y1 - 1, static_cast<Index>(std::floor((y + radius) * q_))),
                left = std::max(x0, static_cast<Index>(std::ceil((x - radius) * q_))),
                right = std::min(x1 - 1, static_cast<Index>(std::floor((x + radius) * q_)));
    for (Index py = top; py <= bottom; ++py)
      for (Index px = left; px <= right; ++px)
        f(py, px, static_cast<float>(px) / q_ - x, static_cast<float>(py) / q_ - y);
  }

  static constexpr float pi = 3.14159265358979f;
  std::uint64_t seed_;
  Index h_, w_;
  float q_, ext_y_, ext_x_;
  bool tile_;
  float tiles_;
  Index by_, bx_;
  Layout out_;
  FractalNoise warp_x_, warp_y_, lake_, river_;
  std::vector<float> seed_x_, seed_y_;
  std::vector<int> cell_start_;
  Index cells_x_ = 0, cells_y_ = 0;
  bool river_tile_ = false;
  float lake_below_ = 0, river_below_ = 0;
  std::vector<float> level_;
  Index level_rows_ = 0, level_columns_ = 0, level_step_ = 1;
  std::int32_t water_surface_ = 0;
  std::vector<Road> roads_;
  std::vector<std::vector<int>> roads_of_;  // per block
};

}  // namespace detail

/// The layout of scene `seed`. Up to 96 pixels a side it is one tile with the statistics of the
/// demo; a larger one is a landscape with the same densities per area, made as a whole: parcels,
/// roads and rivers run on. The same bits for any number of threads.
/// Memory: 17 bytes a pixel. Throws ErrorKind::value for sizes or a gsd out of range.
inline Layout make_layout(std::uint64_t seed, const LayoutOptions& options = {}) {
  const auto fits = [](Index n) { return n >= 8 && n <= 65536; };
  if (!fits(options.height) || !fits(options.width) || !(options.gsd >= 0.1f && options.gsd <= 30))
    fail(ErrorKind::value,
         "make_layout: a scene has 8..65536 pixels a side and 0.1..30 m a pixel; " +
             std::to_string(options.height) + " x " + std::to_string(options.width) +
             " pixels of " + std::to_string(options.gsd) + " m");
  return detail::LayoutBuilder(seed, options).build();
}

}  // namespace moraine::data
