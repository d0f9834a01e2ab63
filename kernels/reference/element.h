// Element access for the reference kernels: any floating dtype read as double, written with one
// rounding. The references are plain loops that accumulate in double: the specification.
#pragma once

#include "base/check.h"
#include "base/view.h"

namespace plait::reference {

inline double Load(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kBf16:
      return static_cast<double>(static_cast<const BFloat16*>(data)[i]);
    case DType::kF32:
      return static_cast<const float*>(data)[i];
    case DType::kF64:
      return static_cast<const double*>(data)[i];
    default:
      PLAIT_CHECK(false);
      return 0;
  }
}

inline void Store(void* data, DType dtype, int64_t i, double value) {
  switch (dtype) {
    case DType::kBf16:
      static_cast<BFloat16*>(data)[i] = BFloat16(value);
      break;
    case DType::kF32:
      static_cast<float*>(data)[i] = static_cast<float>(value);
      break;
    case DType::kF64:
      static_cast<double*>(data)[i] = value;
      break;
    default:
      PLAIT_CHECK(false);
  }
}

inline double Get(const ConstMatrixView& view, int64_t row, int64_t column) {
  return Load(view.data, view.dtype, row * view.row_stride + column);
}
inline double Get(const ConstVectorView& view, int64_t i) { return Load(view.data, view.dtype, i); }
inline void Set(const MatrixView& view, int64_t row, int64_t column, double value) {
  Store(view.data, view.dtype, row * view.row_stride + column, value);
}
inline void Set(const VectorView& view, int64_t i, double value) {
  Store(view.data, view.dtype, i, value);
}
inline void Add(const MatrixView& view, int64_t row, int64_t column, double value) {
  Set(view, row, column, Get(view, row, column) + value);
}
inline void Add(const VectorView& view, int64_t i, double value) {
  Set(view, i, Get(view, i) + value);
}

}  // namespace plait::reference
