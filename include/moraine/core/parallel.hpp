#pragma once
// The thread pool: parallel_for over fixed pieces, so that no result depends on the thread count.
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/core/shape.hpp>

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>
#include <type_traits>

namespace moraine MORAINE_API {

/// CPUs this process may use: the least of affinity mask, cgroup quota (v2 cpu.max, v1
/// cpu.cfs_quota_us) and OMP_NUM_THREADS. At least 1.
inline int usable_cpus() {
  int n = 1;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
  double quota = -1, period = 100000;
  if (std::FILE* f = std::fopen("/sys/fs/cgroup/cpu.max", "re")) {
    if (std::fscanf(f, "%lf %lf", &quota, &period) < 1) quota = -1;
    std::fclose(f);
  } else if (std::FILE* g = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "re")) {
    if (std::fscanf(g, "%lf", &quota) != 1) quota = -1;
    std::fclose(g);
    if (std::FILE* h = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "re")) {
      if (std::fscanf(h, "%lf", &period) != 1) period = 100000;
      std::fclose(h);
    }
  }
  if (quota > 0 && period > 0) {
    const int q = static_cast<int>(quota / period + 0.999);
    if (q < n) n = q;
  }
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
  std::mutex error_mutex;
  void work() {
    for (;;) {
      const Index begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= n) return;
      try {
        call(f, begin, begin + grain < n ? begin + grain : n);
      } catch (...) {
        next.store(n, std::memory_order_relaxed);
        std::lock_guard<std::mutex> lock(error_mutex);
        if (!error) error = std::current_exception();
      }
    }
  }
};

/// Workers spin briefly for the next job, then sleep. Never destroyed: threads end with the process.
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
    // One job at a time; a second caller from another thread works alone rather than wait.
    if (!mutex_.try_lock()) return job.work();
    std::lock_guard<std::mutex> lock(mutex_, std::adopt_lock);
    const int helpers = size() - 1;
    while (started_ < helpers) start(started_++);
    job_ = &job;
    busy_.store(helpers, std::memory_order_relaxed);
    wanted_.store(helpers, std::memory_order_relaxed);
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    inside() = true;
    job.work();
    inside() = false;
    for (int spin = 0; busy_.load(std::memory_order_acquire) != 0; ++spin)
      if (spin > 2000) sched_yield();
  }

 private:
  Pool() : size_(usable_cpus()) {}
  struct Start { Pool* pool; int id; unsigned epoch; };
  void start(int id) {
    auto* s = new Start{this, id, epoch_.load()};
    pthread_t t;
    if (pthread_create(&t, nullptr, &Pool::loop, s) != 0) {
      delete s;
      fail(ErrorKind::memory, "parallel: cannot start a thread; " + std::to_string(id + 2) +
                                  " threads asked for -> fewer --threads");
    }
    pthread_detach(t);
  }
  static void* loop(void* arg) {
    const Start s = *static_cast<Start*>(arg);
    delete static_cast<Start*>(arg);
    inside() = true;
    unsigned seen = s.epoch;
    for (;;) {
      unsigned now = s.pool->epoch_.load(std::memory_order_acquire);
      for (int spin = 0; now == seen && spin < 4000; ++spin) {
        relax();
        now = s.pool->epoch_.load(std::memory_order_acquire);
      }
      if (now == seen) {
        s.pool->epoch_.wait(seen, std::memory_order_acquire);
        continue;
      }
      seen = now;
      if (s.id < s.pool->wanted_.load(std::memory_order_relaxed)) {
        s.pool->job_->work();
        s.pool->busy_.fetch_sub(1, std::memory_order_release);
      }
    }
    return nullptr;
  }
  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  std::mutex mutex_;
  std::atomic<int> size_;
  int started_ = 0;
  Job* job_ = nullptr;
  std::atomic<int> busy_{0}, wanted_{0};
  std::atomic<unsigned> epoch_{0};
};

}  // namespace detail

/// Threads that parallel_for uses; the caller's own thread is one of them.
inline int threads() { return detail::Pool::instance().size(); }
/// Sets that number. Default: usable_cpus().
inline void set_threads(int n) { detail::Pool::instance().resize(n); }

/// Calls f(begin, end) on consecutive pieces of [0,n), each `grain` long (the last may be shorter),
/// in any order and from any thread. Pieces are the same for every thread count; a reduction that
/// keeps one partial result per piece is therefore reproducible. Nested calls run serially. The
/// first exception is rethrown.
template <class F> void parallel_for(Index n, Index grain, F&& f) {
  if (n <= 0) return;
  if (grain < 1) grain = 1;
  if (n <= grain || threads() == 1 || detail::Pool::inside()) {
    for (Index b = 0; b < n; b += grain) f(b, b + grain < n ? b + grain : n);
    return;
  }
  detail::Job job;
  using G = std::remove_reference_t<F>;
  job.call = [](void* g, Index b, Index e) { (*static_cast<G*>(g))(b, e); };
  job.f = const_cast<void*>(static_cast<const void*>(&f));
  job.n = n;
  job.grain = grain;
  detail::Pool::instance().run(job);
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace moraine
