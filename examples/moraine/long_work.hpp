#pragma once
// What train, predict and eval share: progress on stderr (a bar on a terminal, elsewhere a line now
// and then), Ctrl-C that ends cleanly, lists and sizes written on a command line.
#include <sys/resource.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <moraine/core/device.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/recipes/raster_prediction.hpp>
#include <string>
#include <vector>

#include "commands.hpp"

namespace program {

/// "2G", "512m", "1000000" -> bytes.
inline std::uint64_t bytes_of(const std::string& text) {
  double v = 0;
  const char* end = text.data() + text.size();
  const auto r = std::from_chars(text.data(), end, v);
  double unit = 1;
  std::string rest(r.ptr, end);
  if (!rest.empty()) {
    const char* units = "kmgt";
    const char c = static_cast<char>(rest[0] | 32);
    for (int i = 0; units[i]; ++i)
      if (c == units[i]) unit = static_cast<double>(std::uint64_t{1} << (10 * (i + 1)));
    if (unit > 1) rest.erase(0, 1);
    if (rest == "b" || rest == "B" || rest == "iB") rest.clear();
  }
  if (r.ec != std::errc() || !rest.empty() || !(v * unit >= (1 << 20)) || v * unit > 1e15)
    moraine::fail(moraine::ErrorKind::value, "option --memory has the value " +
                                                 moraine::quoted(text) +
                                                 "; it takes sizes from 1M on, such as 512M or 2G");
  return static_cast<std::uint64_t>(v * unit);
}

/// --memory and --device. Returns the limit, 0 for none.
inline std::uint64_t apply_limits(const CommonOptions& o) {
  if (o.device != "cpu")
    moraine::fail(moraine::ErrorKind::device,
                  std::string("option --device cuda; ") +
                      (moraine::cuda_available() ? "this subcommand runs on the CPU in this version"
                                                 : moraine::cuda_device.status));
  if (o.memory.empty()) return 0;
  const std::uint64_t most = bytes_of(o.memory);
  moraine::cpu_device.limit = most;
  moraine::cpu_device.cache_limit = most / 8;
  return most;
}

/// "a,b,c" -> {a, b, c}; empty parts stay.
inline std::vector<std::string> parts_of(const std::string& list) {
  std::vector<std::string> out;
  if (list.empty()) return out;
  for (std::size_t from = 0; from <= list.size();) {
    const std::size_t comma = std::min(list.find(',', from), list.size());
    out.push_back(list.substr(from, comma - from));
    from = comma + 1;
  }
  return out;
}
inline double number_of(const std::string& text, const char* option) {
  double v = 0;
  const char* end = text.data() + text.size();
  const auto r = std::from_chars(text.data(), end, v);
  if (r.ec != std::errc() || r.ptr != end)
    moraine::fail(moraine::ErrorKind::value, std::string("option ") + option + " holds " +
                                                 moraine::quoted(text) + "; a number is needed");
  return v;
}
inline std::vector<double> numbers_of(const std::string& list, const char* option) {
  std::vector<double> out;
  for (const std::string& s : parts_of(list)) out.push_back(number_of(s, option));
  return out;
}

/// The most memory this process ever had, in MiB.
inline long peak_rss_mib() {
  rusage u{};
  getrusage(RUSAGE_SELF, &u);
  return u.ru_maxrss >> 10;
}

/// Set by Ctrl-C and by a polite kill.
inline volatile std::sig_atomic_t interrupted = 0;

class Terminal final : public moraine::Progress {
 public:
  explicit Terminal(const char* what) : what_(what), begin_(moraine::detail::seconds_now()) {
    const char* term = std::getenv("TERM");
    bar_ = isatty(2) && !(term && std::string(term) == "dumb");
    interrupted = 0;
    for (int s : {SIGINT, SIGTERM}) std::signal(s, [](int) { interrupted = 1; });
  }
  ~Terminal() override { clear(); }
  void note(const std::string& text) override {
    clear();
    std::fprintf(stderr, "%s%s", text.c_str(), text.empty() || text.back() != '\n' ? "\n" : "");
  }
  void warn(const std::string& line) override { note("warning: " + line); }
  void at(moraine::Index done, moraine::Index total, const std::string& text) override {
    const double now = moraine::detail::seconds_now();
    if (first_ < 0) first_ = done - 1, begin_ = now;
    const bool last = done == total;
    if (!last && now - shown_ < (bar_ ? 0.1 : pause_)) return;
    shown_ = now;
    if (!bar_ && pause_ < 30) pause_ *= 1.5;  // often at first, then rarely
    const double each =
        (now - begin_) / static_cast<double>(std::max<moraine::Index>(1, done - first_ - 1));
    const std::string left =
        last || now == begin_
            ? ""
            : ", " + moraine::detail::duration_text(each * static_cast<double>(total - done)) +
                  " left";
    const std::string words = std::to_string(done) + " of " + std::to_string(total) +
                              (text.empty() ? "" : ", " + text) + left;
    if (!bar_) {
      std::fprintf(stderr, "%s: %s\n", what_, words.c_str());
      return;
    }
    const int filled = static_cast<int>(24 * done / std::max<moraine::Index>(1, total));
    std::fprintf(stderr, "\r\033[K%s [%s%s] %s", what_,
                 std::string(static_cast<std::size_t>(filled), '#').c_str(),
                 std::string(static_cast<std::size_t>(24 - filled), '.').c_str(), words.c_str());
    drawn_ = true;
    if (last) clear();
  }
  bool stop() override { return interrupted != 0; }

 private:
  void clear() {
    if (drawn_) std::fputs("\r\033[K", stderr);
    drawn_ = false;
  }
  const char* what_;
  double begin_, shown_ = 0, pause_ = 2;
  moraine::Index first_ = -1;
  bool bar_ = false, drawn_ = false;
};

}  // namespace program
