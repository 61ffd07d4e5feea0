#pragma once
// The tape. An op computes its value and hands `record` a closure that turns the gradient of the
// value into the gradients of its inputs:
//
//   return record("exp", y, {&x}, [y = y.detach()](const Tensor<T>& dy) {
//     return Grads<T>{mul(dy, y)};
//   });
//
// The closure captures detached tensors only, so nothing refers to itself, and only what the
// gradient needs: an op asks `wants(w)` before it keeps an activation for the gradient of w. A
// graph exists only from the first tracked tensor on: a frozen trunk below it costs nothing.
#include <moraine/core/tensor.hpp>

#include <atomic>
#include <initializer_list>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

/// One entry per input, in the order of the inputs; an undefined tensor where there is no gradient.
template <class T>
using Grads = std::vector<Tensor<T>>;

/// Hears the value of every op before it is returned; how a training loop finds the first NaN.
struct OpListener {
  virtual ~OpListener() = default;
  virtual void heard(const char* op, Dtype dtype, const void* data, Index n,
                     const Shape& shape) = 0;
};

/// Per thread: whether ops are recorded, and who listens.
struct TapeState {
  bool recording = true;
  OpListener* listener = nullptr;
};
inline TapeState& tape() {
  static thread_local TapeState state;
  return state;
}

/// While one lives, this thread records nothing.
class NoGrad {
 public:
  NoGrad() : before_(tape().recording) { tape().recording = false; }
  ~NoGrad() { tape().recording = before_; }
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool before_;
};

/// One recorded operation, or a leaf. Ids grow in order of creation, which is a topological order.
struct Node {
  const char* op = "leaf";
  bool leaf = true;
  bool released = false;  // its backward has run and its closure is gone
  std::uint64_t id = next_id();
  std::vector<NodePtr> inputs;  // null where an input is not tracked

  Node() = default;
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  virtual ~Node() {
    // Unlink a long chain in a loop: destroying it recursively would exhaust the stack.
    std::vector<NodePtr> rest = std::move(inputs);
    while (!rest.empty()) {
      NodePtr n = std::move(rest.back());
      rest.pop_back();
      if (n && n.use_count() == 1)
        for (NodePtr& i : n->inputs)
          if (i) rest.push_back(std::move(i));
    }
  }
  /// Hands the gradient that arrived here to the inputs.
  virtual void pull() = 0;
  /// Frees the closure and what it keeps.
  virtual void release() = 0;

 private:
  static std::uint64_t next_id() {
    static std::atomic<std::uint64_t> id{0};
    return id.fetch_add(1, std::memory_order_relaxed);
  }
};

/// Tensor<T> -> Grads<T>, type-erased without <functional> (which costs every file 0.1 s).
template <class T>
class Vjp {
  struct Base {
    virtual ~Base() = default;
    virtual Grads<T> call(const Tensor<T>& dy) = 0;
  };
  template <class F>
  struct Model final : Base {
    F f;
    explicit Model(F&& g) : f(std::move(g)) {}
    Grads<T> call(const Tensor<T>& dy) override { return f(dy); }
  };
  std::unique_ptr<Base> p_;

 public:
  Vjp() = default;
  template <class F>
  explicit Vjp(F f) : p_(new Model<F>(std::move(f))) {}
  explicit operator bool() const { return p_ != nullptr; }
  Grads<T> operator()(const Tensor<T>& dy) const { return p_->call(dy); }
};

template <class T>
struct NodeOf final : Node {
  Tensor<T> grad;
  Vjp<T> vjp;
  bool own_grad = false;  // nobody else sees its storage: later gradients are added in place
  void accumulate(const Tensor<T>& g);
  void pull() override;
  void release() override {
    vjp = {};
    grad = {};
    released = true;
    inputs.clear();
  }
};

/// True when a gradient with respect to x will be asked for.
template <class T>
bool wants(const Tensor<T>& x) {
  return tape().recording && x.tracked();
}

template <class T>
void hear(const char* op, const Tensor<T>& y) {
  if (tape().listener) tape().listener->heard(op, dtype_of<T>, y.data(), y.numel(), y.shape());
}

/// Returns y, tracked if any input is. `op` must outlive the tape (a string literal). `inputs` is
/// a list of pointers, or a vector of tensors.
template <class T, class Inputs, class F>
Tensor<T> record_any(const char* op, Tensor<T> y, const Inputs& inputs, F vjp) {
  const auto node_of = [](const auto& x) -> const NodePtr& {
    if constexpr (std::is_pointer_v<std::decay_t<decltype(x)>>)
      return x->node();
    else
      return x.node();
  };
  hear(op, y);
  bool any = false;
  for (const auto& x : inputs) any |= node_of(x) != nullptr;
  if (!any || !tape().recording) return y;
  auto node = std::make_shared<NodeOf<T>>();
  node->op = op;
  node->leaf = false;
  node->inputs.reserve(inputs.size());
  for (const auto& x : inputs) node->inputs.push_back(node_of(x));
  node->vjp = Vjp<T>(std::move(vjp));
  y.set_node(std::move(node));
  return y;
}
template <class T, class F>
Tensor<T> record(const char* op, Tensor<T> y,
                 std::initializer_list<const std::type_identity_t<Tensor<T>>*> inputs, F vjp) {
  return record_any(op, std::move(y), inputs, std::move(vjp));
}
template <class T, class F>
Tensor<T> record(const char* op, Tensor<T> y, const std::vector<Tensor<T>>& inputs, F vjp) {
  return record_any(op, std::move(y), inputs, std::move(vjp));
}

/// y += x, elementwise, for contiguous tensors of one shape; the sum of gradients.
template <class T>
struct AddInto {
  static constexpr const char* name = "add_into";
  Index n;
  const T* x;
  T* y;
  static void cpu(const AddInto& k);
};
template <class T>
void add_into(const Tensor<T>& y, const Tensor<T>& x) {
  launch(y.device(), AddInto<T>{y.numel(), x.data(), y.data()});
}

template <class T>
void NodeOf<T>::accumulate(const Tensor<T>& g) {
  if (!grad.defined()) {
    grad = g.detach();
    own_grad = false;
    return;
  }
  if (g.shape() != grad.shape())
    fail(ErrorKind::shape, std::string("backward: a gradient for ") + op + " has shape " +
                               str(g.shape()) + ", an earlier one " + str(grad.shape()));
  if (!own_grad) {
    grad = grad.clone();
    own_grad = true;
  }
  add_into(grad, g.contiguous());
}

template <class T>
void NodeOf<T>::pull() {
  if (leaf || !grad.defined()) return;
  if (released || !vjp)
    fail(ErrorKind::value, std::string("backward: the graph below ") + op +
                               " was used by an earlier backward() -> compute the value again");
  const Grads<T> g = vjp(grad);
  for (std::size_t i = 0; i < inputs.size() && i < g.size(); ++i)
    if (inputs[i] && g[i].defined()) static_cast<NodeOf<T>*>(inputs[i].get())->accumulate(g[i]);
}

// ---- members of Tensor that need the tape
template <class T>
Tensor<T>& Tensor<T>::requires_grad(bool on) {
  static_assert(std::is_floating_point_v<T> || std::is_same_v<T, bfloat16>,
                "requires_grad: only floating tensors have gradients");
  node_ = on ? std::make_shared<NodeOf<T>>() : nullptr;
  return *this;
}
template <class T>
Tensor<T> Tensor<T>::grad() const {
  return node_ ? static_cast<NodeOf<T>*>(node_.get())->grad : Tensor<T>();
}
template <class T>
void Tensor<T>::zero_grad() {
  if (node_) static_cast<NodeOf<T>*>(node_.get())->grad = {};
}

}  // namespace moraine

#ifdef MORAINE_HOST
#include <moraine/core/parallel.hpp>
namespace moraine MORAINE_API {
template <class T>
void AddInto<T>::cpu(const AddInto& k) {
  parallel_for(k.n, 1 << 15, [&](Index b, Index e) {
    for (Index i = b; i < e; ++i) k.y[i] += k.x[i];
  });
}
MORAINE_INSTANTIATE(AddInto)
}  // namespace moraine
#endif
