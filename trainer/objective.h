// Objective: what a microbatch is worth. It runs the model forward and backward and leaves the
// gradients of the step's loss in the parameters; training_step.h does everything around it.
#pragma once

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "model/language_model.h"
#include "parallel/parameter_sharder.h"

namespace plait {

class Objective {
 public:
  virtual ~Objective() = default;

  // Adds to the gradients. counts: of the whole step over all ranks; losses are divided by them, so
  // that the sum over microbatches and ranks is the step's loss however rows fell on them.
  virtual absl::StatusOr<MicrobatchLosses> LossAndGradient(Execution& execution,
                                                           LanguageModel& model,
                                                           ParameterSharder& sharder,
                                                           const Microbatch& microbatch,
                                                           const StepCounts& counts) const = 0;
};

}  // namespace plait
