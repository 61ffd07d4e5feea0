#pragma once
// Devices, the allocator of each, and the slot through which a CUDA kernel is bound.
//
// A kernel K is a plain struct of pointers and sizes with a static `cpu(const K&)`. Its CUDA
// launcher sits in CudaSlot<K>, filled at start-up by the one .cu file of a program
// (include/moraine/cuda.cu). Nothing else differs between a program with and without CUDA.
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/core/mutex.hpp>

#include <sys/mman.h>

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <string>

namespace moraine MORAINE_API {

enum class Device : unsigned char { cpu, cuda };

inline const char* name_of(Device d) { return d == Device::cpu ? "cpu" : "cuda"; }

/// The CPU row of the device table: counts what tensors hold, and keeps freed blocks for the next
/// step of a training loop, which asks for the same sizes again (a fresh block costs a page fault
/// for every 4 KiB: up to a tenth of a step). What is held and kept never passes the most that was
/// ever held by more than cache_limit; trim() gives all that is kept back. Large blocks come from
/// the system directly: until they are written to they cost nothing, and read as zero.
struct CpuDevice {
  std::atomic<std::size_t> live{0};   ///< bytes held by tensors now
  std::atomic<std::size_t> peak{0};   ///< the most that were held at once
  std::atomic<std::size_t> limit{0};  ///< refuse to hold more than this; 0: no limit
  /// How much more than `peak` may be held and kept for reuse together; 0: nothing is kept.
  std::atomic<std::size_t> cache_limit{std::size_t{1} << 28};

  /// `zero`, if given, is set where the block is known to hold zeros.
  void* alloc(std::size_t bytes, bool* zero = nullptr);
  void free(void* p, std::size_t bytes) noexcept;
  /// Gives every kept block back to the system.
  void trim() noexcept;
  void reset_peak() { peak = live.load(); }

 private:
  static constexpr std::size_t kept_from = 1 << 15;    // smaller blocks: malloc is fast enough
  static constexpr std::size_t mapped_from = 1 << 21;  // larger blocks: mmap, not malloc
  static constexpr int classes = 4 * 32;               // four sizes per power of two from kept_from
  struct Block {
    Block* next;
  };
  static std::size_t round(std::size_t bytes, int& cls) {
    std::size_t base = kept_from;
    cls = 0;
    while (base * 2 <= bytes) base *= 2, cls += 4;
    const std::size_t quarter = base / 4, steps = (bytes - base + quarter - 1) / quarter;
    cls += static_cast<int>(steps);
    return base + steps * quarter;
  }
  static std::size_t rounded(std::size_t bytes, int& cls) {
    cls = classes;  // none
    std::size_t want = (bytes + 63) / 64 * 64 + (bytes ? 0 : 64);
    return want >= kept_from ? round(want, cls) : want;
  }
  static void* fresh(std::size_t want) noexcept {
    if (want < mapped_from) return std::aligned_alloc(64, want);
    void* p = mmap(nullptr, want, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? nullptr : p;
  }
  static void give_back(void* p, std::size_t want) noexcept {
    if (want >= mapped_from)
      munmap(p, want);
    else
      std::free(p);
  }
  Mutex mutex_;
  std::size_t cached_ = 0;
  Block* kept_[classes + 8] = {};
};

inline CpuDevice cpu_device;

inline void* CpuDevice::alloc(std::size_t bytes, bool* zero) {
  const std::size_t now = live.fetch_add(bytes) + bytes;
  const std::size_t most = limit.load(std::memory_order_relaxed);
  if (most && now > most) {
    live -= bytes;
    fail(ErrorKind::memory, "memory: a tensor of " + std::to_string(bytes) +
                                " bytes would pass the limit; " + std::to_string(now) + " of " +
                                std::to_string(most) +
                                " bytes -> smaller windows or batches, or a larger --memory");
  }
  std::size_t seen = peak.load();
  while (now > seen && !peak.compare_exchange_weak(seen, now)) {
  }
  int cls;
  const std::size_t want = rounded(bytes, cls);
  if (zero) *zero = false;
  if (cls < classes) {
    const Lock lock(mutex_);
    if (kept_[cls]) {
      Block* b = kept_[cls];
      kept_[cls] = b->next;
      cached_ -= want;
      return b;
    }
  }
  void* p = fresh(want);
  if (!p) {  // what is kept for reuse may be just what the system is out of
    trim();
    p = fresh(want);
  }
  if (zero) *zero = want >= mapped_from;
  if (!p) {
    live -= bytes;
    fail(ErrorKind::memory, "memory: the system has no " + std::to_string(bytes) + " bytes left; " +
                                std::to_string(now - bytes) + " bytes are held by tensors");
  }
  return p;
}

inline void CpuDevice::free(void* p, std::size_t bytes) noexcept {
  live -= bytes;
  int cls;
  const std::size_t want = rounded(bytes, cls);
  if (cls < classes) {
    const Lock lock(mutex_);
    const std::size_t extra = cache_limit.load(std::memory_order_relaxed);
    if (extra && live.load() + cached_ + want <= peak.load() + extra) {
      kept_[cls] = new (p) Block{kept_[cls]};
      cached_ += want;
      return;
    }
  }
  give_back(p, want);
}

inline void CpuDevice::trim() noexcept {
  const Lock lock(mutex_);
  for (int cls = 0; cls < classes; ++cls) {
    const std::size_t base = kept_from << (cls / 4), want = base + base / 4 * (cls % 4);
    for (Block*& head = kept_[cls]; head;) {
      Block* next = head->next;
      give_back(head, want);
      head = next;
    }
  }
  cached_ = 0;
}

/// The CUDA row. Constant-initialised; only the .cu translation unit writes to it, before main.
struct CudaDevice {
  void* (*alloc)(std::size_t) = nullptr;
  void (*free)(void*) = nullptr;
  void (*copy)(void* dst, const void* src, std::size_t) = nullptr;  ///< either way, synchronous
  void (*synchronize)() = nullptr;
  const char* status =
      "the CUDA backend is not linked -> compile include/moraine/cuda.cu into your program "
      "(CMake: link moraine::cuda)";
};
inline CudaDevice cuda_device;

/// True when the CUDA backend is linked and found a device.
inline bool cuda_available() { return cuda_device.alloc != nullptr; }

/// Where the launcher of kernel K sits once a .cu file is linked.
template <class K>
struct CudaSlot {
  static inline void (*run)(const K&) = nullptr;
};

/// Runs kernel K where its tensors are.
template <class K>
void launch(Device d, const K& k) {
  if (d == Device::cpu) return K::cpu(k);
  if (!CudaSlot<K>::run)
    fail(ErrorKind::device,
         std::string(K::name) + ": " +
             (cuda_device.alloc ? "has no CUDA kernel for this element type yet -> move the tensor "
                                  "to the CPU with .to(Device::cpu)"
                                : cuda_device.status));
  CudaSlot<K>::run(k);
}

}  // namespace moraine

/// Last lines of an op's device section: hands a launcher with internal linkage to the slot of
/// kernel K<float>. A second line with another type binds that type.
#define MORAINE_CUDA_KERNEL(K, T, launcher)                    \
  namespace {                                                  \
  [[maybe_unused]] const bool bound_##launcher##_##T =         \
      ((::moraine::CudaSlot<K<T>>::run = &launcher<T>), true); \
  }
