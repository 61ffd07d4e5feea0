#pragma once
// Element types: what a file or a map may hold, and what a Tensor<T> may be made of.
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>

#include <cstdint>
#include <cstring>
#include <string>

namespace moraine MORAINE_API {

/// The upper half of a float: 8 bits of exponent, 7 of mantissa. Storage only on the CPU.
struct bfloat16 {
  std::uint16_t bits = 0;
  bfloat16() = default;
  /// Rounds to nearest, ties to even; NaN stays NaN.
  MORAINE_HD bfloat16(float x) {
    std::uint32_t u;
    std::memcpy(&u, &x, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u)
      bits = static_cast<std::uint16_t>((u >> 16) | 0x40u);
    else
      bits = static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  MORAINE_HD operator float() const {
    const std::uint32_t u = static_cast<std::uint32_t>(bits) << 16;
    float x;
    std::memcpy(&x, &u, 4);
    return x;
  }
};

/// IEEE half: storage only.
struct float16 {
  std::uint16_t bits = 0;
  float16() = default;
  float16(float x) {
    std::uint32_t u;
    std::memcpy(&u, &x, 4);
    const std::uint32_t sign = (u >> 16) & 0x8000u, mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u) {  // NaN
      bits = static_cast<std::uint16_t>(sign | 0x7e00u);
    } else if (mag >= 0x477ff000u) {  // rounds to 65520 or more: infinity
      bits = static_cast<std::uint16_t>(sign | 0x7c00u);
    } else if (mag < 0x38800000u) {  // subnormal: let the float adder round for us
      float m;
      std::memcpy(&m, &mag, 4);
      m += 0.5f;
      std::uint32_t r;
      std::memcpy(&r, &m, 4);
      bits = static_cast<std::uint16_t>(sign | (r - 0x3f000000u));
    } else {
      bits = static_cast<std::uint16_t>(sign | ((mag + 0xc8000fffu + ((mag >> 13) & 1u)) >> 13));
    }
  }
  operator float() const {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    std::uint32_t e = (bits >> 10) & 31u, m = bits & 0x3ffu, u;
    if (e == 31) {
      u = sign | 0x7f800000u | (m << 13);
    } else if (e == 0) {
      const float v = static_cast<float>(m) * 5.9604644775390625e-8f;  // m * 2^-24
      std::memcpy(&u, &v, 4);
      u |= sign;
    } else {
      u = sign | ((e + 112u) << 23) | (m << 13);
    }
    float x;
    std::memcpy(&x, &u, 4);
    return x;
  }
};

/// The type in which sums, norms, gates, softmax and losses of T are accumulated.
template <class T>
struct acc_of {
  using type = T;
};
template <>
struct acc_of<bfloat16> {
  using type = float;
};
template <>
struct acc_of<float16> {
  using type = float;
};
template <class T>
using acc = typename acc_of<T>::type;

enum class Dtype : std::uint8_t {
  boolean,
  u8,
  i8,
  u16,
  i16,
  f16,
  bf16,
  u32,
  i32,
  f32,
  u64,
  i64,
  f64,
  other  ///< known to safetensors, not convertible here (F8 and narrower, C64)
};

/// Bytes of one element; 0 for Dtype::other.
inline int size_of(Dtype d) {
  switch (d) {
    case Dtype::boolean:
    case Dtype::u8:
    case Dtype::i8:
      return 1;
    case Dtype::u16:
    case Dtype::i16:
    case Dtype::f16:
    case Dtype::bf16:
      return 2;
    case Dtype::u32:
    case Dtype::i32:
    case Dtype::f32:
      return 4;
    case Dtype::u64:
    case Dtype::i64:
    case Dtype::f64:
      return 8;
    case Dtype::other:
      break;
  }
  return 0;
}

/// The names that safetensors uses: "F32", "BF16", ...
inline const char* name_of(Dtype d) {
  switch (d) {
    case Dtype::boolean:
      return "BOOL";
    case Dtype::u8:
      return "U8";
    case Dtype::i8:
      return "I8";
    case Dtype::u16:
      return "U16";
    case Dtype::i16:
      return "I16";
    case Dtype::f16:
      return "F16";
    case Dtype::bf16:
      return "BF16";
    case Dtype::u32:
      return "U32";
    case Dtype::i32:
      return "I32";
    case Dtype::f32:
      return "F32";
    case Dtype::u64:
      return "U64";
    case Dtype::i64:
      return "I64";
    case Dtype::f64:
      return "F64";
    case Dtype::other:
      break;
  }
  return "OTHER";
}

template <class T>
inline constexpr Dtype dtype_of = Dtype::other;
template <>
inline constexpr Dtype dtype_of<bool> = Dtype::boolean;
template <>
inline constexpr Dtype dtype_of<std::uint8_t> = Dtype::u8;
template <>
inline constexpr Dtype dtype_of<std::int8_t> = Dtype::i8;
template <>
inline constexpr Dtype dtype_of<std::uint16_t> = Dtype::u16;
template <>
inline constexpr Dtype dtype_of<std::int16_t> = Dtype::i16;
template <>
inline constexpr Dtype dtype_of<float16> = Dtype::f16;
template <>
inline constexpr Dtype dtype_of<bfloat16> = Dtype::bf16;
template <>
inline constexpr Dtype dtype_of<std::uint32_t> = Dtype::u32;
template <>
inline constexpr Dtype dtype_of<std::int32_t> = Dtype::i32;
template <>
inline constexpr Dtype dtype_of<float> = Dtype::f32;
template <>
inline constexpr Dtype dtype_of<std::uint64_t> = Dtype::u64;
template <>
inline constexpr Dtype dtype_of<std::int64_t> = Dtype::i64;
template <>
inline constexpr Dtype dtype_of<double> = Dtype::f64;

inline bool is_float(Dtype d) {
  return d == Dtype::f16 || d == Dtype::bf16 || d == Dtype::f32 || d == Dtype::f64;
}

/// Calls f with a value of the element type that d names; throws for Dtype::other.
template <class F>
decltype(auto) visit(Dtype d, F&& f) {
  switch (d) {
    case Dtype::boolean:
    case Dtype::u8:
      return f(std::uint8_t{});
    case Dtype::i8:
      return f(std::int8_t{});
    case Dtype::u16:
      return f(std::uint16_t{});
    case Dtype::i16:
      return f(std::int16_t{});
    case Dtype::f16:
      return f(float16{});
    case Dtype::bf16:
      return f(bfloat16{});
    case Dtype::u32:
      return f(std::uint32_t{});
    case Dtype::i32:
      return f(std::int32_t{});
    case Dtype::f32:
      return f(float{});
    case Dtype::u64:
      return f(std::uint64_t{});
    case Dtype::i64:
      return f(std::int64_t{});
    case Dtype::f64:
      return f(double{});
    case Dtype::other:
      break;
  }
  fail(ErrorKind::dtype, "visit: this element type has no counterpart in C++");
}

}  // namespace moraine
