// Runs the user's kernel on the CPU, and on a CUDA device where there is one.
#include <cstdio>
#include <moraine/core/tensor.hpp>

#include "user_op.hpp"

using namespace moraine;

static void run(Device d) {
  const Tensor<float> x = Tensor<float>({3}, {1, 2, 3}).to(d);
  const Tensor<float> y = Tensor<float>::empty({3}, d);
  launch(d, SquarePlusOne<float>{3, x.data(), y.data()});
  std::printf("%s:", name_of(d));
  for (float v : y.values()) std::printf(" %g", static_cast<double>(v));
  std::printf("\n");
}

int main() {
  run(Device::cpu);
  std::puts(CudaSlot<SquarePlusOne<float>>::run ? "slot: filled" : "slot: empty");
  std::puts(cuda_available() ? "cuda: available" : "cuda: not available");
  if (cuda_available()) run(Device::cuda);
}
