#include "trainer/plan.h"

#include <algorithm>
#include <memory>

#include "base/execution.h"
#include "base/status_macros.h"
#include "model/layer_traffic.h"
#include "parallel/unconnected_mesh.h"
#include "recipes/schema/recipe.pb.h"
#include "trainer/model_runtime.h"

namespace plait {
namespace {

using recipe::v1::Recipe;
using recipe::v1::Stage;

int64_t ThreadsPerRank(const Recipe& recipe, const PlanOptions& options) {
  if (recipe.trainer().threads_per_rank() > 0) return recipe.trainer().threads_per_rank();
  if (options.threads_per_rank > 0) return options.threads_per_rank;
  return std::max<int64_t>(1, NumAvailableCores() / options.ranks);
}

// Numbers of the activation watch (trainer/training_step.cc).
StepShape ShapeOfStep(const ModelShape& shape, int64_t microbatches) {
  return {.microbatches = microbatches,
          .watch_sums = 2 * shape.num_blocks() + 2 * shape.num_expert_layers() * shape.experts,
          .watch_maxima = shape.num_blocks() + shape.num_expert_layers() * (shape.experts + 3)};
}

int64_t ElementsOfShares(const DeviceMesh& mesh,
                         const std::vector<std::vector<SectionLayout>>& layouts) {
  int64_t elements = 0;
  for (const auto& unit : layouts) {
    for (const SectionLayout& section : unit) {
      elements += section.share(mesh.group(section.group).shard->size());
    }
  }
  return elements;
}

StagePlan PlanStage(const Recipe& recipe, const Stage& stage, const DeviceMesh& mesh,
                    LanguageModel& model, const Plan& plan) {
  StagePlan result{.name = stage.name(),
                   .row_tokens = stage.row_tokens(),
                   .microbatch_tokens = stage.rows_per_microbatch() * stage.row_tokens(),
                   .tokens_per_step = stage.tokens_per_step(),
                   .flops_per_token = ModelFlopsPerToken(plan.parameters, stage.row_tokens())};
  result.microbatches =
      result.tokens_per_step / result.microbatch_tokens / mesh.data_parallel_size();
  const RankSizes sizes =
      RankSizes::Of(model.shape(), mesh, model.dtype(), result.microbatch_tokens,
                    stage.rows_per_microbatch(), static_cast<int>(plan.threads_per_rank));
  const SharderOptions sharder = SharderOptionsOf(recipe);
  result.memory = PlanMemory(mesh, model, sizes,
                             {.recomputation = plan.recomputation,
                              .sharder = sharder,
                              .windows = plan.windows,
                              .microbatches = result.microbatches});
  const auto layouts = SectionLayouts(mesh, model.Units(), sharder);
  result.communication = PlanStep(mesh, layouts, sharder, plan.windows,
                                  ShapeOfStep(model.shape(), result.microbatches));
  AddLayerTraffic(model.shape(), mesh, sizes, plan.recomputation, result.microbatches,
                  result.communication);
  result.estimate =
      EstimateStep({.shape = model.shape(),
                    .parameters = plan.parameters,
                    .mesh = mesh,
                    .communication = result.communication,
                    .machine = plan.machine,
                    .recomputed = plan.recomputation == Recomputation::kBlocks ? 1.0 : 0.0,
                    .row_tokens = result.row_tokens,
                    .microbatch_tokens = result.microbatch_tokens,
                    .microbatches = result.microbatches,
                    .parameters_of_rank = ElementsOfShares(mesh, layouts)});
  return result;
}

}  // namespace

absl::StatusOr<Plan> MakePlan(const Recipe& recipe, const PlanOptions& options) {
  const bool is_cpu = options.device == "CPU";
  Plan plan{.ranks = options.ranks,
            .threads_per_rank = is_cpu ? ThreadsPerRank(recipe, options) : 0,
            .recomputation = RecomputationOf(recipe),
            .windows = is_cpu && !SharderOptionsOf(recipe).messages_only};
  PLAIT_ASSIGN_OR_RETURN(plan.machine, MachineOf(options.device, ComputeDType(recipe),
                                                 std::max<int64_t>(1, plan.threads_per_rank)));
  PLAIT_ASSIGN_OR_RETURN(plan.parameters, CountParameters(recipe.model()));
  PLAIT_ASSIGN_OR_RETURN(const ModelShape shape, ModelShapeOf(recipe));
  PLAIT_ASSIGN_OR_RETURN(const DeviceMesh mesh,
                         MakeUnconnectedMesh(MeshSizesOf(recipe), options.ranks, /*rank=*/0));
  for (int axis = 0; axis < kNumMeshAxes; ++axis) {
    plan.sizes[axis] = mesh.size(static_cast<MeshAxis>(axis));
  }
  const std::unique_ptr<LanguageModel> model =
      LanguageModel::Create(shape, ComputeDType(recipe), plan.recomputation, mesh);
  for (const Stage& stage : recipe.stages()) {
    plan.stages.push_back(PlanStage(recipe, stage, mesh, *model, plan));
  }
  return plan;
}

}  // namespace plait
