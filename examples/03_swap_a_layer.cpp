// Swap a layer of a loaded model for experts. The model is not edited and does not know: a Slot in
// each block holds "a layer", and inject() puts ours around what is there.
#include <cstdio>
#include <memory>
#include <moraine/models/vit.hpp>
#include <moraine/moraine.hpp>
#include <moraine/peft/inject.hpp>

using namespace moraine;

/// y = base(x) + sum_e g_e B_e A_e x, g = softmax(x Wg): three low-rank experts around any layer.
template <class T>
struct ExpertLayer final : Layer<T> {
  std::unique_ptr<Layer<T>> base;
  Tensor<T> a, b, gate;  // (E*r,in), (E*r,out), (in,E)
  Index experts = 3, rank = 2;

  ExpertLayer(std::unique_ptr<Layer<T>> layer, const std::string& path) : base(std::move(layer)) {
    a = Tensor<T>::empty({experts * rank, base->in_features()});
    b = Tensor<T>::zeros({experts * rank, base->out_features()});  // so it starts as the base
    gate = Tensor<T>::empty({base->in_features(), experts});
    init::normal(a, 0.1, init::stream(0, path + ".a"));
    init::normal(gate, 0.1, init::stream(0, path + ".gate"));
    a.requires_grad(), b.requires_grad(), gate.requires_grad();
  }
  Tensor<T> run(const Tensor<T>& x, const LinearOptions<T>& o) override {
    const Tensor<T> rows = reshape(x, {-1, base->in_features()});  // (n,in)
    const Tensor<T> g = softmax(matmul(rows, gate));               // (n,E)
    observe("gates", g);                                           // for whoever listens
    const Index n = rows.size(0);
    const Tensor<T> low = reshape(linear(rows, a), {n, experts, rank});     // (n,E,r)
    const Tensor<T> mixed = mul(low, reshape(g, {n, experts, 1}));          // (n,E,r)
    const Tensor<T> more = matmul(reshape(mixed, {n, experts * rank}), b);  // (n,out)
    const Tensor<T> y = base->run(x, {});
    return finish(add(y, reshape(more, y.shape())), o);
  }
  void visit(Visitor<T>& v) override {
    base->visit(v);
    v("experts.a", a), v("experts.b", b), v("experts.gate", gate);
  }
  void pack() override { base->pack(); }
  Index in_features() const override { return base->in_features(); }
  Index out_features() const override { return base->out_features(); }
};

int main() {
  set_threads(1);
  const ViTConfig config{.channels = 4,
                         .patch = 4,
                         .width = 32,
                         .depth = 2,
                         .heads = 2,
                         .hidden = 64,
                         .grid_h = 4,
                         .grid_w = 4};
  // A checkpoint is a map of names; read_safetensors(path).tensors is one as well.
  ViT<float> other(config);
  for (Named<float>& p : parameters<float>(other))
    init::normal(*p.tensor, p.tensor->rank() > 1 ? 0.1 : 1, init::stream(7, p.name));
  ViT<float> model(config);
  load<float>(model, state<float>(other));
  freeze<float>(model);

  Tensor<float> pixels = Tensor<float>::empty({2, 4, 16, 16});
  init::normal(pixels, 1, Random(3, "pixels", 0));
  const auto before = model(pixels).values();
  const Index frozen = count_parameters<float>(model);

  for (const std::string& path :
       inject<float>(model, "blocks.*.mlp.fc1", [](auto layer, const std::string&p) {
         return std::make_unique<ExpertLayer<float>>(std::move(layer), p);
       }))
    std::printf("experts around %s\n", path.c_str());
  std::printf("%lld parameters frozen, %lld trained\n", static_cast<long long>(frozen),
              static_cast<long long>(count_parameters<float>(model, true)));
  std::printf("unchanged at the start, bit by bit: %s\n",
              model(pixels).values() == before ? "yes" : "no");

  const Tensor<float> wanted = Tensor<float>::full(model(pixels).shape(), 0.5f);
  AdamW<float> optimizer(parameters<float>(model), {.lr = 0.02});
  for (int step = 0; step <= 40; ++step) {
    const Tensor<float> loss = mean(square(model(pixels) - wanted));
    if (step % 20 == 0) std::printf("step %2d   loss %.2f\n", step, loss.item());
    backward(loss);
    optimizer.step();
    optimizer.zero_grad();
  }
  bool same = true;
  const TensorMap was = state<float>(other), now = state<float>(model);
  for (const auto& [name, value] : was)
    same &= now.at(name).as<float>().values() == value.as<float>().values();
  std::printf("the loaded weights are as they were: %s\n", same ? "yes" : "no");
  std::printf("new names in its checkpoint, for example blocks.0.mlp.fc1.experts.a: %s\n",
              now.count("blocks.0.mlp.fc1.experts.a") ? "yes" : "no");
}
