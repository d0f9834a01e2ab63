// Times training steps of one stage on made-up tokens: the same work as a run, without its data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace plait {

namespace recipe::v1 {
class Recipe;
}

struct StepBenchmarkOptions {
  int stage = 0;
  int64_t warmup_steps = 2;
  int64_t steps = 5;
  // Of the device, in FLOP/s; 0: as trainer/machine.h has it.
  double peak_flops = 0;
};

struct StepBenchmarkResult {
  std::string stage;
  std::string device;  // "CPU", or what a GPU calls itself
  int threads = 0;
  int64_t tokens_per_step = 0;
  std::vector<double> step_seconds;
  double median_seconds = 0;
  double tokens_per_second = 0;       // of the median step, as the next two
  double model_flops_per_second = 0;  // 6 x active matmul parameters + half attention
  double share_of_gemm_peak = 0;      // 0: not measured (f64)
  double gemm_peak_flops_per_second = 0;
  double peak_flops_per_second = 0;  // of the device by its data sheet; 0: not known
  double share_of_peak = 0;          // the model FLOPs' share of that: MFU; 0: not known
  int64_t memory_bytes = 0;          // peak of the process, on the host
  int64_t allocated_bytes_peak = 0;  // of tensors, in the device's memory
  int64_t reserved_bytes_peak = 0;   // as in StepMetrics
  int64_t pinned_bytes_peak = 0;     // of the host, for a device's copies
  double seconds_to_first_step = 0;  // from the start of the process
};

// recipe: resolved and valid. InvalidArgument for a stage that it does not have.
absl::StatusOr<StepBenchmarkResult> BenchmarkSteps(const recipe::v1::Recipe& recipe,
                                                   const StepBenchmarkOptions& options);

}  // namespace plait
