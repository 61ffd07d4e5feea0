#pragma once
// Files as bytes: read-only mapping, writing that leaves either the old file or the whole new one,
// and a checksum. For every reader and writer of io/ and for checkpoints.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <new>
#include <string>
#include <string_view>
#include <utility>

namespace moraine MORAINE_API {

/// 64-bit FNV-1a (Fowler, Noll, Vo). Finds torn and damaged files; no defence against an attacker.
class Checksum {
 public:
  void add(const void* data, std::size_t n) {
    const auto* p = static_cast<const unsigned char*>(data);
    for (std::size_t i = 0; i < n; ++i) value_ = (value_ ^ p[i]) * 0x100000001b3u;
  }
  std::uint64_t value() const { return value_; }
  /// 16 lower-case hexadecimal digits.
  std::string hex() const {
    std::string s(16, '0');
    for (int i = 0; i < 16; ++i)
      s[static_cast<std::size_t>(i)] = "0123456789abcdef"[(value_ >> (60 - 4 * i)) & 15u];
    return s;
  }

 private:
  std::uint64_t value_ = 0xcbf29ce484222325u;
};

/// Checksum of one block of bytes.
inline std::uint64_t checksum(const void* data, std::size_t n) {
  Checksum c;
  c.add(data, n);
  return c.value();
}

/// A name from a file, made fit for an error line: quoted, control bytes shown as '?', cut at 80.
/// An object, not a function: argument-dependent lookup would find std::quoted of <iomanip> as
/// well.
struct Quoted {
  std::string operator()(std::string_view s) const {
    std::string out = "\"";
    for (char c : s.substr(0, 80))
      out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
    return out + (s.size() > 80 ? "...\"" : "\"");
  }
};
inline constexpr Quoted quoted{};

/// "dir/name.ext" -> "name.ext"
inline std::string base_name(const std::string& path) {
  const std::size_t at = path.find_last_of('/');
  return at == std::string::npos ? path : path.substr(at + 1);
}
/// "dir/name.ext" -> "dir"; "." when there is no directory in the path.
inline std::string dir_name(const std::string& path) {
  const std::size_t at = path.find_last_of('/');
  return at == std::string::npos ? "." : at == 0 ? "/" : path.substr(0, at);
}

inline bool is_directory(const std::string& path) {
  struct stat st;
  return ::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}
inline bool is_file(const std::string& path) {
  struct stat st;
  return ::stat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode);
}

namespace detail {

/// Throws ErrorKind::file with the system's words and, where we know one, a hint.
[[noreturn]] inline void fail_errno(const std::string& what, const std::string& path, int code) {
  std::string hint;
  if (code == ENOENT) hint = " -> check the path";
  if (code == ENOSPC || code == EDQUOT || code == EFBIG)
    hint = " -> free space or choose another disk; nothing was left behind";
  if (code == EACCES || code == EPERM || code == EROFS) hint = " -> check the permissions";
  fail(ErrorKind::file, "file: " + what + " " + quoted(path) + "; " + std::strerror(code) + hint);
}

/// A file descriptor that closes itself.
struct Fd {
  int fd = -1;
  explicit Fd(int f = -1) : fd(f) {}
  Fd(Fd&& o) noexcept : fd(std::exchange(o.fd, -1)) {}
  Fd& operator=(Fd&& o) noexcept {
    std::swap(fd, o.fd);
    return *this;
  }
  ~Fd() {
    if (fd >= 0) ::close(fd);
  }
};

/// Opens a regular file for reading and tells its size.
inline Fd open_to_read(const std::string& path, std::size_t& size) {
  Fd f(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (f.fd < 0) fail_errno("cannot open", path, errno);
  struct stat st;
  if (::fstat(f.fd, &st) != 0) fail_errno("cannot look at", path, errno);
  if (S_ISDIR(st.st_mode))
    fail(ErrorKind::file, "file: " + quoted(path) + " is a directory -> name a file in it");
  if (!S_ISREG(st.st_mode)) fail(ErrorKind::file, "file: " + quoted(path) + " is no regular file");
  size = static_cast<std::size_t>(st.st_size);
  return f;
}

/// Reads exactly n bytes at `offset`; false when the file ends before.
inline bool read_at(int fd, void* to, std::size_t n, std::uint64_t offset,
                    const std::string& path) {
  auto* p = static_cast<char*>(to);
  while (n > 0) {
    const ssize_t got = ::pread(fd, p, n, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_errno("cannot read", path, errno);
    if (got == 0) return false;
    p += got;
    offset += static_cast<std::uint64_t>(got);
    n -= static_cast<std::size_t>(got);
  }
  return true;
}

}  // namespace detail

struct MapOptions {
  bool map = true;  ///< false: read the whole file into memory (for files that others may truncate)
};

/// The bytes of a file, read-only. Hold it by shared_ptr: it is the `owner` of tensors that point
/// into it. A file that is truncated by somebody else while it is mapped raises SIGBUS on access;
/// check_size() before use narrows that window and MapOptions{.map = false} closes it.
class MappedFile {
 public:
  static std::shared_ptr<const MappedFile> open(const std::string& path, MapOptions options = {}) {
    return std::shared_ptr<const MappedFile>(new MappedFile(path, options));
  }
  ~MappedFile() {
    if (mapped_) ::munmap(const_cast<std::byte*>(data_), size_);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  const std::string& path() const { return path_; }

  /// Gives the pages of the mapping back to the system: they no longer count as this process's
  /// memory, and are read again from the file when they are touched.
  void forget() const {
    if (mapped_) ::madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);
  }
  /// Throws ErrorKind::file when the file has changed its size since it was opened.
  void check_size() const {
    struct stat st;
    if (::fstat(fd_.fd, &st) != 0) detail::fail_errno("cannot look at", path_, errno);
    if (static_cast<std::size_t>(st.st_size) != size_)
      fail(ErrorKind::file, "file: " + quoted(path_) + " changed while it was read; " +
                                std::to_string(size_) + " bytes, now " +
                                std::to_string(st.st_size) + " -> do not write to a file in use");
  }

 private:
  MappedFile(const std::string& path, MapOptions options) : path_(path) {
    fd_ = detail::open_to_read(path, size_);
    if (size_ == 0) return;
    if (options.map) {
      void* p = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd_.fd, 0);
      if (p == MAP_FAILED) detail::fail_errno("cannot map", path, errno);
      data_ = static_cast<const std::byte*>(p);
      mapped_ = true;
    } else {
      try {
        copy_.reset(new std::byte[size_]);
      } catch (const std::bad_alloc&) {
        fail(ErrorKind::memory, "file: no memory for " + quoted(path) + "; " +
                                    std::to_string(size_) + " bytes -> map it instead");
      }
      if (!detail::read_at(fd_.fd, copy_.get(), size_, 0, path)) check_size();
      data_ = copy_.get();
    }
    try {
      check_size();
    } catch (...) {
      if (mapped_) ::munmap(const_cast<std::byte*>(data_), size_);
      throw;
    }
  }

  std::string path_;
  detail::Fd fd_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  bool mapped_ = false;
  std::unique_ptr<std::byte[]> copy_;
};

/// The whole of a file of at most `most` bytes.
inline std::string read_file(const std::string& path, std::size_t most = std::size_t{1} << 26) {
  std::size_t size = 0;
  const detail::Fd f = detail::open_to_read(path, size);
  if (size > most)
    fail(ErrorKind::file, "file: " + quoted(path) + " is larger than expected; " +
                              std::to_string(size) + " of at most " + std::to_string(most) +
                              " bytes -> is it the right file?");
  std::string text(size, '\0');
  if (!detail::read_at(f.fd, text.data(), size, 0, path))
    fail(ErrorKind::file, "file: " + quoted(path) + " got shorter while it was read; " +
                              std::to_string(size) + " bytes before");
  return text;
}

namespace detail {

/// The process in "NAME.tmp-PID-NUMBER"; 0 when `entry` is no temporary of a file called NAME.
inline long owner_of_temporary(std::string_view entry, std::string_view name) {
  if (entry.substr(0, name.size()) != name) return 0;
  entry.remove_prefix(name.size());
  if (entry.substr(0, 5) != ".tmp-") return 0;
  entry.remove_prefix(5);
  const std::size_t dash = entry.find('-');
  if (dash == 0 || dash > 9 || dash + 1 == entry.size()) return 0;  // npos is more than 9
  long pid = 0;
  for (std::size_t i = 0; i < entry.size(); ++i) {
    if (i == dash) continue;
    if (entry[i] < '0' || entry[i] > '9') return 0;
    if (i < dash) pid = 10 * pid + (entry[i] - '0');
  }
  return pid;
}

/// Removes what killed processes left of earlier writings of `path`. A temporary goes only when its
/// process is gone and nobody holds its lock: the number alone may be of a process in another
/// container or on another machine that shares the folder, which the lock shows.
inline void remove_stale_temporaries(const std::string& path) noexcept {
  const std::string dir = dir_name(path), name = base_name(path);
  DIR* entries = ::opendir(dir.c_str());
  if (!entries) return;
  while (const dirent* e = ::readdir(entries)) {
    const long pid = owner_of_temporary(e->d_name, name);
    if (pid <= 0 || ::kill(static_cast<pid_t>(pid), 0) == 0 || errno != ESRCH) continue;
    const std::string stale = dir + "/" + e->d_name;
    const Fd f(::open(stale.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    struct stat st;
    if (f.fd >= 0 && ::fstat(f.fd, &st) == 0 && S_ISREG(st.st_mode) &&
        ::flock(f.fd, LOCK_EX | LOCK_NB) == 0)
      ::unlink(stale.c_str());
  }
  ::closedir(entries);
}

}  // namespace detail

/// Writes beside the target and renames at commit(), so that a reader (or a crash) sees the old
/// file or the whole new one, never a part. Without commit() the temporary is removed; one that a
/// killed process left is removed by the next writer of the same target. A symbolic link is
/// followed; a target that is a directory or a device is refused.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path) : path_(path) {
    struct stat st;
    if (::lstat(path.c_str(), &st) == 0 && S_ISLNK(st.st_mode)) {
      if (char* real = ::realpath(path.c_str(), nullptr)) {
        path_ = real;
        std::free(real);
      }
    }
    if (::stat(path_.c_str(), &st) == 0) {
      if (S_ISDIR(st.st_mode))
        fail(ErrorKind::file,
             "file: cannot write " + quoted(path) + "; it is a directory -> name a file in it");
      if (!S_ISREG(st.st_mode))
        fail(ErrorKind::file, "file: cannot write " + quoted(path) + "; it is no regular file");
      mode_ = st.st_mode & 07777;
    }
    const std::string dir = dir_name(path_);
    if (!is_directory(dir))
      fail(ErrorKind::file, "file: cannot write " + quoted(path) + "; there is no directory " +
                                quoted(dir) + " -> create it first");
    detail::remove_stale_temporaries(path_);
    static std::atomic<unsigned> counter{0};
    for (int attempt = 0;; ++attempt) {
      temp_ = path_ + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(counter++);
      fd_ = detail::Fd(::open(temp_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
      if (fd_.fd >= 0) break;
      const int code = errno;
      if (code == EEXIST && attempt < 1000) continue;
      temp_.clear();
      detail::fail_errno("cannot write", path, code);
    }
    (void)!::flock(fd_.fd, LOCK_EX | LOCK_NB);  // the sign that somebody is writing
  }
  ~AtomicFile() { discard(); }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  const std::string& path() const { return path_; }
  std::uint64_t size() const { return size_; }

  /// Appends. Throws ErrorKind::file (the temporary is then gone).
  void write(const void* data, std::size_t n) { write_at(size_, data, n); }
  void write(std::string_view text) { write(text.data(), text.size()); }

  /// Writes n bytes at `offset`; a gap before it reads as zeros.
  void write_at(std::uint64_t offset, const void* data, std::size_t n) {
    if (fd_.fd < 0) fail(ErrorKind::file, "file: write to " + quoted(path_) + " after its end");
    const char* p = static_cast<const char*>(data);
    while (n > 0) {
      const ssize_t put = ::pwrite(fd_.fd, p, n, static_cast<off_t>(offset));
      if (put < 0 && errno == EINTR) continue;
      if (put <= 0) {
        const int code = put < 0 ? errno : EIO;
        discard();
        detail::fail_errno("cannot write", path_, code);
      }
      p += put;
      offset += static_cast<std::uint64_t>(put);
      n -= static_cast<std::size_t>(put);
      if (offset > size_) size_ = offset;
    }
  }
  /// Reads back at most n bytes of what was written; returns how many there were.
  std::size_t read_back(std::uint64_t offset, void* to, std::size_t n) const {
    if (offset >= size_) return 0;
    if (n > size_ - offset) n = static_cast<std::size_t>(size_ - offset);
    return detail::read_at(fd_.fd, to, n, offset, path_) ? n : 0;
  }

  /// Makes the new file durable and puts it in the place of the old one.
  void commit() {
    if (fd_.fd < 0) fail(ErrorKind::file, "file: commit of " + quoted(path_) + " after its end");
    int code = 0;
    if (mode_) (void)!::fchmod(fd_.fd, mode_);  // keeping the old mode is a courtesy
    if (::fsync(fd_.fd) != 0) code = errno;
    const int raw = std::exchange(fd_.fd, -1);
    if (::close(raw) != 0 && !code) code = errno;  // network file systems report a full disk here
    if (!code && ::rename(temp_.c_str(), path_.c_str()) != 0) code = errno;
    if (code) {
      discard();
      detail::fail_errno("cannot write", path_, code);
    }
    temp_.clear();
    sync_dir(dir_name(path_));
  }

  /// Gives up: removes the temporary. The old file stays as it was.
  void discard() noexcept {
    if (fd_.fd >= 0) ::close(std::exchange(fd_.fd, -1));
    if (!temp_.empty()) ::unlink(temp_.c_str());
    temp_.clear();
  }

  /// Makes a rename in `dir` durable. File systems that cannot do it are not an error.
  static void sync_dir(const std::string& dir) noexcept {
    const detail::Fd d(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (d.fd >= 0) ::fsync(d.fd);
  }

 private:
  std::string path_, temp_;
  detail::Fd fd_;
  std::uint64_t size_ = 0;
  mode_t mode_ = 0;
};

/// Writes a whole file atomically.
inline void write_file(const std::string& path, std::string_view bytes) {
  AtomicFile f(path);
  f.write(bytes);
  f.commit();
}

}  // namespace moraine
