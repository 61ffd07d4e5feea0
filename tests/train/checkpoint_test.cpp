// Checkpoints: what a kill, a full disk and a damaged file leave behind.
#include <moraine/train/checkpoint.hpp>

#include <doctest/doctest.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <functional>
#include <moraine/core/tensor.hpp>

#include "tree.hpp"

using namespace moraine;

namespace {

TensorMap tensors(float v) {
  TensorMap m;
  m.emplace("model.w", Tensor<float>::full({3, 4}, v));
  m.emplace("m.w", Tensor<float>::full({3, 4}, v * 2));
  m.emplace("history", Tensor<double>::full({2, 3}, v));
  return m;
}
Json state(int v) {
  Json j = Json::object();
  j.set("note", v);
  j.set("rate", v / 3.0);
  return j;
}
/// The value that all tensors of tensors(v) hold, or -1 when they do not belong together.
double value_of(const Checkpoint& c) {
  const double v = c.tensors.at("model.w").as<double>().at({0, 0});
  for (const auto& [name, t] : c.tensors)
    for (double x : t.as<double>().values())
      if (x != (name == "m.w" ? 2 * v : v)) return -1;
  return c.state.at("note").as_int() == static_cast<std::int64_t>(v) ? v : -1;
}
std::string message(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("checkpoint: saved, loaded, older ones removed") {
  const scratch::Tree dir;
  {
    CheckpointStore store(dir / "c");
    CHECK(!store.load());
    for (int s : {5, 10, 15}) store.save(s, tensors(static_cast<float>(s)), state(s));
    CHECK(store.steps() == std::vector<std::string>{"step-000010", "step-000015"});
    CHECK(read_file(dir / "c/latest") == "step-000015\n");
  }
  CheckpointStore store(dir / "c");
  std::vector<std::string> warnings;
  const auto c = store.load(&warnings);
  REQUIRE(c);
  CHECK(c->step == 15);
  CHECK(value_of(*c) == 15);
  CHECK(c->state == state(15));
  CHECK(warnings.empty());
  CHECK(c->tensors.size() == 3);
}

TEST_CASE("checkpoint: a damaged file is named and the one before is taken") {
  const scratch::Tree dir;
  CheckpointStore store(dir / "c");
  store.save(1, tensors(1), state(1));
  store.save(2, tensors(2), state(2));
  for (const char* file : {"adapter.safetensors", "optimizer.safetensors", "state.json"}) {
    CAPTURE(file);
    const std::string path = dir / "c/step-000002/" + file;
    const std::string good = read_file(path);
    // Cut off; one bit turned, anywhere; gone.
    for (std::size_t at = 0; at <= good.size() + 1; at += at + 1 < good.size() ? 7 : 1) {
      std::string bad = good;
      if (at < good.size())
        bad[at] = static_cast<char>(bad[at] ^ 1);
      else if (at == good.size())
        bad.pop_back();
      if (at <= good.size())
        write_file(path, bad);
      else
        unlink(path.c_str());
      std::vector<std::string> warnings;
      const auto c = store.load(&warnings);
      REQUIRE(c);
      CHECK(value_of(*c) == c->step);
      if (c->step == 2) {  // white space in state.json means nothing
        CHECK(std::string(file) == "state.json");
        continue;
      }
      REQUIRE(warnings.size() == 1);
      CHECK(warnings[0].find("step-000002") != std::string::npos);
      CHECK(warnings[0].find(file) != std::string::npos);
    }
    write_file(path, good);
  }
  // The same step again repairs it.
  write_file(dir / "c/step-000002/state.json", "{}");
  store.save(2, tensors(2), state(2));
  CHECK(store.load()->step == 2);
  // None whole: an error, never a silent beginning from nothing.
  for (int s : {1, 2}) write_file(dir / ("c/step-00000" + std::to_string(s) + "/state.json"), "{}");
  CHECK(message([&] { store.load(); }).find("remove the folder") != std::string::npos);
}

TEST_CASE("checkpoint: one run at a time in a folder") {
  const scratch::Tree dir;
  {
    const CheckpointStore store(dir / "c");
    const std::string m = message([&] { const CheckpointStore other(dir / "c"); });
    CHECK(m.find("in use") != std::string::npos);
    CHECK(m.find(std::to_string(getpid())) != std::string::npos);
  }
  const CheckpointStore again(dir / "c");
}

TEST_CASE("checkpoint: a full disk keeps the one before") {
  const scratch::Tree dir;
  CheckpointStore store(dir / "c");
  store.save(1, tensors(1), state(1));
  TensorMap large = tensors(2);
  large.emplace("model.large", Tensor<float>::ones({100, 1000}));
  {
    const scratch::FullDisk full(20'000);
    const std::string m = message([&] { store.save(2, large, state(2)); });
    CHECK(m.find("step 2 was not saved") != std::string::npos);
    CHECK(m.find("step-000001 is kept") != std::string::npos);
  }
  CHECK(scratch::list(dir / "c").size() == 3);  // lock, latest, step-000001
  CHECK(store.load()->step == 1);
  store.save(2, large, state(2));
  CHECK(store.load()->step == 2);
}

TEST_CASE("checkpoint: killed at every system call of a save") {
  const scratch::Tree dir;
  {
    CheckpointStore store(dir / "c", 1);
    store.save(1, tensors(1), state(1));
  }
  int kills = 0, news = 0;
  bool ended = false;
  for (int n = 1; !ended && n < 2000; ++n) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(77);
      raise(SIGSTOP);
      try {
        CheckpointStore store(dir / "c", 1);
        store.save(2, tensors(2), state(2));
      } catch (...) {
        _exit(1);
      }
      _exit(0);
    }
    int how = 0;
    waitpid(child, &how, 0);
    if (WIFEXITED(how) && WEXITSTATUS(how) == 77) {
      MESSAGE("skipped: tracing is not allowed here");
      return;
    }
    // Two stops a call: before it, after it.
    for (int i = 0; i < n && WIFSTOPPED(how); ++i) {
      if (ptrace(PTRACE_SYSCALL, child, nullptr, nullptr) != 0) break;
      waitpid(child, &how, 0);
    }
    if (WIFSTOPPED(how)) {
      kill(child, SIGKILL);
      waitpid(child, &how, 0);
      ++kills;
    } else {
      CHECK(WIFEXITED(how));
      CHECK(WEXITSTATUS(how) == 0);
      ended = true;
    }
    CheckpointStore store(dir / "c", 1);
    std::vector<std::string> warnings;
    const auto c = store.load(&warnings);
    REQUIRE(c);
    CHECK(value_of(*c) == c->step);
    if (!c->state.is_null() && c->step == 2) {
      ++news;
      detail::remove_folder(dir / "c/step-000002");
      store.save(1, tensors(1), state(1));
    }
    for (const std::string& name : scratch::list(dir / "c"))
      CHECK_MESSAGE(name.find(".tmp-") == std::string::npos, name);
  }
  CHECK(ended);
  CHECK(kills > 50);
  CHECK(news > 1);
  MESSAGE(kills << " kills, the new checkpoint was there after " << news);
}
