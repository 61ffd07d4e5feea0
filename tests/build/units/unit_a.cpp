// One of two files that include every header (-include everything.hpp): see unit_b.cpp.
#include <moraine/moraine.hpp>
#include <vector>

std::vector<const void*> state_of_a() {
  return {&moraine::cpu_device, &moraine::cuda_device,
          &moraine::CudaSlot<moraine::Softmax<float>>::run, &moraine::tape(),
          &moraine::detail::Pool::instance()};
}
