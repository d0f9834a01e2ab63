// What a run leaves behind and shows while it goes: RUN/metrics.jsonl (metrics.h), RUN/tensorboard/
// (tensorboard_writer.h) and, on a terminal, the line at the bottom (base/log.h). Rank 0's.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "trainer/metrics.h"
#include "trainer/tensorboard_writer.h"

namespace plait {

class RunRecord {
 public:
  // One that writes and shows nothing: of the ranks but the first.
  static RunRecord None() { return RunRecord(); }
  // The files go on after `resumed_step` (0: anew). Errors of MetricsFile and TensorBoardWriter.
  static absl::StatusOr<RunRecord> Open(const std::string& run_folder, int64_t resumed_step,
                                        int64_t total_steps);
  RunRecord(RunRecord&&) = default;
  RunRecord& operator=(RunRecord&&) = default;
  // Takes the line away.
  ~RunRecord();

  // As of MetricsFile.
  int64_t evaluated_step() const { return metrics_.evaluated_step(); }
  absl::Status WriteStart(int64_t step, const std::string& recipe_digest, int64_t parameters,
                          double seconds_since_process_start, const std::string& parameter_digest);
  absl::Status WriteStep(const StepMetrics& metrics);
  absl::Status WriteEvaluation(int64_t step, const EvaluationResult& result, double seconds);
  absl::Status WriteCheckpoint(int64_t step, const std::string& folder,
                               const std::string& parameter_digest, double seconds);
  absl::Status WriteStop(int64_t step, const std::string& reason);

 private:
  using Clock = std::chrono::steady_clock;

  RunRecord() = default;

  MetricsFile metrics_ = MetricsFile::None();
  TensorBoardWriter tensorboard_ = TensorBoardWriter::None();
  int64_t total_steps_ = 0;  // 0: shows nothing
  // Of this process: its first step, which is slower than the others, and when it was done.
  int64_t first_step_ = 0;
  Clock::time_point first_step_done_;
};

}  // namespace plait
