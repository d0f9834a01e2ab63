#include "trainer/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/exit_code.h"
#include "base/status_macros.h"
#include "kernels/gemm_peak.h"
#include "optim/learning_rate_schedule.h"
#include "parallel/host_collectives.h"
#include "parallel/parameter_digest.h"
#include "parallel/status_agreement.h"
#include "recipes/recipe_digest.h"
#include "recipes/recipe_loader.h"
#include "recipes/schema/recipe.pb.h"
#include "trainer/process_usage.h"
#include "trainer/trainer_state.h"

namespace plait {
namespace {

using recipe::v1::Stage;
using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

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
  const bool stage_ends = step == TotalSteps(recipe) || PositionOf(recipe, step).step == 0;
  if (IsEvaluationDue()) PLAIT_RETURN_IF_ERROR(Evaluate());
  if (stage_ends || due(settings.checkpoint_every_steps())) PLAIT_RETURN_IF_ERROR(Save());
  return absl::OkStatus();
}

bool Trainer::State::IsEvaluationDue() const {
  const int64_t every = recipe.trainer().evaluate_every_steps();
  return step == 0 || step == TotalSteps(recipe) || (every > 0 && step % every == 0);
}

absl::Status Trainer::State::Evaluate() {
  if (evaluation == nullptr) return absl::OkStatus();
  const Clock::time_point start = Clock::now();
  // What a launcher leaves a run to save itself may be shorter than this.
  const auto go_on = [this](double done) -> absl::StatusOr<bool> {
    if (is_first()) SetStatusLine(absl::StrFormat("step %d held out: %.0f %%", step, 100 * done));
    PLAIT_ASSIGN_OR_RETURN(const bool requested, StopRequested());
    return !requested;
  };
  PLAIT_ASSIGN_OR_RETURN(const EvaluationResult result, evaluation->Run(execution, runtime, go_on));
  if (is_first()) SetStatusLine("");
  is_evaluation_cut_off = !result.is_whole;
  if (result.is_whole) {
    const double seconds = SecondsSince(start);
    LogInfo(absl::StrFormat("step %d held out: loss %.4f, %.4f bits per byte over %d bytes, %.1f s",
                            step, result.loss, result.bits_per_byte, result.text_bytes, seconds));
    PLAIT_RETURN_IF_ERROR(record.WriteEvaluation(step, result, seconds));
    evaluated_step = step;
  } else {
    LogInfo(absl::StrCat("step ", step, " held out: cut off, for a stop was requested"));
  }
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
      WithExitCode(absl::FailedPreconditionError(absl::StrCat(
                       "step ", step, ": ", what, ": the weights have diverged",
                       saved_step == step ? absl::StrCat(". Remove ", checkpoint, ", lower")
                                          : ", and are not saved. Lower",
                       " the learning rate and go on from the last checkpoint with --resume")),
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

// Collective: of any of the ranks.
absl::StatusOr<bool> Trainer::State::StopRequested() {
  const bool requested = options.stop_requested && options.stop_requested();
  Tensor flag = Tensor::FromValues<double>({1}, {requested ? 1.0 : 0.0});
  PLAIT_RETURN_IF_ERROR(AllReduceOnHost(*options.world, flag.vector(), ReduceOperation::kMax));
  return flag.data<double>()[0] > 0;
}

// The same answer on every rank. The end of the run is no stop.
absl::StatusOr<bool> Trainer::State::ShouldStop(StopReason* reason) {
  if (step >= TotalSteps(recipe)) return false;
  PLAIT_ASSIGN_OR_RETURN(const bool requested, StopRequested());
  const int64_t stop_after = recipe.debug().stop_after_steps();
  *reason = requested ? StopReason::kRequested : StopReason::kStopAfter;
  return *reason == StopReason::kRequested || (stop_after > 0 && step >= stop_after);
}

Trainer::Trainer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Trainer::~Trainer() = default;
ParameterSharder& Trainer::sharder() { return *state_->runtime.sharder; }

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
  // Before the first step, and where a stop cut it off.
  if (run.IsEvaluationDue() && run.evaluated_step != run.step) {
    PLAIT_RETURN_IF_ERROR(run.Evaluate());
  }

  RunResult result;
  PLAIT_ASSIGN_OR_RETURN(bool stopped, run.ShouldStop(&result.reason));
  while (!stopped && run.step < TotalSteps(run.recipe)) {
    PLAIT_RETURN_IF_ERROR(run.RunStage(PositionOf(run.recipe, run.step), &stopped));
  }
  if (stopped) {
    PLAIT_RETURN_IF_ERROR(run.ShouldStop(&result.reason).status());
    PLAIT_RETURN_IF_ERROR(run.Save());
  } else {
    result.reason = run.is_evaluation_cut_off ? StopReason::kRequested : StopReason::kFinished;
  }
  const char* const reasons[] = {"finished", "debug.stop_after_steps", "requested"};
  PLAIT_RETURN_IF_ERROR(run.record.WriteStop(run.step, reasons[static_cast<int>(result.reason)]));
  result.step = run.step;
  result.checkpoint = run.checkpoint;
  result.loss = run.loss;
  return result;
}

}  // namespace plait
