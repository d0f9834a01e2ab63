// Next-token prediction: sum over tokens of weight x -log p(target) / sum of the step's weights. A
// mask is a weight of 0.
#pragma once

#include "trainer/objective.h"

namespace plait {

class PretrainingObjective final : public Objective {
 public:
  absl::StatusOr<LanguageModel::HeadLoss> LossAndGradient(Execution& execution,
                                                          LanguageModel& model,
                                                          const Tensor& hidden,
                                                          const Microbatch& microbatch,
                                                          const StepCounts& counts) const override;
  double Loss(const LanguageModel& model, const Microbatch& microbatch,
              const Tensor& log_probability, const StepCounts& counts) const override;
};

}  // namespace plait
