#pragma once
// Shapes and strides: at most eight sizes, held in place.
#include <moraine/core/config.hpp>
#include <moraine/core/error.hpp>

#include <cstdint>
#include <initializer_list>
#include <string>

namespace moraine MORAINE_API {

using Index = std::int64_t;

[[noreturn, gnu::cold, gnu::noinline]] inline void fail_axis(int axis, int rank) {
  fail(ErrorKind::shape,
       "axis " + std::to_string(axis) + " of a tensor with " + std::to_string(rank) + " axes");
}

/// A list of at most eight sizes. `shape[-1]` is the last one. Strides have the same type, counted
/// in elements.
struct Shape {
  static constexpr int max_rank = 8;
  int rank = 0;
  Index dim[max_rank] = {};

  Shape() = default;
  Shape(std::initializer_list<Index> sizes) {
    for (Index s : sizes) push(s);
  }
  /// Size of axis i; negative i counts from the end.
  Index operator[](int i) const { return dim[axis(i)]; }
  Index& operator[](int i) { return dim[axis(i)]; }
  Index back() const { return (*this)[-1]; }
  const Index* begin() const { return dim; }
  const Index* end() const { return dim + rank; }

  /// Number of elements; 1 for a scalar.
  Index numel() const {
    Index n = 1;
    for (int i = 0; i < rank; ++i) n *= dim[i];
    return n;
  }
  void push(Index s) {
    if (rank == max_rank) fail(ErrorKind::shape, "shape: more than 8 axes");
    dim[rank++] = s;
  }
  void insert(int at, Index s) {
    push(0);
    for (int i = rank - 1; i > at; --i) dim[i] = dim[i - 1];
    dim[at] = s;
  }
  void erase(int at) {
    for (int i = at; i + 1 < rank; ++i) dim[i] = dim[i + 1];
    --rank;
  }
  /// Normalises a possibly negative axis; throws when it is out of range.
  int axis(int i) const {
    const int a = i < 0 ? i + rank : i;
    if (a < 0 || a >= rank) fail_axis(i, rank);
    return a;
  }
  bool operator==(const Shape& o) const {
    if (rank != o.rank) return false;
    for (int i = 0; i < rank; ++i)
      if (dim[i] != o.dim[i]) return false;
    return true;
  }
  bool operator!=(const Shape& o) const { return !(*this == o); }
};

/// "(2,3)"; "()" for a scalar.
inline std::string str(const Shape& s) {
  std::string out = "(";
  for (int i = 0; i < s.rank; ++i) {
    if (i) out += ',';
    out += std::to_string(s.dim[i]);
  }
  return out + ')';
}

/// Row-major strides of a contiguous tensor, in elements.
inline Shape row_major(const Shape& s) {
  Shape t = s;
  Index step = 1;
  for (int i = s.rank; i-- > 0;) {
    t.dim[i] = step;
    step *= s.dim[i];
  }
  return t;
}

}  // namespace moraine
