// The pool: every piece once, pieces that do not depend on the thread count, nested and concurrent
// callers, exceptions. Built with the thread sanitizer this is also its race test.
#include <doctest/doctest.h>

#include <atomic>
#include <moraine/core/parallel.hpp>
#include <thread>
#include <vector>

using namespace moraine;

namespace {
struct Threads {  // restores the count
  int before = threads();
  ~Threads() { set_threads(before); }
};
}  // namespace

TEST_CASE("parallel_for: each index once, the same pieces for any thread count") {
  Threads restore;
  for (int t : {1, 2, 3, 7, 2, 1}) {
    set_threads(t);
    for (Index n : {0, 1, 5, 64, 1000})
      for (Index grain : {0, 1, 3, 64, 2000}) {
        std::vector<int> hits(static_cast<std::size_t>(n)), ends(hits);
        parallel_for(n, grain, [&](Index b, Index e) {
          for (Index i = b; i < e; ++i)
            ++hits[static_cast<std::size_t>(i)], ends[static_cast<std::size_t>(i)] = int(e);
        });
        bool ok = true;
        const Index g = grain < 1 ? 1 : grain;
        for (Index i = 0; i < n; ++i) {
          const Index end = (i / g + 1) * g < n ? (i / g + 1) * g : n;
          ok = ok && hits[static_cast<std::size_t>(i)] == 1 &&
               ends[static_cast<std::size_t>(i)] == end;
        }
        CHECK(ok);
      }
  }
}

TEST_CASE("parallel_for: callers in several threads and nested loops") {
  Threads restore;
  set_threads(3);
  std::atomic<long> sum{0};
  auto work = [&] {
    for (int r = 0; r < 300; ++r)
      parallel_for(50, 3, [&](Index b, Index e) {
        parallel_for(e - b, 1, [&](Index x, Index y) { sum += y - x; });
      });
  };
  std::thread a(work), b(work);
  work();
  a.join();
  b.join();
  CHECK(sum == 3 * 300 * 50);
}

TEST_CASE("parallel_for: the first exception arrives, and the pool works on") {
  Threads restore;
  set_threads(2);
  int caught = 0;
  for (int r = 0; r < 100; ++r) {
    try {
      parallel_for(100, 1, [&](Index b, Index) {
        if (b == 37) throw 5;
      });
    } catch (int x) {
      caught += x == 5;
    }
  }
  CHECK(caught == 100);
  std::atomic<int> n{0};
  parallel_for(10, 1, [&](Index, Index) { ++n; });
  CHECK(n == 10);
}
