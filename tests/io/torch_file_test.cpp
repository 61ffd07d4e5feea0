// Checkpoints of torch.save: what they hold, and what a hostile one cannot do.
#include <doctest/doctest.h>

#include <cstring>
#include <moraine/io/json.hpp>
#include <moraine/io/safetensors.hpp>
#include <moraine/io/torch_file.hpp>
#include <moraine/io/weights.hpp>
#include <string>
#include <vector>

#include "fixtures.hpp"

using namespace moraine;

namespace {
std::string torch_dir() {
  const auto found = fixtures::folders("torch");
  REQUIRE(found.size() == 1);
  return found[0] + "/";
}

template <class U>
void append_bytes(std::string& s, U v) {
  s.append(reinterpret_cast<const char*>(&v), sizeof v);
}
struct Record {
  std::string name, bytes;
  int method = 0;
};
/// A ZIP archive; `claim` is what the directory says of an entry's size beyond the truth.
std::string zip_of(const std::vector<Record>& records, std::uint16_t flags = 0) {
  std::string out, directory;
  for (const Record& r : records) {
    const auto at = static_cast<std::uint32_t>(out.size());
    const auto n = static_cast<std::uint32_t>(r.bytes.size());
    append_bytes<std::uint32_t>(out, 0x04034b50), append_bytes<std::uint16_t>(out, 20),
        append_bytes(out, flags);
    append_bytes<std::uint16_t>(out, static_cast<std::uint16_t>(r.method)),
        append_bytes<std::uint32_t>(out, 0);
    append_bytes<std::uint32_t>(out, 0), append_bytes(out, n), append_bytes(out, n);
    append_bytes(out, static_cast<std::uint16_t>(r.name.size())),
        append_bytes<std::uint16_t>(out, 0);
    out += r.name + r.bytes;
    append_bytes<std::uint32_t>(directory, 0x02014b50), append_bytes<std::uint16_t>(directory, 20);
    append_bytes<std::uint16_t>(directory, 20), append_bytes(directory, flags);
    append_bytes<std::uint16_t>(directory, static_cast<std::uint16_t>(r.method));
    append_bytes<std::uint32_t>(directory, 0), append_bytes<std::uint32_t>(directory, 0),
        append_bytes(directory, n);
    append_bytes(directory, n), append_bytes(directory, static_cast<std::uint16_t>(r.name.size()));
    append_bytes<std::uint16_t>(directory, 0), append_bytes<std::uint16_t>(directory, 0);
    append_bytes<std::uint16_t>(directory, 0), append_bytes<std::uint16_t>(directory, 0);
    append_bytes<std::uint32_t>(directory, 0), append_bytes(directory, at);
    directory += r.name;
  }
  const auto begin = static_cast<std::uint32_t>(out.size());
  out += directory;
  append_bytes<std::uint32_t>(out, 0x06054b50), append_bytes<std::uint32_t>(out, 0);
  append_bytes(out, static_cast<std::uint16_t>(records.size()));
  append_bytes(out, static_cast<std::uint16_t>(records.size()));
  append_bytes(out, static_cast<std::uint32_t>(directory.size())), append_bytes(out, begin);
  append_bytes<std::uint16_t>(out, 0);
  return out;
}
/// Pickle pieces.
std::string text(const std::string& s) {
  std::string out = "X";
  append_bytes(out, static_cast<std::uint32_t>(s.size()));
  return out + s;
}
std::string whole(std::int64_t v) {
  std::string out = "\x8a\x08";
  append_bytes(out, v);
  return out;
}
std::string tuple_of(const std::vector<std::int64_t>& v) {
  std::string out = "(";
  for (std::int64_t i : v) out += whole(i);
  return out + "t";
}
std::string tensor_pickle(std::int64_t elements, std::int64_t offset,
                          const std::vector<std::int64_t>& shape,
                          const std::vector<std::int64_t>& stride, const std::string& key = "0") {
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\nFloatStorage\n" +
         text(key) + text("cpu") + whole(elements) + "tQ" + whole(offset) + tuple_of(shape) +
         tuple_of(stride) + "\x89}tR";
}
std::string checkpoint(const std::string& value, std::size_t bytes = 16) {
  return zip_of({{"m/data.pkl", "\x80\x02}" + text("w") + value + "s."},
                 {"m/data/0", std::string(bytes, '\1')}});
}
std::string refusal(const std::string& file, const TorchOptions& o = {}) {
  return scratch::message_of([&] {
    parse_torch(reinterpret_cast<const std::byte*>(file.data()), file.size(), nullptr, "x.pth", o);
  });
}
void check_refused(const std::string& file, const std::string& part, const TorchOptions& o = {}) {
  const std::string m = refusal(file, o);
  INFO("message: " << m);
  CHECK(m.rfind("torch: \"x.pth\"", 0) + m.rfind("zip: \"x.pth\"", 0) != 2 * std::string::npos);
  CHECK(scratch::contains(m, part));
  CHECK(m.find('\n') == std::string::npos);
}
}  // namespace

TEST_CASE("torch: every fixture gives the tensors that torch gives") {
  const std::string dir = torch_dir();
  int files = 0;
  for (const std::string& n : scratch::list(dir)) {
    const std::size_t dot = n.rfind('.');
    if (n.ends_with(".safetensors") || n.ends_with(".json") || n.rfind("refuse", 0) == 0) continue;
    INFO(n);
    ++files;
    const SafetensorsFile expected = read_safetensors(dir + n.substr(0, dot) + ".safetensors");
    for (bool map : {true, false}) {
      const TorchFile got = read_torch(dir + n, {.map = map});
      REQUIRE(got.tensors.size() == expected.tensors.size());
      for (const auto& entry_name : expected.tensors) {
        const auto& name = entry_name.first;
        const auto& t = entry_name.second;
        INFO(name);
        REQUIRE(got.tensors.count(name) == 1);
        const AnyTensor& g = got.tensors.at(name);
        CHECK(g.shape == t.shape);
        CHECK(g.dtype == t.dtype);
        REQUIRE(g.bytes == t.bytes);
        if (t.bytes) CHECK(std::memcmp(g.data, t.data, t.bytes) == 0);
      }
    }
  }
  CHECK(files == 13);
}

TEST_CASE("torch: which part of a checkpoint is read, and what else is there") {
  const std::string dir = torch_dir();
  const TorchFile teacher = read_torch(dir + "teacher.pth");
  CHECK(teacher.selected == "teacher");
  CHECK(teacher.others == std::vector<std::string>{"student"});
  const TorchFile student = read_torch(dir + "teacher.pth", {.select = "student"});
  CHECK(student.tensors.size() == teacher.tensors.size());
  CHECK(student.tensors.at("fc.weight").as<float>().values() !=
        teacher.tensors.at("fc.weight").as<float>().values());
  const TorchFile all = read_torch(dir + "teacher.pth", {.select = "*"});
  CHECK(all.tensors.size() == 2 * teacher.tensors.size());
  CHECK(all.tensors.count("student.fc.weight") == 1);
  CHECK(all.no_tensors == std::vector<std::string>{"epoch"});
  const std::string m =
      scratch::message_of([&] { read_torch(dir + "teacher.pth", {.select = "ema"}); });
  CHECK(m ==
        "torch: \"teacher.pth\": it has no \"ema\"; tensors stand in \"teacher\", \"student\"");
  CHECK(read_torch(dir + "script.pt").format == "torchscript");
  CHECK(read_torch(dir + "legacy.pth").format == "legacy");
}

TEST_CASE("torch: what is not on the list is refused by name and never run") {
  const std::string dir = torch_dir();
  const Json words = read_json(dir + "refuse.json");
  CHECK(words.as_object().size() == 5);
  for (const JsonMember& w : words.as_object()) {
    const std::string m = scratch::message_of([&] { read_torch(dir + w.key); });
    INFO(m);
    CHECK(scratch::contains(m, w.value.as_string()));
    CHECK(scratch::contains(m, w.key));
  }
  // Named by the caller it is passed over, and still not run.
  const TorchFile f = read_torch(dir + "refuse_code.pth", {.also = {"posix.*"}});
  CHECK(f.tensors.size() == 1);
  CHECK(f.no_tensors == std::vector<std::string>{"y"});
}

TEST_CASE("torch: a file that is cut off or has one byte changed is a value or an error") {
  const std::string dir = torch_dir();
  for (const char* n : {"views.pth", "legacy_views.pth", "script.pt"}) {
    const std::string whole_file = read_file(dir + n);
    int refused = 0;
    const std::size_t step = whole_file.size() > 4000 ? 37 : 3;
    for (std::size_t size = 0; size < whole_file.size(); size += step)
      refused += !refusal(whole_file.substr(0, size)).empty();
    CHECK(refused == static_cast<int>((whole_file.size() + step - 1) / step));
    for (std::size_t at = 0; at < whole_file.size(); at += step)
      for (char c : {'\0', '\xff', '(', 'R'}) {
        std::string bad = whole_file;
        bad[at] = c;
        const std::string m = refusal(bad);
        CHECK(m.find('\n') == std::string::npos);
      }
  }
}

TEST_CASE("torch: hostile numbers") {
  CHECK(refusal(checkpoint(tensor_pickle(4, 0, {2, 2}, {2, 1}))).empty());
  check_refused(checkpoint(tensor_pickle(4, 1, {2, 2}, {2, 1})), "reaches past its storage");
  check_refused(checkpoint(tensor_pickle(4, 0, {2, 2}, {3, 1})), "reaches past its storage");
  check_refused(checkpoint(tensor_pickle(4, INT64_MAX, {1}, {1})), "reaches past its storage");
  check_refused(checkpoint(tensor_pickle(4, -1, {1}, {1})), "offset");
  check_refused(checkpoint(tensor_pickle(4, 0, {-2}, {1})), "no whole number from 0");
  check_refused(checkpoint(tensor_pickle(4, 0, {2}, {-1})), "no whole number from 0");
  check_refused(checkpoint(tensor_pickle(4, 0, {2}, {1, 1})), "differ in length");
  check_refused(checkpoint(tensor_pickle(4, 0, {1LL << 32, 1LL << 32}, {0, 0})), "overflows");
  check_refused(checkpoint(tensor_pickle(4, 0, {1LL << 40}, {1LL << 40})), "strides overflow");
  check_refused(checkpoint(tensor_pickle(4, 0, {1LL << 40}, {0})), "far larger together");
  check_refused(checkpoint(tensor_pickle(5, 0, {2}, {1})), "16 bytes; it says 5 elements");
  check_refused(checkpoint(tensor_pickle(1LL << 62, 0, {2}, {1})), "it says");
  check_refused(checkpoint(tensor_pickle(-4, 0, {2}, {1})), "damaged id");
  check_refused(checkpoint(tensor_pickle(4, 0, {2}, {1}, "7")), "is not in the file");
  check_refused(
      checkpoint(tensor_pickle(4, 0, {1, 1, 1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 1, 1, 1})),
      "more than 8 axes");
  check_refused(checkpoint("(" + text("storage") + "tQ"), "holds no tensors");
  // An integer of two thousand digits is a value that nothing asks for.
  check_refused(checkpoint("\x8b" + std::string("\xe8\x03\0\0", 4) + std::string(1000, '\x7f')),
                "holds no tensors");
}

TEST_CASE("torch: hostile pickles") {
  const auto file = [](const std::string& program) {
    return zip_of({{"m/data.pkl", program}, {"m/data/0", std::string(16, '\1')}});
  };
  // A dictionary that holds the one before twice, sixty times over: 2^60 tensors.
  std::string doubled =
      "\x80\x02}" + text("w") + tensor_pickle(4, 0, {2}, {1}) + "sq" + std::string(1, '\0');
  for (int i = 0; i < 60; ++i) {
    const std::string before(1, static_cast<char>(i)), now(1, static_cast<char>(i + 1));
    doubled += "}(" + text("a") + "h" + before + text("b") + "h" + before + "uq" + now;
  }
  // The stack holds all of them; the last is the value.
  std::string program = "\x80\x02(" + doubled.substr(2) + "l.";
  check_refused(file(program), "holds no tensors");
  program = "\x80\x02" + doubled.substr(2);
  for (int i = 0; i < 61; ++i) program += "0";  // all gone; the last again
  program += "h" + std::string(1, '\x3c') + ".";
  check_refused(file(program), "hold each other too often", {.select = "*"});
  check_refused(file(program), "hold each other too often");
  // It holds itself.
  check_refused(file("\x80\x02}q\x01" + text("w") + "h\x01s."), "nested too deep");
  std::string deep = "\x80\x02";
  for (int i = 0; i < 100000; ++i) deep += "}" + text("k");
  deep += "N" + std::string(100000, 's') + ".";
  check_refused(file(deep), "nested too deep");
  check_refused(file("\x80\x02" + std::string(1 << 21, '}') + "."), "too many values");
  check_refused(file("\x80\x02" + std::string(1 << 22, 'N') + "."), "stack is too deep");
  check_refused(file("\x80\x02" + std::string(1 << 22, '(') + "."), "stack is too deep");
  check_refused(file("\x80\x02Nr" + std::string("\xff\xff\xff\xff", 4) + "."), "memo number");
  check_refused(file("\x80\x02h\x05."), "never stored");
  check_refused(file("\x80\x02X" + std::string("\xff\xff\xff\xff", 4) + "."), "cut off");
  check_refused(file("\x80\x02}(" + text("a") + "u."), "a key has no value");
  check_refused(file("\x80\x02N)R."), "calls what is no function");
  check_refused(file("\x80\x02)a."), "that is not there");
  check_refused(file("\x80\x02"
                     "cos\nsystem\n" +
                     text("x") + "\x85R."),
                "\"os.system\"");
  check_refused(file("\x80\x04" + std::string("\x8c\2os\x8c\6system\x93.")), "\"os.system\"");
  check_refused(file("\x80\x02"
                     "cbuiltins\ngetattr\n."),
                "\"builtins.getattr\"");
  check_refused(file("\x80\x02"
                     "ctorch\nload\n."),
                "\"torch.load\"");
  check_refused(file("\x80\x02(i__main__\nX\n."), "opcode INST");
  check_refused(file("\x80\x02\x82\x01."), "opcode EXT1");
  check_refused(file("\x80\x02\x01."), "no pickle opcode");
  check_refused(file("\x80\x01."), "protocol 1");
  check_refused(file(""), "cut off");
}

TEST_CASE("torch: hostile archives") {
  const std::string pickle = "\x80\x02}" + text("w") + tensor_pickle(4, 0, {2}, {1}) + "s.";
  const std::string data(16, '\1');
  check_refused(zip_of({{"m/data.pkl", pickle, 8}, {"m/data/0", data}}), "compressed, method 8");
  check_refused(zip_of({{"m/data.pkl", pickle}, {"m/data/0", data, 8}}), "compressed, method 8");
  check_refused(zip_of({{"m/data.pkl", pickle}, {"m/data/0", data}}, 1), "encrypted");
  check_refused(zip_of({{"m/data.pkl", pickle}, {"m/data.pkl", pickle}}), "the name of another");
  check_refused(zip_of({{"m/data.pkl", pickle}, {"n/data.pkl", pickle}}), "two data.pkl");
  check_refused(zip_of({{"m/weights", data}}), "holds no data.pkl");
  check_refused(zip_of({{"m/data.pkl", pickle}, {"m/data/0", data}, {"m/byteorder", "middle"}}),
                "byte order");
  check_refused(zip_of({{"m/data.pkl", pickle}, {"m/data/0", data}}) + "more", "no end record");
  // The second entry's header lies within the first one's bytes.
  const std::string inner = zip_of({{"m/data/0", data}});
  std::string outer = zip_of({{"m/a", inner}, {"m/data/0", data}});
  const std::size_t at = outer.find(std::string("\0\0\0\0", 4) + "m/a", 40);
  CHECK(at != std::string::npos);
  std::string shared = outer;
  const std::size_t second = shared.rfind("m/data/0");
  const std::uint32_t inside = 30 + 3;
  std::memcpy(shared.data() + second - 4, &inside, 4);
  check_refused(shared, "share bytes");
  // Big endian: every element turned.
  const std::string big(
      zip_of({{"m/data.pkl", pickle},
              {"m/data/0", std::string("\x3f\x80\0\0\x40\0\0\0\0\0\0\0\0\0\0\0", 16)},
              {"m/byteorder", "big"}}));
  const TorchFile f =
      parse_torch(reinterpret_cast<const std::byte*>(big.data()), big.size(), nullptr, "x.pth");
  CHECK(f.tensors.at("w").as<float>().values() == std::vector<float>{1, 2});
}

TEST_CASE("weights: told by content; a directory of .bin shards, and what is wrong with one") {
  const std::string torch = torch_dir();
  CHECK(read_weights(torch + "legacy.pth").format == "torch legacy");
  CHECK(read_weights(torch + "legacy.safetensors").format == "safetensors");
  CHECK(read_weights(torch + "script.pt").tensors.size() == 8);
  const scratch::Dir dir;
  write_file(dir / "a.bin", read_file(torch + "plain.pth"));
  write_file(dir / "b.bin", read_file(torch + "legacy_views.pth"));
  const auto index = [&](const std::string& more) {
    write_file(dir / "pytorch_model.bin.index.json",
               "{\"weight_map\": {\"fc.weight\": \"a.bin\", \"row\": \"b.bin\"" + more + "}}");
    return scratch::message_of([&] { read_weights(dir.path); });
  };
  CHECK(index("").empty());
  CHECK(read_weights(dir.path).tensors.size() == 15);
  CHECK(
      scratch::contains(index(", \"gone\": \"b.bin\""), "\"gone\" is not in its shard \"b.bin\""));
  CHECK(scratch::contains(index(", \"gone\": \"../b.bin\""), "no plain file name"));
  CHECK(scratch::contains(index(", \"gone\": \"c.bin\""), "c.bin"));
  write_file(dir / "b.bin", read_file(torch + "plain.pth"));
  CHECK(scratch::contains(index(", \"conv.bias\": \"b.bin\""), "is in two shards") !=
        scratch::contains(index(", \"conv.bias\": \"b.bin\""), "is not in its shard"));
  write_file(dir / "pytorch_model.bin", read_file(torch + "views.pth"));  // the single file wins
  CHECK(read_weights(dir.path).tensors.size() == 7);
}
