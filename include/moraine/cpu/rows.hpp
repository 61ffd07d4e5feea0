#pragma once
// Kernels over rows and flat arrays: layer norm, softmax, activations, column sums, AdamW, norms.
// Plain pointers and sizes, contiguous data, parallel inside; ops build on them. In float they run
// on vectors (AVX2 where the processor has it), in double, the oracle, they are plain loops. The
// order of every sum depends on the sizes alone.
#include <cmath>
#include <cstdlib>
#include <moraine/core/activation.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/core/shape.hpp>
#include <moraine/cpu/pack.hpp>
#include <moraine/cpu/row_kernels.hpp>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

/// y = (x - mean) * rstd * w + b over the last axis; rstd = 1/sqrt(var + eps), var the mean square
/// deviation (two passes). w, b null: one and zero. mean, rstd (rows), if not null, are for the
/// backward.
template <class T>
struct LayerNorm {
  Index rows = 0, cols = 0;
  const T* x = nullptr;
  const T* w = nullptr;
  const T* b = nullptr;
  T eps = T(1e-5);
  T* y = nullptr;
  T* mean = nullptr;
  T* rstd = nullptr;
};

/// Gradients of LayerNorm from dy: dx (rows,cols), dw and db (cols); those that are null are not
/// computed. With xh = (x - mean) rstd and g = dy w:
///   dx = rstd (g - mean(g) - xh mean(g xh)),  dw = sum_rows dy xh,  db = sum_rows dy
template <class T>
struct LayerNormBackward {
  Index rows = 0, cols = 0;
  const T* x = nullptr;
  const T* w = nullptr;
  const T* mean = nullptr;
  const T* rstd = nullptr;
  const T* dy = nullptr;
  T* dx = nullptr;
  T* dw = nullptr;
  T* db = nullptr;
};

/// One step of AdamW with decoupled decay (Loshchilov and Hutter 2019; the order of PyTorch):
///   p -= lr decay p;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
///   p -= lr m / (1-b1^step) / (sqrt(v / (1-b2^step)) + eps)
struct AdamW {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, decay = 1e-2;
  Index step = 1;         ///< counts from 1
  double grad_scale = 1;  ///< g is multiplied by it first: clipping costs no pass of its own
};

namespace detail {

/// Rows in a piece of a sum over rows: at most 64 pieces, whatever the thread count.
inline Index sum_grain(Index rows) { return rows < 64 * 16 ? 16 : (rows + 63) / 64; }
inline Index row_grain(Index cols) { return 1 + 16384 / (cols + 1); }

/// Adds up what `add(begin, end, sum)` gives for each piece of rows, piece by piece; `sum` is
/// `width` zeros of a piece's own.
template <class T, class Add>
void sum_rows(Index rows, Index width, T* out, Add add) {
  const Index grain = sum_grain(rows), pieces = (rows + grain - 1) / grain;
  const std::size_t bytes = static_cast<std::size_t>((pieces ? pieces : 1) * width) * sizeof(T);
  struct Free {
    T* p;
    ~Free() { std::free(p); }
  } const part{static_cast<T*>(std::calloc(1, bytes ? bytes : 1))};
  if (!part.p) fail(ErrorKind::memory, "cpu: out of memory; " + std::to_string(bytes) + " bytes");
  parallel_for(rows, grain, [&](Index b, Index e) { add(b, e, part.p + b / grain * width); });
  for (Index j = 0; j < width; ++j) {
    T s = 0;
    for (Index i = 0; i < pieces; ++i) s += part.p[i * width + j];
    out[j] = s;
  }
}

}  // namespace detail

inline void layer_norm(const LayerNorm<float>& n) {
  const RowKernels& k = row_kernels();
  parallel_for(n.rows, detail::row_grain(n.cols), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      float stats[2];
      k.layer_norm(n.x + r * n.cols, n.w, n.b, n.eps, n.cols, n.y + r * n.cols, stats);
      if (n.mean) n.mean[r] = stats[0];
      if (n.rstd) n.rstd[r] = stats[1];
    }
  });
}

inline void layer_norm_backward(const LayerNormBackward<float>& n) {
  const RowKernels& k = row_kernels();
  const Index cols = n.cols;
  if (n.dx)
    parallel_for(n.rows, detail::row_grain(cols), [&](Index begin, Index end) {
      for (Index r = begin; r < end; ++r)
        k.layer_norm_dx(n.x + r * cols, n.w, n.dy + r * cols, n.mean[r], n.rstd[r], cols,
                        n.dx + r * cols);
    });
  if (n.dw || n.db) {
    const Scratch both(2 * cols + 1);
    detail::sum_rows(n.rows, 2 * cols, both.data(), [&](Index begin, Index end, float* s) {
      for (Index r = begin; r < end; ++r)
        if (n.dw)
          k.layer_norm_dw(n.x + r * cols, n.dy + r * cols, n.mean[r], n.rstd[r], cols, s, s + cols);
        else  // a bias alone: x and its moments were not kept
          k.add(n.dy + r * cols, cols, s + cols);
    });
    for (Index j = 0; j < cols; ++j) {
      if (n.dw) n.dw[j] = both.data()[j];
      if (n.db) n.db[j] = both.data()[cols + j];
    }
  }
}

/// y = softmax(x) over the last axis. A row with a NaN, with +inf or of -inf alone becomes NaN, as
/// in PyTorch. y may be x.
inline void softmax(const float* x, Index rows, Index cols, float* y) {
  const RowKernels& k = row_kernels();
  parallel_for(rows, detail::row_grain(4 * cols), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) k.softmax(false, x + r * cols, cols, y + r * cols);
  });
}
/// y = x - max - log(sum(exp(x - max))).
inline void log_softmax(const float* x, Index rows, Index cols, float* y) {
  const RowKernels& k = row_kernels();
  parallel_for(rows, detail::row_grain(4 * cols), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) k.softmax(true, x + r * cols, cols, y + r * cols);
  });
}
/// dx = y (dy - sum(y dy)).
inline void softmax_backward(const float* y, const float* dy, Index rows, Index cols, float* dx) {
  const RowKernels& k = row_kernels();
  parallel_for(rows, detail::row_grain(cols), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r)
      k.softmax_dx(false, y + r * cols, dy + r * cols, cols, dx + r * cols);
  });
}
/// dx = dy - exp(y) sum(dy), y the output of log_softmax.
inline void log_softmax_backward(const float* y, const float* dy, Index rows, Index cols,
                                 float* dx) {
  const RowKernels& k = row_kernels();
  parallel_for(rows, detail::row_grain(4 * cols), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r)
      k.softmax_dx(true, y + r * cols, dy + r * cols, cols, dx + r * cols);
  });
}

/// y = act(x), n elements; y may be x.
inline void activation(Activation act, const float* x, Index n, float* y) {
  const RowKernels& k = row_kernels();
  parallel_for(n, 8192, [&](Index b, Index e) { k.activation(act, x + b, e - b, y + b); });
}
/// dx = dy act'(x); dx may be dy.
inline void activation_backward(Activation act, const float* x, const float* dy, Index n,
                                float* dx) {
  const RowKernels& k = row_kernels();
  parallel_for(n, 8192,
               [&](Index b, Index e) { k.activation_dx(act, x + b, dy + b, e - b, dx + b); });
}

/// out = sum over rows of x (rows,cols): the gradient of a bias.
inline void column_sums(const float* x, Index rows, Index cols, float* out) {
  const RowKernels& k = row_kernels();
  detail::sum_rows(rows, cols, out, [&](Index begin, Index end, float* s) {
    for (Index r = begin; r < end; ++r) k.add(x + r * cols, cols, s);
  });
}

/// Sum of the squares of n elements. Pieces of 1024 are summed in float, these in double.
inline double sum_of_squares(const float* x, Index n) {
  const RowKernels& k = row_kernels();
  double total = 0;
  detail::sum_rows((n + 1023) / 1024, 1, &total, [&](Index begin, Index end, double* s) {
    for (Index i = begin; i < end; ++i) {
      const Index at = i * 1024, left = n - at < 1024 ? n - at : 1024;
      const float f = k.squares(x + at, left);
      if (f - f == 0.0f && f > 1e-30f) {
        *s += static_cast<double>(f);
      } else {  // too large or too small for squares in float (or really not finite)
        for (Index j = 0; j < left; ++j) *s += static_cast<double>(x[at + j]) * x[at + j];
      }
    }
  });
  return total;
}

/// p, m, v <- the next ones, n elements each.
inline void adamw(const AdamW& o, Index n, float* p, const float* g, float* m, float* v) {
  const double c1 = 1 - std::pow(o.beta1, static_cast<double>(o.step));
  const double c2 = 1 - std::pow(o.beta2, static_cast<double>(o.step));
  const float f[] = {static_cast<float>(1 - o.lr * o.decay), static_cast<float>(o.beta1),
                     static_cast<float>(1 - o.beta1),        static_cast<float>(o.beta2),
                     static_cast<float>(1 - o.beta2),        static_cast<float>(o.lr / c1),
                     static_cast<float>(1 / std::sqrt(c2)),  static_cast<float>(o.eps),
                     static_cast<float>(o.grad_scale)};
  const RowKernels& k = row_kernels();
  parallel_for(n, 8192, [&](Index b, Index e) { k.adamw(f, e - b, p + b, g + b, m + b, v + b); });
}

// The same in double: the definitions, as loops.

inline void layer_norm(const LayerNorm<double>& n) {
  const Index cols = n.cols;
  parallel_for(n.rows, detail::row_grain(cols), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      const double* const x = n.x + r * cols;
      double mean = 0, var = 0;
      for (Index j = 0; j < cols; ++j) mean += x[j];
      mean /= static_cast<double>(cols);
      for (Index j = 0; j < cols; ++j) var += (x[j] - mean) * (x[j] - mean);
      const double rstd = 1 / std::sqrt(var / static_cast<double>(cols) + n.eps);
      for (Index j = 0; j < cols; ++j)
        n.y[r * cols + j] = (x[j] - mean) * rstd * (n.w ? n.w[j] : 1) + (n.b ? n.b[j] : 0);
      if (n.mean) n.mean[r] = mean;
      if (n.rstd) n.rstd[r] = rstd;
    }
  });
}

inline void layer_norm_backward(const LayerNormBackward<double>& n) {
  const Index cols = n.cols;
  if (n.dx)
    parallel_for(n.rows, detail::row_grain(cols), [&](Index begin, Index end) {
      for (Index r = begin; r < end; ++r) {
        const double *const x = n.x + r * cols, *const dy = n.dy + r * cols;
        const double mean = n.mean[r], rstd = n.rstd[r];
        double g = 0, gx = 0;
        for (Index j = 0; j < cols; ++j) {
          const double d = dy[j] * (n.w ? n.w[j] : 1);
          g += d;
          gx += d * (x[j] - mean) * rstd;
        }
        g /= static_cast<double>(cols);
        gx /= static_cast<double>(cols);
        for (Index j = 0; j < cols; ++j)
          n.dx[r * cols + j] = rstd * (dy[j] * (n.w ? n.w[j] : 1) - g - (x[j] - mean) * rstd * gx);
      }
    });
  for (Index j = 0; j < cols && (n.dw || n.db); ++j) {
    double dw = 0, db = 0;
    for (Index r = 0; r < n.rows; ++r) {
      const double dy = n.dy[r * cols + j];
      if (n.dw) dw += dy * (n.x[r * cols + j] - n.mean[r]) * n.rstd[r];
      db += dy;
    }
    if (n.dw) n.dw[j] = dw;
    if (n.db) n.db[j] = db;
  }
}

inline void log_softmax(const double* x, Index rows, Index cols, double* y) {
  parallel_for(rows, detail::row_grain(8 * cols), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      const double* const a = x + r * cols;
      double top = -HUGE_VAL, sum = 0;
      for (Index j = 0; j < cols; ++j) top = a[j] > top ? a[j] : top;
      for (Index j = 0; j < cols; ++j) sum += std::exp(a[j] - top);
      sum = std::log(sum);
      for (Index j = 0; j < cols; ++j) y[r * cols + j] = a[j] - top - sum;
    }
  });
}
inline void softmax(const double* x, Index rows, Index cols, double* y) {
  parallel_for(rows, detail::row_grain(8 * cols), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      const double* const a = x + r * cols;
      double* const b = y + r * cols;
      double top = -HUGE_VAL, sum = 0;
      for (Index j = 0; j < cols; ++j) top = a[j] > top ? a[j] : top;
      for (Index j = 0; j < cols; ++j) sum += b[j] = std::exp(a[j] - top);
      for (Index j = 0; j < cols; ++j) b[j] /= sum;
    }
  });
}
inline void softmax_backward(const double* y, const double* dy, Index rows, Index cols,
                             double* dx) {
  parallel_for(rows, detail::row_grain(cols), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      double s = 0;
      for (Index j = r * cols; j < (r + 1) * cols; ++j) s += y[j] * dy[j];
      for (Index j = r * cols; j < (r + 1) * cols; ++j) dx[j] = y[j] * (dy[j] - s);
    }
  });
}
inline void log_softmax_backward(const double* y, const double* dy, Index rows, Index cols,
                                 double* dx) {
  parallel_for(rows, detail::row_grain(8 * cols), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      double s = 0;
      for (Index j = r * cols; j < (r + 1) * cols; ++j) s += dy[j];
      for (Index j = r * cols; j < (r + 1) * cols; ++j) dx[j] = dy[j] - std::exp(y[j]) * s;
    }
  });
}
inline void activation(Activation act, const double* x, Index n, double* y) {
  parallel_for(n, 2048, [&](Index b, Index e) {
    for (Index i = b; i < e; ++i) y[i] = activate(act, x[i]);
  });
}
inline void activation_backward(Activation act, const double* x, const double* dy, Index n,
                                double* dx) {
  parallel_for(n, 2048, [&](Index b, Index e) {
    for (Index i = b; i < e; ++i) dx[i] = dy[i] * activate_grad(act, x[i]);
  });
}
inline void column_sums(const double* x, Index rows, Index cols, double* out) {
  detail::sum_rows(rows, cols, out, [&](Index begin, Index end, double* s) {
    for (Index r = begin; r < end; ++r)
      for (Index j = 0; j < cols; ++j) s[j] += x[r * cols + j];
  });
}
inline double sum_of_squares(const double* x, Index n) {
  double total = 0;
  detail::sum_rows(n, 1, &total, [&](Index begin, Index end, double* s) {
    for (Index i = begin; i < end; ++i) *s += x[i] * x[i];
  });
  return total;
}
inline void adamw(const AdamW& o, Index n, double* p, const double* g, double* m, double* v) {
  const double c1 = 1 - std::pow(o.beta1, static_cast<double>(o.step));
  const double c2 = 1 - std::pow(o.beta2, static_cast<double>(o.step));
  for (Index i = 0; i < n; ++i) {
    const double d = g[i] * o.grad_scale;
    p[i] -= o.lr * o.decay * p[i];
    m[i] = o.beta1 * m[i] + (1 - o.beta1) * d;
    v[i] = o.beta2 * v[i] + (1 - o.beta2) * d * d;
    p[i] -= o.lr * (m[i] / c1) / (std::sqrt(v[i] / c2) + o.eps);
  }
}

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
