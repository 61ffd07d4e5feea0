#pragma once
// Large rasters by windows: where the windows lie, what that costs in memory before anything is
// read, and how their scores are blended into a seamless map while only one band of rows is held.
//
//   const WindowPlan plan = plan_windows({.height = 4096, .width = 4096, .bands = 4, .classes =
//   8}); ScoreBlender blender(plan); for (Index i = 0; i < plan.count(); ++i)           // row by
//   row
//     blender.add(i, scores_of(window i), [&](Index y, const Tensor<float>& rows) { write(y, rows);
//     });
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <moraine/core/error.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/core/tensor.hpp>
#include <moraine/io/raster.hpp>
#include <string>
#include <vector>

namespace moraine::data {

/// How a window's influence falls off towards its border, over the overlap.
enum class Blend { none, linear, cosine };

struct WindowOptions {
  Index height = 0, width = 0;  ///< of the scene, pixels
  Index bands = 1;              ///< that are read
  Index classes = 1;            ///< scores a pixel
  Index size = 64;              ///< of a window, pixels
  Index overlap = 16;           ///< of neighbours, pixels; below size
  Blend blend = Blend::cosine;
  Index batch = 1;                ///< windows in one call of the model
  std::uint64_t model_bytes = 0;  ///< what the model and its activations need
  std::uint64_t row_bytes = 0;    ///< what a reader and a writer hold for each row of the scene
};

namespace detail {
/// "12 MiB", rounded up.
inline std::string mib(std::uint64_t bytes) {
  return std::to_string((bytes + (1u << 20) - 1) >> 20) + " MiB";
}
}  // namespace detail

/// Windows on a grid, row by row. A scene smaller than a window has one padded window.
struct WindowPlan {
  WindowOptions options;
  std::vector<Index> top, left;  ///< first row (column) of each row (column) of windows
  std::vector<float> taper;      ///< weight of position 0..size-1 in a window, in (0,1]
  std::vector<float> row_weight, column_weight;  ///< sums of the taper over all windows: (H), (W)
  std::uint64_t bytes = 0;                       ///< peak memory; see text()

  Index rows() const { return static_cast<Index>(top.size()); }
  Index columns() const { return static_cast<Index>(left.size()); }
  Index count() const { return rows() * columns(); }
  /// The part of window i that lies in the scene.
  Window window(Index i) const {
    if (i < 0 || i >= count())
      fail(ErrorKind::value,
           "window: number " + std::to_string(i) + " of " + std::to_string(count()));
    const Index y = top[static_cast<std::size_t>(i / columns())],
                x = left[static_cast<std::size_t>(i % columns())];
    Window w;
    w.x = x;
    w.y = y;
    w.width = std::min(options.size, options.width - x);
    w.height = std::min(options.size, options.height - y);
    return w;
  }
  /// One line for a user, printed before the work starts.
  std::string text() const {
    return std::to_string(options.height) + " x " + std::to_string(options.width) + " pixels in " +
           std::to_string(rows()) + " x " + std::to_string(columns()) + " windows of " +
           std::to_string(options.size) + ", overlap " + std::to_string(options.overlap) +
           ", at most " + detail::mib(bytes);
  }
};

namespace detail {

inline std::vector<Index> window_starts(Index length, Index size, Index overlap) {
  std::vector<Index> starts{0};
  while (starts.back() + size < length)
    starts.push_back(std::min(starts.back() + size - overlap, length - size));
  return starts;
}

inline std::vector<float> summed_taper(const std::vector<Index>& starts,
                                       const std::vector<float>& taper, Index length) {
  std::vector<float> sum(static_cast<std::size_t>(length), 0.0f);
  for (const Index s : starts)
    for (Index i = 0; i < static_cast<Index>(taper.size()) && s + i < length; ++i)
      sum[static_cast<std::size_t>(s + i)] += taper[static_cast<std::size_t>(i)];
  return sum;
}

}  // namespace detail

/// Plans the windows of a scene. The last row and column are moved inwards so that no window leaves
/// a scene which is large enough. Throws ErrorKind::value for sizes that make no plan, and
/// ErrorKind::memory when the plan needs more than `memory_limit` bytes (0: no limit).
inline WindowPlan plan_windows(const WindowOptions& o, std::uint64_t memory_limit = 0) {
  if (o.height < 1 || o.width < 1 || o.bands < 1 || o.classes < 1 || o.batch < 1 || o.size < 1 ||
      o.overlap < 0 || o.overlap >= o.size)
    fail(ErrorKind::value,
         "plan_windows: sizes must be positive and the overlap below the window; scene " +
             std::to_string(o.height) + " x " + std::to_string(o.width) + ", " +
             std::to_string(o.bands) + " bands, " + std::to_string(o.classes) +
             " classes, window " + std::to_string(o.size) + ", overlap " +
             std::to_string(o.overlap) + ", batch " + std::to_string(o.batch));
  WindowPlan p;
  p.options = o;
  p.top = detail::window_starts(o.height, o.size, o.overlap);
  p.left = detail::window_starts(o.width, o.size, o.overlap);
  p.taper.assign(static_cast<std::size_t>(o.size), 1.0f);
  // Both ends fall off over the overlap (over half the window where overlaps are longer). The
  // half-pixel offset keeps every weight above zero.
  const Index ramp = o.blend == Blend::none ? 0 : std::min(o.overlap, o.size / 2);
  for (Index i = 0; i < ramp; ++i) {
    const double t = (static_cast<double>(i) + 0.5) / static_cast<double>(ramp);
    const double s = std::sin(t * 1.5707963267948966);
    const float w = static_cast<float>(o.blend == Blend::linear ? t : s * s);
    p.taper[static_cast<std::size_t>(i)] = w;
    p.taper[static_cast<std::size_t>(o.size - 1 - i)] = w;
  }
  p.row_weight = detail::summed_taper(p.top, p.taper, o.height);
  p.column_weight = detail::summed_taper(p.left, p.taper, o.width);
  const auto u = [](Index v) { return static_cast<std::uint64_t>(v); };
  const std::uint64_t lines = u(std::min(o.size, o.height)), area = u(o.size) * u(o.size);
  p.bytes = lines * u(o.width) * u(o.bands) * 4          // the rows that one row of windows reads
            + 2 * lines * u(o.width) * u(o.classes) * 4  // scores: being summed, being written
            + lines * u(o.width) * 2                     // mask and labels
            + u(o.batch) * area * (u(o.bands) + u(o.classes)) * 4 + o.model_bytes +
            lines * o.row_bytes;
  if (memory_limit && p.bytes > memory_limit)
    fail(ErrorKind::memory, "memory: needs " + detail::mib(p.bytes) + ", allowed " +
                                std::to_string(memory_limit >> 20) +
                                " MiB -> smaller windows or batches, or a larger --memory");
  return p;
}

namespace detail {

/// Mirrors an index into [0,n), again and again if need be; the border pixel is not repeated.
inline Index mirrored(Index i, Index n) {
  if (n == 1) return 0;
  const Index period = 2 * (n - 1);
  i %= period;
  if (i < 0) i += period;
  return i < n ? i : period - i;
}

}  // namespace detail

/// Copies window i out of `rows` (C,h,W), the rows of the scene from `first_row` on, to
/// out[C * size * size]. What lies outside of a scene smaller than the window is mirrored.
template <class T>
void copy_window(const WindowPlan& plan, Index i, const Tensor<T>& rows, Index first_row, T* out) {
  const Window w = plan.window(i);
  const Index size = plan.options.size;
  if (rows.rank() != 3 || rows.size(2) != plan.options.width || w.y < first_row ||
      w.y + w.height > first_row + rows.size(1) || !rows.contiguous_in_memory())
    fail(ErrorKind::shape,
         "copy_window: the rows must be contiguous (C,h,W) and hold the window; "
         "rows " +
             str(rows.shape()) + " from " + std::to_string(first_row) + ", window rows " +
             std::to_string(w.y) + ".." + std::to_string(w.y + w.height));
  const Index h = rows.size(1), width = rows.size(2);
  for (Index c = 0; c < rows.size(0); ++c)
    for (Index y = 0; y < size; ++y) {
      const T* in =
          rows.data() + (c * h + w.y - first_row + detail::mirrored(y, w.height)) * width + w.x;
      T* o = out + (c * size + y) * size;
      for (Index x = 0; x < size; ++x) o[x] = in[x < w.width ? x : detail::mirrored(x, w.width)];
    }
}

/// Replaces the pixels where valid[i] is 0 by one value per band, usually the mean, so that nodata
/// does not reach a model as a wild number. x is (C,n), valid (n). Returns how many are valid: a
/// window with none needs no model at all.
inline Index fill_nodata(float* x, Index bands, Index n, const std::uint8_t* valid,
                         const std::vector<float>& fill) {
  if (static_cast<Index>(fill.size()) != bands)
    fail(ErrorKind::shape, "fill_nodata: needs one value per band; " + std::to_string(fill.size()) +
                               " values, " + std::to_string(bands) + " bands");
  Index good = 0;
  for (Index i = 0; i < n; ++i) good += valid[i] != 0;
  if (good == n) return good;
  for (Index c = 0; c < bands; ++c)
    for (Index i = 0; i < n; ++i)
      if (!valid[i]) x[c * n + i] = fill[static_cast<std::size_t>(c)];
  return good;
}

/// Blends window scores into rows. Windows come in increasing order; a window that is nodata
/// throughout may be left out (skip it: its pixels have no score, and no other pixel misses it).
class ScoreBlender {
 public:
  explicit ScoreBlender(const WindowPlan& plan)
      : plan_(plan),
        lines_(std::min(plan.options.size, plan.options.height)),
        sum_(Tensor<float>::zeros({plan.options.classes, lines_, plan.options.width})) {}

  /// Adds the scores (K,size,size) of window i and calls emit(first_row, rows (K,n,W)) for rows
  /// that no later window touches. With the last window all rows have been emitted, in order.
  template <class F>
  void add(Index i, const Tensor<float>& scores, F&& emit) {
    const Index size = plan_.options.size, classes = plan_.options.classes;
    if (scores.shape() != Shape{classes, size, size} || !scores.contiguous_in_memory())
      fail(ErrorKind::shape, "add: scores must be contiguous (classes,size,size); " +
                                 str(scores.shape()) + ", plan " + str(Shape{classes, size, size}));
    advance_to(i, emit);
    const Window w = plan_.window(i);
    const Index width = plan_.options.width, y0 = w.y - first_;
    parallel_for(classes, 1, [&](Index begin, Index end) {
      for (Index k = begin; k < end; ++k)
        for (Index y = 0; y < w.height; ++y) {
          const float* in = scores.data() + (k * size + y) * size;
          float* out = sum_.data() + (k * lines_ + y0 + y) * width + w.x;
          const float wy = plan_.taper[static_cast<std::size_t>(y)];
          for (Index x = 0; x < w.width; ++x)
            out[x] += wy * plan_.taper[static_cast<std::size_t>(x)] * in[x];
        }
    });
    next_ = i + 1;
    if (next_ == plan_.count()) flush(plan_.options.height, emit);
  }
  /// Notes that window i is nodata throughout.
  template <class F>
  void skip(Index i, F&& emit) {
    advance_to(i, emit);
    next_ = i + 1;
    if (next_ == plan_.count()) flush(plan_.options.height, emit);
  }

 private:
  template <class F>
  void advance_to(Index i, F&& emit) {
    if (i != next_)
      fail(ErrorKind::value,
           "blend: windows must come in order, skipped ones named by skip(); got " +
               std::to_string(i) + ", expected " + std::to_string(next_));
    flush(plan_.window(i).y, emit);
  }
  /// Emits the rows before `row`, and moves the rest to the top of the buffer.
  template <class F>
  void flush(Index row, F&& emit) {
    const Index n = row - first_, width = plan_.options.width, classes = plan_.options.classes;
    if (n <= 0) return;
    Tensor<float> out = Tensor<float>::empty({classes, n, width});  // (K,n,W)
    for (Index k = 0; k < classes; ++k) {
      float* plane = sum_.data() + k * lines_ * width;
      for (Index y = 0; y < n; ++y) {
        const float wy = plan_.row_weight[static_cast<std::size_t>(first_ + y)];
        float* o = out.data() + (k * n + y) * width;
        for (Index x = 0; x < width; ++x)
          o[x] = plane[y * width + x] / (wy * plan_.column_weight[static_cast<std::size_t>(x)]);
      }
      std::copy(plane + n * width, plane + lines_ * width, plane);
      std::fill(plane + (lines_ - n) * width, plane + lines_ * width, 0.0f);
    }
    const Index at = first_;
    first_ = row;
    emit(at, static_cast<const Tensor<float>&>(out));
  }

  WindowPlan plan_;
  Index lines_, first_ = 0, next_ = 0;
  Tensor<float> sum_;  // (K,lines,W): the rows from first_ on
};

/// The best class of each pixel of scores (K,n,W) -> (n,W); ties go to the lower class. Pixels with
/// valid 0 become `nodata_label`; `valid` is (n,W) or undefined.
inline Tensor<std::uint8_t> best_class(const Tensor<float>& scores,
                                       const Tensor<std::uint8_t>& valid,
                                       std::uint8_t nodata_label = 255) {
  if (scores.rank() != 3 || scores.size(0) < 1 || scores.size(0) > 256)
    fail(ErrorKind::shape,
         "best_class: needs scores (K,n,W), 1 to 256 classes; " + str(scores.shape()));
  const Shape shape{scores.size(1), scores.size(2)};
  if (valid.defined() && valid.shape() != shape)
    fail(ErrorKind::shape,
         "best_class: mask and scores differ; " + str(valid.shape()) + ", " + str(scores.shape()));
  const Tensor<float> s = scores.contiguous();
  const Tensor<std::uint8_t> v = valid.defined() ? valid.contiguous() : valid;
  Tensor<std::uint8_t> out = Tensor<std::uint8_t>::empty(shape);
  const Index n = shape.numel();
  parallel_for(n, 1 << 14, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      Index best = 0;
      for (Index k = 1; k < s.size(0); ++k)
        if (s.data()[k * n + i] > s.data()[best * n + i]) best = k;
      out.data()[i] = v.defined() && !v.data()[i] ? nodata_label : static_cast<std::uint8_t>(best);
    }
  });
  return out;
}

}  // namespace moraine::data
