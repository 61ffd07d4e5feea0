#pragma once
// The one exception type. A message reads `op: what is wrong; the numbers -> hint`, for example
// `matmul: inner sizes differ; a (2,3), b (2,3)`. The library never prints, exits or asserts on
// input.
#include <moraine/core/config.hpp>

#include <exception>
#include <string>
#include <utility>

namespace moraine MORAINE_API {

enum class ErrorKind {
  shape,      ///< sizes or ranks that do not fit
  value,      ///< an argument out of its range
  dtype,      ///< an element type that an operation does not take
  device,     ///< a tensor on another device, or a device that is not there
  file,       ///< a file that cannot be opened, read or written
  format,     ///< bytes that are not what their format promises
  config,     ///< a configuration field
  key,        ///< a named tensor that is missing, unexpected or mis-shaped
  memory,     ///< a limit on memory that would be passed
  non_finite  ///< NaN or infinity where the caller asked for none
};

class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string message) : kind_(kind), message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }
  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
  std::string message_;
};

/// Throws Error. `message` is the whole line, `op: what; numbers -> hint`. Cold: what leads here is
/// compiled for size.
[[noreturn, gnu::cold, gnu::noinline]] inline void fail(ErrorKind kind, std::string message) {
  throw Error(kind, std::move(message));
}

}  // namespace moraine
