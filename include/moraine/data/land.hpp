#pragma once
// What a synthetic scene is made of: the eight classes with their names and colours, the surfaces
// (parcels, roads, roofs, waters) and the Layout that data/layout.hpp makes and data/scene.hpp
// renders under any Domain.
#include <array>
#include <cstdint>
#include <moraine/core/tensor.hpp>
#include <moraine/data/noise.hpp>
#include <vector>

namespace moraine::data {

/// What a pixel is.
enum class Land : std::uint8_t { water, soil, crop_a, crop_b, grass, trees, roof, road };
inline constexpr int land_count = 8;
inline constexpr std::array<const char*, land_count> land_names{
    "water", "bare soil", "crop A (spring)", "crop B (summer)", "grass", "trees", "roof", "road"};

/// Red, green, blue of each class. Eight colours that stay apart for the common kinds of colour
/// blindness, in the spirit of Okabe and Ito's set, ordered so that lightness differs as well.
inline constexpr std::array<std::array<std::uint8_t, 3>, land_count> land_palette{{
    {0, 90, 181},     // water: blue
    {153, 94, 44},    // bare soil: brown
    {240, 228, 66},   // crop A: yellow
    {230, 159, 0},    // crop B: orange
    {148, 216, 160},  // grass: pale green
    {0, 88, 62},      // trees: dark green
    {204, 71, 135},   // roof: purple red
    {70, 70, 76},     // road: dark grey
}};

enum class Roof : std::uint8_t { tile, concrete, metal, slate, asphalt };

/// One parcel, road, roof or water body: what all its pixels share.
struct Surface {
  Land land = Land::water;
  Roof roof = Roof::tile;
  float row_x = 1, row_y = 0;  ///< direction across the rows
  float period_a = 2, period_b = 4, tram_period = 12, phase = 0;
  float phenology = 0;           ///< years early (+) or late
  float brightness = 0;          ///< relative
  float moisture = 0.5f;         ///< [0,1]
  float soil_brightness = 0.5f;  ///< share of bright soil
  float stand_height = 12;       ///< metres, of trees
  float concrete = 0;            ///< share of concrete in a road
  bool evergreen = false;
};

/// Everything that render() needs. Tensors are (H,W).
struct Layout {
  std::uint64_t seed = 0;
  float gsd = 1.5f;              ///< metres per pixel
  Tensor<std::uint8_t> label;    ///< a Land
  Tensor<float> height;          ///< metres above the ground
  Tensor<float> terrain;         ///< metres
  Tensor<float> rows;            ///< row modulation of fields, about -1..1
  Tensor<std::int32_t> surface;  ///< index into surfaces
  std::vector<Surface> surfaces;
  FractalNoise fine, coarse;     ///< texture
  FractalNoise turbidity_field;  ///< of water; not defined() in a tile, where it is one number
  float turbidity = 0.5f;        ///< share of turbid water

  Index rows_px() const { return label.size(0); }
  Index columns_px() const { return label.size(1); }
};

}  // namespace moraine::data
