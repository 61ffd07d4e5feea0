#pragma once
// Photographs to another size, bit for bit as the two libraries behind the models' processors do
// it: Pillow's Image.resize, and PyTorch's antialiased interpolate on bytes, which transformers'
// processors call through torchvision. For recipes/image_processor.hpp; maps of features are
// resized by ops/resize.hpp.
//
// Both stretch a triangle (bilinear) or Keys' kernel with a = -1/2 (bicubic) when they shrink,
// first along the rows, then down the columns, and round to bytes in between:
//
//   c = N/O, centre = c (o+1/2), support = (1 or 2) max(c,1), taps from floor(centre-support+1/2)
//   w_j = k((j - centre + 1/2) / max(c,1)), divided by their sum, in double
//   y = clamp((sum_j round(w_j 2^p) x_j + 2^(p-1)) >> p)
//
// Pillow has p = 22. PyTorch keeps weights in 16 bits: the largest p up to 22 for which they fit,
// an axis at a time; results differ by one in a few bytes of a thousand. On floats PyTorch computes
// the taps in float, and so does this. Since version 13 Pillow takes the columns first where that
// drops more than twice as many lines. Facts from Pillow's Resample.c (and, for the order, from
// Pillow 13.0 itself) and PyTorch's UpSampleKernel.cpp and UpSampleKernelAVXAntialias.h.
#include <moraine/core/error.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/core/tensor.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

enum class ResampleFilter : unsigned char { bilinear, bicubic };
/// Whose rounding, and whose order.
enum class ResampleRule : unsigned char {
  torch,     ///< PyTorch on x86-64 with AVX2 or AVX-512, as of 2.15
  pillow,    ///< Pillow 13
  pillow_12  ///< Pillow up to 12: rows first, always
};

struct ResampleOptions {
  Index height = 0, width = 0;  ///< of the result
  ResampleFilter filter = ResampleFilter::bicubic;
  ResampleRule rule = ResampleRule::torch;
};

namespace detail {

/// One axis: output o is the sum of weight[o * most + t] x[first[o] + t], t < count[o].
template <class W>
struct ResampleAxis {
  std::vector<Index> first, count;
  std::vector<W> weight;
  Index most = 0;
};

/// Computed in R: double for bytes, float for floats. Where PyTorch's expressions mix the two, so
/// do these.
template <class R>
ResampleAxis<R> resample_axis(Index in, Index out, ResampleFilter filter) {
  const bool cubic = filter == ResampleFilter::bicubic;
  // Keys' polynomials in double for floats too: PyTorch's are fused, and so nearly exact.
  const auto kernel = [cubic](R r) -> R {
    const double x = std::abs(static_cast<double>(r)), a = -0.5;
    if (!cubic) return std::abs(r) < R(1) ? R(1) - std::abs(r) : R(0);
    if (x < 1) return static_cast<R>(((a + 2) * x - (a + 3)) * x * x + 1);
    if (x < 2) return static_cast<R>(((a * x - 5 * a) * x + 8 * a) * x - 4 * a);
    return R(0);
  };
  const R ratio = static_cast<R>(in) / static_cast<R>(out);
  const R support =
      ratio >= R(1) ? static_cast<R>((cubic ? 2.0 : 1.0) * ratio) : static_cast<R>(cubic ? 2 : 1);
  const R inverse = ratio >= R(1) ? static_cast<R>(1.0 / ratio) : R(1);
  ResampleAxis<R> t;
  t.most = static_cast<Index>(std::ceil(support)) * 2 + 1;
  t.weight.assign(static_cast<std::size_t>(out * t.most), R(0));
  for (Index o = 0; o < out; ++o) {
    const R centre = static_cast<R>(ratio * (static_cast<double>(o) + 0.5));
    const Index low = static_cast<Index>(static_cast<R>(centre - support) + 0.5);
    const Index high = static_cast<Index>(static_cast<R>(centre + support) + 0.5);
    const Index first = low < 0 ? 0 : low, end = high > in ? in : high;
    const Index count = std::min(std::max<Index>(end - first, 0), t.most);
    R* const w = t.weight.data() + o * t.most;
    R total = 0;
    for (Index j = 0; j < count; ++j) {
      const R from = static_cast<R>(j + first) - centre;
      w[j] = kernel(static_cast<R>((from + 0.5) * inverse));
      total += w[j];
    }
    if (total != R(0))
      for (Index j = 0; j < count; ++j) w[j] /= total;
    t.first.push_back(first);
    t.count.push_back(count);
  }
  return t;
}

/// The weights as whole numbers, and p.
inline ResampleAxis<std::int32_t> whole_weights(const ResampleAxis<double>& t, ResampleRule rule,
                                                int& bits) {
  bits = 22;
  if (rule == ResampleRule::torch) {
    double largest = 0;
    for (double w : t.weight) largest = std::max(largest, w);
    for (bits = 0; bits < 22; ++bits)
      if (static_cast<int>(0.5 + largest * (1 << (bits + 1))) >= 1 << 15) break;
  }
  ResampleAxis<std::int32_t> out{t.first, t.count, {}, t.most};
  for (double w : t.weight)
    out.weight.push_back(static_cast<std::int32_t>(w * (1 << bits) + (w < 0 ? -0.5 : 0.5)));
  return out;
}

inline std::uint8_t to_byte(std::int32_t sum, int bits) {
  const std::int32_t v = sum >> bits;
  return static_cast<std::uint8_t>(v < 0 ? 0 : v > 255 ? 255 : v);
}
inline float to_byte(float sum, int) { return sum; }

/// A row of pixels of C channels. S: std::int32_t for bytes, float for floats.
template <int C, class T, class S>
void resample_row(const ResampleAxis<S>& t, int bits, S start, const T* x, T* y) {
  const Index out = static_cast<Index>(t.first.size());
  for (Index o = 0; o < out; ++o) {
    const T* p = x + t.first[static_cast<std::size_t>(o)] * C;
    const S* const w = t.weight.data() + o * t.most;
    const Index n = t.count[static_cast<std::size_t>(o)];
    S sum[C];
    for (int c = 0; c < C; ++c) sum[c] = start;
    for (Index j = 0; j < n; ++j, p += C)
      for (int c = 0; c < C; ++c) sum[c] += w[j] * static_cast<S>(p[c]);
    for (int c = 0; c < C; ++c) y[o * C + c] = to_byte(sum[c], bits);
  }
}

/// One output row from `n` rows, `line` elements each; in blocks, so that sums stay at hand.
template <class T, class S>
void resample_column(const S* w, Index n, int bits, S start, const T* x, Index line, T* y) {
  constexpr Index block = 256;
  S sum[block];
  for (Index at = 0; at < line; at += block) {
    const Index m = std::min(block, line - at);
    for (Index i = 0; i < block; ++i) sum[i] = start;
    for (Index j = 0; j < n; ++j) {
      const T* const row = x + j * line + at;
      const S f = w[j];
      if (m == block)
        for (Index i = 0; i < block; ++i) sum[i] += f * static_cast<S>(row[i]);
      else
        for (Index i = 0; i < m; ++i) sum[i] += f * static_cast<S>(row[i]);
    }
    for (Index i = 0; i < m; ++i) y[at + i] = to_byte(sum[i], bits);
  }
}

template <class T, class S>
Tensor<T> resample_rows(const Tensor<T>& x, const ResampleAxis<S>& t, int bits, S start) {
  const Index h = x.size(0), c = x.size(2), in = x.size(1) * c;
  const Index out = static_cast<Index>(t.first.size()) * c;
  Tensor<T> y = Tensor<T>::empty({h, out / c, c});
  parallel_for(h, 1 + (1 << 16) / (in + 1), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      const T* const from = x.data() + r * in;
      T* const to = y.data() + r * out;
      if (c == 1) resample_row<1>(t, bits, start, from, to);
      if (c == 2) resample_row<2>(t, bits, start, from, to);
      if (c == 3) resample_row<3>(t, bits, start, from, to);
      if (c == 4) resample_row<4>(t, bits, start, from, to);
    }
  });
  return y;
}
template <class T, class S>
Tensor<T> resample_columns(const Tensor<T>& x, const ResampleAxis<S>& t, int bits, S start) {
  const Index line = x.size(1) * x.size(2), out = static_cast<Index>(t.first.size());
  Tensor<T> y = Tensor<T>::empty({out, x.size(1), x.size(2)});
  parallel_for(out, 1 + (1 << 16) / (line * t.most + 1), [&](Index begin, Index end) {
    for (Index o = begin; o < end; ++o) {
      const std::size_t i = static_cast<std::size_t>(o);
      resample_column(t.weight.data() + o * t.most, t.count[i], bits, start,
                      x.data() + t.first[i] * line, line, y.data() + o * line);
    }
  });
  return y;
}

}  // namespace detail

/// An image (H,W,C), C at most 4, to (height,width,C). T: std::uint8_t, or float as PyTorch
/// resizes it. An axis that keeps its size is not touched.
template <class T>
Tensor<T> resample(const Tensor<T>& image, const ResampleOptions& o) {
  static_assert(std::is_same_v<T, std::uint8_t> || std::is_same_v<T, float>);
  constexpr bool bytes = std::is_same_v<T, std::uint8_t>;
  constexpr Index most = Index{1} << 20;
  const Shape& s = image.shape();
  if (s.rank != 3 || s[0] < 1 || s[1] < 1 || s[2] < 1 || s[2] > 4 || s[0] > most || s[1] > most ||
      o.height < 1 || o.width < 1 || o.height > most || o.width > most)
    fail(ErrorKind::shape, "resample: needs (H,W,C), C at most 4, and 1 to 2^20 pixels a side; " +
                               str(s) + " to " + std::to_string(o.height) + " x " +
                               std::to_string(o.width));
  if (!bytes && o.rule != ResampleRule::torch)
    fail(ErrorKind::value, "resample: Pillow resizes bytes; " + str(s) + " holds floats");
  Tensor<T> x = image.contiguous();
  const auto axis = [&](Index in, Index out, bool rows) {
    if constexpr (bytes) {
      int bits = 0;
      const auto t =
          detail::whole_weights(detail::resample_axis<double>(in, out, o.filter), o.rule, bits);
      const std::int32_t half = 1 << (bits - 1);
      x = rows ? detail::resample_rows(x, t, bits, half)
               : detail::resample_columns(x, t, bits, half);
    } else {
      const auto t = detail::resample_axis<float>(in, out, o.filter);
      x = rows ? detail::resample_rows(x, t, 0, 0.0f) : detail::resample_columns(x, t, 0, 0.0f);
    }
  };
  const bool columns_first =
      o.rule == ResampleRule::pillow && s[0] > o.height && s[0] - o.height > 2 * (s[1] - o.width);
  if (columns_first) axis(s[0], o.height, false);
  if (s[1] != o.width) axis(s[1], o.width, true);
  if (!columns_first && s[0] != o.height) axis(s[0], o.height, false);
  return x;
}

}  // namespace moraine
MORAINE_OPTIMISED_END
