#pragma once
// What the gates of a mixture of experts do, in numbers: for every row (patch) who wins and how
// sure the gate is, and over many rows how the load is spread and whether experts follow classes.
//
// One row with logits h over E experts, p = softmax(h) over all of them (also those that the top-k
// does not let through):
//
//   winner       argmax h; ties go to the lower index, as in the gate
//   probability  p of the winner, 1/E .. 1
//   entropy      -sum_e p_e ln p_e / ln E: 0 the gate is certain, 1 it has no preference (E = 1: 0)
//
// Over the rows that were added, n_e of n won by expert e, n_ce of them with label c:
//
//   share        n_e / n
//   load entropy -sum_e share_e ln share_e / ln E: 1 all experts work alike, 0 one works alone
//   information  I = sum_ce q_ce ln(q_ce / (q_c q_e)), q = n_ce / sum n_ce over the labelled rows,
//                and I / H(class): the part of the uncertainty about a patch's class that the name
//                of its expert takes away, 0 .. 1
//
// I is never negative, so a few rows suffice for a value above zero. Two controls say what to
// expect of experts that know nothing: `shuffled`, labels permuted among all rows (the bias of
// small counts), and `swapped`, labels of one tile against the routing of the tile before (labels
// and routing keep their patches of land, so it also shows what smoothness alone gives).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <moraine/core/any_tensor.hpp>
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>
#include <moraine/core/random.hpp>
#include <moraine/core/tensor.hpp>
#include <moraine/nn/module.hpp>
#include <moraine/nn/observe.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moraine::inspect {

/// Row by row; all (n).
struct RoutingRows {
  Index experts = 0;
  Tensor<std::int32_t> winner;
  Tensor<float> probability, entropy;
};

/// What the (n,E) numbers are.
enum class Routed : unsigned char {
  logits,  ///< any real numbers, -inf for a closed expert; p = softmax
  gates    ///< not negative; p = gates / their sum
};

/// Measures every row of x (n,E). Throws ErrorKind::non_finite where a row has no largest value.
inline RoutingRows measure_routing(const AnyTensor& x, Routed kind = Routed::logits) {
  if (x.shape.rank != 2 || x.shape[1] < 1)
    fail(ErrorKind::shape, "routing: needs (n,E) logits or gates; " + str(x.shape));
  const Tensor<double> h = x.as<double>();
  const Index n = x.shape[0], e = x.shape[1];
  RoutingRows out{e, Tensor<std::int32_t>::empty({n}), Tensor<float>::empty({n}),
                  Tensor<float>::empty({n})};
  const double full = e > 1 ? std::log(static_cast<double>(e)) : 1;
  for (Index i = 0; i < n; ++i) {
    const double* row = h.data() + i * e;
    Index best = 0;
    bool nan = false;
    for (Index j = 0; j < e; ++j) {
      nan |= std::isnan(row[j]) || (kind == Routed::gates && row[j] < 0);
      if (row[j] > row[best]) best = j;
    }
    if (nan || !std::isfinite(row[best]) || (kind == Routed::gates && row[best] <= 0))
      fail(ErrorKind::non_finite,
           "routing: row " + std::to_string(i) + " of " + std::to_string(n) +
               " has no winner; a value is NaN, infinite" +
               (kind == Routed::gates ? " or negative, or all are zero" : ", or all are -inf"));
    double total = 0, mean = 0;  // of weight w_e, and of w_e ln w_e
    for (Index j = 0; j < e; ++j) {
      const double log_w =
          kind == Routed::logits ? row[j] - row[best] : std::log(row[j] / row[best]);
      const double w = std::exp(log_w);
      if (w > 0) total += w, mean += w * log_w;
    }
    out.winner.data()[i] = static_cast<std::int32_t>(best);
    out.probability.data()[i] = static_cast<float>(1 / total);
    out.entropy.data()[i] =
        static_cast<float>(std::clamp((std::log(total) - mean / total) / full, 0.0, 1.0));
  }
  return out;
}

/// The label of each patch: the most frequent one among its pixels that are not `ignore`, ties to
/// the lower value; `ignore` where fewer than half of its pixels have a label.
/// labels (B,H,W) or (H,W) -> (B * H/patch * W/patch), rows in the order of patch tokens.
inline Tensor<std::int64_t> patch_labels(const Tensor<std::int64_t>& labels, Index patch,
                                         std::int64_t ignore = 255) {
  const int r = labels.rank();
  if ((r != 2 && r != 3) || patch < 1 || labels.size(r - 2) < patch || labels.size(r - 1) < patch)
    fail(ErrorKind::shape, "patch_labels: needs (B,H,W) or (H,W) of at least one patch; " +
                               str(labels.shape()) + ", patch " + std::to_string(patch));
  const Index b = r == 3 ? labels.size(0) : 1, h = labels.size(r - 2), w = labels.size(r - 1);
  const Index gh = h / patch, gw = w / patch;
  const Tensor<std::int64_t> in = labels.contiguous();
  auto out = Tensor<std::int64_t>::empty({b * gh * gw});
  std::vector<std::int64_t> seen;
  for (Index i = 0; i < b * gh * gw; ++i) {
    const Index image = i / (gh * gw), y0 = i / gw % gh * patch, x0 = i % gw * patch;
    seen.clear();
    for (Index y = y0; y < y0 + patch; ++y)
      for (Index x = x0; x < x0 + patch; ++x) {
        const std::int64_t v = in.data()[(image * h + y) * w + x];
        if (v != ignore) seen.push_back(v);
      }
    std::sort(seen.begin(), seen.end());
    std::int64_t best = ignore;
    std::size_t most = 0;
    for (std::size_t a = 0, z; a < seen.size(); a = z) {
      for (z = a; z < seen.size() && seen[z] == seen[a];) ++z;
      if (z - a > most) most = z - a, best = seen[a];
    }
    out.data()[i] = 2 * static_cast<Index>(seen.size()) >= patch * patch ? best : ignore;
  }
  return out;
}

/// I, H(class) in nats and their ratio; the ratio is 0 where only one class occurs.
struct Information {
  double mutual = 0, class_entropy = 0, ratio = 0;
  std::int64_t rows = 0;  ///< labelled rows
};

/// Of counts (classes,experts), row by row.
inline Information information(const std::vector<std::int64_t>& counts, Index experts) {
  const std::size_t e = static_cast<std::size_t>(experts), c = counts.size() / e;
  std::vector<std::int64_t> by_class(c), by_expert(e);
  Information out;
  for (std::size_t i = 0; i < counts.size(); ++i)
    by_class[i / e] += counts[i], by_expert[i % e] += counts[i], out.rows += counts[i];
  if (!out.rows) return out;
  const double n = static_cast<double>(out.rows);
  for (std::int64_t v : by_class)
    if (v) out.class_entropy -= static_cast<double>(v) / n * std::log(static_cast<double>(v) / n);
  for (std::size_t i = 0; i < counts.size(); ++i)
    if (counts[i]) {
      const double q = static_cast<double>(counts[i]);
      out.mutual += q / n *
                    std::log(q * n / static_cast<double>(by_class[i / e]) /
                             static_cast<double>(by_expert[i % e]));
    }
  out.mutual = std::max(out.mutual, 0.0);
  if (out.class_entropy > 0) out.ratio = out.mutual / out.class_entropy;
  return out;
}

/// Sums over as many rows as are added; holds counts only.
class RoutingStats {
 public:
  explicit RoutingStats(Index experts = 0, Index classes = 0)
      : experts_(experts),
        classes_(classes),
        wins_(static_cast<std::size_t>(experts)),
        table_(static_cast<std::size_t>(classes * experts)),
        swapped_(table_.size()) {}

  /// The rows of one tile or window, with labels (n) or without. Labels outside 0..classes-1
  /// (nodata, ignored) take no part in the table. Each call is one tile for the swapped control.
  void add(const RoutingRows& r, const Tensor<std::int64_t>& labels = {}) {
    const Index n = r.winner.numel();
    if (r.experts != experts_)
      fail(ErrorKind::shape, "routing: " + std::to_string(r.experts) + " experts in the rows, " +
                                 std::to_string(experts_) + " in the statistics");
    if (labels.defined() && labels.numel() != n)
      fail(ErrorKind::shape, "routing: one label for each row is needed; " +
                                 std::to_string(labels.numel()) + " labels, " + std::to_string(n) +
                                 " rows -> patch_labels() makes them");
    for (Index i = 0; i < n; ++i) {
      ++wins_[static_cast<std::size_t>(r.winner.data()[i])];
      probability_ += static_cast<double>(r.probability.data()[i]);
      entropy_ += static_cast<double>(r.entropy.data()[i]);
    }
    rows_ += n;
    if (!labels.defined() || !classes_) return;
    const std::vector<std::int64_t> now = labels.values();
    const auto count = [&](std::vector<std::int64_t>& into, std::int64_t label, Index i) {
      if (label >= 0 && label < classes_)
        ++into[static_cast<std::size_t>(label * experts_ + r.winner.data()[i])];
    };
    for (Index i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      count(table_, now[at], i);
      if (before_.size() == now.size()) count(swapped_, before_[at], i);
    }
    before_ = now;
  }

  Index experts() const { return experts_; }
  Index classes() const { return classes_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t wins(Index e) const { return wins_[static_cast<std::size_t>(e)]; }
  double share(Index e) const {
    return rows_ ? static_cast<double>(wins(e)) / static_cast<double>(rows_) : 0;
  }
  /// The expert with the largest share; ties to the lower index.
  Index busiest() const {
    return static_cast<Index>(std::max_element(wins_.begin(), wins_.end()) - wins_.begin());
  }
  double load_entropy() const {
    double h = 0;
    for (Index e = 0; e < experts_; ++e)
      if (wins(e)) h -= share(e) * std::log(share(e));
    return experts_ > 1 ? h / std::log(static_cast<double>(experts_)) : 0;
  }
  double mean_probability() const { return rows_ ? probability_ / static_cast<double>(rows_) : 0; }
  double mean_entropy() const { return rows_ ? entropy_ / static_cast<double>(rows_) : 0; }

  /// Labelled rows of a class, and those of them that an expert won.
  std::int64_t at(Index c, Index e) const {
    return table_[static_cast<std::size_t>(c * experts_ + e)];
  }
  std::int64_t in_class(Index c) const {
    std::int64_t n = 0;
    for (Index e = 0; e < experts_; ++e) n += at(c, e);
    return n;
  }
  const std::vector<std::int64_t>& table() const { return table_; }

  Information class_information() const { return information(table_, experts_); }
  /// The mean of `times` tables whose labels were permuted among all labelled rows. It depends on
  /// the margins of the table alone, so nothing else has to be kept.
  Information shuffled(std::uint64_t seed = 0, int times = 3) const {
    std::vector<std::int32_t> label, winner;
    for (Index c = 0; c < classes_; ++c)
      for (Index e = 0; e < experts_; ++e) {
        label.insert(label.end(), static_cast<std::size_t>(at(c, e)), static_cast<std::int32_t>(c));
        winner.insert(winner.end(), static_cast<std::size_t>(at(c, e)),
                      static_cast<std::int32_t>(e));
      }
    Information out;
    for (int t = 0; t < times; ++t) {
      const Random r(seed, "shuffled labels", static_cast<std::uint64_t>(t));
      for (std::size_t i = label.size(); i > 1; --i)
        std::swap(label[i - 1], label[r.below(i, static_cast<std::uint32_t>(i))]);
      std::vector<std::int64_t> counts(table_.size());
      for (std::size_t i = 0; i < label.size(); ++i)
        ++counts[static_cast<std::size_t>(label[i] * experts_ + winner[i])];
      const Information one = information(counts, experts_);
      out.mutual += one.mutual / times;
      out.ratio += one.ratio / times;
      out.class_entropy = one.class_entropy, out.rows = one.rows;
    }
    return out;
  }
  /// Labels of each tile against the routing of the next; rows is 0 while only one was added.
  Information swapped() const { return information(swapped_, experts_); }

 private:
  Index experts_ = 0, classes_ = 0;
  std::int64_t rows_ = 0;
  double probability_ = 0, entropy_ = 0;
  std::vector<std::int64_t> wins_, table_, swapped_;  // (E), (C,E), (C,E)
  std::vector<std::int64_t> before_;                  // labels of the tile before
};

/// One gate of a model: "moe.3.visual" is layer 3, stream "visual".
struct RoutingPlace {
  std::string path, stream;
  Index layer = -1;
  RoutingStats stats;
  RoutingRows last;  ///< of the forward heard last, for maps
};

struct RoutingCollectorOptions {
  Index classes = 0;  ///< 0: no class table
  std::string pattern = "**.logits";
  Routed kind = Routed::logits;
  /// Rows of one image, N: a batch is added image by image, so that the swapped control pairs
  /// images. 0: each forward is one tile.
  Index rows_per_tile = 0;
};

/// Hears the gates of every forward and adds them up, place by place.
///
///   inspect::RoutingCollector routing({.classes = 8, .rows_per_tile = 256});
///   const Observing listen(routing);
///   for (...) {
///     routing.labels(inspect::patch_labels(batch.labels, 4));  // optional
///     net(batch.images);
///   }
class RoutingCollector final : public Observer {
 public:
  explicit RoutingCollector(RoutingCollectorOptions o = {}) : options_(std::move(o)) {}

  /// The labels (n) of the rows of the forwards to come; undefined: none.
  void labels(Tensor<std::int64_t> rows) { labels_ = std::move(rows); }

  void observed(const std::string& name, const AnyTensor& value) override {
    if (!matches(options_.pattern.c_str(), name.c_str())) return;
    RoutingPlace& p = place(name.substr(0, name.rfind('.')), value);
    p.last = measure_routing(value, options_.kind);
    const Index n = p.last.winner.numel(), tile = options_.rows_per_tile;
    if (labels_.defined() && labels_.numel() != n)
      fail(ErrorKind::shape, "routing: " + name + " has " + std::to_string(n) + " rows and " +
                                 std::to_string(labels_.numel()) + " labels");
    if (tile < 1 || n % tile) return p.stats.add(p.last, labels_);
    for (Index i = 0; i < n; i += tile)
      p.stats.add({p.last.experts, part(p.last.winner, i, tile), part(p.last.probability, i, tile),
                   part(p.last.entropy, i, tile)},
                  labels_.defined() ? part(labels_, i, tile) : Tensor<std::int64_t>());
  }

  /// In order of stream (as first heard), then layer.
  std::vector<RoutingPlace> places() const {
    std::vector<std::string> streams;
    for (const RoutingPlace& p : places_)
      if (std::find(streams.begin(), streams.end(), p.stream) == streams.end())
        streams.push_back(p.stream);
    std::vector<RoutingPlace> out = places_;
    const auto rank = [&](const RoutingPlace& p) {
      return std::find(streams.begin(), streams.end(), p.stream) - streams.begin();
    };
    std::stable_sort(out.begin(), out.end(), [&](const RoutingPlace& a, const RoutingPlace& b) {
      return rank(a) != rank(b) ? rank(a) < rank(b) : a.layer < b.layer;
    });
    return out;
  }

 private:
  template <class T>
  static Tensor<T> part(const Tensor<T>& t, Index from, Index n) {
    return t.contiguous().view({n}, {1}, from);
  }
  RoutingPlace& place(const std::string& path, const AnyTensor& value) {
    for (RoutingPlace& p : places_)
      if (p.path == path) return p;
    RoutingPlace p;
    p.path = path;
    // The layer is the last segment that is a number; the stream what follows it.
    std::size_t from = 0;
    for (std::size_t at = 0; at <= path.size();) {
      const std::size_t end = std::min(path.find('.', at), path.size());
      const std::string segment = path.substr(at, end - at);
      if (!segment.empty() && segment.size() < 10 &&
          segment.find_first_not_of("0123456789") == std::string::npos)
        p.layer = std::stol(segment), from = end + 1;
      at = end + 1;
    }
    p.stream = from < path.size() ? path.substr(from) : "";
    p.stats = RoutingStats(value.shape.rank == 2 ? value.shape[1] : 0, options_.classes);
    places_.push_back(std::move(p));
    return places_.back();
  }
  RoutingCollectorOptions options_;
  Tensor<std::int64_t> labels_;
  std::vector<RoutingPlace> places_;
};

}  // namespace moraine::inspect
