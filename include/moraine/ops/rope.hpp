#pragma once
// Rotary position embedding (Su et al., 2021) of the queries and keys in one fused projection.
// Pairs of channels are turned by an angle that belongs to the token's place:
//
//   y = x cos + rot(x) sin        rot(x) of a pair (a, b) is (-b, a)
//   dx = dy cos - rot(dy) sin     (the rotation back)
//
// Two layouts of the pairs are in use, and mixing them up gives plausible shapes and wrong numbers:
// `half` pairs channel i with i + D/2 (DINOv3), `interleaved` 2i with 2i+1 (EVA-02).
//
// Bytes: q and k of every turned token are read and written once, 16 C a token in float; in place
// where nobody else holds the projection, otherwise v and the other tokens are copied as well.
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/autograd/record.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/cpu/row_kernels.hpp>
#endif

#include <cstring>
#include <string>
#include <type_traits>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

enum class RopeLayout : unsigned char { half, interleaved };

// ---- kernels: what every backend must compute
template <class T>
struct Rope_ {
  static constexpr const char* name = "rope";
  Index batch, tokens, heads, d;
  Index first;  // tokens in front that are not turned
  RopeLayout layout;
  bool back;       // the gradient: the other way round
  const T* table;  // (tokens-first,2,d): cos, sin
  const T* x;      // (batch,tokens,3,heads,d)
  T* y;            // the same; may be x
  static void cpu(const Rope_& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

struct RopeOptions {
  Index heads = 1;
  RopeLayout layout = RopeLayout::half;
};

/// qkv (B,N,3C), rows q, k, v, each head by head, and table (P,2,D) with D = C / heads: cosine and
/// sine of every channel, the same for both of a pair, for the last P of the N tokens -> (B,N,3C)
/// with q and k of those tokens turned. The table gets no gradient. Hand over the only handle of a
/// fresh projection (by std::move or as a temporary) and it is turned in place.
template <class T>
Tensor<T> rope(Tensor<T> qkv, const Tensor<T>& table, const RopeOptions& o) {
  const Index heads = o.heads;
  if (qkv.rank() != 3 || heads < 1 || qkv.size(2) % (3 * heads) != 0)
    fail(ErrorKind::shape, "rope: needs (B,N,3C) with C a multiple of the heads; qkv " +
                               str(qkv.shape()) + ", heads " + std::to_string(heads));
  const Index b = qkv.size(0), n = qkv.size(1), d = qkv.size(2) / (3 * heads);
  if (d % 2 != 0 || table.rank() != 3 || table.size(0) > n || table.size(1) != 2 ||
      table.size(2) != d)
    fail(ErrorKind::shape,
         "rope: needs a table (P,2,D) with P <= N and D = C / heads even; table " +
             str(table.shape()) + ", qkv " + str(qkv.shape()) + ", heads " + std::to_string(heads));
  check_device("rope", qkv.device(), table.device());
  const Tensor<T> t = table.contiguous().detach();
  const auto turn = [=](const Tensor<T>& x, const Tensor<T>& y, bool back) {
    launch(x.device(),
           Rope_<T>{b, n, heads, d, n - t.size(0), o.layout, back, t.data(), x.data(), y.data()});
  };
  const auto alone = [](const Tensor<T>& x) {
    return x.contiguous_in_memory() && x.storage().use_count() == 1 && !x.storage()->borrowed();
  };
  if (!qkv.tracked() && alone(qkv)) {
    turn(qkv, qkv, false);
    hear("rope", qkv);
    return qkv;
  }
  const Tensor<T> x = qkv.contiguous().detach(), y = empty_like(x);
  turn(x, y, false);
  return record("rope", y, {&qkv}, [turn](const Tensor<T>& dy) {
    const Tensor<T> g = dy.contiguous(), dx = empty_like(g);
    turn(g, dx, true);
    return Grads<T>{dx};
  });
}

// ---- CPU
namespace cpu {
namespace simd {
/// One head of one token: d channels.
template <class L>
MORAINE_FLATTEN void rope(bool half, bool back, const float* x, const float* cos, const float* sin,
                          Index d, float* y) {
  using F = typename L::F;
  typedef unsigned long long Pairs __attribute__((vector_size(sizeof(F))));
  const float sign = back ? -1.0f : 1.0f;
  F a, b, c, s;
  if (half) {
    const Index h = d / 2;
    each_vector<L>(h, [&](Index j, Index left) {
      load<L>(a, x + j, left);
      load<L>(b, x + h + j, left);
      load<L>(c, cos + j, left);
      load<L>(s, sin + j, left);
      s *= sign;
      store<L>(y + j, a * c - b * s, left);
      store<L>(y + h + j, b * c + a * s, left);
    });
  } else {
    F signs;  // -, +, -, +, ...
    MORAINE_UNROLL for (int i = 0; i < L::width; ++i) signs[i] = i % 2 ? sign : -sign;
    each_vector<L>(d, [&](Index j, Index left) {
      load<L>(a, x + j, left);
      load<L>(c, cos + j, left);
      load<L>(s, sin + j, left);
      Pairs p;
      std::memcpy(&p, &a, sizeof p);
      p = (p >> 32) | (p << 32);  // neighbours change places
      std::memcpy(&b, &p, sizeof b);
      store<L>(y + j, a * c + b * (s * signs), left);
    });
  }
}
#if defined(MORAINE_BODIES)
__attribute__((noinline)) MORAINE_INLINE void portable_rope(bool half, bool back, const float* x,
                                                            const float* cos, const float* sin,
                                                            Index d, float* y) {
  rope<Lanes4>(half, back, x, cos, sin, d, y);
}
#if defined(MORAINE_X86)
MORAINE_AVX2 MORAINE_INLINE void avx2_rope(bool half, bool back, const float* x, const float* cos,
                                           const float* sin, Index d, float* y) {
  rope<Lanes8>(half, back, x, cos, sin, d, y);
}
#endif
#endif
}  // namespace simd
void rope_row(bool half, bool back, const float* x, const float* cos, const float* sin, Index d,
              float* y);
#if defined(MORAINE_BODIES)
MORAINE_INLINE void rope_row(bool half, bool back, const float* x, const float* cos,
                             const float* sin, Index d, float* y) {
#if defined(MORAINE_X86)
  if (best_isa() != Isa::portable) return simd::avx2_rope(half, back, x, cos, sin, d, y);
#endif
  simd::portable_rope(half, back, x, cos, sin, d, y);
}
#endif
/// Any other type: the oracle.
template <class T>
void rope_row(bool half, bool back, const T* x, const T* cos, const T* sin, Index d, T* y) {
  const Index pairs = d / 2, apart = half ? pairs : 1, step = half ? 1 : 2;
  for (Index i = 0; i < pairs; ++i) {
    const Index j = i * step, k = j + apart;
    const T a = x[j], b = x[k], s = back ? -sin[j] : sin[j];
    y[j] = a * cos[j] - b * s;
    y[k] = b * cos[j] + a * s;
  }
}
}  // namespace cpu

template <class T>
void Rope_<T>::cpu(const Rope_& k) {
  const Index c = k.heads * k.d, all = k.batch * k.tokens;
  parallel_for(all, 1 + 16384 / (2 * c + 1), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index place = i % k.tokens - k.first;
      const T* x = k.x + i * 3 * c;
      T* y = k.y + i * 3 * c;
      const Index turned = place < 0 ? 0 : 2 * k.heads;  // heads of q and k
      const T* cos = k.table + (place < 0 ? 0 : place) * 2 * k.d;
      for (Index h = 0; h < turned; ++h)
        moraine::cpu::rope_row(k.layout == RopeLayout::half, k.back, x + h * k.d, cos, cos + k.d,
                               k.d, y + h * k.d);
      const Index done = turned * k.d;
      if (x != y)
        std::memcpy(static_cast<void*>(y + done), x + done,
                    static_cast<std::size_t>(3 * c - done) * sizeof(T));
    }
  });
}
MORAINE_INSTANTIATE(Rope_)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
