// Files that are cut off, hostile or simply wrong: weights, indices, configurations, inputs,
// checkpoints of torch. One table; every row ends in one line that names the file and what is wrong
// in it, exit status 1, and nothing new in the folder of the output.
#include <doctest/doctest.h>

#include <cstring>
#include <functional>

#include "run.hpp"

using namespace moraine;
using program::Words;

namespace {

const std::string model = "model.safetensors", input = "in.safetensors", config = "config.json",
                  shards = "model.safetensors.index.json", torch_file = "model.pth";

/// A model's folder to be spoilt.
struct Broken {
  scratch::Dir dir, out;
  void bytes(const std::string& file, const std::function<void(std::string&)>& f) {
    std::string b = read_file(dir / file);
    f(b);
    write_file(dir / file, b);
  }
  void text(const std::string& file, const std::string& from, const std::string& to) {
    bytes(file, [&](std::string& b) {
      REQUIRE(b.find(from) != std::string::npos);
      b.replace(b.find(from), from.size(), to);
    });
  }
  void header(const std::function<void(std::string&)>& f, std::string data = "\1\2\3\4") {
    std::string json;
    f(json);
    std::string b(8, '\0');
    const std::uint64_t n = json.size();
    std::memcpy(b.data(), &n, 8);
    write_file(dir / model, b + json + data);
  }
  void tensors(const std::string& file, const std::function<void(TensorMap&)>& f) {
    TensorMap map = read_safetensors(dir / file, {.map = false}).tensors;
    f(map);
    write_safetensors(dir / file, map);
  }
  void field(const char* name, Json value) {
    Json c = read_json(dir / config);
    c.set(name, std::move(value));
    write_json(dir / config, c);
  }
  void shard(const char* key, const char* file) {
    Json j = read_json(dir / shards);
    j.find("weight_map")->set(key, file);
    write_json(dir / shards, j);
  }
};

enum class By { encode, convert, info };
struct CorruptRow {
  const char* what;
  void (*spoil)(Broken&);
  Words names;  ///< must stand in the line
  By by = By::encode;
  const char* fixture = "dinov2_plain";
};

const std::string first = "encoder.layer.0.norm1.weight";

const std::vector<CorruptRow>& corrupt_rows() {
  static const std::vector<CorruptRow> rows = {
      // ---- weights: the file
      {"weights: not there", [](Broken& b) { unlink((b.dir / model).c_str()); }, {model}},
      {"weights: empty", [](Broken& b) { write_file(b.dir / model, ""); }, {model, "too short"}},
      {"weights: cut off within the header's length",
       [](Broken& b) { write_file(b.dir / model, "\1\2\3"); },
       {model, "3 bytes"}},
      {"weights: cut off within the header",
       [](Broken& b) { b.bytes(model, [](std::string& s) { s.resize(100); }); },
       {model, "longer than the file"}},
      {"weights: cut off within the data",
       [](Broken& b) { b.bytes(model, [](std::string& s) { s.resize(s.size() - 7); }); },
       {model, "cut off"}},
      {"weights: bytes after the end",
       [](Broken& b) { b.bytes(model, [](std::string& s) { s += "more"; }); },
       {model, "longer than the tensors"}},
      {"weights: a header of 2^64-1 bytes",
       [](Broken& b) { b.bytes(model, [](std::string& s) { s.replace(0, 8, 8, '\xff'); }); },
       {model, "header is too large"}},
      {"weights: a page of a web site",
       [](Broken& b) { write_file(b.dir / model, "<!DOCTYPE html><html>404</html>"); },
       {model}},
      {"weights: a pointer of git-lfs",
       [](Broken& b) {
         write_file(b.dir / model, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
       },
       {model}},
      {"weights: the header is no JSON",
       [](Broken& b) { b.bytes(model, [](std::string& s) { s[8] = '<'; }); },
       {model}},
      {"weights: the header is an array",
       [](Broken& b) { b.header([](std::string& j) { j = "[1]"; }); },
       {model, "expected an object"}},
      {"weights: an unknown type",
       [](Broken& b) {
         b.header([](std::string& j) {
           j = R"({"w":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}})";
         });
       },
       {model, "\"w\"", "F99"}},
      {"weights: a negative size",
       [](Broken& b) {
         b.header([](std::string& j) {
           j = R"({"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})";
         });
       },
       {model, "\"w\"", "whole numbers"}},
      {"weights: a size that overflows",
       [](Broken& b) {
         b.header([](std::string& j) {
           j = R"({"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})";
         });
       },
       {model, "\"w\"", "overflows"}},
      {"weights: a size that does not fit its bytes",
       [](Broken& b) {
         b.header([](std::string& j) {
           j = R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})";
         });
       },
       {model, "\"w\"", "needs 8"}},
      {"weights: two tensors on one place",
       [](Broken& b) {
         b.header([](std::string& j) {
           j = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
               R"("b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
         });
       },
       {model, "do not follow"}},
      {"weights: one name twice",
       [](Broken& b) {
         b.header([](std::string& j) {
           j = R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
               R"("a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})";
         });
       },
       {model, "\"a\""}},
      {"weights: NUL in a name",
       [](Broken& b) {
         b.header([](std::string& j) {
           j = R"({"a\u0000":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})";
         });
       },
       {model, "NUL"}},
      // ---- weights: the tensors
      {"tensors: one is missing",
       [](Broken& b) { b.tensors(model, [](TensorMap& m) { m.erase(first); }); },
       {first, "missing"}},
      {"tensors: one is of another shape",
       [](Broken& b) {
         b.tensors(model, [](TensorMap& m) { m[first] = Tensor<float>::ones({7}); });
       },
       {first, "(24)", "(7)"}},
      {"tensors: one holds whole numbers",
       [](Broken& b) {
         b.tensors(model, [](TensorMap& m) { m[first] = Tensor<std::int64_t>::ones({24}); });
       },
       {first, "I64"}},
      {"tensors: a stranger",
       [](Broken& b) {
         b.tensors(model, [](TensorMap& m) { m["stranger.weight"] = Tensor<float>::ones({1}); });
       },
       {"stranger.weight", "unexpected"}},
      {"tensors: misspelled",
       [](Broken& b) {
         b.tensors(model, [](TensorMap& m) {
           m["encoder.layer.0.norm1.wieght"] = m.at(first);
           m.erase(first);
         });
       },
       {first, "encoder.layer.0.norm1.wieght"}},
      {"tensors: of another family",
       [](Broken& b) {
         write_file(b.dir / model, read_file(fixtures::dir() + "/names_sam/hf.safetensors"));
       },
       {"vision_encoder."}},
      // ---- the configuration
      {"config: not there", [](Broken& b) { unlink((b.dir / config).c_str()); }, {config}},
      {"config: cut off",
       [](Broken& b) { b.bytes(config, [](std::string& s) { s.resize(20); }); },
       {config}},
      {"config: a list", [](Broken& b) { write_file(b.dir / config, "[]"); }, {config, "object"}},
      {"config: another encoding",
       [](Broken& b) { write_file(b.dir / config, "\xff\xfe{\0}\0"); },
       {config, "UTF-8"}},
      {"config: nested ten thousand times",
       [](Broken& b) { write_file(b.dir / config, std::string(10000, '[')); },
       {config, "too deep"}},
      {"config: a key twice",
       [](Broken& b) { b.text(config, "\"hidden_size\"", "\"hidden_act\": 1,\n\"hidden_size\""); },
       {config, "hidden_act"}},
      {"config: a text for a number",
       [](Broken& b) { b.field("hidden_size", "24"); },
       {config, "hidden_size"}},
      {"config: no model", [](Broken& b) { b.field("model_type", "resnet"); }, {config, "resnet"}},
      {"config: ten million layers",
       [](Broken& b) { b.field("num_hidden_layers", 10000000); },
       {"encoder.layer.3."}},
      // ---- shards
      {"shards: the index is no JSON",
       [](Broken& b) { write_file(b.dir / shards, "{"); },
       {shards},
       By::encode,
       "dinov2_sharded"},
      {"shards: the index has no map",
       [](Broken& b) { write_file(b.dir / shards, "{}"); },
       {shards, "weight_map"},
       By::encode,
       "dinov2_sharded"},
      {"shards: one lies elsewhere",
       [](Broken& b) { b.shard("layernorm.weight", "../model.safetensors"); },
       {shards, "layernorm.weight", "../"},
       By::encode,
       "dinov2_sharded"},
      {"shards: one is missing",
       [](Broken& b) { b.shard("layernorm.weight", "gone.safetensors"); },
       {shards, "gone.safetensors"},
       By::encode,
       "dinov2_sharded"},
      {"shards: one is cut off",
       [](Broken& b) {
         const std::string s = "model-00002-of-00004.safetensors";
         b.bytes(s, [](std::string& x) { x.resize(x.size() / 2); });
       },
       {"model-00002-of-00004.safetensors"},
       By::encode,
       "dinov2_sharded"},
      // ---- inputs
      {"input: not there", [](Broken& b) { unlink((b.dir / input).c_str()); }, {input}},
      {"input: cut off",
       [](Broken& b) { b.bytes(input, [](std::string& s) { s.resize(s.size() - 1); }); },
       {input, "cut off"}},
      {"input: no pixels",
       [](Broken& b) {
         b.tensors(input, [](TensorMap& m) { m.clear(), m["x"] = Tensor<float>::ones({1}); });
       },
       {"pixel_values"}},
      {"input: smaller than a patch",
       [](Broken& b) {
         b.tensors(input, [](TensorMap& m) {
           m["pixel_values"] = Tensor<float>::ones({1, 3, 28, 6});
         });
       },
       {"pixel_values", "(1,3,28,6)"}},
      // ---- checkpoints of torch
      {"checkpoint: empty",
       [](Broken& b) { write_file(b.dir / torch_file, ""); },
       {torch_file},
       By::convert},
      {"checkpoint: cut off",
       [](Broken& b) { b.bytes(torch_file, [](std::string& s) { s.resize(s.size() / 2); }); },
       {torch_file, "download"},
       By::convert},
      {"checkpoint: runs a program",
       [](Broken& b) {
         program::copy(fixtures::dir() + "/torch/refuse_code.pth", b.dir / torch_file);
       },
       {torch_file, "posix.system"},
       By::convert},
      {"checkpoint: a whole module",
       [](Broken& b) {
         program::copy(fixtures::dir() + "/torch/refuse_module.pth", b.dir / torch_file);
       },
       {torch_file, "torch.nn.modules.linear.Linear"},
       By::info},
      {"checkpoint: an unknown opcode",
       [](Broken& b) { b.text(torch_file, "}q", std::string("\x82") + "q"); },
       {torch_file, "data.pkl", "EXT1"},
       By::convert},
      {"checkpoint: a pickle of another maker",
       [](Broken& b) {
         program::copy(fixtures::dir() + "/torch/refuse_pickle.pth", b.dir / torch_file);
       },
       {torch_file, "torch.save did not write"},
       By::convert},
      {"checkpoint: a name that is not in the table",
       [](Broken& b) {
         b.bytes(torch_file, [](std::string& s) {
           for (std::size_t at; (at = s.find("cls_token")) != std::string::npos;)
             s.replace(at, 9, "klm_token");
         });
       },
       {"klm_token"},
       By::convert},
      {"folder: holds no model",
       [](Broken& b) {
         unlink((b.dir / model).c_str());
         unlink((b.dir / torch_file).c_str());
       },
       {model},
       By::info},
  };
  return rows;
}
}  // namespace

TEST_CASE("corrupt files: each ends in one line that names it, and leaves nothing behind") {
  if (!program::is_built()) return;
  const auto& rows = corrupt_rows();
  CHECK(rows.size() >= 40);
  for (const CorruptRow& row : rows) {
    INFO(std::string(row.what));
    Broken b;
    const std::string from = fixtures::dir() + "/" + row.fixture + "/";
    for (const std::string& n : scratch::list(from))
      if (n == config || n == input || n.rfind("model", 0) == 0) program::copy(from + n, b.dir / n);
    program::copy(fixtures::dir() + "/names_dinov2/meta.pth", b.dir / torch_file);
    row.spoil(b);
    program::Result r;
    std::string begin;
    if (row.by == By::encode) {
      begin = "encode: ";
      r = program::run("encode",
                       {"--model", b.dir.path, "--input", b.dir / input, "--output", b.out / "o"});
    } else if (row.by == By::convert) {
      begin = "convert: ";
      r = program::run("moraine", {"convert", b.dir / torch_file, b.out / "o", "--to", "hf",
                                   "--account", b.out / "a"});
    } else {
      begin = "info: ";
      const bool folder = std::string(row.what).rfind("folder", 0) == 0;
      r = program::run("moraine", {"info", folder ? b.dir.path : b.dir / torch_file});
    }
    INFO("line: " << r.err);
    CHECK(r.status == 1);
    CHECK(program::is_one_line(r.err));
    CHECK(r.err.rfind(begin, 0) == 0);
    CHECK(r.out.empty());
    for (const std::string& n : row.names) CHECK_MESSAGE(r.err.find(n) != std::string::npos, n);
    CHECK(scratch::list(b.out.path).empty());
  }
}
