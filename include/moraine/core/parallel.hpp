#pragma once
// The thread pool: parallel_for over fixed pieces, so that no result depends on the thread count.
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/core/mutex.hpp>
#include <moraine/core/shape.hpp>
#include <string>
#include <type_traits>

namespace moraine MORAINE_API {

namespace detail {
/// CPUs that the quota in folder/file is worth; 0 if there is none. v2 says "quota period" or "max
/// period" in cpu.max, v1 has two files.
inline double cgroup_cpus(const char* folder, const char* path, int length) {
  const auto read = [&](const char* file, double* a, double* b) {
    char name[1200];
    std::snprintf(name, sizeof name, "%s%.*s/%s", folder, length, path, file);
    std::FILE* const f = std::fopen(name, "re");
    if (!f) return 0;
    const int n = std::fscanf(f, "%lf %lf", a, b);
    std::fclose(f);
    return n;
  };
  double quota = -1, period = 100000, none;
  if (read("cpu.max", &quota, &period) < 1 && read("cpu.cfs_quota_us", &quota, &none) == 1)
    read("cpu.cfs_period_us", &period, &none);
  return quota > 0 && period > 0 ? quota / period : 0;
}

/// The least quota from this process's own cgroup up to the root, since every one of them holds.
inline double cgroup_limit() {
  double least = 0;
  const auto take = [&](const char* folder, const char* path, int length) {
    const double c = cgroup_cpus(folder, path, length);
    if (c > 0 && (least == 0 || c < least)) least = c;
  };
  take("/sys/fs/cgroup", "", 0);
  take("/sys/fs/cgroup/cpu", "", 0);
  if (std::FILE* f = std::fopen("/proc/self/cgroup", "re")) {
    char line[1024], kind[64], path[1024];
    while (std::fgets(line, sizeof line, f)) {  // "0::/path" or "4:cpu,cpuacct:/path"
      int at = 0, end = 0;
      for (; line[at] && line[at] != ':'; ++at) {
      }
      if (!line[at]) continue;
      const bool v2 = std::sscanf(line, "0::%1023[^\n]", path) == 1;
      const bool v1 = !v2 && std::sscanf(line + at, ":%63[^:]:%1023[^\n]", kind, path) == 2 &&
                      std::strstr(kind, "cpu");
      if (!v2 && !v1) continue;
      while (path[end]) ++end;
      for (; end > 1; --end)  // /a/b, then /a
        if (!path[end] || path[end] == '/')
          take(v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu", path, end);
    }
    std::fclose(f);
  }
  return least;
}
}  // namespace detail

/// CPUs this process may use: the least of affinity mask, cgroup quota (v1 and v2) and
/// OMP_NUM_THREADS. At least 1.
inline int usable_cpus() {
  int n = 1;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
  const double limit = detail::cgroup_limit();
  if (limit > 0 && limit + 0.999 < n) n = static_cast<int>(limit + 0.999);
  if (const char* omp = std::getenv("OMP_NUM_THREADS")) {
    const int o = std::atoi(omp);
    if (o > 0 && o < n) n = o;
  }
  return n < 1 ? 1 : n;
}

namespace detail {

/// One job: pieces of [0,n) of `grain` each, claimed by an atomic counter.
struct Job {
  void (*call)(void*, Index, Index) = nullptr;
  void* f = nullptr;
  Index n = 0, grain = 1;
  std::atomic<Index> next{0};
  std::exception_ptr error;
  Mutex error_mutex;
  void work() {
    for (;;) {
      const Index begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= n) return;
      try {
        call(f, begin, begin + grain < n ? begin + grain : n);
      } catch (...) {
        next.store(n, std::memory_order_relaxed);
        const Lock lock(error_mutex);
        if (!error) error = std::current_exception();
      }
    }
  }
};

/// One job at a time. Workers spin for some microseconds after a job, then sleep. A worker takes
/// part only if it arrives before the caller has finished the last piece: nobody waits for a
/// sleeper, so a small job costs little more than doing it alone, also on a busy machine.
/// Never destroyed: threads end with the process.
class Pool {
 public:
  static Pool& instance() {
    static Pool* pool = new Pool;
    return *pool;
  }
  int size() const { return size_.load(std::memory_order_relaxed); }
  void resize(int n) { size_.store(n < 1 ? 1 : n > 256 ? 256 : n, std::memory_order_relaxed); }
  static bool& inside() {
    thread_local bool in = false;
    return in;
  }

  void run(Job& job) {
    // A second caller from another thread works alone rather than wait.
    if (!mutex_.try_lock()) return alone(job);
    struct Unlock {
      Mutex& m;
      ~Unlock() { m.unlock(); }
    } const unlock{mutex_};
    const int helpers = size() - 1;
    while (started_ < helpers && start(started_)) ++started_;
    job_ = &job;
    wanted_.store(helpers, std::memory_order_relaxed);
    gate_.store(open, std::memory_order_release);
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    alone(job);
    // No piece is left. Close the gate and wait for those who are still at theirs.
    unsigned guests = gate_.fetch_and(~open, std::memory_order_acq_rel) & ~open;
    for (int spin = 0; guests != 0; ++spin) {
      if (spin < 1000)
        relax();
      else
        sched_yield();
      guests = gate_.load(std::memory_order_acquire);
    }
  }

 private:
  static constexpr unsigned open = 1u << 31;

  Pool() : size_(usable_cpus()) {}
  struct Start {
    Pool* pool;
    int id;
    unsigned epoch;
  };
  static void alone(Job& job) {
    inside() = true;
    job.work();
    inside() = false;
  }
  /// False if the system gives no more threads; the work is then done by those there are.
  bool start(int id) {
    auto* s = new Start{this, id, epoch_.load(std::memory_order_relaxed)};
    pthread_t t;
    if (pthread_create(&t, nullptr, &Pool::loop, s) != 0) {
      delete s;
      return false;
    }
    pthread_detach(t);
    return true;
  }
  /// Enters if the gate is open; what the caller wrote before opening it is then visible.
  bool enter() {
    unsigned g = gate_.load(std::memory_order_relaxed);
    while (g & open)
      if (gate_.compare_exchange_weak(g, g + 1, std::memory_order_acquire,
                                      std::memory_order_relaxed))
        return true;
    return false;
  }
  static void* loop(void* arg) {
    const Start s = *static_cast<Start*>(arg);
    delete static_cast<Start*>(arg);
    Pool& pool = *s.pool;
    inside() = true;
    unsigned seen = s.epoch;
    for (;;) {
      unsigned now = pool.epoch_.load(std::memory_order_acquire);
      for (int spin = 0; now == seen && spin < 1000; ++spin) {
        relax();
        now = pool.epoch_.load(std::memory_order_acquire);
      }
      if (now == seen) {
        pool.epoch_.wait(seen, std::memory_order_acquire);
        continue;
      }
      seen = now;
      if (s.id < pool.wanted_.load(std::memory_order_relaxed) && pool.enter()) {
        pool.job_->work();
        pool.gate_.fetch_sub(1, std::memory_order_release);
      }
    }
    return nullptr;
  }
  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  Mutex mutex_;
  std::atomic<int> size_;
  int started_ = 0;
  Job* job_ = nullptr;             // written only while the gate is shut and nobody inside
  std::atomic<unsigned> gate_{0};  // open bit, and how many workers are inside
  std::atomic<int> wanted_{0};
  std::atomic<unsigned> epoch_{0};  // a new value wakes the workers
};

}  // namespace detail

/// While one of these lives, loops that its thread starts run in that thread alone: for programs
/// that have threads of their own for other work (a server, a data loader), which would otherwise
/// take turns at the pool. The bits of the results are the same.
class SerialScope {
 public:
  SerialScope() : before_(detail::Pool::inside()) { detail::Pool::inside() = true; }
  ~SerialScope() { detail::Pool::inside() = before_; }
  SerialScope(const SerialScope&) = delete;
  SerialScope& operator=(const SerialScope&) = delete;

 private:
  bool before_;
};

/// Threads that parallel_for uses; the caller's own thread is one of them.
inline int threads() { return detail::Pool::instance().size(); }
/// Sets that number. Default: usable_cpus().
inline void set_threads(int n) { detail::Pool::instance().resize(n); }

namespace detail {
/// parallel_for once it has forgotten its type.
__attribute__((noinline)) inline void parallel_pieces(Index n, Index grain,
                                                      void (*call)(void*, Index, Index), void* f) {
  if (n <= 0) return;
  if (grain < 1) grain = 1;
  if (n <= grain || threads() == 1 || Pool::inside()) {
    for (Index b = 0; b < n; b += grain) call(f, b, n - b < grain ? n : b + grain);
    return;
  }
  Job job;
  job.call = call;
  job.f = f;
  job.n = n;
  job.grain = grain;
  Pool::instance().run(job);
  if (job.error) std::rethrow_exception(job.error);
}
}  // namespace detail

/// Calls f(begin, end) on consecutive pieces of [0,n), each `grain` long (the last may be shorter),
/// in any order and from any thread. Pieces are the same for every thread count; a reduction that
/// keeps one partial result per piece is therefore reproducible. Nested calls run serially. The
/// first exception is rethrown.
template <class F>
void parallel_for(Index n, Index grain, F&& f) {
  using G = std::remove_reference_t<F>;
  detail::parallel_pieces(
      n, grain, [](void* g, Index b, Index e) { (*static_cast<G*>(g))(b, e); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

}  // namespace moraine
