#pragma once
// Images to another size, exactly as PyTorch's interpolate does it: bilinear, bicubic, area,
// nearest and nearest_exact. Every mode is separable, so each is two sparse tables
// (ops/axis_table.hpp), and the gradient is their transpose.
//
// Along one axis, from N to O, with c = N/O when a size is asked for and c = 1/factor when a factor
// is (which is not the same where N*factor is no integer):
//   bilinear       s = max(0, c (o+1/2) - 1/2), between floor(s) and the next pixel
//   bicubic        s = c (o+1/2) - 1/2, four taps of Keys' kernel with a = -0.75, border repeated
//   align_corners  s = o (N-1)/(O-1) instead, for these two
//   antialias      weights of all pixels below the kernel, stretched by max(c,1) around c (o+1/2),
//                  divided by their sum; a triangle, or Keys' kernel with a = -0.5
//   area           mean of the pixels from floor(o N/O) to ceil((o+1) N/O)
//   nearest        floor(c o);  nearest_exact: floor(c (o+1/2))
#include <cmath>
#include <moraine/ops/axis_table.hpp>
#include <moraine/ops/window.hpp>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

enum class Interpolation : unsigned char { bilinear, bicubic, area, nearest, nearest_exact };

inline const char* name_of(Interpolation m) {
  switch (m) {
    case Interpolation::bilinear:
      return "bilinear";
    case Interpolation::bicubic:
      return "bicubic";
    case Interpolation::area:
      return "area";
    case Interpolation::nearest:
      return "nearest";
    case Interpolation::nearest_exact:
      return "nearest_exact";
  }
  return "?";
}

/// A factor for height and width; one number stands for both.
struct Scale2 {
  double h = 0, w = 0;
  constexpr Scale2() = default;
  constexpr Scale2(double both) : h(both), w(both) {}
  constexpr Scale2(double height, double width) : h(height), w(width) {}
};

struct ResizeOptions {
  Size2 size = {};           ///< the size asked for, or
  Scale2 scale_factor = {};  ///< floor(size * factor), with coordinates by 1/factor
  Interpolation mode = Interpolation::bilinear;
  bool align_corners = false;  ///< corner pixels keep their place (bilinear, bicubic)
  bool antialias = false;      ///< a wider kernel when shrinking (bilinear, bicubic)
};

#ifdef MORAINE_HOST

/// Keys' cubic kernel with parameter a (R. Keys, 1981): 1 at 0, 0 at 1, 2 and beyond.
inline double cubic_kernel(double x, double a) {
  x = std::abs(x);
  if (x <= 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
  return 0;
}

/// How an axis is resized: ResizeOptions for one axis.
struct AxisResize {
  Interpolation mode = Interpolation::bilinear;
  bool align_corners = false;
  bool antialias = false;
  double factor = 0;  ///< coordinates by 1/factor; 0: by in/out
};

/// The weights of one axis, from `in` to `out` pixels, both at least 1.
inline AxisTable resize_table(Index in, Index out, const AxisResize& o) {
  AxisTable t(in, out);
  const bool cubic = o.mode == Interpolation::bicubic;
  const double ratio = static_cast<double>(in) / static_cast<double>(out);
  const double c = !o.align_corners ? (o.factor > 0 ? 1 / o.factor : ratio)
                   : out > 1        ? static_cast<double>(in - 1) / static_cast<double>(out - 1)
                                    : 0;
  const auto clamp = [in](Index i) { return i < 0 ? 0 : i >= in ? in - 1 : i; };

  // PyTorch copies an axis that keeps its size, whatever the factor, except in these two modes.
  const bool always = o.mode == Interpolation::nearest_exact || (cubic && !o.antialias);
  if (in == out && !always) {
    for (Index i = 0; i < out; ++i) t.push(i, {1.0});
    return t;
  }
  std::vector<double> w;
  for (Index i = 0; i < out; ++i) {
    const double at = static_cast<double>(i);
    if (o.mode == Interpolation::nearest || o.mode == Interpolation::nearest_exact) {
      // In float, as PyTorch computes it for every element type: which pixel is nearest depends on
      // the rounding. Twice the size is the one exception.
      const float f = o.factor > 0 ? static_cast<float>(1 / o.factor)
                                   : static_cast<float>(in) / static_cast<float>(out);
      const float p = static_cast<float>(i);
      if (o.mode == Interpolation::nearest)
        t.push(out == 2 * in ? i / 2 : clamp(static_cast<Index>(std::floor(p * f))), {1.0});
      else
        t.push(clamp(static_cast<Index>(std::floor((p + 0.5f) * f))), {1.0});
    } else if (o.mode == Interpolation::area) {
      const Index first = i * in / out, end = ((i + 1) * in + out - 1) / out;
      t.push(first, std::vector<double>(static_cast<std::size_t>(end - first),
                                        1.0 / static_cast<double>(end - first)));
    } else if (o.antialias) {
      const double stretch = c > 1 ? c : 1, centre = c * (at + 0.5);
      const double support = (cubic ? 2.0 : 1.0) * stretch;
      const Index low = static_cast<Index>(centre - support + 0.5);
      const Index high = static_cast<Index>(centre + support + 0.5);
      const Index first = clamp(low), end = high > in ? in : high < first + 1 ? first + 1 : high;
      double total = 0;
      w.clear();
      for (Index j = first; j < end; ++j) {
        const double x = (static_cast<double>(j) - centre + 0.5) / stretch;
        const double triangle = std::abs(x) < 1 ? 1 - std::abs(x) : 0;
        w.push_back(cubic ? cubic_kernel(x, -0.5) : triangle);
        total += w.back();
      }
      for (double& v : w) v /= total;
      t.push(first, w);
    } else {
      double s = o.align_corners ? c * at : c * (at + 0.5) - 0.5;
      if (!cubic && s < 0) s = 0;
      Index first = static_cast<Index>(std::floor(s));
      if (first > in - 1) first = in - 1;
      double f = s - static_cast<double>(first);
      f = f < 0 ? 0 : f > 1 ? 1 : f;
      // Taps beyond the border count for the border pixel.
      const Index taps = cubic ? 4 : 2, from = cubic ? first - 1 : first;
      const Index low = clamp(from), high = clamp(from + taps - 1);
      w.assign(static_cast<std::size_t>(high - low + 1), 0.0);
      for (Index k = 0; k < taps; ++k) {
        const double v = cubic ? cubic_kernel(static_cast<double>(k - 1) - f, -0.75)
                         : k   ? f
                               : 1 - f;
        w[static_cast<std::size_t>(clamp(from + k) - low)] += v;
      }
      t.push(low, w);
    }
  }
  return t;
}

/// Size of an axis after a factor: floor(size * factor).
inline Index scaled_size(Index size, double factor) {
  return static_cast<Index>(std::floor(static_cast<double>(size) * factor));
}

/// (...,H,W) -> (...,H',W') for a tensor with at least two axes; give either size or scale_factor.
/// Throws when an axis would be empty or larger than 2^24, or when a mode lacks the option.
template <class T>
Tensor<T> resize(const Tensor<T>& x, const ResizeOptions& o) {
  if (x.rank() < 2) fail(ErrorKind::shape, "resize: needs (...,H,W); x " + str(x.shape()));
  const bool by_size = o.size != Size2{};
  const bool by_factor = o.scale_factor.h != 0 || o.scale_factor.w != 0;
  if (by_size == by_factor)
    fail(ErrorKind::value, "resize: give either size or scale_factor; x " + str(x.shape()));
  if ((o.align_corners || o.antialias) && o.mode != Interpolation::bilinear &&
      o.mode != Interpolation::bicubic)
    fail(ErrorKind::value,
         std::string("resize: align_corners and antialias belong to bilinear and bicubic; mode ") +
             name_of(o.mode));
  if (o.align_corners && o.antialias)
    fail(ErrorKind::value, "resize: align_corners and antialias exclude each other");
  const Index h = x.size(-2), w = x.size(-1);
  constexpr double most = 1 << 24;
  const auto factor_fits = [&](double f, Index n) {
    return f > 0 && f * static_cast<double>(n) <= most;
  };
  if (by_factor && !(factor_fits(o.scale_factor.h, h) && factor_fits(o.scale_factor.w, w)))
    fail(ErrorKind::value, "resize: factors must be above 0 and give at most 2^24 pixels; " +
                               std::to_string(o.scale_factor.h) + ", " +
                               std::to_string(o.scale_factor.w) + " for x " + str(x.shape()));
  const Size2 to =
      by_size ? o.size : Size2{scaled_size(h, o.scale_factor.h), scaled_size(w, o.scale_factor.w)};
  if (h < 1 || w < 1 || to.h < 1 || to.w < 1 || to.h > (1 << 24) || to.w > (1 << 24))
    fail(ErrorKind::shape,
         "resize: every axis needs 1 to 2^24 pixels; x " + str(x.shape()) + " to " + str(to));
  AxisResize a{o.mode, o.align_corners, o.antialias, o.scale_factor.h};
  AxisTable rows = resize_table(h, to.h, a);
  a.factor = o.scale_factor.w;
  return map_axes("resize", x, std::move(rows), resize_table(w, to.w, a));
}

/// One axis of any tensor to `out` entries; by default linearly, as SAM stretches its tables of
/// relative positions: resize_axis(table, 0, 2*h-1).
template <class T>
Tensor<T> resize_axis(const Tensor<T>& x, int axis, Index out, const AxisResize& o = {}) {
  const int a = x.shape().axis(axis);
  if (x.size(a) < 1 || out < 1 || out > (1 << 24))
    fail(ErrorKind::shape, "resize_axis: the axis needs 1 to 2^24 entries; x " + str(x.shape()) +
                               ", axis " + std::to_string(a) + " to " + std::to_string(out));
  AxisTable t = resize_table(x.size(a), out, o);
  Tensor<T> y = apply_table(x.detach(), a, t);
  return record("resize_axis", y, {&x}, [t = std::move(t), a](const Tensor<T>& dy) {
    return Grads<T>{apply_table(dy, a, transposed(t))};
  });
}
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
