// Rows of ops/routed.hpp and ops/routed_mixture.hpp: visits against all experts computed densely.
#include <algorithm>
#include <moraine/autograd/backward.hpp>
#include <moraine/ops/index.hpp>
#include <moraine/ops/routed_mixture.hpp>
#include <moraine/ops/token_mixture.hpp>
#include <vector>

#include "../op_case.hpp"
#include "message.hpp"

using namespace moraine;

namespace {
/// Row i chooses k of the experts, in no order; expert E-1 stays without a visit if it can.
Routing some_routing(Index n, Index experts, Index k) {
  k = std::min(k, experts);
  const Index used = experts - k >= 1 && experts > 2 ? experts - 1 : experts;
  k = std::min(k, used);
  Tensor<std::int64_t> chosen = Tensor<std::int64_t>::empty({n, k});
  for (Index i = 0; i < n; ++i)
    for (Index j = 0; j < k; ++j) chosen.data()[i * k + j] = (5 * i + i / 2 + j) % used;
  return make_routing(chosen, experts);
}
/// Where entry i lies in a matrix of (expert, column) with `width` columns: e * width + column(i).
template <class Column>
Tensor<std::int64_t> places(const Routing& to, Index width, Column column) {
  Tensor<std::int64_t> p = Tensor<std::int64_t>::empty({to.entries()});
  for (Index e = 0; e < to.experts; ++e)
    for (Index i = (*to.begin)[static_cast<std::size_t>(e)];
         i < (*to.begin)[static_cast<std::size_t>(e) + 1]; ++i)
      p.data()[i] = e * width + column(i);
  return p;
}
Index row_of(const Routing& to, Index i) { return (*to.row)[static_cast<std::size_t>(i)]; }

template <class T>
Tensor<T> down_composed(const Tensor<T>& x, const Tensor<T>& w, const Routing& to) {
  const Tensor<T> all = matmul(x, transpose(w));  // (E,n,r)
  return index_select(reshape(all, {to.experts * to.rows, w.size(1)}),
                      places(to, to.rows, [&](Index i) { return row_of(to, i); }));
}
template <class T>
Tensor<T> up_composed(const Tensor<T>& u, const Tensor<T>& w, const Routing& to) {
  const Index m = to.entries();
  const Tensor<T> each = index_select(reshape(matmul(u, w), {to.experts * m, w.size(2)}),
                                      places(to, m, [](Index i) { return i; }));  // (m,D)
  Tensor<std::int64_t> rows = Tensor<std::int64_t>::empty({m});
  for (Index i = 0; i < m; ++i) rows.data()[i] = row_of(to, i);
  return index_add(Tensor<T>::zeros({to.rows, w.size(2)}), 0, rows, each);
}
/// Rows twice, so that there is one for each of two visits.
template <class T>
Tensor<T> twice(const Tensor<T>& x, const Routing& to) {
  return to.entries() == x.size(0) ? x : concat<T>({x, x}, 0);
}
}  // namespace

OP_CASE(
    routed_down, {{Shape{7, 5}, Shape{3, 4, 5}}},
    [](auto& x) { return routed_down(x[0], x[1], some_routing(x[0].size(0), x[1].size(0), 2)); },
    [](auto& x) { return down_composed(x[0], x[1], some_routing(x[0].size(0), x[1].size(0), 2)); },
    {.empty = {7}, .large = {Shape{900, 70}, Shape{6, 16, 70}}});
OP_CASE(
    routed_up, {{Shape{7, 4}, Shape{3, 4, 5}}},
    [](auto& x) {
      const Routing to = some_routing(x[0].size(0), x[1].size(0), 2);
      return routed_up(twice(x[0], to), x[1], to);
    },
    [](auto& x) {
      const Routing to = some_routing(x[0].size(0), x[1].size(0), 2);
      return up_composed(twice(x[0], to), x[1], to);
    },
    {.empty = {7}, .large = {Shape{900, 16}, Shape{6, 16, 300}}});
// The mixture of entries: all experts' tokens for all rows, with a gate of zero where none visits.
OP_CASE(
    routed_mixture, {{Shape{7, 4}, Shape{3, 5, 4}, Shape{7}}},
    [](auto& x) {
      const Routing to = some_routing(x[0].size(0), x[1].size(0), 1);
      return routed_mixture(
          index_select(x[0], places(to, 0, [&](Index i) { return row_of(to, i); })), x[1],
          index_select(x[2], places(to, 0, [&](Index i) { return row_of(to, i); })), to,
          {.scale = 0.7f, .first = 1});
    },
    [](auto& x) {
      using T = op_test::scalar<decltype(x)>;
      const Index n = x[0].size(0), e = x[1].size(0), r = x[0].size(1);
      const Routing to = some_routing(n, e, 1);
      Tensor<T> open = Tensor<T>::zeros({n, e});
      for (Index c = 0; c < e; ++c)
        for (Index i = (*to.begin)[static_cast<std::size_t>(c)];
             i < (*to.begin)[static_cast<std::size_t>(c) + 1]; ++i)
          open.data()[row_of(to, i) * e + c] = T(1);
      const Tensor<T> q =
          reshape(mul(reshape(x[0], {n, 1, r}), Tensor<T>::ones({1, e, 1})), {n, e * r});
      const Tensor<T> g = mul(reshape(x[2], {n, 1}), open);
      const Tensor<T> y = token_mixture_composed(q, x[1], g, {.scale = 0.7f, .first = 1});
      const Tensor<T> low = sum(reshape(slice(y, 1, 0, e * r), {n, e, r}), {.axes = {1}});
      const Tensor<T> by_row = concat<T>({low, slice(y, 1, e * r, e * r + 1)}, 1);  // (n,r+1)
      return index_select(by_row, places(to, 0, [&](Index i) { return row_of(to, i); }));
    },
    {.empty = {7}, .large = {Shape{700, 8}, Shape{6, 32, 8}, Shape{700}}});

TEST_CASE("routing: entries by expert, then by row; what cannot be is told") {
  const Routing to = make_routing(Tensor<std::int64_t>({3, 2}, {2, 0, 0, 1, 2, 1}), 4);
  CHECK(*to.begin == std::vector<Index>{0, 2, 4, 6, 6});
  CHECK(*to.row == std::vector<Index>{0, 1, 1, 2, 0, 2});
  CHECK(message_of([] {
          make_routing(Tensor<std::int64_t>({1, 2}, {1, 1}), 3);
        }).find("row 0 chooses expert 1 twice") != std::string::npos);
  CHECK(message_of([] {
          make_routing(Tensor<std::int64_t>({2, 1}, {1, 3}), 3);
        }).find("expert 3 of 3 in row 1") != std::string::npos);
  CHECK(message_of([&] {
          routed_down(Tensor<float>::ones({4, 5}), Tensor<float>::ones({4, 2, 5}), to);
        }).find("6 visits of 3 rows to 4 experts; rows (4,5)") != std::string::npos);
}

TEST_CASE("routed_up: a row without a visit is zero") {
  Routing to = make_routing(Tensor<std::int64_t>({1, 1}, {1}), 2);
  to.rows = 3;
  const Tensor<float> y =
      routed_up(Tensor<float>({1, 1}, {2}), Tensor<float>({2, 1, 2}, {1, 1, 3, 4}), to);
  CHECK(y.values() == std::vector<float>{6, 8, 0, 0, 0, 0});
}
