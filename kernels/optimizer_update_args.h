// AdamW with decoupled decay, over flat arrays. With g = gradient_scale * gradient, at step t
// counted from 1:
//   m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   p = p (1 - learning_rate weight_decay) - learning_rate (m / (1 - beta1^t)) / (sqrt(v) / sqrt(1
//   - beta2^t) + epsilon)
// Element-wise in f32 (f64 beside f64). Source: Loshchilov and Hutter, "Decoupled Weight Decay
// Regularization", 2017.
#pragma once

#include <cstdint>

#include "base/view.h"

namespace plait {

struct AdamWUpdateArgs {
  VectorView parameter;      // f32 or f64, [elements], updated
  ConstVectorView gradient;  // dtype of parameter
  VectorView first_moment;   // dtype of parameter, updated
  VectorView second_moment;  // dtype of parameter, updated
  VectorView compute;  // copy of the new parameter in the compute dtype; absent where it is the
                       // same memory
  double learning_rate = 0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0;
  double gradient_scale = 1;
  int64_t step = 1;
};

// Sums of squares in f64, one for every 128 elements (the last may be shorter): the same for any
// number of threads, and however an array is cut at whole tiles. A sum that is not finite tells
// that an element is not.
inline constexpr int64_t kSquaredNormTile = 128;
struct SquaredNormArgs {
  ConstVectorView x;     // f32 or f64
  VectorView tile_sums;  // f64, [ceil(elements / 128)]
};

}  // namespace plait
