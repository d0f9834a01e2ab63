// TrainingStep: gradients of one step's microbatches and the update they make. Nothing else: which
// step it is, what is logged, saved or evaluated is the trainer's.
#pragma once

#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "data/batch.h"
#include "optim/optimizer.h"
#include "trainer/model_runtime.h"
#include "trainer/objective.h"

namespace plait {

struct StepResult {
  StepCounts counts;  // over all ranks
  // Over all microbatches and ranks.
  double language_model_loss = 0;
  double balance_loss = 0;
  double z_loss = 0;
  double activation_loss = 0;
  double gradient_norm = 0;  // before clipping
  ActivationWatch watch;     // of all microbatches and ranks
  // Empty where everything was finite; else what was not: a parameter's gradient, or "loss". No
  // update was made then, on no rank.
  std::string not_finite;

  double loss() const { return language_model_loss + balance_loss + z_loss + activation_loss; }
};

class TrainingStep {
 public:
  // All outlive the step. gradient_clip_norm 0: no clipping.
  TrainingStep(Execution& execution, ModelRuntime& runtime, Optimizer& optimizer,
               const Objective& objective, double gradient_clip_norm)
      : execution_(execution),
        runtime_(runtime),
        optimizer_(optimizer),
        objective_(objective),
        gradient_clip_norm_(gradient_clip_norm) {}

  // Collective. microbatches: this rank's, at least one, the same number on every rank.
  absl::StatusOr<StepResult> Run(std::span<const Batch> microbatches, double learning_rate);

 private:
  absl::StatusOr<StepCounts> ReduceCounts(std::span<const Batch> microbatches);
  absl::Status ReduceLosses(std::span<const MicrobatchLosses> losses, StepResult& result);

  Execution& execution_;
  ModelRuntime& runtime_;
  Optimizer& optimizer_;
  const Objective& objective_;
  double gradient_clip_norm_;
};

}  // namespace plait
