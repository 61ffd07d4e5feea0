// Any JPEG file: refused, or all its pixels.
#include <moraine/io/image.hpp>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace moraine;
  fuzz::run([&] {
    const Image image =
        parse_jpeg(reinterpret_cast<const std::byte*>(data), size, "fuzz", {.max_bytes = 8u << 20});
    fuzz::touch(image.pixels.data, image.pixels.bytes);
  });
  return 0;
}
