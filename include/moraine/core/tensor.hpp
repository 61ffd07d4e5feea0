#pragma once
// Tensor<T>: a strided view of shared storage on a device, with an optional node of the tape.
//
//   Tensor<float> a({2, 3}, {1, 2, 3, 4, 5, 6});       // (2,3), values row by row
//   auto b = Tensor<float>::zeros({2, 3});
//   float x = a.at({1, 2});                             // 6
//
// Copying a tensor copies the handle, never the elements. T is float, double, bfloat16, float16 or
// an integer type (indices, labels); only floating tensors take part in autodiff.
#include <moraine/core/device.hpp>
#include <moraine/core/dtype.hpp>
#include <moraine/core/shape.hpp>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace moraine MORAINE_API {

struct Node;  // one recorded operation or leaf: autograd/record.hpp
using NodePtr = std::shared_ptr<Node>;

/// A block of memory on a device. It frees itself.
class Storage {
 public:
  Storage(std::size_t bytes, Device device) : bytes_(bytes), device_(device) {
    if (device == Device::cpu) {
      data_ = cpu_device.alloc(bytes, &zero_);
    } else {
      if (!cuda_device.alloc) fail(ErrorKind::device, std::string("tensor: ") + cuda_device.status);
      data_ = cuda_device.alloc(bytes);
    }
  }
  /// Memory that somebody else owns: a mapped file, a user's buffer.
  Storage(void* data, std::shared_ptr<const void> owner)
      : data_(data), owner_(std::move(owner)), borrowed_(true) {}
  ~Storage() {
    if (borrowed_) return;
    if (device_ == Device::cpu)
      cpu_device.free(data_, bytes_);
    else
      cuda_device.free(data_);
  }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  void* data() const { return data_; }
  Device device() const { return device_; }
  bool borrowed() const { return borrowed_; }
  /// Known to have held zeros when it was made.
  bool zero() const { return zero_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  Device device_ = Device::cpu;
  std::shared_ptr<const void> owner_;
  bool borrowed_ = false, zero_ = false;
};

template <class T = float>
class Tensor {
 public:
  using value_type = T;

  /// No tensor at all: `defined()` is false. Where an argument is optional, this means "none".
  Tensor() = default;
  /// Contiguous values, row by row, on the CPU. Throws when the count is not shape.numel().
  Tensor(const Shape& shape, const std::vector<T>& values) : Tensor(empty(shape)) {
    if (static_cast<Index>(values.size()) != numel())
      fail(ErrorKind::shape,
           "tensor: " + std::to_string(values.size()) + " values for shape " + str(shape));
    if (numel()) std::memcpy(data_, values.data(), values.size() * sizeof(T));
  }

  /// Uninitialised memory.
  static Tensor empty(const Shape& shape, Device device = Device::cpu) {
    Tensor t;
    Index n = 1;
    for (Index s : shape) {
      if (s < 0 || (s > 0 && n > (Index{1} << 46) / s))
        fail(ErrorKind::shape, "tensor: a size is negative or too large; " + str(shape));
      n *= s;
    }
    t.shape_ = shape;
    t.strides_ = row_major(shape);
    t.storage_ = std::make_shared<Storage>(static_cast<std::size_t>(n) * sizeof(T), device);
    t.data_ = static_cast<T*>(t.storage_->data());
    return t;
  }
  static Tensor full(const Shape& shape, T value, Device device = Device::cpu) {
    Tensor t = empty(shape);
    for (Index i = 0, n = t.numel(); i < n; ++i) t.data_[i] = value;
    return device == Device::cpu ? t : t.to(device);
  }
  static Tensor zeros(const Shape& shape, Device device = Device::cpu) {
    if (device == Device::cpu) {
      Tensor t = empty(shape);
      if (t.numel() && !t.storage_->zero())
        std::memset(static_cast<void*>(t.data_), 0,
                    static_cast<std::size_t>(t.numel()) * sizeof(T));
      return t;
    }
    return full(shape, T(0), device);
  }
  static Tensor ones(const Shape& shape, Device device = Device::cpu) {
    return full(shape, T(1), device);
  }
  /// A tensor without axes.
  static Tensor scalar(T value) { return full({}, value); }
  /// 0, 1, ..., n-1.
  static Tensor arange(Index n) {
    Tensor t = empty({n});
    for (Index i = 0; i < n; ++i) t.data_[i] = static_cast<T>(i);
    return t;
  }
  /// A row-major CPU tensor over memory that `owner` keeps alive (null: the caller does).
  static Tensor borrow(T* data, const Shape& shape, std::shared_ptr<const void> owner = nullptr) {
    Tensor t;
    t.shape_ = shape;
    t.strides_ = row_major(shape);
    t.storage_ = std::make_shared<Storage>(data, std::move(owner));
    t.data_ = data;
    return t;
  }

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  /// In elements, one per axis.
  const Shape& strides() const { return strides_; }
  int rank() const { return shape_.rank; }
  Index size(int axis) const { return shape_[axis]; }
  Index numel() const { return shape_.numel(); }
  Device device() const { return storage_ ? storage_->device() : Device::cpu; }
  const std::shared_ptr<Storage>& storage() const { return storage_; }
  /// The first element. Elements follow each other only when contiguous().
  T* data() const { return data_; }

  bool contiguous_in_memory() const {
    Index step = 1;
    for (int i = shape_.rank; i-- > 0;) {
      if (shape_.dim[i] != 1 && strides_.dim[i] != step) return shape_.numel() == 0;
      step *= shape_.dim[i];
    }
    return true;
  }
  /// The same values, row by row; itself when they already are. Not recorded on the tape: ops call
  /// it on their inputs.
  Tensor contiguous() const {
    if (contiguous_in_memory()) return *this;
    Tensor out = empty(shape_, device());
    if (device() != Device::cpu)
      fail(ErrorKind::device, "contiguous: a strided CUDA tensor; shape " + str(shape_) +
                                  " -> make it contiguous on the CPU first");
    T* to = out.data_;
    copy_axis(to, data_, 0);
    return out;
  }
  /// A contiguous copy that shares nothing.
  Tensor clone() const {
    if (!contiguous_in_memory()) return contiguous().without_node();
    Tensor out = empty(shape_, device());
    copy_bytes(out.data_, device(), data_, device(), numel());
    return out;
  }
  /// The same values on another device; itself when it is there already.
  Tensor to(Device d) const {
    if (!defined() || d == device()) return *this;
    const Tensor c = contiguous();
    Tensor out = empty(shape_, d);
    copy_bytes(out.data_, d, c.data_, device(), numel());
    return out;
  }

  /// One element, by indices. Copies from the device if need be.
  T at(std::initializer_list<Index> index) const {
    if (static_cast<int>(index.size()) != shape_.rank)
      fail(ErrorKind::shape,
           "at: " + std::to_string(index.size()) + " indices for shape " + str(shape_));
    Index offset = 0;
    int a = 0;
    for (Index i : index) {
      if (i < 0 || i >= shape_.dim[a])
        fail(ErrorKind::shape, "at: index " + std::to_string(i) + " on axis " + std::to_string(a) +
                                   " of shape " + str(shape_));
      offset += i * strides_.dim[a++];
    }
    T v;
    copy_bytes(&v, Device::cpu, data_ + offset, device(), 1);
    return v;
  }
  /// The value of a tensor with one element.
  T item() const {
    if (numel() != 1) fail(ErrorKind::shape, "item: needs one element; shape " + str(shape_));
    T v;
    copy_bytes(&v, Device::cpu, data_, device(), 1);
    return v;
  }
  /// All values, row by row.
  std::vector<T> values() const {
    const Tensor c = to(Device::cpu).contiguous();
    return std::vector<T>(c.data_, c.data_ + c.numel());
  }

  // ---- views: free, not recorded on the tape; ops/shape.hpp has the recorded forms
  /// A view with any shape and strides of the same storage.
  Tensor view(const Shape& shape, const Shape& strides, Index offset = 0) const {
    Tensor t = *this;
    t.node_ = nullptr;
    t.shape_ = shape;
    t.strides_ = strides;
    t.data_ = data_ + offset;
    return t;
  }
  /// Row-major with another shape; needs contiguous elements.
  Tensor reshaped(const Shape& shape) const {
    const Tensor c = contiguous();
    return c.view(shape, row_major(shape));
  }

  // ---- the tape
  /// Whether a gradient flows to this tensor.
  bool tracked() const { return node_ != nullptr; }
  const NodePtr& node() const { return node_; }
  void set_node(NodePtr n) { node_ = std::move(n); }
  Tensor without_node() const {
    Tensor t = *this;
    t.node_ = nullptr;
    return t;
  }
  /// The same values, cut off from the tape.
  Tensor detach() const { return without_node(); }
  /// Makes this tensor a leaf whose gradient is kept (true), or cuts it off the tape (false).
  Tensor& requires_grad(bool on = true);
  /// The gradient that backward() left in this leaf; not defined() when none arrived.
  Tensor grad() const;
  /// Forgets the gradient.
  void zero_grad();

 private:
  void copy_axis(T*& out, const T* in, int axis) const {
    if (axis == shape_.rank) {
      *out++ = *in;
      return;
    }
    const Index n = shape_.dim[axis], s = strides_.dim[axis];
    if (axis == shape_.rank - 1) {
      for (Index i = 0; i < n; ++i) *out++ = in[i * s];
      return;
    }
    for (Index i = 0; i < n; ++i) copy_axis(out, in + i * s, axis + 1);
  }
  static void copy_bytes(T* dst, Device to, const T* src, Device from, Index n) {
    if (n == 0) return;
    const std::size_t bytes = static_cast<std::size_t>(n) * sizeof(T);
    if (to == Device::cpu && from == Device::cpu)
      std::memcpy(static_cast<void*>(dst), src, bytes);
    else
      cuda_device.copy(dst, src, bytes);
  }

  std::shared_ptr<Storage> storage_;
  T* data_ = nullptr;
  Shape shape_, strides_;
  NodePtr node_;
};

/// Uninitialised, with the shape and device of another tensor.
template <class T>
Tensor<T> empty_like(const Tensor<T>& x) {
  return Tensor<T>::empty(x.shape(), x.device());
}
template <class T>
Tensor<T> zeros_like(const Tensor<T>& x) {
  return Tensor<T>::zeros(x.shape(), x.device());
}

}  // namespace moraine
