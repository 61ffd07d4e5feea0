// doctor: what this machine has, what is missing, and the line that installs it.
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <moraine/core/device.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/cpu/simd.hpp>
#include <moraine/io/file.hpp>
#include <string>
#include <vector>

#include "commands.hpp"

using namespace moraine;

namespace program {
namespace {

/// Something to find: a program on the PATH, or a header.
struct Need {
  const char* what;
  const char* package;  ///< of Debian and Ubuntu
  const char* why;
  bool program, optional;
};
constexpr Need needs[] = {
    {"g++", "g++", "compiles everything", true, false},
    {"cmake", "cmake", "configures the build", true, false},
    {"ninja", "ninja-build", "runs the build", true, false},
    {"python3", "python3", "repository checks; standard library only", true, false},
    {"eigen3/Eigen/Core", "libeigen3-dev", "what the tests compare our products with", false, false},
    {"tiffio.h", "libtiff-dev", "reads and writes GeoTIFF", false, false},
    {"png.h", "libpng-dev", "reads PNG", false, false},
    {"jpeglib.h", "libjpeg-dev", "reads JPEG", false, false},
    {"zlib.h", "zlib1g-dev", "compression", false, false},
    {"rapidjson/reader.h", "rapidjson-dev", "reads JSON and safetensors", false, false},
    {"stb/stb_image_write.h", "libstb-dev", "writes previews", false, false},
    {"CLI/CLI.hpp", "libcli11-dev", "options of this program", false, false},
    {"nlohmann/json.hpp", "nlohmann-json3-dev", "configurations of this program", false, false},
    {"doctest/doctest.h", "doctest-dev", "the tests", false, false},
    {"clang++", "clang", "the second compiler; fuzzing", true, true},
    {"benchmark/benchmark.h", "libbenchmark-dev", "the benchmarks", false, true},
    {"gdalinfo", "gdal-bin", "a second opinion on GeoTIFF files", true, true},
    {"nvcc", "nvidia-cuda-toolkit", "the CUDA backend", true, true},
};

bool is_here(const Need& n) {
  if (!n.program) {
    for (const char* dir : {"/usr/include/", "/usr/local/include/",
                            "/usr/include/x86_64-linux-gnu/", "/usr/include/aarch64-linux-gnu/"})
      if (is_file(std::string(dir) + n.what)) return true;
    return false;
  }
  const char* set = std::getenv("PATH");
  std::string path = set ? set : "/usr/bin:/bin";
  if (std::string_view(n.what) == "nvcc") path += ":/usr/local/cuda/bin";
  for (std::size_t at = 0; at <= path.size();) {
    const std::size_t end = std::min(path.find(':', at), path.size());
    if (access((path.substr(at, end - at) + "/" + n.what).c_str(), X_OK) == 0) return true;
    at = end + 1;
  }
  return false;
}

/// The first whole number in a file (of kernel or cgroup); -1 when there is none.
double number_in(const char* file, const char* after = "") {
  double v = -1;
  if (std::FILE* f = std::fopen(file, "re")) {
    char text[4096];
    text[std::fread(text, 1, sizeof text - 1, f)] = '\0';
    std::fclose(f);
    if (const char* at = std::strstr(text, after)) {
      char* end = nullptr;
      const char* from = at + std::strlen(after);
      v = static_cast<double>(std::strtoull(from, &end, 10));
      if (end == from) v = -1;
    }
  }
  return v;
}

}  // namespace

int run_doctor(const DoctorOptions&) {
  std::printf("moraine %s\n\n", MORAINE_VERSION);
  utsname os{};
  uname(&os);
  std::printf("machine   %s %s, %ld CPUs\n", os.sysname, os.machine, sysconf(_SC_NPROCESSORS_ONLN));
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) CPU_SET(0, &set);
  std::printf(
      "threads   %d (affinity allows %d; cgroup quota and OMP_NUM_THREADS may allow fewer)\n",
      usable_cpus(), CPU_COUNT(&set));
  std::printf("kernels   %s%s\n", cpu::name_of(cpu::best_isa()),
              std::getenv("MORAINE_ISA") ? " (chosen by MORAINE_ISA)" : "");
  const double available = number_in("/proc/meminfo", "MemAvailable:") * 1024;
  const double limit = number_in("/sys/fs/cgroup/memory.max");
  std::printf("memory    %.1f GiB available", available / (1 << 30));
  if (limit > 0) std::printf(", cgroup limit %.1f GiB", limit / (1 << 30));
  std::printf("\n");
  std::printf("CUDA      %s\n\n",
              cuda_available() ? "linked, a device was found" : cuda_device.status);

  std::string missing, optional;
  for (const Need& n : needs) {
    const bool here = is_here(n);
    std::printf("%-9s %-24s %s\n",
                here         ? "here"
                : n.optional ? "optional"
                             : "MISSING",
                n.what, n.why);
    if (!here) (n.optional ? optional : missing) += std::string(" ") + n.package;
  }
  std::printf("\n");
  if (missing.empty())
    std::printf("Nothing that a build needs is missing.\n");
  else
    std::printf("To install what is missing:\n  apt-get install -y%s\n", missing.c_str());
  if (!optional.empty()) std::printf("Optional:\n  apt-get install -y%s\n", optional.c_str());
  return 0;
}

}  // namespace program
