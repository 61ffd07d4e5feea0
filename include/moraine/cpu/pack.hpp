#pragma once
// Operands in the order in which the tile reads them: panels of w columns, each (k rows) x w,
// contiguous, zero beyond the matrix; for bfloat16 tiles, half as many rows of pairs. A frozen
// weight is packed once; any other operand when it is used.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <moraine/core/device.hpp>
#include <moraine/core/error.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/core/product.hpp>
#include <moraine/core/shape.hpp>
#include <moraine/cpu/gemm_kernels.hpp>
#include <string>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

/// Uninitialised floats on a cache line's boundary, freed with the object.
class Scratch {
 public:
  Scratch() = default;
  __attribute__((noinline)) explicit Scratch(Index floats) {
    if (floats <= 0) return;
    const std::size_t bytes = (static_cast<std::size_t>(floats) * sizeof(float) + 63) / 64 * 64;
    data_ = static_cast<float*>(std::aligned_alloc(64, bytes));
    if (!data_) {  // what is kept for tensors may be just what is missing
      cpu_device.trim();
      data_ = static_cast<float*>(std::aligned_alloc(64, bytes));
    }
    if (!data_)
      fail(ErrorKind::memory, "cpu: out of memory; " + std::to_string(bytes) +
                                  " bytes of workspace asked for -> smaller batch or tile");
  }
  Scratch(Scratch&& o) noexcept : data_(o.data_) { o.data_ = nullptr; }
  Scratch& operator=(Scratch&& o) noexcept {
    float* const mine = data_;
    data_ = o.data_;
    o.data_ = mine;
    return *this;
  }
  ~Scratch() { std::free(data_); }
  float* data() const { return data_; }

 private:
  float* data_ = nullptr;
};

/// How n columns are cut into panels: `wide` panels of wide_cols, then `narrow` ones of one vector
/// (if they are at most half of what a wide one would cost), together `padded` columns.
struct Panels {
  Index wide = 0, narrow = 0, padded = 0;
  Panels(const GemmKernels& kernels, Index n) {
    const Index w = kernels.wide_cols, l = kernels.lanes;
    wide = n / w;
    const Index left = n - wide * w, vectors = (left + l - 1) / l;
    if (2 * vectors * l <= w)
      narrow = vectors;
    else
      ++wide;
    padded = wide * w + narrow * l;
  }
};

namespace detail {

/// Steps of the tile's loop for k elements.
inline Index steps_of(const GemmKernels& kernels, Index k) {
  return kernels.pairs ? (k + 1) / 2 : k;
}

/// One panel: element (kk, j) of the source lies at src[kk * row + j * col], j < cols <= w; it goes
/// to dst[kk * w + j].
MORAINE_INLINE void pack_panel(const float* src, Index row, Index col, Index k, Index cols, Index w,
                               float* dst);
/// All panels of a (k,n) matrix, in parallel over panels.
MORAINE_INLINE void pack_panels(const GemmKernels& kernels, const float* src, Index row, Index col,
                                Index k, Index n, float* dst);

#if defined(MORAINE_BODIES)
MORAINE_INLINE void pack_panel(const float* src, Index row, Index col, Index k, Index cols, Index w,
                               float* dst) {
  using L = simd::Lanes4;
  using F = L::F;
  if (cols < w)
    for (Index i = 0; i < k; ++i)
      for (Index j = cols; j < w; ++j) dst[i * w + j] = 0;
  const Index cols4 = cols / 4 * 4;
  Index done = 0;  // columns that one of the two fast forms has packed
  if (col == 1) {
    const bool two = cols - cols4 >= 2;  // of a strip of six
    for (Index i = 0; i < k; ++i) {
      for (Index j = 0; j < cols4; j += 4) {
        F x;
        L::load(x, src + i * row + j);
        L::store(dst + i * w + j, x);
      }
      if (two) std::memcpy(dst + i * w + cols4, src + i * row + cols4, 2 * sizeof(float));
    }
    done = cols4 + (two ? 2 : 0);
  } else if (row == 1) {
    // Transposes of 4 x 4, a cache line of each source row at a time.
    const Index k4 = k / 4 * 4;
    for (Index i0 = 0; i0 < k4; i0 += 16) {
      const Index i1 = i0 + 16 < k4 ? i0 + 16 : k4;
      for (Index j = 0; j < cols4; j += 4)
        for (Index i = i0; i < i1; i += 4) {
          const float* s = src + j * col + i;
          F a, b, c, d;
          L::load(a, s);
          L::load(b, s + col);
          L::load(c, s + 2 * col);
          L::load(d, s + 3 * col);
          const F ab = __builtin_shufflevector(a, b, 0, 4, 1, 5),
                  cd = __builtin_shufflevector(c, d, 0, 4, 1, 5),
                  AB = __builtin_shufflevector(a, b, 2, 6, 3, 7),
                  CD = __builtin_shufflevector(c, d, 2, 6, 3, 7);
          float* o = dst + i * w + j;
          L::store(o, __builtin_shufflevector(ab, cd, 0, 1, 4, 5));
          L::store(o + w, __builtin_shufflevector(ab, cd, 2, 3, 6, 7));
          L::store(o + 2 * w, __builtin_shufflevector(AB, CD, 0, 1, 4, 5));
          L::store(o + 3 * w, __builtin_shufflevector(AB, CD, 2, 3, 6, 7));
        }
    }
    for (Index i = k4; i < k; ++i)
      for (Index j = 0; j < cols4; ++j) dst[i * w + j] = src[i + j * col];
    done = cols4;
  }
  if (done < cols)
    for (Index i = 0; i < k; ++i)
      for (Index j = done; j < cols; ++j) dst[i * w + j] = src[i * row + j * col];
}

MORAINE_INLINE void pack_panels(const GemmKernels& kernels, const float* src, Index row, Index col,
                                Index k, Index n, float* dst) {
  const Panels panels(kernels, n);
  const Index w = kernels.wide_cols, l = kernels.lanes, steps = steps_of(kernels, k);
  PackFunction* const pack = kernels.pairs ? kernels.pairs->pack : pack_panel;
  const Index grain = 1 + 32768 / (k * w + 1);
  parallel_for(panels.wide + panels.narrow, grain, [&](Index begin, Index end) {
    for (Index p = begin; p < end; ++p) {
      const bool is_wide = p < panels.wide;
      const Index width = is_wide ? w : l;
      const Index j = is_wide ? p * w : panels.wide * w + (p - panels.wide) * l;
      const Index cols = n - j < width ? n - j : width;
      pack(src + j * col, row, col, k, cols, width, dst + j * steps);
    }
  });
}
#endif

}  // namespace detail

/// B, packed for the kernels of this machine.
template <class T>
struct PackedWeight;
template <>
struct PackedWeight<float> {
  Index k = 0, n = 0;
  const GemmKernels* kernels = nullptr;
  Scratch data;
  Product product() const { return kernels->pairs ? Product::bf16 : Product::fp32; }
};
/// In double nothing is packed.
template <>
struct PackedWeight<double> {};

/// Packs the (k,n) matrix whose element (i,j) lies at b[i * row + j * col].
MORAINE_INLINE std::shared_ptr<const PackedWeight<float>> pack_matrix(
    const float* b, Index row, Index col, Index k, Index n,
    const GemmKernels& kernels = gemm_kernels());
/// Where a program that includes ops/bf16.hpp puts the kernels of Product::bf16: a program that
/// does not name them need not compile them.
inline const GemmKernels& (*bf16_slot)() = nullptr;
/// The kernels of this machine for a product.
inline const GemmKernels& kernels_of(Product p) {
  if (p == Product::fp32) return gemm_kernels();
  if (!bf16_slot)
    fail(ErrorKind::value,
         "bf16: this program holds no bfloat16 products -> #include <moraine/ops/bf16.hpp>, or "
         "<moraine/nn/bf16.hpp>, in one of its files");
  return bf16_slot();
}

#if defined(MORAINE_BODIES)
MORAINE_INLINE std::shared_ptr<const PackedWeight<float>> pack_matrix(const float* b, Index row,
                                                                      Index col, Index k, Index n,
                                                                      const GemmKernels& kernels) {
  auto packed = std::make_shared<PackedWeight<float>>();
  packed->k = k;
  packed->n = n;
  packed->kernels = &kernels;
  packed->data = Scratch(Panels(kernels, n).padded * detail::steps_of(kernels, k));
  detail::pack_panels(kernels, b, row, col, k, n, packed->data.data());
  return packed;
}
#endif

/// The weight (out,in) of a linear layer, packed for x W^T; in bf16 half as many bytes. Null in
/// double.
inline std::shared_ptr<const PackedWeight<float>> pack_weight(const float* w, Index out, Index in,
                                                              Product p = Product::fp32) {
  return pack_matrix(w, 1, in, in, out, kernels_of(p));
}
inline std::shared_ptr<const PackedWeight<double>> pack_weight(const double*, Index, Index,
                                                               Product = Product::fp32) {
  return nullptr;
}
/// The same weight, packed for dY W, the gradient of the layer's input.
inline std::shared_ptr<const PackedWeight<float>> pack_weight_backward(const float* w, Index out,
                                                                       Index in,
                                                                       Product p = Product::fp32) {
  return pack_matrix(w, in, 1, out, in, kernels_of(p));
}
inline std::shared_ptr<const PackedWeight<double>> pack_weight_backward(const double*, Index, Index,
                                                                        Product = Product::fp32) {
  return nullptr;
}

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
