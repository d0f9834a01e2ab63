#include "trainer/model_runtime.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/digest.h"
#include "base/exit_code.h"
#include "base/status_macros.h"
#include "kernels/cuda/runtime.h"
#include "parallel/communicator.h"
#include "parallel/status_agreement.h"
#include "recipes/layer_pattern.h"
#include "recipes/pipeline_partition.h"
#include "recipes/recipe_defaults.h"
#include "recipes/recipe_digest.h"
#include "recipes/recipe_loader.h"
#include "trainer/device_world.h"

namespace plait {
namespace {

using recipe::v1::Parallel;
using recipe::v1::Recipe;
using recipe::v1::Trainer;

// The fields that the weights' meaning depends on, one a line.
std::string ModelText(const Recipe& recipe) {
  Recipe part;
  recipe::v1::Model& model = *part.mutable_model();
  model = ResolvedModel(recipe.model());
  if (const auto layers = LayersOf(model); layers.ok()) {
    model.clear_schedule();
    model.set_pattern(ShortestPattern(*layers));
  }
  model.clear_activation_loss();
  model.clear_initializer_range();
  if (model.has_mamba()) model.mutable_mamba()->clear_dt_initialization();
  if (model.has_experts()) {
    model.mutable_experts()->clear_balance_loss_coefficient();
    model.mutable_experts()->clear_z_loss_coefficient();
  }
  return RecipeText(part);
}

// The first line that the texts do not share, from each.
std::pair<std::string, std::string> FirstDifference(const std::string& a, const std::string& b) {
  const std::vector<std::string> lines_a = absl::StrSplit(a, '\n');
  const std::vector<std::string> lines_b = absl::StrSplit(b, '\n');
  size_t i = 0;
  while (i < lines_a.size() && i < lines_b.size() && lines_a[i] == lines_b[i]) ++i;
  const auto line = [i](const std::vector<std::string>& lines) {
    return i < lines.size() ? std::string(absl::StripAsciiWhitespace(lines[i])) : std::string();
  };
  return {line(lines_a), line(lines_b)};
}

}  // namespace

DType ComputeDType(const Recipe& recipe) {
  switch (recipe.trainer().precision()) {
    case Trainer::F64:
      return DType::kF64;
    case Trainer::F32:
      return DType::kF32;
    default:
      return DType::kBf16;
  }
}

Recomputation RecomputationOf(const Recipe& recipe) {
  return recipe.trainer().recomputation() == Trainer::BLOCKS ? Recomputation::kBlocks
                                                             : Recomputation::kNone;
}

SharderOptions SharderOptionsOf(const Recipe& recipe) {
  const Parallel& parallel = recipe.parallel();
  return {.canonical = parallel.reduction() == Parallel::CANONICAL,
          .gradient_wire =
              parallel.gradient_wire_dtype() == Parallel::BF16 ? DType::kBf16 : DType::kF32,
          .messages_only = parallel.transport() == Parallel::MESSAGES};
}

std::array<int64_t, kNumMeshAxes> MeshSizesOf(const Recipe& recipe) {
  const Parallel& parallel = recipe.parallel();
  const auto size = [](int64_t value) { return value > 0 ? value : int64_t{1}; };
  return {size(parallel.pipeline()), size(parallel.replicate()), parallel.shard(),
          size(parallel.context()),  size(parallel.tensor()),    size(parallel.expert())};
}

absl::StatusOr<ModelShape> ModelShapeOf(const Recipe& recipe) {
  PLAIT_ASSIGN_OR_RETURN(ModelShape shape, ModelShape::FromRecipe(recipe.model()));
  if (recipe.parallel().context_attention() == Parallel::RING) {
    shape.context_exchange = ContextExchange::kRing;
  }
  shape.expert_wave_tokens = recipe.parallel().expert_wave_tokens();
  return shape;
}

absl::StatusOr<std::vector<BlockRange>> PipelinePartsOf(const Recipe& recipe) {
  const auto size = [](int64_t value) { return value > 0 ? value : int64_t{1}; };
  return PipelinePartition(recipe.model(), size(recipe.parallel().pipeline()) *
                                               size(recipe.parallel().pipeline_chunks()));
}

absl::StatusOr<ModelRuntime> ModelRuntime::Create(Execution& execution, const Recipe& recipe,
                                                  std::shared_ptr<Communicator> world) {
  ModelRuntime runtime;
  PLAIT_ASSIGN_OR_RETURN(world, DeviceWorld(execution, recipe, std::move(world)));
  PLAIT_ASSIGN_OR_RETURN(DeviceMesh mesh,
                         DeviceMesh::Create(MeshSizesOf(recipe), std::move(world)));
  runtime.mesh = std::make_unique<DeviceMesh>(std::move(mesh));
  PLAIT_ASSIGN_OR_RETURN(const ModelShape shape, ModelShapeOf(recipe));
  PLAIT_ASSIGN_OR_RETURN(std::vector<BlockRange> parts, PipelinePartsOf(recipe));
  runtime.model = LanguageModel::Create(shape, ComputeDType(recipe), RecomputationOf(recipe),
                                        *runtime.mesh, std::move(parts));
  PLAIT_ASSIGN_OR_RETURN(runtime.sharder,
                         ParameterSharder::Create(execution, *runtime.mesh, runtime.model->Units(),
                                                  SharderOptionsOf(recipe)));
  return runtime;
}

int64_t ModelRuntime::AllocatedBytesPeak(const Execution& execution) const {
  return static_cast<int64_t>(execution.allocator().bytes_in_use_peak()) + sharder->window_bytes() +
         mesh->world().device_bytes_peak();
}

absl::StatusOr<ExecutionOptions> ExecutionOptionsFor(const Recipe& recipe, int fair_threads,
                                                     int rank_on_host) {
  const auto threads = static_cast<int>(recipe.trainer().threads_per_rank());
  const int num_threads = threads > 0 ? threads : fair_threads;
  if (recipe.trainer().device() != Trainer::CUDA)
    return ExecutionOptions{.num_threads = num_threads};
  auto options = cuda::OptionsOn(rank_on_host, num_threads);
  if (!options.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("recipe trainer.device = CUDA: ", options.status().message(),
                     "; use AUTO or CPU to train without"));
  }
  return options;
}

std::string ModelDigest(const Recipe& recipe) {
  const std::string text = ModelText(recipe);
  return DigestOf(text.data(), text.size());
}

absl::Status CheckSameModel(const CheckpointReader& checkpoint, const Recipe& recipe) {
  if (checkpoint.description().model_digest == ModelDigest(recipe)) return absl::OkStatus();
  std::string difference;
  if (const auto saved = ParseRecipe(checkpoint.description().recipe_text, checkpoint.folder());
      saved.ok()) {
    const auto [there, here] = FirstDifference(ModelText(*saved), ModelText(recipe));
    difference = absl::StrCat(": it has '", there, "', the recipe has '", here, "'");
  }
  return WithExitCode(absl::FailedPreconditionError(
                          absl::StrCat(checkpoint.folder(), ": is of another model", difference)),
                      ExitCode::kBadCheckpoint);
}

absl::Status LoadWeights(const CheckpointReader& checkpoint, const Recipe& recipe,
                         ModelRuntime& runtime) {
  Execution& execution = runtime.sharder->execution();
  NamedState own;
  runtime.sharder->AppendState(own);
  PLAIT_ASSIGN_OR_RETURN(NamedState state, OnHost(execution, own));
  absl::Status loaded = CheckSameModel(checkpoint, recipe);
  if (loaded.ok()) loaded = checkpoint.Load(UnaskedTensors::kIgnore, state, StoredDTypes::kWiden);
  if (loaded.ok()) loaded = CopyFromHost(execution, state, own);
  PLAIT_RETURN_IF_ERROR(AgreeOnStatus(runtime.mesh->world(), loaded));
  return runtime.sharder->RefreshComputeValues();
}

}  // namespace plait
