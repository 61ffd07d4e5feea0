#pragma once
// What convolution, pooling and resizing share: a size of two numbers, and the rule that says how
// many windows fit along an axis.
#include <moraine/core/error.hpp>
#include <moraine/core/shape.hpp>
#include <string>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

/// A height and a width. One number stands for both: `.stride = 2`, `.padding = {1, 0}`.
struct Size2 {
  Index h = 0, w = 0;
  constexpr Size2() = default;
  constexpr Size2(Index both) : h(both), w(both) {}
  constexpr Size2(Index height, Index width) : h(height), w(width) {}
  constexpr bool operator==(const Size2&) const = default;
};
inline std::string str(Size2 s) { return str(Shape{s.h, s.w}); }

/// Windows along one axis: (size + 2 padding - dilation (kernel-1) - 1) / stride + 1, rounded
/// down. Throws when not one window fits.
inline Index windows(const char* op, Index size, Index kernel, Index stride, Index padding,
                     Index dilation) {
  constexpr Index most = Index{1} << 24;  // so that no product below can overflow
  if (kernel < 1 || stride < 1 || dilation < 1 || padding < 0 || kernel > most || stride > most ||
      dilation > most || padding > most)
    fail(ErrorKind::value, std::string(op) +
                               ": kernel, stride and dilation must be at least 1, padding at "
                               "least 0 (at most 2^24 each); kernel " +
                               std::to_string(kernel) + ", stride " + std::to_string(stride) +
                               ", dilation " + std::to_string(dilation) + ", padding " +
                               std::to_string(padding));
  const Index reach = dilation * (kernel - 1) + 1, room = size + 2 * padding;
  if (reach > room)
    fail(ErrorKind::shape, std::string(op) +
                               ": the window is larger than the padded image; window " +
                               std::to_string(reach) + ", image " + std::to_string(size) + " + 2*" +
                               std::to_string(padding));
  return (room - reach) / stride + 1;
}

}  // namespace moraine
MORAINE_OPTIMISED_END
