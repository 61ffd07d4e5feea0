#include <moraine/io/file.hpp>

#include <sys/wait.h>

#include "scratch.hpp"

using namespace moraine;
using scratch::contains;
using scratch::message_of;

TEST_CASE("checksum: published vectors of 64-bit FNV-1a") {
  CHECK(checksum("", 0) == 0xcbf29ce484222325u);
  CHECK(checksum("a", 1) == 0xaf63dc4c8601ec8cu);
  CHECK(checksum("foobar", 6) == 0x85944171f73967e8u);
  Checksum c;
  c.add("foo", 3);
  c.add("bar", 3);
  CHECK(c.hex() == "85944171f73967e8");
}

TEST_CASE("file: mapped and copied bytes are the file's bytes") {
  scratch::Dir dir;
  const std::string path = dir / "a.bin";
  write_file(path, std::string_view("one\0two", 7));
  for (bool map : {true, false}) {
    const auto f = MappedFile::open(path, {.map = map});
    REQUIRE(f->size() == 7);
    CHECK(std::memcmp(f->data(), "one\0two", 7) == 0);
    f->check_size();
  }
  write_file(dir / "empty", "");
  CHECK(MappedFile::open(dir / "empty")->size() == 0);
  CHECK(read_file(path).size() == 7);
  CHECK(contains(message_of([&] { read_file(path, 6); }), "7 of at most 6 bytes"));
}

TEST_CASE("file: a change of size after opening is noticed") {
  scratch::Dir dir;
  const std::string path = dir / "a.bin";
  write_file(path, "0123456789");
  const auto f = MappedFile::open(path);
  REQUIRE(truncate(path.c_str(), 4) == 0);
  CHECK(contains(message_of([&] { f->check_size(); }), "10 bytes, now 4"));
}

TEST_CASE("file: missing, directory and device are named") {
  scratch::Dir dir;
  CHECK(contains(message_of([&] { MappedFile::open(dir / "none"); }), "cannot open"));
  CHECK(contains(message_of([&] { MappedFile::open(dir.path); }), "is a directory"));
  CHECK(contains(message_of([&] { MappedFile::open("/dev/null"); }), "no regular file"));
  CHECK(contains(message_of([&] { AtomicFile f(dir.path); }), "is a directory"));
  CHECK(contains(message_of([&] { AtomicFile f("/dev/full"); }), "no regular file"));
  CHECK(contains(message_of([&] { AtomicFile f(dir / "sub/a"); }), "there is no directory"));
  CHECK(scratch::list(dir.path).empty());
}

TEST_CASE("file: the old file stays until commit, and no temporary is left") {
  scratch::Dir dir;
  const std::string path = dir / "a.txt";
  write_file(path, "old");
  {
    AtomicFile f(path);
    f.write("new and longer");
    CHECK(read_file(path) == "old");
    CHECK(scratch::list(dir.path).size() == 2);
  }
  CHECK(read_file(path) == "old");
  CHECK(scratch::list(dir.path).size() == 1);
  const auto mapped = MappedFile::open(path);
  {
    AtomicFile f(path);
    f.write("new and longer");
    f.write_at(0, "N", 1);
    char back[3];
    CHECK(f.read_back(0, back, 3) == 3);
    CHECK(std::string(back, 3) == "New");
    f.commit();
    CHECK_THROWS_AS(f.write("x"), Error);
  }
  CHECK(read_file(path) == "New and longer");
  CHECK(std::memcmp(mapped->data(), "old", 3) == 0);  // who mapped the old file still has it
  CHECK(scratch::list(dir.path).size() == 1);
}

namespace {
/// A process that has written half of `path` and waits for its end.
struct Writer {
  pid_t pid;
  explicit Writer(const std::string& path) {
    int ready[2];
    REQUIRE(pipe(ready) == 0);
    pid = fork();
    if (pid == 0) {
      try {
        AtomicFile f(path);
        f.write("half");
        (void)!write(ready[1], "x", 1);
        for (;;) pause();
      } catch (...) {
      }
      _exit(1);
    }
    close(ready[1]);
    char c;
    REQUIRE(read(ready[0], &c, 1) == 1);
    close(ready[0]);
  }
  void kill() {
    if (pid > 0) ::kill(pid, SIGKILL), waitpid(pid, nullptr, 0);
    pid = 0;
  }
  ~Writer() { kill(); }
};
/// The number of a process that is gone.
pid_t gone() {
  const pid_t p = fork();
  if (p == 0) _exit(0);
  waitpid(p, nullptr, 0);
  return p;
}
}  // namespace

TEST_CASE("file: what a killed writer left is removed by the next writer of the same file") {
  scratch::Dir dir;
  const std::string path = dir / "map.tif";
  Writer a(path), b(path), other(dir / "map.tif2");
  CHECK(scratch::list(dir.path).size() == 3);
  write_file(path, "whole");  // nobody is dead yet
  CHECK(scratch::list(dir.path).size() == 4);
  a.kill(), other.kill();
  CHECK(scratch::list(dir.path).size() == 4);
  write_file(path, "again");  // a's goes; b lives, and the third is of another target
  CHECK(scratch::list(dir.path).size() == 3);
  b.kill();
  CHECK_THROWS_AS(write_file(dir / "sub/map.tif", ""), Error);
  REQUIRE(symlink("map.tif", (dir / "link").c_str()) == 0);
  write_file(dir / "link", "through a link");
  CHECK(scratch::list(dir.path).size() == 3);  // map.tif, link, and the other target's
  CHECK(read_file(path) == "through a link");
}

TEST_CASE("file: a temporary that is locked, and a name that only looks like one, stay") {
  scratch::Dir dir;
  const std::string path = dir / "a", dead = std::to_string(gone());
  const std::vector<std::string> kept{"a.tmp-",
                                      "a.tmp-notes",
                                      "a.tmp-" + dead,
                                      "a.tmp-" + dead + "-",
                                      "a.tmp-" + dead + "-1x",
                                      "a.tmp--1",
                                      "a.tmp-0-1",
                                      "b.tmp-" + dead + "-1",
                                      "xa.tmp-" + dead + "-1",
                                      "a.tmp-9999999999999999999-1"};
  for (const std::string& n : kept) {
    const int fd = open((dir / n).c_str(), O_CREAT | O_WRONLY, 0666);
    REQUIRE(fd >= 0);
    close(fd);
  }
  // As seen from here its process is gone: a writer in another container.
  const std::string locked = "a.tmp-" + dead + "-2", free = "a.tmp-" + dead + "-3";
  const int held = open((dir / locked).c_str(), O_CREAT | O_WRONLY, 0666);
  REQUIRE(flock(held, LOCK_EX | LOCK_NB) == 0);
  close(open((dir / free).c_str(), O_CREAT | O_WRONLY, 0666));
  write_file(path, "x");
  std::vector<std::string> names = scratch::list(dir.path);
  CHECK(names.size() == kept.size() + 2);
  const auto has = [&](const std::string& n) {
    for (const std::string& m : names)
      if (m == n) return true;
    return false;
  };
  for (const std::string& n : kept) CHECK_MESSAGE(has(n), n);
  CHECK(has(locked));
  CHECK(!has(free));
  close(held);
  write_file(path, "y");
  names = scratch::list(dir.path);
  CHECK(!has(locked));
}

TEST_CASE("file: a symbolic link is followed, a mode is kept") {
  scratch::Dir dir;
  write_file(dir / "real", "1");
  chmod((dir / "real").c_str(), 0600);
  REQUIRE(symlink("real", (dir / "link").c_str()) == 0);
  write_file(dir / "link", "2");
  CHECK(read_file(dir / "real") == "2");
  struct stat st;
  REQUIRE(lstat((dir / "link").c_str(), &st) == 0);
  CHECK(S_ISLNK(st.st_mode));
  REQUIRE(stat((dir / "real").c_str(), &st) == 0);
  CHECK((st.st_mode & 0777) == 0600);
}

TEST_CASE("file: a full disk is one clear line and leaves the old file") {
  scratch::Dir dir;
  const std::string path = dir / "a.bin";
  write_file(path, "old");
  std::string message;
  {
    scratch::FullDisk full(1000);
    message = message_of([&] { write_file(path, std::string(5000, 'x')); });
  }
  CHECK(contains(message, "cannot write"));
  CHECK(contains(message, "-> free space"));
  CHECK(read_file(path) == "old");
  CHECK(scratch::list(dir.path).size() == 1);
}
