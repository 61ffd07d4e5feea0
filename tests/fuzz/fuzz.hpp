#pragma once
// What the fuzz targets share: the entry point that libFuzzer and replay.cpp call, and the one kind
// of exception that is an answer.
#include <cstddef>
#include <cstdint>
#include <moraine/core/error.hpp>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace fuzz {

/// Runs f; moraine's own errors are fine when they carry a message of one line, all else is a find.
template <class F>
void run(F&& f) {
  try {
    f();
  } catch (const moraine::Error& e) {
    const std::string message = e.what();
    if (message.empty() || message.find('\n') != std::string::npos) __builtin_trap();
  }
}

inline void require(bool holds) {
  if (!holds) __builtin_trap();
}

/// Reads every byte, so that a sanitizer sees whether all of them are there.
inline void touch(const void* p, std::size_t n) {
  const auto* b = static_cast<const volatile unsigned char*>(p);
  unsigned sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += b[i];
  (void)sum;
}

}  // namespace fuzz
