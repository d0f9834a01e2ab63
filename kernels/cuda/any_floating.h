// Elements whose type is known at run time alone: for the few that a thread reads or adds to, not
// for inner loops.
#pragma once

#include "base/view.h"
#include "kernels/cuda/device.h"

namespace plait::cuda {

template <class A>
__device__ __forceinline__ A LoadAny(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kBf16:
      return static_cast<A>(Load(static_cast<const BFloat16*>(data)[i]));
    case DType::kF64:
      return static_cast<A>(static_cast<const double*>(data)[i]);
    default:
      return static_cast<A>(static_cast<const float*>(data)[i]);
  }
}
template <class A>
__device__ __forceinline__ A LoadAny(const ConstMatrixView& view, int64_t row, int64_t column) {
  return LoadAny<A>(view.data, view.dtype, row * view.row_stride + column);
}
template <class A>
__device__ __forceinline__ A LoadAny(const ConstVectorView& view, int64_t i) {
  return LoadAny<A>(view.data, view.dtype, i);
}

template <class A>
__device__ __forceinline__ void StoreAny(void* data, DType dtype, int64_t i, A value) {
  switch (dtype) {
    case DType::kBf16:
      static_cast<BFloat16*>(data)[i] = Round<BFloat16>(value);
      break;
    case DType::kF64:
      static_cast<double*>(data)[i] = static_cast<double>(value);
      break;
    default:
      static_cast<float*>(data)[i] = static_cast<float>(value);
  }
}
template <class A>
__device__ __forceinline__ void StoreAny(const MatrixView& view, int64_t row, int64_t column,
                                         A value) {
  StoreAny(view.data, view.dtype, row * view.row_stride + column, value);
}

// f32 and f64: one rounding.
template <class A>
__device__ __forceinline__ void AddAny(const MatrixView& view, int64_t row, int64_t column,
                                       A value) {
  const double sum =
      LoadAny<double>(ConstMatrixView(view), row, column) + static_cast<double>(value);
  StoreAny(view, row, column, sum);
}
template <class A>
__device__ __forceinline__ void AddAny(const VectorView& view, int64_t i, A value) {
  const double sum = LoadAny<double>(ConstVectorView(view), i) + static_cast<double>(value);
  StoreAny(view.data, view.dtype, i, sum);
}

}  // namespace plait::cuda
