#pragma once
// Configurations of runs: a JSON object of defaults that names every key, what a user gave merged
// over it, single fields set from a command line, and the part that describes a Segmenter. For the
// programs and for the model card.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <moraine/core/config.hpp>
#include <moraine/core/edit_distance.hpp>
#include <moraine/core/error.hpp>
#include <moraine/io/json.hpp>
#include <moraine/recipes/segmenter.hpp>
#include <moraine/train/schedule.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace moraine MORAINE_API {

namespace detail {

inline std::string joined(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}
[[noreturn]] inline void unknown_key(const Json& known, const std::string& path,
                                     const std::string& key) {
  std::string best, all;
  std::size_t least = key.size() / 2 + 2;  // further away is no misspelling
  for (const JsonMember& m : known.as_object()) {
    all += (all.empty() ? "" : ", ") + m.key;
    const std::size_t d = edit_distance(key, m.key);
    if (d < least) least = d, best = m.key;
  }
  fail(ErrorKind::config,
       "config: unknown key " + quoted(joined(path, key)) + "; known here: " + all +
           (best.empty() ? "" : " -> did you mean " + quoted(joined(path, best)) + "?"));
}
/// Whether a value of one kind may stand where the default has the other.
inline bool fits_kind(const Json& known, const Json& given) {
  return known.is_null() || known.kind() == given.kind() ||
         (known.is_number() && given.is_number());
}
[[noreturn]] inline void wrong_kind(const Json& known, const Json& given, const std::string& path) {
  fail(ErrorKind::config, "config: " + quoted(path) + " is " + name_of(given.kind()) +
                              "; expected " +
                              (known.is_number() ? "a number" : name_of(known.kind())));
}

/// The default of `train.warmup`: 20 steps, in short runs a tenth of them.
inline long long default_warmup(const Json& steps) {
  return steps.is_number() ? static_cast<long long>(std::clamp(steps.as_double() / 10, 0.0, 20.0))
                           : 20;
}
/// The object `train` with a new number of steps: a warmup that was the default for `before` stays
/// the default.
inline void follow_steps(Json& train, const Json& before) {
  const Json *steps = train.find("steps"), *warmup = train.find("warmup");
  if (!steps || !warmup || !warmup->is_number()) return;
  if (warmup->as_double() == static_cast<double>(default_warmup(before)))
    train.set("warmup", default_warmup(*steps));
}

}  // namespace detail

/// Puts `given` over `known`, object by object. A key that `known` lacks, and a value of another
/// kind, is an error that names the nearest known key. Lists are replaced as a whole; where the
/// default is null any value may stand. `train.warmup` follows `train.steps` unless it is given.
inline void merge_config(Json& known, const Json& given, const std::string& path = "") {
  if (!given.is_object()) detail::wrong_kind(known, given, path.empty() ? "configuration" : path);
  const Json* steps = path == "train" ? known.find("steps") : nullptr;
  const Json before = steps ? *steps : Json();
  for (const JsonMember& m : given.as_object()) {
    Json* at = known.find(m.key);
    if (!at) detail::unknown_key(known, path, m.key);
    const std::string here = detail::joined(path, m.key);
    if (!detail::fits_kind(*at, m.value)) detail::wrong_kind(*at, m.value, here);
    if (at->is_object())
      merge_config(*at, m.value, here);
    else
      *at = m.value;
  }
  if (steps && given.find("steps") && !given.find("warmup")) detail::follow_steps(known, before);
}

/// "train.lr=1e-3": the text after '=' is JSON, or a plain string where it is none.
inline void set_config(Json& known, const std::string& assignment) {
  const std::size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0)
    fail(ErrorKind::config,
         "config: --set " + quoted(assignment) + " has no value -> write --set train.lr=1e-3");
  const std::string text = assignment.substr(equals + 1);
  Json value;
  try {
    value = parse_json(text, "config: --set");
  } catch (const Error&) {
    value = text;
  }
  Json *at = &known, *parent = at;
  std::string path, parent_path, last;
  for (std::size_t from = 0; from <= equals;) {
    const std::size_t dot = std::min(assignment.find('.', from), equals);
    const std::string key = assignment.substr(from, dot - from);
    if (!at->is_object())
      fail(ErrorKind::config, "config: " + quoted(path) + " has no fields; --set " +
                                  quoted(assignment) + " -> set it as a whole");
    Json* next = at->find(key);
    if (!next) detail::unknown_key(*at, path, key);
    parent_path = path, parent = at, last = key;
    path = detail::joined(path, key);
    at = next;
    from = dot + 1;
  }
  Json one = Json::object();
  one.set(last, std::move(value));
  merge_config(*parent, one, parent_path);
}

/// Where two configurations differ first, "" when they do not: "train.lr (0.001, before 0.006)".
inline std::string first_difference(const Json& now, const Json& before,
                                    const std::string& path = "") {
  if (now == before) return "";
  if (now.is_object() && before.is_object()) {
    for (const JsonMember& m : now.as_object()) {
      const Json* other = before.find(m.key);
      const std::string here = detail::joined(path, m.key);
      if (!other) return here + " (new)";
      const std::string d = first_difference(m.value, *other, here);
      if (!d.empty()) return d;
    }
    for (const JsonMember& m : before.as_object())
      if (!now.find(m.key)) return detail::joined(path, m.key) + " (gone)";
    return "";  // the same but for the order of keys
  }
  if (now.is_number() && before.is_number() && now.as_double() == before.as_double()) return "";
  const auto brief = [](const Json& j) {
    const std::string s = json_text(j, {.indent = -1});
    return s.size() > 60 ? s.substr(0, 57) + "..." : s;
  };
  return path + " (" + brief(now) + ", before " + brief(before) + ")";
}

/// The names of an enumeration's values in configurations.
template <class E>
struct EnumName {
  E value;
  const char* name;
};
inline constexpr EnumName<Method> method_names[] = {{Method::linear, "linear"},
                                                    {Method::linear_both, "linear_both"},
                                                    {Method::lora, "lora"},
                                                    {Method::spectralmoe, "spectralmoe"}};
inline constexpr EnumName<Fusion> fusion_names[] = {
    {Fusion::eq, "eq"}, {Fusion::diag, "diag"}, {Fusion::local, "local"}};
inline constexpr EnumName<GateLogits> gate_names[] = {{GateLogits::l1, "l1"},
                                                      {GateLogits::l2, "l2"},
                                                      {GateLogits::l2sq, "l2sq"},
                                                      {GateLogits::dot, "dot"}};
inline constexpr EnumName<ExpertLogits> expert_logit_names[] = {{ExpertLogits::dot, "dot"},
                                                                {ExpertLogits::sumprod, "sumprod"}};
inline constexpr EnumName<Combine> combine_names[] = {{Combine::weighted, "weighted"},
                                                      {Combine::logsumexp, "logsumexp"}};
inline constexpr EnumName<Decay> decay_names[] = {
    {Decay::constant, "constant"}, {Decay::poly, "poly"}, {Decay::cosine, "cosine"}};

template <class E, std::size_t N>
std::string enum_text(const EnumName<E> (&names)[N], E value) {
  for (const EnumName<E>& n : names)
    if (n.value == value) return n.name;
  return "?";
}
template <class E, std::size_t N>
E enum_value(const EnumName<E> (&names)[N], const Json& j, const std::string& path) {
  const std::string& s = j.as_string(path);
  std::string all;
  for (const EnumName<E>& n : names) {
    if (s == n.name) return n.value;
    all += std::string(all.empty() ? "" : ", ") + n.name;
  }
  fail(ErrorKind::config, "config: " + quoted(path) + " is " + quoted(s) + "; it takes " + all);
}

/// The part of a configuration that describes a Segmenter; also in its model card.
inline Json segmenter_json(const SegmenterConfig& c) {
  Json j = Json::object();
  j.set("method", enum_text(method_names, c.method));
  Json taps = Json::array(), depth_bands = Json::array();
  for (Index t : c.taps) taps.push(static_cast<long long>(t));
  for (std::int64_t b : c.depth_bands) depth_bands.push(static_cast<long long>(b));
  j.set("taps", taps);
  j.set("depth_bands", depth_bands);
  Json& lora = j.set("lora", Json::object());
  lora.set("rank", static_cast<long long>(c.lora.rank));
  lora.set("alpha", c.lora.alpha);
  const SpectralMoeConfig& m = c.moe;
  Json& moe = j.set("moe", Json::object());
  moe.set("tokens", static_cast<long long>(m.tokens));
  moe.set("rank", static_cast<long long>(m.rank));
  moe.set("experts", static_cast<long long>(m.experts));
  moe.set("top_k", static_cast<long long>(m.gate.top_k));
  moe.set("gate", enum_text(gate_names, m.gate.logits));
  moe.set("noise_floor", m.gate.noise_floor);
  moe.set("random_router", m.gate.random);
  moe.set("expert_logits", enum_text(expert_logit_names, m.expert.logits));
  moe.set("drop_first", m.expert.drop_first);
  moe.set("combine", enum_text(combine_names, m.expert.combine));
  moe.set("fusion", enum_text(fusion_names, m.fusion));
  moe.set("balance_importance", m.balance_importance);
  moe.set("balance_load", m.balance_load);
  moe.set("balance_sum", m.balance_sum);
  moe.set("balance_coef", m.balance_coef);
  moe.set("use_depth", c.use_depth);
  Json& init = moe.set("init", Json::object());
  init.set("a_bound", c.moe_init.a_bound);
  init.set("b_std", c.moe_init.b_std);
  init.set("prototype_std", c.moe_init.prototype_std);
  init.set("scale", c.moe_init.scale);
  return j;
}

/// The inverse. `j` has every key, as merge_config() over segmenter_json() leaves it.
inline SegmenterConfig segmenter_from_json(const Json& j, Index classes, std::uint64_t seed) {
  SegmenterConfig c;
  c.classes = classes;
  c.seed = seed;
  c.method = enum_value(method_names, j.at("method"), "model.method");
  c.taps.clear();
  for (const Json& t : j.at("taps").as_array("model.taps"))
    c.taps.push_back(t.as_int("model.taps"));
  c.depth_bands.clear();
  for (const Json& b : j.at("depth_bands").as_array("model.depth_bands"))
    c.depth_bands.push_back(b.as_int("model.depth_bands"));
  if (c.taps.empty())
    fail(ErrorKind::config, "config: \"model.taps\" is empty; the head reads at least one block");
  c.lora.rank = j.at("lora").at("rank").as_int("model.lora.rank");
  c.lora.alpha = j.at("lora").at("alpha").as_double("model.lora.alpha");
  const Json& m = j.at("moe");
  SpectralMoeConfig& moe = c.moe;
  moe.tokens = m.at("tokens").as_int("model.moe.tokens");
  moe.rank = m.at("rank").as_int("model.moe.rank");
  moe.experts = m.at("experts").as_int("model.moe.experts");
  moe.gate.top_k = m.at("top_k").as_int("model.moe.top_k");
  moe.gate.logits = enum_value(gate_names, m.at("gate"), "model.moe.gate");
  moe.gate.noise_floor = m.at("noise_floor").as_double("model.moe.noise_floor");
  moe.gate.random = m.at("random_router").as_bool("model.moe.random_router");
  moe.expert.logits =
      enum_value(expert_logit_names, m.at("expert_logits"), "model.moe.expert_logits");
  moe.expert.drop_first = m.at("drop_first").as_bool("model.moe.drop_first");
  moe.expert.combine = enum_value(combine_names, m.at("combine"), "model.moe.combine");
  moe.fusion = enum_value(fusion_names, m.at("fusion"), "model.moe.fusion");
  moe.balance_importance = m.at("balance_importance").as_bool("model.moe.balance_importance");
  moe.balance_load = m.at("balance_load").as_bool("model.moe.balance_load");
  moe.balance_sum = m.at("balance_sum").as_bool("model.moe.balance_sum");
  moe.balance_coef = m.at("balance_coef").as_double("model.moe.balance_coef");
  c.use_depth = m.at("use_depth").as_bool("model.moe.use_depth");
  const Json& init = m.at("init");
  c.moe_init.a_bound = init.at("a_bound").as_double("model.moe.init.a_bound");
  c.moe_init.b_std = init.at("b_std").as_double("model.moe.init.b_std");
  c.moe_init.prototype_std = init.at("prototype_std").as_double("model.moe.init.prototype_std");
  c.moe_init.scale = init.at("scale").as_double("model.moe.init.scale");
  return c;
}

}  // namespace moraine
