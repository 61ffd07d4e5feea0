// The header-only half; mixed_other.cpp is compiled with MORAINE_COMPILED.
#include <cmath>
#include <cstdio>

#include "mixed.hpp"

std::vector<float> other_float();
std::vector<double> other_double();

template <class T>
bool close(const std::vector<T>& a, const std::vector<T>& b, double most) {
  if (a.size() != b.size() || a.empty()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!(std::abs(a[i] - b[i]) <= most)) return false;
  return true;
}

int main() {
  const bool same = close(computed<float>(), other_float(), 1e-7) &&
                    close(computed<double>(), other_double(), 1e-15);
  std::puts(same ? "the same" : "different");
}
