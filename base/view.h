// Raw views that kernels take: a pointer, an element type and sizes. Plain C++, owned by nobody,
// for device code too. A matrix view has a row stride in elements, so that a range of columns of a
// wider matrix is a view as well (x and z of in_proj's output; q, k and v of one projection).
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace plait {

struct MatrixView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t row_stride = 0;

  template <class T>
  constexpr T* row(int64_t r) const {
    return static_cast<T*>(data) + r * row_stride;
  }
  explicit constexpr operator bool() const { return data != nullptr; }
};

struct ConstMatrixView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t row_stride = 0;

  constexpr ConstMatrixView() = default;
  constexpr ConstMatrixView(const void* data_in, DType dtype_in, int64_t rows_in,
                            int64_t columns_in, int64_t row_stride_in)
      : data(data_in),
        dtype(dtype_in),
        rows(rows_in),
        columns(columns_in),
        row_stride(row_stride_in) {}
  constexpr ConstMatrixView(const MatrixView& view)  // NOLINT: a mutable view is a constant one
      : data(view.data),
        dtype(view.dtype),
        rows(view.rows),
        columns(view.columns),
        row_stride(view.row_stride) {}

  template <class T>
  constexpr const T* row(int64_t r) const {
    return static_cast<const T*>(data) + r * row_stride;
  }
  explicit constexpr operator bool() const { return data != nullptr; }
};

struct VectorView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t size = 0;

  template <class T>
  constexpr T* as() const {
    return static_cast<T*>(data);
  }
  explicit constexpr operator bool() const { return data != nullptr; }
};

struct ConstVectorView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t size = 0;

  constexpr ConstVectorView() = default;
  constexpr ConstVectorView(const void* data_in, DType dtype_in, int64_t size_in)
      : data(data_in), dtype(dtype_in), size(size_in) {}
  constexpr ConstVectorView(const VectorView& view)  // NOLINT: a mutable view is a constant one
      : data(view.data), dtype(view.dtype), size(view.size) {}

  template <class T>
  constexpr const T* as() const {
    return static_cast<const T*>(data);
  }
  explicit constexpr operator bool() const { return data != nullptr; }
};

}  // namespace plait
