// Metrics against numbers worked out by hand.
#include <doctest/doctest.h>

#include <cmath>
#include <moraine/train/metrics.hpp>

using namespace moraine;

namespace {

Confusion of(Index k, std::initializer_list<std::int64_t> counts) {
  Confusion c(k);
  auto it = counts.begin();
  for (Index t = 0; t < k; ++t)
    for (Index p = 0; p < k; ++p) c.at(t, p) = *it++;
  return c;
}

}  // namespace

TEST_CASE("metrics: every definition on one matrix") {
  // rows: labels. 5 of class 0, 6 of class 1, 4 of class 2.
  const Confusion c = of(3, {4, 1, 0, 2, 3, 1, 0, 1, 3});
  CHECK(c.total() == 15);
  CHECK(c.row(1) == 6);
  CHECK(c.column(1) == 5);
  CHECK(c.iou(0) == doctest::Approx(4.0 / 7));
  CHECK(c.iou(1) == doctest::Approx(3.0 / 8));
  CHECK(c.iou(2) == doctest::Approx(3.0 / 5));
  CHECK(c.f1(1) == doctest::Approx(6.0 / 11));
  CHECK(c.mean_iou() == doctest::Approx((4.0 / 7 + 3.0 / 8 + 3.0 / 5) / 3));
  CHECK(c.accuracy() == doctest::Approx(10.0 / 15));
  const double chance = (5.0 * 6 + 6.0 * 5 + 4.0 * 4) / 225;
  CHECK(c.kappa() == doctest::Approx((10.0 / 15 - chance) / (1 - chance)));
}

TEST_CASE("metrics: a class that never occurs is undefined and left out of means") {
  const Confusion c = of(3, {2, 1, 0, 0, 3, 0, 0, 0, 0});
  CHECK(std::isnan(c.iou(2)));
  CHECK(std::isnan(c.f1(2)));
  CHECK(c.mean_iou() == doctest::Approx((2.0 / 3 + 3.0 / 4) / 2));
  // Predicted but never labelled: 0, not undefined.
  const Confusion d = of(2, {0, 4, 0, 0});
  CHECK(d.iou(1) == 0);
  CHECK(d.mean_iou() == 0);
}

TEST_CASE("metrics: nothing scored is undefined, not zero") {
  Confusion c(2);
  CHECK(std::isnan(c.accuracy()));
  CHECK(std::isnan(c.kappa()));
  CHECK(std::isnan(c.mean_iou()));
  // One class only: agreement by chance is certain.
  c.add(0, 0);
  CHECK(c.accuracy() == 1);
  CHECK(std::isnan(c.kappa()));
}

TEST_CASE("metrics: ignored and unknown pixels are counted, not scored") {
  Confusion c(2);
  c.add(0, 0, 255);
  c.add(255, 1, 255);
  c.add(7, 1, 255);
  c.add(1, 2, 255);
  CHECK(c.total() == 1);
  CHECK(c.ignored() == 1);
  CHECK(c.unknown() == 2);
  Confusion sum(2);
  sum.add(c);
  sum.add(c);
  CHECK(sum.total() == 2);
  CHECK(sum.unknown() == 4);
}
