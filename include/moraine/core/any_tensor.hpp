#pragma once
// AnyTensor: the one type-erased tensor, for files, maps, observers and checkpoints.
#include <moraine/core/dtype.hpp>
#include <moraine/core/shape.hpp>
#include <moraine/core/tensor.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <type_traits>

namespace moraine MORAINE_API {

/// Row-major bytes on the CPU with an element type and a shape. Copying one shares the bytes.
/// `owner` keeps them alive: a storage, or a mapped file.
struct AnyTensor {
  Dtype dtype = Dtype::f32;
  Shape shape;
  std::shared_ptr<const void> owner;
  const std::byte* data = nullptr;  ///< may be unaligned when it points into a file
  std::size_t bytes = 0;

  AnyTensor() = default;
  /// Shares the storage of a contiguous CPU tensor; copies any other.
  template <class T>
  AnyTensor(const Tensor<T>& t);

  /// A tensor of T. Shares the bytes when the element type and the alignment fit and copies or
  /// converts otherwise. A shared tensor must not be written to.
  /// Throws ErrorKind::dtype for Dtype::other.
  template <class T>
  Tensor<T> as() const;
};

/// Name -> tensor, sorted by name; what io fills and nn::load consumes.
using TensorMap = std::map<std::string, AnyTensor>;

template <class T>
AnyTensor::AnyTensor(const Tensor<T>& t) {
  const Tensor<T> c = t.to(Device::cpu).contiguous();
  dtype = dtype_of<T>;
  shape = c.shape();
  owner = c.storage();
  data = reinterpret_cast<const std::byte*>(c.data());
  bytes = static_cast<std::size_t>(c.numel()) * sizeof(T);
}

template <class T>
Tensor<T> AnyTensor::as() const {
  if (dtype == dtype_of<T> && reinterpret_cast<std::uintptr_t>(data) % alignof(T) == 0 && owner)
    return Tensor<T>::borrow(reinterpret_cast<T*>(const_cast<std::byte*>(data)), shape, owner);
  Tensor<T> out = Tensor<T>::empty(shape);
  T* y = out.data();
  const Index n = out.numel();
  if (dtype == Dtype::other)
    fail(ErrorKind::dtype, "as: this element type cannot be converted; shape " + str(shape));
  visit(dtype, [&](auto zero) {
    using S = decltype(zero);
    for (Index i = 0; i < n; ++i) {
      S s;
      std::memcpy(&s, data + static_cast<std::size_t>(i) * sizeof(S), sizeof(S));
      if constexpr (std::is_same_v<S, float16> || std::is_same_v<S, bfloat16>)
        y[i] = static_cast<T>(static_cast<float>(s));
      else if constexpr (std::is_same_v<T, float16> || std::is_same_v<T, bfloat16>)
        y[i] = static_cast<T>(static_cast<float>(s));
      else
        y[i] = static_cast<T>(s);
    }
  });
  return out;
}

}  // namespace moraine
