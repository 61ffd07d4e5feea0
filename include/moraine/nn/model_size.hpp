#pragma once
// Before a model is made from a config and a file: a config that asks for far more than the file
// holds is refused without asking for the memory.
#include <moraine/core/any_tensor.hpp>
#include <moraine/core/error.hpp>

#include <string>
#include <vector>

namespace moraine MORAINE_API {

/// A key of the file and the shape that the config gives it.
struct ExpectedTensor {
  std::string key;
  Shape shape;
};

/// Fails when a model of `values` parameters would be many times larger than the file. `rows` fix
/// its sizes, one after the other: the first that is missing or of another shape is named. Every
/// smaller difference is left to load(), which names all of it.
inline void check_model_size(const char* what, double values, const TensorMap& weights,
                             const std::vector<ExpectedTensor>& rows) {
  double have = 0;
  for (const auto& [key, t] : weights) have += static_cast<double>(t.shape.numel());
  if (values <= 8 * have + (1 << 20)) return;
  const std::string begin = std::string(what) + ": the weights do not fit the model; ";
  for (const ExpectedTensor& r : rows) {
    const auto at = weights.find(r.key);
    if (at == weights.end()) fail(ErrorKind::key, begin + "missing, among others: " + r.key);
    if (at->second.shape != r.shape)
      fail(ErrorKind::key, begin + "of another shape, among others: " + r.key + " (expected " +
                               str(r.shape) + ", found " + str(at->second.shape) + ")");
  }
  fail(ErrorKind::key, begin + "the file holds far fewer values than the config asks for");
}

}  // namespace moraine
