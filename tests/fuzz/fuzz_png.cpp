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

// Every chunk carries a checksum, behind which blind changes never get. This one changes the file
// and then puts the checksums right, three times of four.
extern "C" __attribute__((weak)) std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size,
                                                              std::size_t max);
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max, unsigned seed) {
  size = LLVMFuzzerMutate(data, size, max);
  if (seed % 4 == 0) return size;
  for (std::size_t at = 8; at + 12 <= size;) {
    const std::uint32_t n = std::uint32_t{data[at]} << 24 | std::uint32_t{data[at + 1]} << 16 |
                            std::uint32_t{data[at + 2]} << 8 | data[at + 3];
    if (n > size - at - 12) break;
    std::uint32_t c = ~0u;
    for (std::size_t i = at + 4; i < at + 8 + n; ++i) {
      c ^= data[i];
      for (int k = 0; k < 8; ++k) c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0u);
    }
    for (std::size_t i = 0; i < 4; ++i)
      data[at + 8 + n + i] = static_cast<std::uint8_t>(~c >> (24 - 8 * i));
    at += 12 + n;
  }
  return size;
}
