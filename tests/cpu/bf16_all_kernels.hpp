#pragma once
// Every kernel of bfloat16 pairs that this machine can run, and one that it always can: tiles of
// the native ones' sizes without their instruction, so that what drives them is tested anywhere.
// Where MORAINE_ISA is set, only the ones that it names.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <moraine/cpu/bf16_kernels.hpp>
#include <string>
#include <vector>

namespace bf16_all_kernels {

using moraine::Index;
using moraine::cpu::GemmKernels;
using moraine::cpu::Isa;

template <int rows_, int cols>
void tile(const float* const* rows, Index step, const float* b, Index ldb, Index k,
          const float* init, Index ldi, float* out, Index ldo) {
  using L = moraine::cpu::simd::Lanes4;
  float s[rows_][cols];
  for (int i = 0; i < rows_; ++i) std::memcpy(s[i], init + i * ldi, sizeof s[i]);
  for (Index at = 0; at < k; ++at, b += ldb)
    for (int j = 0; j < cols; j += 4) {
      L::B w;
      std::memcpy(&w, b + j, sizeof w);
      const L::F even = (L::F)(w << 16), odd = (L::F)(w & 0xffff0000u);
      for (int i = 0; i < rows_; ++i) {
        std::uint32_t pair;
        std::memcpy(&pair, rows[i] + at * step, sizeof pair);
        const std::uint32_t low = pair << 16, high = pair & 0xffff0000u;
        float xe, xo;
        std::memcpy(&xe, &low, sizeof xe);
        std::memcpy(&xo, &high, sizeof xo);
        L::F sum;
        L::load(sum, s[i] + j);
        sum += odd * xo;
        sum += even * xe;
        L::store(s[i] + j, sum);
      }
    }
  for (int i = 0; i < rows_; ++i) std::memcpy(out + i * ldo, s[i], sizeof s[i]);
}

struct Named {
  std::string name;
  const GemmKernels* kernels;
};

inline std::vector<Named> all() {
  std::vector<Named> list;
  if (std::getenv("MORAINE_ISA")) {
    const Isa isa = moraine::cpu::best_isa();
    list.push_back({moraine::cpu::name_of(isa), moraine::cpu::bf16_kernels(isa)});
    return list;
  }
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512})
    if (const GemmKernels* k = moraine::cpu::bf16_kernels(isa))
      list.push_back({moraine::cpu::name_of(isa), k});
  if (const GemmKernels* k = moraine::cpu::bf16_native_kernels()) list.push_back({"native", k});
  const GemmKernels& p = *moraine::cpu::bf16_kernels(Isa::portable);
  static const GemmKernels sizes{Isa::portable, 16, 64, tile<6, 64>, tile<12, 16>,
                                 p.finish,      6,  12, p.pairs};
  list.push_back({"sizes of native", &sizes});
  return list;
}

}  // namespace bf16_all_kernels
