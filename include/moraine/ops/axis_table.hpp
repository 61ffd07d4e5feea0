#pragma once
// A sparse matrix along one axis, whose rows are runs of neighbouring inputs:
//
//   y_o = sum_t weight(o,t) x_{first(o)+t}
//   dx = the same with the transposed matrix, whose rows are runs again
//
// Resizing and average pooling are this, one axis after the other.
#include <moraine/core/device.hpp>
#ifdef MORAINE_HOST
#include <moraine/autograd/record.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/cpu/axpy.hpp>
#include <moraine/cpu/resample.hpp>
#endif

#include <type_traits>
#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

// ---- kernels: what every backend must compute
/// y(a,o,i) = sum over t of weight[begin[o]+t] x(a, first[o]+t, i), t < begin[o+1]-begin[o].
template <class T>
struct ApplyTable {
  static constexpr const char* name = "resize";
  Index outer, in, out, inner;
  const Index *first, *begin;
  const T* weight;
  const T* x;
  T* y;
  static void cpu(const ApplyTable& k);
};

/// Two of them, down the rows and along the columns of each plane.
template <class T>
struct ApplyTables {
  static constexpr const char* name = "resize";
  Index planes, in_h, out_h, in_w, out_w;
  const Index *first_h, *begin_h, *first_w, *begin_w;
  const T *weight_h, *weight_w;
  const T* x;
  T* y;
  static void cpu(const ApplyTables& k);
};

#ifdef MORAINE_HOST
/// The matrix, (out, in). First and last input of a row never decrease from row to row.
struct AxisTable {
  Index in = 0, out = 0;
  std::vector<Index> first;  ///< (out)
  std::vector<Index> begin;  ///< (out+1), into weight
  std::vector<double> weight;

  AxisTable(Index in_, Index out_) : in(in_), out(out_) {
    first.reserve(static_cast<std::size_t>(out));
    begin.reserve(static_cast<std::size_t>(out) + 1);
    begin.push_back(0);
  }
  /// Adds a row: weights of the inputs from `at` on.
  void push(Index at, const std::vector<double>& w) {
    first.push_back(at);
    weight.insert(weight.end(), w.begin(), w.end());
    begin.push_back(static_cast<Index>(weight.size()));
  }
};

inline AxisTable transposed(const AxisTable& t) {
  AxisTable r(t.out, t.in);
  std::vector<double> w;
  std::size_t low = 0;
  for (Index i = 0; i < t.in; ++i) {
    const auto last = [&](std::size_t o) { return t.first[o] + t.begin[o + 1] - t.begin[o]; };
    while (low < t.first.size() && last(low) <= i) ++low;
    w.clear();
    for (std::size_t o = low; o < t.first.size() && t.first[o] <= i; ++o)
      w.push_back(last(o) > i ? t.weight[static_cast<std::size_t>(t.begin[o] + i - t.first[o])]
                              : 0.0);
    r.push(static_cast<Index>(low), w);
  }
  return r;
}

/// The table along axis `axis` of x, without the tape.
template <class T>
Tensor<T> apply_table(const Tensor<T>& x, int axis, const AxisTable& t) {
  const Tensor<T> c = x.contiguous();
  const int a = x.shape().axis(axis);
  ApplyTable<T> k{1, t.in, t.out, 1, t.first.data(), t.begin.data(), nullptr, c.data(), nullptr};
  for (int i = 0; i < a; ++i) k.outer *= x.size(i);
  for (int i = a + 1; i < x.rank(); ++i) k.inner *= x.size(i);
  const std::vector<T> weight(t.weight.begin(), t.weight.end());
  k.weight = weight.data();
  Shape s = x.shape();
  s.dim[a] = t.out;
  Tensor<T> y = Tensor<T>::empty(s, x.device());
  k.y = y.data();
  launch(x.device(), k);
  return y;
}

/// Two tables, along the last two axes of x.
template <class T>
Tensor<T> apply_tables(const Tensor<T>& x, const AxisTable& rows, const AxisTable& columns) {
  const Tensor<T> c = x.contiguous();
  const std::vector<T> h(rows.weight.begin(), rows.weight.end()),
      w(columns.weight.begin(), columns.weight.end());
  Shape s = x.shape();
  s.dim[s.rank - 2] = rows.out;
  s.dim[s.rank - 1] = columns.out;
  Tensor<T> y = Tensor<T>::empty(s, x.device());
  Index planes = 1;
  for (int i = 0; i < s.rank - 2; ++i) planes *= s.dim[i];
  launch(x.device(), ApplyTables<T>{planes, rows.in, rows.out, columns.in, columns.out,
                                    rows.first.data(), rows.begin.data(), columns.first.data(),
                                    columns.begin.data(), h.data(), w.data(), c.data(), y.data()});
  return y;
}

/// apply_tables with its gradient.
template <class T>
Tensor<T> map_axes(const char* op, const Tensor<T>& x, AxisTable rows, AxisTable columns) {
  Tensor<T> y = apply_tables(x.detach(), rows, columns);
  if (!wants(x)) {
    hear(op, y);
    return y;
  }
  return record(op, y, {&x},
                [rows = std::move(rows), columns = std::move(columns)](const Tensor<T>& dy) {
                  return Grads<T>{apply_tables(dy, transposed(rows), transposed(columns))};
                });
}

// ---- CPU
template <class T>
void ApplyTable<T>::cpu(const ApplyTable& k) {
  if constexpr (std::is_same_v<T, float>) {
    const cpu::Table<float> t{k.in, k.out, k.first, k.begin, k.weight};
    if (k.inner == 1)
      parallel_for(k.outer, 4 + 16384 / (k.in + k.out) / 4 * 4, [&](Index b, Index e) {
        cpu::along_rows(t, k.x + b * k.in, k.in, e - b, k.y + b * k.out, k.out);
      });
    else
      parallel_for(k.outer * k.out, 1 + 16384 / (k.inner + 1), [&](Index b, Index e) {
        for (Index r = b; r < e; ++r) {
          const Index o = r % k.out;
          cpu::weighted_rows(k.x + (r / k.out * k.in + k.first[o]) * k.inner, k.inner,
                             k.weight + k.begin[o], k.begin[o + 1] - k.begin[o], k.inner,
                             k.y + r * k.inner);
        }
      });
    return;
  }
  if (k.inner == 1) {
    parallel_for(k.outer, 1 + 16384 / (k.out + 1), [&](Index b, Index e) {
      for (Index a = b; a < e; ++a) {
        const T* x = k.x + a * k.in;
        T* y = k.y + a * k.out;
        for (Index o = 0; o < k.out; ++o) {
          const T* from = x + k.first[o];
          const T* w = k.weight + k.begin[o];
          const Index n = k.begin[o + 1] - k.begin[o];
          T s = 0;
          for (Index t = 0; t < n; ++t) s += w[t] * from[t];
          y[o] = s;
        }
      }
    });
    return;
  }
  parallel_for(k.outer * k.out, 1 + 16384 / (k.inner + 1), [&](Index b, Index e) {
    for (Index r = b; r < e; ++r) {
      const Index o = r % k.out, n = k.begin[o + 1] - k.begin[o];
      const T* x = k.x + (r / k.out * k.in + k.first[o]) * k.inner;
      const T* w = k.weight + k.begin[o];
      T* y = k.y + r * k.inner;
      if (n == 0)
        for (Index i = 0; i < k.inner; ++i) y[i] = T(0);
      else
        for (Index i = 0; i < k.inner; ++i) y[i] = w[0] * x[i];
      for (Index t = 1; t < n; ++t) cpu::axpy(k.inner, w[t], x + t * k.inner, y);
    }
  });
}
/// First the axis that leaves less work; in double one after the other.
template <class T>
void ApplyTables<T>::cpu(const ApplyTables& k) {
  if constexpr (std::is_same_v<T, float>) {
    cpu::resample({k.in_h, k.out_h, k.first_h, k.begin_h, k.weight_h},
                  {k.in_w, k.out_w, k.first_w, k.begin_w, k.weight_w}, k.planes, k.x, k.y);
  } else {
    std::vector<T> between(static_cast<std::size_t>(k.planes * k.in_h * k.out_w));
    ApplyTable<T>::cpu({k.planes * k.in_h, k.in_w, k.out_w, 1, k.first_w, k.begin_w, k.weight_w,
                        k.x, between.data()});
    ApplyTable<T>::cpu({k.planes, k.in_h, k.out_h, k.out_w, k.first_h, k.begin_h, k.weight_h,
                        between.data(), k.y});
  }
}
MORAINE_INSTANTIATE(ApplyTable)
MORAINE_INSTANTIATE(ApplyTables)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
