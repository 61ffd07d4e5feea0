#include <moraine/io/file.hpp>

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
