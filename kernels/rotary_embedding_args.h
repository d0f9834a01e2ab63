// Rotary position embedding, in place, half-split pairing: element j pairs with element j +
// head_dim / 2.
//   angle = position * theta^(-2 j / head_dim)
//   x'_j = x_j cos - x_{j + head_dim/2} sin;  x'_{j + head_dim/2} = x_{j + head_dim/2} cos + x_j
//   sin
// The backward is the same rotation by the negative angle. Angles in double, arithmetic in f32 (f64
// beside f64). Source: Su et al., "RoFormer", 2021, with Hugging Face's pairing of Llama.
#pragma once

#include <cstdint>

#include "base/view.h"

namespace plait {

enum class RotaryDirection { kForward, kBackward };

struct RotaryEmbeddingArgs {
  MatrixView x;                        // [tokens, heads x head_dim], rotated in place
  const int32_t* positions = nullptr;  // [tokens], from the start of each document
  int64_t heads = 0;
  int64_t head_dim = 0;
  double theta = 10000;
  RotaryDirection direction = RotaryDirection::kForward;
};

}  // namespace plait
