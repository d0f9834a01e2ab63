// Optimizer: gradients -> new weights. It works on the shards that a ParameterSharder hands out,
// which must outlive it, and keeps its own state (moments) beside them in f32, or f64 beside f64
// masters.
#pragma once

#include "absl/status/status.h"
#include "base/execution.h"
#include "parallel/named_state.h"

namespace plait {

class Optimizer {
 public:
  virtual ~Optimizer() = default;

  // One update of every parameter: masters, compute copies and state; gradients are read only.
  // gradient_scale multiplies every gradient: the clip coefficient (gradient_clipping.h).
  // FailedPrecondition, with nothing changed, where the scale or the learning rate is not finite:
  // numbers that are not finite never reach the state.
  virtual absl::Status Step(Execution& execution, double learning_rate, double gradient_scale) = 0;

  // Appends the state: tensors share storage with the optimizer, so that loading into them restores
  // them; scalars are copies, which RestoreScalars takes back after a load.
  virtual void AppendState(NamedState& state) const = 0;
  // NotFound or OutOfRange, naming the scalar.
  virtual absl::Status RestoreScalars(const NamedState& state) = 0;
};

}  // namespace plait
