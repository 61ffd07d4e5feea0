// The checks that follow from a row; see op_case.hpp.
#include "op_case.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <moraine/autograd/backward.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/core/random.hpp>

namespace moraine::op_test {

std::vector<Row (*)()>& all_rows() {
  static std::vector<Row (*)()> rows;
  return rows;
}

Tensor<std::int64_t> integers(const Shape& shape, Index high, unsigned seed) {
  const Random r(seed, "integers", 0);
  auto t = Tensor<std::int64_t>::empty(shape);
  for (Index i = 0; i < t.numel(); ++i)
    t.data()[i] = r.below(static_cast<std::uint64_t>(i), static_cast<std::uint32_t>(high));
  return t;
}

template <class T>
Tensor<T> uniforms(const Shape& shape, double low, double high, unsigned seed) {
  const Random r(seed, "uniforms", 0);
  Tensor<T> t = Tensor<T>::empty(shape);
  for (Index i = 0; i < t.numel(); ++i)
    t.data()[i] = static_cast<T>(low + (high - low) * r.uniform(static_cast<std::uint64_t>(i)));
  return t;
}
template Tensor<float> uniforms(const Shape&, double, double, unsigned);
template Tensor<double> uniforms(const Shape&, double, double, unsigned);

template <class T>
Inputs<T> make_inputs(const Row& row, const std::vector<Shape>& shapes) {
  const RowOptions& o = row.options;
  Inputs<T> out;
  for (std::size_t k = 0; k < shapes.size(); ++k) {
    const double low = k < o.ranges.size() ? o.ranges[k].first : o.low;
    const double high = k < o.ranges.size() ? o.ranges[k].second : o.high;
    const Random r(7, "op row", k);
    Tensor<T> x = Tensor<T>::empty(shapes[k]);
    const Index n = x.numel();
    std::vector<float> v(static_cast<std::size_t>(n));
    if (o.apart) {
      // A shuffled grid, each point moved by at most a quarter of the spacing.
      std::vector<Index> order(v.size());
      for (Index i = 0; i < n; ++i) order[static_cast<std::size_t>(i)] = i;
      for (Index i = n - 1; i > 0; --i)
        std::swap(order[static_cast<std::size_t>(i)],
                  order[r.below(static_cast<std::uint64_t>(i), static_cast<std::uint32_t>(i + 1))]);
      for (Index i = 0; i < n; ++i) {
        const double jitter = r.uniform(static_cast<std::uint64_t>(n + i), -0.25f, 0.25f);
        v[static_cast<std::size_t>(i)] = static_cast<float>(
            low +
            (high - low) * (double(order[static_cast<std::size_t>(i)]) + 0.5 + jitter) / double(n));
      }
    } else {
      std::uint64_t at = 0;
      for (float& f : v) {
        bool near = true;
        while (near) {
          f = static_cast<float>(low + (high - low) * r.uniform(at++));
          near = false;
          for (double kink : o.kinks) near |= std::abs(double(f) - kink) < 0.05;
        }
      }
    }
    // Representable in float, so that both types see the same numbers.
    for (Index i = 0; i < n; ++i) x.data()[i] = v[static_cast<std::size_t>(i)];
    out.push_back(x);
  }
  return out;
}
template Inputs<float> make_inputs(const Row&, const std::vector<Shape>&);
template Inputs<double> make_inputs(const Row&, const std::vector<Shape>&);

namespace {

template <class T>
constexpr bool is_single = std::is_same_v<T, float>;

template <class T>
const Op<T>& op_of(const Row& r) {
  if constexpr (is_single<T>)
    return r.f32;
  else
    return r.f64;
}
template <class T>
const Op<T>& reference_of(const Row& r) {
  if constexpr (is_single<T>)
    return r.reference32;
  else
    return r.reference64;
}

std::string num(double v) {
  char text[40];
  std::snprintf(text, sizeof text, "%.3g", v);
  return text;
}
std::string at_sizes(const std::vector<Shape>& shapes) {
  std::string s = " at";
  for (const Shape& x : shapes) s += " " + str(x);
  return s;
}

template <class T>
using Values = std::vector<T>;

/// A value and its gradients as plain numbers.
template <class T>
struct Result {
  Shape shape;
  Values<T> y;
  std::vector<Values<T>> grad;  // empty where no gradient arrived
  bool tracked = false;
};

template <class T>
bool same_bits(const Values<T>& a, const Values<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}
template <class T>
bool same_bits(const Result<T>& a, const Result<T>& b) {
  bool same = a.shape == b.shape && same_bits(a.y, b.y) && a.grad.size() == b.grad.size();
  for (std::size_t i = 0; same && i < a.grad.size(); ++i) same = same_bits(a.grad[i], b.grad[i]);
  return same;
}

/// Largest difference, as a part of the largest size of either; NaN against a number is infinite.
template <class A, class B>
double apart(const Values<A>& a, const Values<B>& b) {
  if (a.empty() || b.empty()) {  // no gradient arrived: zeros
    double most = 0;
    for (A v : a) most = std::max(most, std::abs(double(v)));
    for (B v : b) most = std::max(most, std::abs(double(v)));
    return most == 0 ? 0 : 1;
  }
  if (a.size() != b.size()) return INFINITY;
  double most = 0, diff = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double u = double(a[i]), v = double(b[i]);
    if (u == v || (std::isnan(u) && std::isnan(v))) {
      if (std::isfinite(u)) most = std::max(most, std::abs(u));
      continue;
    }
    if (!std::isfinite(u) || !std::isfinite(v)) return INFINITY;
    most = std::max({most, std::abs(u), std::abs(v)});
    diff = std::max(diff, std::abs(u - v));
  }
  return diff == 0 ? 0 : diff / most;
}

/// A cotangent for an output: random, none near zero.
template <class T>
Tensor<T> cotangent(const Shape& shape) {
  const Random r(11, "cotangent", 0);
  Tensor<T> c = Tensor<T>::empty(shape);
  for (Index i = 0; i < c.numel(); ++i) {
    const float u = r.uniform(static_cast<std::uint64_t>(i), -1.f, 1.f);
    c.data()[i] = static_cast<T>(u + (u < 0 ? -0.25f : 0.25f));
  }
  return c;
}

/// Runs op on x; `tracked` says which inputs want a gradient (bit i for input i).
template <class T>
Result<T> run(const Op<T>& op, const Inputs<T>& x, unsigned tracked, Tensor<T> dy = {}) {
  Inputs<T> leaves = x;
  for (std::size_t i = 0; i < leaves.size(); ++i)
    if (tracked >> i & 1) leaves[i].requires_grad();
  const Tensor<T> y = op(leaves);
  Result<T> r;
  r.shape = y.shape();
  r.y = y.values();
  r.tracked = y.tracked();
  r.grad.resize(x.size());
  if (!y.tracked()) return r;
  if (!dy.defined()) dy = cotangent<T>(y.shape()).to(y.device());
  backward(y, dy);
  for (std::size_t i = 0; i < leaves.size(); ++i)
    if (tracked >> i & 1) {
      const Tensor<T> g = leaves[i].grad();
      if (!g.defined()) continue;
      if (g.shape() != x[i].shape())
        fail(ErrorKind::shape, "gradient of input " + std::to_string(i) + " has shape " +
                                   str(g.shape()) + " instead of " + str(x[i].shape()));
      r.grad[i] = g.values();
    }
  return r;
}
template <class T>
Result<T> run(const Row& row, const Inputs<T>& x) {
  return run(op_of<T>(row), x, row.options.gradient ? ~0u : 0u);
}

class Checker {
 public:
  explicit Checker(const Row& row) : row_(row), o_(row.options) {}

  std::vector<std::string> all() {
    const int threads_before = threads();
    each("row", [&] { base(); });
    each("gradient", [&] { gradients(); });
    each("float", [&] { singles(row_.shapes); });
    each("bits", [&] { bits<float>(), bits<double>(); });
    each("strided", [&] { strided<float>(), strided<double>(); });
    each("reference", [&] { references(row_.shapes); });
    ragged();
    empty();
    each("nan", [&] { nans(); });
    each("threads", [&] { thread_counts(); });
    set_threads(threads_before);
    if (cuda_available()) each("cuda", [&] { cuda(); });
    return std::move(found_);
  }

 private:
  void report(const std::string& check, const std::string& what) {
    found_.push_back(check + ": " + what);
  }
  template <class F>
  void each(const std::string& check, F&& f) {
    try {
      f();
    } catch (const Error& e) {
      report(check, std::string("threw Error: ") + e.what());
    } catch (const std::exception& e) {
      report(check, std::string("threw something that is no Error: ") + e.what());
    } catch (...) {
      report(check, "threw something that is no exception");
    }
  }
  bool is_flat(std::size_t i) const {
    return std::find(o_.flat.begin(), o_.flat.end(), static_cast<int>(i)) != o_.flat.end();
  }

  /// The row says something: a finite value, on the tape when it should be.
  void base() {
    const Result<double> r = run(row_, make_inputs<double>(row_, row_.shapes));
    if (r.y.empty()) report("row", "the value is empty: nothing is checked");
    for (double v : r.y)
      if (!std::isfinite(v)) return report("row", "the value is not finite");
    if (r.tracked != o_.gradient)
      report("row", o_.gradient ? "the value is not on the tape" : "the value is on the tape");
  }

  // ---- gradients: differences in double
  /// sum of dy * (f(x + h v) - f(x - h v)) / 2h, with one step of Richardson: error O(h^4).
  double slope(const Inputs<double>& x, std::size_t i, const std::vector<double>& v, double h,
               const Tensor<double>& dy) const {
    const auto central = [&](double step) {
      Inputs<double> up = x, down = x;
      up[i] = x[i].clone(), down[i] = x[i].clone();
      double width = 0;
      for (Index j = 0; j < x[i].numel(); ++j) {
        up[i].data()[j] += step * v[static_cast<std::size_t>(j)];
        down[i].data()[j] -= step * v[static_cast<std::size_t>(j)];
      }
      width = 2 * step;
      const std::vector<double> a = row_.f64(up).values(), b = row_.f64(down).values();
      double s = 0;
      for (std::size_t j = 0; j < a.size(); ++j) s += dy.data()[j] * (a[j] - b[j]);
      return s / width;
    };
    return (4 * central(h / 2) - central(h)) / 3;
  }
  /// Steps that stay clear of kinks and ties.
  std::vector<double> steps(const Inputs<double>& x) const {
    double most = 2e-2;
    if (o_.apart)
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double low = i < o_.ranges.size() ? o_.ranges[i].first : o_.low;
        const double high = i < o_.ranges.size() ? o_.ranges[i].second : o_.high;
        most = std::min(most, (high - low) / double(x[i].numel() + 1) / 8);
      }
    return {most, most / 5, most / 25};
  }

  void gradients() {
    if (!o_.gradient) return;
    const Inputs<double> x = make_inputs<double>(row_, row_.shapes);
    const Result<double> r = run(row_, x);
    const Tensor<double> dy = cotangent<double>(r.shape);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::size_t n = static_cast<std::size_t>(x[i].numel());
      Values<double> g = r.grad[i];
      if (g.empty()) g.assign(n, 0);
      const std::vector<double> hs = steps(x);
      std::vector<Values<double>> fd(hs.size(), Values<double>(n));
      double largest = 0;
      for (std::size_t j = 0; j < n; ++j) {
        std::vector<double> v(n, 0);
        v[j] = 1;
        for (std::size_t s = 0; s < hs.size(); ++s) {
          fd[s][j] = slope(x, i, v, hs[s], dy);
          largest = std::max(largest, std::abs(fd[s][j]));
        }
        largest = std::max(largest, std::abs(g[j]));
      }
      if (largest < 1e-9 && !is_flat(i))
        report("gradient", "input " + std::to_string(i) + " has no influence: nothing is checked");
      if (largest == 0) continue;
      // Relative to the element itself; rounding of neighbours is excused up to a hundredth of the
      // largest. There is no absolute term: a gradient of zero for a slope is an error of 1.
      double worst = 0;
      std::size_t where = 0;
      for (std::size_t j = 0; j < n; ++j) {
        double best = INFINITY;
        for (std::size_t s = 0; s < hs.size(); ++s) {
          const double scale = std::max({std::abs(g[j]), std::abs(fd[s][j]), largest / 100});
          const double e = std::abs(fd[s][j] - g[j]) / scale;
          if (e < best) best = e;
        }
        if (!(best <= worst)) worst = best, where = j;
      }
      if (!(worst <= 1e-7) && !(is_flat(i) && largest < 1e-9))
        report("gradient", "input " + std::to_string(i) + " element " + std::to_string(where) +
                               ": relative error " + num(worst) + "; gradient " + num(g[where]) +
                               ", differences " + num(fd[1][where]));
    }
  }
  /// One random direction per input; for sizes at which every element would take too long.
  void directions(const std::vector<Shape>& shapes) {
    if (!o_.gradient) return;
    const Inputs<double> x = make_inputs<double>(row_, shapes);
    const Result<double> r = run(row_, x);
    if (r.y.empty()) return;
    const Tensor<double> dy = cotangent<double>(r.shape);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::size_t n = static_cast<std::size_t>(x[i].numel());
      const Random random(13, "direction", i);
      std::vector<double> v(n);
      double expect = 0, size = 0;
      for (std::size_t j = 0; j < n; ++j) {
        v[j] = random.bits(j) & 1 ? 1 : -1;
        const double g = r.grad[i].empty() ? 0 : r.grad[i][j];
        expect += g * v[j];
        size += g * g;
      }
      double best = INFINITY, got = 0;
      for (double h : steps(x)) {
        const double fd = slope(x, i, v, h, dy);
        const double scale = std::max({std::sqrt(size), std::abs(expect), std::abs(fd)});
        const double e = scale < 1e-9 ? 0 : std::abs(fd - expect) / scale;
        if (e < best) best = e, got = fd;
      }
      if (!(best <= 1e-7))
        report("gradient", "input " + std::to_string(i) + at_sizes(shapes) +
                               ": along a direction " + num(expect) + ", differences " + num(got) +
                               ", relative error " + num(best));
    }
  }

  // ---- float against double
  void singles(const std::vector<Shape>& shapes) {
    const Result<double> d = run(row_, make_inputs<double>(row_, shapes));
    const Result<float> f = run(row_, make_inputs<float>(row_, shapes));
    if (d.shape != f.shape) return report("float", "shapes differ" + at_sizes(shapes));
    compare("float", "value", d.y, f.y, o_.float_tolerance, shapes);
    for (std::size_t i = 0; i < d.grad.size(); ++i)
      compare("float", "gradient " + std::to_string(i), d.grad[i], f.grad[i], o_.float_tolerance,
              shapes);
  }
  template <class A, class B>
  void compare(const std::string& check, const std::string& what, const Values<A>& a,
               const Values<B>& b, double tolerance, const std::vector<Shape>& shapes) {
    const double e = apart(a, b);
    if (!(e <= tolerance))
      report(check, what + at_sizes(shapes) + " differs by " + num(e) + " of the largest");
  }

  // ---- bits
  /// Leaves freed blocks of every size in play full of a byte, so that reading memory that nobody
  /// wrote shows.
  template <class T>
  static void poison(const std::vector<Index>& sizes, unsigned char byte) {
    std::vector<Tensor<T>> blocks;
    for (Index n : sizes)
      for (int copy = 0; copy < 4; ++copy) {
        blocks.push_back(Tensor<T>::empty({n}));
        std::memset(static_cast<void*>(blocks.back().data()), byte,
                    static_cast<std::size_t>(n) * sizeof(T));
      }
  }
  template <class T>
  void bits() {
    const Inputs<T> x = make_inputs<T>(row_, row_.shapes);
    const Result<T> want = run(row_, x);
    const Inputs<T> again = make_inputs<T>(row_, row_.shapes);
    for (std::size_t i = 0; i < x.size(); ++i)
      if (!same_bits(x[i].values(), again[i].values()))
        report("bits", "input " + std::to_string(i) + " was written to");
    std::vector<Index> sizes{static_cast<Index>(want.y.size())};
    for (const Shape& s : row_.shapes) sizes.push_back(s.numel());
    for (unsigned char byte : {0x00, 0xff, 0x7f}) {
      poison<T>(sizes, byte);
      if (!same_bits(run(row_, x), want)) {
        report("bits", "the result depends on what freed memory held");
        break;
      }
    }
    if (!same_bits(run(op_of<T>(row_), x, 0).y, want.y))
      report("bits", "the value differs when nothing is tracked");
    if (o_.gradient)
      for (std::size_t i = 0; i < x.size(); ++i) {
        const Result<T> one = run(op_of<T>(row_), x, 1u << i);
        if (!same_bits(one.y, want.y) || !same_bits(one.grad[i], want.grad[i]))
          report("bits", "gradient " + std::to_string(i) + " differs when it is the only one");
      }
  }

  // ---- strided inputs
  /// The same values, stored with the axes in reverse order.
  template <class T>
  static Tensor<T> reversed(const Tensor<T>& x) {
    Shape turned, strides;
    for (int i = x.rank(); i-- > 0;) turned.push(x.size(i));
    const Shape s = row_major(turned);
    for (int i = x.rank(); i-- > 0;) strides.push(s.dim[i]);
    return filled(Tensor<T>::empty(turned).view(x.shape(), strides), x);
  }
  /// Every second element of a larger tensor of NaN, from the second one on.
  template <class T>
  static Tensor<T> spread(const Tensor<T>& x) {
    Shape wide, strides;
    Index first = 0;
    for (Index n : x.shape()) wide.push(2 * n + 1);
    const Shape s = row_major(wide);
    for (int i = 0; i < x.rank(); ++i) strides.push(2 * s.dim[i]), first += s.dim[i];
    return filled(
        Tensor<T>::full(wide, std::numeric_limits<T>::quiet_NaN()).view(x.shape(), strides, first),
        x);
  }
  /// Writes x into the view t, element by element.
  template <class T>
  static Tensor<T> filled(const Tensor<T>& t, const Tensor<T>& x) {
    const std::vector<T> v = x.values();
    for (Index i = 0; i < x.numel(); ++i) {
      Index rest = i, offset = 0;
      for (int a = x.rank(); a-- > 0;)
        offset += rest % x.size(a) * t.strides()[a], rest /= x.size(a);
      t.data()[offset] = v[static_cast<std::size_t>(i)];
    }
    return t;
  }
  template <class T>
  void strided() {
    const Inputs<T> x = make_inputs<T>(row_, row_.shapes);
    const Result<T> want = run(row_, x);
    const unsigned tracked = o_.gradient ? ~0u : 0u;
    for (std::size_t i = 0; i < x.size(); ++i)
      for (int form = 0; form < 2; ++form) {
        Inputs<T> views = x;
        views[i] = form ? spread(x[i]) : reversed(x[i]);
        views_agree((form ? "sliced input " : "transposed input ") + std::to_string(i),
                    run(op_of<T>(row_), views, tracked), want);
      }
    if (o_.gradient && want.tracked)
      for (int form = 0; form < 2; ++form) {
        const Tensor<T> dy = cotangent<T>(want.shape);
        views_agree(form ? "sliced dy" : "transposed dy",
                    run(op_of<T>(row_), x, tracked, form ? spread(dy) : reversed(dy)), want);
      }
    // A repeated row (stride 0) against its copy.
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (x[i].rank() == 0 || o_.apart) continue;
      Shape strides = x[i].strides();
      strides.dim[0] = 0;
      Inputs<T> views = x, copies = x;
      views[i] = x[i].view(x[i].shape(), strides);
      copies[i] = views[i].contiguous();
      views_agree("repeated input " + std::to_string(i), run(op_of<T>(row_), views, tracked),
                  run(op_of<T>(row_), copies, tracked));
    }
  }
  template <class T>
  void views_agree(const std::string& what, const Result<T>& got, const Result<T>& want) {
    if (same_bits(got, want)) return;
    const double tolerance = o_.exact_views ? 0 : is_single<T> ? 1e-5 : 1e-12;
    double e = got.shape == want.shape ? apart(got.y, want.y) : INFINITY;
    for (std::size_t i = 0; i < want.grad.size(); ++i)
      e = std::max(e, apart(got.grad[i], want.grad[i]));
    if (!(e <= tolerance))
      report("strided", what + (is_single<T> ? ", float" : ", double") + ": differs by " + num(e) +
                            " of the largest");
  }

  // ---- the composed definition
  void references(const std::vector<Shape>& shapes) {
    if (!row_.reference64) return;
    agree<double>(shapes, o_.reference_tolerance);
    agree<float>(shapes, o_.float_tolerance);
  }
  template <class T>
  void agree(const std::vector<Shape>& shapes, double tolerance) {
    const Inputs<T> x = make_inputs<T>(row_, shapes);
    const Result<T> a = run(row_, x), b = run(reference_of<T>(row_), x, o_.gradient ? ~0u : 0u);
    if (a.shape != b.shape)
      return report("reference", "shape " + str(a.shape) + " instead of " + str(b.shape));
    compare("reference", "value", a.y, b.y, tolerance, shapes);
    for (std::size_t i = 0; i < a.grad.size(); ++i)
      compare("reference", "gradient " + std::to_string(i), a.grad[i], b.grad[i], tolerance,
              shapes);
  }

  // ---- other sizes
  std::vector<Index> letters() const {
    std::vector<Index> out;
    for (const Shape& s : row_.shapes)
      for (Index n : s)
        if (n != 1 && std::find(out.begin(), out.end(), n) == out.end() &&
            std::find(o_.fixed.begin(), o_.fixed.end(), n) == o_.fixed.end())
          out.push_back(n);
    return out;
  }
  static std::vector<Shape> replaced(std::vector<Shape> shapes, Index from, Index to) {
    for (Shape& s : shapes)
      for (int i = 0; i < s.rank; ++i)
        if (s.dim[i] == from) s.dim[i] = to;
    return shapes;
  }
  void ragged() {
    for (Index letter : letters())
      for (Index n : {1, 17, 65})
        each("ragged", [&] {
          const std::vector<Shape> shapes = replaced(row_.shapes, letter, n);
          try {
            singles(shapes);
            references(shapes);
            directions(shapes);
          } catch (const Error& e) {
            report("ragged", "threw" + at_sizes(shapes) + ": " + e.what());
          }
        });
  }
  void empty() {
    for (Index letter : letters()) {
      const Index first =
          row_.shapes.empty() || row_.shapes[0].rank == 0 ? 0 : row_.shapes[0].dim[0];
      bool must = false;
      for (Index n : o_.empty) must |= n == letter || (n == -1 && first == letter);
      const std::vector<Shape> shapes = replaced(row_.shapes, letter, 0);
      each("empty", [&] {
        try {
          run(row_, make_inputs<float>(row_, shapes));
        } catch (const Error& e) {
          if (must) report("empty", "threw" + at_sizes(shapes) + ": " + e.what());
        }
      });
    }
  }
  void nans() {
    for (std::size_t i = 0; i < row_.shapes.size(); ++i)
      for (float bad :
           {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
            -std::numeric_limits<float>::infinity()}) {
        Inputs<float> x = make_inputs<float>(row_, row_.shapes);
        const Index n = x[i].numel();
        if (n == 0) continue;
        x[i].data()[n / 2] = bad;
        try {
          const Result<float> a = run(row_, x), b = run(row_, x);
          // The sign of a NaN that arithmetic makes is not specified: compare as numbers.
          double e = apart(a.y, b.y);
          for (std::size_t j = 0; j < a.grad.size(); ++j)
            e = std::max(e, apart(a.grad[j], b.grad[j]));
          if (e != 0)
            report("nan", "two runs differ with " + num(bad) + " in input " + std::to_string(i));
          const bool spread =
              std::any_of(a.y.begin(), a.y.end(), [](float v) { return std::isnan(v); });
          if (std::isnan(bad) && o_.nan_spreads && !spread)
            report("nan", "NaN in input " + std::to_string(i) + " does not reach the value");
        } catch (const Error&) {  // an honest refusal
          if (o_.nan_spreads && std::isnan(bad)) throw;
        }
      }
  }

  // ---- threads
  void thread_counts() {
    const std::vector<Shape> shapes = large_shapes(row_);
    const Inputs<float> x = make_inputs<float>(row_, shapes);
    set_threads(1);
    const Result<float> want = run(row_, x);
    for (int n : {2, 3}) {
      set_threads(n);
      if (!same_bits(run(row_, x), want))
        report("threads", "other bits with " + std::to_string(n) + " threads" + at_sizes(shapes));
    }
  }

  // ---- CUDA
  void cuda() {
    const Inputs<float> x = make_inputs<float>(row_, row_.shapes);
    const Result<float> want = run(row_, x);
    Inputs<float> there;
    for (const Tensor<float>& t : x) there.push_back(t.to(Device::cuda));
    try {
      const Result<float> got = run(row_, there);
      compare("cuda", "value", got.y, want.y, o_.float_tolerance, row_.shapes);
      for (std::size_t i = 0; i < want.grad.size(); ++i)
        compare("cuda", "gradient " + std::to_string(i), got.grad[i], want.grad[i],
                o_.float_tolerance, row_.shapes);
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::device) throw;  // no kernel yet, and it says so
    }
  }

  const Row& row_;
  const RowOptions& o_;
  std::vector<std::string> found_;
};

}  // namespace

std::vector<Shape> large_shapes(const Row& row) {
  if (!row.options.large.empty()) return row.options.large;
  std::vector<Shape> shapes = row.shapes;
  if (shapes.empty() || shapes[0].rank == 0) return shapes;
  const Index letter = shapes[0].dim[0];
  if (letter <= 1 || std::find(row.options.fixed.begin(), row.options.fixed.end(), letter) !=
                         row.options.fixed.end())
    return shapes;
  // Enough elements for several pieces of the largest grain.
  const Index n = (Index{1} << 17) / std::max<Index>(1, shapes[0].numel() / letter) + 1;
  for (Shape& s : shapes)
    for (int i = 0; i < s.rank; ++i)
      if (s.dim[i] == letter) s.dim[i] = n;
  Index most = 0;
  for (const Shape& s : shapes) most = std::max(most, s.numel());
  return most > (Index{1} << 22) ? row.shapes : shapes;
}

std::vector<std::string> failures(const Row& row) { return Checker(row).all(); }

void check_row(const Row& row) {
  for (const std::string& f : failures(row)) FAIL_CHECK(row.name << ": " << f);
  CHECK(true);  // a row that passes counts as an assertion
}

}  // namespace moraine::op_test
