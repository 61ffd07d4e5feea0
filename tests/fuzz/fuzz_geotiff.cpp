// Any TIFF file: refused, or described, and its corners, centre and some bands read.
#include <algorithm>
#include <moraine/io/geotiff.hpp>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace moraine;
  fuzz::run([&] {
    GeoTiffReader r(reinterpret_cast<const std::byte*>(data), size, nullptr, "fuzz.tif",
                    {.max_block_bytes = 16u << 20, .cache_bytes = 8u << 20});
    const RasterInfo& f = r.info();
    fuzz::require(f.width > 0 && f.height > 0 && f.bands > 0 && f.block_width > 0 &&
                  f.block_height > 0);
    fuzz::require(f.band_names.empty() || f.band_names.size() == static_cast<std::size_t>(f.bands));
    shifted(f.geo, 3, 5);
    gdal_metadata_text(f.metadata);
    const Index w = std::min<Index>(f.width, 70), h = std::min<Index>(f.height, 40);
    std::vector<int> bands = {0, f.bands / 2, f.bands - 1};
    for (const Window& at : {Window{0, 0, w, h}, Window{f.width - w, f.height - h, w, h},
                             Window{(f.width - w) / 2, (f.height - h) / 2, w, h}})
      fuzz::run([&] {
        const AnyTensor t = r.read(at, bands);
        fuzz::touch(t.data, t.bytes);
        const Tensor<float> x = r.read_float(at, bands);
        fuzz::touch(x.data(), static_cast<std::size_t>(x.numel()) * 4);
      });
  });
  return 0;
}
