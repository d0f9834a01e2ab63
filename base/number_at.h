// One number of an f32 or f64 tensor in host memory, for code that walks over statistics and works
// in double whatever the model's precision.
#pragma once

#include <cstdint>

#include "base/tensor.h"

namespace plait {

inline double NumberAt(const Tensor& tensor, int64_t i) {
  return tensor.dtype() == DType::kF64 ? tensor.data<double>()[i]
                                       : static_cast<double>(tensor.data<float>()[i]);
}

// Rounded to f32 where the tensor is.
inline void SetNumber(Tensor& tensor, int64_t i, double value) {
  if (tensor.dtype() == DType::kF64) {
    tensor.data<double>()[i] = value;
  } else {
    tensor.data<float>()[i] = static_cast<float>(value);
  }
}

}  // namespace plait
