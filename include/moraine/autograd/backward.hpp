#pragma once
// backward(): walks the tape from a value to the leaves.
#include <moraine/autograd/record.hpp>

#include <algorithm>
#include <unordered_set>
#include <vector>

namespace moraine MORAINE_API {

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
  std::vector<NodePtr> order, open{y.node()};
  std::unordered_set<const Node*> seen{y.node().get()};
  while (!open.empty()) {
    NodePtr n = std::move(open.back());
    open.pop_back();
    for (const NodePtr& i : n->inputs)
      if (i && seen.insert(i.get()).second) open.push_back(i);
    order.push_back(std::move(n));
  }
  std::sort(order.begin(), order.end(),
            [](const NodePtr& a, const NodePtr& b) { return a->id > b->id; });
  static_cast<NodeOf<T>*>(y.node().get())->accumulate(dy);
  for (NodePtr& n : order) {
    n->pull();
    if (!n->leaf) n->release();
    n.reset();
  }
}

}  // namespace moraine
