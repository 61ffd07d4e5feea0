// Tensors and gradients: the documentation of docs/01-tensors.md, which quotes it piece by piece.
#include <cstdio>
#include <moraine/moraine.hpp>

using namespace moraine;

namespace {

void print(const char* what, const Tensor<float>& t) {
  std::printf("%-22s %-8s", what, str(t.shape()).c_str());
  for (float v : t.values()) std::printf(" %.4g", v);
  std::printf("\n");
}

void make_and_view() {
  const Tensor<float> a({2, 3}, {1, 2, 3, 4, 5, 6});  // (2,3), values row by row
  const Tensor<float> b = transpose(a);               // (3,2), a view: no element is copied
  print("a", a);
  print("transpose(a)", b);
  print("slice(a, 1, 0, 2)", slice(a, 1, 0, 2));           // columns 0 and 1
  print("matmul(a, b)", matmul(a, b));                     // (2,2)
  print("a + row", a + Tensor<float>({3}, {10, 20, 30}));  // the row is repeated
  print("sum over rows", sum(a, {.axes = {0}}));
  a.data()[0] = 100;  // a handle: every view sees it
  std::printf("b.at({0, 0}) is now %g\n\n", b.at({0, 0}));
}

void gradients() {
  Tensor<float> w({2}, {3, -1});
  w.requires_grad();  // a leaf: its gradient is kept
  const Tensor<float> x({2}, {2, 5});
  const Tensor<float> loss = sum(square(mul(w, x)));  // w0^2 x0^2 + w1^2 x1^2 = 36 + 25
  backward(loss);
  std::printf("loss %g\n", loss.item());
  print("d loss / d w", w.grad());  // 2 w x^2
  std::printf("\n");
}

void fit_a_line() {
  // y = 2 x - 1 with a little noise; the same numbers on every machine and for any thread count.
  const Index n = 64;
  const Random random(1, "line", 0);
  Tensor<float> x = Tensor<float>::empty({n, 1}), y = Tensor<float>::empty({n, 1});
  for (Index i = 0; i < n; ++i) {
    const auto at = static_cast<std::uint64_t>(i);
    x.data()[i] = random.uniform(at, -1, 1);
    y.data()[i] = 2 * x.data()[i] - 1 + 0.01f * static_cast<float>(random.normal(1000 + at));
  }
  Tensor<float> weight = Tensor<float>::zeros({1, 1}), bias = Tensor<float>::zeros({1});
  weight.requires_grad(), bias.requires_grad();
  for (int step = 0; step < 60; ++step) {
    backward(mean(square(linear(x, weight, bias) - y)));
    for (Tensor<float>* p : {&weight, &bias}) {
      for (Index i = 0; i < p->numel(); ++i) p->data()[i] -= 0.5f * p->grad().data()[i];
      p->zero_grad();  // gradients add up until they are forgotten
    }
  }
  std::printf("fitted line: y = %.2f x %+.2f\n\n", weight.item(), bias.item());
}

void without_a_tape() {
  Tensor<float> w = Tensor<float>::ones({4});
  w.requires_grad();
  std::printf("recorded: %s\n", exp(w).tracked() ? "yes" : "no");
  {
    NoGrad off;  // for inference, while it lives
    std::printf("under NoGrad: %s\n", exp(w).tracked() ? "yes" : "no");
  }
  std::printf("from detach(): %s\n\n", exp(w.detach()).tracked() ? "yes" : "no");
}

/// Twelve layers of 64 -> 64 with a GELU after each.
Tensor<float> deep(Tensor<float> x, const Tensor<float>& weight) {
  for (int i = 0; i < 12; ++i) x = linear(x, weight, {}, {.activation = Activation::gelu});
  return x;
}

void recompute_instead_of_keeping() {
  Tensor<float> weight = Tensor<float>::full({64, 64}, 0.02f);
  weight.requires_grad();
  const Tensor<float> x = Tensor<float>::full({256, 64}, 1.f);

  const std::size_t before = cpu_device.live;
  const Tensor<float> plain = sum(deep(x, weight));
  const std::size_t kept = cpu_device.live - before;
  backward(plain);
  const Tensor<float> first = weight.grad();
  weight.zero_grad();

  const std::size_t again = cpu_device.live;
  const auto layers = [weight](const Tensor<float>& t) { return deep(t, weight); };
  const Tensor<float> thrifty = sum(checkpoint(layers, x));
  const std::size_t kept_again = cpu_device.live - again;
  backward(thrifty);

  std::printf("kept for the backward: %zu bytes, with checkpoint %zu\n", kept, kept_again);
  const bool same = first.values() == weight.grad().values();
  std::printf("the same gradient, bit by bit: %s\n\n", same ? "yes" : "no");
}

void errors() {
  try {
    matmul(Tensor<float>::zeros({2, 3}), Tensor<float>::zeros({2, 3}));
  } catch (const Error& e) {
    std::printf("%s\n", e.what());
    std::printf("a shape error: %s\n", e.kind() == ErrorKind::shape ? "yes" : "no");
  }
}

}  // namespace

int main() {
  make_and_view();
  gradients();
  fit_a_line();
  without_a_tape();
  recompute_instead_of_keeping();
  errors();
}
