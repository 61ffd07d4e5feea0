// A plain C++ program that tries the CUDA backend; the same object is linked with and without it.
#include <cmath>
#include <cstdio>
#include <moraine/moraine.hpp>

using namespace moraine;

int main() {
  const Tensor<> x({2, 3}, {1, 2, 3, 4, 5, 7});
  const std::vector<float> expected = softmax(x).values();
  std::puts(cuda_available() ? "cuda: available" : "cuda: not available");
  try {
    const std::vector<float> y = softmax(x.to(Device::cuda)).values();
    bool agrees = y.size() == expected.size();
    for (std::size_t i = 0; agrees && i < y.size(); ++i)
      agrees = std::abs(y[i] - expected[i]) < 1e-6f;
    std::puts(agrees ? "softmax on cuda agrees" : "softmax on cuda differs");
  } catch (const Error& e) {
    std::printf("error: %s\n", e.what());
  }
  std::puts(std::abs(expected[0] - 0.09003057f) < 1e-6f ? "cpu works" : "cpu does not work");
}
