// The program: finds the slot filled, its own device charged, and catches the library's error.
#include <cstdio>

#include "plugin.hpp"
#ifdef OPEN_AT_RUN_TIME
#include <dlfcn.h>
#else
extern "C" void* plugin_hold(int count);
extern "C" void plugin_fail();
#endif

using namespace moraine;

int main([[maybe_unused]] int argc, [[maybe_unused]] char** argv) {
#ifdef OPEN_AT_RUN_TIME
  void* library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : nullptr;
  if (!library) return std::puts("the library does not open"), 1;
  const auto plugin_hold = reinterpret_cast<void* (*)(int)>(dlsym(library, "plugin_hold"));
  const auto plugin_fail = reinterpret_cast<void (*)()>(dlsym(library, "plugin_fail"));
#endif
  int y = 0;
  try {
    launch(Device::cuda, Doubled{3, &y});
  } catch (const Error& e) {
    std::puts(e.what());
  }
  std::puts(y == 60 ? "slot filled by the library" : "the slot is empty here");
  const std::size_t before = cpu_device.live;
  delete static_cast<Tensor<float>*>((plugin_hold(100), plugin_hold(1000)));
  std::puts(cpu_device.live - before == 400 ? "one device" : "two devices");
  try {
    plugin_fail();
    std::puts("no error");
  } catch (const Error& e) {
    std::puts(e.kind() == ErrorKind::shape ? "caught its error" : "another error");
  } catch (...) {
    std::puts("an error of an unknown type");
  }
}
