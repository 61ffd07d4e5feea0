#pragma once
// Options of encode and xray. Their contracts say what an error line names and that a repeated
// option is an error; this does just that. The other subcommands use CLI11, in main.cpp.
#include <charconv>
#include <cstdio>
#include <exception>
#include <initializer_list>
#include <map>
#include <moraine/core/device.hpp>
#include <moraine/core/error.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/io/file.hpp>
#include <new>
#include <string>
#include <string_view>
#include <vector>

namespace program {

/// Text that stays on its line: control bytes become '?'.
inline std::string one_line(std::string s) {
  for (char& c : s)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return s;
}

/// Runs f; whatever it throws becomes one line on stderr and the status `failed`. The line begins
/// with `begin`, unless the library's own form is wanted (null).
template <class F>
int guarded(const char* begin, int failed, F&& f) {
  std::string line;
  try {
    return f();
  } catch (const moraine::Error& e) {
    line = e.what();
  } catch (const std::bad_alloc&) {
    line = "memory: the system has none left; close other programs or use a smaller input";
  } catch (const std::exception& e) {
    line = std::string("failed; ") + e.what();
  }
  if (begin) {
    if (line.rfind(std::string(begin) + ": ", 0) != 0) line = std::string(begin) + ": " + line;
    // `what; names`: a library message without numbers has only a hint, or neither.
    if (line.find("; ") == std::string::npos) {
      const std::size_t hint = line.find(" -> ");
      if (hint == std::string::npos)
        line += "; no output was written";
      else
        line.replace(hint, 4, "; ");
    }
  }
  std::fprintf(stderr, "%s\n", one_line(line).c_str());
  return failed;
}

struct Option {
  const char* name;   ///< "--model"
  bool flag = false;  ///< takes no value
};

class Arguments {
 public:
  /// Reads `--name value`, `--name=value`, flags and at most `most` other words.
  Arguments(const char* op, int argc, char** argv, std::initializer_list<Option> known,
            std::size_t most = 0)
      : op_(op) {
    for (int i = 0; i < argc; ++i) {
      const std::string word = argv[i];
      if (word == "--help" || word == "-h") {
        help = true;
        continue;
      }
      if (word.size() < 2 || word[0] != '-') {
        if (words.size() == most)
          bad("argument " + moraine::quoted(word) + " is not expected; --help lists the options");
        words.push_back(word);
        continue;
      }
      const std::size_t equals = word.find('=');
      const std::string name = word.substr(0, equals);
      const Option* option = nullptr;
      for (const Option& o : known)
        if (name == o.name) option = &o;
      if (!option) bad("unknown option " + moraine::quoted(name) + "; --help lists the options");
      std::string value;
      if (equals != std::string::npos) {
        if (option->flag) bad("option " + name + " takes no value; " + moraine::quoted(word));
        value = word.substr(equals + 1);
      } else if (!option->flag) {
        if (i + 1 >= argc || std::string_view(argv[i + 1]).substr(0, 2) == "--")
          bad("option " + name + " needs a value; none was given");
        value = argv[++i];
      }
      if (!values_.emplace(name, value).second)
        bad("option " + name + " is given twice; once is enough");
    }
  }
  bool help = false;
  std::vector<std::string> words;

  bool has(const std::string& name) const { return values_.count(name) != 0; }
  std::string text(const std::string& name, const std::string& otherwise) const {
    const auto at = values_.find(name);
    return at == values_.end() ? otherwise : at->second;
  }
  std::string required(const std::string& name) const {
    if (!has(name)) bad("option " + name + " is missing; --help lists the options");
    const std::string v = text(name, "");
    if (v.empty()) bad("option " + name + " is empty; name a path");
    return v;
  }
  /// One of a few words; the first is the default.
  std::string choice(const std::string& name, std::initializer_list<const char*> allowed) const {
    const std::string v = text(name, *allowed.begin());
    std::string all;
    for (const char* a : allowed) {
      if (v == a) return v;
      all += std::string(all.empty() ? "" : ", ") + a;
    }
    bad("option " + name + " has the value " + moraine::quoted(v) + "; it takes " + all);
  }
  /// --threads: applies it. Absent: as many as this process may use.
  void apply_threads() const {
    if (!has("--threads")) return;
    const std::string v = text("--threads", "");
    int n = 0;
    const auto r = std::from_chars(v.data(), v.data() + v.size(), n);
    if (r.ec != std::errc() || r.ptr != v.data() + v.size() || n < 1 || n > 256)
      bad("option --threads has the value " + moraine::quoted(v) + "; it takes 1 to 256");
    moraine::set_threads(n);
  }
  /// --device: an error where CUDA is asked for and this program does not have it.
  void check_device() const {
    if (choice("--device", {"cpu", "cuda"}) == "cpu") return;
    if (!moraine::cuda_available())
      bad(std::string("option --device cuda; ") + moraine::cuda_device.status);
    bad("option --device cuda is not supported here yet; use --device cpu");
  }
  [[noreturn]] void bad(const std::string& why) const {
    moraine::fail(moraine::ErrorKind::value, std::string(op_) + ": " + why);
  }

 private:
  const char* op_;
  std::map<std::string, std::string> values_;
};

}  // namespace program
