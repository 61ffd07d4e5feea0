// Writes pictures of synthetic scenes: the land, its height, and what each domain's sensor sees.
//
//   make_scenes OUTPUT_DIR [SEED] [SIZE]
//
// SIZE is in pixels, 64 by default (drawn four times as large); 4096 makes a landscape. Each domain
// writes NAME-color.png (red, green, blue) and NAME-infrared.png (near infrared, red, green).
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <moraine/data/scene.hpp>
#include <string>
#include <vector>

using namespace moraine;

namespace {

/// An RGB image in which every pixel of the scene is a square of `zoom` pixels.
struct Picture {
  int height, width, zoom;
  std::vector<unsigned char> rgb;
  Picture(Index h, Index w)
      : height(static_cast<int>(h)),
        width(static_cast<int>(w)),
        zoom(h <= 128 ? 4 : 1),
        rgb(static_cast<std::size_t>(height * zoom) * static_cast<std::size_t>(width * zoom) * 3) {}
  void set(Index y, Index x, const unsigned char (&c)[3]) {
    for (int v = 0; v < zoom; ++v)
      for (int u = 0; u < zoom; ++u)
        std::copy(
            c, c + 3,
            rgb.begin() + 3 * ((y * zoom + v) * static_cast<Index>(width * zoom) + x * zoom + u));
  }
  void save(const std::string& path) const {
    if (!stbi_write_png(path.c_str(), width * zoom, height * zoom, 3, rgb.data(), width * zoom * 3))
      fail(ErrorKind::file, "make_scenes: cannot write " + path);
  }
};

/// Linear from nothing to `top`, then a gamma for the eye.
unsigned char shade(float v, float top) {
  return static_cast<unsigned char>(255.5f * std::sqrt(std::clamp(v / top, 0.0f, 1.0f)));
}

void run(const std::string& folder, std::uint64_t seed, Index size) {
  for (const std::string_view name : data::domain_names) {
    const data::Domain d = data::domain(name);
    const auto layout = data::make_layout(seed, {.gsd = d.gsd, .height = size, .width = size});
    const data::Scene s = data::render(layout, d, seed);
    Picture color(size, size), infrared(size, size), land(size, size), height(size, size);
    const Index n = size * size;
    const float* r = s.reflectance.data();
    for (Index i = 0; i < n; ++i) {
      const float b = r[i], g = r[n + i], red = r[2 * n + i], nir = r[3 * n + i];
      color.set(i / size, i % size, {shade(red, 0.35f), shade(g, 0.35f), shade(b, 0.35f)});
      infrared.set(i / size, i % size, {shade(nir, 0.6f), shade(red, 0.35f), shade(g, 0.35f)});
      const auto& c = data::land_palette[s.labels.data()[i]];
      land.set(i / size, i % size, {c[0], c[1], c[2]});
      const unsigned char h = shade(s.height.data()[i], 18);
      height.set(i / size, i % size, {h, h, h});
    }
    const std::string base = folder + "/" + d.name;
    color.save(base + "-color.png");
    infrared.save(base + "-infrared.png");
    if (name == "source") {
      land.save(folder + "/land.png");
      height.save(folder + "/height.png");
    }
    std::printf("%s: %lld bands, %g m, %s-color.png\n", d.name.c_str(),
                static_cast<long long>(d.bands()), static_cast<double>(d.gsd), base.c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: make_scenes OUTPUT_DIR [SEED] [SIZE]\n");
    return 1;
  }
  try {
    run(argv[1], argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1,
        argc > 3 ? std::strtoll(argv[3], nullptr, 10) : 64);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
