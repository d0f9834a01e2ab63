#include "trainer/pretraining_objective.h"

namespace plait {

absl::StatusOr<LanguageModel::HeadLoss> PretrainingObjective::LossAndGradient(
    Execution& execution, LanguageModel& model, const Tensor& hidden, const Microbatch& microbatch,
    const StepCounts& counts) const {
  return model.HeadLossAndGradient(execution, hidden, microbatch, counts);
}

}  // namespace plait
