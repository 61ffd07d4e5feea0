// Every file of the TIFF conformance set either decodes to its row of expected.tsv or is refused by
// name. Needs the shared data.

#include <moraine/io/geotiff.hpp>
#include <sstream>

#include "scratch.hpp"

using namespace moraine;

namespace {

/// CRC-32 of the samples in the order rows x columns x bands.
std::string crc_of(const AnyTensor& t) {
  const auto s = static_cast<std::size_t>(size_of(t.dtype));
  const auto c = static_cast<std::size_t>(t.shape[0]);
  const std::size_t plane = static_cast<std::size_t>(t.shape[1] * t.shape[2]) * s;
  std::vector<std::byte> mixed(t.bytes);
  for (std::size_t i = 0; i * s < plane; ++i)
    for (std::size_t b = 0; b < c; ++b)
      std::memcpy(&mixed[(i * c + b) * s], t.data + b * plane + i * s, s);
  return scratch::crc32(mixed.data(), mixed.size());
}

std::string type_text(Dtype d) {
  switch (d) {
    case Dtype::u8:
      return "uint8";
    case Dtype::i8:
      return "int8";
    case Dtype::u16:
      return "uint16";
    case Dtype::i16:
      return "int16";
    case Dtype::u32:
      return "uint32";
    case Dtype::i32:
      return "int32";
    case Dtype::u64:
      return "uint64";
    case Dtype::i64:
      return "int64";
    case Dtype::f16:
      return "float16";
    case Dtype::f32:
      return "float32";
    case Dtype::f64:
      return "float64";
    default:
      return "other";
  }
}

/// The same pixels, put together from small windows that cross blocks.
AnyTensor by_windows(GeoTiffReader& r, Index step_x, Index step_y) {
  const RasterInfo& f = r.info();
  return visit(f.dtype, [&](auto zero) {
    using S = decltype(zero);
    Tensor<S> out = Tensor<S>::empty({f.bands, f.height, f.width});
    for (Index y = 0; y < f.height; y += step_y)
      for (Index x = 0; x < f.width; x += step_x) {
        const Window w{x, y, std::min(step_x, f.width - x), std::min(step_y, f.height - y)};
        const AnyTensor part = r.read(w);
        const S* from = reinterpret_cast<const S*>(part.data);
        for (Index b = 0; b < f.bands; ++b)
          for (Index i = 0; i < w.height; ++i, from += w.width)
            std::memcpy(static_cast<void*>(out.data() + ((b * f.height + y + i) * f.width + x)),
                        from, static_cast<std::size_t>(w.width) * sizeof(S));
      }
    return AnyTensor(out);
  });
}

}  // namespace

TEST_CASE("geotiff: the conformance set") {
  const std::string dir = scratch::data_dir();
  if (dir.empty()) return;
  const std::string root = dir + "/tiff_conformance/";
  std::istringstream rows(read_file(root + "expected.tsv"));
  int total = 0, alike = 0, matched = 0, refused = 0, other = 0;
  std::string line, refusals;
  while (std::getline(rows, line)) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream cells(line);
    std::string file, shape, type, bits, photometric, compression, planar, crc, by;
    std::getline(cells, file, '\t');
    std::getline(cells, shape, '\t');
    std::getline(cells, type, '\t');
    std::getline(cells, bits, '\t');
    std::getline(cells, photometric, '\t');
    std::getline(cells, compression, '\t');
    std::getline(cells, planar, '\t');
    std::getline(cells, crc, '\t');
    std::getline(cells, by, '\t');
    ++total;
    const bool oracle = by == "tifffile=gdal";
    alike += oracle;
    try {
      GeoTiffReader r(root + file);
      const AnyTensor t = r.read_all();
      std::string got = std::to_string(t.shape[1]) + "x" + std::to_string(t.shape[2]);
      if (t.shape[0] > 1) got += "x" + std::to_string(t.shape[0]);
      // The table drops an axis of one sample only.
      const bool same = crc_of(t) == crc && got == shape && type_text(r.info().dtype) == type;
      const AnyTensor parts = by_windows(r, 37, 23);
      CHECK_MESSAGE((parts.bytes == t.bytes && std::memcmp(parts.data, t.data, t.bytes) == 0),
                    file);
      matched += same && oracle;
      other += !oracle;
      if (oracle)
        CHECK_MESSAGE(same, file << ": " << got << " " << type_text(r.info().dtype) << " "
                                 << crc_of(t) << ", expected " << shape << " " << type << " "
                                 << crc);
    } catch (const Error& e) {
      ++refused;
      refusals += std::string("\n  ") + e.what();
      CHECK_MESSAGE(!oracle, e.what());
      CHECK_MESSAGE(scratch::contains(e.what(), file.substr(file.find('/') + 1).substr(0, 80)),
                    e.what());
    }
  }
  CHECK(total == 146);
  CHECK(alike == 135);
  CHECK(matched == alike);
  MESSAGE(total << " files: " << matched << " of " << alike << " as both other readers, " << other
                << " more decoded, " << refused << " refused:" << refusals);
}
