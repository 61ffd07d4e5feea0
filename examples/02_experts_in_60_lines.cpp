// A mixture of low-rank experts, complete, in sixty lines: a frozen layer W that is right for
// nobody, E corrections B_e A_e of rank 1, and a gate that learns which rows need which one.
//
//   y = W x + sum_e g_e B_e A_e x,   g = softmax(x Wg)
#include <cstdio>
#include <moraine/moraine.hpp>

using namespace moraine;

struct Experts {
  Index dim, count;
  Tensor<float> weight, a, b, gate;  // (D,D) frozen; (E,D), (E,D), (D,E) trained

  Experts(Index d, Index e) : dim(d), count(e) {
    weight = Tensor<float>::zeros({d, d});
    a = Tensor<float>::empty({e, d}), b = Tensor<float>::zeros({e, d});
    gate = Tensor<float>::zeros({d, e});
    init::normal(a, 0.5, Random(1, "a", 0));
    init::normal(gate, 0.1, Random(1, "gate", 0));
    require_grad<float>(*this, "*");
  }
  void visit(Visitor<float>& v) { v("a", a), v("b", b), v("gate", gate); }

  Tensor<float> gates(const Tensor<float>& x) const { return softmax(matmul(x, gate)); }  // (n,E)
  Tensor<float> operator()(const Tensor<float>& x) const {
    const Tensor<float> low = linear(x, a);                        // (n,E): A_e x, one number each
    return add(linear(x, weight), matmul(mul(gates(x), low), b));  // (n,D)
  }
};

int main() {
  // Three kinds of rows, told apart by their first three numbers; each kind has its own rank-1 law.
  const Index n = 600, d = 8, kinds = 3;
  Tensor<float> x = Tensor<float>::empty({n, d}), y = Tensor<float>::empty({n, d});
  Tensor<float> u = Tensor<float>::empty({kinds, d}), v = Tensor<float>::empty({kinds, d});
  init::normal(x, 0.5, Random(2, "x", 0));
  init::normal(u, 1, Random(2, "u", 0)), init::normal(v, 1, Random(2, "v", 0));
  for (Index i = 0; i < n; ++i) {
    const Index kind = i % kinds;
    x.data()[i * d + kind] += 3;
    float product = 0;
    for (Index j = 0; j < d; ++j) product += x.data()[i * d + j] * u.data()[kind * d + j];
    for (Index j = 0; j < d; ++j) y.data()[i * d + j] = product * v.data()[kind * d + j];
  }

  Experts experts(d, kinds);
  AdamW<float> optimizer(parameters<float>(experts), {.lr = 0.03});
  for (int step = 0; step <= 300; ++step) {
    const Tensor<float> loss = mean(square(experts(x) - y));
    if (step % 100 == 0) std::printf("step %3d   loss %.2f\n", step, loss.item());
    backward(loss);
    optimizer.step();
    optimizer.zero_grad();
  }
  const Tensor<float> g = experts.gates(x).detach();
  std::printf("\nmean gate    expert 0  expert 1  expert 2\n");
  for (Index k = 0; k < kinds; ++k) {
    std::printf("kind %lld   ", static_cast<long long>(k));
    for (Index e = 0; e < kinds; ++e) {
      double total = 0;
      for (Index i = k; i < n; i += kinds) total += g.data()[i * kinds + e];
      std::printf("%10.2f", total / (n / kinds));
    }
    std::printf("\n");
  }
}
