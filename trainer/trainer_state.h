// What a trainer holds: made by trainer_start.cc, run by trainer.cc, the only two that include
// this.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/execution.h"
#include "base/folder_lock.h"
#include "base/log.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/checkpoint_writer.h"
#include "data/hdf5_token_source.h"
#include "data/prefetching_loader.h"
#include "optim/adamw.h"
#include "recipes/parameter_count.h"
#include "trainer/evaluation.h"
#include "trainer/metrics.h"
#include "trainer/model_runtime.h"
#include "trainer/pretraining_objective.h"
#include "trainer/run_position.h"
#include "trainer/run_record.h"
#include "trainer/trainer.h"
#include "trainer/training_step.h"

namespace plait {

namespace recipe::v1 {
class Stage;
}

struct Trainer::State {
  State(const recipe::v1::Recipe& resolved, const TrainerOptions& trainer_options,
        const ExecutionOptions& execution_options);
  ~State();

  const std::unique_ptr<const recipe::v1::Recipe> own_recipe;
  const recipe::v1::Recipe& recipe;
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
  int64_t evaluated_step = -1;         // the last one whose held-out loss the metrics have
  bool is_evaluation_cut_off = false;  // of the last step, for a stop was requested
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

  // trainer_start.cc
  absl::Status OpenData();
  absl::Status BuildModel();
  absl::Status CheckNoOtherRecipe() const;
  absl::Status FindStart(std::optional<CheckpointReader>& reader);
  absl::Status StartOrResume();
  absl::Status OpenRunFolder();
  absl::Status FindRunFolder() const;
  absl::Status Restore(const CheckpointReader& reader);
  absl::Status TakeWeights(const CheckpointReader& reader);
  absl::Status KeepAttachments(const CheckpointReader& reader);
  NamedState SavedState();

  // trainer.cc
  absl::Status RunStage(const RunPosition& start, bool* stopped);
  absl::Status RunStep(PrefetchingLoader& loader, const recipe::v1::Stage& stage,
                       double learning_rate);
  absl::Status FinishStep(const StepMetrics& step_metrics);
  absl::Status AtBoundary();
  bool IsEvaluationDue() const;
  absl::Status Evaluate();
  absl::Status Save();
  absl::Status MeasurePeak();
  absl::StatusOr<bool> StopRequested();
  absl::StatusOr<bool> ShouldStop(StopReason* reason);
};

}  // namespace plait
