// Next-token prediction: sum over tokens of weight x -log p(target) / sum of the step's weights,
// with the losses that live inside the blocks (model/auxiliary_losses.h). A mask is a weight of 0.
#pragma once

#include "trainer/objective.h"

namespace plait {

class PretrainingObjective final : public Objective {
 public:
  absl::StatusOr<MicrobatchLosses> LossAndGradient(Execution& execution, LanguageModel& model,
                                                   ParameterSharder& sharder,
                                                   const Microbatch& microbatch,
                                                   const StepCounts& counts) const override;
};

}  // namespace plait
