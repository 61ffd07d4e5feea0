// Rows of ops/attention.hpp: fused attention, and everything that may be added to its scores,
// against the definition.
#include <cmath>
#include <limits>
#include <moraine/autograd/backward.hpp>
#include <moraine/ops/attention.hpp>
#include <vector>

#include "../op_case.hpp"

using namespace moraine;
using op_test::integers;
using op_test::scalar;

namespace {

/// Keys 0, 3, 6, ... of product 0, 1, 4, 7, ... of product 1, and so on may be looked at; a mask
/// of ones hides nothing.
Mask every_third(Index batch, Index keys) {
  const Mask m = Mask::zeros({batch, keys});
  for (Index b = 0; b < batch; ++b)
    for (Index j = 0; j < keys; ++j) m.data()[b * keys + j] = j % 3 == b % 3;
  return m;
}
/// Of product b: all keys but b, if there are so many.
Tensor<std::int64_t> all_but_b(Index batch, Index keys) {
  const auto n = Tensor<std::int64_t>::empty({batch});
  for (Index b = 0; b < batch; ++b) n.data()[b] = keys > b ? keys - b : 0;
  return n;
}
/// x (A,B,C,D) -> (A,B,C*D): keys of a map as keys.
template <class T>
Tensor<T> flat_keys(const Tensor<T>& x) {
  return reshape(x, {x.size(0), x.size(1), x.size(2) * x.size(3), x.size(4)});
}

}  // namespace

// q (B,H,N,D), k (B,H,M,D), v (B,H,M,Dv); a letter a size: B 2, H 3, N 5, M 7, D 4, Dv 6. M stays:
// with one key the gradients of the scores are 0, and all that is left are roundings.
#define MORAINE_QKV \
  Shape{2, 3, 5, 4}, Shape{2, 3, 7, 4}, Shape { 2, 3, 7, 6 }
#define MORAINE_LARGE \
  Shape{2, 3, 130, 20}, Shape{2, 3, 300, 20}, Shape { 2, 3, 300, 24 }
#define MORAINE_ATTENTION_CASE(name, shapes, large_, ...)                                \
  OP_CASE(                                                                               \
      name, shapes, [](auto& x) { return attention(x[0], x[1], x[2], __VA_ARGS__(x)); }, \
      [](auto& x) { return attention_composed(x[0], x[1], x[2], __VA_ARGS__(x)); },      \
      {.low = -2, .high = 2, .fixed = {7}, .empty = {2, 5}, .large = large_})

namespace {
struct Plain {
  template <class X>
  AttentionOptions<scalar<X>> operator()(const X&) const {
    return {.scale = 0.7};
  }
};
struct Biased {
  template <class X>
  AttentionOptions<scalar<X>> operator()(const X& x) const {
    return {.bias = x[3]};
  }
};
struct Masked {
  template <class X>
  AttentionOptions<scalar<X>> operator()(const X& x) const {
    return {.key_mask = every_third(x[1].size(0), x[1].size(2))};
  }
};
struct Short {
  template <class X>
  AttentionOptions<scalar<X>> operator()(const X& x) const {
    return {.keys = all_but_b(x[1].size(0), x[1].size(2))};
  }
};
struct Everything {
  template <class X>
  AttentionOptions<scalar<X>> operator()(const X& x) const {
    return {.bias = x[3],
            .key_mask = every_third(x[1].size(0), x[1].size(2)),
            .keys = all_but_b(x[1].size(0), x[1].size(2))};
  }
};
}  // namespace

MORAINE_ATTENTION_CASE(attention, (std::vector<Shape>{MORAINE_QKV}),
                       (std::vector<Shape>{MORAINE_LARGE}), Plain{})
MORAINE_ATTENTION_CASE(attention_bias, (std::vector<Shape>{MORAINE_QKV, Shape{2, 3, 5, 7}}),
                       (std::vector<Shape>{MORAINE_LARGE, Shape{2, 3, 130, 300}}), Biased{})
MORAINE_ATTENTION_CASE(attention_bias_of_heads, (std::vector<Shape>{MORAINE_QKV, Shape{3, 5, 7}}),
                       (std::vector<Shape>{MORAINE_LARGE, Shape{3, 130, 300}}), Biased{})
MORAINE_ATTENTION_CASE(attention_bias_of_products,
                       (std::vector<Shape>{MORAINE_QKV, Shape{2, 1, 5, 7}}),
                       (std::vector<Shape>{MORAINE_LARGE, Shape{2, 1, 130, 300}}), Biased{})
MORAINE_ATTENTION_CASE(attention_bias_of_all, (std::vector<Shape>{MORAINE_QKV, Shape{5, 7}}),
                       (std::vector<Shape>{MORAINE_LARGE, Shape{130, 300}}), Biased{})
MORAINE_ATTENTION_CASE(attention_bias_of_keys, (std::vector<Shape>{MORAINE_QKV, Shape{2, 1, 1, 7}}),
                       (std::vector<Shape>{MORAINE_LARGE, Shape{2, 1, 1, 300}}), Biased{})
// What all keys share changes nothing.
OP_CASE(attention_bias_of_queries, (std::vector<Shape>{MORAINE_QKV, Shape{3, 5, 1}}),
        [](auto& x) { return attention(x[0], x[1], x[2], Biased{}(x)); },
        {.low = -2,
         .high = 2,
         .flat = {3},
         .fixed = {7},
         .empty = {2, 5},
         .large = {MORAINE_LARGE, Shape{3, 130, 1}}})
MORAINE_ATTENTION_CASE(attention_key_mask, (std::vector<Shape>{MORAINE_QKV}),
                       (std::vector<Shape>{MORAINE_LARGE}), Masked{})
MORAINE_ATTENTION_CASE(attention_bias_mask_keys, (std::vector<Shape>{MORAINE_QKV, Shape{3, 5, 7}}),
                       (std::vector<Shape>{MORAINE_LARGE, Shape{3, 130, 300}}), Everything{})
// Keys that are not there are not read: NaN in them reaches nobody.
OP_CASE(
    attention_keys, (std::vector<Shape>{MORAINE_QKV}),
    [](auto& x) { return attention(x[0], x[1], x[2], Short{}(x)); },
    [](auto& x) { return attention_composed(x[0], x[1], x[2], Short{}(x)); },
    {.low = -2,
     .high = 2,
     .fixed = {7},
     .empty = {2, 5},
     .nan_spreads = false,
     .large = {MORAINE_LARGE}})

// Keys are a map: k (B,H,Rows,Columns,D), rows 2, columns 7 (ragged: both change).
OP_CASE(
    attention_relative,
    (std::vector<Shape>{Shape{2, 3, 5, 4}, Shape{2, 3, 8, 7, 4}, Shape{2, 3, 8, 7, 6},
                        Shape{2, 3, 5, 8}, Shape{2, 3, 5, 7}}),
    [](auto& x) {
      return attention(x[0], flat_keys(x[1]), flat_keys(x[2]),
                       AttentionOptions<scalar<decltype(x)>>{.rel_h = x[3], .rel_w = x[4]});
    },
    [](auto& x) {
      return attention_composed(
          x[0], flat_keys(x[1]), flat_keys(x[2]),
          AttentionOptions<scalar<decltype(x)>>{.rel_h = x[3], .rel_w = x[4]});
    },
    {.low = -2,
     .high = 2,
     .fixed = {8, 7},
     .empty = {2, 5},
     .large = {Shape{2, 3, 130, 20}, Shape{2, 3, 21, 14, 20}, Shape{2, 3, 21, 14, 24},
               Shape{2, 3, 130, 21}, Shape{2, 3, 130, 14}}})

// From one projection: queries and keys are one map of 4 x 3.
OP_CASE(
    self_attention, {Shape{2, 12, 24}, Shape{1, 2, 12, 12}, Shape{2, 2, 12, 4}, Shape{2, 2, 12, 3}},
    [](auto& x) {
      return self_attention(
          x[0], 2,
          AttentionOptions<scalar<decltype(x)>>{.bias = x[1], .rel_h = x[2], .rel_w = x[3]});
    },
    [](auto& x) {
      return self_attention_composed(
          x[0], 2,
          AttentionOptions<scalar<decltype(x)>>{.bias = x[1], .rel_h = x[2], .rel_w = x[3]});
    },
    {.low = -2,
     .high = 2,
     .fixed = {2, 12, 24, 4, 3},
     .empty = {},
     .large = {Shape{2, 196, 60}, Shape{1, 2, 196, 196}, Shape{2, 2, 196, 14},
               Shape{2, 2, 196, 14}}})

TEST_CASE("attention: a row that may look at nothing gives 0, with gradients of 0, as PyTorch") {
  const float inf = std::numeric_limits<float>::infinity();
  for (int form = 0; form < 3; ++form) {
    CAPTURE(form);
    Tensor<float> q = op_test::uniforms<float>({2, 1, 7, 4}),
                  k = op_test::uniforms<float>({2, 1, 5, 4}),
                  v = op_test::uniforms<float>({2, 1, 5, 3});
    for (Tensor<float>* x : {&q, &k, &v}) x->requires_grad();
    AttentionOptions<float> o;
    if (form == 0) o.key_mask = Mask({2, 5}, {0, 0, 0, 0, 0, 1, 0, 1, 1, 1});
    if (form == 1) o.keys = Tensor<std::int64_t>({2}, {0, 3});
    if (form == 2) o.bias = Tensor<float>({2, 1, 1, 1}, {-inf, 0});
    const Tensor<float> y = attention(q, k, v, o), z = attention_composed(q, k, v, o);
    for (Index i = 0; i < y.numel(); ++i) {
      CHECK(y.values()[std::size_t(i)] ==
            doctest::Approx(z.values()[std::size_t(i)]).epsilon(1e-5));
      CHECK((y.values()[std::size_t(i)] == 0) == (i < 21));
    }
    backward(y, Tensor<float>::ones(y.shape()));
    for (const Tensor<float>* x : {&q, &k, &v}) {
      const std::vector<float> g = x->grad().values();
      float rest = 0;
      for (std::size_t i = 0; i < g.size(); ++i) {
        if (i < g.size() / 2)
          CHECK(g[i] == 0);
        else
          rest += std::fabs(g[i]);
      }
      CHECK(rest > 0);
      CHECK(std::isfinite(rest));
    }
  }
  // Without a mask nothing but -inf is NaN, as softmax says.
  const auto all = [&](float x) { return Tensor<float>::full({1, 1, 1, 1}, x); };
  CHECK(std::isnan(attention(all(1), all(-inf), all(1)).item()));
}

TEST_CASE("attention: keys past the count are not read") {
  Tensor<float> q = op_test::uniforms<float>({1, 2, 9, 8}),
                k = op_test::uniforms<float>({1, 2, 40, 8}),
                v = op_test::uniforms<float>({1, 2, 40, 8});
  const auto short_keys = [](const Tensor<float>& x) {
    return x.view({1, 2, 21, 8}, x.strides()).clone();
  };
  const std::vector<float> want = attention(q, short_keys(k), short_keys(v)).values();
  for (Index h = 0; h < 2; ++h)
    for (Index j = 21 * 8; j < 40 * 8; ++j) k.data()[h * 320 + j] = v.data()[h * 320 + j] = NAN;
  for (Tensor<float>* x : {&q, &k, &v}) x->requires_grad();
  const Tensor<float> y = attention(q, k, v, {.keys = Tensor<std::int64_t>({1}, {21})});
  CHECK(y.values() == want);
  backward(y, Tensor<float>::ones(y.shape()));
  for (float g : q.grad().values()) CHECK(std::isfinite(g));
  for (float g : k.grad().values()) CHECK(std::isfinite(g));
}

TEST_CASE("attention: a bias is read where it lies") {
  // An expanded view: one number a head, strides of 0 elsewhere; and a transposed one.
  const Tensor<double> q = op_test::uniforms<double>({2, 3, 5, 4}),
                       k = op_test::uniforms<double>({2, 3, 7, 4});
  const Tensor<double> b = op_test::uniforms<double>({3, 7, 5});
  const auto near = [](const Tensor<double>& x, const Tensor<double>& y) {
    for (std::size_t i = 0; i < x.values().size(); ++i)
      CHECK(x.values()[i] == doctest::Approx(y.values()[i]).epsilon(1e-12));
  };
  const Tensor<double> turned = b.view({3, 5, 7}, {35, 1, 5});
  near(attention(q, k, k, {.bias = turned}), attention_composed(q, k, k, {.bias = turned}));
  const Tensor<double> wide = b.view({2, 3, 5, 7}, {0, 35, 0, 0});
  near(attention(q, k, k, {.bias = wide}),
       attention_composed(q, k, k, {.bias = wide.contiguous()}));
}

TEST_CASE("attention: options that do not fit are told") {
  const auto t = [](const Shape& s) { return Tensor<float>::ones(s); };
  const auto q = t({2, 3, 5, 4}), k = t({2, 3, 6, 4});
  CHECK_ERROR(shape,
              "attention: bias (5,7) does not broadcast to the scores; scores (B,H,N,M) (2,3,5,6)",
              attention(q, k, k, {.bias = t({5, 7})}));
  CHECK_THROWS_AS(attention(q, k, k, {.bias = t({1, 2, 3, 5, 6})}), Error);
  CHECK_THROWS_AS(attention(q, k, k, {.key_mask = Mask::ones({2, 5})}), Error);
  CHECK_THROWS_AS(attention(q, k, k, {.keys = integers({3}, 2)}), Error);
  CHECK_ERROR(value, "attention: keys holds 7 of 6 keys",
              attention(q, k, k, {.keys = Tensor<std::int64_t>({2}, {1, 7})}));
  CHECK_THROWS_AS(attention(q, k, k, {.rel_h = t({2, 3, 5, 2})}), Error);
  CHECK_THROWS_AS(attention(q, k, k, {.rel_h = t({2, 3, 5, 2}), .rel_w = t({2, 3, 5, 4})}), Error);
  CHECK_THROWS_AS(self_attention(t({2, 5, 36}), 3, {.bias = t({6, 6})}), Error);
}
