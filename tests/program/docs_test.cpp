// What docs/03 and docs/07 print in console blocks is what the program prints. Measured numbers
// (1.2e-07) may differ from machine to machine, and with them the order of diff's rows.
#include <doctest/doctest.h>

#include <algorithm>
#include <cctype>
#include <set>

#include "run.hpp"

using namespace moraine;

namespace {
/// Numbers like 1.2e-07 as '#', runs of blanks as one.
std::string flat(const std::string& line) {
  std::string out;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const auto digit = [&](std::size_t k) {
      return k < line.size() && std::isdigit(static_cast<unsigned char>(line[k]));
    };
    if (digit(i) && i + 6 < line.size() && line[i + 1] == '.' && digit(i + 2) &&
        line[i + 3] == 'e' && (line[i + 4] == '-' || line[i + 4] == '+') && digit(i + 5) &&
        digit(i + 6)) {
      out += '#';
      i += 6;
    } else if (line[i] != ' ' || (!out.empty() && out.back() != ' ')) {
      out += line[i];
    }
  }
  while (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}
std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

void check_document(const std::string& name) {
  INFO(name);
  const scratch::Dir dir;
  REQUIRE(symlink(MORAINE_SOURCE_DIR "/tests", (dir / "tests").c_str()) == 0);
  int commands = 0;
  std::set<std::string> printed;
  std::size_t expected = 0;
  bool in_block = false, partial = false;
  const auto finish = [&] {  // every line was expected, unless "..." stands for some
    if (commands > 0 && !partial) CHECK(printed.size() == expected);
    printed.clear(), expected = 0, partial = false;
  };
  for (const std::string& line :
       lines_of(read_file(std::string(MORAINE_SOURCE_DIR "/docs/") + name))) {
    if (line == "```console" || line == "```") {
      finish();
      in_block = line != "```";
    } else if (in_block && line.rfind("$ ", 0) == 0) {
      finish();
      std::string command = line.substr(2);
      const std::string bin = "build/cpu/bin/";
      REQUIRE(command.rfind(bin, 0) == 0);
      command = program::path_of("") + command.substr(bin.size());
      const program::Result r = program::run_shell("cd '" + dir.path + "' && " + command);
      for (const std::string& l : lines_of(r.out + r.err))
        if (!flat(l).empty()) printed.insert(flat(l));
      ++commands;
    } else if (in_block && line == "...") {
      partial = true;
    } else if (in_block && !flat(line).empty()) {
      CHECK_MESSAGE(printed.count(flat(line)) == 1, line);
      ++expected;
    }
  }
  CHECK(commands >= 4);
}
}  // namespace

TEST_CASE("docs: the console blocks of chapters 3 and 7") {
  if (!program::is_built()) return;
  check_document("03-foundation-models.md");
  check_document("07-xray.md");
}
