#pragma once
// In which precision the CPU multiplies float matrices.
#include <moraine/core/config.hpp>

namespace moraine MORAINE_API {

/// fp32: float operands. bf16: both operands of a product are rounded to bfloat16 (nearest, ties to
/// even) and their products summed in float; what is stored stays float. Half the bytes of every
/// weight, and twice the rate on processors with avx512_bf16. double is exact whatever is asked
/// for: it is the oracle of gradient checks. On CUDA low precision is a matter of the tensor's type
/// instead, and this is not looked at.
enum class Product : unsigned char { fp32, bf16 };

inline const char* name_of(Product p) { return p == Product::bf16 ? "bf16" : "fp32"; }

}  // namespace moraine
