// The committed configurations on the real scenes: bands, labels and nodata as they were counted by
// another program.
#include <doctest/doctest.h>

#include <moraine/recipes/labelled_scenes.hpp>
#include <moraine/recipes/training_config.hpp>

#include "io/scratch.hpp"

using namespace moraine;

namespace {

RasterRun run_of(const char* name) {
  Json config = default_run();
  merge_config(config, read_json(std::string(MORAINE_SOURCE_DIR) + "/examples/moraine/runs/" +
                                 name + ".json"));
  return parse_run(config);
}

}  // namespace

TEST_CASE("real data: Sentinel-2 tile 282D by its configuration") {
  const std::string data = scratch::data_dir();
  if (data.empty()) return;
  RasterRun run = run_of("sentinel2");
  const LabelledScenes s =
      read_labelled_scenes({data + "/terramind/S2L2A/282D_485L_3_3.tif"},
                           {data + "/terramind/LULC/282D_485L_3_3.tif"}, run.card);
  CHECK(s.pixels == std::vector<std::int64_t>{25991, 18690, 0, 0, 0, 3316, 0, 0, 2179});
  CHECK(s.ignored == 0);
  CHECK(s.nodata == 0);
  CHECK(s.samples[0].image.shape() == Shape{4, 224, 224});
  // The four bands are B02, B03, B04 and B08 as they stand.
  GeoTiffReader file(data + "/terramind/S2L2A/282D_485L_3_3.tif");
  const Tensor<float> stored = file.read_float({5, 7, 1, 1}, {1, 2, 3, 7});
  for (Index b = 0; b < 4; ++b)
    CHECK(s.samples[0].image.at({b, 7, 5}) == doctest::Approx(stored.at({b, 0, 0}) * 1e-4f));
}

TEST_CASE("real data: EnMAP tiles, planar, 224 bands, labels as real numbers") {
  const std::string data = scratch::data_dir();
  if (data.empty()) return;
  RasterRun run = run_of("enmap");
  CHECK(run.images.size() == 10);
  CHECK(run.validation_images.size() == 4);
  const std::string tile = "/enmap_potsdam_tile_128_0.tif";
  const LabelledScenes s = read_labelled_scenes({data + "/enmap_potsdam/images" + tile},
                                                {data + "/enmap_potsdam/labels" + tile}, run.card);
  CHECK(s.pixels == std::vector<std::int64_t>{18, 52, 350, 83, 5, 0});
  CHECK(s.ignored == 516);
  CHECK(s.nodata == 0);  // six bands are nodata throughout; none of them is read
  for (float v : s.samples[0].image.values()) CHECK((v > -0.1f && v < 1.2f));
}
