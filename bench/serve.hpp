#pragma once
// What the whole-model benchmarks share: passes on request for bench/peers/run.py, or a median.
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <vector>

/// The most memory this process ever had, MiB.
inline double peak_mib() {
  rusage u{};
  getrusage(RUSAGE_SELF, &u);
  return static_cast<double>(u.ru_maxrss) / 1024;
}

/// Answers every line on standard input with one pass: "SECONDS PEAK_MIB". `once` returns seconds.
template <class Once>
void serve(Once once) {
  std::printf("ready moraine\n");
  std::fflush(stdout);
  for (char line[16]; std::fgets(line, sizeof line, stdin);) {
    std::printf("%.6f %.0f\n", once(), peak_mib());
    std::fflush(stdout);
  }
}

/// Seconds of `runs` passes, sorted.
template <class Once>
std::vector<double> passes(int runs, Once once) {
  std::vector<double> s;
  for (int i = 0; i < runs; ++i) s.push_back(once());
  std::sort(s.begin(), s.end());
  return s;
}
