// Pointwise ops, attention, indexing, norms and losses against PyTorch.
#include "parity.hpp"

#include <moraine/ops/attention.hpp>
#include <moraine/ops/batch_norm.hpp>
#include <moraine/ops/group_norm.hpp>
#include <moraine/ops/index.hpp>
#include <moraine/ops/logsumexp.hpp>
#include <moraine/ops/loss.hpp>
#include <moraine/ops/pad.hpp>
#include <moraine/ops/roll.hpp>
#include <moraine/ops/scan.hpp>
#include <moraine/ops/shape.hpp>
#include <moraine/ops/softmax.hpp>
#include <moraine/ops/sort.hpp>
#include <moraine/ops/unary.hpp>

using namespace moraine;

namespace {
template <class C>
int axis_of(const C& c) {
  return static_cast<int>(c.integer("dim"));
}
template <class C>
Reduction reduction_of(const C& c) {
  return c.text("reduction") == "sum" ? Reduction::sum : Reduction::mean;
}
template <class C>
using element = std::decay_t<decltype(std::declval<C&>().x(0).item())>;
}  // namespace

TEST_CASE("pointwise ops agree with PyTorch") {
  parity::check_parity("pointwise", [](auto& c) {
    using T = element<decltype(c)>;
    const auto& x = c.x(0);
    const std::string& op = c.op;
    if (op == "gelu") c.value(gelu(x));
    if (op == "gelu_tanh") c.value(gelu_tanh(x));
    if (op == "quick_gelu") c.value(quick_gelu(x));
    if (op == "silu") c.value(silu(x));
    if (op == "sigmoid") c.value(sigmoid(x));
    if (op == "tanh") c.value(tanh(x));
    if (op == "softplus") c.value(softplus(x));
    if (op == "log_sigmoid") c.value(-softplus(-x));
    if (op == "erf") c.value(erf(x));
    if (op == "relu") c.value(relu(x));
    // No op of ours: a minimum whose first operand, which takes the gradient of a tie, is the 6.
    if (op == "relu6") c.value(minimum(Tensor<T>::scalar(6), relu(x)));
    if (op == "log") c.value(log(x));
    if (op == "sqrt") c.value(sqrt(x));
    if (op == "rsqrt") c.value(rsqrt(x));
    if (op == "log1p") c.value(log1p(x));
    if (op == "softmax") c.value(softmax(x, axis_of(c)));
    if (op == "log_softmax") c.value(log_softmax(x, axis_of(c)));
    if (op == "logsumexp") c.value(logsumexp(x, {.axis = axis_of(c)}));
  });
}

namespace {
template <class T>
Tensor<T> tokens(const Tensor<T>& x) {  // (B,H,N,D) -> (B,N,H*D)
  return reshape(permute(x, {0, 2, 1, 3}), {x.size(0), x.size(2), x.size(1) * x.size(3)});
}
template <class T>
double largest(const Tensor<T>& x) {
  double most = 0;
  for (T v : x.values()) most = std::max(most, std::abs(double(v)));
  return most;
}
/// What a case says about its scores, and what float can keep of them. Masks are a bias here:
/// -infinity where nobody may look.
template <class C>
auto attention_options(C& c) {
  using T = element<C>;
  AttentionOptions<T> o;
  if (c.parameters.find("scale")) o.scale = c.number("scale");
  const Index n = c.x(0).size(2), m = c.x(1).size(2);
  const auto masked = [&](auto may) {
    o.bias = Tensor<T>::zeros({n, m});
    for (Index i = 0; i < n; ++i)
      for (Index j = 0; j < m; ++j)
        if (!may(i, j)) o.bias.data()[i * m + j] = -INFINITY;
  };
  if (c.parameters.find("causal")) masked([](Index i, Index j) { return j <= i; });
  if (c.name == "additive_mask") o.bias = c.x(3);
  if (c.name == "boolean_mask") {
    const Tensor<std::int64_t> mask = c.ids(3);
    masked([&](Index i, Index j) { return mask.at({i, j}) != 0; });
  }
  if (c.parameters.find("bias")) o.bias = c.x(3);
  if (c.parameters.find("key_mask")) {
    const Tensor<std::int64_t> mask = c.ids(3);
    o.key_mask = Mask::empty(mask.shape());
    for (Index i = 0; i < mask.numel(); ++i) o.key_mask.data()[i] = mask.data()[i] != 0;
  }
  if (c.parameters.find("keys")) o.keys = c.ids(3);
  if (c.parameters.find("relative")) o.rel_h = c.x(3), o.rel_w = c.x(4);
  // A score is off by some roundings u of itself, and so is exp of it: relatively. And dP - sum dP
  // P of a saturated row is 0 by cancelling; its roundings reach dq and dk times k and q.
  const double u = 6e-8, scale = o.scale != 0 ? o.scale : 1 / std::sqrt(double(c.x(0).size(3)));
  const auto in = [&](const char* what) { return c.get(what).template as<double>(); };
  const auto q = in("in.0"), k = in("in.1"), v = in("in.2"), dy = in("cot");
  c.float_tolerance = std::max(2e-5, 2 * u * scale * largest(matmul(q, transpose(k))));
  c.float_floor = std::max(
      1e-7, 2 * u * scale * largest(matmul(dy, transpose(v))) * std::max(largest(q), largest(k)));
  return o;
}
}  // namespace

TEST_CASE("attention agrees with PyTorch, fused, composed, and from one projection") {
  parity::check_parity("attention", [](auto& c) {
    if (c.op == "sdpa") c.value(attention(c.x(0), c.x(1), c.x(2), attention_options(c)));
  });
  parity::check_parity("attention", [](auto& c) {
    c.value(attention_composed(c.x(0), c.x(1), c.x(2), attention_options(c)));
  });
  // self_attention reads q, k and v from one tensor, so only cases where they are alike.
  int seen = 0;
  parity::check_parity("attention", [&](auto& c) {
    const auto &q = c.x(0), &k = c.x(1), &v = c.x(2);
    const auto o = attention_options(c);
    if (q.shape() != k.shape() || q.shape() != v.shape())
      return c.value(attention_composed(q, k, v, o));
    ++seen;
    using T = element<decltype(c)>;
    const Tensor<T> y =
        self_attention(concat<T>({tokens(q), tokens(k), tokens(v)}, 2), q.size(1), o);  // (B,N,C)
    c.value(permute(reshape(y, {q.size(0), q.size(2), q.size(1), q.size(3)}), {0, 2, 1, 3}));
  });
  CHECK(seen == 2 * 6);  // in double and in float
}

TEST_CASE("indexing, sorting and padding agree with PyTorch") {
  parity::check_parity("index", [](auto& c) {
    using T = element<decltype(c)>;
    const std::string& op = c.op;
    if (op == "index_select") c.value(index_select(c.x(0), c.ids(1), axis_of(c)));
    if (op == "embedding") c.value(embedding(c.x(1), c.ids(0)));
    if (op == "gather") c.value(gather(c.x(0), axis_of(c), c.ids(1)));
    if (op == "index_add") c.value(index_add(c.x(0), axis_of(c), c.ids(1), c.x(2)));
    if (op == "scatter_add") c.value(scatter_add(c.x(0), axis_of(c), c.ids(1), c.x(2)));
    if (op == "cumsum") c.value(cumsum(c.x(0), axis_of(c)));
    if (op == "one_hot")
      c.output("out", cast<std::int64_t>(cast<std::uint8_t>(
                          equal(one_hot<T>(c.ids(0), c.integer("num_classes")), T(1)))));
    if (op == "argsort")
      c.output("out", argsort(c.x(0), {.axis = axis_of(c), .descending = c.yes("descending")}));
    if (op == "topk") {
      const auto top =
          top_k(c.x(0), c.integer("k"), {.axis = axis_of(c), .largest = c.yes("largest")});
      c.value(top.values);
      c.output("out.1", top.indices);
    }
    if (op == "roll") {
      std::vector<int> axes;
      for (Index a : c.integers("dims")) axes.push_back(static_cast<int>(a));
      c.value(roll(c.x(0), c.integers("shifts"), axes));
    }
    if (op == "pad") {  // PyTorch lists the last axis first
      const std::vector<Index> flat = c.integers("pad");
      std::vector<Padding> padding;
      for (std::size_t i = flat.size(); i > 0; i -= 2)
        padding.push_back({flat[i - 2], flat[i - 1]});
      const std::string mode = c.text("mode");
      if (mode == "constant") c.value(pad(c.x(0), padding, {.value = c.number("value")}));
      if (mode == "reflect") c.value(pad(c.x(0), padding, {.mode = PadMode::reflect}));
      if (mode == "replicate") c.value(pad(c.x(0), padding, {.mode = PadMode::replicate}));
    }
  });
}

TEST_CASE("norms agree with PyTorch") {
  parity::check_parity("norm", [](auto& c) {
    using T = element<decltype(c)>;
    // Values of 500 and 1000 with deviation 1: their mean in float is off by up to 6e-5 of it.
    if (c.name.find("offset") != std::string::npos) c.float_tolerance = 1e-4;
    if (c.op == "layer_norm") {
      const auto flat = [&](const Tensor<T>& t, Index lead) {
        return t.defined() ? reshape(t, lead < 0 ? Shape{-1} : Shape{lead, -1}) : t;
      };
      Index width = 1;
      for (Index n : c.integers("normalized_shape")) width *= n;
      const auto y = layer_norm(flat(c.x(0), c.x(0).numel() / width), flat(c.optional(1), -1),
                                flat(c.optional(2), -1), c.number("eps"));
      c.value(reshape(y, c.x(0).shape()));
    }
    if (c.op == "group_norm")
      c.value(group_norm(c.x(0), c.integer("num_groups"), c.optional(1), c.optional(2),
                         c.number("eps")));
    if (c.op == "batch_norm") {
      const BatchNormInputs<T> p{.weight = c.x(1), .bias = c.x(2), .mean = c.x(3), .var = c.x(4)};
      const BatchNormOptions o{.momentum = c.number("momentum"), .eps = c.number("eps")};
      if (c.yes("training")) {
        const auto r = batch_norm_train(c.x(0), p, o);
        c.value(r.y);
        c.output("out.1", r.mean);
        c.output("out.2", r.var);
      } else {
        c.value(batch_norm(c.x(0), p, o));
      }
    }
  });
}

TEST_CASE("losses agree with PyTorch") {
  parity::check_parity("loss", [](auto& c) {
    using T = element<decltype(c)>;
    if (c.op == "cross_entropy")
      c.value(cross_entropy(c.x(0), c.ids(1),
                            {.ignore_index = c.integer("ignore_index"),
                             .weight = c.optional(2),
                             .reduction = reduction_of(c)}));
    if (c.op == "dice") {
      const bool logits = c.text("formula").find("sigmoid") != std::string::npos;
      c.value(dice(c.x(0), c.x(1), {.epsilon = c.number("eps"), .logits = logits}));
    }
    if (c.op == "dice") return;
    if (c.op == "cross_entropy") return;
    const PointwiseLossOptions<T> o{.weight = c.optional(2), .reduction = reduction_of(c)};
    if (c.op == "bce_with_logits") c.value(bce_with_logits(c.x(0), c.x(1), o, c.optional(3)));
    if (c.op == "smooth_l1") c.value(smooth_l1(c.x(0), c.x(1), c.number("beta"), o));
    if (c.op == "mse") c.value(mse(c.x(0), c.x(1), o));
    if (c.op == "focal")
      c.value(focal(c.x(0), c.x(1), {.alpha = c.number("alpha"), .gamma = c.number("gamma")}, o));
  });
}
