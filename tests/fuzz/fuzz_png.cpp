// Any PNG file: refused, or all its pixels.
#include <moraine/io/image.hpp>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace moraine;
  for (bool expand : {false, true})
    fuzz::run([&] {
      const Image image = parse_png(reinterpret_cast<const std::byte*>(data), size, "fuzz",
                                    {.expand_palette = expand, .max_bytes = 8u << 20});
      fuzz::touch(image.pixels.data, image.pixels.bytes);
    });
  return 0;
}
