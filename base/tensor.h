// Tensor: shared storage, dtype and shape. Always contiguous and row-major. Copying a Tensor shares
// its storage; Clone copies the elements. Slices and reshapes share storage too. Elements of a
// tensor on a device are reached by kernels and Execution's copies alone.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/check.h"
#include "base/device.h"
#include "base/dtype.h"
#include "base/shape.h"
#include "base/view.h"

namespace plait {

class Allocator;

class Tensor {
 public:
  // An absent tensor: no storage, rank 0.
  Tensor() = default;

  // Uninitialised elements from `allocator`.
  static Tensor Empty(Allocator& allocator, DType dtype, const Shape& shape);
  // Zeros from `allocator`, a host's.
  static Tensor Zeros(Allocator& allocator, DType dtype, const Shape& shape);
  // Zeros in plain host memory, for batches, tests and files.
  static Tensor OnHost(DType dtype, const Shape& shape);
  // Over memory that exists: elements begin at `storage` + offset_bytes.
  static Tensor Over(std::shared_ptr<void> storage, size_t offset_bytes, DType dtype,
                     const Shape& shape);
  // A host tensor with these elements, which must be as many as the shape has.
  template <class T>
  static Tensor FromValues(const Shape& shape, const std::vector<T>& values) {
    Tensor tensor = OnHost(DTypeOf<T>::value, shape);
    PLAIT_CHECK_EQ(tensor.num_elements(), static_cast<int64_t>(values.size()));
    std::copy(values.begin(), values.end(), tensor.data<T>());
    return tensor;
  }

  explicit operator bool() const { return storage_ != nullptr; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t num_elements() const { return storage_ ? shape_.num_elements() : 0; }
  // Whether its memory is a device's, out of the host's reach.
  bool on_device() const { return on_device_; }
  size_t bytes() const { return static_cast<size_t>(num_elements()) * SizeOf(dtype_); }

  // T must be the tensor's element type.
  template <class T>
  T* data() {
    PLAIT_CHECK(DTypeOf<T>::value == dtype_);
    return static_cast<T*>(raw());
  }
  template <class T>
  const T* data() const {
    PLAIT_CHECK(DTypeOf<T>::value == dtype_);
    return static_cast<const T*>(raw());
  }
  template <class T>
  std::span<T> values() {
    PLAIT_CHECK(!on_device_);
    return {data<T>(), static_cast<size_t>(num_elements())};
  }
  template <class T>
  std::span<const T> values() const {
    PLAIT_CHECK(!on_device_);
    return {data<T>(), static_cast<size_t>(num_elements())};
  }
  void* raw() { return static_cast<char*>(storage_.get()) + offset_bytes_; }
  const void* raw() const { return static_cast<const char*>(storage_.get()) + offset_bytes_; }

  // Rows [begin, end) of dim 0, sharing storage.
  Tensor Slice(int64_t begin, int64_t end) const;
  // Same elements under another shape of equal size, sharing storage.
  Tensor Reshape(const Shape& shape) const;
  // A range of elements of the flat storage under `shape`, sharing storage.
  Tensor Flat(int64_t element_offset, const Shape& shape) const;
  Tensor Clone() const;
  // A host copy converted to `dtype` (floating dtypes only, not to f16; rounded to nearest even).
  Tensor Converted(DType dtype) const;
  void FillZero();

  // All dims but the last are rows. Rank 1 is one row.
  MatrixView matrix();
  ConstMatrixView matrix() const;
  // Columns [begin, begin + columns) of matrix().
  MatrixView columns(int64_t begin, int64_t columns);
  ConstMatrixView columns(int64_t begin, int64_t columns) const;
  VectorView vector();
  ConstVectorView vector() const;

 private:
  std::shared_ptr<void> storage_;
  size_t offset_bytes_ = 0;
  bool on_device_ = false;
  DType dtype_ = DType::kF32;
  Shape shape_;
};

}  // namespace plait
