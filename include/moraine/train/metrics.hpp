#pragma once
// Segmentation metrics, all from one confusion matrix that is saved beside them. With n_tp the
// pixels of true class t that were called p, summed over everything that was added:
//
//   IoU_c = n_cc / (sum_p n_cp + sum_t n_tc - n_cc)      not defined where c never occurs in either
//   F1_c  = 2 n_cc / (sum_p n_cp + sum_t n_tc)
//   mIoU, mF1: mean over the classes where they are defined
//   overall accuracy = sum_c n_cc / sum n,  kappa = (OA - chance) / (1 - chance)
#include <cmath>
#include <cstdint>
#include <limits>
#include <moraine/core/tensor.hpp>
#include <string>
#include <vector>

namespace moraine MORAINE_API {

class Confusion {
 public:
  explicit Confusion(Index classes = 0)
      : classes_(classes), n_(static_cast<std::size_t>(classes * classes)) {}

  /// One pixel. A label outside the classes that is not `ignored` counts as unknown.
  void add(std::int64_t label, std::int64_t called, std::int64_t ignored = -1) {
    if (label == ignored) {
      ++ignored_;
    } else if (label < 0 || label >= classes_ || called < 0 || called >= classes_) {
      ++unknown_;
    } else {
      ++n_[static_cast<std::size_t>(label * classes_ + called)];
    }
  }
  void add(const Confusion& other) {
    for (std::size_t i = 0; i < n_.size(); ++i) n_[i] += other.n_[i];
    ignored_ += other.ignored_;
    unknown_ += other.unknown_;
  }
  Index classes() const { return classes_; }
  std::int64_t at(Index label, Index called) const {
    return n_[static_cast<std::size_t>(label * classes_ + called)];
  }
  std::int64_t& at(Index label, Index called) {
    return n_[static_cast<std::size_t>(label * classes_ + called)];
  }
  std::int64_t ignored() const { return ignored_; }  ///< pixels whose label says "do not count"
  std::int64_t unknown() const { return unknown_; }  ///< pixels whose label or call is no class
  std::int64_t total() const {
    return sum([](Index, Index) { return true; });
  }

  /// NaN where not defined.
  double iou(Index c) const {
    const std::int64_t both = at(c, c), any = row(c) + column(c) - both;
    return any ? static_cast<double>(both) / static_cast<double>(any) : nan();
  }
  double f1(Index c) const {
    const std::int64_t any = row(c) + column(c);
    return any ? 2 * static_cast<double>(at(c, c)) / static_cast<double>(any) : nan();
  }
  double mean_iou() const {
    return mean([this](Index c) { return iou(c); });
  }
  double mean_f1() const {
    return mean([this](Index c) { return f1(c); });
  }
  double accuracy() const {
    const std::int64_t n = total();
    return n ? static_cast<double>(sum([](Index t, Index p) { return t == p; })) /
                   static_cast<double>(n)
             : nan();
  }
  double kappa() const {
    const double n = static_cast<double>(total());
    double chance = 0;
    for (Index c = 0; c < classes_; ++c)
      chance += static_cast<double>(row(c)) / n * static_cast<double>(column(c)) / n;
    return n > 0 && chance < 1 ? (accuracy() - chance) / (1 - chance) : nan();
  }
  /// Pixels of true class t, and pixels called p.
  std::int64_t row(Index t) const {
    return sum([t](Index a, Index) { return a == t; });
  }
  std::int64_t column(Index p) const {
    return sum([p](Index, Index b) { return b == p; });
  }

 private:
  static double nan() { return std::numeric_limits<double>::quiet_NaN(); }
  template <class F>
  std::int64_t sum(F take) const {
    std::int64_t s = 0;
    for (Index t = 0; t < classes_; ++t)
      for (Index p = 0; p < classes_; ++p)
        if (take(t, p)) s += at(t, p);
    return s;
  }
  template <class F>
  double mean(F of) const {
    double s = 0;
    Index n = 0;
    for (Index c = 0; c < classes_; ++c)
      if (const double v = of(c); v == v) s += v, ++n;
    return n ? s / static_cast<double>(n) : nan();
  }
  Index classes_;
  std::vector<std::int64_t> n_;
  std::int64_t ignored_ = 0, unknown_ = 0;
};

}  // namespace moraine
