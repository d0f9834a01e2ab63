// From a recipe to a trainer that can run: data, model, checkpoint, the run's folder.
#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/durable_file.h"
#include "base/status_macros.h"
#include "checkpoint/retention.h"
#include "data/prepared_manifest.h"
#include "data/tokenizer.h"
#include "kernels/cuda/runtime.h"
#include "parallel/host_collectives.h"
#include "parallel/host_share.h"
#include "parallel/parameter_digest.h"
#include "parallel/status_agreement.h"
#include "recipes/recipe_digest.h"
#include "recipes/recipe_loader.h"
#include "recipes/schema/recipe.pb.h"
#include "trainer/device_memory.h"
#include "trainer/initial_checkpoint.h"
#include "trainer/trainer_state.h"

namespace plait {
namespace {

using recipe::v1::Recipe;
using recipe::v1::Stage;

constexpr int64_t kMaxRecipeBytes = 16 << 20;
constexpr char kTokens[] = "trainer.tokens";
constexpr char kSkippedSteps[] = "trainer.skipped_steps";
constexpr char kDataFingerprint[] = "data.fingerprint";
// Shards up to here are read whole before the first step: a quarter of a second where cached.
constexpr int64_t kVerifiedShardBytes = int64_t{256} << 20;

// Rows as long as the run's longest: what every stage is judged by.
EvaluationOptions EvaluationOptionsFor(const Recipe& recipe) {
  EvaluationOptions options{.folder = recipe.data().path(),
                            .max_tokens = recipe.trainer().evaluation_tokens()};
  for (const Stage& stage : recipe.stages()) {
    if (stage.row_tokens() < options.row_tokens) continue;
    options.row_tokens = stage.row_tokens();
    options.rows_per_batch = stage.rows_per_microbatch();
  }
  return options;
}

}  // namespace

Trainer::State::State(const Recipe& resolved, const TrainerOptions& trainer_options,
                      const ExecutionOptions& execution_options)
    : own_recipe(std::make_unique<Recipe>(resolved)),
      recipe(*own_recipe),
      options(trainer_options),
      execution(execution_options) {}

Trainer::State::~State() = default;

absl::Status Trainer::State::OpenData() {
  const std::string& folder = recipe.data().path();
  PLAIT_ASSIGN_OR_RETURN(source, Hdf5TokenSource::Open(folder, recipe.seed()));
  if (source->vocabulary_size() > recipe.model().vocabulary()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "recipe model.vocabulary = ", recipe.model().vocabulary(),
        " is smaller than the vocabulary of ", folder, ", ", source->vocabulary_size()));
  }
  PLAIT_RETURN_IF_ERROR(VerifyPrepared(folder, kVerifiedShardBytes));
  PLAIT_ASSIGN_OR_RETURN(tokenizer, ReadTokenizerFiles(folder, source->tokenizer_name()));
  PLAIT_ASSIGN_OR_RETURN(evaluation, Evaluation::Create(EvaluationOptionsFor(recipe)));
  if (evaluation == nullptr) Warn(folder + ": nothing is held out; no evaluation");
  return absl::OkStatus();
}

absl::Status Trainer::State::BuildModel() {
  PLAIT_RETURN_IF_ERROR(ReserveDeviceMemory(execution, recipe, options.world->size()));
  PLAIT_ASSIGN_OR_RETURN(runtime, ModelRuntime::Create(execution, recipe, options.world));
  PLAIT_ASSIGN_OR_RETURN(
      optimizer, AdamW::Create(execution, recipe.optim().adamw(), runtime.sharder->sharded()));
  training_step = std::make_unique<TrainingStep>(execution, runtime, *optimizer, objective,
                                                 recipe.optim().gradient_clip_norm());
  PLAIT_ASSIGN_OR_RETURN(parameters, CountParameters(recipe.model()));
  writer = std::make_unique<CheckpointWriter>(
      runtime.mesh->world(), checkpoints_folder(),
      std::max<int64_t>(1, recipe.trainer().checkpoints_to_keep()));
  return absl::OkStatus();
}

// Where the folder holds no run, a recipe in it is somebody's own.
absl::Status Trainer::State::CheckNoOtherRecipe() const {
  std::error_code error;
  if (std::filesystem::exists(metrics_path(), error) ||
      !std::filesystem::exists(recipe_path(), error)) {
    return absl::OkStatus();
  }
  const absl::StatusOr<std::string> there = ReadWholeFile(recipe_path(), kMaxRecipeBytes);
  if (there.ok() && *there == RecipeText(recipe)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(recipe_path(),
                   ": the run would write its own recipe over it; move it, or take "
                   "another --output"));
}

// Collective. The checkpoint that the run starts from: its own newest one where it is resumed, else
// the recipe's; absent where there is none.
absl::Status Trainer::State::FindStart(std::optional<CheckpointReader>& reader) {
  Communicator& world = *options.world;
  absl::Status allowed;
  std::error_code error;
  if (std::filesystem::exists(options.output, error) &&
      !std::filesystem::is_directory(options.output, error)) {
    allowed = absl::InvalidArgumentError(
        absl::StrCat(options.output, ": is no folder; name another with --output"));
  }
  PLAIT_RETURN_IF_ERROR(AgreeOnStatus(world, allowed));
  PLAIT_ASSIGN_OR_RETURN(const auto entries, ListCheckpoints(world, checkpoints_folder()));
  if (!options.resume && (!entries.empty() || std::filesystem::exists(metrics_path(), error))) {
    allowed = absl::FailedPreconditionError(absl::StrCat(
        options.output, ": holds a run already; go on with --resume or take another --output"));
  }
  if (allowed.ok() && entries.empty()) allowed = CheckNoOtherRecipe();
  PLAIT_RETURN_IF_ERROR(AgreeOnStatus(world, allowed));
  if (options.resume && entries.empty())
    LogInfo(absl::StrCat(options.output, ": holds no checkpoint; the run begins at step 0"));
  is_resumed = !entries.empty();
  const std::string& initial = recipe.trainer().initial_checkpoint();
  if (!is_resumed && initial.empty()) return absl::OkStatus();
  std::vector<RejectedCheckpoint> rejected;
  auto opened = is_resumed ? OpenNewestCheckpoint(world, checkpoints_folder(), &rejected)
                           : OpenCheckpointOrRun(world, initial, &rejected);
  for (const RejectedCheckpoint& bad : rejected) {
    Warn(absl::StrCat("passed over: ", bad.reason));
  }
  PLAIT_RETURN_IF_ERROR(opened.status());
  reader = *std::move(opened);
  return absl::OkStatus();
}

absl::Status Trainer::State::StartOrResume() {
  std::optional<CheckpointReader> reader;
  PLAIT_RETURN_IF_ERROR(FindStart(reader));
  if (!reader) {
    PLAIT_RETURN_IF_ERROR(runtime.model->Initialize(*runtime.sharder, recipe.seed()));
  } else if (is_resumed) {
    PLAIT_RETURN_IF_ERROR(AgreeOnStatus(*options.world, Restore(*reader)));
    PLAIT_RETURN_IF_ERROR(runtime.sharder->RefreshComputeValues());
    PLAIT_ASSIGN_OR_RETURN(resumed_digest,
                           ParameterDigest(execution, *runtime.mesh, runtime.sharder->sharded()));
  } else {
    PLAIT_RETURN_IF_ERROR(TakeWeights(*reader));
  }
  // Only now: whatever was wrong before leaves no folder behind.
  PLAIT_RETURN_IF_ERROR(
      AgreeOnStatus(*options.world, is_first() ? OpenRunFolder() : absl::OkStatus()));
  PLAIT_RETURN_IF_ERROR(AgreeOnStatus(*options.world, FindRunFolder()));
  PLAIT_RETURN_IF_ERROR(
      AllReduceOnHost(*options.world, {&evaluated_step, DType::kI64, 1}, ReduceOperation::kMax));
  return writer->RemoveLeftovers();
}

// Collective. The weights of the recipe's initial checkpoint; the optimizer begins anew.
absl::Status Trainer::State::TakeWeights(const CheckpointReader& reader) {
  PLAIT_RETURN_IF_ERROR(LoadWeights(reader, recipe, runtime));
  absl::Status kept =
      CheckSameTokenizer(*options.world, reader, recipe.data().path(), source->tokenizer_digest());
  if (kept.ok()) kept = KeepAttachments(reader);
  PLAIT_RETURN_IF_ERROR(AgreeOnStatus(*options.world, kept));
  LogInfo(absl::StrCat("starts from the weights of ", reader.folder()));
  return absl::OkStatus();
}

absl::Status Trainer::State::KeepAttachments(const CheckpointReader& reader) {
  if (!is_first()) return absl::OkStatus();
  PLAIT_ASSIGN_OR_RETURN(attachments, AttachmentsOf(reader));
  return absl::OkStatus();
}

// Rank 0 keeps the run's own files.
absl::Status Trainer::State::OpenRunFolder() {
  std::error_code error;
  std::filesystem::create_directories(options.output, error);
  if (error) return SystemError(options.output, "cannot be made", error.value());
  PLAIT_ASSIGN_OR_RETURN(lock, FolderLock::Take(options.output));
  // The recipe last: beside metrics it is a run's.
  PLAIT_ASSIGN_OR_RETURN(record, RunRecord::Open(options.output, step, TotalSteps(recipe)));
  evaluated_step = record.evaluated_step();
  PLAIT_RETURN_IF_ERROR(WriteFileDurably(recipe_path(), RecipeText(recipe)));
  return absl::OkStatus();
}

// What rank 0 wrote must be there for all: each rank saves its part of a checkpoint into the
// folder.
absl::Status Trainer::State::FindRunFolder() const {
  const absl::StatusOr<std::string> found = ReadWholeFile(recipe_path(), kMaxRecipeBytes);
  if (found.ok() && *found == RecipeText(recipe)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(options.output,
                   ": is not the folder here that rank 0 sees; the output must lie on a file "
                   "system that all ranks share"));
}

absl::Status Trainer::State::Restore(const CheckpointReader& reader) {
  const CheckpointDescription& description = reader.description();
  PLAIT_RETURN_IF_ERROR(CheckSameModel(reader, recipe));
  if (description.tokenizer_digest != source->tokenizer_digest()) {
    return absl::FailedPreconditionError(
        absl::StrCat(recipe.data().path(), ": its tokenizer has digest ",
                     source->tokenizer_digest(), ", that of ", reader.folder(), " ",
                     description.tokenizer_digest, "; resume on the data the run began with"));
  }
  if (description.step > TotalSteps(recipe)) {
    return absl::FailedPreconditionError(
        absl::StrCat("recipe stages: their steps are ", TotalSteps(recipe), " together, ",
                     reader.folder(), " has ", description.step, " already; ask for more steps"));
  }
  const auto saved = ParseRecipe(description.recipe_text, reader.folder());
  if (saved.ok()) {
    PLAIT_RETURN_IF_ERROR(CheckSamePosition(*saved, recipe, description.step, reader.folder()));
  }
  NamedState own = SavedState();
  PLAIT_ASSIGN_OR_RETURN(NamedState state, OnHost(execution, own));
  PLAIT_RETURN_IF_ERROR(reader.Load(UnaskedTensors::kRefuse, state));
  PLAIT_RETURN_IF_ERROR(CopyFromHost(execution, state, own));
  if (state.texts[kDataFingerprint] != source->fingerprint()) {
    return absl::FailedPreconditionError(
        absl::StrCat(recipe.data().path(), ": is not the data that ", reader.folder(),
                     " was trained on; resume on the data the run began with"));
  }
  PLAIT_RETURN_IF_ERROR(optimizer->RestoreScalars(state));
  PLAIT_RETURN_IF_ERROR(KeepAttachments(reader));
  if (description.recipe_digest != RecipeDigest(recipe)) {
    Warn(absl::StrCat("the recipe is not the one that ", reader.folder(), " was saved with",
                      saved.ok() ? absl::StrCat(": ", RecipeDifferences(*saved, recipe)) : ""));
  }
  step = saved_step = description.step;
  tokens = state.integers[kTokens];
  skipped_steps = state.integers[kSkippedSteps];
  checkpoint = reader.folder();
  LogInfo(absl::StrCat("resumed at step ", step, " from ", reader.folder()));
  return absl::OkStatus();
}

NamedState Trainer::State::SavedState() {
  NamedState state;
  runtime.sharder->AppendState(state);
  optimizer->AppendState(state);
  state.integers[kTokens] = tokens;
  state.integers[kSkippedSteps] = skipped_steps;
  state.texts[kDataFingerprint] = source->fingerprint();
  return state;
}

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const Recipe& recipe,
                                                         const TrainerOptions& options) {
  TrainerOptions complete = options;
  if (complete.world == nullptr) complete.world = MakeSingleRankCommunicator();
  Communicator& world = *complete.world;
  PLAIT_RETURN_IF_ERROR(CheckSameText(world, "the recipe", RecipeText(recipe)));
  PLAIT_ASSIGN_OR_RETURN(const HostShare host, ShareOfHost(world));
  const auto execution_options = ExecutionOptionsFor(recipe, host.fair_threads, host.rank_on_host);
  PLAIT_RETURN_IF_ERROR(AgreeOnStatus(world, execution_options.status()));
  if (world.rank() == 0 && recipe.trainer().device() == recipe::v1::Trainer::AUTO &&
      !cuda::IsEmulated() && cuda::NumDevices() > 0) {
    LogWarning("trainer.device = AUTO is the CPU; --set trainer.device=CUDA uses the GPU");
  }
  world.ledger().set_check(recipe.debug().check_collectives());
  // Data and checkpoints are read from here on.
  const CollectiveLedger::Patience patience(world.ledger());
  auto state = std::make_unique<State>(recipe, complete, *execution_options);
  state->fair_cores = host.fair_cores;
  PLAIT_RETURN_IF_ERROR(AgreeOnStatus(world, state->OpenData()));
  PLAIT_RETURN_IF_ERROR(CheckSameText(world, "the data", state->source->fingerprint()));
  PLAIT_RETURN_IF_ERROR(state->BuildModel());
  PLAIT_RETURN_IF_ERROR(state->StartOrResume());
  return std::unique_ptr<Trainer>(new Trainer(std::move(state)));
}

}  // namespace plait
