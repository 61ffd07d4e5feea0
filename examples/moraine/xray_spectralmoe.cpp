// xray: spectralmoe.plugin_layer and spectralmoe.plugin.
#include <moraine/peft/spectral_moe.hpp>

#include "xray_module.hpp"

namespace program::xray {
namespace {

template <class T>
SpectralMoeConfig config_of(const Run<T>& r) {
  SpectralMoeConfig c;
  c.layers = r.size("layers"), c.dim = r.size("dim"), c.tokens = r.size("tokens");
  c.rank = r.size("rank"), c.experts = r.size("experts"), c.query_dim = r.size("query_dim");
  c.prefix = r.size("prefix"), c.depth_prefix = r.size("depth_prefix");
  c.gate.top_k = r.size("top_k");
  c.gate.logits = r.template choice<GateLogits>("gate", {{"l1", GateLogits::l1},
                                                         {"l2", GateLogits::l2},
                                                         {"l2sq", GateLogits::l2sq},
                                                         {"dot", GateLogits::dot}});
  c.gate.noise_floor = r.number("noise_floor");
  c.expert.logits = r.template choice<ExpertLogits>(
      "expert_logits", {{"dot", ExpertLogits::dot}, {"sumprod", ExpertLogits::sumprod}});
  c.expert.drop_first = r.flag("drop_first");
  c.expert.combine = r.template choice<Combine>(
      "combine", {{"weighted", Combine::weighted}, {"logsumexp", Combine::logsumexp}});
  c.fusion = r.template choice<Fusion>("fusion", {{"eq", Fusion::eq},
                                                  {"figure", Fusion::figure},
                                                  {"diag", Fusion::diag},
                                                  {"local", Fusion::local}});
  c.balance_importance = r.has_word("balance_terms", "importance");
  c.balance_load = r.has_word("balance_terms", "load");
  c.balance_sum = r.word("balance_reduce") == "sum";
  c.balance_coef = r.number("balance_coef");
  if (c.gate.top_k > c.experts)
    fail(ErrorKind::config, "xray: top_k is larger than experts; top_k " +
                                std::to_string(c.gate.top_k) + ", experts " +
                                std::to_string(c.experts));
  // Before memory is asked for: sizes that the weights cannot have.
  double have = 0;
  for (const auto& [key, t] : r.weights) have += static_cast<double>(t.shape.numel());
  const auto f = [](Index i) { return static_cast<double>(i); };
  const double need =
      f(c.layers) * f(c.experts) * (f(c.rank) * (f(c.tokens) + f(c.dim)) + 4 * f(c.dim)) +
      2 * f(c.dim) * f(c.dim) + f(c.query_dim) * (f(c.dim) + 3 * f(c.query_dim));
  if (need > 8 * have + (1 << 20))
    fail(ErrorKind::key, "xray: the weights are far fewer than cfg.json asks for; expected about " +
                             number_text(need) + " values, found " + number_text(have) +
                             " -> check the sizes in cfg.json");
  return c;
}

template <class T>
std::string sizes_of(const SpectralMoeConfig& c) {
  const auto s = [](const char* name, Index v) { return name + std::to_string(v); };
  return s("L ", c.layers) + s("  E ", c.experts) + s("  T ", c.tokens) + s("  r ", c.rank) +
         s("  D ", c.dim) + s("  k ", c.gate.top_k);
}

/// The inputs of one layer; `end` is "" or ".<l>".
template <class T>
struct Streams {
  Tensor<T> visual, depth;
  GateNoise<T> noise;
  Index b, n;
};
template <class T>
Streams<T> streams(Run<T>& r, const SpectralMoeConfig& c, const std::string& end) {
  Streams<T> s;
  const Shape v = r.input_shape("visual" + end, 3);
  s.b = v[0], s.n = v[1] - c.prefix;
  if (s.b < 1 || s.n < 1)
    fail(ErrorKind::shape, "xray: input visual" + end + " holds no patch tokens; shape " + str(v) +
                               ", prefix " + std::to_string(c.prefix));
  s.visual = r.input("visual" + end, {s.b, c.prefix + s.n, c.dim});
  s.depth = r.input("depth" + end, {s.b, c.depth_prefix + s.n, c.dim});
  const std::string nv = "noise.visual" + end, nd = "noise.depth" + end;
  if (r.has_input(nv) != r.has_input(nd))
    fail(ErrorKind::key, "xray: " + nv + " and " + nd + " come together or not at all; only " +
                             (r.has_input(nv) ? nv : nd) + " is there");
  if (r.has_input(nv))
    s.noise = {r.input(nv, {s.b * s.n, c.experts}, true),
               r.input(nd, {s.b * s.n, c.experts}, true)};
  return s;
}

template <class T>
void run_layer(Run<T>& r) {
  const SpectralMoeConfig c = config_of(r);
  const Index l = r.size("layer");
  if (l >= c.layers)
    fail(ErrorKind::config, "xray: layer is out of range; layer " + std::to_string(l) + " of " +
                                std::to_string(c.layers) + " layers, counted from 0");
  SpectralMoe<T> moe(c);
  r.load_weights(moe, {"mean", "std"});
  const Streams<T> in = streams(r, c, "");
  const SpectralMoeOutput<T> o = moe.layer(l, in.visual, in.depth, in.noise);
  r.output("out", o.out);
  r.output("aux_loss", o.aux_loss);
  const auto stream = [&](const std::string& j, const Gates<T>& g, const Tensor<T>& mixed) {
    r.intermediate("logits." + j, g.logits);
    r.intermediate("gates." + j, g.gates);
    r.intermediate("importance." + j, g.importance);
    r.intermediate("load." + j, g.load);
    r.intermediate("moe." + j, mixed);
  };
  stream("visual", o.visual, o.moe_visual);
  stream("depth", o.depth, o.moe_depth);
  r.intermediate("delta", o.delta);
  r.sizes = sizes_of<T>(c) + "  layer " + std::to_string(l) + "; B " + std::to_string(in.b) +
            "  N " + std::to_string(in.n);
}

template <class T>
void run_plugin(Run<T>& r) {
  const SpectralMoeConfig c = config_of(r);
  SpectralMoe<T> moe(c);
  r.load_weights(moe, {"mean", "std"});
  Tensor<T> total;
  Index b = 0, n = 0;
  for (Index l = 0; l < c.layers; ++l) {
    const std::string end = "." + std::to_string(l);
    const Streams<T> in = streams(r, c, end);
    const SpectralMoeOutput<T> o = moe.layer(l, in.visual, in.depth, in.noise);
    r.output("out" + end, o.out);
    r.intermediate("delta" + end, o.delta);
    total = l ? add(total, o.aux_loss) : o.aux_loss;
    if (l == 0) b = in.b, n = in.n;
  }
  r.output("aux_loss", scale(total, T(1) / static_cast<T>(c.layers)));
  r.output("queries", moe.queries());
  r.sizes = sizes_of<T>(c) + "; B " + std::to_string(b) + "  N " + std::to_string(n);
}

std::vector<Field> fields(bool one_layer) {
  std::vector<Field> f{
      {"layers", Kind::integer, "L", 1},
      {"dim", Kind::integer, "D, the width of the tokens", 1},
      {"tokens", Kind::integer, "T, tokens of an expert", 1},
      {"rank", Kind::integer, "r, the rank of an expert", 1},
      {"experts", Kind::integer, "E", 1},
      {"top_k", Kind::integer, "k, experts that a token uses", 1},
      {"query_dim", Kind::integer, "Q, the width of the queries", 1},
      {"prefix", Kind::integer, "P, leading visual tokens that bypass the layer", 0},
      {"depth_prefix", Kind::integer, "Pd, leading depth tokens that are dropped", 0}};
  if (one_layer) f.push_back({"layer", Kind::integer, "the layer to run, from 0", 0});
  const std::vector<Field> switches{
      {"gate",
       Kind::word,
       "clean logits: minus a distance to the prototypes, or the product with them",
       0,
       {"l1", "l2", "l2sq", "dot"},
       {"\"l1\"", "\"l2\""}},
      {"noise_floor", Kind::number, "least standard deviation of the noise", 0, {}, {"0", "0.01"}},
      {"expert_logits",
       Kind::word,
       "how a token asks the tokens of an expert",
       0,
       {"dot", "sumprod"},
       {"\"dot\"", "\"sumprod\""}},
      {"drop_first", Kind::flag, "leave token 0 out of the value sum", 0, {}, {"false", "true"}},
      {"combine",
       Kind::word,
       "how the chosen experts are joined",
       0,
       {"weighted", "logsumexp"},
       {"\"weighted\"", "\"logsumexp\""}},
      {"fusion",
       Kind::word,
       "how the two streams are joined; local is not of the paper",
       0,
       {"eq", "figure", "diag", "local"},
       {"\"eq\"", "\"diag\""}},
      {"balance_terms",
       Kind::words,
       "squared coefficients of variation in the balance loss",
       0,
       {"importance", "load"},
       {"[\"importance\"]", "[\"importance\",\"load\"]"}},
      {"balance_reduce",
       Kind::word,
       "over the two streams",
       0,
       {"mean", "sum"},
       {"\"mean\"", "\"sum\""}},
      {"balance_coef", Kind::number, "factor on the balance loss", -1e300, {}, {"1", "1000"}}};
  f.insert(f.end(), switches.begin(), switches.end());
  return f;
}

const std::vector<Port> parameters{{"experts_a.{l}.{e}", "[T,r]", "for every l < L, e < E"},
                                   {"experts_b.{l}.{e}", "[r,D]"},
                                   {"w_gate.{l}.{0|1}", "[D,E]", "0 visual, 1 depth"},
                                   {"w_noise.{l}.{0|1}", "[D,E]"},
                                   {"scale", "[]"},
                                   {"mlp_token2feat.weight", "[D,D]"},
                                   {"mlp_token2feat.bias", "[D]"},
                                   {"mlp_delta_f.weight", "[D,D]"},
                                   {"mlp_delta_f.bias", "[D]"},
                                   {"transform.weight", "[Q,D]"},
                                   {"transform.bias", "[Q]"},
                                   {"merge.weight", "[Q,3Q]"},
                                   {"merge.bias", "[Q]"}};

const Register layer({.name = "spectralmoe.plugin_layer",
                      .sentence = "One layer of the dual-gated mixture of low-rank token experts.",
                      .presets = {"paper", "official"},
                      .fields = fields(true),
                      .inputs = {{"visual", "[B,P+N,D]"},
                                 {"depth", "[B,Pd+N,D]"},
                                 {"noise.visual", "[B*N,E]", "optional: standard normal draws"},
                                 {"noise.depth", "[B*N,E]",
                                  "optional, together with noise.visual"}},
                      .outputs = {{"out", "[B,P+N,D]"}, {"aux_loss", "[]", "the balance loss"}},
                      .intermediates = {{"mid.logits.{visual|depth}", "[B*N,E]", "h, with noise"},
                                        {"mid.gates.{visual|depth}", "[B*N,E]"},
                                        {"mid.importance.{visual|depth}", "[E]"},
                                        {"mid.load.{visual|depth}", "[E]"},
                                        {"mid.moe.{visual|depth}", "[B,N,D]", "combined experts"},
                                        {"mid.delta", "[B,N,D]", "fused, before mlp_delta_f"}},
                      .parameters = parameters,
                      .ignored = {{"mean", ""}, {"std", ""}},
                      .run32 = run_layer<float>,
                      .run64 = run_layer<double>});

const Register plugin(
    {.name = "spectralmoe.plugin",
     .sentence = "All layers side by side, each on its own inputs, and the queries.",
     .presets = {"paper", "official"},
     .fields = fields(false),
     .inputs = {{"visual.{l}", "[B,P+N,D]", "for every l < L"},
                {"depth.{l}", "[B,Pd+N,D]"},
                {"noise.visual.{l}", "[B*N,E]", "optional: standard normal draws"},
                {"noise.depth.{l}", "[B*N,E]", "optional, together with noise.visual.{l}"}},
     .outputs = {{"out.{l}", "[B,P+N,D]"},
                 {"aux_loss", "[]", "the mean over the layers"},
                 {"queries", "[T,Q]"}},
     .intermediates = {{"mid.delta.{l}", "[B,N,D]", "fused, before mlp_delta_f"}},
     .parameters = parameters,
     .ignored = {{"mean", ""}, {"std", ""}},
     .run32 = run_plugin<float>,
     .run64 = run_plugin<double>});

}  // namespace
}  // namespace program::xray
