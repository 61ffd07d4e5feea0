// The program `xray`, from outside: parity, gradients, diff, list, and every way to fail.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>

#include "run.hpp"

using namespace moraine;
using program::Words;

namespace {

/// A copy of a fixture, to be spoilt.
struct Case {
  scratch::Dir dir, out;
  std::string module, preset;
  explicit Case(const std::string& fixture = "xray_spectralmoe_paper_k2_noise") {
    const std::string from = fixtures::dir() + "/" + fixture + "/";
    for (const char* n : {"cfg.json", "w.safetensors", "in.safetensors"})
      program::copy(from + n, dir / n);
    const Json args = read_json(from + "args.json");
    module = args.at("module").as_string(), preset = args.at("preset").as_string();
  }
  std::string result() const { return out / "out.safetensors"; }
  Words words() const {
    return {"run",
            "--module",
            module,
            "--preset",
            preset,
            "--config",
            dir / "cfg.json",
            "--weights",
            dir / "w.safetensors",
            "--input",
            dir / "in.safetensors",
            "--output",
            result()};
  }
  program::Result run(const Words& more = {}) const {
    Words all = words();
    all.insert(all.end(), more.begin(), more.end());
    return program::run("xray", all);
  }
  void config(const char* field, Json value) {
    Json c = read_json(dir / "cfg.json");
    c.set(field, std::move(value));
    write_json(dir / "cfg.json", c);
  }
  void tensors(const char* file, const std::function<void(TensorMap&)>& f) {
    TensorMap map = read_safetensors(dir / file, {.map = false}).tensors;
    f(map);
    write_safetensors(dir / file, map);
  }
  TensorMap output() const { return read_safetensors(result(), {.map = false}).tensors; }
};

void check_failure(const program::Result& r, const Words& names) {
  INFO("line: " << r.err);
  CHECK(r.status == 2);
  CHECK(program::is_one_line(r.err));
  CHECK(r.out.empty());
  for (const std::string& n : names) CHECK_MESSAGE(r.err.find(n) != std::string::npos, n);
}
void spoil(const Words& names, const std::function<void(Case&)>& how,
           const Words& more = {"--grad"}) {
  Case c;
  how(c);
  check_failure(c.run(more), names);
  CHECK(scratch::list(c.out.path).empty());
}
}  // namespace

TEST_CASE("xray: every fixture, f64 and f32, with all gradients") {
  if (!program::is_built()) return;
  const auto folders = fixtures::folders("xray_");
  REQUIRE(folders.size() >= 28);
  for (const std::string& dir : folders) {
    INFO(dir);
    const Json args = read_json(dir + "/args.json");
    const Case c(base_name(dir));
    const TensorMap ref = read_safetensors(dir + "/ref.safetensors").tensors;
    double worst[2] = {};
    for (const char* type : {"f64", "f32"}) {
      Words more{"--dtype", type};
      if (args.at("grad").as_bool()) more.push_back("--grad");
      const program::Result r = c.run(more);
      REQUIRE_MESSAGE(r.status == 0, r.err);
      const TensorMap got = c.output();
      for (const auto& [name, t] : got)
        CHECK(t.dtype == (type[1] == '6' ? Dtype::f64 : Dtype::f32));
      std::string at;
      worst[type[1] == '3'] = fixtures::distance(got, ref, &at);
    }
    std::printf("  %-44s f64 %.1e  f32 %.1e\n", base_name(dir).c_str(), worst[0], worst[1]);
    CHECK(worst[0] <= 1e-9);
    CHECK(worst[1] <= 1e-4);
  }
}

TEST_CASE("xray run: what it prints, and the same bytes for any number of threads") {
  if (!program::is_built()) return;
  const Case c("xray_spectralmoe_official_k1");
  const program::Result r = c.run({"--grad"});
  CHECK(r.err.empty());
  CHECK(r.out ==
        "spectralmoe.plugin_layer official: L 2  E 4  T 7  r 3  D 12  k 1  layer 1; B 2  N 9; f32 "
        "cpu\n"
        "out (2,14,12)  aux_loss ()  11 intermediates  33 parameter gradients  2 input gradients "
        "-> " +
            c.result() + "\n");
  const std::string one = read_file(c.result());
  for (const char* n : {"1", "2", "3", "7"}) {
    REQUIRE(c.run({"--grad", "--threads", n}).status == 0);
    CHECK(read_file(c.result()) == one);
  }
}

TEST_CASE("xray run: gradients are there for every weight, and zero where nothing depends") {
  if (!program::is_built()) return;
  Case c("xray_spectralmoe_paper_no_cot");
  REQUIRE(c.run({"--grad"}).status == 0);
  const TensorMap weights = read_safetensors(c.dir / "w.safetensors").tensors;
  const TensorMap got = c.output();
  std::size_t gradients = 0;
  for (const auto& [name, t] : got) {
    if (name.rfind("grad.", 0) != 0) continue;
    ++gradients;
    for (double v : t.as<double>().values()) CHECK(v == 0);
  }
  CHECK(gradients == weights.size() + 2);
  for (const auto& [name, t] : weights) CHECK(got.at("grad.param." + name).shape == t.shape);
  // Without --grad, cot.* is not looked at.
  c.tensors("in.safetensors", [](TensorMap& m) { m["cot.nothing"] = Tensor<float>::ones({1}); });
  REQUIRE(c.run().status == 0);
  CHECK(c.output().size() == got.size() - gradients);
}

TEST_CASE("xray run: options") {
  if (!program::is_built()) return;
  const auto with = [](const Words& names, const Words& more) {
    spoil(
        names, [](Case&) {}, more);
  };
  with({"--colour"}, {"--colour", "red"});
  with({"--preset"}, {"--preset", "paper"});
  with({"--grad"}, {"--grad", "--grad"});
  with({"--grad"}, {"--grad=yes"});
  with({"--dtype"}, {"--dtype", "f16"});
  with({"--device"}, {"--device", "tpu"});
  with({"--threads"}, {"--threads", "-1"});
  with({"stray"}, {"stray"});
  spoil({"nonsense", "spectralmoe.plugin_layer"}, [](Case& c) { c.module = "nonsense"; });
  spoil({"mamol.layer", "not in this version"}, [](Case& c) { c.module = "mamol.layer"; });
  spoil({"--preset", "release"}, [](Case& c) { c.preset = "release"; });
  check_failure(program::run("xray", {}), {"run, diff and list"});
  check_failure(program::run("xray", {"look"}), {"look"});
  check_failure(program::run("xray", {"run", "--module", "spectralmoe.plugin"}), {"--preset"});
  CHECK(program::run("xray", {"--help"}).status == 0);
  CHECK(program::run("moraine", {"xray", "list"}).status == 0);
}

TEST_CASE("xray run: a configuration that is wrong") {
  if (!program::is_built()) return;
  const auto field = [](const char* name, Json value) {
    spoil({"xray: cfg.json", name}, [&](Case& c) { c.config(name, value); });
  };
  field("colour", 3);
  field("dim", "12");
  field("dim", 12.0);
  field("dim", 0);
  field("dim", Json());
  field("prefix", -1);
  field("drop_first", 0);
  field("gate", "l3");
  field("gate", 1);
  field("noise_floor", -0.1);
  field("noise_floor", "0");
  field("balance_terms", "load");
  field("balance_terms", Json::array({Json("load"), Json("load")}));
  field("balance_terms", Json::array({Json("weight")}));
  spoil({"top_k"}, [](Case& c) { c.config("top_k", 5); });
  spoil({"layer"}, [](Case& c) { c.config("layer", 2); });
  spoil({"w_gate.0.0", "experts_a.0.4"}, [](Case& c) { c.config("experts", 5); });
  spoil({"cfg.json"},
        [](Case& c) { c.config("experts", 16777216); });  // refused before memory is asked for
  spoil({"rank"}, [](Case& c) {
    Json kept = Json::object();
    const Json all = read_json(c.dir / "cfg.json");
    for (const JsonMember& m : all.as_object())
      if (m.key != "rank") kept.set(m.key, m.value);
    write_json(c.dir / "cfg.json", kept);
  });
  spoil({"cfg.json"}, [](Case& c) { write_file(c.dir / "cfg.json", "[]"); });
  spoil({"cfg.json"}, [](Case& c) { write_file(c.dir / "cfg.json", "{"); });
}

TEST_CASE("xray run: tensors that are wrong") {
  if (!program::is_built()) return;
  const auto file = [](const char* name) {
    return [name](const Words& names, const std::function<void(TensorMap&)>& f) {
      spoil(names, [&](Case& c) { c.tensors(name, f); });
    };
  };
  const auto weights = file("w.safetensors"), inputs = file("in.safetensors");
  weights({"scale", "missing"}, [](TensorMap& m) { m.erase("scale"); });
  weights({"scale", "()", "(1)"}, [](TensorMap& m) { m["scale"] = Tensor<float>::ones({1}); });
  weights({"scale", "I64"}, [](TensorMap& m) { m["scale"] = Tensor<std::int64_t>::ones({}); });
  weights({"extra", "unexpected"}, [](TensorMap& m) { m["extra"] = Tensor<float>::ones({1}); });
  inputs({"visual", "missing"}, [](TensorMap& m) { m.erase("visual"); });
  inputs({"depth", "(2,10,12)", "(2,10,11)"}, [](TensorMap& m) {
    m["depth"] = Tensor<float>::ones({2, 10, 11});
  });
  inputs({"depth", "I64"}, [](TensorMap& m) {
    m["depth"] = Tensor<std::int64_t>::ones({2, 10, 12});
  });
  inputs({"noise.visual", "noise.depth"}, [](TensorMap& m) { m.erase("noise.depth"); });
  inputs({"noise.depth", "(18,4)"}, [](TensorMap& m) {
    m["noise.depth"] = Tensor<float>::ones({2, 9, 4});
  });
  inputs({"cot.queries", "out, aux_loss"}, [](TensorMap& m) {
    m["cot.queries"] = Tensor<float>::ones({7, 5});
  });
  inputs({"cot.out", "(2,10,12)"}, [](TensorMap& m) {
    m["cot.out"] = Tensor<float>::ones({1, 10, 12});
  });
  spoil({"w.safetensors"}, [](Case& c) { unlink((c.dir / "w.safetensors").c_str()); });
  spoil({"in.safetensors"}, [](Case& c) { write_file(c.dir / "in.safetensors", "12345678"); });
  const Case c;
  Words w = c.words();
  w.back() = c.out.path;
  check_failure(program::run("xray", w), {c.out.path});
  const scratch::FullDisk full(3000);
  check_failure(c.run(), {"out.safetensors"});
  CHECK(scratch::list(c.out.path).empty());
}

TEST_CASE("xray diff") {
  if (!program::is_built()) return;
  const scratch::Dir dir;
  const std::string a = dir / "a.safetensors", b = dir / "b.safetensors";
  const auto diff = [&](const TensorMap& x, const TensorMap& y, Words more = {}) {
    write_safetensors(a, x), write_safetensors(b, y);
    more.insert(more.begin(), {"diff", a, b});
    return program::run("xray", more);
  };
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              inf = std::numeric_limits<float>::infinity();
  const Tensor<float> one({2, 2}, {1, 2, 3, 4}), off({2, 2}, {1, 2, 3.5f, 4});
  program::Result r = diff({{"grad.param.w_noise.0.1", one}, {"out", one}},
                           {{"grad.param.w_noise.0.1", off}, {"out", one}});
  CHECK(r.status == 1);
  CHECK(r.out ==
        "tensor                 shape  max abs   max rel   first beyond 1e-4\n"
        "grad.param.w_noise.0.1 (2,2)  5.0e-01   1.2e-01   (1,0)\n"
        "out                    (2,2)  0.0e+00   0.0e+00   -\n"
        "2 tensors, 1 beyond 1e-4\n");
  CHECK(diff({{"x", one}}, {{"x", off}}, {"--tol", "0.125"}).status == 0);
  CHECK(diff({{"x", one}}, {{"x", off}}, {"--tol=0.12"}).status == 1);
  CHECK(diff({{"x", one}}, {{"x", one}}, {"--tol", "0"}).status == 0);
  // F32 against F64, in double: 0.1f is not 0.1.
  const Tensor<double> tenth({1}, {0.1});
  CHECK(diff({{"x", Tensor<float>({1}, {0.1f})}}, {{"x", tenth}}, {"--tol", "1e-12"}).status == 1);
  CHECK(diff({{"x", Tensor<float>({1}, {0.1f})}}, {{"x", tenth}}).status == 0);
  r = diff({{"x", one}}, {{"y", one}});
  CHECK(r.status == 1);
  CHECK(r.out.find("only in " + a) != std::string::npos);
  CHECK(r.out.find("2 tensors, 2 beyond 1e-4") != std::string::npos);
  r = diff({{"x", one}}, {{"x", Tensor<float>::ones({4})}});
  CHECK(r.status == 1);
  CHECK(r.out.find("(2,2) (4)") != std::string::npos);
  const Tensor<float> odd({2}, {nan, inf}), even({2}, {1, inf}), minus({2}, {nan, -inf});
  CHECK(diff({{"x", odd}}, {{"x", odd}}).status == 0);
  CHECK(diff({{"x", odd}}, {{"x", even}}).status == 1);
  CHECK(diff({{"x", even}}, {{"x", odd}}).status == 1);
  CHECK(diff({{"x", odd}}, {{"x", minus}}).status == 1);
  // An infinity that both hold hides no other difference.
  CHECK(diff({{"x", Tensor<float>({2}, {inf, 1})}}, {{"x", Tensor<float>({2}, {inf, 2})}}).status ==
        1);
  CHECK(diff({{"x", Tensor<float>::ones({0})}}, {{"x", Tensor<float>::ones({0})}}).status == 0);
  for (const Words& bad : {Words{"diff", a}, Words{"diff", a, b, a}, Words{"diff", a, dir / "no"},
                           Words{"diff", a, b, "--tol", "x"}, Words{"diff", a, b, "--tol", "-1"}})
    check_failure(program::run("xray", bad), {});
  write_file(b, "no safetensors at all");
  check_failure(program::run("xray", {"diff", a, b}), {"b.safetensors"});
  check_failure(program::run("xray", {"diff", a, dir / "no"}), {"xray: ", "no\""});
}

TEST_CASE("xray list") {
  if (!program::is_built()) return;
  const program::Result all = program::run("xray", {"list"});
  CHECK(all.status == 0);
  CHECK(all.out.find("spectralmoe.plugin ") != std::string::npos);
  CHECK(all.out.find("spectralmoe.plugin_layer ") != std::string::npos);
  const program::Result one = program::run("xray", {"list", "spectralmoe.plugin_layer"});
  CHECK(one.status == 0);
  for (const char* part : {"top_k", "noise_floor", "0.01", "sumprod", "noise.visual", "mid.delta",
                           "[B,N,D]", "experts_a.{l}.{e}", "[Q,3Q]"})
    CHECK_MESSAGE(one.out.find(part) != std::string::npos, part);
  check_failure(program::run("xray", {"list", "nonsense"}), {"nonsense"});
}
