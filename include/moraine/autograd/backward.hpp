#pragma once
// backward(): walks the tape from a value to the leaves.
#include <moraine/autograd/record.hpp>

#include <algorithm>
#include <vector>

namespace moraine MORAINE_API {

namespace detail {
/// Pulls every node below `top`, the youngest first: whoever adds to a node's gradient is younger
/// than the node.
inline void walk(const NodePtr& top) {
  struct Older {
    bool operator()(const Node* a, const Node* b) const { return a->id < b->id; }
  };
  std::vector<Node*> open{top.get()};  // a heap; holds a node once for every way to it
  std::vector<NodePtr> alive{top};     // whom the released nodes have let go
  while (!open.empty()) {
    std::pop_heap(open.begin(), open.end(), Older{});
    Node* const n = open.back();
    open.pop_back();
    if (!open.empty() && open.front() == n) continue;
    n->pull();
    if (n->leaf) continue;
    for (NodePtr& i : n->inputs)
      if (i) {
        open.push_back(i.get());
        std::push_heap(open.begin(), open.end(), Older{});
        alive.push_back(std::move(i));
      }
    n->release();
  }
}
}  // namespace detail

/// Adds dL/dx to the gradient of every leaf x that y depends on, where L = sum(y * dy). Without
/// dy, y must have one element. What the tape kept is freed on the way: a second call needs the
/// value to be computed again. Gradients of leaves accumulate until zero_grad().
template <class T>
void backward(const Tensor<T>& y, Tensor<T> dy = {}) {
  if (!y.tracked())
    fail(ErrorKind::value,
         "backward: the value depends on no tensor with requires_grad(); shape " + str(y.shape()));
  if (!dy.defined()) {
    if (y.numel() != 1)
      fail(ErrorKind::shape, "backward: a value with more than one element needs dy; shape " +
                                 str(y.shape()) + " -> backward(sum(y)) or pass dy");
    dy = Tensor<T>::ones(y.shape(), y.device());
  }
  if (dy.shape() != y.shape())
    fail(ErrorKind::shape, "backward: dy " + str(dy.shape()) + " for a value " + str(y.shape()));

  NoGrad off;
  static_cast<NodeOf<T>*>(y.node().get())->accumulate(dy);
  detail::walk(y.node());
}

}  // namespace moraine
