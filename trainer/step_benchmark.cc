#include "trainer/step_benchmark.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/gemm_peak.h"
#include "recipes/parameter_count.h"
#include "recipes/schema/recipe.pb.h"
#include "trainer/device_memory.h"
#include "trainer/fresh_model.h"
#include "trainer/machine.h"
#include "trainer/process_usage.h"
#include "trainer/random_batches.h"

namespace plait {
namespace {

using recipe::v1::Recipe;
using recipe::v1::Stage;

constexpr double kLearningRate = 1e-4;

// bf16 without sparsity; 0 where it is not known.
absl::StatusOr<double> PeakFlops(const Execution& execution) {
  if (execution.runtime() == nullptr) return 0;
  const std::string name = MachineNameOf(execution.runtime()->DeviceName());
  if (name.empty()) return 0;
  PLAIT_ASSIGN_OR_RETURN(const Machine machine, MachineOf(name, DType::kBf16, /*cores=*/0));
  return machine.peak_flops;
}

}  // namespace

absl::StatusOr<StepBenchmarkResult> BenchmarkSteps(const Recipe& recipe,
                                                   const StepBenchmarkOptions& options) {
  if (options.stage < 0 || options.stage >= recipe.stages_size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "stage ", options.stage, ": the recipe has stages 0 to ", recipe.stages_size() - 1));
  }
  const Stage& stage = recipe.stages(options.stage);
  PLAIT_ASSIGN_OR_RETURN(const ExecutionOptions execution_options, ExecutionOptionsFor(recipe));
  Execution execution(execution_options);
  PLAIT_RETURN_IF_ERROR(ReserveDeviceMemory(execution, recipe, /*ranks=*/1));
  PLAIT_ASSIGN_OR_RETURN(const auto fresh, FreshModel::Create(execution, recipe));
  const std::vector<Batch> batches = RandomStep(recipe, options.stage);

  StepBenchmarkResult result{
      .stage = stage.name(),
      .device = execution.runtime() == nullptr ? "CPU" : execution.runtime()->DeviceName(),
      .threads = execution.num_threads(),
      .tokens_per_step = stage.tokens_per_step(),
      .seconds_to_first_step = SecondsSinceProcessStart()};
  for (int64_t s = 0; s < options.warmup_steps + options.steps; ++s) {
    const auto start = std::chrono::steady_clock::now();
    PLAIT_ASSIGN_OR_RETURN(const StepResult step, fresh->step->Run(batches, kLearningRate));
    if (!step.not_finite.empty())
      return absl::InternalError(absl::StrCat("benchmark: ", step.not_finite, " is not finite"));
    // A device has the update still before it.
    PLAIT_RETURN_IF_ERROR(execution.compute().Synchronize());
    if (s < options.warmup_steps) continue;
    result.step_seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::vector<double> sorted = result.step_seconds;
  std::sort(sorted.begin(), sorted.end());
  result.median_seconds = sorted[sorted.size() / 2];

  PLAIT_ASSIGN_OR_RETURN(const ParameterCount count, CountParameters(recipe.model()));
  const auto tokens = static_cast<double>(result.tokens_per_step);
  result.tokens_per_second = tokens / result.median_seconds;
  result.model_flops_per_second =
      result.tokens_per_second * ModelFlopsPerToken(count, stage.row_tokens());
  result.peak_flops_per_second = options.peak_flops;
  if (options.peak_flops == 0) {
    PLAIT_ASSIGN_OR_RETURN(result.peak_flops_per_second, PeakFlops(execution));
  }
  if (result.peak_flops_per_second > 0) {
    result.share_of_peak = result.model_flops_per_second / result.peak_flops_per_second;
  }
  result.memory_bytes = PeakResidentBytes();
  result.allocated_bytes_peak = fresh->runtime.AllocatedBytesPeak(execution);
  result.reserved_bytes_peak = static_cast<int64_t>(execution.allocator().reserved_bytes_needed());
  result.pinned_bytes_peak = static_cast<int64_t>(execution.pinned_bytes_peak());
  if (fresh->runtime.model->dtype() != DType::kF64) {
    PLAIT_ASSIGN_OR_RETURN(const GemmPeak peak,
                           MeasureGemmPeak(execution, fresh->runtime.model->dtype()));
    result.gemm_peak_flops_per_second = peak.best_flops_per_second;
    result.share_of_gemm_peak = result.model_flops_per_second / peak.best_flops_per_second;
  }
  return result;
}

}  // namespace plait
