// AdamW with decoupled decay, over the flat arrays of many parameters. With g = gradient_scale *
// gradient, at step t counted from 1:
//   m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   p = p (1 - learning_rate weight_decay) - learning_rate (m / (1 - beta1^t)) / (sqrt(v) / sqrt(1
//   - beta2^t) + epsilon)
// Element-wise in f32 (f64 beside f64): an element's bits depend neither on its place nor on the
// other tensors. Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2017.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/view.h"

namespace plait {

struct AdamWTensor {
  std::string_view name;     // in messages
  VectorView parameter;      // f32 or f64, [elements], updated
  ConstVectorView gradient;  // dtype of parameter
  VectorView first_moment;   // dtype of parameter, updated
  VectorView second_moment;  // dtype of parameter, updated
  VectorView compute;  // copy of the new parameter in the compute dtype; absent where it is the
                       // same memory
  double weight_decay = 0;
};

struct AdamWUpdateArgs {
  std::span<const AdamWTensor> tensors;  // host
  double learning_rate = 0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double gradient_scale = 1;
  int64_t step = 1;

  // All parameters have one dtype, and all copies.
  DType dtype() const { return tensors.empty() ? DType::kF32 : tensors.front().parameter.dtype; }
  DType compute_dtype() const {
    for (const AdamWTensor& tensor : tensors) {
      if (tensor.compute) return tensor.compute.dtype;
    }
    return dtype();
  }
};

// Sums of squares in f64, one for every 128 elements of a tensor (its last may be shorter): the
// same for any number of threads and beside any other tensors, and however an array is cut at whole
// tiles. A sum that is not finite tells that an element is not.
inline constexpr int64_t kSquaredNormTile = 128;
constexpr int64_t SquaredNormTiles(int64_t elements) {
  return (elements + kSquaredNormTile - 1) / kSquaredNormTile;
}
struct SquaredNormTensor {
  std::string_view name;  // in messages
  ConstVectorView x;      // f32 or f64, all of one dtype
  VectorView tile_sums;   // f64, [ceil(elements / 128)]
};
struct SquaredNormArgs {
  std::span<const SquaredNormTensor> tensors;  // host

  DType dtype() const { return tensors.empty() ? DType::kF32 : tensors.front().x.dtype; }
};

}  // namespace plait
