// FreshModel: a recipe's model at its first values, with AdamW and a pretraining step, ready to
// run: what benchmarks, checks and tests begin with.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/execution.h"
#include "data/batch.h"
#include "optim/adamw.h"
#include "parallel/communicator.h"
#include "trainer/model_runtime.h"
#include "trainer/pretraining_objective.h"
#include "trainer/training_step.h"

namespace plait {

struct FreshModel {
  ModelRuntime runtime;
  std::unique_ptr<AdamW> optimizer;  // of all parameters
  PretrainingObjective objective;
  std::unique_ptr<TrainingStep> step;  // clips as the recipe says

  // Collective. recipe: resolved and valid. execution outlives it. Errors of ModelRuntime::Create.
  static absl::StatusOr<std::unique_ptr<FreshModel>> Create(
      Execution& execution, const recipe::v1::Recipe& recipe,
      std::shared_ptr<Communicator> world = MakeSingleRankCommunicator());
};

// Of the microbatches of a step, in the order of the leaves, those of this data-parallel rank.
std::vector<Batch> OwnLeaves(const DeviceMesh& mesh, std::span<const Batch> leaves);

}  // namespace plait
