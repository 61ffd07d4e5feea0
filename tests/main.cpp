// The main of every test program; compiled once.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <moraine/core/device.hpp>

int main(int argc, char** argv) {
  // Blocks kept for reuse hide errors from the sanitizers: their presets switch that off.
  const char* no_cache = std::getenv("MORAINE_NO_CACHE");
  if (no_cache && *no_cache == '1') moraine::cpu_device.cache_limit = 0;
  doctest::Context context(argc, argv);
  return context.run();
}
