#include "trainer/run_record.h"

#include <utility>

#include "base/log.h"
#include "base/status_macros.h"

namespace plait {

absl::StatusOr<RunRecord> RunRecord::Open(const std::string& run_folder, int64_t resumed_step,
                                          int64_t total_steps) {
  RunRecord record;
  PLAIT_ASSIGN_OR_RETURN(record.metrics_,
                         MetricsFile::Open(run_folder + "/metrics.jsonl", resumed_step));
  PLAIT_ASSIGN_OR_RETURN(record.tensorboard_,
                         TensorBoardWriter::Open(run_folder + "/tensorboard", resumed_step));
  record.total_steps_ = total_steps;
  return record;
}

RunRecord::~RunRecord() {
  if (total_steps_ > 0) SetStatusLine("");
}

absl::Status RunRecord::WriteStart(int64_t step, const std::string& recipe_digest,
                                   int64_t parameters, double seconds_since_process_start,
                                   const std::string& parameter_digest) {
  return metrics_.WriteStart(step, recipe_digest, parameters, seconds_since_process_start,
                             parameter_digest);
}

absl::Status RunRecord::WriteStep(const StepMetrics& metrics) {
  PLAIT_RETURN_IF_ERROR(metrics_.WriteStep(metrics));
  PLAIT_RETURN_IF_ERROR(tensorboard_.WriteStep(metrics));
  if (total_steps_ == 0) return absl::OkStatus();
  const Clock::time_point now = Clock::now();
  if (first_step_ == 0) {
    first_step_ = metrics.step;
    first_step_done_ = now;
  }
  // Evaluations and checkpoints are in it: they go on as they did.
  double seconds_left = metrics.step_seconds * static_cast<double>(total_steps_ - metrics.step);
  if (const int64_t timed_steps = metrics.step - first_step_; timed_steps > 0) {
    seconds_left = std::chrono::duration<double>(now - first_step_done_).count() *
                   static_cast<double>(total_steps_ - metrics.step) /
                   static_cast<double>(timed_steps);
  }
  SetStatusLine(ProgressLine(metrics, total_steps_, seconds_left));
  return absl::OkStatus();
}

absl::Status RunRecord::WriteEvaluation(int64_t step, const EvaluationResult& result,
                                        double seconds) {
  PLAIT_RETURN_IF_ERROR(metrics_.WriteEvaluation(step, result, seconds));
  return tensorboard_.WriteEvaluation(step, result);
}

absl::Status RunRecord::WriteCheckpoint(int64_t step, const std::string& folder,
                                        const std::string& parameter_digest, double seconds) {
  return metrics_.WriteCheckpoint(step, folder, parameter_digest, seconds);
}

absl::Status RunRecord::WriteStop(int64_t step, const std::string& reason) {
  if (total_steps_ > 0) SetStatusLine("");
  return metrics_.WriteStop(step, reason);
}

}  // namespace plait
