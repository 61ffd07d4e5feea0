#pragma once
// A directory that lives as long as a test, a limit on file sizes that plays a full disk, and where
// the shared test data are.
#include <dirent.h>
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <moraine/core/error.hpp>
#include <string>
#include <vector>

namespace scratch {

inline std::vector<std::string> list(const std::string& dir) {
  std::vector<std::string> names;
  if (DIR* d = opendir(dir.c_str())) {
    while (dirent* e = readdir(d)) {
      const std::string n = e->d_name;
      if (n != "." && n != "..") names.push_back(n);
    }
    closedir(d);
  }
  return names;
}

struct Dir {
  std::string path;
  Dir() {
    const char* base = std::getenv("TMPDIR");
    std::string t = std::string(base && *base ? base : P_tmpdir) + "/moraine-io-XXXXXX";
    if (!mkdtemp(t.data())) FAIL("no scratch directory");
    path = t;
  }
  ~Dir() {
    for (const std::string& n : list(path)) {
      if (unlink((path + "/" + n).c_str()) != 0) rmdir((path + "/" + n).c_str());
    }
    rmdir(path.c_str());
  }
  std::string operator/(const std::string& name) const { return path + "/" + name; }
};

/// While it lives, no file of this process may grow past `bytes`: writes fail as on a full disk.
struct FullDisk {
  rlimit old{};
  explicit FullDisk(rlim_t bytes) {
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    rlimit now{bytes, old.rlim_max};
    setrlimit(RLIMIT_FSIZE, &now);
  }
  ~FullDisk() { setrlimit(RLIMIT_FSIZE, &old); }
};

/// The most memory that this process has held so far, in MiB.
inline long peak_mib() {
  rusage u;
  getrusage(RUSAGE_SELF, &u);
  return u.ru_maxrss / 1024;
}

/// The message of the error that f throws; "" when it throws none.
template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const moraine::Error& e) {
    return e.what();
  }
  return {};
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// CRC-32 as zlib and PNG compute it, in hexadecimal.
inline std::string crc32(const void* data, std::size_t n) {
  std::uint32_t c = ~0u;
  for (std::size_t i = 0; i < n; ++i) {
    c ^= static_cast<const unsigned char*>(data)[i];
    for (int k = 0; k < 8; ++k) c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0u);
  }
  std::string s(8, '0');
  for (std::size_t i = 0; i < 8; ++i) s[i] = "0123456789abcdef"[~c >> (28 - 4 * i) & 15u];
  return s;
}

/// Where the shared data sets are; "" (and a message) when they are not here.
inline std::string data_dir() {
  const char* set = std::getenv("MORAINE_DATA");
  std::vector<std::string> places = {set ? set : "", "../shared/data", "../../shared/data"};
#ifdef MORAINE_SOURCE_DIR
  places.push_back(std::string(MORAINE_SOURCE_DIR) + "/../shared/data");
#endif
  for (const std::string& at : places) {
    struct stat st;
    if (!at.empty() && stat(at.c_str(), &st) == 0) return at;
  }
  MESSAGE("skipped: no test data; set MORAINE_DATA");
  return {};
}

}  // namespace scratch
