#pragma once
// The yardstick of the kernel benchmarks: multiply-adds in registers, and the clock for it.
#include <ctime>
#include <moraine/core/parallel.hpp>
#include <moraine/cpu/simd.hpp>

namespace bench {

/// Seconds: of the processor with one thread, so that neighbours disturb less; else of the wall.
inline double now() {
  timespec t;
  clock_gettime(moraine::threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// Twelve independent chains: enough for two units with a latency of four to six.
template <class L>
MORAINE_FLATTEN void multiply_add(float* keep, long steps) {
  typename L::F s[12], a, b;
  L::load(a, keep);
  L::load(b, keep + 16);
  MORAINE_UNROLL for (int i = 0; i < 12; ++i) s[i] = b + static_cast<float>(i);
  for (long k = 0; k < steps; ++k) {
    MORAINE_UNROLL for (int i = 0; i < 12; ++i) s[i] = s[i] * a + b;
  }
  MORAINE_UNROLL for (int i = 1; i < 12; ++i) s[0] += s[i];
  L::store(keep + 32, s[0]);
}
__attribute__((noinline)) inline void multiply_add_portable(float* k, long steps) {
  multiply_add<moraine::cpu::simd::Lanes4>(k, steps);
}
#if defined(MORAINE_X86)
MORAINE_AVX2 inline void multiply_add_avx2(float* k, long steps) {
  multiply_add<moraine::cpu::simd::Lanes8>(k, steps);
}
MORAINE_AVX512 inline void multiply_add_avx512(float* k, long steps) {
  multiply_add<moraine::cpu::simd::Lanes16>(k, steps);
}
#endif

/// GFLOP/s of one thread with the instruction set in use; keep: 48 floats.
inline double multiply_add_rate(float* keep, long steps) {
  using moraine::cpu::Isa;
  const Isa isa = moraine::cpu::best_isa();
  const double start = now();
  int lanes = 4;
#if defined(MORAINE_X86)
  if (isa == Isa::avx2) multiply_add_avx2(keep, steps), lanes = 8;
  if (isa == Isa::avx512) multiply_add_avx512(keep, steps), lanes = 16;
#endif
  if (isa == Isa::portable) multiply_add_portable(keep, steps);
  return 2.0 * 12 * static_cast<double>(steps) * lanes / (now() - start) / 1e9;
}

}  // namespace bench
