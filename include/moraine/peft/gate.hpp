#pragma once
// The noisy top-k gate of SpectralMoE and its kin (Shazeer et al., 2017; SpectralMoE section 3):
//
//   clean logits  c_e = -|f - w_e|_1  (or l2, l2sq, or f . w_e)
//   sigma_e = softplus(f . wn_e) + floor,   h = c + sigma * noise        (training; else h = c)
//   g = softmax over the k largest h of a row, 0 elsewhere; ties go to the lower index
#include <cstdint>
#include <cstring>
#include <limits>
#include <moraine/core/random.hpp>
#include <moraine/nn/observe.hpp>
#include <moraine/ops/distance.hpp>
#include <moraine/ops/index.hpp>
#include <moraine/ops/softmax.hpp>
#include <moraine/ops/sort.hpp>
#include <moraine/ops/unary.hpp>

namespace moraine MORAINE_API {

enum class GateLogits : unsigned char { l1, l2, l2sq, dot };

struct GateOptions {
  GateLogits logits = GateLogits::l1;
  Index top_k = 1;
  double noise_floor = 0;  ///< least standard deviation of the noise
  /// A control, not of the paper: experts are chosen by a hash of the row's bits, every gate is 1/k
  /// and learns nothing (a random but consistent router, as in hash layers).
  bool random = false;
};

template <class T>
struct Gates {
  Tensor<T> logits;      ///< (n,E), h
  Tensor<T> gates;       ///< (n,E), g: rows sum to one, k entries are not zero
  Tensor<T> importance;  ///< (E), sum of g over the rows
  /// (E). With noise and k < E the smooth expected count (differentiable, thresholds too),
  /// otherwise the count of rows that use an expert.
  Tensor<T> load;
  Tensor<std::int64_t> chosen;  ///< (n,k), best first
};

/// c: -distance to, or product with, each of the E columns of w (D,E); f (n,D) -> (n,E).
template <class T>
Tensor<T> gate_logits(const Tensor<T>& f, const Tensor<T>& w, GateLogits kind) {
  if (kind == GateLogits::dot) return matmul(f, w);
  const Metric m = kind == GateLogits::l1   ? Metric::l1
                   : kind == GateLogits::l2 ? Metric::l2
                                            : Metric::l2sq;
  return scale(distance(f, transpose(w), m), T(-1));
}

/// Logits that know nothing: uniform numbers drawn from the bits of each row. f (n,D) -> (n,E).
template <class T>
Tensor<T> hashed_logits(const Tensor<T>& f, Index e) {
  const Tensor<T> rows = f.to(Device::cpu).contiguous();
  const Index n = f.size(0), d = f.size(1);
  Tensor<T> c = Tensor<T>::empty({n, e});
  for (Index i = 0; i < n; ++i) {
    std::uint64_t key = 1469598103934665603ull;  // FNV-1a over the values as floats
    for (Index j = 0; j < d; ++j) {
      const float v = static_cast<float>(rows.data()[i * d + j]);
      std::uint32_t bits;
      std::memcpy(&bits, &v, 4);
      key = (key ^ bits) * 1099511628211ull;
    }
    const Random r(key, "hashed router", 0);
    for (Index j = 0; j < e; ++j)
      c.data()[i * e + j] = static_cast<T>(r.uniform(static_cast<std::uint64_t>(j)));
  }
  return c;
}

/// f (n,D), w and wn (D,E); noise (n,E) standard normal draws, or undefined: then wn is not used.
template <class T>
Gates<T> gate(const Tensor<T>& f, const Tensor<T>& w, const Tensor<T>& wn, const Tensor<T>& noise,
              const GateOptions& o) {
  const Index n = f.size(0), e = w.size(1), k = o.top_k;
  if (k < 1 || k > e)
    fail(ErrorKind::value,
         "gate: top_k must lie in 1.." + std::to_string(e) + "; " + std::to_string(k));
  const Tensor<T> c = o.random ? hashed_logits(f, e) : gate_logits(f, w, o.logits);  // (n,E)
  Tensor<T> h = c, sigma;
  const bool noisy = noise.defined() && !o.random;
  if (noisy) {
    sigma = softplus(matmul(f, wn)) + static_cast<T>(o.noise_floor);  // (n,E)
    h = add(c, mul(sigma, noise));
  }
  Gates<T> out;
  out.logits = h;
  // One more than k, for the smooth load's threshold.
  const bool smooth = noisy && k < e;
  const auto top = top_k(h, smooth ? k + 1 : k);  // (n,k or k+1)
  out.chosen = slice(top.indices, 1, 0, k).contiguous();
  Tensor<T> closed = Tensor<T>::full({n, e}, -std::numeric_limits<T>::infinity());
  for (Index i = 0; i < n; ++i)
    for (Index j = 0; j < k; ++j) closed.data()[i * e + out.chosen.data()[i * k + j]] = T(0);
  out.gates = softmax(add(h, closed));             // (n,E)
  out.importance = sum(out.gates, {.axes = {0}});  // (E)
  if (smooth) {
    const Tensor<T> t_out = slice(top.values, 1, k - 1, k),
                    t_in = slice(top.values, 1, k, k + 1);  // (n,1)
    // P_e: the chance that e stays among the k best if its own noise is drawn again.
    Tensor<T> above = Tensor<T>::zeros({n, e}), below = Tensor<T>::zeros({n, e});
    const Tensor<T> hv = h.contiguous(), tv = t_in.contiguous();
    for (Index i = 0; i < n; ++i)
      for (Index j = 0; j < e; ++j)
        (hv.data()[i * e + j] > tv.data()[i] ? above : below).data()[i * e + j] = T(1);
    const Tensor<T> t = add(mul(above, t_in), mul(below, t_out));      // (n,E)
    out.load = sum(normal_cdf(div(sub(c, t), sigma)), {.axes = {0}});  // (E)
  } else {
    out.load = Tensor<T>::zeros({e});
    const Tensor<T> g = out.gates.contiguous();
    for (Index i = 0; i < n; ++i)
      for (Index j = 0; j < e; ++j) out.load.data()[j] += g.data()[i * e + j] > T(0) ? T(1) : T(0);
  }
  observe("logits", out.logits);
  observe("gates", out.gates);
  return out;
}

/// Squared coefficient of variation Var(a) / (Mean(a)^2 + 1e-10) with the unbiased variance; 0 for
/// one entry. What balance losses are made of.
template <class T>
Tensor<T> cv_squared(const Tensor<T>& a) {
  if (a.numel() <= 1) return scale(sum(a), T(0));
  const Tensor<T> m = mean(a);
  const Tensor<T> var = scale(sum(square(sub(a, m))), T(1) / static_cast<T>(a.numel() - 1));
  return div(var, square(m) + T(1e-10));
}

}  // namespace moraine
