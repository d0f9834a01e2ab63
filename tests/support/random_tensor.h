// Seeded tensors for tests: the same values on every machine.
#pragma once

#include <cstdint>

#include "base/random.h"
#include "base/tensor.h"

namespace plait {

// Uniform in [low, high), rounded to `dtype`.
inline Tensor UniformTensor(const Shape& shape, uint64_t seed, DType dtype = DType::kF64,
                            double low = -1.0, double high = 1.0) {
  Tensor tensor = Tensor::OnHost(DType::kF64, shape);
  const RandomKey key(seed, RandomPurpose::kTest);
  for (int64_t i = 0; i < tensor.num_elements(); ++i) {
    tensor.data<double>()[i] = low + (high - low) * key.Uniform(static_cast<uint64_t>(i));
  }
  return dtype == DType::kF64 ? tensor : tensor.Converted(dtype);
}

}  // namespace plait
