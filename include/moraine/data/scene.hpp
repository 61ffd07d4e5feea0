#pragma once
// Renders a Layout under a Domain: what a sensor measures of synthetic land, with labels and
// heights to learn from. The whole generator in two calls:
//
//   const auto d = data::domain("strong");
//   const auto scene = data::render(data::make_layout(7, {.gsd = d.gsd}), d, 7);
//   scene.reflectance   // (bands,H,W) float;  scene.labels (H,W);  scene.height (H,W) metres
//
// The light model, the mixing and all constants: docs/05-scenes.md.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <moraine/core/error.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/core/tensor.hpp>
#include <moraine/data/domain.hpp>
#include <moraine/data/layout.hpp>
#include <moraine/data/noise.hpp>
#include <moraine/data/spectra.hpp>
#include <string>
#include <vector>

namespace moraine::data {

/// A rendered scene. `labels` and `height` share the memory of the layout.
struct Scene {
  Tensor<float> reflectance;    ///< (bands,H,W)
  Tensor<std::uint8_t> labels;  ///< (H,W), a Land
  Tensor<float> height;         ///< (H,W), metres above the ground
};

/// What a scene of this size needs in bytes while it is made: 17 a pixel for the layout, the
/// texture grids, the reflectance, and the scratch of every thread.
inline std::uint64_t scene_bytes(Index height, Index width, Index bands, int thread_count) {
  const double pixels = static_cast<double>(height) * static_cast<double>(width);
  const double grids = 0.75 * pixels * 4;
  const double scratch =
      static_cast<double>(thread_count) * static_cast<double>(width + 40) * 12 * 108 * 4;
  return static_cast<std::uint64_t>(pixels * (17 + 4 * static_cast<double>(bands)) + grids +
                                    scratch);
}

namespace detail {

/// Green cover of every kind of field and of a stand, by season; one per Surface.
struct Season {
  float crop_a, crop_b, grass, trees;
};

inline Season season_of(const Surface& s, float season) {
  const float at = season + s.phenology;
  const auto peak = [at](float centre, float width) {
    const float d = at - centre + 0.5f, x = (d - std::floor(d) - 0.5f) / width;
    return std::exp(-0.5f * x * x);
  };
  Season g;
  g.crop_a = 0.04f + 0.86f * peak(0.40f, 0.085f);
  g.crop_b = 0.03f + 0.85f * peak(0.58f, 0.085f);
  g.grass = 0.40f + 0.35f * peak(0.45f, 0.18f) - 0.15f * peak(0.70f, 0.08f);
  g.trees = s.evergreen ? 0.80f : 0.25f + 0.60f * peak(0.52f, 0.16f);
  return g;
}

/// Rows [y0, y1) of a scene. Everything is computed once for a strip with a margin of three rows
/// (the point spread), then band by band, so that scratch memory does not grow with the bands.
class StripRenderer {
 public:
  StripRenderer(const Layout& layout, const Domain& domain, std::uint64_t seed,
                const std::vector<float>& bands, const std::vector<Season>& seasons)
      : l_(layout),
        d_(domain),
        seed_(seed),
        table_(bands),
        seasons_(seasons),
        h_(layout.rows_px()),
        w_(layout.columns_px()) {}

  void run(Index y0, Index y1, float* out) {
    r0_ = std::max<Index>(0, y0 - 3);
    const Index r1 = std::min(h_, y1 + 3);
    n_ = (r1 - r0_) * w_;
    kind_.resize(static_cast<std::size_t>(n_));
    bright_.resize(static_cast<std::size_t>(n_));
    light_.resize(static_cast<std::size_t>(n_));
    for (auto& w : weight_) w.resize(static_cast<std::size_t>(n_));
    for (Index y = r0_; y < r1; ++y) mix_row(y);
    light(r1);
    std::vector<float> radiance(static_cast<std::size_t>(n_)),
        line(static_cast<std::size_t>(w_ + 6)), white(static_cast<std::size_t>(w_));
    float tap[7], sum = 0;
    for (int k = 0; k < 7; ++k) {
      const float x = static_cast<float>(k - 3) / d_.psf;
      sum += tap[k] = std::exp(-0.5f * x * x);
    }
    for (float& t : tap) t /= sum;
    for (Index b = 0; b < d_.bands(); ++b) {
      band(b, radiance.data());
      const std::size_t band_index = static_cast<std::size_t>(b);
      const float gain = d_.gain.empty() ? 1 : d_.gain[band_index],
                  offset = d_.offset.empty() ? 0 : d_.offset[band_index];
      for (Index y = y0; y < y1; ++y) {
        const float* rows[7];
        for (int k = 0; k < 7; ++k) rows[k] = radiance.data() + (mirror(y + k - 3, h_) - r0_) * w_;
        float* const middle = line.data() + 3;
        for (Index x = 0; x < w_; ++x)
          middle[x] = tap[0] * (rows[0][x] + rows[6][x]) + tap[1] * (rows[1][x] + rows[5][x]) +
                      tap[2] * (rows[2][x] + rows[4][x]) + tap[3] * rows[3][x];
        for (Index k = 1; k <= 3; ++k) {
          middle[-k] = middle[k];
          middle[w_ - 1 + k] = middle[w_ - 1 - k];
        }
        float* o = out + (b * h_ + y) * w_;
        for (Index x = 0; x < w_; ++x) {
          const float* m = line.data() + x;
          o[x] = gain * (tap[0] * (m[0] + m[6]) + tap[1] * (m[1] + m[5]) + tap[2] * (m[2] + m[4]) +
                         tap[3] * m[3]) +
                 offset;
        }
        if (d_.noise > 0) {
          white_row(seed_, "scene.sensor", static_cast<std::uint32_t>(b), y, w_, white.data());
          for (Index x = 0; x < w_; ++x) o[x] += d_.noise * white[static_cast<std::size_t>(x)];
        }
      }
    }
  }

 private:
  // Six materials a pixel at most, by kind of surface.
  static constexpr int slots = 6, kinds = 8;
  static constexpr Index far = 17;  // the shadow reaches 16 pixels

  static Index mirror(Index i, Index n) { return i < 0 ? -i : i >= n ? 2 * n - 2 - i : i; }
  static float clip(float x, float low, float high) { return std::clamp(x, low, high); }

  void mix_row(Index y) {
    const std::size_t w = static_cast<std::size_t>(w_);
    t0_.resize(w);
    t1_.resize(w);
    t2_.resize(w);
    l_.fine.row(y, 0, w_, 1, t0_.data());
    l_.coarse.row(y, 0, w_, 1, t1_.data());
    white_row(l_.seed, "scene.white", 0, y, w_, t2_.data());
    if (l_.turbidity_field.defined()) {
      turbid_.resize(w);
      l_.turbidity_field.row(y, 0, w_, 1, turbid_.data());
    }
    const Index from = y * w_, to = (y - r0_) * w_;
    const std::uint8_t* label = l_.label.data() + from;
    const std::int32_t* surface = l_.surface.data() + from;
    const float* rows = l_.rows.data() + from;
    for (Index x = 0; x < w_; ++x) {
      const std::size_t i = static_cast<std::size_t>(to + x);
      const Surface& s = l_.surfaces[static_cast<std::size_t>(surface[x])];
      const Land land = static_cast<Land>(label[x]);
      const std::size_t xi = static_cast<std::size_t>(x);
      const float t0 = t0_[xi], t1 = t1_[xi];
      float part[slots] = {0, 0, 0, 0, 0, 0}, tint = s.brightness;
      std::uint8_t kind = 0;
      switch (land) {
        case Land::water: {
          float share = l_.turbidity;
          if (l_.turbidity_field.defined())  // about uniform on [0,1]
            share = 1 / (1 + std::exp(-1.7f * turbid_[xi]));
          part[1] = clip(share + 0.1f * t1, 0, 1);
          part[0] = 1 - part[1];
          kind = 1;
          tint *= 0.3f;
          break;
        }
        case Land::road:
          part[1] = s.concrete;
          part[0] = 1 - s.concrete;
          kind = 2;
          tint *= 0.3f;
          break;
        case Land::roof:
          part[0] = 1;
          kind = static_cast<std::uint8_t>(3 + static_cast<int>(s.roof));
          break;
        default: {
          const Season& g = seasons_[static_cast<std::size_t>(surface[x])];
          float green, litter, row = 0, texture = 0.035f;
          switch (land) {
            case Land::soil:
              green = 0.04f + 0.03f * t1, litter = 0.08f;
              break;
            case Land::crop_a:
              green = g.crop_a, litter = 0.55f, row = 0.18f * green + 0.03f;
              break;
            case Land::crop_b:
              green = g.crop_b, litter = 0.35f, row = 0.28f * green + 0.05f;
              break;
            case Land::grass:
              green = g.grass, litter = 0.75f, texture = 0.10f;
              break;
            default:
              green = g.trees, litter = 0.60f, texture = 0.06f;
              break;
          }
          green = clip(green + 0.5f * row * rows[x] + texture * (0.6f * t0 + 0.4f * t1), 0, 0.97f);
          const float chlorophyll = clip(0.35f + 0.6f * green + 0.05f * t1, 0, 1);
          litter = clip(litter + 0.06f * t1, 0, 1);
          const float rest = 1 - green, soil = rest * (1 - litter);
          const float wet = clip(0.8f * d_.wet + 0.3f * (s.moisture - 0.5f) + 0.1f * t1, 0, 1);
          const float light_soil = clip(s.soil_brightness + 0.08f * rows[x], 0, 1);
          part[0] = green * (1 - chlorophyll);
          part[1] = green * chlorophyll;
          part[2] = rest * litter;
          part[3] = soil * (1 - wet) * (1 - light_soil);
          part[4] = soil * (1 - wet) * light_soil;
          part[5] = soil * wet;
        }
      }
      for (std::size_t k = 0; k < slots; ++k) weight_[k][i] = part[k];
      kind_[i] = kind;
      bright_[i] = clip(1 + tint + 0.04f * t0 + 0.03f * t2_[xi], 0.4f, 1.8f);
    }
  }

  /// light_: cos of incidence over cos of the sun's zenith distance, times what is lit. Shadows are
  /// found by marching 16 steps of one pixel towards the sun over height + terrain.
  void light(Index r1) {
    constexpr float degree = 3.14159265358979f / 180;
    const Index first = r0_ - far, lines = r1 - r0_ + 2 * far, stride = w_ + 2 * far;
    elevation_.resize(static_cast<std::size_t>(lines * stride));
    for (Index j = 0; j < lines; ++j) {
      const Index y = std::clamp<Index>(first + j, 0, h_ - 1);
      const float *height = l_.height.data() + y * w_, *ground = l_.terrain.data() + y * w_;
      float* e = elevation_.data() + j * stride;
      for (Index x = 0; x < w_; ++x) e[far + x] = (height[x] + ground[x]) / l_.gsd;
      for (Index x = 0; x < far; ++x) {
        e[x] = e[far];
        e[far + w_ + x] = e[far + w_ - 1];
      }
    }
    const float azimuth = d_.sun_azimuth * degree, up = d_.sun_elevation * degree;
    const float sx = std::sin(azimuth), sy = -std::cos(azimuth);  // image rows run south
    const float cos_z = std::sin(up), sin_z = std::cos(up), rise = std::tan(up);
    std::vector<float> excess(static_cast<std::size_t>(w_));
    for (Index y = r0_; y < r1; ++y) {
      const float* e = elevation_.data() + (y - first) * stride + far;
      std::fill(excess.begin(), excess.end(), 0.0f);
      for (int step = 1; step <= 16; ++step) {
        const float ox = sx * static_cast<float>(step), oy = sy * static_cast<float>(step);
        const float fx = std::floor(ox), fy = std::floor(oy), u = ox - fx, v = oy - fy;
        // Samples beyond the border repeat it, as the padding does.
        const float* a = e + static_cast<Index>(fy) * stride + static_cast<Index>(fx);
        const float* b = a + stride;
        const float w00 = (1 - u) * (1 - v), w01 = u * (1 - v), w10 = (1 - u) * v, w11 = u * v;
        const float need = rise * static_cast<float>(step);
        for (Index x = 0; x < w_; ++x) {
          const float top = w00 * a[x] + w01 * a[x + 1] + w10 * b[x] + w11 * b[x + 1] - need - e[x];
          float& worst = excess[static_cast<std::size_t>(x)];
          worst = top > worst ? top : worst;
        }
      }
      // Central differences, one-sided at the border of the scene.
      const bool top = y == 0, bottom = y == h_ - 1;
      const float *north = e - (top ? 0 : stride), *south = e + (bottom ? 0 : stride);
      const float gy_scale = (top || bottom) ? 0.35f : 0.175f;
      float* o = light_.data() + (y - r0_) * w_;
      for (Index x = 0; x < w_; ++x) {
        const bool edge = x == 0 || x == w_ - 1;
        const float gx = (e[x + 1] - e[x - 1]) * (edge ? 0.35f : 0.175f);
        const float gy = (south[x] - north[x]) * gy_scale;
        const float cos_i =
            ((-gx * sx - gy * sy) * sin_z + cos_z) / std::sqrt(1 + gx * gx + gy * gy);
        const float lit = 1 - clip(excess[static_cast<std::size_t>(x)] / 0.8f, 0, 1);
        o[x] = clip(cos_i, 0, 2) / cos_z * lit;
      }
    }
  }

  void band(Index b, float* radiance) const {
    static constexpr int use[kinds][slots] = {{0, 1, 2, 3, 4, 12},      {5, 6, -1, -1, -1, -1},
                                              {7, 8, -1, -1, -1, -1},   {9, -1, -1, -1, -1, -1},
                                              {8, -1, -1, -1, -1, -1},  {10, -1, -1, -1, -1, -1},
                                              {11, -1, -1, -1, -1, -1}, {7, -1, -1, -1, -1, -1}};
    float value[kinds][slots];
    for (int k = 0; k < kinds; ++k)
      for (int s = 0; s < slots; ++s)
        value[k][s] =
            use[k][s] < 0 ? 0.0f : table_[static_cast<std::size_t>(use[k][s] * d_.bands() + b)];
    const float wave = d_.centres[static_cast<std::size_t>(b)] / 550;
    const float sky = std::min(0.6f, (0.14f + 1.2f * d_.haze) * std::pow(wave, -1.6f));
    const float diffuse = (0.14f + 1.2f * d_.haze) * std::pow(wave, -1.6f);
    const float through = std::exp(-2 * d_.haze * std::pow(wave, -1.3f)),
                path = d_.haze * std::pow(wave, -2.0f);
    for (Index i = 0; i < n_; ++i) {
      const std::size_t k = static_cast<std::size_t>(i);
      const float* v = value[kind_[k]];
      const float mix = weight_[0][k] * v[0] + weight_[1][k] * v[1] + weight_[2][k] * v[2] +
                        weight_[3][k] * v[3] + weight_[4][k] * v[4] + weight_[5][k] * v[5];
      radiance[i] = mix * bright_[k] * ((1 - sky) * light_[k] + diffuse) * through + path;
    }
  }

  const Layout& l_;
  const Domain& d_;
  std::uint64_t seed_;
  const std::vector<float>& table_;
  const std::vector<Season>& seasons_;
  Index h_, w_, r0_ = 0, n_ = 0;
  std::vector<std::uint8_t> kind_;
  std::vector<float> weight_[slots], bright_, light_, elevation_, t0_, t1_, t2_, turbid_;
};

}  // namespace detail

/// Renders into out[bands * H * W]. `seed` names the sensor noise only. The layout must have been
/// made with the gsd of the domain. The same bits for any number of threads.
inline void render_into(const Layout& layout, const Domain& domain, std::uint64_t seed,
                        float* out) {
  check(domain);
  if (!layout.label.defined()) fail(ErrorKind::value, "render: an empty layout -> make_layout");
  if (std::fabs(layout.gsd - domain.gsd) > 1e-4f * domain.gsd)
    fail(ErrorKind::value, "render: layout and domain differ in gsd; " +
                               std::to_string(layout.gsd) + " m, " + std::to_string(domain.gsd) +
                               " m -> make_layout(seed, {.gsd = domain.gsd})");
  const std::vector<float> bands = band_table(domain.centres, domain.widths);
  std::vector<detail::Season> seasons;
  seasons.reserve(layout.surfaces.size());
  for (const Surface& s : layout.surfaces) seasons.push_back(detail::season_of(s, domain.season));
  parallel_for(layout.rows_px(), 64, [&](Index b, Index e) {
    detail::StripRenderer(layout, domain, seed, bands, seasons).run(b, e, out);
  });
}

/// A layout seen by the sensor of a domain. See render_into.
inline Scene render(const Layout& layout, const Domain& domain, std::uint64_t seed) {
  if (!layout.label.defined()) fail(ErrorKind::value, "render: an empty layout -> make_layout");
  Scene s;
  s.reflectance =
      Tensor<float>::empty({domain.bands(), layout.rows_px(), layout.columns_px()});  // (bands,H,W)
  s.labels = layout.label;
  s.height = layout.height;
  render_into(layout, domain, seed, s.reflectance.data());
  return s;
}

}  // namespace moraine::data
