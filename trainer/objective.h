// Objective: what a microbatch is worth, at the end of the model: it turns the last part's output
// into a loss and its gradient. What is before and after is the flow's (microbatch_flow.h) and the
// step's (training_step.h).
#pragma once

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "model/language_model.h"

namespace plait {

class Objective {
 public:
  virtual ~Objective() = default;

  // Adds to the gradients of the head. hidden: [own rows, model_dim]. counts: of the whole step
  // over all ranks; losses are divided by them, so that the sum over microbatches and ranks is the
  // step's loss however rows fell on them.
  virtual absl::StatusOr<LanguageModel::HeadLoss> LossAndGradient(
      Execution& execution, LanguageModel& model, const Tensor& hidden,
      const Microbatch& microbatch, const StepCounts& counts) const = 0;
  // The loss whose gradient that is, from its log-probabilities.
  virtual double Loss(const LanguageModel& model, const Microbatch& microbatch,
                      const Tensor& log_probability, const StepCounts& counts) const = 0;
};

}  // namespace plait
