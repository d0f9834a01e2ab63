// Plan: what a run would need, before any of it is started: legal or every reason why not; memory
// of a rank by class; FLOPs; bytes of every collective; time of a step. A pure function of the
// recipe, the number of ranks and a machine from a table: no ranks, no GPU, and of the model's
// memory nothing is taken.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/memory_plan.h"
#include "parallel/communication_plan.h"
#include "recipes/parameter_count.h"
#include "trainer/machine.h"
#include "trainer/step_estimate.h"

namespace plait {

namespace recipe::v1 {
class Recipe;
}

struct PlanOptions {
  int64_t ranks = 1;
  std::string device = "H100";  // "H100", "H200" or "CPU"
  // CPU kernels' threads, whose scratch memory is counted, where the recipe does not say; 0: cores
  // of this process / ranks.
  int64_t threads_per_rank = 0;
  // Of a device.
  DeviceLibraries libraries = DeviceLibraries::kPresent;
};

// One stage of the recipe.
struct StagePlan {
  std::string name;
  int64_t row_tokens = 0;
  int64_t microbatch_tokens = 0;
  int64_t microbatches = 0;  // of a data-parallel rank in a step
  int64_t tokens_per_step = 0;
  double flops_per_token = 0;
  // Of the pipeline: the one that holds most, whose memory and traffic follow.
  int64_t pipeline_stage = 0;
  MemoryPlan memory;
  CommunicationPlan communication;
  StepEstimate estimate;
};

struct Plan {
  int64_t ranks = 1;
  std::array<int64_t, kNumMeshAxes> sizes{};  // by MeshAxis, none 0
  Machine machine;
  int64_t threads_per_rank = 0;  // 0: not a CPU
  Recomputation recomputation = Recomputation::kNone;
  bool windows = false;  // ranks share one host's memory
  ParameterCount parameters;
  std::vector<StagePlan> stages;
};

// recipe: resolved and valid for these ranks (recipes/recipe_validation.h). InvalidArgument for a
// device that is not in the table.
absl::StatusOr<Plan> MakePlan(const recipe::v1::Recipe& recipe, const PlanOptions& options);

}  // namespace plait
