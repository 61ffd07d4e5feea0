#pragma once
// The one door to dense products on the CPU.
//
//   C = residual + scale * act(alpha op(A) op(B) + bias)
//
// Every operand is a strided matrix, so transposes and views cost no copy of their own. In float
// our own kernels run (cpu/gemm_kernels.hpp), chosen by what the processor has, on request with
// operands rounded to bfloat16 (cpu/bf16_kernels.hpp); in double, which is the oracle of gradient
// checks, plain ordered loops. The order of every sum depends on k alone:
// results are the same bits for any thread count.
#include <cstdlib>
#include <memory>
#include <moraine/core/activation.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/core/product.hpp>
#include <moraine/core/shape.hpp>
#include <moraine/cpu/gemm_kernels.hpp>
#include <moraine/cpu/pack.hpp>
#include <moraine/cpu/row_kernels.hpp>
#include <string>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

/// Element (i,j) lies at data[i * row + j * col].
template <class T>
struct Matrix {
  T* data = nullptr;
  Index row = 0, col = 1;
};

/// Runs one activation over a piece of an array.
template <class T>
void apply_activation(Isa isa, Activation act, const T* x, Index n, T* y);

/// An activation as a product takes it. Only a program that names one compiles its code.
template <class T>
struct GemmActivation {
  GemmActivation() = default;
  GemmActivation(Activation a)
      : act(a), apply(a == Activation::none ? nullptr : &apply_activation<T>) {}
  Activation act = Activation::none;
  ActivationFunction<T>* apply = nullptr;
};

template <class T>
struct Gemm {
  Index m = 0, n = 0, k = 0;
  Matrix<const T> a{};  ///< (m,k)
  Matrix<const T> b{};  ///< (k,n); a linear layer's weight (out,in) is b with row 1, col in
  Matrix<T> c{};        ///< (m,n), col must be 1
  Index batch = 1;      ///< independent products; a stride of 0 shares an operand
  Index step_a = 0, step_b = 0, step_c = 0;
  T alpha = T(1);
  bool accumulate = false;  ///< C += instead of C =; no activation or residual then
  const T* bias = nullptr;  ///< (n)
  GemmActivation<T> act{};
  T* pre = nullptr;             ///< if set, alpha AB + bias is stored here, laid out as C
  const T* residual = nullptr;  ///< (m,n) laid out as C, may be C itself
  const T* scale = nullptr;     ///< (n), with residual: layer scale
  /// b, packed before for this product: b.data is then not read.
  const PackedWeight<T>* packed = nullptr;
  Product product = Product::fp32;  ///< bf16: A and B are rounded; not in double
  /// If set, row i of A is row a_rows[i] of a: gathered without a copy. Needs a.col = 1 and fp32.
  const Index* a_rows = nullptr;
  /// If set, row i of C is row c_rows[i] of c: scattered without a copy. No pre, no residual.
  const Index* c_rows = nullptr;
};

/// Runs g. C must not overlap A or B. Sizes of zero are allowed: with k = 0 the product is zero and
/// bias, activation and residual still apply.
template <class T>
void gemm(const Gemm<T>& g);
template <>
MORAINE_INLINE void apply_activation<float>(Isa, Activation, const float*, Index, float*);
template <>
MORAINE_INLINE void apply_activation<double>(Isa, Activation, const double*, Index, double*);
template <>
MORAINE_INLINE void gemm<float>(const Gemm<float>& g);
template <>
MORAINE_INLINE void gemm<double>(const Gemm<double>& g);

namespace detail {

/// gemm<float> by given kernels (those of g.packed win), whatever g.product says.
MORAINE_INLINE void gemm_with(const GemmKernels& kernels, const Gemm<float>& g);

#if defined(MORAINE_BODIES)

/// The part of C that one task computes: rows [m0,m1) x a run of panels of one width.
struct GemmTask {
  const GemmKernels& kernels;
  const Gemm<float>& g;
  Index k;         ///< steps of the tile: g.k floats, or half as many pairs
  const float* a;  ///< first row of A, or of its packed strips of six rows
  bool strips;     ///< A is packed: [row / 6][k][6]
  Index a_row;     ///< else from a row to the next, in steps
  Index a_col;     ///< from a step to the next
  const float* b;  ///< packed panels, column j0 at b + j0 k
  Index ldb;       ///< 0: packed; else rows of B itself, column j at b + j
  Index at_c;      ///< offset of this product in c, pre and residual
};

constexpr Index gemm_rows = 96;          ///< rows of a task: whole strips of 6 and of 12
constexpr Index gemm_cols = 128;         ///< most columns of a task
constexpr Index gemm_k = 1024;           ///< longest piece of k: six rows of it lie in L1
constexpr Index gemm_block = 256 << 10;  ///< bytes of B for a task, about half of L2

MORAINE_INLINE void gemm_task(const GemmTask& t, Index m0, Index m1, Index j0, Index panels,
                              bool narrow) {
  const Gemm<float>& g = t.g;
  const GemmKernels& ker = t.kernels;
  const Index w = narrow ? ker.lanes : ker.wide_cols;
  const Index r = narrow ? ker.narrow_rows : ker.wide_rows;
  TileFunction* const tile = narrow ? ker.narrow : ker.wide;
  // Rows of B in place are pages apart: only as many at a time as the first TLB remembers.
  const Index longest = t.ldb ? 64 : gemm_k;
  const Index blocks = t.k > 0 ? (t.k + longest - 1) / longest : 1;
  const Index kc = (t.k + blocks - 1) / blocks;
  const bool simple = g.alpha == 1.0f && !g.act.apply && !g.pre && !g.residual && !g.scale &&
                      !g.accumulate && !g.c_rows;
  const bool bias_first = g.bias && g.alpha == 1.0f;

  static constexpr float zeros[64] = {};
  alignas(64) float partial[gemm_rows * gemm_cols];
  alignas(64) float strip[12 * gemm_cols];  // finished tiles side by side, if more is to be done
  alignas(64) float bias[gemm_cols];
  if (bias_first)
    for (Index j = 0; j < panels * w; ++j) bias[j] = j0 + j < g.n ? g.bias[j0 + j] : 0.0f;

  for (Index kb = 0; kb < blocks; ++kb) {
    const Index k0 = kb * kc, kn = t.k - k0 < kc ? t.k - k0 : kc;
    const bool first = kb == 0, last = kb == blocks - 1;
    for (Index s = m0; s < m1; s += r) {
      const float* rows[12];
      for (Index i = 0; i < r; ++i) {
        const Index at = s + i < g.m ? s + i : g.m - 1;
        rows[i] = t.a + k0 * t.a_col +
                  (t.strips   ? at / 6 * 6 * t.k + at % 6
                   : g.a_rows ? g.a_rows[at] * t.a_row
                              : at * t.a_row);
      }
      const Index mr = m1 - s < r ? m1 - s : r;
      for (Index p = 0; p < panels; ++p) {
        const Index j = j0 + p * w, cols = g.n - j < w ? g.n - j : w;
        float* const part = partial + ((s - m0) / r * panels + p) * r * w;
        const float* const init = !first ? part : bias_first ? bias + p * w : zeros;
        const float* const b = t.ldb ? t.b + j + k0 * t.ldb : t.b + j * t.k + k0 * w;
        const Index at = t.at_c + (g.c_rows ? 0 : s * g.c.row) + j;
        const bool direct = last && simple && mr == r && cols == w;
        float* const out = direct ? g.c.data + at : last ? strip + p * w : part;
        if (last && !direct)  // the tile does this for what it stores to itself
          for (Index i = 0; i < mr; ++i)
            for (Index x = 0; x < cols; x += 16)
              __builtin_prefetch(g.c.data + at + (g.c_rows ? g.c_rows[s + i] : i) * g.c.row + x, 1);
        tile(rows, t.a_col, b, t.ldb ? t.ldb : w, kn, init, first ? 0 : w, out,
             direct  ? g.c.row
             : !last ? w
                     : panels * w);
        if (last && !direct && (p == panels - 1 || simple)) {
          // All tiles of the strip together: rows are long then, and an activation is one call.
          const Index p0 = simple ? p : 0, j1 = j0 + p0 * w, at1 = at - j + j1;
          TileEpilogue e;
          e.alpha = g.alpha;
          e.bias = g.bias && !bias_first ? g.bias + j1 : nullptr;
          e.act = g.act.act;
          e.apply = g.act.apply;
          e.pre = g.pre ? g.pre + at1 : nullptr;
          e.residual = g.residual ? g.residual + at1 : nullptr;
          e.scale = g.scale ? g.scale + j1 : nullptr;
          e.accumulate = g.accumulate;
          e.c = g.c.data + at1;
          e.ldc = g.c.row;
          e.rows = g.c_rows ? g.c_rows + s : nullptr;
          ker.finish(e, strip + p0 * w, panels * w, mr, j + cols - j1);
        }
      }
    }
  }
}

MORAINE_INLINE void gemm_with(const GemmKernels& best, const Gemm<float>& given) {
  if (given.m <= 0 || given.n <= 0 || given.batch <= 0) return;
  Gemm<float> g = given;
  static constexpr float nothing[1] = {};
  if (g.k <= 0) {  // the tile's loop runs zero times, but pointers are formed
    g.k = g.step_a = g.step_b = 0;
    g.a = {nothing, 0, 0};
    g.b = {nothing, 0, 1};
    g.packed = nullptr;
  }
  const GemmKernels& kernels = g.packed ? *g.packed->kernels : best;
  const Panels panels(kernels, g.n);
  const Index w = kernels.wide_cols, l = kernels.lanes;
  const Index strips = (g.m + 5) / 6;
  const bool pairs = kernels.pairs != nullptr;
  const Index per = pairs ? 2 : 1, k = steps_of(kernels, g.k);
  PackFunction* const pack = pairs ? kernels.pairs->pack : pack_panel;

  // Few rows use each element of B only a few times: read it where it lies if its rows allow.
  const bool b_in_place = !g.packed && !pairs && g.b.col == 1 && panels.padded == g.n && g.m <= 24;
  const bool pack_b = !g.packed && !b_in_place;
  const bool strips_a = g.a.col != 1 && (pairs || (g.n > 2 * w && g.m > 1));
  const bool pack_a = strips_a || pairs;
  const Index size_b = panels.padded * k, size_a = (strips_a ? strips * 6 : g.m) * k;
  const Index batch_a = g.step_a == 0 ? 1 : g.batch, batch_b = g.step_b == 0 ? 1 : g.batch;

  // Packed operands of a whole group of products at a time, within 16 MiB unless one needs more.
  const Index each = (pack_b && batch_b > 1 ? size_b : 0) + (pack_a && batch_a > 1 ? size_a : 0);
  Index group = each > 0 ? (4 << 20) / each : g.batch;
  group = group < 1 ? 1 : group > g.batch ? g.batch : group;
  const Scratch scratch_b(pack_b ? (batch_b > 1 ? group : 1) * size_b : 0);
  const Scratch scratch_a(pack_a ? (batch_a > 1 ? group : 1) * size_a : 0);

  Index run = gemm_block / (4 * w * (k < gemm_k ? (k > 0 ? k : 1) : gemm_k));
  run = run < 1 ? 1 : run * w > gemm_cols ? gemm_cols / w : run;
  const Index narrow_run = gemm_cols / l;
  const Index wide_blocks = (panels.wide + run - 1) / run;
  const Index blocks = wide_blocks + (panels.narrow + narrow_run - 1) / narrow_run;
  const Index chunks = (g.m + gemm_rows - 1) / gemm_rows;

  for (Index start = 0; start < g.batch; start += group) {
    const Index count = g.batch - start < group ? g.batch - start : group;
    if (pack_b && (start == 0 || batch_b > 1)) {
      // Several panels together, so that a source row is read on while its page is known.
      const Index products = batch_b > 1 ? count : 1, some = g.b.col == 1 ? 128 / w : 1;
      const Index all = panels.wide + panels.narrow, each_b = (all + some - 1) / some;
      parallel_for(
          products * each_b, 1 + 16384 / (g.k * w * some + 1), [&](Index begin, Index end) {
            for (Index x = begin; x < end; ++x) {
              const Index i = x / each_b, p0 = x % each_b * some;
              const Index p1 = p0 + some < all ? p0 + some : all, step = some > 1 ? 64 : g.k;
              for (Index k0 = 0; k0 < g.k; k0 += step)
                for (Index p = p0; p < p1; ++p) {
                  const Index width = p < panels.wide ? w : l;
                  const Index j = p < panels.wide ? p * w : panels.wide * w + (p - panels.wide) * l;
                  pack(g.b.data + (start + i) * g.step_b + k0 * g.b.row + j * g.b.col, g.b.row,
                       g.b.col, g.k - k0 < step ? g.k - k0 : step,
                       g.n - j < width ? g.n - j : width, width,
                       scratch_b.data() + i * size_b + j * k + k0 / per * width);
                }
            }
          });
    }
    if (pack_a && (start == 0 || batch_a > 1)) {
      // Several strips together: where rows are adjacent in memory they share cache lines.
      const bool lines = pairs && strips_a && g.a.row == 1;
      const Index some = lines ? 96 : strips_a ? 48 : 8, piece = strips_a ? 512 : g.k;
      const Index products = batch_a > 1 ? count : 1, all = (g.m + some - 1) / some;
      const Index pieces = piece > 0 ? (g.k + piece - 1) / piece : 0;
      parallel_for(products * all * pieces, 1 + 16384 / (piece * some + 1),
                   [&](Index begin, Index end) {
                     for (Index x = begin; x < end; ++x) {
                       const Index i = x / pieces / all, r0 = x / pieces % all * some;
                       const Index r1 = r0 + some < g.m ? r0 + some : g.m, k1 = x % pieces * piece;
                       const Index k2 = k1 + piece < g.k ? k1 + piece : g.k;
                       const float* const from = g.a.data + (start + i) * g.step_a;
                       float* const to = scratch_a.data() + i * size_a;
                       for (Index r = r0; r < r1 && !strips_a; ++r)
                         kernels.pairs->round(from + r * g.a.row, g.k, to + r * k);
                       for (Index k0 = k1; k0 < k2 && strips_a; k0 += 64) {
                         const Index kn = k2 - k0 < 64 ? k2 - k0 : 64;
                         const float* const at = from + k0 * g.a.col;
                         if (lines)
                           kernels.pairs->strips(at + r0, g.a.col, kn, r1 - r0,
                                                 to + r0 * k + k0 / 2 * 6, 6 * k);
                         for (Index r = r0; r < r1 && !lines; r += 6)
                           pack(at + r * g.a.row, g.a.col, g.a.row, kn, g.m - r < 6 ? g.m - r : 6,
                                6, to + r * k + k0 / per * 6);
                       }
                     }
                   });
    }
    // Neighbouring tasks share their block of B, so that it is read from memory once.
    const Index rows = g.m < gemm_rows ? g.m : gemm_rows;
    const Index cost = 2 * rows * g.k * (run * w < g.n ? run * w : g.n) + 64 * rows + 1000;
    parallel_for(count * blocks * chunks, 1 + 200000 / cost, [&](Index begin, Index end) {
      for (Index x = begin; x < end; ++x) {
        const Index chunk = x % chunks, block = x / chunks % blocks, i = x / chunks / blocks;
        const bool narrow = block >= wide_blocks;
        const GemmTask task{kernels,
                            g,
                            k,
                            pack_a ? scratch_a.data() + (batch_a > 1 ? i * size_a : 0)
                                   : g.a.data + (start + i) * g.step_a,
                            strips_a,
                            pairs ? k : g.a.row,
                            strips_a ? 6 : g.a.col,
                            g.packed ? g.packed->data.data()
                            : pack_b ? scratch_b.data() + (batch_b > 1 ? i * size_b : 0)
                                     : g.b.data + (start + i) * g.step_b,
                            b_in_place ? g.b.row : 0,
                            (start + i) * g.step_c};
        const Index m0 = chunk * gemm_rows, m1 = m0 + gemm_rows < g.m ? m0 + gemm_rows : g.m;
        if (narrow) {
          const Index p = (block - wide_blocks) * narrow_run;
          gemm_task(task, m0, m1, panels.wide * w + p * l,
                    panels.narrow - p < narrow_run ? panels.narrow - p : narrow_run, true);
        } else {
          const Index p = block * run;
          gemm_task(task, m0, m1, p * w, panels.wide - p < run ? panels.wide - p : run, false);
        }
      }
    });
  }
}

#endif  // MORAINE_BODIES
}  // namespace detail

#if defined(MORAINE_BODIES)
template <>
MORAINE_INLINE void apply_activation<float>(Isa isa, Activation act, const float* x, Index n,
                                            float* y) {
  row_kernels(isa)->activation(act, x, n, y);
}
template <>
MORAINE_INLINE void apply_activation<double>(Isa, Activation act, const double* x, Index n,
                                             double* y) {
  for (Index i = 0; i < n; ++i) y[i] = activate(act, x[i]);
}

template <>
MORAINE_INLINE void gemm<float>(const Gemm<float>& g) {
  if (g.packed && g.packed->product() != g.product)
    fail(ErrorKind::value, std::string("gemm: a weight packed for ") +
                               name_of(g.packed->product()) + " in a product of " +
                               name_of(g.product) + " -> pack it again");
  detail::gemm_with(kernels_of(g.product), g);
}

template <>
MORAINE_INLINE void gemm<double>(const Gemm<double>& g) {
  if (g.m <= 0 || g.n <= 0) return;
  // One row of C at a time: c += a(i,kk) * row kk of B, in the order of kk.
  const Index cost = g.n * (g.k > 0 ? g.k : 1) + g.n;
  parallel_for(g.batch * g.m, 1 + 30000 / cost, [&](Index begin, Index end) {
    double* const sum = static_cast<double*>(std::malloc(sizeof(double) * g.n));
    if (!sum) fail(ErrorKind::memory, "gemm: out of memory");
    for (Index x = begin; x < end; ++x) {
      const Index i = x / g.m, r = x % g.m;
      const double* const a = g.a.data + i * g.step_a + (g.a_rows ? g.a_rows[r] : r) * g.a.row;
      const double* const b = g.b.data + i * g.step_b;
      for (Index j = 0; j < g.n; ++j) sum[j] = 0;
      if (g.b.col == 1) {
        for (Index kk = 0; kk < g.k; ++kk) {
          const double f = a[kk * g.a.col];
          const double* const row = b + kk * g.b.row;
          for (Index j = 0; j < g.n; ++j) sum[j] += f * row[j];
        }
      } else {
        for (Index j = 0; j < g.n; ++j)
          for (Index kk = 0; kk < g.k; ++kk)
            sum[j] += a[kk * g.a.col] * b[kk * g.b.row + j * g.b.col];
      }
      const Index at = i * g.step_c + (g.c_rows ? g.c_rows[r] : r) * g.c.row;
      for (Index j = 0; j < g.n; ++j) {
        double y = g.alpha * sum[j] + (g.bias ? g.bias[j] : 0.0);
        if (g.pre) g.pre[at + j] = y;
        if (g.act.apply) g.act.apply(Isa::portable, g.act.act, &y, 1, &y);
        if (g.scale) y *= g.scale[j];
        if (g.residual) y += g.residual[at + j];
        g.c.data[at + j] = g.accumulate ? g.c.data[at + j] + y : y;
      }
    }
    std::free(sum);
  });
}
#endif

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
