#pragma once
// Training views: the eight transforms of a square, random crops, small changes of gain and offset,
// normalisation, and the assembly of batches. Every choice is a function of (seed, step, index), so
// that a resumed run sees the same views and no thread can change them.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <moraine/core/error.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/core/random.hpp>
#include <moraine/core/tensor.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace moraine::data {

/// One of the eight symmetries of a square: `turns` quarter turns counter-clockwise, after a mirror
/// of left and right if `flip`. Numbered 0..7 as turns + 4 * flip; 0 is the identity.
struct Dihedral {
  int turns = 0;
  bool flip = false;

  /// Throws ErrorKind::value outside 0..7.
  static Dihedral of(int number) {
    if (number < 0 || number > 7)
      fail(ErrorKind::value, "dihedral: numbers are 0..7; " + std::to_string(number));
    return {number & 3, number >= 4};
  }
  int number() const { return turns + (flip ? 4 : 0); }
  /// First *this, then `next`.
  Dihedral then(const Dihedral& next) const {
    // A mirror turns a rotation round: flip * turn(t) = turn(-t) * flip.
    const int t = next.flip ? next.turns - turns : next.turns + turns;
    return {((t % 4) + 4) % 4, flip != next.flip};
  }
  Dihedral inverse() const { return flip ? *this : Dihedral{(4 - turns) % 4, false}; }
  /// Whether rows and columns change places.
  bool swaps() const { return turns & 1; }
  /// The source pixel of output pixel (y, x), for an h x w source.
  void source(Index y, Index x, Index h, Index w, Index& sy, Index& sx) const {
    switch (turns) {
      case 0:
        sy = y, sx = x;
        break;
      case 1:
        sy = x, sx = w - 1 - y;
        break;
      case 2:
        sy = h - 1 - y, sx = w - 1 - x;
        break;
      default:
        sy = h - 1 - x, sx = y;
        break;
    }
    if (flip) sx = w - 1 - sx;
  }
};

/// The transformed copy of the last two axes of `x` (...,H,W) -> (...,H,W) or (...,W,H).
template <class T>
Tensor<T> transformed(const Tensor<T>& x, Dihedral d) {
  if (x.rank() < 2)
    fail(ErrorKind::shape, "transformed: needs rows and columns; shape " + str(x.shape()));
  const Tensor<T> in = x.contiguous();
  const Index h = x.size(-2), w = x.size(-1), planes = x.numel() / std::max<Index>(h * w, 1);
  Shape shape = x.shape();
  if (d.swaps()) std::swap(shape[-2], shape[-1]);
  Tensor<T> out = Tensor<T>::empty(shape);
  const Index oh = shape[-2], ow = shape[-1];
  for (Index y = 0; y < oh; ++y)
    for (Index c = 0; c < ow; ++c) {
      Index sy = 0, sx = 0;
      d.source(y, c, h, w, sy, sx);
      for (Index p = 0; p < planes; ++p)
        out.data()[(p * oh + y) * ow + c] = in.data()[(p * h + sy) * w + sx];
    }
  return out;
}

/// What is measured is turned into (x - mean) / std, one number per band: the same constants for
/// every sensor and season. Statistics per scene would hide most of a domain shift before a model
/// saw it (docs/05-scenes.md).
struct Normalisation {
  std::vector<float> mean, std;
};

/// The constants of the demo for blue, green, red, near infrared; the first three serve depth.
inline Normalisation demo_normalisation(Index bands = 4) {
  if (bands < 1 || bands > 4)
    fail(ErrorKind::value, "demo_normalisation: 1 to 4 bands; " + std::to_string(bands));
  Normalisation n{{0.10f, 0.125f, 0.14f, 0.28f}, {0.05f, 0.06f, 0.075f, 0.14f}};
  n.mean.resize(static_cast<std::size_t>(bands));
  n.std.resize(static_cast<std::size_t>(bands));
  return n;
}

/// Normalises x in place; x is (B,C,H,W) or (C,H,W).
inline void normalise(Tensor<float>& x, const Normalisation& n) {
  const Index channels = x.rank() >= 3 ? x.size(-3) : 0;
  if (!channels || static_cast<Index>(n.mean.size()) != channels || n.std.size() != n.mean.size())
    fail(ErrorKind::shape, "normalise: needs one mean and std per band; shape " + str(x.shape()) +
                               ", " + std::to_string(n.mean.size()) + " means, " +
                               std::to_string(n.std.size()) + " stds");
  for (float s : n.std)
    if (!(s > 0)) fail(ErrorKind::value, "normalise: every std must be positive");
  if (!x.contiguous_in_memory())
    fail(ErrorKind::shape, "normalise: works in place on contiguous tensors -> x.clone()");
  const Index plane = x.size(-1) * x.size(-2), planes = x.numel() / std::max<Index>(plane, 1);
  for (Index p = 0; p < planes; ++p) {
    const std::size_t c = static_cast<std::size_t>(p % channels);
    const float mean = n.mean[c], scale = 1 / n.std[c];
    float* v = x.data() + p * plane;
    for (Index i = 0; i < plane; ++i) v[i] = (v[i] - mean) * scale;
  }
}

/// How views differ from what was measured.
struct AugmentOptions {
  Index size = 64;              ///< of the crop, pixels
  bool turn = true;             ///< any of the eight transforms
  float gain_sigma = 0.05f;     ///< a band's gain is exp(N(0, gain_sigma))
  float offset_sigma = 0.005f;  ///< a band's offset is N(0, offset_sigma), in units of reflectance
};

/// One view: where it is cut, how it is turned, what happens to each band.
struct View {
  Index y = 0, x = 0, size = 0;
  Dihedral turn;
  std::vector<float> gain, offset;  ///< empty: unchanged
};

/// The random view number (seed, step, index) of an H x W image with that many bands.
/// Throws ErrorKind::shape when the image is smaller than the crop.
inline View random_view(std::uint64_t seed, std::uint64_t step, std::uint64_t index, Index height,
                        Index width, Index bands, const AugmentOptions& o = {}) {
  if (o.size < 1 || height < o.size || width < o.size)
    fail(ErrorKind::shape, "random_view: the crop does not fit; image " + std::to_string(height) +
                               " x " + std::to_string(width) + ", crop " + std::to_string(o.size) +
                               " -> a smaller crop, or pad the image");
  // 2^20 numbers for each view of a step: more than any image has bands.
  const Random r(seed, "data.view", step);
  std::uint64_t i = index << 20;
  View v;
  v.size = o.size;
  v.y = r.below(i++, static_cast<std::uint32_t>(height - o.size + 1));
  v.x = r.below(i++, static_cast<std::uint32_t>(width - o.size + 1));
  const int turn = static_cast<int>(r.below(i++, 8));
  if (o.turn) v.turn = Dihedral::of(turn);
  if (o.gain_sigma > 0 || o.offset_sigma > 0)
    for (Index b = 0; b < bands; ++b) {
      v.gain.push_back(std::exp(o.gain_sigma * static_cast<float>(r.normal(i++))));
      v.offset.push_back(o.offset_sigma * static_cast<float>(r.normal(i++)));
    }
  return v;
}

/// View `number` (0..7) of a tile, as the demo's recipe fixes it for every method: transform
/// `number`; views 1..7 also change gain and offset, keyed by (seed, tile, number).
inline View fixed_view(std::uint64_t seed, std::uint64_t tile, int number, Index size, Index bands,
                       const AugmentOptions& o = {}) {
  View v;
  v.size = size;
  v.turn = Dihedral::of(number);
  if (number > 0) {
    const Random r(seed, "data.fixed_view", tile);
    for (Index b = 0; b < bands; ++b) {
      const std::uint64_t i =
          static_cast<std::uint64_t>(number) << 20 | static_cast<std::uint64_t>(2 * b);
      v.gain.push_back(std::exp(o.gain_sigma * static_cast<float>(r.normal(i))));
      v.offset.push_back(o.offset_sigma * static_cast<float>(r.normal(i + 1)));
    }
  }
  return v;
}

/// A labelled image. `labels` or `height` may be undefined.
struct Sample {
  Tensor<float> image;          ///< (C,H,W)
  Tensor<std::uint8_t> labels;  ///< (H,W)
  Tensor<float> height;         ///< (H,W), metres
};

/// What a step trains on.
struct Batch {
  Tensor<float> images;         ///< (B,C,s,s)
  Tensor<std::int64_t> labels;  ///< (B,s,s), undefined when the samples have none
  Tensor<float> height;         ///< (B,s,s), undefined when the samples have none
};

namespace detail {

/// out (s,s) = the turned crop of a plane, times gain, plus offset.
template <class In, class Out>
void cut(const In* plane, Index h, Index w, const View& v, float gain, float offset, Out* out) {
  if (v.y < 0 || v.x < 0 || v.y + v.size > h || v.x + v.size > w)
    fail(ErrorKind::shape, "make_batch: a view leaves its image; image " + std::to_string(h) +
                               " x " + std::to_string(w) + ", view at " + std::to_string(v.y) +
                               ", " + std::to_string(v.x) + " of size " + std::to_string(v.size));
  for (Index y = 0; y < v.size; ++y)
    for (Index x = 0; x < v.size; ++x) {
      Index sy = 0, sx = 0;
      v.turn.source(y, x, v.size, v.size, sy, sx);
      const In value = plane[(v.y + sy) * w + v.x + sx];
      if constexpr (std::is_same_v<Out, float>)
        out[y * v.size + x] = static_cast<float>(value) * gain + offset;
      else
        out[y * v.size + x] = static_cast<Out>(value);
    }
}

}  // namespace detail

/// Cuts one view from each sample; both lists have B entries and all views one size. All samples
/// have the same bands, and either all or none have labels (height). Not normalised. The same bits
/// for any number of threads.
inline Batch make_batch(const std::vector<const Sample*>& samples, const std::vector<View>& views) {
  const Index batch = static_cast<Index>(samples.size());
  if (samples.empty() || samples.size() != views.size())
    fail(ErrorKind::shape, "make_batch: needs one view per sample; " +
                               std::to_string(samples.size()) + " samples, " +
                               std::to_string(views.size()) + " views");
  const Index channels = samples[0]->image.rank() == 3 ? samples[0]->image.size(0) : 0;
  const Index size = views[0].size;
  const bool labelled = samples[0]->labels.defined(), high = samples[0]->height.defined();
  for (std::size_t b = 0; b < samples.size(); ++b) {
    const Sample& s = *samples[b];
    const View& v = views[b];
    if (s.image.rank() != 3 || s.image.size(0) != channels || !s.image.contiguous_in_memory())
      fail(ErrorKind::shape, "make_batch: images must be contiguous (C,H,W) with the same C; " +
                                 str(s.image.shape()) + ", first " +
                                 str(samples[0]->image.shape()));
    const Shape plane{s.image.size(1), s.image.size(2)};
    const auto fits = [&](const auto& t, bool wanted) {
      return t.defined() == wanted && (!wanted || (t.shape() == plane && t.contiguous_in_memory()));
    };
    if (!fits(s.labels, labelled) || !fits(s.height, high))
      fail(ErrorKind::shape,
           "make_batch: labels and height must be contiguous (H,W) like their "
           "image, in all samples or in none; image " +
               str(s.image.shape()));
    if (v.size != size || (!v.gain.empty() && static_cast<Index>(v.gain.size()) != channels) ||
        v.gain.size() != v.offset.size())
      fail(ErrorKind::shape,
           "make_batch: views must have one size, and no gains and offsets or "
           "one per band; size " +
               std::to_string(v.size) + ", " + std::to_string(v.gain.size()) + " gains, " +
               std::to_string(v.offset.size()) + " offsets");
  }
  Batch out;
  out.images = Tensor<float>::empty({batch, channels, size, size});             // (B,C,s,s)
  if (labelled) out.labels = Tensor<std::int64_t>::empty({batch, size, size});  // (B,s,s)
  if (high) out.height = Tensor<float>::empty({batch, size, size});             // (B,s,s)
  parallel_for(batch, 1, [&](Index begin, Index end) {
    for (Index b = begin; b < end; ++b) {
      const Sample& s = *samples[static_cast<std::size_t>(b)];
      const View& v = views[static_cast<std::size_t>(b)];
      const Index h = s.image.size(1), w = s.image.size(2), area = size * size;
      for (Index c = 0; c < channels; ++c) {
        const std::size_t k = static_cast<std::size_t>(c);
        detail::cut(s.image.data() + c * h * w, h, w, v, v.gain.empty() ? 1 : v.gain[k],
                    v.offset.empty() ? 0 : v.offset[k],
                    out.images.data() + (b * channels + c) * area);
      }
      if (labelled) detail::cut(s.labels.data(), h, w, v, 1, 0, out.labels.data() + b * area);
      if (high) detail::cut(s.height.data(), h, w, v, 1, 0, out.height.data() + b * area);
    }
  });
  return out;
}

}  // namespace moraine::data
