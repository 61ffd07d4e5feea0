#pragma once
// A photograph as a model wants it: what the image processors of transformers 5 and the evaluation
// transforms of timm do, step by step and rounding by rounding. recipes/image_processor_config.hpp
// makes an ImageProcessor of a model's directory.
//
//   const ImageProcessor p = read_image_processor("dinov2-base");
//   Tensor<float> pixels = prepare_image(read_rgb("photo.jpg"), p);  // (1,3,224,224)
//
// transformers has each processor twice: over torchvision, which AutoImageProcessor gives wherever
// torchvision is installed, and over Pillow and NumPy. They differ in the rounding of resized bytes
// (data/resample.hpp), by a pixel in some crops, and in the last bit of the floats. timm resizes by
// Pillow. Facts from transformers' image_processing_backends.py, image_transforms.py and the
// families' image_processing_*.py (5.23), timm's transforms_factory.py and transforms.py (1.0).
#include <moraine/data/resample.hpp>
#include <moraine/ops/window.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <string>

namespace moraine MORAINE_API {

/// Whose rounding, order and arithmetic.
enum class ProcessorStyle : unsigned char { torchvision, pil, timm };

/// What an image is resized to.
enum class SizeRule : unsigned char {
  keep,              ///< not at all
  exact,             ///< height x width
  shortest,          ///< the shorter side to `height`
  shortest_longest,  ///< the same, but the longer side at most `width`
  longest,           ///< the longer side to `height`
  within,            ///< as large as fits into height x width
  multiple,          ///< to height x width, or near it with the aspect kept, by multiples
  cover,             ///< the smallest that holds height x width, by timm's rounding
  border             ///< the largest within height x width, by timm's rounding
};

struct ImageProcessor {
  std::string name;  ///< class of transformers, or "timm", for messages
  ProcessorStyle style = ProcessorStyle::torchvision;
  SizeRule rule = SizeRule::keep;
  Index height = 224, width = 224;  ///< of the rule
  ResampleFilter filter = ResampleFilter::bicubic;
  Index multiple_of = 1;       ///< of SizeRule::multiple
  bool keep_aspect = false;    ///< of SizeRule::multiple
  bool rescale_first = false;  ///< resizes floats in [0,1], as DINOv3's does, not bytes
  bool crop = false;           ///< at the centre; a smaller image is padded first
  Size2 crop_size = {224, 224};
  std::array<std::uint8_t, 3> fill = {0, 0, 0};  ///< of that padding
  double crop_pct = 1;                           ///< timm: the part of `height` that is cropped
  bool rescale = true;
  double rescale_factor = 1.0 / 255;
  bool normalize = true;
  std::array<double, 3> mean = {0.485, 0.456, 0.406}, std = {0.229, 0.224, 0.225};
  Size2 pad_to = {0, 0};        ///< zeros at the right and bottom after all else; 0: none
  double prompt_scale = 0.001;  ///< from a prompt depth as stored to metres
  Index pad_multiple = 0;       ///< zeros around, to a multiple; 0: none
};

namespace detail {
/// Python's round(): halves to even.
inline double round_even(double v) { return std::nearbyint(v); }
inline Index whole(double v) {
  if (!(v >= 0 && v <= 1e9)) return -1;
  return static_cast<Index>(v);
}
}  // namespace detail

/// The size after resizing, for an image of `in`. Throws ErrorKind::shape where it is empty or has
/// more than 2^27 pixels.
inline Size2 resized_size(const ImageProcessor& p, Size2 in) {
  using detail::round_even, detail::whole;
  const double h = static_cast<double>(in.h), w = static_cast<double>(in.w);
  const double a = static_cast<double>(p.height), b = static_cast<double>(p.width);
  const double low = h < w ? h : w, high = h < w ? w : h;
  Size2 out = in;
  switch (p.rule) {
    case SizeRule::keep:
      break;
    case SizeRule::exact:
      out = {p.height, p.width};
      break;
    case SizeRule::shortest: {
      const Index other = whole(a * high / low);
      out = w <= h ? Size2{other, p.height} : Size2{p.height, other};
      break;
    }
    case SizeRule::shortest_longest: {
      double size = a, raw = a;
      if (high / low * a > b) raw = b * low / high, size = round_even(raw);
      if ((h <= w && h == size) || (w <= h && w == size)) break;
      out = w < h ? Size2{whole(raw * h / w), whole(size)} : Size2{whole(size), whole(raw * w / h)};
      break;
    }
    case SizeRule::longest: {
      const double scale = a / high;
      out = {whole(h * scale + 0.5), whole(w * scale + 0.5)};
      break;
    }
    case SizeRule::within: {
      const double scale = a / h < b / w ? a / h : b / w;
      out = {whole(h * scale), whole(w * scale)};
      break;
    }
    case SizeRule::multiple: {
      double sh = a / h, sw = b / w;
      if (p.keep_aspect) {  // as little as possible
        if (std::abs(1 - sw) < std::abs(1 - sh))
          sh = sw;
        else
          sw = sh;
      }
      const double m = static_cast<double>(p.multiple_of);
      out = {whole(round_even(sh * h / m) * m), whole(round_even(sw * w / m) * m)};
      break;
    }
    case SizeRule::cover:
    case SizeRule::border: {
      const double rh = h / a, rw = w / b;
      const double ratio = p.rule == SizeRule::border ? (rh > rw ? rh : rw) : (rh < rw ? rh : rw);
      out = {whole(round_even(h / ratio)), whole(round_even(w / ratio))};
      break;
    }
  }
  if (out.h < 1 || out.w < 1 || out.h > (1 << 20) || out.w > (1 << 20) ||
      out.h * out.w > (Index{1} << 27))
    fail(ErrorKind::shape, "image: " + p.name + " would make it " + std::to_string(out.h) + " x " +
                               std::to_string(out.w) + " of " + str(in) +
                               " -> an image of another shape, or another size");
  return out;
}

namespace detail {

/// Where a centred crop of `crop` begins in `size` pixels; below 0: so much padding before.
inline Index crop_begin(ProcessorStyle style, Index size, Index crop) {
  const Index missing = crop - size;
  if (missing > 0) return style == ProcessorStyle::pil ? -((missing + 1) / 2) : -(missing / 2);
  const Index extra = -missing;
  if (style == ProcessorStyle::timm) return extra / 2 + (extra % 4 == 3 ? 1 : 0);  // half to even
  return extra / 2;
}

template <class T>
Tensor<T> centre_crop(const Tensor<T>& x, const ImageProcessor& p) {
  const Index h = x.size(0), w = x.size(1), c = x.size(2);
  const Index top = crop_begin(p.style, h, p.crop_size.h),
              left = crop_begin(p.style, w, p.crop_size.w);
  Tensor<T> y = Tensor<T>::empty({p.crop_size.h, p.crop_size.w, c});
  T* to = y.data();
  for (Index i = 0; i < p.crop_size.h; ++i)
    for (Index j = 0; j < p.crop_size.w; ++j) {
      const Index r = i + top, s = j + left;
      const bool inside = r >= 0 && r < h && s >= 0 && s < w;
      for (Index k = 0; k < c; ++k)
        *to++ = inside ? x.data()[(r * w + s) * c + k]
                       : static_cast<T>(p.fill[static_cast<std::size_t>(k)]);
    }
  return y;
}

/// What a byte becomes, in the arithmetic of the style.
inline float pixel_value(const ImageProcessor& p, int byte, std::size_t channel) {
  const float x = static_cast<float>(byte);
  const float mean = static_cast<float>(p.mean[channel]), std = static_cast<float>(p.std[channel]);
  if (p.style == ProcessorStyle::torchvision) {
    if (!p.normalize) return p.rescale ? x * static_cast<float>(p.rescale_factor) : x;
    if (!p.rescale) return (x - mean) / std;
    const float all = static_cast<float>(1.0 / p.rescale_factor);  // fused with the normalisation
    const float m = mean * all, s = std * all;
    return (x - m) / s;
  }
  float y = x;
  if (p.rescale)
    y = p.style == ProcessorStyle::timm
            ? x / 255.0f
            : static_cast<float>(static_cast<double>(byte) * p.rescale_factor);
  return p.normalize ? (y - mean) / std : y;
}

}  // namespace detail

/// A photograph (H,W,3) of bytes -> (1,3,H',W'). Throws ErrorKind::shape.
inline Tensor<float> prepare_image(const Tensor<std::uint8_t>& rgb, const ImageProcessor& p) {
  if (rgb.rank() != 3 || rgb.size(2) != 3 || rgb.numel() == 0)
    fail(ErrorKind::shape, "image: needs (H,W,3), not empty; " + str(rgb.shape()));
  const Size2 size = resized_size(p, {rgb.size(0), rgb.size(1)});
  for (Size2 s : {p.crop ? p.crop_size : Size2(1), p.pad_to})
    if (s.h < 0 || s.w < 0 || s.h > (1 << 15) || s.w > (1 << 15) || s.h * s.w > (Index{1} << 27))
      fail(ErrorKind::memory,
           "image: " + p.name + " crops or pads to " + str(s) + "; 2^27 pixels are the most");
  const ResampleOptions to{
      .height = size.h,
      .width = size.w,
      .filter = p.filter,
      .rule = p.style == ProcessorStyle::torchvision ? ResampleRule::torch : ResampleRule::pillow};
  Tensor<float> out;
  Index h = 0, w = 0;
  // From interleaved pixels to planes within the padding, by `value(pixel, channel)`.
  const auto place = [&](const auto& x, const auto& value) {
    h = x.size(0), w = x.size(1);
    Index top = 0, left = 0, high = h, wide = w;
    if (p.pad_to != Size2{0, 0}) {
      high = p.pad_to.h, wide = p.pad_to.w;
      if (high < h || wide < w)
        fail(ErrorKind::shape, "image: " + p.name + " pads to " + str(p.pad_to) +
                                   ", below the resized " + str(Size2{h, w}));
    } else if (p.pad_multiple > 0) {
      high = (h + p.pad_multiple - 1) / p.pad_multiple * p.pad_multiple;
      wide = (w + p.pad_multiple - 1) / p.pad_multiple * p.pad_multiple;
      top = (high - h) / 2, left = (wide - w) / 2;
    }
    out = Tensor<float>::zeros({1, 3, high, wide});
    parallel_for(3 * h, 1 + 16384 / w, [&](Index begin, Index end) {
      for (Index r = begin; r < end; ++r) {
        const Index c = r / h, i = r % h;
        const auto* from = x.data() + i * w * 3 + c;
        float* const row = out.data() + (c * high + top + i) * wide + left;
        for (Index j = 0; j < w; ++j) row[j] = value(from[3 * j], static_cast<std::size_t>(c));
      }
    });
  };
  if (p.rescale_first && p.rescale) {
    Tensor<float> x = Tensor<float>::empty(rgb.shape());
    const Tensor<std::uint8_t> bytes = rgb.contiguous();
    const float factor = static_cast<float>(p.rescale_factor);
    for (Index i = 0; i < x.numel(); ++i)
      x.data()[i] = static_cast<float>(bytes.data()[i]) * factor;
    x = resample(x, to);
    if (p.crop) x = detail::centre_crop(x, p);
    place(x, [&p](float v, std::size_t c) {
      return p.normalize ? (v - static_cast<float>(p.mean[c])) / static_cast<float>(p.std[c]) : v;
    });
    return out;
  }
  Tensor<std::uint8_t> x = resample(rgb, to);
  if (p.crop) x = detail::centre_crop(x, p);
  std::array<std::array<float, 256>, 3> table;
  for (std::size_t c = 0; c < 3; ++c)
    for (int v = 0; v < 256; ++v)
      table[c][static_cast<std::size_t>(v)] = detail::pixel_value(p, v, c);
  place(x, [&table](std::uint8_t v, std::size_t c) { return table[c][v]; });
  return out;
}

/// A depth map (h,w) as stored, for Prompt Depth Anything -> (1,1,h,w) in metres. The first row of
/// a constant one is raised by 1e-6, as the reference does, whose model would divide by zero.
inline Tensor<float> prepare_prompt_depth(const Tensor<float>& depth, const ImageProcessor& p) {
  if (depth.rank() != 2 || depth.numel() == 0)
    fail(ErrorKind::shape, "prompt depth: needs (h,w), not empty; " + str(depth.shape()));
  const Tensor<float> from = depth.contiguous();
  Tensor<float> y = Tensor<float>::empty({1, 1, depth.size(0), depth.size(1)});
  bool constant = true;
  for (Index i = 0; i < y.numel(); ++i) {
    const float v = from.data()[i];
    y.data()[i] = p.style == ProcessorStyle::pil
                      ? static_cast<float>(static_cast<double>(v) * p.prompt_scale)
                      : v * static_cast<float>(p.prompt_scale);
    constant &= y.data()[i] == y.data()[0];
  }
  for (Index j = 0; constant && j < depth.size(1); ++j) y.data()[j] += 1e-6f;
  return y;
}

/// The size asked for instead of the processor's own, as one would pass it to the Python call: one
/// number for the sides that the processor names (`size` and `crop_size` of a shorter side, the
/// longer side and the padding of SAM), or height and width exactly, without cropping more.
/// Throws ErrorKind::value where the processor cannot.
inline ImageProcessor with_size(ImageProcessor p, Size2 size) {
  if (size.h < 1 || size.w < 1 || size.h > (1 << 15) || size.w > (1 << 15))
    fail(ErrorKind::value, "size: must be 1 to 32768 pixels a side; " + str(size));
  const bool square = size.h == size.w;
  if (p.rule == SizeRule::longest) {
    if (!square)
      fail(ErrorKind::value,
           "size: " + p.name + " takes one number, its longest side; " + str(size));
    p.height = p.width = size.h;
    if (p.pad_to != Size2{0, 0}) p.pad_to = size;
    return p;
  }
  if (p.style == ProcessorStyle::timm) {
    p.height = static_cast<Index>(std::floor(static_cast<double>(size.h) / p.crop_pct));
    p.width = static_cast<Index>(std::floor(static_cast<double>(size.w) / p.crop_pct));
    if (p.rule == SizeRule::shortest && !square) p.rule = SizeRule::cover;
    p.crop_size = size;
    return p;
  }
  if (p.rule == SizeRule::shortest_longest || p.rule == SizeRule::within)
    fail(ErrorKind::value,
         "size: " + p.name + " keeps the sizes of its configuration; " + str(size));
  if (p.rule != SizeRule::multiple)
    p.rule = p.rule == SizeRule::shortest && square ? SizeRule::shortest : SizeRule::exact;
  p.height = size.h;
  p.width = size.w;
  if (p.crop) p.crop_size = size;
  return p;
}

}  // namespace moraine
