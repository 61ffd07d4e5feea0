#pragma once
// Runs the built program and keeps what it printed.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <moraine/io/file.hpp>
#include <moraine/io/json.hpp>
#include <moraine/io/safetensors.hpp>
#include <string>
#include <vector>

#include "fixtures.hpp"

namespace program {

using Words = std::vector<std::string>;

struct Result {
  int status = -1;  ///< exit status; 1000 + n when signal n ended it
  std::string out, err;
};

/// The built program; `name` is moraine, encode or xray.
inline std::string path_of(const std::string& name) {
  const char* set = std::getenv("MORAINE_PROGRAM_DIR");
  return std::string(set ? set : MORAINE_BINARY_DIR "/bin") + "/" + name;
}
/// False, with a message, where the program was not built.
inline bool is_built() {
  if (access(path_of("moraine").c_str(), X_OK) == 0) return true;
  MESSAGE("skipped: the program is not built; " << path_of("moraine"));
  return false;
}

inline Result run_file(const std::string& file, const Words& words) {
  const scratch::Dir dir;
  const std::string out = dir / "out", err = dir / "err";
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const int o = open(out.c_str(), O_WRONLY | O_CREAT, 0600);
    const int e = open(err.c_str(), O_WRONLY | O_CREAT, 0600);
    dup2(o, 1), dup2(e, 2);
    std::vector<char*> argv{const_cast<char*>(file.c_str())};
    for (const std::string& w : words) argv.push_back(const_cast<char*>(w.c_str()));
    argv.push_back(nullptr);
    execv(file.c_str(), argv.data());
    _exit(127);
  }
  int how = 0;
  REQUIRE(waitpid(child, &how, 0) == child);
  Result r;
  r.status = WIFEXITED(how) ? WEXITSTATUS(how) : 1000 + WTERMSIG(how);
  r.out = moraine::read_file(out);
  r.err = moraine::read_file(err);
  return r;
}
inline Result run(const std::string& name, const Words& words) {
  return run_file(path_of(name), words);
}
inline Result run_shell(const std::string& command) { return run_file("/bin/sh", {"-c", command}); }

inline bool is_one_line(const std::string& s) { return !s.empty() && s.find('\n') == s.size() - 1; }

inline void copy(const std::string& from, const std::string& to) {
  moraine::write_file(to, moraine::read_file(from));
}

}  // namespace program
