#include "trainer/plan.h"

#include <algorithm>
#include <memory>
#include <span>
#include <utility>

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

// One rank of each stage of the pipeline, with its model.
struct PlannedRank {
  std::unique_ptr<DeviceMesh> mesh;
  std::unique_ptr<LanguageModel> model;
  std::vector<PlannedPart> parts;
};

absl::StatusOr<std::vector<PlannedRank>> RanksOfStages(const Recipe& recipe, int64_t world_size) {
  PLAIT_ASSIGN_OR_RETURN(const ModelShape shape, ModelShapeOf(recipe));
  PLAIT_ASSIGN_OR_RETURN(const std::vector<BlockRange> parts, PipelinePartsOf(recipe));
  const std::array<int64_t, kNumMeshAxes> sizes = MeshSizesOf(recipe);
  const int64_t stages = sizes[static_cast<int>(MeshAxis::kPipeline)];
  std::vector<PlannedRank> ranks;
  for (int64_t stage = 0; stage < stages; ++stage) {
    PLAIT_ASSIGN_OR_RETURN(DeviceMesh mesh,
                           MakeUnconnectedMesh(sizes, world_size, stage * (world_size / stages)));
    PlannedRank rank;
    rank.mesh = std::make_unique<DeviceMesh>(std::move(mesh));
    rank.model = LanguageModel::Create(shape, ComputeDType(recipe), RecomputationOf(recipe),
                                       *rank.mesh, parts);
    rank.parts = PartsOfStage(*rank.mesh, parts);
    ranks.push_back(std::move(rank));
  }
  return ranks;
}

StagePlan PlanStage(const Recipe& recipe, const Stage& stage, std::span<const PlannedRank> ranks,
                    const KernelSet& kernels, const Plan& plan) {
  StagePlan result{.name = stage.name(),
                   .row_tokens = stage.row_tokens(),
                   .microbatch_tokens = stage.rows_per_microbatch() * stage.row_tokens(),
                   .tokens_per_step = stage.tokens_per_step(),
                   .flops_per_token = ModelFlopsPerToken(plan.parameters, stage.row_tokens())};
  result.microbatches =
      result.tokens_per_step / result.microbatch_tokens / ranks[0].mesh->data_parallel_size();
  const SharderOptions sharder = SharderOptionsOf(recipe);
  for (const PlannedRank& rank : ranks) {
    const DeviceMesh& mesh = *rank.mesh;
    LanguageModel& model = *rank.model;
    const RankSizes sizes =
        RankSizes::Of(model.shape(), mesh, model.dtype(), result.microbatch_tokens,
                      stage.rows_per_microbatch(), kernels);
    const MemoryPlanOptions options{.recomputation = plan.recomputation,
                                    .sharder = sharder,
                                    .windows = plan.windows,
                                    .microbatches = result.microbatches,
                                    .parts = rank.parts};
    MemoryPlan memory = PlanMemory(mesh, model, sizes, options);
    if (memory.total <= result.memory.total) continue;
    result.memory = std::move(memory);
    result.pipeline_stage = mesh.coordinate(MeshAxis::kPipeline);
    const auto layouts = SectionLayouts(mesh, model.Units(), sharder);
    StepShape step = ShapeOfStep(model.shape(), result.microbatches);
    step.chunks = static_cast<int64_t>(rank.parts.size());
    step.stream_bytes =
        sizes.rows * model.shape().model_dim * static_cast<int64_t>(SizeOf(sizes.dtype));
    step.experts = model.shape().experts;
    result.communication = PlanStep(mesh, layouts, sharder, plan.windows, step);
    AddLayerTraffic(model.shape(), mesh, sizes, options, result.communication);
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
                      .chunks = step.chunks,
                      .parameters_of_rank = ElementsOfShares(mesh, layouts)});
  }
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
  PLAIT_ASSIGN_OR_RETURN(const std::vector<PlannedRank> ranks,
                         RanksOfStages(recipe, options.ranks));
  for (int axis = 0; axis < kNumMeshAxes; ++axis) {
    plan.sizes[axis] = ranks[0].mesh->size(static_cast<MeshAxis>(axis));
  }
  const KernelSet kernels = {.device = is_cpu ? DeviceKind::kCpu : DeviceKind::kCuda,
                             .threads = static_cast<int>(plan.threads_per_rank),
                             .libraries = options.libraries};
  for (const Stage& stage : recipe.stages()) {
    plan.stages.push_back(PlanStage(recipe, stage, ranks, kernels, plan));
  }
  return plan;
}

}  // namespace plait
