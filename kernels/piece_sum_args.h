// Gradients of several ranks added to their owner's:
//   total[i] += pieces[0, i] + pieces[1, i] + ..., the sum of the pieces first, in their order.
// In f32 (f64 beside f64).
#pragma once

#include "base/view.h"

namespace plait {

struct PieceSumArgs {
  ConstMatrixView pieces;      // [pieces, elements], bf16 or the dtype of total
  bool round_to_bf16 = false;  // f32 pieces are rounded so before they are added
  VectorView total;            // [elements], f32 or f64, added to
};

}  // namespace plait
