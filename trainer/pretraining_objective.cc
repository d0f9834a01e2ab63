#include "trainer/pretraining_objective.h"

namespace plait {

absl::StatusOr<LanguageModel::HeadLoss> PretrainingObjective::LossAndGradient(
    Execution& execution, LanguageModel& model, const Tensor& hidden, const Microbatch& microbatch,
    const StepCounts& counts) const {
  return model.HeadLossAndGradient(execution, hidden, microbatch, counts);
}

double PretrainingObjective::Loss(const LanguageModel& model, const Microbatch& microbatch,
                                  const Tensor& log_probability, const StepCounts& counts) const {
  return model.LanguageModelLoss(microbatch, log_probability, counts);
}

}  // namespace plait
