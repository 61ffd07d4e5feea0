#pragma once
// observe("gate", gates): a null test unless somebody listens. How routing maps, reports and xray
// see inside a model without an edit of it.
#include <moraine/core/any_tensor.hpp>

#include <string>

namespace moraine MORAINE_API {

/// Hears every observe() of its thread while it is installed with Observing.
struct Observer {
  virtual ~Observer() = default;
  /// `name` is the path of the place: "blocks.3.moe.visual.gate".
  virtual void observed(const std::string& name, const AnyTensor& value) = 0;
  /// Whether it wants a value that is made for listeners alone and is costly: attention maps,
  /// "blocks.3.attn.weights" (B,H,N,M). Who does not say so gets none.
  virtual bool asks_for(const std::string& name) const {
    (void)name;
    return false;
  }
};

/// Per thread: who listens, and where in the model the thread is.
struct ObserveState {
  struct Step {
    const char* name;
    Index index;  // -1: none
  };
  Observer* observer = nullptr;
  Step path[16] = {};
  int depth = 0;
};
inline ObserveState& observing() {
  static thread_local ObserveState state;
  return state;
}

/// Names a place for the time it lives: Scope("blocks", 3). Costs two stores.
class Scope {
 public:
  explicit Scope(const char* name, Index index = -1) {
    ObserveState& s = observing();
    if (s.depth < 16) s.path[s.depth] = {name, index};
    ++s.depth;
  }
  ~Scope() { --observing().depth; }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;
};

/// "blocks.3.attn": the scopes that are open now.
inline std::string scope_path() {
  const ObserveState& s = observing();
  std::string out;
  for (int i = 0; i < s.depth && i < 16; ++i) {
    if (i) out += '.';
    out += s.path[i].name;
    if (s.path[i].index >= 0) out += '.' + std::to_string(s.path[i].index);
  }
  return out;
}

/// Installs an observer for the time it lives.
class Observing {
 public:
  explicit Observing(Observer& o) : before_(observing().observer) { observing().observer = &o; }
  ~Observing() { observing().observer = before_; }
  Observing(const Observing&) = delete;
  Observing& operator=(const Observing&) = delete;

 private:
  Observer* before_;
};

/// True when somebody listens; guards work that is done for the listener alone.
inline bool observed() { return observing().observer != nullptr; }

/// True when somebody asks for the costly value of that name.
inline bool observed(const char* name) {
  return observed() && observing().observer->asks_for(scope_path() + '.' + name);
}

/// Shows a value to the listener, if there is one.
template <class T>
void observe(const char* name, const Tensor<T>& value) {
  if (!observed()) return;
  const std::string path = scope_path();
  observing().observer->observed(path.empty() ? name : path + '.' + name,
                                 AnyTensor(value.detach()));
}

}  // namespace moraine
