#pragma once
// Multi-scale deformable attention (X. Zhu et al., Deformable DETR, ICLR 2021), the heart of
// Mask2Former's pixel decoder: every query reads a few places of every level of a pyramid.
//
//   y(b,q,h) = sum_{l,p} A(b,q,h,l,p) V_l(b,h)[x W_l - 1/2, y H_l - 1/2],  (x,y) = loc(b,q,h,l,p)
//
// V_l[u,v] is bilinear between the four pixels around it, zero beside the plane (grid_sample with
// align_corners=False and zero padding). With the corners' weights c and g_c = dy . V(c):
//   dV(c) += A c dy,   dA = sum_c c g_c
//   dx = A W_l ((1-fv) (g_01 - g_00) + fv (g_11 - g_10)),   dy likewise with H_l and rows
// A place that is not finite gives NaN, as in PyTorch; one far away gives nothing.
#include <moraine/core/device.hpp>
#include <moraine/ops/window.hpp>
#ifdef MORAINE_HOST
#include <moraine/autograd/record.hpp>
#include <moraine/core/parallel.hpp>
#include <moraine/cpu/gather_rows.hpp>
#include <moraine/ops/binary.hpp>
#endif

#include <cmath>
#include <string>
#include <vector>

MORAINE_OPTIMISED_BEGIN
namespace moraine MORAINE_API {

/// Sizes: value (batch,tokens,heads,size), locations (batch,queries,heads,levels,points,2).
struct DeformShape {
  Index batch, tokens, queries, heads, size, levels, points;
};

// ---- kernels: what every backend must compute
template <class T>
struct DeformAttention {
  static constexpr const char* name = "deform_attention";
  DeformShape s;
  const Size2* grids;  // (levels), on the host
  const T *value, *locations, *weights;
  T* y;
  static void cpu(const DeformAttention& k);
};
/// Any of the gradients may be null.
template <class T>
struct DeformAttentionGrad {
  static constexpr const char* name = "deform_attention";
  DeformShape s;
  const Size2* grids;
  const T *value, *locations, *weights, *dy;
  T *dvalue, *dlocations, *dweights;
  static void cpu(const DeformAttentionGrad& k);
};

#ifdef MORAINE_HOST  // ---- the op: shape rule, forward, gradient

/// value (B,S,H,D), the levels one after the other, S = sum of grid.h * grid.w; locations
/// (B,Q,H,L,P,2) as (x,y) in [0,1] of the level's plane; weights (B,Q,H,L,P) -> (B,Q,H*D).
///
///   y = deform_attention(v, {{16, 16}, {8, 8}}, locations, softmax over L*P of the scores);
template <class T>
Tensor<T> deform_attention(const Tensor<T>& value, const std::vector<Size2>& grids,
                           const Tensor<T>& locations, const Tensor<T>& weights) {
  const Shape &v = value.shape(), &l = locations.shape(), &w = weights.shape();
  const Index levels = static_cast<Index>(grids.size());
  if (v.rank != 4 || l.rank != 6 || w.rank != 5 || l[5] != 2 || l[3] != levels || l[0] != v[0] ||
      l[2] != v[2] || w != Shape{l[0], l[1], l[2], l[3], l[4]})
    fail(ErrorKind::shape,
         "deform_attention: needs value (B,S,H,D), locations (B,Q,H,L,P,2), weights (B,Q,H,L,P) "
         "and L grids; value " +
             str(v) + ", locations " + str(l) + ", weights " + str(w) + ", grids " +
             std::to_string(levels));
  Index tokens = 0;
  for (const Size2& g : grids) {
    if (g.h < 1 || g.w < 1 || g.h > (1 << 24) || g.w > (1 << 24))
      fail(ErrorKind::shape,
           "deform_attention: a grid needs 1 to 2^24 rows and columns; " + str(g));
    tokens += g.h * g.w;
  }
  if (tokens != v[1])
    fail(ErrorKind::shape,
         "deform_attention: the grids have " + std::to_string(tokens) + " pixels; value " + str(v));
  check_device("deform_attention", value.device(), locations.device());
  check_device("deform_attention", value.device(), weights.device());
  const DeformShape s{v[0], v[1], l[1], v[2], v[3], levels, l[4]};
  const Tensor<T> cv = value.contiguous().detach(), cl = locations.contiguous().detach(),
                  cw = weights.contiguous().detach();
  Tensor<T> y = Tensor<T>::empty({s.batch, s.queries, s.heads * s.size}, value.device());
  launch(y.device(),
         DeformAttention<T>{s, grids.data(), cv.data(), cl.data(), cw.data(), y.data()});
  const bool dv = wants(value), dl = wants(locations), dw = wants(weights);
  return record(
      "deform_attention", y, {&value, &locations, &weights},
      [s, grids, dv, dl, dw, cl, cw, cv = dl || dw ? cv : Tensor<T>()](const Tensor<T>& dy) {
        const Tensor<T> g = dy.contiguous();
        Grads<T> d(3);
        if (dv) d[0] = Tensor<T>::empty({s.batch, s.tokens, s.heads, s.size}, g.device());
        if (dl) d[1] = Tensor<T>::empty(cl.shape(), g.device());
        if (dw) d[2] = Tensor<T>::empty(cw.shape(), g.device());
        launch(g.device(), DeformAttentionGrad<T>{s, grids.data(), cv.data(), cl.data(), cw.data(),
                                                  g.data(), d[0].data(), d[1].data(), d[2].data()});
        return d;
      });
}

// ---- CPU
namespace detail {

/// The corners of one place in a plane: those inside it, and which of the four each is.
template <class T>
struct Corners {
  int n = 0;
  int which[4];  ///< 2 * (lower) + (right)
  Index at[4];   ///< pixels from the plane's first
  T weight[4];
  T fx = 0, fy = 0;
  bool finite = true;

  Corners(T x, T y, Size2 grid) {
    const T u = x * static_cast<T>(grid.w) - T(0.5), v = y * static_cast<T>(grid.h) - T(0.5);
    // One comparison each finds what is inside; it is false for a NaN.
    if (!(u > T(-1) && v > T(-1) && u < static_cast<T>(grid.w) && v < static_cast<T>(grid.h))) {
      finite = u - u == T(0) && v - v == T(0);
      return;
    }
    const Index i = static_cast<Index>(u + T(1)) - 1, j = static_cast<Index>(v + T(1)) - 1;
    fx = u - static_cast<T>(i);
    fy = v - static_cast<T>(j);
    const Index at_ = j * grid.w + i;
    const bool left = i >= 0, right = i + 1 < grid.w, up = j >= 0, down = j + 1 < grid.h;
    if (up && left) add(0, at_, (1 - fy) * (1 - fx));
    if (up && right) add(1, at_ + 1, (1 - fy) * fx);
    if (down && left) add(2, at_ + grid.w, fy * (1 - fx));
    if (down && right) add(3, at_ + grid.w + 1, fy * fx);
  }

 private:
  void add(int corner, Index place, T w) {
    which[n] = corner;
    at[n] = place;
    weight[n++] = w;
  }
};

/// (batch,tokens,heads,size) as (batch,heads,tokens,size): the rows of one head lie together, as
/// many as fit a cache. `back`: the other way.
template <class T>
void by_heads(const DeformShape& s, const T* x, T* y, bool back) {
  parallel_for(s.batch * s.tokens, 1 + 16384 / (s.heads * s.size + 1), [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t)
      for (Index h = 0; h < s.heads; ++h) {
        const Index rows = (t * s.heads + h) * s.size,
                    heads = ((t / s.tokens * s.heads + h) * s.tokens + t % s.tokens) * s.size;
        const T* from = x + (back ? heads : rows);
        T* to = y + (back ? rows : heads);
        for (Index d = 0; d < s.size; ++d) to[d] = from[d];
      }
  });
}

/// The corners of all places of one query: rows of a head's values.
template <class T>
struct Places {
  std::vector<Corners<T>> corners;
  std::vector<Index> at;
  std::vector<T> weight, dots;
  Index n = 0;
  bool finite = true;

  explicit Places(Index samples) {
    corners.reserve(static_cast<std::size_t>(samples));
    at.resize(static_cast<std::size_t>(4 * samples));
    weight.resize(at.size());
    dots.resize(at.size());
  }
  /// Those of query `r` (of all batches, queries and heads); keep: also `corners`, for gradients.
  void find(const DeformShape& s, const Size2* grids, const T* place, const T* a, Index r,
            bool keep) {
    // A head's next queries lie far on, where no processor looks for them by itself.
    const Index samples = s.levels * s.points, next = r + 4 * s.heads;
    for (Index i = 0; i < 2 * samples; i += 64 / static_cast<Index>(sizeof(T)))
      __builtin_prefetch(place + next * 2 * samples + i);
    __builtin_prefetch(a + next * samples);
    place += r * 2 * samples;
    a += r * samples;
    n = 0;
    finite = true;
    corners.clear();
    Index base = 0;
    Index* to = at.data();
    T* w = weight.data();
    for (Index l = 0; l < s.levels; ++l) {
      const Size2 grid = grids[l];
      const T gw = static_cast<T>(grid.w), gh = static_cast<T>(grid.h);
      for (Index p = 0; p < s.points; ++p, place += 2, ++a) {
        const T u = place[0] * gw - T(0.5), v = place[1] * gh - T(0.5);
        if (!keep && u >= T(0) && v >= T(0) && u < gw - 1 && v < gh - 1) {  // nearly all
          const int i = static_cast<int>(u), j = static_cast<int>(v);
          const T fx = u - static_cast<T>(i), fy = v - static_cast<T>(j);
          const T low = *a * fy, high = *a - low;
          const Index first = (base + j * grid.w + i) * s.size;
          to[0] = first;
          to[1] = first + s.size;
          to[2] = first + grid.w * s.size;
          to[3] = to[2] + s.size;
          w[1] = high * fx;
          w[0] = high - w[1];
          w[3] = low * fx;
          w[2] = low - w[3];
          to += 4;
          w += 4;
          continue;
        }
        const Corners<T> c(place[0], place[1], grid);
        finite = finite && c.finite;
        for (int i = 0; i < c.n; ++i) {
          *to++ = (base + c.at[i]) * s.size;
          *w++ = *a * c.weight[i];
        }
        if (keep) corners.push_back(c);
      }
      base += grid.h * grid.w;
    }
    n = to - at.data();
  }
};

}  // namespace detail

template <class T>
void DeformAttention<T>::cpu(const DeformAttention& k) {
  const DeformShape& s = k.s;
  const Index samples = s.levels * s.points;
  const Tensor<T> heads = Tensor<T>::empty({s.batch, s.heads, s.tokens, s.size});
  detail::by_heads(s, k.value, heads.data(), false);
  const Index grain = 1 + 65536 / (samples * 4 * (s.size + 8) + s.size + 1);
  parallel_for(s.batch * s.heads * s.queries, grain, [&](Index begin, Index end) {
    detail::Places<T> places(samples);
    for (Index t = begin; t < end; ++t) {  // head by head
      const Index q = t % s.queries, h = t / s.queries % s.heads, b = t / s.queries / s.heads;
      const Index r = (b * s.queries + q) * s.heads + h;
      places.find(s, k.grids, k.locations, k.weights, r, false);
      T* const y = k.y + r * s.size;
      cpu::gather_rows(heads.data() + (b * s.heads + h) * s.tokens * s.size, places.at.data(),
                       places.weight.data(), places.n, s.size, y);
      for (Index d = 0; d < s.size && !places.finite; ++d) y[d] = static_cast<T>(NAN);
    }
  });
}

/// One head of one image is one thread's, its queries come in order: every pixel has one owner.
template <class T>
void DeformAttentionGrad<T>::cpu(const DeformAttentionGrad& k) {
  const DeformShape& s = k.s;
  const Index samples = s.levels * s.points;
  Tensor<T> heads, dheads;
  const bool scores = k.dlocations || k.dweights;
  if (scores) {
    heads = Tensor<T>::empty({s.batch, s.heads, s.tokens, s.size});
    detail::by_heads(s, k.value, heads.data(), false);
  }
  if (k.dvalue) dheads = Tensor<T>::zeros({s.batch, s.heads, s.tokens, s.size});
  parallel_for(s.batch * s.heads, 1, [&](Index begin, Index end) {
    detail::Places<T> places(samples);
    for (Index x = begin; x < end; ++x)
      for (Index q = 0; q < s.queries; ++q) {
        const Index r = (x / s.heads * s.queries + q) * s.heads + x % s.heads;
        const T* const g = k.dy + r * s.size;
        places.find(s, k.grids, k.locations, k.weights, r, scores);
        if (k.dvalue)
          cpu::scatter_rows(dheads.data() + x * s.tokens * s.size, places.at.data(),
                            places.weight.data(), places.n, s.size, g);
        if (!scores) continue;
        cpu::dot_rows(heads.data() + x * s.tokens * s.size, places.at.data(), places.n, s.size, g,
                      places.dots.data());
        const T* dots = places.dots.data();
        for (Index t = 0; t < samples; ++t) {
          const detail::Corners<T>& c = places.corners[static_cast<std::size_t>(t)];
          T d[4] = {}, da = c.finite ? T(0) : static_cast<T>(NAN);
          const T lost = da, a = k.weights[r * samples + t];
          for (int i = 0; i < c.n; ++i) d[c.which[i]] = dots[i], da += c.weight[i] * dots[i];
          dots += c.n;
          if (k.dweights) k.dweights[r * samples + t] = da;
          if (!k.dlocations) continue;
          const Size2 grid = k.grids[t / s.points];
          T* const dl = k.dlocations + 2 * (r * samples + t);
          dl[0] = a * static_cast<T>(grid.w) * ((1 - c.fy) * (d[1] - d[0]) + c.fy * (d[3] - d[2])) +
                  lost;
          dl[1] = a * static_cast<T>(grid.h) * ((1 - c.fx) * (d[2] - d[0]) + c.fx * (d[3] - d[1])) +
                  lost;
        }
      }
  });
  if (k.dvalue) detail::by_heads(s, dheads.data(), k.dvalue, true);
}
MORAINE_INSTANTIATE(DeformAttention)
MORAINE_INSTANTIATE(DeformAttentionGrad)
#endif

}  // namespace moraine
MORAINE_OPTIMISED_END
