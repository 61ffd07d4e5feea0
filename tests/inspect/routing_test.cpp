// Routing statistics against numbers worked out by hand.
#include <moraine/inspect/picture.hpp>
#include <moraine/inspect/recorder.hpp>
#include <moraine/inspect/routing.hpp>

#include <doctest/doctest.h>
#include <cmath>
#include <limits>

using namespace moraine;
using doctest::Approx;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();

inspect::RoutingRows rows(std::vector<float> values, Index experts) {
  const Index n = static_cast<Index>(values.size()) / experts;
  return inspect::measure_routing(Tensor<float>({n, experts}, values));
}
/// Rows whose winners are given, by logits of 1 against 0.
inspect::RoutingRows winners(const std::vector<int>& who, Index experts) {
  Tensor<float> h = Tensor<float>::zeros({static_cast<Index>(who.size()), experts});
  for (std::size_t i = 0; i < who.size(); ++i)
    h.data()[static_cast<Index>(i) * experts + who[i]] = 1;
  return inspect::measure_routing(h);
}
Tensor<std::int64_t> labels(const std::vector<std::int64_t>& v) {
  return Tensor<std::int64_t>({static_cast<Index>(v.size())}, v);
}
template <class F>
ErrorKind kind_of(F f) {
  try {
    f();
  } catch (const Error& e) {
    return e.kind();
  }
  FAIL("nothing was thrown");
  return ErrorKind::value;
}

}  // namespace

TEST_CASE("one row: winner, its probability among all experts, normalised entropy") {
  // Weights 6 : 3 : 1, so p = .6, .3, .1.
  const float l6 = std::log(6.f), l3 = std::log(3.f);
  const auto r = rows({l3, l6, 0, 5, 5, 5, 2, -inf, -inf}, 3);
  CHECK(r.winner.values() == std::vector<std::int32_t>{1, 0, 0});  // a tie goes to the lower index
  CHECK(r.probability.data()[0] == Approx(0.6));
  // -(.6 ln .6 + .3 ln .3 + .1 ln .1) / ln 3 = .897946 / 1.098612
  CHECK(r.entropy.data()[0] == Approx(0.897946 / 1.098612).epsilon(1e-5));
  CHECK(r.probability.data()[1] == Approx(1.0 / 3));
  CHECK(r.entropy.data()[1] == Approx(1.0));
  CHECK(r.probability.data()[2] == Approx(1.0));  // closed experts take no part
  CHECK(r.entropy.data()[2] == Approx(0.0));

  const auto gates =
      inspect::measure_routing(Tensor<float>({1, 3}, {0.3f, 0.1f, 0.6f}), inspect::Routed::gates);
  CHECK(gates.winner.data()[0] == 2);
  CHECK(gates.probability.data()[0] == Approx(0.6));
  CHECK(gates.entropy.data()[0] == Approx(0.897946 / 1.098612).epsilon(1e-5));

  CHECK(rows({7}, 1).entropy.data()[0] == 0.f);  // one expert has no choice
  const auto huge = rows({3e38f, 1, 0}, 3);      // no overflow
  CHECK(huge.probability.data()[0] == 1.f);
}

TEST_CASE("rows without a winner are refused") {
  CHECK(kind_of([] { rows({1, NAN, 0}, 3); }) == ErrorKind::non_finite);
  CHECK(kind_of([] { rows({-inf, -inf, -inf}, 3); }) == ErrorKind::non_finite);
  CHECK(kind_of([] { rows({1, inf, 0}, 3); }) == ErrorKind::non_finite);
  CHECK(kind_of([] {
          inspect::measure_routing(Tensor<float>::zeros({1, 3}), inspect::Routed::gates);
        }) == ErrorKind::non_finite);
  CHECK(kind_of([] { inspect::measure_routing(Tensor<float>::zeros({3})); }) == ErrorKind::shape);
}

TEST_CASE("load: shares, entropy, busiest") {
  inspect::RoutingStats s(4);
  s.add(winners({0, 0, 1, 2}, 4));
  s.add(winners({0, 0, 1, 1}, 4));
  CHECK(s.rows() == 8);
  CHECK(s.share(0) == 0.5);
  CHECK(s.share(1) == 0.375);
  CHECK(s.share(3) == 0.0);
  CHECK(s.busiest() == 0);
  // (.5 ln 2 + .375 ln(8/3) + .125 ln 8) / ln 4 = .974315 / 1.386294
  CHECK(s.load_entropy() == Approx(0.974315 / 1.386294).epsilon(1e-5));
  // Logits 1, 0, 0, 0: p = e / (e + 3) = .475367.
  CHECK(s.mean_probability() == Approx(0.475367).epsilon(1e-5));
  inspect::RoutingStats even(2), alone(2);
  even.add(winners({0, 1, 0, 1}, 2));
  alone.add(winners({1, 1, 1}, 2));
  CHECK(even.load_entropy() == Approx(1.0));
  CHECK(alone.load_entropy() == Approx(0.0));
  CHECK(kind_of([&] { even.add(winners({0}, 3)); }) == ErrorKind::shape);
  CHECK(kind_of([&] { even.add(winners({0}, 2), labels({0, 1})); }) == ErrorKind::shape);
}

TEST_CASE("mutual information of class and expert") {
  // 4 x class 0 (3 to expert 0, 1 to 1), 4 x class 1 (1, 3):
  // I = .75 ln(.75/.5) + .25 ln(.25/.5) = .130812, H(class) = ln 2.
  inspect::RoutingStats s(2, 2);
  s.add(winners({0, 0, 0, 1, 0, 1, 1, 1, 1, 1}, 2), labels({0, 0, 0, 0, 1, 1, 1, 1, 255, -1}));
  CHECK(s.rows() == 10);  // loads count every patch, the table only those with a label
  CHECK(s.at(0, 0) == 3);
  CHECK(s.at(1, 1) == 3);
  CHECK(s.in_class(1) == 4);
  const auto i = s.class_information();
  CHECK(i.rows == 8);
  CHECK(i.mutual == Approx(0.130812).epsilon(1e-5));
  CHECK(i.class_entropy == Approx(0.693147).epsilon(1e-6));
  CHECK(i.ratio == Approx(0.130812 / 0.693147).epsilon(1e-5));

  inspect::RoutingStats knows(3, 3), blind(3, 3), one(3, 3);
  knows.add(winners({2, 0, 1, 2, 0, 1}, 3), labels({0, 1, 2, 0, 1, 2}));
  CHECK(knows.class_information().ratio == Approx(1.0));
  blind.add(winners({1, 1, 1, 1}, 3), labels({0, 1, 2, 0}));
  CHECK(blind.class_information().ratio == 0.0);
  one.add(winners({0, 1}, 3), labels({2, 2}));
  CHECK(one.class_information().ratio == 0.0);  // H(class) = 0
  CHECK(inspect::RoutingStats(2, 2).class_information().ratio == 0.0);
}

TEST_CASE("controls: shuffled labels tell nothing, another tile's labels only what is shared") {
  // Expert = class, in stripes that each tile has elsewhere.
  inspect::RoutingStats s(2, 2);
  std::vector<int> a(4096);
  std::vector<std::int64_t> la(4096);
  for (int t = 0; t < 2; ++t) {
    for (std::size_t i = 0; i < a.size(); ++i)
      a[i] = static_cast<int>((i / 64 >> t) & 1), la[i] = a[i];
    s.add(winners(a, 2), labels(la));
  }
  CHECK(s.class_information().ratio == Approx(1.0));
  const auto shuffled = s.shuffled(1);
  CHECK(shuffled.rows == 8192);
  // For independent labels 2 n I is chi-squared with (C-1)(E-1) = 1 degree of freedom.
  CHECK(shuffled.mutual > 0.0);
  CHECK(shuffled.mutual < 10.0 / (2 * 8192));
  CHECK(shuffled.class_entropy == Approx(std::log(2.0)));
  CHECK(s.shuffled(1).mutual == shuffled.mutual);
  CHECK(s.shuffled(2).mutual != shuffled.mutual);
  CHECK(s.swapped().rows == 4096);
  CHECK(s.swapped().ratio == Approx(0.0));  // stripes of 64 and of 128 are independent
  s.add(winners(a, 2), labels(la));         // a tile like the one before: swapped knows it too
  CHECK(s.swapped().rows == 8192);
  CHECK(s.swapped().ratio > 0.15);
}

TEST_CASE("labels of patches: majority, ties low, ignore where most is unlabelled") {
  const Tensor<std::int64_t> l({4, 6}, {1, 1, 2, 3,   255, 255,  //
                                        1, 5, 3, 2,   255, 7,    //
                                        0, 0, 9, 255, 4,   4,    //
                                        9, 9, 9, 9,   255, 255});
  CHECK(inspect::patch_labels(l, 2).values() == std::vector<std::int64_t>{1, 2, 255, 0, 9, 4});
  CHECK(inspect::patch_labels(l.reshaped({2, 2, 6}), 2).values() ==
        std::vector<std::int64_t>{1, 2, 255, 0, 9, 4});
  CHECK(inspect::patch_labels(l, 4).numel() == 1);  // rounded down to whole patches
  CHECK(kind_of([&] { inspect::patch_labels(l, 5); }) == ErrorKind::shape);
}

TEST_CASE("a collector hears gates by name and adds windows up") {
  inspect::RoutingCollector c({.classes = 2, .rows_per_tile = 2});
  const auto show = [](Index layer, const char* stream, std::vector<float> h) {
    Scope moe("moe", layer), inner(stream);
    observe("logits", Tensor<float>({4, 2}, h));
    observe("gates", Tensor<float>({4, 2}, h));  // not asked for
  };
  {
    const Observing listen(c);
    c.labels(labels({0, 1, 0, 1}));
    show(10, "visual", {1, 0, 0, 1, 1, 0, 0, 1});
    show(2, "visual", {1, 0, 1, 0, 1, 0, 0, 1});
    show(2, "depth", {0, 1, 0, 1, 0, 1, 0, 1});
    show(2, "depth", {0, 1, 0, 1, 0, 1, 0, 1});
  }
  show(5, "visual", {0, 0, 0, 0, 0, 0, 0, 0});  // nobody listens
  const auto p = c.places();
  REQUIRE(p.size() == 3);
  CHECK(p[0].path == "moe.2.visual");  // by stream, then by number, not by text
  CHECK(p[0].layer == 2);
  CHECK(p[0].stream == "visual");
  CHECK(p[1].layer == 10);
  CHECK(p[1].stats.class_information().ratio == Approx(1.0));
  CHECK(p[1].stats.swapped().rows == 2);  // two tiles of two rows in one forward
  CHECK(p[2].stream == "depth");
  CHECK(p[2].stats.rows() == 8);
  CHECK(p[2].stats.share(1) == 1.0);

  const auto map = inspect::expert_map(p[0], 1, 2, 1);
  CHECK(map.winner.values() == std::vector<std::uint8_t>{0, 1});
  CHECK(map.probability.data()[0] == 186);  // 254 * .731059
  CHECK(kind_of([&] { inspect::expert_map(p[0], 2, 2, 1); }) == ErrorKind::shape);
}

TEST_CASE("a recorder keeps what matches, as copies, within its limit") {
  inspect::Recorder r({.patterns = {"a.*.gates", "b.**"}, .max_bytes = 100});
  Tensor<float> t({2, 2}, {1, 2, 3, 4});
  {
    const Observing listen(r);
    {
      Scope a("a", 3);
      observe("gates", t);   // 16 bytes
      observe("logits", t);  // no
    }
    t.data()[0] = 9;
    Scope b("b"), c("c");
    observe("x", t);
    observe("x", t.view({2}, {2}));  // 8 bytes, strided
  }
  observe("b", t);  // not listening any more
  CHECK(r.names() == std::vector<std::string>{"a.3.gates", "b.c.x"});
  CHECK(r.bytes() == 40);
  CHECK(r.last("a.3.gates").as<float>().values() == std::vector<float>{1, 2, 3, 4});
  CHECK(r.all("b.c.x").size() == 2);
  CHECK(r.last("b.c.x").as<float>().values() == std::vector<float>{9, 3});
  CHECK(r.all("nothing").empty());
  CHECK(kind_of([&] { r.last("nothing"); }) == ErrorKind::key);
  r.observed("b.big", Tensor<float>::zeros({15}));  // 60 bytes: just fits
  CHECK(kind_of([&] { r.observed("b.more", Tensor<float>::zeros({1})); }) == ErrorKind::memory);
  CHECK(r.bytes() == 100);
  r.clear();
  CHECK(r.names().empty());

  inspect::Recorder forgets({.max_bytes = 10, .when_full = inspect::WhenFull::forget});
  forgets.observed("a", Tensor<float>::zeros({2}));
  forgets.observed("b", Tensor<float>::zeros({2}));
  CHECK(forgets.names() == std::vector<std::string>{"a"});
  CHECK(forgets.forgotten() == 1);
}
