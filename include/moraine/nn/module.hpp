#pragma once
// Modules are plain structs of named tensors and other modules, with an operator() and one member
// that names what they hold:
//
//   template <class T> struct Linear {
//     Tensor<T> weight, bias;
//     void visit(Visitor<T>& v) { v("weight", weight); v("bias", bias); }
//   };
//
// Loading, saving, counting, freezing and injecting are visitors.
#include <moraine/autograd/record.hpp>
#include <moraine/core/any_tensor.hpp>
#include <moraine/core/product.hpp>

#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

template <class T>
class Slot;

/// Walks a module; override what you want to see. Paths are joined with dots and equal the names in
/// a checkpoint: "blocks.0.attn.qkv.weight".
template <class T>
class Visitor {
 public:
  virtual ~Visitor() = default;
  /// A parameter. An undefined tensor is one that this configuration does not have: never visited.
  virtual void parameter(const std::string& path, Tensor<T>& t) = 0;
  /// A tensor that is saved but never trained (running statistics, fixed tables).
  virtual void buffer(const std::string& path, Tensor<T>& t) { (void)path, (void)t; }
  /// A place that peft::inject may wrap, seen before what it holds.
  virtual void slot(const std::string& path, Slot<T>& s) { (void)path, (void)s; }
  /// The precision in which a layer multiplies; nn/bf16.hpp sets it.
  virtual void product(Product& p) { (void)p; }

  void operator()(const char* name, Tensor<T>& t) {
    if (t.defined()) parameter(path(name), t);
  }
  void fixed(const char* name, Tensor<T>& t) {
    if (t.defined()) buffer(path(name), t);
  }
  template <class M>
  void operator()(const char* name, M& child) {
    const std::size_t before = push(name);
    if constexpr (std::is_same_v<M, Slot<T>>) slot(prefix_, child);
    child.visit(*this);
    prefix_.resize(before);
  }
  /// blocks.0, blocks.1, ...
  template <class M>
  void operator()(const char* name, std::vector<M>& list) {
    for (std::size_t i = 0; i < list.size(); ++i)
      (*this)((std::string(name) + '.' + std::to_string(i)).c_str(), list[i]);
  }

 private:
  std::string path(const char* name) const {
    return prefix_.empty() || !*name ? prefix_ + name : prefix_ + '.' + name;
  }
  std::size_t push(const char* name) {
    const std::size_t before = prefix_.size();
    prefix_ = path(name);
    return before;
  }
  std::string prefix_;
};

template <class T>
struct Named {
  std::string name;
  Tensor<T>* tensor;
};

/// Every parameter of a module with its path, in order of declaration.
template <class T, class M>
std::vector<Named<T>> parameters(M& module) {
  struct Collect final : Visitor<T> {
    std::vector<Named<T>> all;
    void parameter(const std::string& path, Tensor<T>& t) override { all.push_back({path, &t}); }
  } v;
  module.visit(v);
  return std::move(v.all);
}

/// Glob over dotted paths: '*' stands for any characters within one segment, "**" for any at all.
inline bool matches(const char* pattern, const char* path) {
  for (; *pattern; ++pattern, ++path) {
    if (*pattern == '*') {
      const bool any = pattern[1] == '*';
      const char* rest = pattern + (any ? 2 : 1);
      for (const char* p = path;; ++p) {
        if (matches(rest, p)) return true;
        if (!*p || (!any && *p == '.')) return false;
      }
    }
    if (*pattern != *path) return false;
  }
  return !*path;
}

/// Turns gradients on or off for the parameters whose path matches; returns how many elements.
template <class T, class M>
Index require_grad(M& module, const char* pattern, bool on = true) {
  Index n = 0;
  for (Named<T>& p : parameters<T>(module))
    if (matches(pattern, p.name.c_str())) {
      n += p.tensor->numel();
      if (on == p.tensor->tracked()) continue;
      // What is trained must own its memory: a loaded tensor may lie in a mapped file.
      if (on && p.tensor->storage()->borrowed()) *p.tensor = p.tensor->clone();
      p.tensor->requires_grad(on);
    }
  return n;
}
/// No parameter of the module will have a gradient.
template <class T, class M>
void freeze(M& module) {
  require_grad<T>(module, "**", false);
}

/// Elements of all parameters, or of the trained ones.
template <class T, class M>
Index count_parameters(M& module, bool trained_only = false) {
  Index n = 0;
  for (const Named<T>& p : parameters<T>(module))
    if (!trained_only || p.tensor->tracked()) n += p.tensor->numel();
  return n;
}

/// The parameters and buffers as a map, sharing their storage: what trains on changes the map too.
/// Throws ErrorKind::key when two of them have one path.
template <class T, class M>
TensorMap state(M& module, const std::string& prefix = "") {
  struct Save final : Visitor<T> {
    TensorMap map;
    std::string prefix;
    void parameter(const std::string& path, Tensor<T>& t) override {
      if (!map.emplace(prefix + path, t.detach()).second)
        fail(ErrorKind::key, "state: two tensors have the path \"" + prefix + path +
                                 "\" -> was a layer injected twice?");
    }
    void buffer(const std::string& path, Tensor<T>& t) override { parameter(path, t); }
  } v;
  v.prefix = prefix;
  module.visit(v);
  return std::move(v.map);
}

}  // namespace moraine
