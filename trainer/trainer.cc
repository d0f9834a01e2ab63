#include "trainer/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/durable_file.h"
#include "base/exit_code.h"
#include "base/folder_lock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/checkpoint_writer.h"
#include "checkpoint/retention.h"
#include "data/hdf5_token_source.h"
#include "data/prefetching_loader.h"
#include "data/prepared_manifest.h"
#include "data/tokenizer.h"
#include "kernels/cuda/runtime.h"
#include "kernels/gemm_peak.h"
#include "optim/adamw.h"
#include "optim/learning_rate_schedule.h"
#include "parallel/host_collectives.h"
#include "parallel/host_share.h"
#include "parallel/parameter_digest.h"
#include "parallel/status_agreement.h"
#include "recipes/parameter_count.h"
#include "recipes/recipe_digest.h"
#include "recipes/recipe_loader.h"
#include "recipes/schema/recipe.pb.h"
#include "trainer/device_memory.h"
#include "trainer/evaluation.h"
#include "trainer/initial_checkpoint.h"
#include "trainer/metrics.h"
#include "trainer/model_runtime.h"
#include "trainer/pretraining_objective.h"
#include "trainer/process_usage.h"
#include "trainer/run_position.h"
#include "trainer/run_record.h"
#include "trainer/training_step.h"

namespace plait {
namespace {

using recipe::v1::Recipe;
using recipe::v1::Stage;
using Clock = std::chrono::steady_clock;

constexpr int64_t kMaxRecipeBytes = 16 << 20;
constexpr char kTokens[] = "trainer.tokens";
constexpr char kSkippedSteps[] = "trainer.skipped_steps";
constexpr char kDataFingerprint[] = "data.fingerprint";
// Shards up to here are read whole before the first step: a quarter of a second where cached.
constexpr int64_t kVerifiedShardBytes = int64_t{256} << 20;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

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

struct Trainer::State {
  State(const Recipe& resolved, const TrainerOptions& trainer_options,
        const ExecutionOptions& execution_options)
      : recipe(resolved), options(trainer_options), execution(execution_options) {}

  const Recipe recipe;
  const TrainerOptions options;
  Execution execution;
  ModelRuntime runtime;
  std::unique_ptr<Hdf5TokenSource> source;
  std::map<std::string, std::string> tokenizer;  // files by name: bytes
  // Rank 0's: what the checkpoints carry beside the tokenizer, from the initial one.
  std::map<std::string, std::string> attachments;
  std::unique_ptr<AdamW> optimizer;
  PretrainingObjective objective;
  std::unique_ptr<TrainingStep> training_step;
  std::unique_ptr<Evaluation> evaluation;  // absent: nothing is held out
  std::unique_ptr<CheckpointWriter> writer;
  FolderLock lock;                       // rank 0's
  RunRecord record = RunRecord::None();  // rank 0's writes
  ParameterCount parameters;
  double fair_cores = 1;  // of this rank
  double gemm_peak_flops_per_second = 0;
  int64_t allocated_bytes_peak = 0;

  int64_t step = 0;  // done
  int64_t tokens = 0;
  int64_t skipped_steps = 0;
  int64_t saved_step = -1;
  bool is_resumed = false;
  std::string resumed_digest;  // of the parameters; empty where the run is not resumed
  std::optional<double> loss;  // of the last step
  std::string checkpoint;

  bool is_first() const { return options.world->rank() == 0; }
  std::string recipe_path() const { return absl::StrCat(options.output, "/recipe.textproto"); }
  std::string metrics_path() const { return absl::StrCat(options.output, "/metrics.jsonl"); }
  // What all ranks know alike: the first one says it.
  void Warn(const std::string& message) const {
    if (is_first()) LogWarning(message);
  }
  std::string checkpoints_folder() const { return absl::StrCat(options.output, "/checkpoints"); }

  absl::Status OpenData();
  absl::Status BuildModel();
  absl::Status FindStart(std::optional<CheckpointReader>& reader);
  absl::Status StartOrResume();
  absl::Status OpenRunFolder();
  absl::Status FindRunFolder() const;
  absl::Status Restore(const CheckpointReader& reader);
  absl::Status TakeWeights(const CheckpointReader& reader);
  absl::Status KeepAttachments(const CheckpointReader& reader);
  NamedState SavedState();

  absl::Status RunStage(const RunPosition& start, bool* stopped);
  absl::Status RunStep(PrefetchingLoader& loader, const Stage& stage, double learning_rate);
  absl::Status FinishStep(const StepMetrics& step_metrics);
  absl::Status AtBoundary();
  absl::Status Evaluate();
  absl::Status Save();
  absl::Status MeasurePeak();
  absl::StatusOr<bool> ShouldStop(StopReason* reason);
};

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
  PLAIT_RETURN_IF_ERROR(WriteFileDurably(recipe_path(), RecipeText(recipe)));
  PLAIT_ASSIGN_OR_RETURN(record, RunRecord::Open(options.output, step, TotalSteps(recipe)));
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

absl::Status Trainer::State::RunStage(const RunPosition& start, bool* stopped) {
  const Stage& stage = recipe.stages(start.stage);
  const LearningRateSchedule schedule(stage.schedule(), stage.steps());
  PLAIT_ASSIGN_OR_RETURN(
      const auto loader,
      PrefetchingLoader::Create(
          *source, {.rows = {.stage = start.stage,
                             .row_tokens = stage.row_tokens(),
                             .rows_per_step = stage.tokens_per_step() / stage.row_tokens()},
                    .rows_per_microbatch = stage.rows_per_microbatch(),
                    .data_parallel_rank = runtime.mesh->data_parallel_rank(),
                    .data_parallel_size = runtime.mesh->data_parallel_size(),
                    .first_step = start.step,
                    .end_step = stage.steps(),
                    .steps_ahead = recipe.data().prefetch_batches()}));
  for (int64_t s = start.step; s < stage.steps(); ++s) {
    PLAIT_RETURN_IF_ERROR(
        Annotate(RunStep(*loader, stage, schedule.At(s)), absl::StrCat("step ", step + 1)));
    PLAIT_RETURN_IF_ERROR(AtBoundary());
    StopReason reason;
    PLAIT_ASSIGN_OR_RETURN(*stopped, ShouldStop(&reason));
    if (*stopped) return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::Status Trainer::State::RunStep(PrefetchingLoader& loader, const Stage& stage,
                                     double learning_rate) {
  const Clock::time_point start = Clock::now();
  const int64_t waited = options.world->ledger().waited_nanoseconds();
  PLAIT_ASSIGN_OR_RETURN(const std::vector<Batch> microbatches, loader.NextStep());
  StepMetrics step_metrics;
  PLAIT_ASSIGN_OR_RETURN(step_metrics.result, training_step->Run(microbatches, learning_rate));
  step_metrics.step_seconds = SecondsSince(start);
  step_metrics.step = step + 1;
  step_metrics.stage = stage.name();
  step_metrics.learning_rate = learning_rate;
  step_metrics.data_wait_seconds = loader.TakeWaitSeconds();
  step_metrics.model_flops =
      step_metrics.result.counts.real_tokens * ModelFlopsPerToken(parameters, stage.row_tokens());
  step_metrics.memory_bytes = PeakResidentBytes();
  allocated_bytes_peak = std::max(allocated_bytes_peak, runtime.AllocatedBytesPeak(execution));
  step_metrics.device = execution.device().kind;
  step_metrics.allocated_bytes_peak = allocated_bytes_peak;
  step_metrics.reserved_bytes_peak =
      static_cast<int64_t>(execution.allocator().reserved_bytes_needed());
  step_metrics.pinned_bytes_peak = static_cast<int64_t>(execution.pinned_bytes_peak());
  step_metrics.num_ranks = options.world->size();
  step_metrics.communication_wait_seconds =
      1e-9 * static_cast<double>(options.world->ledger().waited_nanoseconds() - waited);
  return FinishStep(step_metrics);
}

absl::Status Trainer::State::FinishStep(const StepMetrics& step_metrics) {
  const StepResult& result = step_metrics.result;
  ++step;
  tokens += static_cast<int64_t>(result.counts.real_tokens);
  loss = result.loss();
  StepMetrics complete = step_metrics;
  const int64_t every = std::max<int64_t>(1, recipe.trainer().log_every_steps());
  const bool log = step % every == 0 || step == TotalSteps(recipe);
  // Not before the first step, which should come soon, and not in a run too short to log.
  if (step % every == 0) PLAIT_RETURN_IF_ERROR(MeasurePeak());
  complete.gemm_peak_flops_per_second = gemm_peak_flops_per_second;
  if (const int64_t digests = recipe.debug().parameter_digest_every_steps();
      digests > 0 && step % digests == 0) {
    PLAIT_ASSIGN_OR_RETURN(complete.parameter_digest,
                           ParameterDigest(execution, *runtime.mesh, runtime.sharder->sharded()));
  }
  PLAIT_RETURN_IF_ERROR(record.WriteStep(complete));
  if (log) LogInfo(ConsoleLine(complete, TotalSteps(recipe)));
  if (result.not_finite.empty()) return absl::OkStatus();

  const std::string what = absl::StrCat(result.not_finite, " is not finite (loss ", result.loss(),
                                        ", gradient norm ", result.gradient_norm, ")");
  if (recipe.trainer().non_finite() == recipe::v1::Trainer::SKIP) {
    ++skipped_steps;
    Warn(absl::StrCat("step ", step, ": ", what, "; no update in this step, ", skipped_steps,
                      " skipped so far"));
    return absl::OkStatus();
  }
  PLAIT_RETURN_IF_ERROR(record.WriteStop(step, what));
  // All ranks know; none needs to abort the others.
  return AgreeOnStatus(
      *options.world,
      WithExitCode(absl::FailedPreconditionError(absl::StrCat(
                       what,
                       "; no update was made. Lower the learning rate, or skip such steps with "
                       "--set trainer.non_finite=SKIP")),
                   ExitCode::kNumericFault));
}

absl::Status Trainer::State::AtBoundary() {
  const recipe::v1::Trainer& settings = recipe.trainer();
  const auto due = [this](int64_t every) { return every > 0 && step % every == 0; };
  const bool run_ends = step == TotalSteps(recipe);
  const bool stage_ends = run_ends || PositionOf(recipe, step).step == 0;
  if (run_ends || due(settings.evaluate_every_steps())) PLAIT_RETURN_IF_ERROR(Evaluate());
  if (stage_ends || due(settings.checkpoint_every_steps())) PLAIT_RETURN_IF_ERROR(Save());
  return absl::OkStatus();
}

absl::Status Trainer::State::Evaluate() {
  if (evaluation == nullptr) return absl::OkStatus();
  const Clock::time_point start = Clock::now();
  PLAIT_ASSIGN_OR_RETURN(const EvaluationResult result, evaluation->Run(execution, runtime));
  const double seconds = SecondsSince(start);
  LogInfo(absl::StrFormat("step %d held out: loss %.4f, %.4f bits per byte over %d bytes, %.1f s",
                          step, result.loss, result.bits_per_byte, result.text_bytes, seconds));
  PLAIT_RETURN_IF_ERROR(record.WriteEvaluation(step, result, seconds));
  // Before the first step, the step says more.
  if (std::isfinite(result.loss) || step == 0 ||
      recipe.trainer().non_finite() == recipe::v1::Trainer::SKIP) {
    return absl::OkStatus();
  }
  const std::string what = "the held-out loss is not finite";
  PLAIT_RETURN_IF_ERROR(record.WriteStop(step, what));
  // All ranks know; none needs to abort the others.
  return AgreeOnStatus(
      *options.world,
      WithExitCode(
          absl::FailedPreconditionError(absl::StrCat(
              "step ", step, ": ", what,
              ": the weights have diverged, and are not saved. Lower the learning rate and "
              "go on from the last checkpoint with --resume")),
          ExitCode::kNumericFault));
}

absl::Status Trainer::State::Save() {
  if (saved_step == step) return absl::OkStatus();
  const CollectiveLedger::Patience patience(options.world->ledger());
  const Clock::time_point start = Clock::now();
  CheckpointContent content;
  content.description = {.step = step,
                         .stage = PositionOf(recipe, step).stage,
                         .recipe_text = RecipeText(recipe),
                         .recipe_digest = RecipeDigest(recipe),
                         .model_digest = ModelDigest(recipe),
                         .tokenizer_digest = source->tokenizer_digest()};
  PLAIT_ASSIGN_OR_RETURN(content.state, OnHost(execution, SavedState()));
  content.attachments = attachments;
  for (const auto& [name, bytes] : tokenizer) content.attachments[name] = bytes;
  PLAIT_ASSIGN_OR_RETURN(checkpoint, writer->Save(content));
  saved_step = step;
  const double seconds = SecondsSince(start);
  LogInfo(absl::StrFormat("step %d saved: %s, %.2f s", step, checkpoint, seconds));
  PLAIT_ASSIGN_OR_RETURN(const std::string digest,
                         ParameterDigest(execution, *runtime.mesh, runtime.sharder->sharded()));
  return record.WriteCheckpoint(step, checkpoint, digest, seconds);
}

absl::Status Trainer::State::MeasurePeak() {
  if (gemm_peak_flops_per_second > 0 || runtime.model->dtype() == DType::kF64)
    return absl::OkStatus();
  constexpr double kSecondsPerShape = 0.02;
  // All ranks at once: they share caches and memory.
  Communicator& world = *options.world;
  PLAIT_RETURN_IF_ERROR(world.Barrier());
  PLAIT_ASSIGN_OR_RETURN(const GemmPeak peak,
                         MeasureGemmPeak(execution, runtime.model->dtype(), kSecondsPerShape));
  execution.allocator().ResetPeak();  // its matrices are no step's
  // The best of short products is that of cores of one's own, which ranks beyond the cores have
  // not.
  double sum = peak.best_flops_per_second *
               std::min(1.0, fair_cores / static_cast<double>(execution.num_threads()));
  PLAIT_RETURN_IF_ERROR(AllReduceOnHost(world, {&sum, DType::kF64, 1}, ReduceOperation::kSum));
  gemm_peak_flops_per_second = sum;
  return absl::OkStatus();
}

// The same answer on every rank. The end of the run is no stop.
absl::StatusOr<bool> Trainer::State::ShouldStop(StopReason* reason) {
  if (step >= TotalSteps(recipe)) return false;
  const bool requested = options.stop_requested != nullptr && options.stop_requested->load();
  Tensor flag = Tensor::FromValues<double>({1}, {requested ? 1.0 : 0.0});
  PLAIT_RETURN_IF_ERROR(AllReduceOnHost(*options.world, flag.vector(), ReduceOperation::kMax));
  const int64_t stop_after = recipe.debug().stop_after_steps();
  *reason = flag.data<double>()[0] > 0 ? StopReason::kRequested : StopReason::kStopAfter;
  return *reason == StopReason::kRequested || (stop_after > 0 && step >= stop_after);
}

Trainer::Trainer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Trainer::~Trainer() = default;
ParameterSharder& Trainer::sharder() { return *state_->runtime.sharder; }

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

absl::StatusOr<RunResult> Trainer::Run() {
  State& run = *state_;
  const double ready_seconds = SecondsSinceProcessStart();
  LogInfo(absl::StrFormat(
      "%d parameters, %d rank%s of %s, ready %.2f s after the process started",
      run.parameters.total, run.options.world->size(), run.options.world->size() == 1 ? "" : "s",
      run.execution.runtime() != nullptr ? run.execution.runtime()->DeviceName()
                                         : absl::StrCat(run.execution.num_threads(), " threads"),
      ready_seconds));
  PLAIT_RETURN_IF_ERROR(run.record.WriteStart(
      run.step, RecipeDigest(run.recipe), run.parameters.total, ready_seconds, run.resumed_digest));
  if (run.step == 0) PLAIT_RETURN_IF_ERROR(run.Evaluate());

  RunResult result;
  PLAIT_ASSIGN_OR_RETURN(bool stopped, run.ShouldStop(&result.reason));
  while (!stopped && run.step < TotalSteps(run.recipe)) {
    PLAIT_RETURN_IF_ERROR(run.RunStage(PositionOf(run.recipe, run.step), &stopped));
  }
  if (stopped) {
    PLAIT_RETURN_IF_ERROR(run.ShouldStop(&result.reason).status());
    PLAIT_RETURN_IF_ERROR(run.Save());
  } else {
    result.reason = StopReason::kFinished;
  }
  const char* const reasons[] = {"finished", "debug.stop_after_steps", "requested"};
  PLAIT_RETURN_IF_ERROR(run.record.WriteStop(run.step, reasons[static_cast<int>(result.reason)]));
  result.step = run.step;
  result.checkpoint = run.checkpoint;
  result.loss = run.loss;
  return result;
}

}  // namespace plait
