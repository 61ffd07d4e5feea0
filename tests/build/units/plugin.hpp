#pragma once
// A kernel that program and library both see; the library fills its slot, as a CUDA backend does.
#include <moraine/core/tensor.hpp>

namespace moraine MORAINE_API {
struct Doubled {
  static constexpr const char* name = "doubled";
  int x;
  int* y;
  static void cpu(const Doubled& k) { *k.y = 2 * k.x; }
};
}  // namespace moraine
