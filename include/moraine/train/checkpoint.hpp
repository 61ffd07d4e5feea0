#pragma once
// Checkpoints that survive a kill at any instant, a full disk and a damaged file.
//
//   dir/lock                    held while a run uses the folder
//   dir/latest                  the name of the newest checkpoint, a hint
//   dir/step-001240/            appears by one rename when everything in it is on the disk
//     adapter.safetensors       tensors whose name begins with "model."
//     optimizer.safetensors     all others
//     state.json                the caller's state, and length and checksum of each file
//
// A checkpoint is written under another name, synced, read back and compared, renamed, and only
// then are older ones removed. Loading takes the newest that is whole, and says which was not.
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <moraine/core/any_tensor.hpp>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/io/file.hpp>
#include <moraine/io/json.hpp>
#include <moraine/io/safetensors.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

namespace detail {

inline std::vector<std::string> names_in(const std::string& dir) {
  std::vector<std::string> names;
  if (DIR* d = ::opendir(dir.c_str())) {
    while (const dirent* e = ::readdir(d)) {
      const std::string n = e->d_name;
      if (n != "." && n != "..") names.push_back(n);
    }
    ::closedir(d);
  }
  std::sort(names.begin(), names.end());
  return names;
}
/// Removes a folder and the files in it; what cannot be removed stays.
inline void remove_folder(const std::string& dir) noexcept {
  try {
    for (const std::string& n : names_in(dir)) ::unlink((dir + "/" + n).c_str());
    ::rmdir(dir.c_str());
  } catch (...) {  // out of memory: the next run removes it
  }
}
inline void make_folder(const std::string& dir) {
  if (::mkdir(dir.c_str(), 0777) != 0 && (errno != EEXIST || !is_directory(dir)))
    fail_errno("cannot make the folder", dir, errno);
}

}  // namespace detail

/// Holds a folder for this process until it is destroyed or the process ends, however it ends.
class FolderLock {
 public:
  /// Throws ErrorKind::file when another process holds the folder.
  explicit FolderLock(const std::string& dir) {
    const std::string path = dir + "/lock";
    fd_ = detail::Fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
    if (fd_.fd < 0) detail::fail_errno("cannot write", path, errno);
    if (::flock(fd_.fd, LOCK_EX | LOCK_NB) != 0) {
      char who[32] = "";
      const ssize_t n = ::pread(fd_.fd, who, sizeof who - 1, 0);
      const std::string other(who, n > 0 ? static_cast<std::size_t>(n) : 0);
      fail(ErrorKind::file, "checkpoint: " + quoted(dir) + " is in use by another run" +
                                (other.empty() ? "" : ", process " + other) +
                                " -> wait for it, or choose another folder");
    }
    const std::string me = std::to_string(::getpid());
    if (::ftruncate(fd_.fd, 0) == 0) (void)!::pwrite(fd_.fd, me.data(), me.size(), 0);
  }

 private:
  detail::Fd fd_;
};

struct Checkpoint {
  std::int64_t step = 0;
  TensorMap tensors;
  Json state;
};

class CheckpointStore {
 public:
  /// Opens or makes the folder, locks it and removes what a killed run left unfinished. Keeps the
  /// newest `keep` checkpoints.
  explicit CheckpointStore(const std::string& dir, int keep = 2)
      : dir_((detail::make_folder(dir), dir)), lock_(dir), keep_(std::max(keep, 1)) {
    for (const std::string& n : detail::names_in(dir)) {
      if (n.find(".tmp-") == std::string::npos) continue;
      const std::string path = dir + "/" + n;
      if (is_directory(path))
        detail::remove_folder(path);
      else
        ::unlink(path.c_str());
    }
  }

  /// Writes the checkpoint of a step. On any error the checkpoints before stay as they are.
  void save(std::int64_t step, const TensorMap& tensors, const Json& state) {
    const std::string name = name_of_step(step), final_path = dir_ + "/" + name,
                      temp = final_path + ".tmp-" + std::to_string(::getpid());
    try {
      detail::remove_folder(temp);
      detail::make_folder(temp);
      TensorMap parts[2];
      for (const auto& [key, t] : tensors)
        parts[key.rfind("model.", 0) == 0 ? 0 : 1].emplace(key, t);
      Json files = Json::object();
      for (int i = 0; i < 2; ++i) {
        const std::string path = temp + "/" + file_names[i];
        write_safetensors(path, parts[i]);
        check_tensors(path, parts[i]);
        Json& f = files.set(file_names[i], Json::object());
        const auto bytes = MappedFile::open(path);
        f.set("bytes", static_cast<unsigned long>(bytes->size()));
        Checksum c;
        c.add(bytes->data(), bytes->size());
        f.set("checksum", c.hex());
      }
      Json body = Json::object();
      body.set("step", static_cast<long long>(step));
      body.set("files", std::move(files));
      body.set("state", state);
      Json all = Json::object();
      const std::string text = json_text(body, {.indent = -1});
      all.set("checksum", hex(text));
      all.set("checkpoint", std::move(body));
      write_json(temp + "/state.json", all);
      AtomicFile::sync_dir(temp);
      (void)read(temp);  // as a resume will read it
      if (is_directory(final_path))
        detail::remove_folder(final_path);  // damaged, or the same step again
      if (::rename(temp.c_str(), final_path.c_str()) != 0)
        detail::fail_errno("cannot write", final_path, errno);
      AtomicFile::sync_dir(dir_);
      write_file(dir_ + "/latest", name + "\n");
    } catch (const Error& e) {
      detail::remove_folder(temp);
      const std::vector<std::string> left = steps();
      fail(e.kind(), std::string("checkpoint: step ") + std::to_string(step) + " was not saved: " +
                         e.what() + (left.empty() ? "" : "; " + left.back() + " is kept"));
    }
    std::vector<std::string> all = steps();
    for (std::size_t i = 0; i + static_cast<std::size_t>(keep_) < all.size(); ++i)
      if (all[i] != name) detail::remove_folder(dir_ + "/" + all[i]);
  }

  /// The newest checkpoint that is whole; none in a new folder. Adds a line to `warnings` for each
  /// damaged one that was passed over, naming the file. Throws ErrorKind::format when there are
  /// checkpoints and none is whole.
  std::optional<Checkpoint> load(std::vector<std::string>* warnings = nullptr) const {
    std::vector<std::string> all = steps();
    std::string problem;
    while (!all.empty()) {
      try {
        return read(dir_ + "/" + all.back());
      } catch (const Error& e) {
        problem = e.what();
        if (warnings)
          warnings->push_back("checkpoint " + all.back() +
                              " is damaged and passed over: " + problem);
        all.pop_back();
      }
    }
    if (!problem.empty())
      fail(ErrorKind::format, "checkpoint: none in " + quoted(dir_) + " is whole; " + problem +
                                  " -> remove the folder to begin again");
    return std::nullopt;
  }
  /// The folders of all checkpoints, oldest first.
  std::vector<std::string> steps() const {
    std::vector<std::string> out;
    for (const std::string& n : detail::names_in(dir_))
      if (n.rfind("step-", 0) == 0 && n.find(".tmp-") == std::string::npos) out.push_back(n);
    std::stable_sort(out.begin(), out.end(), [](const std::string& a, const std::string& b) {
      return a.size() != b.size() ? a.size() < b.size() : a < b;
    });
    return out;
  }
  const std::string& dir() const { return dir_; }

 private:
  static constexpr const char* file_names[2] = {"adapter.safetensors", "optimizer.safetensors"};

  static std::string name_of_step(std::int64_t step) {
    const std::string digits = std::to_string(step);
    return "step-" + std::string(digits.size() < 6 ? 6 - digits.size() : 0, '0') + digits;
  }
  static std::string hex(const std::string& text) {
    Checksum c;
    c.add(text.data(), text.size());
    return c.hex();
  }
  /// Compares a file with what was meant to be written.
  static void check_tensors(const std::string& path, const TensorMap& meant) {
    const SafetensorsFile file = read_safetensors(path);
    bool same = file.tensors.size() == meant.size();
    for (const auto& [name, t] : meant) {
      const auto at = file.tensors.find(name);
      same = same && at != file.tensors.end() && at->second.bytes == t.bytes &&
             (t.bytes == 0 || std::memcmp(at->second.data, t.data, t.bytes) == 0);
    }
    if (!same)
      fail(ErrorKind::file, "file: " + quoted(path) +
                                " reads back differently from what was written -> check the disk");
  }
  static Checkpoint read(const std::string& dir) {
    const std::string what = quoted(base_name(dir) + "/state.json");
    Checkpoint c;
    Json files;
    try {
      const Json all = read_json(dir + "/state.json");
      const Json& body = all.at("checkpoint");
      if (hex(json_text(body, {.indent = -1})) != all.at("checksum").as_string("checksum"))
        fail(ErrorKind::format, "its checksum differs; the file was changed");
      c.step = body.at("step").as_int("step");
      c.state = body.at("state");
      files = body.at("files");
    } catch (const Error& e) {
      fail(e.kind(), what + ": " + e.what());
    }
    for (const JsonMember& f : files.as_object("files")) {
      const std::string path = dir + "/" + f.key, file = quoted(base_name(dir) + "/" + f.key);
      const auto bytes = MappedFile::open(path);
      const std::uint64_t expected = f.value.at("bytes").as_natural("bytes");
      if (bytes->size() != expected)
        fail(ErrorKind::format, file + " has " + std::to_string(bytes->size()) +
                                    " bytes; expected " + std::to_string(expected));
      Checksum sum;
      sum.add(bytes->data(), bytes->size());
      if (sum.hex() != f.value.at("checksum").as_string("checksum"))
        fail(ErrorKind::format, file + " has the checksum " + sum.hex() + "; expected " +
                                    f.value.at("checksum").as_string());
      SafetensorsFile tensors =
          parse_safetensors(bytes->data(), bytes->size(), bytes, base_name(dir) + "/" + f.key);
      c.tensors.merge(tensors.tensors);
    }
    return c;
  }

  std::string dir_;
  FolderLock lock_;
  int keep_;
};

}  // namespace moraine
