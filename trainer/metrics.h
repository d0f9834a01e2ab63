// Metrics of a run: RUN/metrics.jsonl, one JSON object a line with "event" and "step", and the
// lines of the console. "event" is
//   start       recipe_digest, parameters, seconds_since_process_start; where the run is resumed,
//               parameter_digest of what it goes on from: of a run that was killed between a
//               checkpoint and its line, nothing else tells that
//   step        the fields of StepMetrics; a number that is not finite is null. parameter_digest
//               where debug.parameter_digest_every_steps asks for it. expert_load holds for each
//               expert layer
//                 expert            tokens of the most chosen expert over the mean, of the step
//               and, where experts are dealt over ranks, the most of any microbatch of
//                 rank              rows of the most loaded rank over the mean
//                 waves             in which the rows travelled
//                 recomputed_waves  those of them that overload left no memory to keep
//   evaluation  loss, bits_per_byte, tokens, text_bytes, seconds; where a stop cut it off, after
//   the
//               start of the resumed run
//   checkpoint  folder, parameter_digest (parallel/parameter_digest.h), seconds
//   stop        reason
// The file is only appended to; a resumed run first cuts it back to the step it resumes at, so that
// every step has one line.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/device.h"
#include "trainer/evaluation.h"
#include "trainer/training_step.h"

namespace plait {

struct StepMetrics {
  int64_t step = 0;  // of the run, counted from 1
  std::string stage;
  StepResult result;
  double learning_rate = 0;
  double step_seconds = 0;
  double data_wait_seconds = 0;
  double model_flops = 0;                 // of the step
  double gemm_peak_flops_per_second = 0;  // 0: not measured
  DeviceKind device = DeviceKind::kCpu;
  int64_t memory_bytes = 0;          // peak of rank 0's process, on the host
  int64_t allocated_bytes_peak = 0;  // of rank 0's tensors, so far; on its device
  // Of the reserved memory of its device, the highest end of a tensor, with what did not fit; 0:
  // none is reserved.
  int64_t reserved_bytes_peak = 0;
  int64_t pinned_bytes_peak = 0;          // of the host, for the device's copies; 0: on the CPU
  double communication_wait_seconds = 0;  // that rank 0 spent waiting for other ranks
  int num_ranks = 1;
  std::string parameter_digest;  // after the step; empty: not asked for

  double tokens_per_second() const { return result.counts.real_tokens / step_seconds; }
  double model_flops_per_second() const { return model_flops / step_seconds; }
};

// "step 20/500 short_rows  loss 6.1033 (lm 6.1013)  grad 0.93  lr 2.9e-03  ..."
std::string ConsoleLine(const StepMetrics& metrics, int64_t total_steps);
// "step 20/500 4.0 %  loss 6.1033  5120 tokens/s  0:03:20 left"
std::string ProgressLine(const StepMetrics& metrics, int64_t total_steps, double seconds_left);

class MetricsFile {
 public:
  // One that writes nothing: of the ranks but the first.
  static MetricsFile None() { return MetricsFile(); }
  // Keeps the lines up to `resumed_step` (0: none) and appends after them. A line cut short by a
  // killed run is dropped. Unavailable or ResourceExhausted.
  static absl::StatusOr<MetricsFile> Open(const std::string& path, int64_t resumed_step);

  // The last step with a held-out loss among the lines that were kept; -1: none.
  int64_t evaluated_step() const { return evaluated_step_; }

  // parameter_digest: empty where the run is not resumed.
  absl::Status WriteStart(int64_t step, const std::string& recipe_digest, int64_t parameters,
                          double seconds_since_process_start, const std::string& parameter_digest);
  absl::Status WriteStep(const StepMetrics& metrics);
  absl::Status WriteEvaluation(int64_t step, const EvaluationResult& result, double seconds);
  absl::Status WriteCheckpoint(int64_t step, const std::string& folder,
                               const std::string& parameter_digest, double seconds);
  absl::Status WriteStop(int64_t step, const std::string& reason);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  MetricsFile() = default;
  absl::Status WriteLine(const std::string& line);

  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
  int64_t evaluated_step_ = -1;
};

}  // namespace plait
