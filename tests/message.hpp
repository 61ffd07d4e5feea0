#pragma once
// What several layers' tests ask of an error: its text, and whether a part is in it.
#include <moraine/core/error.hpp>
#include <string>

/// The message of the Error that f() throws; empty when it throws none.
inline std::string message_of(const auto& f) {
  try {
    f();
  } catch (const moraine::Error& e) {
    return e.what();
  }
  return "";
}

inline bool has(const std::string& s, const char* part) {
  return s.find(part) != std::string::npos;
}
