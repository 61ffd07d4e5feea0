#pragma once
// What long work tells while it runs. The library never prints: a program listens.
#include <moraine/core/config.hpp>
#include <moraine/core/shape.hpp>
#include <string>

namespace moraine MORAINE_API {

/// Override what you want to hear. A listener may throw, which ends the work cleanly (for Ctrl-C).
struct Progress {
  virtual ~Progress() = default;
  /// A line or a table that belongs to the result: the plan, the matrix of bands, the classes.
  virtual void note(const std::string& text) { (void)text; }
  /// Something that a user should look at, though the work goes on.
  virtual void warn(const std::string& line) { (void)line; }
  /// `done` of `total` pieces; `text` says how it goes ("loss 0.41") or is empty.
  virtual void at(Index done, Index total, const std::string& text) {
    (void)done, (void)total, (void)text;
  }
  /// True: end after this step, with a checkpoint.
  virtual bool stop() { return false; }
};

}  // namespace moraine
