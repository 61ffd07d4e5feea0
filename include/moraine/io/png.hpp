#pragma once
// Writes previews as PNG, through stb_image_write. For pictures that people look at; rasters go
// through io/geotiff.hpp.
#include <cstdint>
#include <moraine/core/any_tensor.hpp>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/io/file.hpp>
#include <string>

// What stb_image_write includes, so that none of it lands in the namespace below.
#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

// A private copy: a program that has its own stb_image_write sees none of this.
#pragma push_macro("INCLUDE_STB_IMAGE_WRITE_H")
#pragma push_macro("STB_IMAGE_WRITE_IMPLEMENTATION")
#pragma push_macro("STB_IMAGE_WRITE_STATIC")
#pragma push_macro("STBI_WRITE_NO_STDIO")
#pragma push_macro("STBIWDEF")
#undef INCLUDE_STB_IMAGE_WRITE_H
#undef STB_IMAGE_WRITE_IMPLEMENTATION
#undef STB_IMAGE_WRITE_STATIC
#undef STBI_WRITE_NO_STDIO
#undef STBIWDEF
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO
#define STBIWDEF static inline
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
namespace moraine_stb {  // not inside moraine: its own abs and pow would hide those that stb calls
#include <stb/stb_image_write.h>
}
#pragma GCC diagnostic pop
#pragma pop_macro("STBIWDEF")
#pragma pop_macro("STBI_WRITE_NO_STDIO")
#pragma pop_macro("STB_IMAGE_WRITE_STATIC")
#pragma pop_macro("STB_IMAGE_WRITE_IMPLEMENTATION")
#pragma pop_macro("INCLUDE_STB_IMAGE_WRITE_H")

namespace moraine MORAINE_API {

/// A picture (h,w,c) of u8 as the bytes of a PNG file; c is 1 gray, 2 gray and alpha, 3 RGB, 4
/// RGBA. The same picture gives the same bytes.
inline std::string png_bytes(const AnyTensor& picture) {
  const Shape& s = picture.shape;
  if (picture.dtype != Dtype::u8 || s.rank != 3 || s[0] < 1 || s[1] < 1 || s[2] < 1 || s[2] > 4)
    fail(ErrorKind::shape,
         "png: needs (h,w,1 to 4) of U8; " + str(s) + " of " + name_of(picture.dtype));
  if (s[0] > 65535 || s[1] > 65535 || s.numel() > (Index{1} << 29))  // stb counts in int
    fail(ErrorKind::value, "png: too large for a preview; " + str(s) + " -> write a GeoTIFF");
  std::string out;
  const auto put = [](void* to, void* data, int n) {
    static_cast<std::string*>(to)->append(static_cast<const char*>(data),
                                          static_cast<std::size_t>(n));
  };
  const int h = static_cast<int>(s[0]), w = static_cast<int>(s[1]), c = static_cast<int>(s[2]);
  if (!moraine_stb::stbi_write_png_to_func(put, &out, w, h, c, picture.data, w * c))
    fail(ErrorKind::memory, "png: no memory to write " + str(s));
  return out;
}

/// Writes such a picture, atomically.
inline void write_png(const std::string& path, const AnyTensor& picture) {
  write_file(path, png_bytes(picture));
}

}  // namespace moraine
