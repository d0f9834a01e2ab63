#include "trainer/pretraining_objective.h"

namespace plait {

absl::StatusOr<MicrobatchLosses> PretrainingObjective::LossAndGradient(
    Execution& execution, LanguageModel& model, ParameterSharder& sharder,
    const Microbatch& microbatch, const StepCounts& counts) const {
  return model.LossAndGradient(execution, sharder, microbatch, counts);
}

}  // namespace plait
