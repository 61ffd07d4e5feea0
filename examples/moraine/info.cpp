// info: what a file holds, told by its content and not by its name.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <moraine/io/geotiff_reader.hpp>
#include <moraine/io/image.hpp>
#include <moraine/io/json.hpp>
#include <moraine/io/recognise.hpp>
#include <moraine/io/safetensors.hpp>
#include <moraine/io/weights.hpp>
#include <moraine/recipes/recognise_weights.hpp>
#include <moraine/recipes/weight_sizes.hpp>
#include <moraine/recipes/weight_tree.hpp>

#include "arguments.hpp"
#include "commands.hpp"

using namespace moraine;

namespace program {
namespace {

/// "12.3 MiB".
std::string bytes_text(std::uint64_t n) {
  const char* units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  double v = static_cast<double>(n);
  int u = 0;
  while (v >= 1024 && u < 4) v /= 1024, ++u;
  char text[32];
  std::snprintf(text, sizeof text, u ? "%.1f %s" : "%.0f %s", v, units[u]);
  return text;
}

/// Text of a file on one line of the report.
std::string shown(const std::string& s, std::size_t most = 100) {
  return one_line(s.size() > most ? s.substr(0, most) + "..." : s);
}

void line(const char* name, const std::string& value) {
  std::printf("  %-14s %s\n", name, value.c_str());
}

/// Count, range, mean and standard deviation of the values that are neither nodata nor NaN.
struct Statistics {
  Index seen = 0, valid = 0;
  double least = 0, most = 0, shift = 0, sum = 0, squares = 0;
  void add(double v, const std::optional<Nodata>& nodata) {
    ++seen;
    if (std::isnan(v) || (nodata && nodata->is(v))) return;
    if (valid++ == 0) least = most = shift = v;
    least = std::min(least, v), most = std::max(most, v);
    sum += v - shift, squares += (v - shift) * (v - shift);
  }
  std::string text() const {
    if (valid == 0) return "no valid pixel";
    const double n = static_cast<double>(valid), m = sum / n;
    char out[120];
    std::snprintf(out, sizeof out, "%12.6g %12.6g %12.6g %12.6g   %6.2f %%", least, most, shift + m,
                  std::sqrt(std::max(0.0, squares / n - m * m)),
                  100.0 * n / static_cast<double>(seen));
    return out;
  }
};
constexpr const char* statistics_head =
    "         min          max         mean          std      valid";

void tell_tiff(const std::string& path) {
  GeoTiffReader file(path);
  const RasterInfo& r = file.info();
  line("size", std::to_string(r.width) + " x " + std::to_string(r.height) + " pixels, " +
                   std::to_string(r.bands) + (r.bands == 1 ? " band" : " bands"));
  line("type", std::string(name_of(r.dtype)) + ", " + std::to_string(r.bits) + " bits a sample" +
                   (r.planar ? ", one plane a band" : ", bands side by side"));
  line("blocks", std::to_string(r.block_width) + " x " + std::to_string(r.block_height) +
                     (r.tiled ? " tiles" : " strips"));
  line("compression",
       r.compression + (r.predictor > 1 ? ", predictor " + std::to_string(r.predictor) : ""));
  line("photometric", r.photometric);
  line("nodata", r.nodata ? shown(r.nodata->text) : "none");
  if (r.geotransform) {
    const auto& g = *r.geotransform;
    line("upper left", number_text(g[0]) + ", " + number_text(g[3]));
    line("pixel", number_text(g[1]) + " x " + number_text(g[5]) +
                      (g[2] != 0 || g[4] != 0 ? ", rotated" : ""));
  }
  line("georeference", !r.geotransform && r.geo.empty() ? "none"
                       : r.epsg                         ? "EPSG:" + std::to_string(r.epsg)
                                                        : "a system without an EPSG code");
  if (!r.class_names.empty()) {
    std::string all;
    for (const std::string& c : r.class_names) all += (all.empty() ? "" : ", ") + shown(c, 30);
    line("classes", shown(all, 400));
  }
  if (!r.colour_map.empty()) line("colour table", std::to_string(r.colour_map.size()) + " colours");

  // Rows of blocks at a time, so that memory does not grow with the scene.
  std::vector<Statistics> bands(static_cast<std::size_t>(r.bands));
  const Index row = std::max<Index>(1, r.width * r.bands);
  const Index step = std::clamp<Index>((Index{1} << 23) / row, 1, std::max<Index>(1, r.height));
  const Index rows = std::max<Index>(1, step / r.block_height * r.block_height);
  for (Index y = 0; y < r.height; y += rows) {
    const Index h = std::min(rows, r.height - y);
    const AnyTensor some = file.read({0, y, r.width, h});
    visit(some.dtype, [&](auto zero) {
      using S = decltype(zero);
      const S* v = reinterpret_cast<const S*>(some.data);
      for (std::size_t b = 0; b < bands.size(); ++b)
        for (Index i = 0; i < h * r.width; ++i) bands[b].add(static_cast<double>(*v++), r.nodata);
    });
  }
  std::printf("\n  band %s\n", statistics_head);
  for (std::size_t b = 0; b < bands.size(); ++b) {
    const std::string name = b < r.band_names.size() ? shown(r.band_names[b], 40) : "";
    std::printf("  %4zu %s%s%s\n", b + 1, bands[b].text().c_str(), name.empty() ? "" : "  ",
                name.c_str());
  }
}

void tell_image(const std::string& path) {
  const Image image = read_image(path);
  const Shape& s = image.pixels.shape;
  line("size", std::to_string(s[1]) + " x " + std::to_string(s[0]) + " pixels, " +
                   std::to_string(s[2]) + (s[2] == 1 ? " channel" : " channels"));
  line("type", std::string(name_of(image.pixels.dtype)) + ", " + std::to_string(image.bits) +
                   " bits a sample");
  if (!image.palette.empty())
    line("palette", std::to_string(image.palette.size()) + " colours, shown by index");
  const std::vector<double> v = image.pixels.as<double>().values();
  std::printf("\n  channel %s\n", statistics_head);
  for (Index c = 0; c < s[2]; ++c) {
    Statistics t;
    for (std::size_t i = static_cast<std::size_t>(c); i < v.size();
         i += static_cast<std::size_t>(s[2]))
      t.add(v[i], {});
    std::printf("  %7lld %s\n", static_cast<long long>(c + 1), t.text().c_str());
  }
}

/// "licence: ..." of a README.md's front matter, as the hub writes it; "" when there is none.
std::string readme_licence(const std::string& directory) {
  if (!is_file(directory + "/README.md")) return "";
  std::string text;
  try {
    text = read_file(directory + "/README.md", 1 << 20);
  } catch (const Error&) {
    return "";
  }
  if (text.rfind("---\n", 0) != 0) return "";
  const std::size_t end = text.find("\n---", 4);
  for (const char* key : {"\nlicense: ", "\nlicense_name: "})
    if (const std::size_t at = text.find(key); at < end) {
      const std::size_t from = at + std::strlen(key);
      return text.substr(from, text.find('\n', from) - from);
    }
  return "";
}

/// Family, preset and licence: what the names, shapes and metadata of weights say.
void tell_origin(const WeightsFile& file, const std::string& directory) {
  const RecognisedWeights r = recognise_weights(file.tensors);
  if (r.family) {
    const WeightSizes s = weight_sizes(file.tensors, r);
    line("family", r.what() + (r.prefix.empty() ? "" : ", below \"" + r.prefix + "\""));
    line("preset", s.preset.empty() ? "none of the published sizes" : s.preset);
    if (s.complete)
      line("sizes", "width " + std::to_string(s.width) + ", " + std::to_string(s.depth) +
                        " blocks, hidden " + std::to_string(s.hidden) + ", patch " +
                        std::to_string(s.patch) +
                        (s.grid ? ", trained at " + std::to_string(s.grid * s.patch) : "") +
                        (s.registers ? ", " + std::to_string(s.registers) + " registers" : ""));
  } else {
    line("family", "not recognised");
  }
  std::string licence;
  for (const char* key : {"license", "licence", "modelspec.license"})
    if (const auto at = file.metadata.find(key); at != file.metadata.end()) licence = at->second;
  if (licence.empty()) licence = readme_licence(directory);
  if (r.family || !licence.empty())
    line("licence", licence.empty() ? "not stated in the file" : shown(licence));
}

void tell_weights(const WeightsFile& file, const std::string& directory) {
  std::map<std::string, Index> types;
  Index values = 0, parameters = 0;
  std::uint64_t bytes = 0;
  const auto type_of = [&](const std::string& name, const AnyTensor& t) {
    const auto other = file.other_dtypes.find(name);
    return other != file.other_dtypes.end() ? other->second : std::string(name_of(t.dtype));
  };
  std::vector<const std::string*> names;
  std::vector<const AnyTensor*> tensors;
  for (const auto& [name, t] : file.tensors) {
    ++types[type_of(name, t)];
    values += t.shape.numel();
    if (is_float(t.dtype)) parameters += t.shape.numel();
    bytes += t.bytes;
    names.push_back(&name), tensors.push_back(&t);
  }
  std::string all;
  for (const auto& [type, n] : types)
    all += (all.empty() ? "" : ", ") + std::to_string(n) + " " + type;
  if (!file.selected.empty()) line("part", shown(file.selected));
  for (const std::string& o : file.others) line("other part", shown(o));
  line("tensors", std::to_string(file.tensors.size()) + (all.empty() ? "" : " (" + all + ")"));
  line("parameters",
       std::to_string(parameters) + " floating values" +
           (values == parameters ? "" : ", " + std::to_string(values - parameters) + " others"));
  line("data", bytes_text(bytes));
  tell_origin(file, directory);
  line("metadata",
       file.metadata.empty() ? "none" : std::to_string(file.metadata.size()) + " entries");
  for (const auto& [key, value] : file.metadata)
    std::printf("    %s: %s\n", shown(key, 60).c_str(), shown(value, 200).c_str());

  const std::vector<TensorStatistics> statistics = statistics_of(file.tensors);
  Index nan = 0, infinite = 0;
  for (const TensorStatistics& s : statistics) nan += s.nan, infinite += s.infinite;
  line("not finite", nan + infinite == 0
                         ? "none"
                         : std::to_string(nan) + " NaN, " + std::to_string(infinite) + " infinite");
  const std::vector<WeightLine> tree = weight_tree(file.tensors);
  std::size_t wide = 6, long_shape = 5;
  for (const WeightLine& l : tree) {
    wide = std::max(
        wide, std::min<std::size_t>(l.name.size(), 60) + 2 * static_cast<std::size_t>(l.depth));
    if (l.at >= 0)
      long_shape = std::max(long_shape, str(tensors[static_cast<std::size_t>(l.at)]->shape).size());
  }
  std::printf("\n  %-*s %-5s %-*s %11s %11s %11s %11s\n", static_cast<int>(wide), "tensor", "type",
              static_cast<int>(long_shape), "shape", "mean", "std", "min", "max");
  for (const WeightLine& l : tree) {
    const std::string name =
        std::string(2 * static_cast<std::size_t>(l.depth), ' ') + shown(l.name, 60);
    if (l.at < 0) {
      std::printf("  %s\n", name.c_str());
      continue;
    }
    const auto i = static_cast<std::size_t>(l.at);
    const TensorStatistics& s = statistics[i];
    std::printf("  %-*s %-5s %-*s", static_cast<int>(wide), name.c_str(),
                type_of(*names[i], *tensors[i]).c_str(), static_cast<int>(long_shape),
                str(tensors[i]->shape).c_str());
    if (s.known && s.values > s.nan + s.infinite)
      std::printf(" %11.4g %11.4g %11.4g %11.4g", s.mean, s.std, s.least, s.most);
    if (s.nan || s.infinite)
      std::printf("   %lld NaN, %lld infinite", static_cast<long long>(s.nan),
                  static_cast<long long>(s.infinite));
    std::printf("\n");
  }
}

/// A model directory: what config.json says, then the weights.
void tell_directory(const std::string& directory, const WeightsFile& file) {
  if (is_file(directory + "/config.json")) {
    const Json config = read_json(directory + "/config.json");
    for (const char* key : {"model_type", "architecture"})
      if (const Json* j = config.find(key); j && j->is_string()) line(key, shown(j->as_string()));
  } else {
    line("config.json", "none");
  }
  tell_weights(file, directory);
}

void tell_json(const std::string& path) {
  const Json j = read_json(path);
  if (j.is_array()) line("value", "an array of " + std::to_string(j.as_array().size()));
  if (!j.is_object()) return;
  line("value", "an object of " + std::to_string(j.as_object().size()) + " members");
  std::printf("\n");
  for (const JsonMember& m : j.as_object())
    std::printf("  %-28s %s\n", shown(m.key, 60).c_str(),
                shown(json_text(m.value, {.indent = -1}), 80).c_str());
}

/// What to add about a file of no known kind: a safetensors file that ends within its header is
/// still known by the length of the header and the brace after it.
std::string cut_header(const std::string& path) {
  std::size_t size = 0;
  const detail::Fd f = detail::open_to_read(path, size);
  char head[9];
  if (!detail::read_at(f.fd, head, sizeof head, 0, path) || head[8] != '{') return "";
  std::uint64_t n = 0;
  std::memcpy(&n, head, 8);
  if (n < 2 || n > 100'000'000 || n <= size - 8) return "";
  return " looks like a safetensors file that ends within its header; " + std::to_string(size) +
         " bytes, the header needs " + std::to_string(n + 8) + " -> is the file cut off?";
}

}  // namespace

int run_info(const InfoOptions& o) {
  if (is_directory(o.file)) {
    // Errors first: nothing is printed of a directory that holds no model.
    const WeightsFile file = read_weights(o.file);
    std::printf("%s: a model directory, %s\n", one_line(o.file).c_str(), file.format.c_str());
    tell_directory(o.file, file);
    return 0;
  }
  const FileKind kind = recognise(o.file);
  std::size_t size = 0;
  detail::open_to_read(o.file, size);
  const auto head = [&] {
    std::printf("%s: %s, %s\n", one_line(o.file).c_str(), name_of(kind), bytes_text(size).c_str());
  };
  switch (kind) {
    case FileKind::tiff:
    case FileKind::big_tiff:
      head(), tell_tiff(o.file);
      return 0;
    case FileKind::png:
    case FileKind::jpeg:
      head(), tell_image(o.file);
      return 0;
    case FileKind::safetensors: {
      const WeightsFile file = read_weights(o.file);
      head(), tell_weights(file, dir_name(o.file));
      return 0;
    }
    case FileKind::npz_or_zip:
    case FileKind::torch_legacy: {
      const WeightsFile file = read_weights(o.file, {.select = o.select, .also = o.pass_over});
      std::printf("%s: PyTorch (%s), %s\n", one_line(o.file).c_str(), file.format.c_str(),
                  bytes_text(size).c_str());
      tell_weights(file, dir_name(o.file));
      return 0;
    }
    case FileKind::json:
      head(), tell_json(o.file);
      return 0;
    case FileKind::empty:
      fail(ErrorKind::format, "info: " + quoted(o.file) + " is empty; 0 bytes");
    case FileKind::unknown:
      if (const std::string cut = cut_header(o.file); !cut.empty())
        fail(ErrorKind::format, "info: " + quoted(o.file) + cut);
      fail(ErrorKind::format, "info: " + quoted(o.file) +
                                  " is of no known kind; its first bytes are those of "
                                  "no safetensors, PyTorch, TIFF, PNG, JPEG or JSON file");
    default:
      break;
  }
  fail(ErrorKind::format, "info: " + quoted(o.file) +
                              " is a file of a kind that this version does not read; " +
                              name_of(kind));
}

}  // namespace program
