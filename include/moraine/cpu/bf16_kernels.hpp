#pragma once
// The inner loops of a product of bfloat16 operands, for cpu/gemm.hpp and attention: the same tiles
// as in cpu/gemm_kernels.hpp with a pair of neighbours in k, 32 bits, in the place of one float. So
// a panel of B is [k/2][columns][2], a row of A an ordinary row of bfloat16, and all that drives
// float tiles drives these with half as many steps. An odd k ends in a pair with a zero.
//
// native: vdpbf16ps, two products a lane; reads denormals as zero and flushes such sums.
// generic: each half widened by a shift or a mask and multiplied in float, for processors without
// that instruction: no faster than float, but half the memory, and the same meaning.
#include <cstdint>
#include <moraine/core/dtype.hpp>
#include <moraine/cpu/gemm_kernels.hpp>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {
namespace cpu {

/// The generic kernels of one instruction set; null if this machine lacks it.
const GemmKernels* bf16_kernels(Isa isa);
/// Those with the bfloat16 instruction; null if this machine lacks it.
const GemmKernels* bf16_native_kernels();
/// The best kernels for this machine.
const GemmKernels& bf16_kernels();

#if defined(MORAINE_BODIES)

// g++ would widen a broadcast pair before it broadcasts it, in the integer unit: half the speed.
#if defined(MORAINE_X86) && !defined(__clang__)
#define MORAINE_KEEP_VECTOR(x) __asm__("" : "+v"(x))
#else
#define MORAINE_KEEP_VECTOR(x)
#endif
#if defined(MORAINE_X86)
#define MORAINE_AVX512_BF16 "avx2,fma,avx512f,avx512dq,avx512bw,avx512vl,avx512bf16"
#endif

namespace simd {

/// 32 bits, or a vector of them, wherever they lie.
struct Word {
  int v;
} __attribute__((packed, may_alias));
template <class V>
struct Loose {
  V v;
} __attribute__((packed, may_alias));
template <class V>
MORAINE_FLATTEN void load_bits(V& x, const void* p) {
  x = static_cast<const Loose<V>*>(p)->v;
}
template <class V>
MORAINE_FLATTEN void store_bits(void* p, const V& x) {
  static_cast<Loose<V>*>(p)->v = x;
}

constexpr int upper_half = static_cast<int>(0xffff0000u);

/// As simd::tile, over k pairs.
template <class L, int R, int V>
MORAINE_FLATTEN void tile_of_pairs(const float* const* rows, Index step, const float* b, Index ldb,
                                   Index k, const float* init, Index ldi, float* out, Index ldo) {
  using F = typename L::F;
  using I = typename L::I;
  constexpr int W = L::width;
  const float* a[R];
  F s[R][V];
  MORAINE_UNROLL for (int i = 0; i < R; ++i) {
    a[i] = rows[i];
    MORAINE_UNROLL for (int j = 0; j < V; ++j) L::load(s[i][j], init + i * ldi + j * W);
    MORAINE_UNROLL for (int j = 0; j < V * W; j += 16) __builtin_prefetch(out + i * ldo + j, 1);
  }
  Index at = 0;
  for (Index kk = 0; kk < k; ++kk) {
    F even[V], odd[V];
    MORAINE_UNROLL for (int j = 0; j < V; ++j) {
      I w;
      load_bits(w, b + j * W);
      even[j] = (F)(w << 16);
      odd[j] = (F)(w & upper_half);
    }
    MORAINE_UNROLL for (int i = 0; i < R; ++i) {
      I x = reinterpret_cast<const Word*>(a[i] + at)->v - I{};
      MORAINE_KEEP_VECTOR(x);
      const F xe = (F)(x << 16), xo = (F)(x & upper_half);
      MORAINE_UNROLL for (int j = 0; j < V; ++j) s[i][j] += xo * odd[j];
      MORAINE_UNROLL for (int j = 0; j < V; ++j) s[i][j] += xe * even[j];
    }
    at += step;
    b += ldb;
    MORAINE_ONE_INDEX(at);
  }
  MORAINE_UNROLL for (int i = 0; i < R; ++i) {
    MORAINE_UNROLL for (int j = 0; j < V; ++j) L::store(out + i * ldo + j * W, s[i][j]);
  }
}

#if defined(MORAINE_X86)
// What a vector of pairs is to the builtin differs by compiler and version.
#if defined(__clang__) ? __clang_major__ >= 16 : __GNUC__ >= 13
typedef __bf16 NativePairs __attribute__((vector_size(64)));
#elif defined(__clang__)
typedef int NativePairs __attribute__((vector_size(64)));
#else
typedef short NativePairs __attribute__((vector_size(64)));
#endif
#if defined(__clang__)
#define MORAINE_DOT_PAIRS(s, x, y) __builtin_ia32_dpbf16ps_512(s, x, y)
#else
#define MORAINE_DOT_PAIRS(s, x, y) __builtin_ia32_dpbf16ps_v16sf(s, x, y)
#endif

template <int R, int V>
inline __attribute__((always_inline, target(MORAINE_AVX512_BF16))) void tile_native(
    const float* const* rows, Index step, const float* b, Index ldb, Index k, const float* init,
    Index ldi, float* out, Index ldo) {
  using L = Lanes16;
  const float* a[R];
  L::F s[R][V];
  MORAINE_UNROLL for (int i = 0; i < R; ++i) {
    a[i] = rows[i];
    MORAINE_UNROLL for (int j = 0; j < V; ++j) L::load(s[i][j], init + i * ldi + j * 16);
    MORAINE_UNROLL for (int j = 0; j < V; ++j) __builtin_prefetch(out + i * ldo + j * 16, 1);
  }
  Index at = 0;
  for (Index kk = 0; kk < k; ++kk) {
    L::I w[V];
    MORAINE_UNROLL for (int j = 0; j < V; ++j) load_bits(w[j], b + j * 16);
    MORAINE_UNROLL for (int i = 0; i < R; ++i) {
      const L::I x = reinterpret_cast<const Word*>(a[i] + at)->v - L::I{};
      MORAINE_UNROLL for (int j = 0; j < V; ++j) {
        s[i][j] = MORAINE_DOT_PAIRS(s[i][j], (NativePairs)x, (NativePairs)w[j]);
      }
    }
    at += step;
    b += ldb;
    MORAINE_ONE_INDEX(at);
  }
  MORAINE_UNROLL for (int i = 0; i < R; ++i) {
    MORAINE_UNROLL for (int j = 0; j < V; ++j) L::store(out + i * ldo + j * 16, s[i][j]);
  }
}
#undef MORAINE_DOT_PAIRS
#endif

/// The bits of x with the upper half rounded; the lower half is left over.
template <class L>
MORAINE_FLATTEN void rounded_bits(typename L::B& u, const typename L::F& x) {
  using B = typename L::B;
  u = (B)x;
  const B nan = (B)(x != x);
  u = ((u + 0x7fffu + ((u >> 16) & 1u)) & ~nan) | ((u | 0x400000u) & nan);
}
template <class L>
MORAINE_FLATTEN void rounded_bits(typename L::B& u, const float* p) {
  typename L::F x;
  L::load(x, p);
  rounded_bits<L>(u, x);
}

/// x as bfloat16, 2 width bytes.
template <class L>
MORAINE_FLATTEN void store_rounded(char* to, const typename L::F& x) {
  struct Halves {
    typedef unsigned short V __attribute__((vector_size(2 * L::width)));
    V v;
  } __attribute__((packed, may_alias));
  typename L::B u;
  rounded_bits<L>(u, x);
  reinterpret_cast<Halves*>(to)->v = __builtin_convertvector(u >> 16, typename Halves::V);
}

template <class L>
MORAINE_FLATTEN void round_row(const float* x, Index n, float* pairs) {
  char* const to = reinterpret_cast<char*>(pairs);
  Index j = 0;
  for (; j + L::width <= n; j += L::width) {
    typename L::F v;
    L::load(v, x + j);
    store_rounded<L>(to + 2 * j, v);
  }
  for (; j < n; ++j) store_bits(to + 2 * j, bfloat16(x[j]).bits);
  if (n % 2) store_bits(to + 2 * n, std::uint16_t(0));
}

/// dst[0..width) = pairs of x and y, y absent at the end of an odd k.
template <class L>
MORAINE_FLATTEN void pair_up(const float* x, const float* y, float* dst) {
  typename L::B u, v = {};
  rounded_bits<L>(u, x);
  if (y) rounded_bits<L>(v, y);
  store_bits(dst, (u >> 16) | (v & 0xffff0000u));
}

inline std::uint32_t pair_of(float x, float y) {
  return bfloat16(x).bits | static_cast<std::uint32_t>(bfloat16(y).bits) << 16;
}

template <class L>
MORAINE_FLATTEN void pack_pairs(const float* src, Index row, Index col, Index k, Index cols,
                                Index w, float* dst) {
  using F = Lanes4::F;
  using B = Lanes4::B;
  const Index pairs = (k + 1) / 2;
  if (cols < w)
    for (Index i = 0; i < pairs; ++i)
      for (Index j = cols; j < w; ++j) dst[i * w + j] = 0;
  if (col == 1 && cols >= 4) {
    for (Index i = 0; i < pairs; ++i) {
      const float* const x = src + 2 * i * row;
      const float* const y = 2 * i + 1 < k ? x + row : nullptr;
      float* const to = dst + i * w;
      Index j = 0;
      for (; j + L::width <= cols; j += L::width) pair_up<L>(x + j, y ? y + j : y, to + j);
      for (; j < cols; j += 4) {  // the last four may overlap those before
        const Index at = j + 4 <= cols ? j : cols - 4;
        pair_up<Lanes4>(x + at, y ? y + at : y, to + at);
      }
    }
    return;
  }
  Index done = 0;  // pairs of all columns that transposes of 4 x 4 pairs have packed
  if (row == 1 && cols >= 4) {
    for (; 2 * done + 8 <= k; done += 4)
      for (Index j0 = 0; j0 < cols; j0 += 4) {
        const Index j = j0 + 4 <= cols ? j0 : cols - 4;
        F q[4];
        MORAINE_UNROLL for (int c = 0; c < 4; ++c) {
          B u, v;
          rounded_bits<Lanes4>(u, src + (j + c) * col + 2 * done);
          rounded_bits<Lanes4>(v, src + (j + c) * col + 2 * done + 4);
          const B even = __builtin_shufflevector(u, v, 0, 2, 4, 6),
                  odd = __builtin_shufflevector(u, v, 1, 3, 5, 7);
          q[c] = (F)((even >> 16) | (odd & 0xffff0000u));
        }
        const F ab = __builtin_shufflevector(q[0], q[1], 0, 4, 1, 5),
                cd = __builtin_shufflevector(q[2], q[3], 0, 4, 1, 5),
                AB = __builtin_shufflevector(q[0], q[1], 2, 6, 3, 7),
                CD = __builtin_shufflevector(q[2], q[3], 2, 6, 3, 7);
        float* const to = dst + done * w + j;
        store_bits(to, __builtin_shufflevector(ab, cd, 0, 1, 4, 5));
        store_bits(to + w, __builtin_shufflevector(ab, cd, 2, 3, 6, 7));
        store_bits(to + 2 * w, __builtin_shufflevector(AB, CD, 0, 1, 4, 5));
        store_bits(to + 3 * w, __builtin_shufflevector(AB, CD, 2, 3, 6, 7));
      }
  }
  for (Index i = done; i < pairs; ++i)
    for (Index j = 0; j < cols; ++j) {
      const float* const x = src + 2 * i * row + j * col;
      store_bits(dst + i * w + j, pair_of(*x, 2 * i + 1 < k ? x[row] : 0.0f));
    }
}

template <class L>
MORAINE_FLATTEN void pack_strips(const float* src, Index row, Index k, Index cols, float* dst,
                                 Index next) {
  alignas(64) float line[96 + 8] = {};
  for (Index i = 0; 2 * i < k; ++i) {
    const float* const x = src + 2 * i * row;
    const float* const y = 2 * i + 1 < k ? x + row : nullptr;
    Index j = 0;
    for (; j + L::width <= cols; j += L::width) pair_up<L>(x + j, y ? y + j : y, line + j);
    for (; j < cols; ++j) store_bits(line + j, pair_of(x[j], y ? y[j] : 0.0f));
    float* to = dst + i * 6;
    for (j = 0; j < cols; j += 6, to += next) {
      Lanes4::F four;
      Lanes4::load(four, line + j);
      Lanes4::store(to, four);
      std::memcpy(to + 4, line + j + 4, 8);
    }
  }
}

// Four rows: six would need more registers than there are, for the halves of B.
constexpr int pair_rows = 4;
#define MORAINE_BF16_KERNELS(NAME, ATTRIBUTE, LANES, VECTORS)                                      \
  ATTRIBUTE MORAINE_INLINE void NAME##_wide_pairs(                                                 \
      const float* const* rows, Index step, const float* b, Index ldb, Index k, const float* init, \
      Index ldi, float* out, Index ldo) {                                                          \
    tile_of_pairs<LANES, pair_rows, VECTORS>(rows, step, b, ldb, k, init, ldi, out, ldo);          \
  }                                                                                                \
  ATTRIBUTE MORAINE_INLINE void NAME##_narrow_pairs(                                               \
      const float* const* rows, Index step, const float* b, Index ldb, Index k, const float* init, \
      Index ldi, float* out, Index ldo) {                                                          \
    tile_of_pairs<LANES, 12, 1>(rows, step, b, ldb, k, init, ldi, out, ldo);                       \
  }                                                                                                \
  ATTRIBUTE MORAINE_INLINE void NAME##_round(const float* x, Index n, float* pairs) {              \
    round_row<LANES>(x, n, pairs);                                                                 \
  }
// These wait for memory: AVX-512 machines use the AVX2 form.
#define MORAINE_BF16_PACKING(NAME, ATTRIBUTE, LANES)                                            \
  ATTRIBUTE MORAINE_INLINE void NAME##_pack(const float* src, Index row, Index col, Index k,    \
                                            Index cols, Index w, float* dst) {                  \
    pack_pairs<LANES>(src, row, col, k, cols, w, dst);                                          \
  }                                                                                             \
  ATTRIBUTE MORAINE_INLINE void NAME##_strips(const float* src, Index row, Index k, Index cols, \
                                              float* dst, Index next) {                         \
    pack_strips<LANES>(src, row, k, cols, dst, next);                                           \
  }
MORAINE_BF16_KERNELS(portable, __attribute__((noinline)), Lanes4, 2)
MORAINE_BF16_PACKING(portable, __attribute__((noinline)), Lanes4)
#if defined(MORAINE_X86)
MORAINE_BF16_KERNELS(avx2, MORAINE_AVX2, Lanes8, 2)
MORAINE_BF16_PACKING(avx2, MORAINE_AVX2, Lanes8)
MORAINE_BF16_KERNELS(avx512, MORAINE_AVX512, Lanes16, 4)
__attribute__((target(MORAINE_AVX512_BF16), noinline)) MORAINE_INLINE void native_wide_pairs(
    const float* const* rows, Index step, const float* b, Index ldb, Index k, const float* init,
    Index ldi, float* out, Index ldo) {
  tile_native<6, 4>(rows, step, b, ldb, k, init, ldi, out, ldo);
}
__attribute__((target(MORAINE_AVX512_BF16), noinline)) MORAINE_INLINE void native_narrow_pairs(
    const float* const* rows, Index step, const float* b, Index ldb, Index k, const float* init,
    Index ldi, float* out, Index ldo) {
  tile_native<12, 1>(rows, step, b, ldb, k, init, ldi, out, ldo);
}
#endif
#undef MORAINE_BF16_KERNELS
#undef MORAINE_BF16_PACKING

}  // namespace simd

MORAINE_INLINE const GemmKernels* bf16_kernels(Isa isa) {
  using namespace simd;
  const GemmKernels* const f = gemm_kernels(isa);
  if (!f) return nullptr;
#if defined(MORAINE_X86)
  static constexpr PairKernels p2{avx2_round, avx2_pack, avx2_strips},
      p5{avx512_round, avx2_pack, avx2_strips};
  static constexpr GemmKernels a2{
      Isa::avx2, 8, 16, avx2_wide_pairs, avx2_narrow_pairs, avx2_finish, pair_rows, 12, &p2};
  static constexpr GemmKernels a5{
      Isa::avx512, 16, 64, avx512_wide_pairs, avx512_narrow_pairs, avx512_finish,
      pair_rows,   12, &p5};
  if (isa == Isa::avx2) return &a2;
  if (isa == Isa::avx512) return &a5;
#endif
  static constexpr PairKernels p4{portable_round, portable_pack, portable_strips};
  static constexpr GemmKernels p{
      Isa::portable, 4,  8,  portable_wide_pairs, portable_narrow_pairs, portable_finish,
      pair_rows,     12, &p4};
  return &p;
}
MORAINE_INLINE const GemmKernels* bf16_native_kernels() {
#if defined(MORAINE_X86)
  using namespace simd;
  static constexpr PairKernels p{avx512_round, avx2_pack, avx2_strips};
  static constexpr GemmKernels native{
      Isa::avx512, 16, 64, native_wide_pairs, native_narrow_pairs, avx512_finish, 6, 12, &p};
  if (supports(Isa::avx512) && __builtin_cpu_supports("avx512bf16")) return &native;
#endif
  return nullptr;
}
MORAINE_INLINE const GemmKernels& bf16_kernels() {
  static const GemmKernels& best = best_isa() == Isa::avx512 && bf16_native_kernels()
                                       ? *bf16_native_kernels()
                                       : *bf16_kernels(best_isa());
  return best;
}
#endif  // MORAINE_BODIES

}  // namespace cpu
}  // namespace moraine
MORAINE_OPTIMISED_END
