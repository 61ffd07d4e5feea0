#pragma once
// inject(model, "blocks.*.attn.qkv", lora({.rank = 8})): wraps the layers in the slots whose path
// matches. Models know nothing of adapters, adapters nothing of models.
#include <moraine/nn/slot.hpp>

#include <memory>
#include <string>
#include <vector>

namespace moraine MORAINE_API {

/// Calls make(std::unique_ptr<Layer<T>> old, path) for every slot that matches and puts the result
/// in its place. Returns the paths; throws when none matches.
template <class T, class M, class Make>
std::vector<std::string> inject(M& model, const char* pattern, Make make) {
  struct Find final : Visitor<T> {
    const char* pattern;
    std::vector<std::pair<std::string, Slot<T>*>> found;
    std::string some;
    void parameter(const std::string&, Tensor<T>&) override {}
    void slot(const std::string& path, Slot<T>& s) override {
      if (s.empty()) return;
      if (some.empty()) some = path;
      if (matches(pattern, path.c_str())) found.push_back({path, &s});
    }
  } v;
  v.pattern = pattern;
  model.visit(v);
  if (v.found.empty())
    fail(ErrorKind::value, std::string("inject: no slot matches \"") + pattern + "\"" +
                               (v.some.empty() ? "; the model has no slots"
                                               : " -> a slot is named like \"" + v.some + "\""));
  std::vector<std::string> paths;
  for (auto& found : v.found) {
    const std::string& path = found.first;
    found.second->wrap([&](std::unique_ptr<Layer<T>> old) -> std::unique_ptr<Layer<T>> {
      return make(std::move(old), path);
    });
    paths.push_back(path);
  }
  return paths;
}

}  // namespace moraine
