// The library: fills a slot at start-up, allocates, throws.
#include "plugin.hpp"

extern "C" __attribute__((visibility("default"))) void* plugin_hold(int count) {
  return new moraine::Tensor<float>(moraine::Tensor<float>::zeros({count}));
}
extern "C" __attribute__((visibility("default"))) void plugin_fail() {
  moraine::fail(moraine::ErrorKind::shape, "plugin: an error");
}

namespace {
[[maybe_unused]] const bool bound = ((moraine::CudaSlot<moraine::Doubled>::run =
                                          [](const moraine::Doubled& k) { *k.y = 20 * k.x; }),
                                     true);
}
