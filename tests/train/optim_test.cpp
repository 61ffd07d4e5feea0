// AdamW, clipping and schedules against PyTorch, one by one and as five steps of a transformer.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <moraine/autograd/backward.hpp>
#include <moraine/io/json.hpp>
#include <moraine/io/safetensors.hpp>
#include <moraine/models/vit.hpp>
#include <moraine/nn/linear.hpp>
#include <moraine/ops/cross_entropy.hpp>
#include <moraine/train/optim.hpp>
#include <moraine/train/schedule.hpp>

#include "fixtures.hpp"

using namespace moraine;

namespace {

const SafetensorsFile& optim() {
  static const SafetensorsFile f = read_safetensors(fixtures::dir() + "/ops_optim.safetensors");
  return f;
}
Tensor<double> tensor(const SafetensorsFile& f, const std::string& name) {
  const auto at = f.tensors.find(name);
  REQUIRE_MESSAGE(at != f.tensors.end(), name);
  return at->second.as<double>().clone();
}
void set_gradient(Tensor<double>& p, const Tensor<double>& g) {
  p.zero_grad();
  static_cast<NodeOf<double>*>(p.node().get())->accumulate(g);
}

/// The tiny transformer of training_vit: a trunk and a head on the class token.
struct Model {
  ViT<double> vit{{.channels = 2,
                   .patch = 4,
                   .width = 16,
                   .depth = 2,
                   .heads = 2,
                   .hidden = 32,
                   .grid_h = 2,
                   .grid_w = 3,
                   .class_token = true,
                   .eps = 1e-6}};
  Linear<double> head{16, 3, true};
  void visit(Visitor<double>& v) {
    vit.visit(v);
    v("head", head);
  }
  Tensor<double> operator()(const Tensor<double>& images) {
    const Tensor<double> x = vit(images);  // (B,7,16)
    return head(reshape(slice(x, 1, 0, 1), {images.size(0), 16}));
  }
};

}  // namespace

TEST_CASE("optim: AdamW as PyTorch steps it") {
  for (const char* name : {"adamw", "adamw_large_decay", "adamw_no_decay", "adamw_zero_gradient"}) {
    CAPTURE(name);
    const std::string c = name;
    const Json meta = parse_json(optim().metadata.at(c));
    Tensor<double> w = tensor(optim(), c + ".in.0");
    w.requires_grad();
    const Json& betas = meta.at("betas");
    AdamW<double> adam({{"w", &w}}, {.lr = meta.at("lr").as_double(),
                                     .beta1 = betas.as_array()[0].as_double(),
                                     .beta2 = betas.as_array()[1].as_double(),
                                     .eps = meta.at("eps").as_double(),
                                     .weight_decay = meta.at("weight_decay").as_double()});
    adam.set_decay_factor("w", 1);  // PyTorch decays vectors as well
    const Tensor<double> gradients = tensor(optim(), c + ".in.1"),
                         steps = tensor(optim(), c + ".out");
    const Index n = w.numel();
    REQUIRE(steps.size(0) == meta.at("steps").as_int());
    for (Index t = 0; t < steps.size(0); ++t) {
      set_gradient(w, Tensor<double>::borrow(gradients.data() + t * n, w.shape()).clone());
      adam.step();
      CHECK(fixtures::distance(w.detach(),
                               Tensor<double>::borrow(steps.data() + t * n, w.shape())) < 1e-14);
    }
    const TensorMap state = adam.state();
    CHECK(fixtures::distance(state.at("m.w"), tensor(optim(), c + ".out.1")) < 1e-14);
    CHECK(fixtures::distance(state.at("v.w"), tensor(optim(), c + ".out.2")) < 1e-14);
  }
}

TEST_CASE("optim: a restored optimizer takes the same steps") {
  const Tensor<double> gradients = tensor(optim(), "adamw.in.1");
  const auto begin = [](Tensor<double>& w) {
    w = tensor(optim(), "adamw.in.0");
    w.requires_grad();
  };
  const auto step = [&](AdamW<double>& a, Tensor<double>& w, Index t) {
    set_gradient(w, Tensor<double>::borrow(gradients.data() + t * w.numel(), w.shape()).clone());
    a.step(0.5);
  };
  Tensor<double> whole, first, second;
  begin(whole), begin(first);
  AdamW<double> a({{"w", &whole}}, {}), b({{"w", &first}}, {});
  for (Index t = 0; t < 5; ++t) step(a, whole, t);
  for (Index t = 0; t < 2; ++t) step(b, first, t);
  second = first.clone();
  second.requires_grad();
  AdamW<double> c({{"w", &second}}, {});
  c.load_state(b.state(), b.steps());
  for (Index t = 2; t < 5; ++t) step(c, second, t);
  CHECK(second.values() == whole.values());
  CHECK_THROWS_AS(c.load_state({}, 2), Error);
}

TEST_CASE("optim: the norm of all gradients is clipped as PyTorch clips it") {
  for (const char* name : {"clip_active", "clip_idle"}) {
    const std::string c = name;
    const double max = parse_json(optim().metadata.at(c)).at("max_norm").as_double();
    Tensor<double> p[3];
    std::vector<Named<double>> list;
    for (int i = 0; i < 3; ++i) {
      const Tensor<double> g = tensor(optim(), c + ".in." + std::to_string(i));
      p[i] = Tensor<double>::zeros(g.shape());
      p[i].requires_grad();
      set_gradient(p[i], g);
      list.push_back({"p" + std::to_string(i), &p[i]});
    }
    AdamW<double> adam(list, {});
    CHECK(clip_grad_norm(adam, max) ==
          doctest::Approx(tensor(optim(), c + ".out").item()).epsilon(1e-14));
    for (int i = 0; i < 3; ++i)
      CHECK(fixtures::distance(p[i].grad(), tensor(optim(), c + ".out." + std::to_string(i + 1))) <
            1e-14);
  }
}

TEST_CASE("optim: a step with clip_scale is the step after clip_grad_norm, bit for bit") {
  for (double max : {0.5, 1e6}) {
    Tensor<float> p[2];
    std::vector<AdamW<float>> adam;
    for (Tensor<float>& x : p) {
      x = Tensor<float>::empty({301});
      for (Index i = 0; i < 301; ++i) x.data()[i] = std::sin(static_cast<float>(i));
      x.requires_grad();
      adam.emplace_back(std::vector<Named<float>>{{"p", &x}}, AdamWOptions{});
    }
    for (int step = 0; step < 3; ++step) {
      for (Tensor<float>& x : p) backward(sum(mul(mul(x, x), x)));
      const double norm = clip_grad_norm(adam[0], max);
      CHECK(norm == grad_norm(adam[1]));
      CHECK((clip_scale(norm, max) < 1) == (max < 1));
      adam[0].step(0.7);
      adam[1].step(0.7, clip_scale(norm, max));
      for (AdamW<float>& a : adam) a.zero_grad();
    }
    CHECK(std::memcmp(p[0].data(), p[1].data(), 301 * sizeof(float)) == 0);
  }
  CHECK(clip_scale(NAN, 1) == 1);
}

TEST_CASE("schedule: poly and cosine with warm-up") {
  for (const char* name : {"poly_warm0", "poly_warm5", "cosine_warm0", "cosine_warm5"}) {
    CAPTURE(name);
    const std::string c = name;
    const Json meta = parse_json(optim().metadata.at(c));
    Schedule s{.decay = c[0] == 'p' ? Decay::poly : Decay::cosine,
               .steps = meta.at("steps").as_int(),
               .warmup = meta.at("warmup").as_int()};
    if (const Json* p = meta.find("power")) s.power = p->as_double();
    if (const Json* f = meta.find("floor")) s.floor = f->as_double();
    const Tensor<double> expected = tensor(optim(), c + ".out");
    for (Index t = 0; t < s.steps; ++t)
      CHECK(meta.at("base").as_double() * s.at(t) ==
            doctest::Approx(expected.at({t})).epsilon(1e-13));
  }
  const Schedule flat{.decay = Decay::constant, .steps = 10};
  CHECK(flat.at(0) == 1);
  CHECK(flat.at(9) == 1);
}

TEST_CASE("training: five steps of a transformer agree with PyTorch to 1e-9") {
  const SafetensorsFile f = read_safetensors(fixtures::dir() + "/training_vit.safetensors");
  const Json config = parse_json(f.metadata.at("config"));
  const Tensor<double> images = f.tensors.at("images").as<double>();
  const Tensor<std::int64_t> labels = f.tensors.at("labels").as<std::int64_t>();
  const Index steps = images.size(0), batch = images.size(1);
  for (const char* name : {"plain", "clipped"}) {
    CAPTURE(name);
    const std::string run = name;
    const Json& o = config.at("runs").at(run);
    Model model;
    TensorMap init;
    for (const auto& [key, t] : f.tensors)
      if (key.rfind("init.", 0) == 0) init.emplace(key.substr(5), t);
    load<double>(model, init, {.may_share = false});
    require_grad<double>(model, "**");
    const Json& betas = o.at("betas");
    const double lr = o.at("lr").as_double();
    AdamW<double> adam(parameters<double>(model),
                       {.lr = lr,
                        .beta1 = betas.as_array()[0].as_double(),
                        .beta2 = betas.as_array()[1].as_double(),
                        .eps = o.at("eps").as_double(),
                        .weight_decay = o.at("weight_decay").as_double()});
    adam.set_decay_factor("**", 1);
    const Schedule schedule{.decay = run == "plain" ? Decay::constant : Decay::cosine,
                            .steps = steps,
                            .warmup = run == "plain" ? 0 : 2};
    const Tensor<double> rates = tensor(f, run + ".lr"), losses = tensor(f, run + ".loss"),
                         norms = tensor(f, run + ".norm");
    for (Index t = 0; t < steps; ++t) {
      const Shape one{batch, 2, 8, 12};
      const auto x = Tensor<double>::borrow(images.data() + t * one.numel(), one);
      const auto y = Tensor<std::int64_t>::borrow(labels.data() + t * batch, {batch});
      const Tensor<double> loss = cross_entropy(model(x), y);
      CHECK(loss.item() == doctest::Approx(losses.at({t})).epsilon(1e-9));
      backward(loss);
      if (t == 0)
        for (const Named<double>& p : parameters<double>(model))
          CHECK_MESSAGE(fixtures::distance(p.tensor->grad(), f.tensors.at("grad." + p.name)) < 1e-9,
                        p.name);
      const double max = o.at("clip").is_null() ? 1e300 : o.at("clip").as_double();
      CHECK(clip_grad_norm(adam, max) == doctest::Approx(norms.at({t})).epsilon(1e-9));
      CHECK(lr * schedule.at(t) == doctest::Approx(rates.at({t})).epsilon(1e-12));
      adam.step(schedule.at(t));
      adam.zero_grad();
    }
    for (const Named<double>& p : parameters<double>(model))
      CHECK_MESSAGE(
          fixtures::distance(p.tensor->detach(), f.tensors.at(run + ".final." + p.name)) < 1e-9,
          p.name);
  }
}
