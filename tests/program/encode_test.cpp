// The program `encode`, from outside: parity, dtypes, threads, and every way to fail.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>

#include "generated.hpp"
#include "run.hpp"

using namespace moraine;
using program::Words;

namespace {

/// A small model in a directory of its own, to be spoilt; the output goes to another one.
struct Case {
  scratch::Dir dir, out;
  explicit Case(const std::string& fixture = "dinov2_plain") {
    const std::string from = fixtures::dir() + "/" + fixture;
    const fixtures::ModelFolder model(from);
    for (const std::string& n : scratch::list(model.path))
      if (n == "config.json" || n.rfind("model", 0) == 0)
        program::copy(model.path + "/" + n, dir / n);
    program::copy(from + "/in.safetensors", dir / "in.safetensors");
  }
  std::string result() const { return out / "out.safetensors"; }
  Words words() const {
    return {"--model", dir.path, "--input", dir / "in.safetensors", "--output", result()};
  }
  void config(const char* field, Json value) {
    Json c = read_json(dir / "config.json");
    c.set(field, std::move(value));
    write_json(dir / "config.json", c);
  }
  /// Lets f change the tensors of a file. They are copied out of it before it is written.
  void tensors(const char* file, const std::function<void(TensorMap&)>& f) {
    TensorMap map = read_safetensors(dir / file, {.map = false}).tensors;
    f(map);
    write_safetensors(dir / file, map);
  }
  void pixels(Tensor<float> x) {
    write_safetensors(dir / "in.safetensors", {{"pixel_values", AnyTensor(x)}});
  }
  program::Result run(const Words& more = {}) const {
    Words all = words();
    all.insert(all.end(), more.begin(), more.end());
    return program::run("encode", all);
  }
};

/// Fails as the contract says, and the line names all of `names`.
void check_failure(const program::Result& r, const Words& names) {
  INFO("line: " << r.err);
  CHECK(r.status == 1);
  CHECK(program::is_one_line(r.err));
  CHECK(r.err.rfind("encode: ", 0) == 0);
  CHECK(r.err.find("; ") != std::string::npos);
  for (const std::string& n : names) CHECK_MESSAGE(r.err.find(n) != std::string::npos, n);
}
void check_failure(const Case& c, const Words& names, const Words& more = {}) {
  write_file(c.result(), "before");  // a file that was there before stays
  check_failure(c.run(more), names);
  CHECK(scratch::list(c.out.path).size() == 1);
  CHECK(read_file(c.result()) == "before");
  unlink(c.result().c_str());
  check_failure(c.run(more), names);
  CHECK(scratch::list(c.out.path).empty());
}
void spoil(const Words& names, const std::function<void(Case&)>& how,
           const std::string& fixture = "dinov2_plain") {
  Case c(fixture);
  how(c);
  check_failure(c, names);
}
const Json none;
const std::string query = "encoder.layer.1.attention.attention.query.weight";

double rms(const std::vector<double>& v) {
  double s = 0;
  for (double x : v) s += x * x;
  return std::sqrt(s / static_cast<double>(std::max<std::size_t>(1, v.size())));
}
}  // namespace

TEST_CASE("encode: every fixture, f32 and bf16") {
  if (!program::is_built()) return;
  std::vector<std::string> folders;
  for (const std::string& family : fixtures::families) {
    const auto some = fixtures::folders(family);
    CHECK_MESSAGE(!some.empty(), family);
    folders.insert(folders.end(), some.begin(), some.end());
  }
  REQUIRE(folders.size() >= 14);
  for (const std::string& dir : fixtures::folders(""))
    if (is_file(dir + "/config.json"))
      CHECK_MESSAGE(std::count(folders.begin(), folders.end(), dir) == 1, dir);
  for (const std::string& dir : folders) {
    INFO(dir);
    const fixtures::ModelFolder folder(dir);
    double worst = -1, worst16 = -1, worst_rms = -1;
    for (const std::string& file : scratch::list(dir)) {
      if (file.rfind("in", 0) != 0 || !file.ends_with(".safetensors")) continue;
      const scratch::Dir out;
      const SafetensorsFile ref = read_safetensors(dir + "/ref" + file.substr(2));
      const Words words{"--model",  folder.path, "--input", dir + "/" + file,
                        "--output", out / "o",   "--dtype"};
      for (const char* type : {"f32", "bf16"}) {
        Words all = words;
        all.push_back(type);
        const program::Result r = program::run("encode", all);
        REQUIRE_MESSAGE(r.status == 0, r.err);
        CHECK(r.err.empty());
        const SafetensorsFile got = read_safetensors(out / "o");
        std::string at;
        const double d = fixtures::distance(got.tensors, ref.tensors, &at);
        for (const auto& [name, t] : got.tensors) CHECK(t.dtype == Dtype::f32);
        (type[0] == 'f' ? worst : worst16) = std::max(d, type[0] == 'f' ? worst : worst16);
        if (type[0] == 'b')
          for (const auto& [name, t] : got.tensors) {
            std::vector<double> x = t.as<double>().values();
            const std::vector<double> y = ref.tensors.at(name).as<double>().values();
            REQUIRE(x.size() == y.size());
            for (std::size_t i = 0; i < x.size(); ++i) x[i] -= y[i];
            worst_rms = std::max(worst_rms, rms(x) / std::max(1.0, rms(y)));
          }
      }
    }
    std::printf("  %-32s f32 %.1e   bf16 %.1e, rms %.1e\n", base_name(dir).c_str(), worst, worst16,
                worst_rms);
    CHECK(worst <= 1e-4);
    CHECK(worst16 <= 5e-2);
    CHECK(worst_rms <= 3e-2);
    CHECK(worst16 > worst);  // or bf16 was not what ran
  }
}

TEST_CASE("encode: the same bytes for any number of threads") {
  if (!program::is_built()) return;
  Case c;
  Tensor<float> x = Tensor<float>::empty({3, 3, 70, 63});
  for (Index i = 0; i < x.numel(); ++i) x.data()[i] = std::sin(0.37f * static_cast<float>(i));
  c.pixels(x);
  for (const char* type : {"f32", "bf16"}) {
    REQUIRE(c.run({"--threads", "1", "--dtype", type}).status == 0);
    const std::string one = read_file(c.result());
    for (const char* n : {"1", "2", "3", "7"}) {
      REQUIRE(c.run({"--threads", n, "--dtype", type}).status == 0);
      CHECK(read_file(c.result()) == one);
    }
  }
}

TEST_CASE("encode: NaN and infinity pass through") {
  if (!program::is_built()) return;
  Case c;
  Tensor<float> x = Tensor<float>::ones({2, 3, 28, 28});
  x.data()[5] = std::numeric_limits<float>::quiet_NaN();
  c.pixels(x);
  REQUIRE(c.run().status == 0);
  const Tensor<float> last =
      read_safetensors(c.result()).tensors.at("last_hidden_state").as<float>();
  CHECK(std::isnan(last.at({0, 0, 0})));
  CHECK(std::isfinite(last.at({1, 0, 0})));
  x.data()[5] = std::numeric_limits<float>::infinity();
  c.pixels(x);
  CHECK(c.run().status == 0);
}

TEST_CASE(
    "encode: unaligned data, other tensors in the input, the single file wins over an index") {
  if (!program::is_built()) return;
  Case c;
  REQUIRE(c.run().status == 0);
  const std::string plain = read_file(c.result());
  for (const char* file : {"model.safetensors", "in.safetensors"}) {  // one space moves the data
    std::string bytes = read_file(c.dir / file);
    std::uint64_t n;
    std::memcpy(&n, bytes.data(), 8);
    bytes.insert(8 + n, " ");
    ++n;
    std::memcpy(bytes.data(), &n, 8);
    write_file(c.dir / file, bytes);
  }
  write_file(c.dir / "model.safetensors.index.json", "not an index");
  REQUIRE(c.run().status == 0);
  CHECK(read_file(c.result()) == plain);
  c.tensors("in.safetensors",
            [](TensorMap& m) { m.emplace("wavelengths", Tensor<double>::ones({2})); });
  REQUIRE(c.run().status == 0);
  CHECK(read_file(c.result()) == plain);
}

TEST_CASE("encode: options") {
  if (!program::is_built()) return;
  const Case c;
  check_failure(c, {"--colour"}, {"--colour", "red"});
  check_failure(c, {"--model"}, {"--model", c.dir.path});
  check_failure(c, {"--dtype"}, {"--dtype", "f16"});
  check_failure(c, {"--device"}, {"--device", "gpu"});
  check_failure(c, {"--threads"}, {"--threads", "0"});
  check_failure(c, {"--threads"}, {"--threads", "2x"});
  check_failure(c, {"--dtype"}, {"--dtype"});
  check_failure(c, {"stray"}, {"stray"});
  for (std::size_t i = 0; i < 3; ++i) {
    Words w = c.words();
    const std::string gone = w[2 * i];
    w.erase(w.begin() + static_cast<long>(2 * i), w.begin() + static_cast<long>(2 * i) + 2);
    check_failure(program::run("encode", w), {gone});
  }
  const program::Result cuda = c.run({"--device", "cuda"});
  if (cuda.status != 0) check_failure(cuda, {"--device", "cuda"});
  for (const char* help : {"--help", "-h"}) {
    const program::Result r = program::run("encode", {help});
    CHECK(r.status == 0);
    CHECK(r.out.rfind("usage: encode --model", 0) == 0);
  }
  Words w = c.words();
  w.insert(w.begin(), "encode");
  CHECK(program::run("moraine", w).status == 0);
  CHECK(program::run("encode", {"--model=" + c.dir.path, "--input=" + (c.dir / "in.safetensors"),
                                "--output=" + c.result()})
            .status == 0);
}

TEST_CASE("encode: a config that is wrong") {
  if (!program::is_built()) return;
  spoil({"config.json"}, [](Case& c) { unlink((c.dir / "config.json").c_str()); });
  spoil({"config.json"}, [](Case& c) { write_file(c.dir / "config.json", "{\"model_type\": "); });
  spoil({"config.json"}, [](Case& c) { write_file(c.dir / "config.json", "[1]"); });
  spoil({"config.json"}, [](Case& c) { write_file(c.dir / "config.json", ""); });
  const auto field = [](const char* name, Json value, Words names = {}) {
    names.insert(names.end(), {"config.json", name});
    spoil(names, [&](Case& c) { c.config(name, value); });
  };
  field("hidden_size", "24");
  field("hidden_size", 24.5);
  field("hidden_size", 0);
  field("hidden_size", -24);
  field("hidden_size", 1e30);
  field("num_attention_heads", 5);
  field("num_attention_heads", 0);
  field("num_hidden_layers", 0);
  field("patch_size", 0);
  field("num_channels", -3);
  field("image_size", 3);
  field("mlp_ratio", -1);
  field("mlp_ratio", true);
  field("layer_norm_eps", "small");
  field("layer_norm_eps", -1e-6);
  field("qkv_bias", 1);
  field("hidden_act", 3);
  spoil({"hidden_act", "mish"}, [](Case& c) { c.config("hidden_act", "mish"); });
  spoil({"resnet"}, [](Case& c) { c.config("model_type", "resnet"); });
  spoil({"names no model"}, [](Case& c) { c.config("model_type", none); });
  spoil({"model_type", "config.json"}, [](Case& c) { c.config("model_type", 7); });
  spoil({"resnet50"},
        [](Case& c) { write_file(c.dir / "config.json", "{\"architecture\": \"resnet50\"}"); });
  // null is the default: 12 layers.
  spoil({"encoder.layer.3."}, [](Case& c) { c.config("num_hidden_layers", none); });
  // Far larger than its file, refused without the memory.
  spoil({"encoder.layer.3."}, [](Case& c) { c.config("num_hidden_layers", 10000000); });
  spoil({"layernorm.weight", "16777215"}, [](Case& c) { c.config("hidden_size", 16777215); });
}

TEST_CASE("encode: weights that are wrong") {
  if (!program::is_built()) return;
  const char* model = "model.safetensors";
  const auto weights = [&](const Words& names, const std::function<void(TensorMap&)>& f) {
    spoil(names, [&](Case& c) { c.tensors(model, f); });
  };
  spoil({"model.safetensors"}, [&](Case& c) { unlink((c.dir / model).c_str()); });
  weights({query, "missing"}, [](TensorMap& m) { m.erase(query); });
  weights({query, "(24,24)", "(24,23)"}, [](TensorMap& m) {
    m[query] = Tensor<float>::ones({24, 23});
  });
  weights({query, "I64"}, [](TensorMap& m) { m[query] = Tensor<std::int64_t>::ones({24, 24}); });
  weights({query, "F64"}, [](TensorMap& m) { m[query] = Tensor<double>::ones({24, 24}); });
  weights({"encoder.layer.9.norm1.weight"},
          [](TensorMap& m) { m["encoder.layer.9.norm1.weight"] = Tensor<float>::ones({24}); });
  weights({"classifier.weight"}, [](TensorMap& m) {
    m["classifier.weight"] = Tensor<float>::ones({2, 24});
  });
  weights({"layernorm.bias", "layernorm.weight", "12"}, [](TensorMap& m) {
    m.erase("layernorm.bias");
    m.erase("layernorm.weight");
    for (int i = 0; i < 12; ++i) m["extra." + std::to_string(i)] = Tensor<float>::ones({1});
  });
  const auto bytes = [&](const Words& names, const char* file,
                         const std::function<void(std::string&)>& f) {
    spoil(names, [&](Case& c) {
      std::string b = read_file(c.dir / file);
      f(b);
      write_file(c.dir / file, b);
    });
  };
  for (const char* file : {model, "in.safetensors"}) {
    bytes({file}, file, [](std::string& b) { b.resize(b.size() - 1); });
    bytes({file}, file, [](std::string& b) { b += '\0'; });
    bytes({file}, file, [](std::string& b) { b.resize(5); });
    bytes({file}, file, [](std::string& b) { b.clear(); });
    bytes({file}, file, [](std::string& b) { b[3] = 1; });    // a header longer than the file
    bytes({file}, file, [](std::string& b) { b[8] = '['; });  // bad JSON
    bytes({file}, file, [](std::string& b) { b.replace(b.find("F32"), 3, "F99"); });
  }
}

TEST_CASE("encode: shards that are wrong") {
  if (!program::is_built()) return;
  const std::string index = "model.safetensors.index.json";
  const auto change = [&](const Words& names, const std::function<void(Json&, Case&)>& f) {
    spoil(
        names,
        [&](Case& c) {
          Json j = read_json(c.dir / index);
          f(*j.find("weight_map"), c);
          write_json(c.dir / index, j);
        },
        "dinov2_sharded");
  };
  const std::string key = "layernorm.weight";
  change({index, "../x"}, [&](Json& map, Case&) { map.set(key, "../x"); });
  change({index, "a/b"}, [&](Json& map, Case&) { map.set(key, "a/b"); });
  change({index, "gone.safetensors"}, [&](Json& map, Case&) { map.set(key, "gone.safetensors"); });
  change({"nobody.weight"}, [&](Json& map, Case&) {
    map.set("nobody.weight", map.at(key).as_string());  // its shard does not hold it
  });
  change({key}, [&](Json& map, Case& c) {  // two shards hold it
    for (const JsonMember& m : map.as_object())
      if (m.value.as_string() != map.at(key).as_string()) {
        c.tensors(m.value.as_string().c_str(),
                  [&](TensorMap& t) { t[key] = Tensor<float>::ones({12}); });
        return;
      }
  });
  Case ok("dinov2_sharded");
  CHECK(ok.run().status == 0);
}

TEST_CASE("encode: images that are wrong") {
  if (!program::is_built()) return;
  const auto image = [](const Words& names, const Shape& s) {
    spoil(names, [&](Case& c) { c.pixels(Tensor<float>::ones(s)); });
  };
  image({"pixel_values", "(1,4,28,28)"}, {1, 4, 28, 28});
  image({"pixel_values", "(3,28,28)"}, {3, 28, 28});
  image({"pixel_values", "(0,3,28,28)"}, {0, 3, 28, 28});
  image({"pixel_values", "(1,3,6,28)"}, {1, 3, 6, 28});
  image({"pixel_values", "(1,3,28,0)"}, {1, 3, 28, 0});
  spoil({"pixel_values", "F64"}, [](Case& c) {
    c.tensors("in.safetensors", [](TensorMap& m) {
      m["pixel_values"] = Tensor<double>::ones({1, 3, 28, 28});
    });
  });
  spoil({"pixel_values"}, [](Case& c) {
    c.tensors("in.safetensors", [](TensorMap& m) {
      m["pixels"] = m["pixel_values"];
      m.erase("pixel_values");
    });
  });
  spoil({"in.safetensors"}, [](Case& c) { unlink((c.dir / "in.safetensors").c_str()); });
}

TEST_CASE("encode: what SAM refuses") {
  if (!program::is_built()) return;
  const auto sam = [](const Words& names, const std::function<void(Case&)>& how) {
    spoil(names, how, "sam_plain");
  };
  const auto field = [&](const char* name, Json value) {
    sam({"config.json", name}, [&](Case& c) { c.config(name, value); });
  };
  const auto weights = [&](const Words& names, const std::function<void(TensorMap&)>& f) {
    sam(names, [&](Case& c) { c.tensors("model.safetensors", f); });
  };
  for (const char* size : {"hidden_size", "output_channels", "num_hidden_layers", "patch_size",
                           "num_attention_heads", "num_channels", "image_size", "mlp_dim"}) {
    field(size, 0);
    field(size, "20");
  }
  field("window_size", -3);
  field("window_size", 16777215);
  field("num_attention_heads", 5);
  field("image_size", 3);
  field("global_attn_indexes", 1);
  field("global_attn_indexes", Json::array({Json("2")}));
  field("use_rel_pos", 1);
  field("layer_norm_eps", -1);
  sam({"mish"}, [](Case& c) { c.config("hidden_act", "mish"); });
  sam({"mlp_ratio"}, [](Case& c) {
    c.config("mlp_dim", none);
    c.config("mlp_ratio", -4);
  });
  sam({"vision_encoder.layers.3."}, [](Case& c) { c.config("num_hidden_layers", none); });
  sam({"vision_encoder.layers.3."}, [](Case& c) { c.config("num_hidden_layers", 10000000); });
  sam({"vision_encoder.pos_embed", "(1,5,5,24)"}, [](Case& c) { c.config("image_size", none); });
  sam({"vision_encoder.layers.0.attn.rel_pos_h", "(5,8)"},
      [](Case& c) { c.config("window_size", none); });
  sam({"vision_encoder.pos_embed"}, [](Case& c) { c.config("use_abs_pos", false); });
  const std::string key = "vision_encoder.layers.1.mlp.lin2.weight";
  weights({key, "missing"}, [&](TensorMap& m) { m.erase(key); });
  weights({key, "(24,96)"}, [&](TensorMap& m) { m[key] = Tensor<float>::ones({96, 24}); });
  weights({key, "I64"}, [&](TensorMap& m) { m[key] = Tensor<std::int64_t>::ones({24, 96}); });
  weights({"neck.conv3.weight"},
          [](TensorMap& m) { m["vision_encoder.neck.conv3.weight"] = Tensor<float>::ones({1}); });
  for (const Shape& s : {Shape{1, 3, 24, 20},
                         {1, 3, 24, 24},
                         {1, 3, 3, 3},
                         {1, 1, 20, 20},
                         {3, 20, 20},
                         {0, 3, 20, 20}})
    sam({"pixel_values", str(s)}, [&](Case& c) { c.pixels(Tensor<float>::ones(s)); });
  // Of a whole SAM only the vision encoder is looked at, whatever else there is.
  Case whole("sam_full");
  whole.tensors("model.safetensors", [](TensorMap& m) {
    m["mask_decoder.more"] = Tensor<std::int64_t>::ones({1});
    m.erase("shared_image_embedding.positional_embedding");
  });
  CHECK(whole.run().status == 0);
  whole.config("vision_config", Json(3));
  check_failure(whole, {"config.json", "vision_config"});
}

TEST_CASE("encode: what DOFA refuses") {
  if (!program::is_built()) return;
  const auto dofa = [](const Words& names, const std::function<void(Case&)>& how,
                       const std::string& fixture = "dofa_plain") { spoil(names, how, fixture); };
  const auto field = [&](const char* name, Json value) {
    dofa({"config.json", name}, [&](Case& c) { c.config(name, value); });
  };
  for (const char* size : {"img_size", "patch_size", "embed_dim", "depth", "num_heads"}) {
    field(size, 0);
    field(size, 2.5);
  }
  field("num_classes", -1);
  field("num_heads", 5);
  field("global_pool", "avg");
  field("mlp_ratio", 1e30);
  field("img_size", 3);
  field("patch_size", 16777215);
  field("img_size", 23);  // six patches a side by its convolution, five positions
  dofa({"blocks.3."}, [](Case& c) { c.config("depth", none); });
  dofa({"blocks.3."}, [](Case& c) { c.config("depth", 10000000); });
  dofa({"cls_token", "(1,1,24)"}, [](Case& c) { c.config("embed_dim", 3000000); });
  dofa({"head.weight", "head.bias"}, [](Case& c) { c.config("num_classes", 4); });
  dofa({"fc_norm.weight", "fc_norm.bias"}, [](Case& c) { c.config("global_pool", false); });
  const auto weights = [&](const Words& names, const std::function<void(TensorMap&)>& f) {
    dofa(names, [&](Case& c) { c.tensors("model.safetensors", f); });
  };
  const std::string key = "patch_embed.weight_generator.fc_weight.weight";
  weights({key, "missing"}, [&](TensorMap& m) { m.erase(key); });
  weights({"fc_norm.bias", "missing"}, [](TensorMap& m) { m.erase("fc_norm.bias"); });
  weights({key, "(384,128)"}, [&](TensorMap& m) { m[key] = Tensor<float>::ones({384, 1}); });
  weights({"head.weight"}, [](TensorMap& m) { m["head.weight"] = Tensor<float>::ones({4, 24}); });
  dofa(
      {"fc_norm.weight"},
      [](Case& c) {  // what the class would leave random
        c.tensors("model.safetensors", [](TensorMap& m) {
          m.erase("fc_norm.weight");
          m.erase("fc_norm.bias");
        });
      },
      "dofa_classes");
  for (const Shape& s : {Shape{1, 3, 24, 20},
                         {1, 3, 24, 24},
                         {1, 3, 2, 2},
                         {1, 1, 20, 20},
                         {1, 0, 20, 20},
                         {3, 20, 20},
                         {0, 3, 20, 20}})
    dofa({str(s)}, [&](Case& c) {
      c.tensors("in.safetensors",
                [&](TensorMap& m) { m["pixel_values"] = Tensor<float>::ones(s); });
    });
  dofa({"wavelengths"}, [](Case& c) { c.pixels(Tensor<float>::ones({1, 3, 20, 20})); });
  const auto waves = [&](const Words& names, const AnyTensor& t) {
    dofa(names, [&](Case& c) {
      c.tensors("in.safetensors", [&](TensorMap& m) { m["wavelengths"] = t; });
    });
  };
  waves({"wavelengths", "(2)"}, Tensor<float>::ones({2}));
  waves({"wavelengths", "(1,3)"}, Tensor<float>::ones({1, 3}));
  waves({"wavelengths", "F64"}, Tensor<double>::ones({3}));
}

TEST_CASE("encode: what DINOv3, CLIP and EVA-02 refuse") {
  if (!program::is_built()) return;
  const auto field = [](const std::string& fixture, const char* name, Json value,
                        Words names = {}) {
    names.insert(names.end(), {"config.json", name});
    spoil(
        names, [&](Case& c) { c.config(name, value); }, fixture);
  };
  for (const char* size : {"hidden_size", "intermediate_size", "num_hidden_layers",
                           "num_attention_heads", "patch_size", "num_channels"})
    for (const char* fixture : {"dinov3_plain", "clip_plain"}) {
      field(fixture, size, 0);
      field(fixture, size, 2.5);
      field(fixture, size, "3");
      field(fixture, size, 1e30);
    }
  for (const char* fixture : {"dinov3_plain", "clip_plain"}) {
    field(fixture, "num_attention_heads", 5);
    field(fixture, "layer_norm_eps", -1e-6);
    spoil(
        {"hidden_act", "mish"}, [](Case& c) { c.config("hidden_act", "mish"); }, fixture);
  }
  field("dinov3_plain", "num_attention_heads", 4);  // heads of 6
  field("dinov3_plain", "rope_theta", 0);
  field("dinov3_plain", "num_register_tokens", -1);
  field("dinov3_plain", "use_gated_mlp", 1);
  field("clip_plain", "image_size", 6);
  field("clip_full", "vision_config", 3);
  field("eva02_plain", "model_args", 3);
  field("eva02_plain", "num_classes", -1);
  const auto args = [](const char* name, Json value, const char* fixture = "eva02_plain") {
    spoil(
        {"config.json", name},
        [&](Case& c) {
          Json j = read_json(c.dir / "config.json");
          j.find("model_args")->set(name, value);
          write_json(c.dir / "config.json", j);
        },
        fixture);
  };
  args("embed_dim", 0);
  args("depth", 1.5);
  args("num_heads", 5);
  args("num_heads", 4);  // heads of 6
  args("img_size", 6);
  args("global_pool", "map");
  args("qkv_bias", 1);
  args("ref_feat_shape", "16x16");
  args("drop_rate", 0.1);  // not one of those that may be overridden
  spoil(
      {"eva02_base_patch16_224"},
      [](Case& c) { c.config("architecture", "eva02_base_patch16_224"); }, "eva02_plain");

  // Weights: of another config, one too many, one too few, one of another type.
  spoil(
      {"layer.3."}, [](Case& c) { c.config("num_hidden_layers", none); }, "dinov3_plain");
  spoil(
      {"layer.3."}, [](Case& c) { c.config("num_hidden_layers", 10000000); }, "dinov3_plain");
  spoil(
      {"norm.weight", "(24)"}, [](Case& c) { c.config("hidden_size", 16777212 / 3 * 3); },
      "dinov3_plain");
  spoil(
      {"layer.0.attention.k_proj.bias"}, [](Case& c) { c.config("key_bias", true); },
      "dinov3_plain");
  spoil(
      {"layer.0.attention.q_proj.bias"}, [](Case& c) { c.config("query_bias", false); },
      "dinov3_plain");
  spoil(
      {"layer.0.mlp.gate_proj.weight"}, [](Case& c) { c.config("use_gated_mlp", true); },
      "dinov3_plain");
  spoil(
      {"embeddings.position_embedding.weight", "(26,24)", "(17,24)"},
      [](Case& c) { c.config("image_size", 35); }, "clip_plain");
  spoil(
      {"head.weight", "head.bias"}, [](Case& c) { c.config("num_classes", 4); }, "eva02_plain");
  spoil(
      {"head.weight", "16000000"}, [](Case& c) { c.config("num_classes", 16000000); },
      "eva02_classes");
  const auto weights = [](const std::string& fixture, const std::string& key, const Shape& other) {
    const auto change = [&](const Words& names, const std::function<void(TensorMap&)>& f) {
      spoil(
          names, [&](Case& c) { c.tensors("model.safetensors", f); }, fixture);
    };
    change({key, "missing"}, [&](TensorMap& m) { m.erase(key); });
    change({key, str(other)}, [&](TensorMap& m) { m[key] = Tensor<float>::ones(other); });
    change({key, "I64"}, [&](TensorMap& m) { m[key] = Tensor<std::int64_t>::ones({24, 24}); });
    change({"more.weight"}, [&](TensorMap& m) { m["more.weight"] = Tensor<float>::ones({1}); });
  };
  weights("dinov3_plain", "layer.1.attention.k_proj.weight", {24, 23});
  weights("clip_plain", "encoder.layers.1.self_attn.v_proj.weight", {23, 24});
  weights("clip_full", "vision_model.encoder.layers.0.mlp.fc1.bias", {21});
  weights("eva02_plain", "blocks.0.mlp.fc1_x.weight", {65, 24});

  for (const char* fixture : {"dinov3_plain", "clip_plain", "eva02_plain"})
    for (const Shape& s :
         {Shape{1, 4, 28, 28}, {3, 28, 28}, {0, 3, 28, 28}, {1, 3, 6, 28}, {1, 3, 28, 0}})
      spoil(
          {"pixel_values", str(s)}, [&](Case& c) { c.pixels(Tensor<float>::ones(s)); }, fixture);
  spoil(
      {"pixel_values", "(1,3,28,30)"},
      [](Case& c) {
        c.pixels(Tensor<float>::ones({1, 3, 28, 30}));
      },
      "eva02_plain");
}

TEST_CASE("encode: outputs that cannot be written") {
  if (!program::is_built()) return;
  const Case c;
  const auto to = [&](const std::string& path) {
    Words w = c.words();
    w[5] = path;
    return program::run("encode", w);
  };
  check_failure(to(c.out.path), {c.out.path});
  check_failure(to(c.out / "no/out.safetensors"), {c.out / "no"});
  CHECK(scratch::list(c.out.path).empty());
  const scratch::FullDisk full(2000);
  check_failure(to(c.result()), {"out.safetensors"});
  CHECK(scratch::list(c.out.path).empty());
}
