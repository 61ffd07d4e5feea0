// A product, a loss, a gradient. Prints:
//   loss 4.5
//   gradient 5 4 4 4 3 4
#include <cstdio>
#include <moraine/moraine.hpp>

using namespace moraine;

int main() {
  const Tensor<> x({2, 3}, {1, 2, 3, 3, 2, 1});
  Tensor<> w({3, 2}, {1, 0, 0, 1, 0, 0});
  w.requires_grad();
  const Tensor<> loss = mean(square(matmul(x, w)));
  backward(loss);
  std::printf("loss %g\ngradient", static_cast<double>(loss.item()));
  for (float g : w.grad().values()) std::printf(" %g", static_cast<double>(g));
  std::printf("\n");
}
