#pragma once
// How SpectralMoE joins the refined visual rows Ov and depth rows Od, both (B,N,D), into Delta.
#include <moraine/ops/attention.hpp>
#include <moraine/ops/binary.hpp>
#include <moraine/ops/index.hpp>

namespace moraine MORAINE_API {

enum class Fusion : unsigned char {
  eq,      ///< softmax(Ov Od^T / sqrt(D)) Od: the paper's equation
  figure,  ///< softmax(Ov Od^T / sqrt(D)) Ov: the paper's figure 3
  diag,    ///< S = softmax(Od Ov^T / sqrt(D)), Delta_n = S_nn Ov_n: the published code
  local    ///< Ov + Od of the same place; not of the paper
};

/// (B,N,D), (B,N,D) -> (B,N,D)
template <class T>
Tensor<T> fuse(const Tensor<T>& visual, const Tensor<T>& depth, Fusion kind) {
  if (visual.shape() != depth.shape() || visual.rank() != 3)
    fail(ErrorKind::shape, "fuse: needs two (B,N,D); visual " + str(visual.shape()) + ", depth " +
                               str(depth.shape()));
  if (kind == Fusion::local) return add(visual, depth);
  const Index b = visual.size(0), n = visual.size(1), d = visual.size(2);
  if (kind == Fusion::diag) {
    const T f = static_cast<T>(1.0 / std::sqrt(static_cast<double>(d)));
    const Tensor<T> s = softmax(matmul(depth, transpose(visual), f));  // (B,N,N)
    // The diagonal is every (N+1)-th entry.
    const Tensor<T> diagonal = slice(reshape(s, {b, n * n}), 1, 0, n * n, n + 1);  // (B,N)
    return mul(reshape(diagonal, {b, n, 1}), visual);
  }
  const auto head = [&](const Tensor<T>& x) { return reshape(x, {b, 1, n, d}); };
  const Tensor<T> y =
      attention(head(visual), head(depth), head(kind == Fusion::eq ? depth : visual));
  return reshape(y, {b, n, d});
}

}  // namespace moraine
