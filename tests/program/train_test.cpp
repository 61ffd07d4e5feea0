// The program on rasters: killed and resumed, its errors, prediction, evaluation.
#include <doctest/doctest.h>
#include <signal.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <moraine/core/random.hpp>
#include <thread>

#include "recipes/tiny.hpp"
#include "run.hpp"

using namespace moraine;
using program::run;
using program::Words;

namespace {

bool has(const std::string& s, const std::string& part) {
  return s.find(part) != std::string::npos;
}

Words train_words(const scratch::Tree& dir, const std::string& output, int threads) {
  return {"train",      "--config",  dir / "run.json",       "--output",
          dir / output, "--threads", std::to_string(threads)};
}

/// Starts the program and kills it after so many microseconds; true when it ended before.
bool run_and_kill(const Words& words, int microseconds) {
  const std::string self = program::path_of("moraine");
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const int null = open("/dev/null", O_WRONLY);
    dup2(null, 1), dup2(null, 2);
    std::vector<char*> argv{const_cast<char*>(self.c_str())};
    for (const std::string& w : words) argv.push_back(const_cast<char*>(w.c_str()));
    argv.push_back(nullptr);
    execv(self.c_str(), argv.data());
    _exit(127);
  }
  std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
  kill(child, SIGKILL);
  int how = 0;
  waitpid(child, &how, 0);
  return WIFEXITED(how) && WEXITSTATUS(how) == 0;
}

}  // namespace

TEST_CASE("train: killed 20 times, for 1, 2 and 3 threads, it ends with the same bytes") {
  if (!program::is_built()) return;
  const scratch::Tree dir;
  tiny::write_run(dir, 60);
  const auto begin = std::chrono::steady_clock::now();
  const auto whole = run("moraine", train_words(dir, "whole", 2));
  REQUIRE_MESSAGE(whole.status == 0, whole.err);
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const std::string expected = read_file(dir / "whole/model.safetensors");
  const std::string history = read_file(dir / "whole/history.tsv");

  const Random r(20, "kill", 0);
  int kills = 0, resumes = 0;
  for (int round = 0; kills < 20 && round < 40; ++round) {
    const std::string out = "run" + std::to_string(round);
    // Kills spread over the whole run, checkpoints and the writing of the model included.
    bool ended = false;
    for (int i = 0; i < 10 && !ended && kills < 20; ++i) {
      const auto draw = static_cast<std::uint64_t>(round * 10 + i);
      const int wait =
          static_cast<int>(seconds * 1e6 * (0.05 + 0.6 * static_cast<double>(r.uniform(draw))));
      ended = run_and_kill(train_words(dir, out, 1 + (kills + round) % 3), wait);
      kills += !ended;
      if (ended) seconds *= 0.85;  // the machine was busier while it was measured
    }
    const auto last = run("moraine", train_words(dir, out, 1 + round % 3));
    REQUIRE_MESSAGE(last.status == 0, last.err);
    resumes += has(last.err, "resumed at step") || has(last.out, "is finished");
    CHECK(read_file(dir / (out + "/model.safetensors")) == expected);
    CHECK(read_file(dir / (out + "/history.tsv")) == history);
    for (const std::string& name : scratch::list(dir / (out + "/checkpoints")))
      CHECK_MESSAGE(!has(name, ".tmp-"), name);
  }
  CHECK(kills == 20);
  CHECK(resumes > 0);
}

TEST_CASE("train: another configuration in the same folder, a misspelled key, a changed input") {
  if (!program::is_built()) return;
  const scratch::Tree dir;
  tiny::write_run(dir, 4);
  REQUIRE(run("moraine", train_words(dir, "a", 1)).status == 0);
  auto again = run("moraine", train_words(dir, "a", 1));
  CHECK(again.status == 0);
  CHECK(has(again.out, "is finished"));

  Words other = train_words(dir, "a", 1);
  other.insert(other.end(), {"--set", "train.lr=0.5"});
  auto r = run("moraine", other);
  CHECK(r.status == 1);
  CHECK(has(r.err, "train.lr (0.5, before 0.006)"));

  other = train_words(dir, "b", 1);
  other.insert(other.end(), {"--set", "train.step=5"});
  r = run("moraine", other);
  CHECK(r.status == 1);
  CHECK(has(r.err, "did you mean \"train.steps\"?"));
  CHECK(!std::filesystem::exists(dir / "b"));

  // --seed is part of the configuration.
  other = train_words(dir, "c", 1);
  other.insert(other.end(), {"--seed", "7"});
  REQUIRE(run("moraine", other).status == 0);
  CHECK(read_json(dir / "c/config.json").at("seed").as_int() == 7);
  CHECK(read_file(dir / "c/model.safetensors") != read_file(dir / "a/model.safetensors"));

  // The scene changes between two parts of a run.
  unlink((dir / "a/model.safetensors").c_str());
  tiny::write_scene(dir / "scene.tif", dir / "labels.tif", {.seed = 9});
  r = run("moraine", train_words(dir, "a", 1));
  CHECK(r.status == 1);
  CHECK(has(r.err, "scenes"));
  CHECK(has(r.err, "changed since this run began"));
}

TEST_CASE("train: unknown labels, sizes that differ, nothing labelled, too little memory") {
  if (!program::is_built()) return;
  const scratch::Tree dir;
  tiny::write_run(dir, 4);
  const auto fails = [&](Words more, const char* part) {
    Words w = train_words(dir, "x", 1);
    w.insert(w.end(), more.begin(), more.end());
    const auto r = run("moraine", w);
    CHECK(r.status == 1);
    CHECK_MESSAGE(has(r.err, part), r.err);
    CHECK(!std::filesystem::exists(dir / "x/model.safetensors"));
  };
  fails({"--set", "ignore=[]"}, "holds values that no class has: 0 (168 pixels)");
  fails({"--set", R"(labels=[")" + dir.path + R"(/nowhere.tif"])"}, "nowhere.tif");
  tiny::write_scene(dir / "small.tif", dir / "small_labels.tif", {.height = 20, .width = 30});
  fails({"--set", "labels=[\"" + dir.path + "/small_labels.tif\"]"},
        "20 x 30 pixels, its image \"scene.tif\" 40 x 56");
  fails({"--set", "wavelengths=[490,560]", "--set", "widths=[60,60]"}, "\"scene.tif\" has 4 bands");
  fails({"--set", "wavelengths=[1490,1560,1665,1833]"}, "outside of the scene");
  fails({"--memory", "1m", "--set", "window=512"}, "would pass the limit");
  fails({"--set", "trunks.vision=" + dir.path + "/scene.tif"}, "safetensors");
}

TEST_CASE("train: a NaN stops with step, op and tile, and leaves a report") {
  if (!program::is_built()) return;
  const scratch::Tree dir;
  tiny::write_run(dir, 60);
  Words w = train_words(dir, "nan", 1);
  w.insert(w.end(),
           {"--set", "train.lr=1e30", "--set", "train.head_lr=1e38", "--set", "train.clip=1e12"});
  const auto r = run("moraine", w);
  CHECK(r.status == 1);
  CHECK(has(r.err, "NaN or infinity at step"));
  CHECK(has(r.err, "scene.tif at row"));
  const Json report = read_json(dir / "nan/nan_report.json");
  CHECK(report.at("step").as_int() < 60);
  CHECK(has(report.at("tiles").as_string(), "column"));
  CHECK(!std::filesystem::exists(dir / "nan/model.safetensors"));
}

TEST_CASE("predict and eval: a map in the right place, in bounded memory, or one clear line") {
  if (!program::is_built()) return;
  const scratch::Tree dir;
  tiny::write_run(dir, 80);
  REQUIRE(run("moraine", train_words(dir, "m", 2)).status == 0);
  const auto predict = [&](const std::string& scene, Words more) {
    Words w{"predict",  "--model",       dir / "m",   "--input", dir / scene,
            "--output", dir / "map.tif", "--threads", "2"};
    w.insert(w.end(), more.begin(), more.end());
    return run("moraine", w);
  };
  tiny::write_scene(dir / "big.tif", dir / "big_labels.tif",
                    {.height = 90, .width = 131, .nodata_corner = true, .seed = 3});
  auto r = predict("big.tif", {"--routing", dir / "routing.tif", "--preview", dir / "map.png"});
  REQUIRE_MESSAGE(r.status == 0, r.err);
  CHECK(has(r.err, "90 x 131 pixels in"));
  // The most that the process ever had in memory is within what was printed beforehand.
  const auto mib = [&](const char* word) {
    const std::size_t at = r.out.find(word);
    return at == std::string::npos ? 0 : std::atoi(r.out.c_str() + at + std::strlen(word));
  };
  INFO(r.out);
  CHECK(mib("peak ") > 5);
  CHECK(mib("peak ") <= mib("planned "));
  {
    GeoTiffReader map(dir / "map.tif"), routing(dir / "routing.tif"), scene(dir / "big.tif");
    CHECK(map.info().geo == scene.info().geo);
    CHECK(routing.info().geo == scene.info().geo);
    CHECK(map.info().nodata->value == 255);
    CHECK(map.info().class_names[2] == "trees");
    CHECK(map.info().colour_map[1] == Colour{0, 0, 65535});
    CHECK(routing.info().bands == 6);
    CHECK(routing.info().band_names[3] == "layer 1 winning expert");
    const Tensor<float> m = map.read_float({0, 0, 131, 90}),
                        e = routing.read_float({0, 0, 131, 90});
    for (Index y = 0; y < 90; ++y)
      for (Index x = 0; x < 131; ++x) {
        const bool gone = y < 12 && x < 12;
        const float v = m.at({0, y, x});
        CHECK((gone ? v == 255 : v >= 1 && v <= 3));
        for (Index b = 0; b < 6; ++b) {
          const float q = e.at({b, y, x});
          CHECK((gone ? q == 255 : q <= (b % 3 ? 254 : 2)));
        }
        if (!gone) CHECK(e.at({1, y, x}) >= 84);  // the best of three experts has a third or more
      }
  }
  r = run("moraine", {"eval", "--prediction", dir / "map.tif", "--labels", dir / "big_labels.tif",
                      "--output", dir / "metrics.json"});
  REQUIRE_MESSAGE(r.status == 0, r.err);
  const Json metrics = read_json(dir / "metrics.json");
  CHECK(metrics.at("overall_accuracy").as_double() > 0.75);  // by chance: a third
  CHECK(metrics.at("pixels").as_int() + metrics.at("ignored").as_int() +
            metrics.at("map_nodata").as_int() ==
        90 * 131);
  CHECK(metrics.at("unknown_labels").as_object().empty());

  // Sizes that differ; labels with a value that is no class.
  r = run("moraine", {"eval", "--prediction", dir / "map.tif", "--labels", dir / "labels.tif",
                      "--output", dir / "none.json"});
  CHECK(r.status == 1);
  CHECK(has(r.err, "map 90 x 131, labels 40 x 56"));
  CHECK(!std::filesystem::exists(dir / "none.json"));

  // A scene smaller than a window, and one pixel.
  tiny::write_scene(dir / "small.tif", "", {.height = 7, .width = 30});
  r = predict("small.tif", {});
  CHECK_MESSAGE(r.status == 0, r.err);
  CHECK(has(r.err, "smaller than a window"));
  tiny::write_scene(dir / "one.tif", "", {.height = 1, .width = 1});
  CHECK(predict("one.tif", {}).status == 0);

  // Every failure leaves no file behind.
  unlink((dir / "map.tif").c_str());
  const auto fails = [&](const std::string& scene, Words more, const char* part) {
    const auto bad = predict(scene, std::move(more));
    CHECK(bad.status == 1);
    CHECK_MESSAGE(has(bad.err, part), bad.err);
    for (const std::string& n : scratch::list(dir.path)) CHECK_MESSAGE(!has(n, "map.tif"), n);
  };
  tiny::write_scene(dir / "empty.tif", "", {.empty = true});
  fails("empty.tif", {},
        "nothing but nodata in the bands that are read; 2240 pixels, nodata -9999");
  fails("labels.tif", {}, "was trained on 4 bands");
  fails("labels.tif", {"--bands", "red"}, "lies outside of the scene");
  fails("big.tif", {"--bands", "red,green"}, "2 bands given for a scene with 4");
  fails("big.tif", {"--memory", "1m"}, "--memory");
  fails("big.tif", {"--overlap", "16"}, "overlap");
  fails("nowhere.tif", {}, "nowhere.tif");
  fails("run.json", {}, "run.json");
  // The trunk is another one.
  tiny::write_trunk(dir / "vision.safetensors", 4, 77);
  fails("big.tif", {}, "is not the one it was trained with");
}

TEST_CASE("predict: the thread count does not change a byte of the map") {
  if (!program::is_built()) return;
  const scratch::Tree dir;
  tiny::write_run(dir, 6);
  REQUIRE(run("moraine", train_words(dir, "m", 1)).status == 0);
  tiny::write_scene(dir / "big.tif", "", {.height = 70, .width = 90, .seed = 3});
  std::string map, routing;
  for (const char* threads : {"1", "2", "3"}) {
    const auto r =
        run("moraine", {"predict", "--model", dir / "m", "--input", dir / "big.tif", "--output",
                        dir / "map.tif", "--routing", dir / "routing.tif", "--threads", threads});
    REQUIRE_MESSAGE(r.status == 0, r.err);
    if (map.empty()) map = read_file(dir / "map.tif"), routing = read_file(dir / "routing.tif");
    CHECK(read_file(dir / "map.tif") == map);
    CHECK(read_file(dir / "routing.tif") == routing);
  }
}

TEST_CASE("train: a step fits into the memory it announces; less ends with one line") {
  if (!program::is_built()) return;
  const scratch::Tree dir;
  tiny::write_run(dir, 2);
  tiny::write_scene(dir / "scene.tif", dir / "labels.tif", {.height = 200, .width = 200});
  const auto train = [&](const std::string& output, long kib, const char* more) {
    std::string line = kib ? "ulimit -d " + std::to_string(kib) + " && exec " : "exec ";
    line += program::path_of("moraine") + " train --config " + (dir / "run.json") + " --output " +
            (dir / output) + " --threads 2 --set window=160 --set train.batch=64 " + more;
    return program::run_shell(line);
  };
  // "a step holds at most 123 MiB of tensors"
  const auto announced = [](const program::Result& r) {
    const std::size_t at = r.err.find("holds at most ");
    REQUIRE_MESSAGE(at != std::string::npos, r.err);
    return std::atol(r.err.c_str() + at + 14);
  };
  const auto free = train("free", 0, "");
  REQUIRE_MESSAGE(free.status == 0, free.err);
  const long whole = announced(free);
  CHECK(whole > 200);
  // The address space of a block is up to a quarter larger than its tensor; beside the tensors are
  // the program, the scene, stacks of 8 MiB for two threads and packed operands (447 MiB were just
  // too few once).
  const auto fits = train("fits", (whole * 5 / 4 + 128) << 10, "");
  CHECK_MESSAGE(fits.status == 0, fits.err);
  CHECK(read_file(dir / "fits/model.safetensors") == read_file(dir / "free/model.safetensors"));

  const auto none = train("none", (whole * 3 / 4) << 10, "");
  CHECK(none.status == 1);
  CHECK_MESSAGE((has(none.err, "train: memory: the system has no ") ||
                 has(none.err, "train: cpu: out of memory; ")),
                none.err);
  CHECK(!std::filesystem::exists(dir / "none/model.safetensors"));

  const auto less = train("less", 0, "--set train.gradient_checkpointing=true");
  REQUIRE_MESSAGE(less.status == 0, less.err);
  MESSAGE("a step: " << whole << " MiB, with gradient checkpointing " << announced(less));
  CHECK(announced(less) < whole);
}
